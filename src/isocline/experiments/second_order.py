"""Damped oscillators by neural ODEs of first order, augmented, and of second order.

Data. 30 solutions of x″ = −2γ x′ − (γ² + ω²) x, γ = 0.1, ω = 1: 100 positions each over [0, 10], start and velocity uniform in
[−2.5, 2.5]. For testing 30 more, over [0, 20].

Models. Second order: x″ = g(x, x′), a 2-20-20-1 network, from the true velocity. Augmented: d(x, a)/dt = f(x, a),
2-20-20-2, the appended coordinate starting at the true velocity too, though nothing makes it stay one. Plain: dx/dt = f(x),
1-20-20-1, which in one dimension can go one way only. All with ELU.

Training. Mean squared error of the positions; Adam, 0.01; 1000 steps on all data.

Solver. Training takes RK4 with steps of 0.2, in place of an adaptive solver at 1e-3; measured at 1e-6.

Published: figures. Ours: errors within and beyond the times seen, how far a is from the velocity, and what the network has
found for γ and ω: the slopes of g at rest.
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.pictures import COLOURS, INK, MUTED, PALE, panels, save, title
from isocline.nn import MLP, AugmentedODE, Force, NeuralODE, SecondOrderODE

GAMMA, OMEGA, COUNT, SEEN, UNTIL = 0.1, 1.0, 30, 10.0, 20.0
KINDS = ("second order", "augmented", "plain")


def oscillators(starts: Tensor, ts: Tensor) -> Tensor:
    """The closed form: positions and velocities (T, n, 2) from starts (n, 2)."""
    x0, v0 = starts.unbind(-1)
    decay, c, s = (
        f(ts)[:, None]
        for f in (lambda t: torch.exp(-GAMMA * t), lambda t: (OMEGA * t).cos(), lambda t: (OMEGA * t).sin())
    )
    b = (v0 + GAMMA * x0) / OMEGA
    x = decay * (x0 * c + b * s)
    v = -GAMMA * x + decay * OMEGA * (b * c - x0 * s)
    return torch.stack([x, v], -1)


class Oscillator(torch.nn.Module):
    """One of the three models: starts (n, 2) -> path (T, n, 1 or 2), the position first."""

    def __init__(self, kind: str, seed: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "second order":
            self.model: Any = SecondOrderODE(Force(MLP((2, 20, 20, 1), "elu", seed=seed)))
        elif kind == "augmented":
            self.model = NeuralODE(MLP((2, 20, 20, 2), "elu", seed=seed))
        else:
            self.model = AugmentedODE(MLP((1, 20, 20, 1), "elu", seed=seed))

    def forward(self, starts: Tensor, ts: Tensor, **how: Any) -> Tensor:
        """The path."""
        if self.kind == "second order":
            return torch.cat(self.model.solution((starts[:, :1], starts[:, 1:]), ts, **how).ys, -1)
        return self.model.solution(starts if self.kind == "augmented" else starts[:, :1], ts, **how).ys


def draw_starts(job: Job, part: str) -> Tensor:
    """(30, 2)."""
    torch.manual_seed(job.draw_seed("starts", part))
    return 5 * torch.rand(COUNT, 2) - 2.5


def one(job: Job, kind: str) -> dict[str, Any]:
    """Trains a model and measures it on new oscillators, for twice the time."""
    iterations = 40 if job.quick else 1000
    ts = torch.linspace(0, SEEN, 100)
    starts = draw_starts(job, "train")
    target = oscillators(starts, ts)[..., 0]
    model = Oscillator(kind, job.draw_seed("weights", kind))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def step(i: int) -> Tensor:
        path = model(starts, ts, solver="rk4", step=0.5 if job.quick else 0.2, gradient="backprop")
        return (path[..., 0] - target).square().mean()

    history = train(job, kind, {"model": model, "optimizer": optimizer}, iterations, step)
    times = torch.linspace(0, UNTIL, 201)
    tests = draw_starts(job, "test")
    true = oscillators(tests, times)
    with torch.no_grad():
        path = model(tests, times, rtol=1e-6, atol=1e-6, throw=False).nan_to_num(torch.inf)
    square = (path[..., 0] - true[..., 0]).square()
    found = {"seen": float(square[:101].mean()), "beyond": float(square[101:].mean()), "seconds": history.seconds[-1]}
    if kind != "plain":
        found["velocity"] = float((path[:101, :, 1] - true[:101, :, 1]).square().mean())
    if kind == "second order":
        rest = torch.zeros(2)
        slope = torch.autograd.functional.jacobian(lambda y: model.model.acceleration(times[0], y[:1], y[1:]), rest)[0]
        found |= {"gamma": float(-slope[1] / 2), "stiffness": float(-slope[0])}
    return {**found, "path": path[:, :3].tolist()}


def run(job: Job) -> list[Row]:
    """Three models."""
    cells = {kind: job.cell(kind, lambda kind=kind: one(job, kind)) for kind in KINDS}
    rows = []
    for kind, cell in cells.items():
        rows += [
            Row(f"{kind}: test MSE of x, t ≤ 10", cell["seen"], bound=0.0),
            Row(f"{kind}: test MSE of x, 10 < t ≤ 20", cell["beyond"], bound=0.0),
        ]
        if "velocity" in cell:
            what = "velocity" if kind == "second order" else "appended coordinate as the velocity"
            rows.append(Row(f"{kind}: test MSE of the {what}, t ≤ 10", cell["velocity"], bound=0.0))
    found = cells["second order"]
    rows += [
        Row("second order: γ, from ∂g/∂x′ at rest", found["gamma"], bound=GAMMA),
        Row("second order: γ² + ω², from ∂g/∂x at rest", found["stiffness"], bound=GAMMA**2 + OMEGA**2),
    ]
    save(draw(job, {kind: torch.tensor(cell["path"]) for kind, cell in cells.items()}), job.picture("oscillators.png"))
    return rows


# ---- pictures -----------------------------------------------------------------------------------------------------
def draw(job: Job, paths: dict[str, Tensor]) -> Figure:
    """Above, positions of three test oscillators; below, the plane of x and what the model has beside it."""
    figure, grid = panels(2, 3, (3.5, 2.7))
    times = torch.linspace(0, UNTIL, 201)
    true = oscillators(draw_starts(job, "test")[:3], times)
    for column, (kind, path) in enumerate(paths.items()):
        over, plane = grid[0, column], grid[1, column]
        alone = path.shape[-1] == 1
        over.axvspan(0, SEEN, color=PALE, alpha=0.25, lw=0)
        for k in range(3):
            over.plot(times, true[:, k, 0], color=MUTED, lw=3, alpha=0.35)
            over.plot(times, path[:, k, 0], color=COLOURS[k], lw=1.3)
            if not alone:
                plane.plot(*true[:, k].T, color=MUTED, lw=3, alpha=0.35)
                plane.plot(*path[:, k].T, color=COLOURS[k], lw=1.3)
        over.set(xlabel="t", ylim=(-3.6, 3.6))
        plane.set(xlabel="x", xlim=(-3.6, 3.6), ylim=(-3.6, 3.6))
        title(over, kind)
    grid[0, 0].set_ylabel("x")
    grid[1, 0].set_ylabel("x′")
    grid[1, 1].set_ylabel("appended coordinate")
    grid[1, 2].set_axis_off()
    grid[1, 2].text(0, 0, "nothing beside x", color=INK, ha="center", va="center", fontsize=10)
    return figure


EXPERIMENT = Experiment(
    title="damped oscillators: second order, augmented, plain",
    source="Norcliffe, Bodnar, Day, Simidjievski & Liò (2020), section 5",
    run=run,
)
