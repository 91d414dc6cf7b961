"""The cubic spiral of torchdiffeq's demo: one trajectory dy/dt = A y³, learned from short pieces of it.

Data. A = [[-0.1, 2], [-2, -0.1]] acting on (x³, y³), from (2, 0), 1000 points over [0, 25], without noise.

Model. dy/dt = W₂ tanh(W₁ y³ + b₁) + b₂, 50 units, weights N(0, 0.1²): 252 parameters.

Training. 20 pieces of 10 neighbouring points a step; mean absolute error; RMSprop, 1e-3; 2000 steps; the demo's
tolerances, 1e-7 and 1e-9. Every 40 steps the whole path from the start is compared with the true one.

Published: the animation, no number. Ours: the animation and the mean absolute error of the whole path.
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from isocline.experiments.lab import Experiment, Job, Kept, Row, train
from isocline.experiments.lab.pictures import COLOURS, INK, MUTED, PALE, animate, bare, image, panels, save, title
from isocline.nn import NeuralODE
from isocline.solve import solve

T1, POINTS, PIECES, LENGTH = 25.0, 1000, 20, 10
A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


def truth(t: Tensor, y: Tensor) -> Tensor:
    """dy/dt = y³ A, y a row."""
    return y**3 @ A.to(y)


class Cubic(nn.Module):
    """The student: sees y³.

    Shapes:
        y (..., 2) -> (..., 2).
    """

    def __init__(self, width: int = 50) -> None:
        super().__init__()
        first, last = nn.Linear(2, width), nn.Linear(width, 2)
        for layer in (first, last):
            nn.init.normal_(layer.weight, std=0.1)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(first, nn.Tanh(), last)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        return self.layers(y**3)


def run(job: Job) -> list[Row]:
    """Trains, draws, and compares the whole path."""
    iterations = 200 if job.quick else 2000
    ts = torch.linspace(0.0, T1, POINTS, dtype=torch.float64)
    true = solve(truth, torch.tensor([2.0, 0.0]), ts, solver="dopri8", rtol=1e-7, atol=1e-9).ys
    torch.manual_seed(job.draw_seed("weights"))
    model = NeuralODE(Cubic(), solver="dopri5", rtol=1e-7, atol=1e-9)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    looks = Kept()  # (iteration, path, slopes)

    def step(i: int) -> Tensor:
        first = torch.randperm(POINTS - LENGTH)[:PIECES]
        target = true[first + torch.arange(LENGTH)[:, None]]
        return (model(target[0], ts[:LENGTH]) - target).abs().mean()

    def look(i: int, loss: float) -> None:
        if (i + 1) % 40 == 0:
            with torch.no_grad():
                found = model.solution(true[0], ts, throw=False).ys
                looks.append((i + 1, found, model.field(torch.tensor(0.0), places())))

    look(-1, 0.0)
    parts = {"model": model, "optimizer": optimizer, "looks": looks}
    history = train(job, "training", parts, iterations, step, look=look)
    animate([image(draw(ts, true, *one)) for one in looks], job.picture("training.gif"))
    save(draw(ts, true, *looks[-1]), job.picture("path.png"))
    first, error = (float((looks[k][1] - true).abs().mean()) for k in (0, -1))
    return [
        Row(
            "mean absolute error of the whole path",
            error,
            note=f"{iterations} steps; the untrained field: {first:.2g}",
        ),
        Row("mean absolute error of the pieces", history.recent(100)),
        Row("training time", history.seconds[-1], "s"),
    ]


# ---- pictures -----------------------------------------------------------------------------------------------------
def places() -> Tensor:
    """(21, 21, 2): where the field is drawn."""
    x = torch.linspace(-2, 2, 21)
    return torch.stack(torch.meshgrid(x, x, indexing="xy"), -1)


def draw(ts: Tensor, true: Tensor, iteration: int, found: Tensor, slopes: Tensor) -> Figure:
    """The demo's three panels: coordinates over time, the phase portrait, the learned field."""
    figure, grid = panels(1, 3, (3.0, 2.9))
    over, phase, arrows = grid[0]
    for k in range(2):
        over.plot(ts, true[:, k], color=COLOURS[k], lw=1.6, alpha=0.45)
        over.plot(ts, found[:, k], color=COLOURS[k], lw=1.2, ls="--")
    over.set(xlabel="t", ylim=(-2.3, 2.3))
    title(over, f"iteration {iteration}")
    phase.plot(*true.T, color=PALE, lw=2.4)
    phase.plot(*found.T, color=INK, lw=1.2)
    phase.set(xlim=(-2.3, 2.3), ylim=(-2.3, 2.3))
    title(phase, "path")
    x = places()[0, :, 0].numpy()
    unit = slopes / slopes.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    arrows.streamplot(x, x, *unit.unbind(-1), color=MUTED, linewidth=0.7, density=0.9, arrowsize=0.7)
    title(arrows, "learned field")
    bare(arrows)
    bare(phase)
    return figure


EXPERIMENT = Experiment(
    title="the cubic spiral of torchdiffeq's demo", source="Chen (2018), torchdiffeq, ode_demo", run=run
)
