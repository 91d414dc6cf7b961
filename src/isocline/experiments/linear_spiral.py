"""The linear spiral: dz/dt = A z learned as a matrix (M. Surtsukov's first toy), and what the truth was made with.

Data. A = [[-0.1, -1], [1, -0.1]], from (0.6, 0.3), 200 points over [0, 31.45], noise of standard deviation 0.01.

Model. A 2x2 matrix, entries N(0, 1/4).

Training. The source's: windows of 1 to 5 time units from a random place, at most 32 of their points, mean squared error,
Adam, 0.01, 500 steps, one window a step, the Euler method with steps of at most 0.05. Its windows start at noisy points
and one is little to go by, so that the matrix is still far off at the end; a least-squares fit of the whole path follows,
start and matrix free, L-BFGS.

The source makes its data with the same Euler method. One such step multiplies by 1 + hλ, not by exp(hλ): the points follow
a matrix whose eigenvalues are log(1 + hλ)/h = -0.0803 ± 1.0034i, not -0.1 ± i, and a learner with a good solver finds that
matrix. Here both truths are learned with both solvers, and each learned matrix is compared with the one that was asked
for.

Published: the animation, no number. Ours: ||A_learned - A|| (Frobenius) in the four cases, against that of the matrix which
each solver needs to pass through each truth.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from isocline.experiments.lab import Experiment, Job, Kept, Row, train
from isocline.experiments.lab.pictures import COLOURS, INK, animate, bare, image, panels, save, title
from isocline.nn import NeuralODE
from isocline.solve import solve

A = torch.tensor([[-0.1, -1.0], [1.0, -0.1]], dtype=torch.float64)
START = torch.tensor([0.6, 0.3], dtype=torch.float64)
T1, POINTS, NOISE, H_MAX = 31.45, 200, 0.01, 0.05
SOLVERS: dict[str, dict[str, Any]] = {
    "Euler": {"solver": "euler", "max_step": H_MAX},
    "Dopri5": {"solver": "dopri5", "rtol": 1e-7, "atol": 1e-9},
}


class Matrix(nn.Module):
    """dz/dt = z Aᵀ.

    Shapes:
        z (..., 2) -> (..., 2).
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.A = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64) / 2)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """dz/dt."""
        return z @ self.A.T


def euler_matrix(h: float) -> Tensor:
    """The matrix whose exact flow passes through the points of Euler's method: log(1 + h A) / h.

    Example:
        >>> [round(float(x), 4) for x in euler_matrix(31.45 / 199 / 4)[0]]
        [-0.0803, -1.0034]
    """
    eigenvalue = torch.log(1 + h * torch.complex(A[0, 0], A[1, 0])) / h
    return torch.stack(
        [torch.stack([eigenvalue.real, -eigenvalue.imag]), torch.stack([eigenvalue.imag, eigenvalue.real])]
    )


def expected(made_with: str, learned_with: str, h: float) -> Tensor:
    """The matrix with which one solver passes through the points of the other with A."""
    if made_with == learned_with:
        return A
    return euler_matrix(h) if made_with == "Euler" else (torch.matrix_exp(h * A) - torch.eye(2).to(A)) / h


def run(job: Job) -> list[Row]:
    """Both truths, each learned with both solvers."""
    iterations, points = (100, POINTS // 2) if job.quick else (500, POINTS)
    ts = torch.linspace(0.0, T1, POINTS, dtype=torch.float64)[:points]
    h = float(ts[1]) / math.ceil(float(ts[1]) / H_MAX)
    generator = torch.Generator().manual_seed(job.draw_seed("noise"))
    noise = NOISE * torch.randn(points, 2, generator=generator, dtype=torch.float64)
    rows = []
    for made_with in SOLVERS:
        seen = noise + solve(lambda t, z: z @ A.T, START, ts, **SOLVERS[made_with]).ys
        field = Matrix(job.draw_seed("weights"))
        looks = learn(job, f"data of {made_with}", field, ts, seen, iterations)
        trained = float((field.A.detach() - A).norm())
        rows.append(Row(f"data of {made_with}, the source's training: ||A_learned - A||", trained))
        for learned_with in SOLVERS:
            key = f"data of {made_with}, fitted with {learned_with}"
            fitted = job.cell(key, lambda w=learned_with, seen=seen, field=field: fit(job, field, w, ts, seen))
            found, meant = torch.tensor(fitted["A"], dtype=A.dtype), expected(made_with, learned_with, h)
            note = (
                "bound: of the matrix whose path meets the points, from which the learned one is "
                f"{float((found - meant).norm()):.2g} away"
            )
            off, bound = float((found - A).norm()), float((meant - A).norm())
            rows.append(Row(f"{key}: ||A_learned - A||", off, bound=bound, note=note))
        if made_with == "Dopri5":
            animate([image(draw(seen, *one)) for one in looks], job.picture("training.gif"))
            save(draw(seen, *looks[-1]), job.picture("path.png"))
    return rows


def learn(job: Job, key: str, field: Matrix, ts: Tensor, seen: Tensor, iterations: int) -> Kept:
    """The source's training, on random windows; returns (iteration, path) ten steps apart."""
    model = NeuralODE(field, gradient="backprop", **SOLVERS["Euler"])
    optimizer = torch.optim.Adam(field.parameters(), lr=0.08 if job.quick else 0.01)
    looks = Kept()

    def step(i: int) -> Tensor:
        t0, length = float(torch.rand(())) * (float(ts[-1]) - 5.0), 1.0 + 4.0 * float(torch.rand(()))
        inside = ((ts >= t0) & (ts <= t0 + length)).nonzero().squeeze(1)
        chosen = inside[torch.randperm(len(inside))[:32]].sort().values
        return (model(seen[chosen[0]], ts[chosen]) - seen[chosen]).square().mean()

    def look(i: int, loss: float) -> None:
        if (i + 1) % 10 == 0:
            with torch.no_grad():
                looks.append((i + 1, model.solution(seen[0], ts, throw=False).ys))

    look(-1, 0.0)
    train(job, key, {"model": model, "optimizer": optimizer, "looks": looks}, iterations, step, look=look)
    return looks


def fit(job: Job, trained: Matrix, solver: str, ts: Tensor, seen: Tensor) -> dict[str, Any]:
    """Least squares over the whole path, from where the training ended; the matrix."""
    field = copy.deepcopy(trained)
    model = NeuralODE(field, gradient="backprop", **SOLVERS[solver])
    start = seen[0].clone().requires_grad_()
    steps = 15 if job.quick else 40
    optimizer = torch.optim.LBFGS([*model.parameters(), start], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(start, ts) - seen).square().mean() / NOISE**2
        loss.backward()
        return loss

    optimizer.step(closure)
    return {"A": field.A.tolist()}


def draw(seen: Tensor, iteration: int, path: Tensor) -> Figure:
    """Observations coloured by time, the learned path."""
    figure, ((axes,),) = panels(1, 1, (4.0, 4.0))
    axes.scatter(*seen.T, c=torch.arange(len(seen)), cmap="plasma", s=12, linewidths=0)
    axes.plot(*path.T, color=INK, lw=1.5)
    axes.plot(*path[0], "o", color=COLOURS[1], ms=5)
    axes.set(xlim=(-0.75, 0.8), ylim=(-0.75, 0.8))
    bare(axes)
    title(axes, f"iteration {iteration}")
    return figure


EXPERIMENT = Experiment(
    title="the linear spiral, and the matrix that Euler's data hide", source="Surtsukov (2019); Cheung (2020)", run=run
)
