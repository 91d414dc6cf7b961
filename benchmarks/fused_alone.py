"""What fused.py measures in processes of their own; each prints one line of JSON.

python benchmarks/fused_alone.py first fused | first diffrax | threads | memory fused | memory torchdiffeq
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", JAX_PLATFORMS="cpu")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # a new field is one that was never compiled

import ctypes
import gc
import json
import resource
import sys
import time
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from fused_cases import ATOL, RTOL, Case, isocline_solve, jax_methods, torch_works
from fused_problems import MLP, Lorenz, cubic, mlp_jax, ring
from torch import Tensor, nn

import isocline as ic

TS = torch.linspace(0, 1, 10)


def first(package: str) -> list[float]:
    """Seconds from a field never seen before to its first gradient: the first of this process, then three others."""
    found = []
    import_module("diffrax" if package == "diffrax" else "isocline.gradients.fused")
    for width in (50, 51, 52, 53):
        begun = time.perf_counter()
        case = Case("", partial(MLP, 2, width, 2), partial(torch.ones, 20, 2), mlp_jax, TS)
        if package == "diffrax":
            way = next(m for m in jax_methods(case, "diffrax shared dopri5", ("both",)))
            way.works["both"]()
        else:
            solve = isocline_solve(case, "dopri5", "fused")
            torch_works(solve, case.field(), case.y0(), case.cotangents)["both"]()
        found.append(time.perf_counter() - begun)
    return found


def threads() -> dict[str, Any]:
    """Seconds by work and number of threads; every round of each."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    case = Case("", cubic, partial(ring, 10_000), mlp_jax, TS)
    works = torch_works(isocline_solve(case, "dopri5", "fused"), case.field(), case.y0(), case.cotangents)
    found: dict[str, Any] = {work: {"1": [], "2": []} for work in works}
    for _ in range(9):
        for count in (1, 2):
            torch.set_num_threads(count)
            for work, run in works.items():
                run()
                begun = time.perf_counter()
                run()
                found[work][str(count)].append(time.perf_counter() - begun)
    return found


def resident() -> int:
    """Bytes of this process in memory, with what is free given back."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def memory(package: str) -> dict[str, float]:
    """Bytes that a graph holds for one more step of one sample: from a short and a long solve of each field."""
    found = {}
    for name, f, y0, ends in (
        ("2-50-2", cubic(), ring(5000), (1.0, 4.0)),
        ("16-64-64-16", MLP(16, 64, 64, 16), torch.randn(2000, 16), (1.0, 4.0)),
        ("64-256-256-64", MLP(64, 256, 256, 64), torch.randn(1000, 64), (1.0, 4.0)),
        ("Lorenz", Lorenz(), torch.rand(5000, 3) + 1, (0.5, 2.0)),
    ):
        held(package, f, y0[:8], ends[0])
        (short, few, _), (long, many, _) = (held(package, f, y0, end) for end in ends)
        found[name] = (long - short) / (many - few)
    return found


def held(package: str, f: nn.Module, y0: Tensor, end: float) -> tuple[int, int, Tensor]:
    """Bytes, steps of all samples, and what holds them."""
    before, ts = resident(), torch.tensor([0.0, end])
    how: dict[str, Any] = {"rtol": RTOL, "atol": ATOL}
    y = y0.clone().requires_grad_()
    if package == "torchdiffeq":
        import torchdiffeq

        class Counted(nn.Module):
            calls = 0

            def forward(self, t: Tensor, y: Tensor) -> Tensor:
                self.calls += 1
                return f(t, y)

        counted = Counted()
        ys = torchdiffeq.odeint(counted, y, ts, method="dopri5", **how)
        steps = (counted.calls - 2) // 6 * len(y)
    else:
        solution = ic.solve(f, y, ts, solver="dopri5", engine="fused", batching="per_sample", **how)
        ys, steps = solution.ys, int(torch.as_tensor(solution.stats.accepted).sum())
    return resident() - before, steps, ys


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    what, *rest = sys.argv[1:]
    print(json.dumps({"first": first, "threads": threads, "memory": memory}[what](*rest)))


if __name__ == "__main__":
    main()
