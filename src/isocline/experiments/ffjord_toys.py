"""FFJORD's toy densities: eight sets in the plane, one flow each, against their true entropies.

Data. swissroll, circles, rings, moons, 8gaussians, pinwheel, 2spirals, checkerboard, in the sizes of the repository; fresh
samples at every step. The true density of each is known (`lab/planes.py`), and so is the NLL of a perfect model, its entropy.

Model. FFJORD's: concatsquash layers 64-64-64 with tanh, standard normal base, exact trace (two tangents carried along).
The flow runs over [0, 1]; there it is [0, 0.5] with the end learned.

Training. Adam, 1e-2 falling to zero along a cosine, batches of 256, 2,000 steps, in place of 1e-3, 100 and 10,000; tsit5 at
1e-4 in place of dopri5 at 1e-5. What counts is measured with dopri5 at 1e-5.

Published: no NLL; 70 to 100 evaluations a solve "on all datasets". Ours: the NLL of 10,000 fresh points, its distance to the
entropy of the same points (the KL divergence), the evaluations of a solve of 1,000 points, the integral over the plane.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.flows import COARSE, TRAINING, histogram, show
from isocline.experiments.lab.pictures import INK, animate, image, panels, save, title
from isocline.experiments.lab.planes import SETS
from isocline.nn import CNF, TimeMLP

EDGE = 4.2  # of the pictures
TIGHT = {"solver": "dopri5", "rtol": 1e-5, "atol": 1e-5, "step": None}
BATCH = 256


def run(job: Job) -> list[Row]:
    """One flow a set, then its numbers, then the pictures."""
    names = ["8gaussians", "moons"] if job.quick else list(SETS)
    flows, rows = {}, []
    for name in names:
        flows[name], seconds = fitted(job, name)
        found = job.cell(f"{name}: measured", lambda name=name: measured(job, name, flows[name]))
        rows += [
            Row(
                f"{name}: NLL",
                found["nll"],
                "nats",
                bound=found["entropy"],
                note=f"KL to the true density {found['kl']:.4f} ± {found['error']:.4f}",
            ),
            Row(f"{name}: KL divergence", found["kl"], "nats", bound=0.0),
            Row(f"{name}: evaluations a solve", found["evaluations"], note="FFJORD: roughly 70-100 on all sets"),
            Row(f"{name}: integral over the plane", found["mass"], bound=1.0),
            Row(f"{name}: training time", seconds, "s"),
        ]
    save(overview(job, flows), job.picture("densities.png"))
    animate(frames(job, flows), job.picture("flow.gif"), milliseconds=110)
    return rows


def fitted(job: Job, name: str) -> tuple[CNF, float]:
    """A trained flow, and the seconds that took."""
    iterations, widths = (80, (32, 32)) if job.quick else (2000, (64, 64, 64))
    field = TimeMLP((2, *widths, 2), seed=job.draw_seed(name, "weights"))
    flow = CNF(field, 2, gradient="backprop", **(COARSE if job.quick else TRAINING))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)

    def step(i: int) -> Tensor:
        return -flow.log_prob(SETS[name].sample(BATCH)).mean()

    parts = {"model": flow, "optimizer": optimizer, "schedule": schedule}
    history = train(job, name, parts, iterations, step, clip=10.0)
    flow.options.update(TIGHT)
    return flow, history.seconds[-1]


@torch.no_grad()
def measured(job: Job, name: str, flow: CNF) -> dict[str, Any]:
    """Everything about a flow that is a number."""
    torch.manual_seed(job.draw_seed(name, "test"))
    x = SETS[name].sample(1000 if job.quick else 10_000)
    log_q, log_p = flow.log_prob(x).double(), SETS[name].log_prob(x)
    gap = log_p - log_q
    flow.log_prob(x[:1000])
    evaluations = flow.stats.evaluations
    cells = 70 if job.quick else 240
    side = torch.linspace(-7, 7, cells)
    plane = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    mass = sum(flow.log_prob(part).double().exp().sum().item() for part in plane.split(8192))
    return {
        "nll": -log_q.mean().item(),
        "entropy": -log_p.mean().item(),
        "kl": gap.mean().item(),
        "error": gap.std().item() / math.sqrt(len(x)),
        "evaluations": evaluations,
        "mass": mass * float(side[1] - side[0]) ** 2,
    }


# ---- pictures -----------------------------------------------------------------------------------------------------
@torch.no_grad()
def overview(job: Job, flows: dict[str, CNF]) -> Figure:
    """A column a set: data, samples of the flow, its density."""
    torch.manual_seed(job.draw_seed("overview"))
    count, cells = (5000, 50) if job.quick else (40_000, 160)
    side = torch.linspace(-EDGE, EDGE, cells)
    plane = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    figure, grid = panels(3, len(flows), (1.75, 1.85))
    for column, (name, flow) in zip(grid.T, flows.items(), strict=True):
        histogram(column[0], SETS[name].sample(count), EDGE)
        histogram(column[1], flow.sample((count,)), EDGE)
        show(column[2], flow.log_prob(plane.reshape(-1, 2)).exp(), EDGE)
        title(column[0], name)
    for axes, text in zip(grid[:, 0], ("data", "samples", "density"), strict=True):
        axes.text(-0.06, 0.5, text, transform=axes.transAxes, rotation=90, ha="right", va="center", color=INK)
    return figure


@torch.no_grad()
def frames(job: Job, flows: dict[str, CNF]) -> list[Any]:
    """The base becoming all sets at once."""
    torch.manual_seed(job.draw_seed("frames"))
    count, times = (2000, torch.linspace(0, 1, 5)) if job.quick else (30_000, torch.linspace(0, 1, 21))
    paths = {name: flow.path(flow.base.sample((count,)), times) for name, flow in flows.items()}
    out = []
    for i, t in enumerate(times):
        figure, grid = panels(max(1, len(flows) // 4), min(4, len(flows)), (1.5, 1.65))
        for axes, (name, path) in zip(grid.flat, paths.items(), strict=True):
            histogram(axes, path[i], EDGE, 64)
            title(axes, name)
        figure.suptitle(f"t = {float(t):.2f}", x=0.01, ha="left", fontsize=11, color=INK)
        out.append(image(figure))
    return out


EXPERIMENT = Experiment(
    title="FFJORD's eight toy densities against their entropies",
    source="Grathwohl et al. (2019), FFJORD, section 4.1 and Fig. 2",
    run=run,
)
