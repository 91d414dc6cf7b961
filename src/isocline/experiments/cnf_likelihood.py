"""Continuous and ordinary normalizing flows fitted by maximum likelihood: Fig. 5 of the paper, and torchdiffeq's cnf.py.

Data. Two circles and two moons, fresh samples at every step; the true densities and their entropies are in `lab/planes.py`.

Model. A continuous flow of 64 planar units, their weights the output of a network of time, beside 64 stacked planar layers,
whose direction is from the data to the base (the only one with a density in closed form). Base N(0, I), time from 0 to 1.
And the recipe of `cnf.py`: circles of radius 1 and 1/2 with noise 0.06, 64 units, hypernetwork of width 32, base
N(0, 0.1 I), time from 0 to 10, Adam 1e-3, batches of 512, 1,000 steps; these are too few, so it goes on to 5,000.

Training. Adam, 5e-3 falling to zero along a cosine, batches of 512, 2,000 steps (3,000 for the layers); tsit5 at 1e-4
(the recipe has dopri5 at 1e-5). All numbers are measured with dopri5 at 1e-6.

Published: pictures, no number; the paper writes that the stacked layers have difficulty with two moons. Ours: the NLL of
10,000 fresh points beside the entropy, which is that of a perfect model (0.787 for the recipe's circles), and the pictures.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Independent, Normal

from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.flows import COARSE, TRAINING, show
from isocline.experiments.lab.pictures import INK, animate, bare, image, panels, save, title
from isocline.experiments.lab.planar_flow import PlanarFlow
from isocline.experiments.lab.planes import SETS, TWO_CIRCLES, Plane
from isocline.nn import CNF, PlanarField

UNITS, BATCH = 64, 512
TIGHT = {"solver": "dopri5", "rtol": 1e-6, "atol": 1e-6, "step": None}
SHARES = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
DATA: dict[str, tuple[Plane, float]] = {"circles": (SETS["circles"], 4.2), "moons": (SETS["moons"], 3.6)}


def normal(scale: float = 1.0) -> Independent:
    """N(0, scale² I) in the plane."""
    return Independent(Normal(torch.zeros(2), scale * torch.ones(2)), 1)


def run(job: Job) -> list[Row]:
    """Fits the three kinds, measures, draws."""
    rows = []
    for name in ["moons"] if job.quick else DATA:
        plane, edge = DATA[name]
        flow, layers = continuous(job, name), stacked(job, name)
        score(job, rows, f"{name}: CNF, {UNITS} units", plane, lambda x, flow=flow: flow.log_prob(x))
        score(job, rows, f"{name}: NF, {UNITS} layers", plane, lambda x, layers=layers: density(layers, x))
        save(columns(job, plane, edge, flow, layers), job.picture(f"{name}.png"))
    early, recipe = by_recipe(job)
    score(job, rows, "cnf.py's circles, its 1,000 steps", TWO_CIRCLES, early.log_prob)
    score(job, rows, "cnf.py's circles, 5,000 steps", TWO_CIRCLES, recipe.log_prob)
    animate(frames(job, recipe), job.picture("cnf-py.gif"))
    return rows


def score(job: Job, rows: list[Row], what: str, plane: Plane, log_prob: Any) -> None:
    """A row: the NLL of fresh points, the entropy, and their distance."""

    @torch.no_grad()
    def measure() -> dict[str, float]:
        torch.manual_seed(job.draw_seed("test", what))
        x = plane.sample(2000 if job.quick else 10_000)
        log_q, log_p = log_prob(x).double(), plane.log_prob(x)
        gap = log_p - log_q
        return {
            "nll": -log_q.mean().item(),
            "entropy": -log_p.mean().item(),
            "kl": gap.mean().item(),
            "error": gap.std().item() / math.sqrt(len(x)),
        }

    found = job.cell(f"{what}: measured", measure)
    note = f"KL to the true density {found['kl']:.4f} ± {found['error']:.4f}; published as a picture"
    rows.append(Row(f"{what}: NLL", found["nll"], "nats", bound=found["entropy"], note=note))


# ---- the three kinds ----------------------------------------------------------------------------------------------
def continuous(job: Job, name: str) -> CNF:
    """64 planar units over [0, 1]."""
    iterations = 100 if job.quick else 2000
    field = PlanarField(2, UNITS, mean=True, hyper=32, seed=job.draw_seed(name, "weights"))
    flow = CNF(field, normal(), gradient="backprop", **(COARSE if job.quick else TRAINING))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2 if job.quick else 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)

    def step(i: int) -> Tensor:
        return -flow.log_prob(DATA[name][0].sample(BATCH)).mean()

    parts = {"model": flow, "optimizer": optimizer, "schedule": schedule}
    train(job, f"{name}: CNF", parts, iterations, step, clip=10.0)
    flow.options.update(TIGHT)
    return flow


def stacked(job: Job, name: str) -> PlanarFlow:
    """64 planar layers from the data to the base."""
    iterations = 60 if job.quick else 3000
    torch.manual_seed(job.draw_seed(name, "layers"))
    layers = PlanarFlow(UNITS)
    optimizer = torch.optim.Adam(layers.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)

    def step(i: int) -> Tensor:
        return -density(layers, DATA[name][0].sample(BATCH)).mean()

    parts = {"model": layers, "optimizer": optimizer, "schedule": schedule}
    train(job, f"{name}: NF", parts, iterations, step, clip=10.0)
    return layers


def density(layers: PlanarFlow, x: Tensor, first: int = 0) -> Tensor:
    """log p(x) of the flow whose way to the base are the layers from `first` on."""
    z, log_det = layers(x, first)
    return normal().log_prob(z) + log_det


def by_recipe(job: Job) -> tuple[CNF, CNF]:
    """cnf.py after its own number of steps, and after five times as many."""
    iterations = 40 if job.quick else 5000
    how: dict[str, Any] = {**COARSE, "step": 1.0} if job.quick else TRAINING
    field = PlanarField(2, UNITS, mean=True, hyper=32, seed=job.draw_seed("recipe", "weights"))
    flow = CNF(field, normal(math.sqrt(0.1)), ts=(0.0, 10.0), gradient="backprop", **how)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)

    def step(i: int) -> Tensor:
        return -flow.log_prob(TWO_CIRCLES.sample(BATCH)).mean()

    early = copy.deepcopy(flow)

    def look(i: int, loss: float) -> None:
        if 5 * (i + 1) == iterations:
            early.load_state_dict(flow.state_dict())

    train(
        job, "cnf.py", {"model": flow, "early": early, "optimizer": optimizer}, iterations, step, clip=10.0, look=look
    )
    for one in (early, flow):
        one.options.update(TIGHT)
    return early, flow


# ---- pictures -----------------------------------------------------------------------------------------------------
def square(edge: float, cells: int) -> Tensor:
    """(cells², 2): a grid."""
    side = torch.linspace(-edge, edge, cells)
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)


def dots(axes: Axes, x: Tensor, edge: float) -> None:
    """Points."""
    axes.scatter(*x.T, s=1.2, color=INK, alpha=0.35, lw=0)
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge))
    bare(axes)


@torch.no_grad()
def columns(job: Job, plane: Plane, edge: float, flow: CNF, layers: PlanarFlow) -> Figure:
    """Fig. 5: how far each flow is after a share of its time (of its layers), and the target."""
    torch.manual_seed(job.draw_seed("columns"))
    cells, count = (40, 500) if job.quick else (120, 3000)
    grid = square(edge, cells)
    paths = flow.path(flow.base.sample((count,)), (0.0, *SHARES))[1:]
    figure, axes = panels(3, len(SHARES) + 1, (1.6, 1.7))
    for i, share in enumerate(SHARES):
        show(axes[0, i], flow.log_prob(grid, share).exp(), edge)
        dots(axes[1, i], paths[i], edge)
        show(axes[2, i], density(layers, grid, UNITS - round(share * UNITS)).exp(), edge)
        title(axes[0, i], f"{share:.0%}")
    show(axes[0, -1], plane.log_prob(grid).exp(), edge)
    dots(axes[1, -1], plane.sample(count), edge)
    bare(axes[2, -1])
    title(axes[0, -1], "target")
    for one, text in zip(axes[:, 0], ("CNF: density", "CNF: samples", "NF: density"), strict=True):
        one.text(
            -0.06, 0.5, text, transform=one.transAxes, rotation=90, ha="right", va="center", color=INK, fontsize=10
        )
    return figure


@torch.no_grad()
def frames(job: Job, flow: CNF) -> list[Any]:
    """cnf.py's animation: target, samples and density over time."""
    torch.manual_seed(job.draw_seed("frames"))
    edge, (cells, count, times) = 1.5, (30, 500, 4) if job.quick else (90, 4000, 33)
    grid, ts = square(edge, cells), torch.linspace(0, 10, times)
    path, target = flow.path(flow.base.sample((count,)), ts), TWO_CIRCLES.sample(count)
    out = []
    for t, x in zip(ts.tolist(), path, strict=True):
        figure, axes = panels(1, 3, (2.4, 2.7))
        dots(axes[0, 0], target, edge)
        dots(axes[0, 1], x, edge)
        show(axes[0, 2], flow.log_prob(grid, t).exp(), edge)
        for one, text in zip(axes[0], ("target", f"samples at t = {t:.1f}", "density"), strict=True):
            title(one, text)
        out.append(image(figure))
    return out


EXPERIMENT = Experiment(
    title="flows by maximum likelihood: 64 continuous units against 64 layers; cnf.py",
    source="Chen et al. (2018), section 4.2 and Fig. 5; torchdiffeq, examples/cnf.py",
    run=run,
)
