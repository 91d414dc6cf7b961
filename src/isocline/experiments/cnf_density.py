"""Density matching: a flow takes the shape of a given, unnormalised density (Fig. 4 of the paper).

Data. The four densities exp(-U) of Rezende & Mohamed (2015), Table 1. Three of them have no finite mass on the plane, so a
soft wall, (|z| - 4)²/(2 0.2²) beyond 4 on each axis, is added to every U; ln Z is then a number, found here on a grid.

Model. Continuous flows of M = 2, 8, 32 planar units whose weights a network of time gives, beside K = 2, 8, 32 stacked planar
layers, both from N(0, I); the loss is KL(q‖p) - ln Z = E_q[ln q + U].

Training. CNF: Adam, 5e-3 falling along a cosine, 1,500 steps in place of 10,000; tsit5 at 1e-4. NF: RMSprop, 1e-3
falling likewise, 8,000 steps in place of 500,000. Batches of 256.

Published: losses plotted, not tabled; "CNF generally achieves lower loss". Ours: KL(q‖p), 0 for a perfect flow, of 20,000
samples, the CNF's solved with dopri5 at 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Independent, Normal

from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.flows import COARSE, TRAINING, histogram, show
from isocline.experiments.lab.pictures import COLOURS, panels, save, title
from isocline.experiments.lab.planar_flow import PlanarFlow
from isocline.nn import CNF, PlanarField

BATCH, SIZES, EDGE, WALL = 256, (2, 8, 32), 4.0, 0.2
TIGHT = {"solver": "dopri5", "rtol": 1e-6, "atol": 1e-6, "step": None}


# ---- targets ------------------------------------------------------------------------------------------------------
def bump(x: Tensor, width: float) -> Tensor:
    """ln of an unnormalised normal."""
    return -0.5 * (x / width) ** 2


def wave(z: Tensor) -> Tensor:
    """z₂ - sin(π z₁ / 2)."""
    return z[..., 1] - torch.sin(math.pi * z[..., 0] / 2)


def ring(z: Tensor) -> Tensor:
    """U₁: two arcs of a ring."""
    arcs = torch.logaddexp(bump(z[..., 0] - 2, 0.6), bump(z[..., 0] + 2, 0.6))
    return -bump(z.norm(dim=-1) - 2, 0.4) - arcs


def sine(z: Tensor) -> Tensor:
    """U₂: a sine wave."""
    return -bump(wave(z), 0.4)


def split(z: Tensor) -> Tensor:
    """U₃: a wave with a detour."""
    detour = 3 * bump(z[..., 0] - 1, 0.6).exp()
    return -torch.logaddexp(bump(wave(z), 0.35), bump(wave(z) + detour, 0.35))


def fork(z: Tensor) -> Tensor:
    """U₄: a wave that forks."""
    away = 3 * torch.sigmoid((z[..., 0] - 1) / 0.3)
    return -torch.logaddexp(bump(wave(z), 0.4), bump(wave(z) + away, 0.35))


TARGETS: dict[str, Callable[[Tensor], Tensor]] = {"U1": ring, "U2": sine, "U3": split, "U4": fork}


def energy(name: str, z: Tensor) -> Tensor:
    """U and the wall."""
    return TARGETS[name](z) - bump((z.abs() - EDGE).clamp(min=0.0), WALL).sum(-1)


def log_mass(name: str, wall: bool = True) -> float:
    """ln Z by the midpoint rule; without the wall: of the square [-4, 4]²."""
    reach = EDGE + 8 * WALL if wall else EDGE
    cells = 800
    side = (torch.arange(cells, dtype=torch.float64) + 0.5) * (2 * reach / cells) - reach
    z = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    return torch.logsumexp(-energy(name, z).flatten(), 0).item() + 2 * math.log(2 * reach / cells)


# ---- flows --------------------------------------------------------------------------------------------------------
def normal() -> Independent:
    """N(0, I)."""
    return Independent(Normal(torch.zeros(2), torch.ones(2)), 1)


def sampled(flow: CNF | PlanarFlow, count: int) -> tuple[Tensor, Tensor]:
    """Samples and ln q of them."""
    if isinstance(flow, CNF):
        return flow.rsample_and_log_prob((count,))
    z = normal().sample(torch.Size((count,)))
    x, log_det = flow(z)
    return x, normal().log_prob(z) - log_det


def fitted(job: Job, kind: str, name: str, size: int) -> CNF | PlanarFlow:
    """A flow trained on a target."""
    key = f"{name}: {kind} {size}"
    flow: CNF | PlanarFlow
    if kind == "CNF":
        iterations = 60 if job.quick else 1500
        field = PlanarField(2, size, hyper=32, mean=True, seed=job.draw_seed(key, "weights"))
        flow = CNF(field, normal(), gradient="backprop", **(COARSE if job.quick else TRAINING))
        optimizer: Any = torch.optim.Adam(flow.parameters(), lr=2e-2 if job.quick else 5e-3)
    else:
        iterations = 300 if job.quick else 8000
        torch.manual_seed(job.draw_seed(key, "layers"))
        flow = PlanarFlow(size)
        optimizer = torch.optim.RMSprop(flow.parameters(), lr=1e-3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)

    def step(i: int) -> Tensor:
        x, log_q = sampled(flow, BATCH)
        return (log_q + energy(name, x)).mean()

    train(job, key, {"model": flow, "optimizer": optimizer, "schedule": schedule}, iterations, step, clip=10.0)
    if isinstance(flow, CNF):
        flow.options.update(TIGHT)
    return flow


@torch.no_grad()
def divergence(job: Job, name: str, key: str, flow: CNF | PlanarFlow) -> dict[str, float]:
    """KL(q‖p) of samples, and its standard error."""
    torch.manual_seed(job.draw_seed("test", key))
    x, log_q = sampled(flow, 2000 if job.quick else 20_000)
    loss = (log_q + energy(name, x)).double()
    return {"kl": loss.mean().item() + log_mass(name), "error": loss.std().item() / math.sqrt(len(x))}


def run(job: Job) -> list[Row]:
    """Every target, both kinds, three sizes."""
    names, sizes = (["U1"], (8,)) if job.quick else (list(TARGETS), SIZES)
    flows: dict[tuple[str, str, int], CNF | PlanarFlow] = {}
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    rows = []
    for name in names:
        for kind, letter in (("CNF", "M"), ("NF", "K")):
            for size in sizes:
                what = (name, kind, size)
                flow = flows[what] = fitted(job, kind, name, size)
                key = f"{name}: {kind}, {letter} = {size}"
                found[what] = job.cell(key, lambda name=name, key=key, flow=flow: divergence(job, name, key, flow))
                short = {"CNF": "1,500 steps, theirs 10,000", "NF": "8,000 steps, theirs 500,000"}[kind]
                note = f"± {found[what]['error']:.4f}; published as a curve; {short}"
                rows.append(Row(f"{key}: KL(q‖p)", found[what]["kl"], "nats", bound=0.0, note=note))
        rows.append(Row(f"{name}: -ln Z with the wall", -log_mass(name), note="the least possible loss"))
    save(densities(job, names, sizes, flows), job.picture("densities.png"))
    save(curves(names, sizes, found), job.picture("sizes.png"))
    return rows


# ---- pictures -----------------------------------------------------------------------------------------------------
@torch.no_grad()
def densities(job: Job, names: list[str], sizes: tuple[int, ...], flows: dict[Any, CNF | PlanarFlow]) -> Figure:
    """A row a target: the target, then where the samples of each flow lie."""
    torch.manual_seed(job.draw_seed("pictures"))
    count, bins = (5000, 50) if job.quick else (60_000, 90)
    side = torch.linspace(-EDGE, EDGE, 150)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    figure, axes = panels(len(names), 1 + 2 * len(sizes), (1.65, 1.75))
    for line, name in zip(axes, names, strict=True):
        show(line[0], (-energy(name, grid)).exp(), EDGE)
        title(line[0], f"target {name}")
        places = [(kind, size) for kind in ("CNF", "NF") for size in sizes]
        for one, (kind, size) in zip(line[1:], places, strict=True):
            x = sampled(flows[name, kind, size], count)[0].double()
            histogram(one, x, EDGE, bins)
            title(one, f"{kind}, {'M' if kind == 'CNF' else 'K'} = {size}")
    return figure


def curves(names: list[str], sizes: tuple[int, ...], found: dict[Any, dict[str, float]]) -> Figure:
    """Fig. 4 (d): what is lost, by size."""
    figure, axes = panels(1, len(names), (2.6, 2.5), sharey=True)
    values = [max(one["kl"], 1e-3) for one in found.values()]  # an estimate near 0 may be below it
    ticks = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    for one, name in zip(axes[0], names, strict=True):
        for kind, colour in zip(("CNF", "NF"), COLOURS, strict=False):
            one.plot(
                sizes, [max(found[name, kind, s]["kl"], 1e-3) for s in sizes], "o-", color=colour, label=kind, ms=4
            )
        one.set(xscale="log", yscale="log", xlabel="M (CNF), K (NF)", xticks=sizes, xticklabels=sizes)
        one.set(yticks=ticks, yticklabels=[f"{tick:g}" for tick in ticks], ylim=(min(values) / 1.3, max(values) * 1.3))
        one.minorticks_off()
        title(one, name)
    axes[0, 0].set_ylabel("KL(q‖p), nats")
    axes[0, 0].legend(frameon=False)
    return figure


EXPERIMENT = Experiment(
    title="density matching: continuous flows against stacked planar layers",
    source="Chen et al. (2018), section 4.2 and Fig. 4",
    run=run,
)
