"""A double pendulum as it was measured: a learned Lagrangian against a plain field and the builders' own model.

Data. Free swings of a double pendulum from wild to small, 80 s at 1 kHz in 30 segments (Kaheman et al. 2022): angles by
encoders, velocities smoothed by the authors. Segments 26 to 29, small swings, are the authors' for validation; 2, 7, 12 and 17
are held out by us, so that large swings are judged too. Every tenth row is used.

Models. LagrangianODE: L = ½ vᵀ M(q) v − V(q), M and V by networks 4-64-64 of the sines and cosines of the angles; friction
proportional to the two velocities. Plain: dy/dt by a 6-64-64-4 network of the same and the velocities. Both in
the same units. Beside them the rigid-body model with the parameters that the authors fitted to these data.

Training. First on slopes, 3000 steps of 256 rows: velocities as measured, accelerations by their central differences over
20 ms. Then on solutions, 300 steps of 128 windows of 0.1 s: angles and velocities at every 0.02 s, by RK4 of that step. The mean
squared difference, everything in units of its deviation over the training rows; Adam, 3e-3 and 3e-4, cosine to 0.

Test. From the measured state every half second of the held-out segments, solved at 1e-6: the root mean square error of both
angles over the next half and whole second.

Published: the rigid-body model of the authors follows segments 0, 10, 25 and 29 within 0.002 to 0.015 rad over the first second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.datasets import locate
from isocline.experiments.lab.pictures import COLOURS, INK, MUTED, panels, save, title
from isocline.nn import MLP, LagrangianODE, Mechanical, NeuralODE

SHA256 = "0bc13a8343366acce9e8759eba5a1168e39072e8eff2256bbc6b28506a30e658"
EVERY, TICK = 10, 0.01  # rows used, seconds between them
OURS = (2, 7, 12, 17)
STEP = 0.02
# m1, m2 kg; a1, a2, L1 m; I1, I2 kg m²; k1, k2 N m s; g m/s²: the authors' fit
FITTED = (0.093844, 0.137596, 0.108565, 0.116779, 0.172719, 0.000437529, 0.00126883, 0.000237143, 1e-05, 9.80858)


def load(job: Job) -> tuple[list[Tensor], list[int], list[int], list[int]]:
    """Segments (rows, 4), float64, angles measured from upright; which are to train on, validation, held out by us."""
    path = locate(job, "phys_double_pendulum/double_pendulum.npz", SHA256)
    with np.load(path) as file:
        y, segment, validation = (file[name] for name in ("y", "segment", "validation"))
    segments = [torch.tensor(y[segment == k][::EVERY], dtype=torch.float64) for k in range(int(segment.max()) + 1)]
    theirs = [k for k in range(len(segments)) if validation[segment == k].all()]
    rest = [k for k in range(len(segments)) if k not in theirs and k not in OURS]
    return segments, rest, theirs, list(OURS)


def rigid_body() -> LagrangianODE:
    """Two arms, the second on the end of the first, friction in both joints."""
    m1, m2, a1, a2, arm, i1, i2, k1, k2, g = FITTED

    def lagrangian(t: Tensor, y: Tensor) -> Tensor:
        q1, q2, v1, v2 = y.unbind(-1)
        kinetic = (m1 * a1**2 + i1 + m2 * arm**2) * v1**2 / 2 + (m2 * a2**2 + i2) * v2**2 / 2
        kinetic = kinetic + m2 * arm * a2 * v1 * v2 * torch.cos(q1 - q2)
        return kinetic - (m1 * a1 + m2 * arm) * g * torch.cos(q1) - m2 * a2 * g * torch.cos(q2)

    def friction(t: Tensor, y: Tensor) -> Tensor:
        _, _, v1, v2 = y.unbind(-1)
        return torch.stack([-k1 * v1 - k2 * (v1 - v2), -k2 * (v2 - v1)], -1)

    return LagrangianODE(lagrangian, force=friction)


class OfAngles(nn.Module):
    """A network of the sines and cosines of two angles: (..., 2) -> (..., outputs), times a factor."""

    def __init__(self, outputs: int, width: int, factor: float, seed: int) -> None:
        super().__init__()
        self.net, self.factor = MLP((4, width, width, outputs), seed=seed), factor

    def forward(self, t: Tensor, q: Tensor) -> Tensor:
        """The values."""
        return self.factor * self.net(t, torch.cat([q.sin(), q.cos()], -1))


class Plain(nn.Module):
    """dy/dt by a network of sines, cosines and velocities, in units of the data."""

    def __init__(self, width: int, speed: Tensor, rate: Tensor, seed: int) -> None:
        super().__init__()
        self.net = MLP((6, width, width, 4), seed=seed)
        self.register_buffer("speed", speed)  # of the velocities
        self.register_buffer("rate", rate)  # of dy/dt

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        q, v = y.chunk(2, -1)
        return self.rate * self.net(t, torch.cat([q.sin(), q.cos(), v / self.speed], -1))


class Friction(nn.Module):
    """−k q̇, k > 0 learned."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((2,), math.log(start)))

    def forward(self, t: Tensor, q: Tensor) -> Tensor:
        """The coefficients."""
        return self.log.exp().expand_as(q)


def build(job: Job, kind: str, rows: Tensor) -> NeuralODE:
    """A model in the units of the training rows."""
    width = 32 if job.quick else 64
    spread = rows.std(0).float()
    speed = float(spread[2:].mean())
    seeds = [job.draw_seed("weights", kind, k) for k in range(2)]
    if kind == "Lagrangian":
        mass, potential = OfAngles(3, width, 1.0, seeds[0]), OfAngles(1, width, speed**2, seeds[1])
        return LagrangianODE(Mechanical(mass, potential), damping=Friction(0.05))
    # What velocities and accelerations are: a deviation of q is passed through in spread(q)/spread(v) seconds.
    rate = torch.cat([spread[2:], spread[2:] ** 2 / spread[:2]])
    return NeuralODE(Plain(width, spread[2:], rate, seeds[0]))


def follow(job: Job, model: NeuralODE, start: Tensor, count: int) -> Tensor:
    """The path (count + 1, n, 4) from measured states (n, 4)."""
    tolerance = 1e-4 if job.quick else 1e-6
    ts = torch.arange(count + 1, dtype=torch.float64) * TICK
    with torch.no_grad():
        return model.double().solution(start, ts, rtol=tolerance, atol=tolerance, throw=False).ys


def errors(job: Job, model: NeuralODE, segments: list[Tensor], which: list[int]) -> dict[str, float]:
    """Root mean square of both angles over 0.5 and 1 s, from every half second of the segments (in short, every two)."""
    ahead, apart = round(1 / TICK), round((2 if job.quick else 0.5) / TICK)
    windows = [segments[k][at : at + ahead + 1] for k in which for at in range(0, len(segments[k]) - ahead, apart)]
    true = torch.stack(windows, 1)
    found = follow(job, model, true[0], ahead).nan_to_num(1e3)
    square = (found - true)[1:, :, :2].square()
    return {"half": float(square[: ahead // 2].mean().sqrt()), "whole": float(square.mean().sqrt())}


def one(job: Job, kind: str) -> dict[str, Any]:
    """Trains a model and measures it."""
    segments, rest, theirs, ours = load(job)
    rows = torch.cat([segments[k] for k in rest])
    model = build(job, kind, rows)
    seconds = match(job, kind, model, [segments[k] for k in rest]) + roll(job, kind, model, [segments[k] for k in rest])
    found: dict[str, Any] = {"seconds": seconds}
    for name, which in (("theirs", theirs), ("ours", ours)):
        found |= {f"{name} {k}": value for k, value in errors(job, model, segments, which).items()}
    return {**found, "shown": shown(job, model, segments[ours[0]])}


def match(job: Job, kind: str, model: NeuralODE, segments: list[Tensor]) -> float:
    """Training on slopes."""
    states = torch.cat([y[1:-1] for y in segments]).float()
    accelerations = torch.cat([y[2:, 2:] - y[:-2, 2:] for y in segments]) / (2 * TICK)
    slopes = torch.cat([states[:, 2:], accelerations.float()], 1)
    scale, now = slopes.std(0), torch.tensor(0.0)
    iterations = 15 if job.quick else 3000

    def step(i: int) -> Tensor:
        some = torch.randint(len(states), (256,))
        return ((model.field(now, states[some]) - slopes[some]) / scale).square().mean()

    return fit(job, f"{kind} slopes", model, 3e-3, iterations, step)


def roll(job: Job, kind: str, model: NeuralODE, segments: list[Tensor]) -> float:
    """Training on solutions over five steps."""
    stride, length = round(STEP / TICK), 5
    reach = length * stride
    windows = [y[i : i + reach + 1 : stride] for y in segments for i in range(len(y) - reach)]
    targets = torch.stack(windows, 1).float()
    scale, ts = torch.cat(segments).std(0).float(), torch.arange(length + 1) * STEP

    def step(i: int) -> Tensor:
        target = targets[:, torch.randint(targets.shape[1], (128,))]
        path = model.solution(target[0], ts, solver="rk4", step=STEP, gradient="backprop").ys
        return ((path - target)[1:] / scale).square().mean()

    return fit(job, f"{kind} windows", model, 3e-4, 2 if job.quick else 300, step)


def fit(job: Job, key: str, model: NeuralODE, lr: float, iterations: int, step: Callable[[int], Tensor]) -> float:
    """The seconds it took."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    return train(job, key, parts, iterations, step, clip=10.0).seconds[-1]


def shown(job: Job, model: NeuralODE, segment: Tensor) -> list[Any]:
    """The angles, two seconds from the start of a segment."""
    return follow(job, model, segment[:1], 200)[:, 0, :2].nan_to_num(0.0).tolist()


def run(job: Job) -> list[Row]:
    """Two learned models and the authors'."""
    segments, _, theirs, ours = load(job)
    model = rigid_body()
    cells = {kind: job.cell(kind, lambda kind=kind: one(job, kind)) for kind in ("Lagrangian", "plain")}
    rigid = {
        f"{name} {k}": e
        for name, w in (("theirs", theirs), ("ours", ours))
        for k, e in errors(job, model, segments, w).items()
    }
    cells = {"rigid body of the authors": rigid, **cells}
    rows = []
    for kind, cell in cells.items():
        for part, words, note in (
            ("theirs", "small swings", "the authors' validation segments"),
            ("ours", "large swings", "segments 2, 7, 12, 17"),
        ):
            rows += [
                Row(f"{kind}, {words}: error over 0.5 s", cell[f"{part} half"], "rad", note=note),
                Row(f"{kind}, {words}: error over 1 s", cell[f"{part} whole"], "rad", note=note),
            ]
    paths = {
        "rigid body": shown(job, model, segments[ours[0]]),
        **{k: cells[k]["shown"] for k in ("Lagrangian", "plain")},
    }
    save(draw(segments[ours[0]], {k: torch.tensor(path) for k, path in paths.items()}), job.picture("swing.png"))
    return rows


# ---- pictures -----------------------------------------------------------------------------------------------------
def draw(segment: Tensor, paths: dict[str, Tensor]) -> Figure:
    """Both angles of a held-out swing and the three models' continuations; the path of the tip."""
    figure, grid = panels(1, 3, (3.9, 3.0))
    ts = torch.arange(201) * TICK
    measured = segment[:201, :2]
    colours = dict(zip(paths, (COLOURS[2], COLOURS[0], COLOURS[1]), strict=True))
    for k, axes in enumerate(grid[0, :2]):
        axes.plot(ts, measured[:, k] - math.pi, color=MUTED, lw=3.5, alpha=0.4, label="measured")
        for name, path in paths.items():
            axes.plot(ts, path[:, k] - math.pi, color=colours[name], lw=1.2, label=name)
        low, high = float(measured[:, k].min()) - math.pi, float(measured[:, k].max()) - math.pi
        axes.set(xlabel="t, s", ylim=(low - 0.6, high + 0.9))
        title(axes, f"angle {k + 1} from hanging, rad")
    grid[0, 0].legend(frameon=False, fontsize=8, ncols=2, loc="upper right", labelcolor=INK)
    arms = FITTED[4], 2 * FITTED[3]
    tip = grid[0, 2]
    for name, path in {"measured": measured[:101], **{k: p[:101] for k, p in paths.items()}}.items():
        x = arms[0] * path[:, 0].sin() + arms[1] * path[:, 1].sin()
        z = arms[0] * path[:, 0].cos() + arms[1] * path[:, 1].cos()
        wide = name == "measured"
        tip.plot(x, z, color=MUTED if wide else colours[name], lw=3.5 if wide else 1.2, alpha=0.4 if wide else 1.0)
    tip.plot(0, 0, "o", color=INK, ms=4)
    tip.set(aspect="equal", xlabel="x, m", ylabel="height, m", xlim=(-0.45, 0.45), ylim=(-0.5, 0.2))
    title(tip, "the lower arm, first second")
    return figure


EXPERIMENT = Experiment(
    title="a measured double pendulum: a learned Lagrangian",
    source="Cranmer et al. (2020); data of Kaheman et al. (2022)",
    run=run,
    data=("phys_double_pendulum",),
)
