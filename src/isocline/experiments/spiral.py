"""The spiral of "Neural ODE from scratch" (after M. Surtsukov's post): one noisy trajectory, a field learned from it.

Data. dz/dt = σ(z·c) A (z − c) + σ(−z·c) B (z + c), two centres that a trajectory winds out of and into; 200 points over
[0, 31.45], noise of standard deviation 0.01. The truth is solved to 1e-8 (both sources generate theirs with the coarse
Euler method they train with, so that a better solver can only learn Euler's field).

Model. A perceptron 2-32-32-2 with tanh, time-invariant. (The source has 2-16-16-2 with ELU; in half its steps that one
ends with twice the error.)

Training. Windows of 20 neighbouring points from random places, 16 at once, each started at its first (noisy) point;
mean squared error; Adam, 0.01 falling to 0.001. The source takes one window of up to 32 points a step and 3000 steps.

Published: the animation, no number. Ours: the animation, and the error of the whole path from the first point, against
the noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from isocline.experiments.lab import Experiment, Job, Row, pictures
from isocline.nn import MLP, NeuralODE
from isocline.problems import two_centre_spiral
from isocline.solve import solve

WINDOW, BATCH = 20, 16


@dataclass
class Data:
    """One trajectory: times (T,), the true states and the observed ones (T, 2)."""

    ts: Tensor
    true: Tensor
    seen: Tensor


@dataclass
class Frame:
    """The learned field at one moment of the training.

    Attributes:
        iteration, loss: when.
        path: (T, 2) from the first observation.
        slopes: (G, G, 2) on the grid of `grid()`.
    """

    iteration: int
    loss: float
    path: Tensor
    slopes: Tensor


@dataclass
class Result:
    """A trained spiral."""

    data: Data
    model: NeuralODE
    losses: list[float] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)

    @property
    def error(self) -> float:
        """Root mean square distance of the whole learned path from the true one."""
        return float((self.frames[-1].path - self.data.true).square().sum(-1).mean().sqrt())


def make_data(seed: int = 0, points: int = 200, noise: float = 0.01) -> Data:
    """The observations.

    Example:
        >>> make_data().seen.shape
        torch.Size([200, 2])
    """
    problem = two_centre_spiral()
    ts = torch.linspace(problem.t0, problem.t1, points, dtype=torch.float64)
    true = solve(problem.field, problem.y0, ts, solver="dopri8", rtol=1e-8, atol=1e-10).ys.float()
    generator = torch.Generator().manual_seed(seed)
    return Data(ts, true, true + noise * torch.randn(true.shape, generator=generator))


def make_model(seed: int = 0) -> NeuralODE:
    """The field, solved with one Runge–Kutta step a point: the points are close."""
    return NeuralODE(MLP((2, 32, 32, 2), seed=seed), solver="rk4", max_step=0.2)


def train(
    seed: int = 0, iterations: int = 1500, frames: int = 50, tell: Callable[[int, float], None] = lambda i, loss: None
) -> Result:
    """Trains, and keeps `frames` pictures of the way.

    Args:
        seed: of noise, weights and windows.
        iterations: Adam steps.
        frames: kept pictures, more of them early, where much happens.
        tell: called with the iteration and its loss.
    """
    data, model = make_data(seed), make_model(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    result = Result(data, model)
    keep = {round(iterations * (k / (frames - 1)) ** 1.7) for k in range(frames)}
    ts = data.ts[:WINDOW]  # equal spacing and a field without time: every window may start at 0
    for i in range(iterations + 1):
        optimizer.param_groups[0]["lr"] = 1e-3 + 0.0045 * (1 + math.cos(math.pi * i / iterations))
        first = torch.randint(len(data.ts) - WINDOW + 1, (BATCH,), generator=generator)
        target = data.seen[first + torch.arange(WINDOW)[:, None]]
        loss = (model(target[0], ts) - target).square().mean()
        value = loss.item()
        result.losses.append(value)
        if i in keep:
            result.frames.append(look(result, i, value))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tell(i, value)
    return result


def grid(data: Data, points: int = 21) -> Tensor:
    """(points, points, 2): places for arrows around the data."""
    low, high = data.true.amin(0) - 0.4, data.true.amax(0) + 0.4
    x, y = (torch.linspace(float(a), float(b), points) for a, b in zip(low, high, strict=True))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def look(result: Result, iteration: int, loss: float) -> Frame:
    """The whole path and the field as they are now; NaN where the path runs away."""
    with torch.no_grad():
        sol = result.model.solution(result.data.seen[0], result.data.ts, throw=False)
        slopes = result.model.field(torch.tensor(0.0), grid(result.data))
    return Frame(iteration, loss, sol.ys, slopes)


# ---- pictures -----------------------------------------------------------------------------------------------------
def draw(result: Result, frame: Frame, size: int = 480) -> Image.Image:
    """One frame of `size` pixels: observations coloured by time, the path, the vector field."""
    figure = Figure(figsize=(size / 100, size / 100), dpi=100)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.92))
    points = grid(result.data)
    arrows = frame.slopes / frame.slopes.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    axes.quiver(*points.unbind(-1), *arrows.unbind(-1), color="#b9c6d2", scale=38, width=0.0028, pivot="mid")
    axes.scatter(*result.data.seen.T, c=result.data.ts, cmap="plasma", s=11, zorder=3, linewidths=0)
    axes.plot(*frame.path.T, color="#14293d", lw=1.9, zorder=4)
    axes.set_xlim(float(points[..., 0].min()), float(points[..., 0].max()))
    axes.set_ylim(float(points[..., 1].min()), float(points[..., 1].max()))
    axes.set_axis_off()
    figure.text(0.03, 0.955, f"iteration {frame.iteration}", fontsize=11, color="#14293d")
    figure.text(0.97, 0.955, f"loss {frame.loss:.1e}", fontsize=11, color="#5a6a78", ha="right")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def picture(result: Result, path: Path) -> None:
    """The last frame as a PNG."""
    draw(result, result.frames[-1], 640).save(path)


def animate(result: Result, path: Path) -> None:
    """All frames as a GIF, the last one held for two seconds."""
    pictures.animate([draw(result, frame) for frame in result.frames], path)


def run(job: Job) -> list[Row]:
    """The two-centre spiral, trained, drawn and animated."""
    iterations = 500 if job.quick else 1500
    began = time.process_time()
    result = train(job.seed, iterations, tell=lambda i, loss: job.tell("training", i, iterations, loss))
    seconds = time.process_time() - began
    picture(result, job.picture("path.png"))
    animate(result, job.picture("training.gif"))
    return [
        Row("two centres: RMS distance of the whole path", result.error, bound=0.01, note="bound: the noise"),
        Row("training time", seconds, "s"),
    ]


EXPERIMENT = Experiment(
    title="the spiral between two centres, trained and animated",
    source="Cheung (2020) after Surtsukov (2019)",
    run=run,
)
