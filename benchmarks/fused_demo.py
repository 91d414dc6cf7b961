"""The whole training of torchdiffeq's demonstration, from its first line to its last, by three packages.

A 2-50-2 network on y³ learns a cubic spiral from 2,000 batches of 20 pieces of 10 points, by RMSprop with 1e-3; every
twentieth time the whole spiral is solved and compared. Dopri5 at rtol = 1e-7, atol = 1e-9, in single precision. All start
from the same weights and see the same batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import isocline as ic

POINTS, PIECE, BATCH, EVERY = 1000, 10, 20, 20
TOLERANCE = {"rtol": 1e-7, "atol": 1e-9}
MATRIX = ((-0.1, 2.0), (-2.0, -0.1))


class Net(nn.Module):
    """2-50-2 on y³, with the demonstration's initial weights."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner, self.outer = nn.Linear(2, 50), nn.Linear(50, 2)
        with torch.no_grad():
            for layer in (self.inner, self.outer):
                layer.weight.copy_(0.1 * torch.randn(layer.weight.shape, generator=generator))
                layer.bias.zero_()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(y**3)))


def data() -> tuple[Tensor, Tensor]:
    """Times (1000,), the spiral (1000, 2)."""
    ts, matrix = torch.linspace(0.0, 25.0, POINTS), torch.tensor(MATRIX, dtype=torch.float64)
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    found = ic.solve(lambda t, y: y**3 @ matrix, y0, ts.double(), solver="dopri8", rtol=1e-10, atol=1e-10)
    return ts, found.ys[:, 0].float()


def batches(count: int) -> list[Tensor]:
    """Where the pieces of every batch begin."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randperm(POINTS - PIECE, generator=generator)[:BATCH] for _ in range(count)]


Solve = Callable[[nn.Module, Tensor, Tensor], Tensor]


def fused(f: nn.Module, y0: Tensor, ts: Tensor) -> Tensor:
    return ic.solve(f, y0, ts, solver="dopri5", engine="fused", batching="per_sample", **TOLERANCE).ys


def torchdiffeq(f: nn.Module, y0: Tensor, ts: Tensor) -> Tensor:
    from torchdiffeq import odeint

    return odeint(f, y0, ts, method="dopri5", **TOLERANCE)


def train(solve: Solve, count: int) -> dict[str, float]:
    """Seconds, and the mean distance from the spiral in the end."""
    ts, spiral = data()
    starts, offsets = batches(count), torch.arange(PIECE)[:, None]
    begun = time.perf_counter()
    f = Net()
    optimizer = torch.optim.RMSprop(f.parameters(), lr=1e-3)
    loss = torch.zeros(())
    for i, start in enumerate(starts, 1):
        optimizer.zero_grad()
        path = solve(f, spiral[start], ts[:PIECE])
        (path - spiral[start + offsets]).abs().mean().backward()
        optimizer.step()
        if i % EVERY == 0:
            with torch.no_grad():
                loss = (solve(f, spiral[:1], ts)[:, 0] - spiral).abs().mean()
    return {"seconds": time.perf_counter() - begun, "loss": float(loss)}


def train_diffrax(count: int) -> dict[str, float]:
    """The same, compiled as a whole: a step of the training, and the comparison."""
    import diffrax
    import jax
    import jax.numpy as jnp

    times, points = data()
    pieces = [points[start + torch.arange(PIECE)[:, None]].numpy() for start in batches(count)]
    initial = [p.detach().numpy() for p in Net().parameters()]
    begun = time.perf_counter()
    ts, spiral = jnp.asarray(times.numpy()), jnp.asarray(points.numpy())

    def field(t: Any, y: Any, p: Any) -> Any:
        return jnp.tanh((y**3) @ p[0].T + p[1]) @ p[2].T + p[3]

    def solve(p: Any, y0: Any, ts: Any, most: int) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            ts[0],
            ts[-1],
            None,
            y0,
            p,
            saveat=diffrax.SaveAt(ts=ts),
            stepsize_controller=diffrax.PIDController(**TOLERANCE),
            max_steps=most,
        ).ys

    def step(p: Any, squares: Any, piece: Any) -> Any:
        grads = jax.grad(lambda p: jnp.abs(solve(p, piece[0], ts[:PIECE], 256) - piece).mean())(p)
        squares = [0.99 * s + 0.01 * g**2 for s, g in zip(squares, grads, strict=True)]
        moved = [q - 1e-3 * g / (jnp.sqrt(s) + 1e-8) for q, g, s in zip(p, grads, squares, strict=True)]
        return moved, squares

    def distance(p: Any) -> Any:
        return jnp.abs(solve(p, spiral[:1], ts, 16_384)[:, 0] - spiral).mean()

    p = [jnp.asarray(x) for x in initial]
    squares = [jnp.zeros_like(x) for x in p]
    advance = jax.jit(step).lower(p, squares, pieces[0]).compile()
    judge = jax.jit(distance).lower(p).compile()
    compiling = time.perf_counter() - begun
    loss: Any = 0.0
    for i, piece in enumerate(pieces, 1):
        p, squares = advance(p, squares, piece)
        if i % EVERY == 0:
            loss = float(judge(p))
    return {"seconds": time.perf_counter() - begun, "loss": float(loss), "compiling": compiling}
