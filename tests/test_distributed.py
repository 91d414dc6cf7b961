"""Data parallel: two processes that each solve half of a batch have the gradients of one that solves all of it."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import isocline as ic
from isocline.nn import MLP, NeuralODE

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")
TS = [0.0, 0.4, 1.0]
Y0 = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
# Fixed steps: then half of a batch takes the steps that all of it takes.
WAYS = {
    "checkpointed": {"gradient": ic.Checkpointed(), "solver": "rk4", "step": 0.1},
    "replayed": {"gradient": ic.Checkpointed(memory=256), "solver": "rk4", "step": 0.1},
    "backsolve": {"gradient": ic.Backsolve(), "solver": "rk4", "step": 0.1},
    "samples": {"batching": "per_sample", "rtol": 1e-6},
}


def model(way):
    return NeuralODE(MLP((2, 8, 2), seed=3, dtype=torch.float64), **WAYS[way])


def train(ode, y0, steps=2):
    """The gradients of every iteration."""
    optimiser = torch.optim.SGD(ode.parameters(), lr=0.1)
    found = []
    for _ in range(steps):
        optimiser.zero_grad()
        ode(y0, TS).square().mean().backward()
        found.append([p.grad.clone() for p in ode.parameters()])
        optimiser.step()
    return found


def work(rank, port, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        for way in WAYS:
            ode = model(way)
            found = train(DistributedDataParallel(ode), Y0[2 * rank : 2 * rank + 2])
            queue.put((rank, way, [[g.tolist() for g in grads] for grads in found]))
    finally:
        dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = mp.get_context("spawn").SimpleQueue()
    running = mp.spawn(work, args=(port, queue), nprocs=2, join=False)
    results = {}
    while not running.join(timeout=0.05):
        while not queue.empty():
            rank, way, found = queue.get()
            results[rank, way] = found
    while not queue.empty():
        rank, way, found = queue.get()
        results[rank, way] = found
    assert len(results) == 2 * len(WAYS)
    for way in WAYS:
        want = train(copy.deepcopy(model(way)), Y0)
        assert results[0, way] == results[1, way]  # after the reduction everybody has the same
        for grads, expected in zip(results[0, way], want, strict=True):
            for g, w in zip(grads, expected, strict=True):
                # Sums over halves of the batch, in another order.
                assert torch.allclose(torch.tensor(g, dtype=torch.float64), w, rtol=1e-10, atol=1e-14)
