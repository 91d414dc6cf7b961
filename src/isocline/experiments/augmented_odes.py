"""What an ODE cannot do in the dimension of its data, and does with one more: passing each other, and leaving a ring.

Crossing. Data: −1 ↦ 1 and 1 ↦ −1. Model: y(1) of dy/dt = f(t, y), a network d-32-32-d with ReLU that sees t, d = 1 + p;
no layer after it, whose sign could be learned. A flow of the line keeps the order, so that with p = 0 the end of −1 is below
the end of 1 and the mean squared error is at least 1, that of both ends at 0. Training: both points, mean squared error,
Adam, 1e-3, 2000 steps.

Annulus. Data: 1000 points of the disc |x| < 0.5, labelled −1, and 2000 of 1 < |x| < 1.5, labelled 1. Model: the same with
d = 2 + p and a linear layer on y(1). A homeomorphism of the plane leaves the disc inside. Training: smooth L1, Adam, 1e-3,
batches of 64; 12 epochs, and the augmented model 6, as in the source's notebook.

Wedge. The annulus without the points of directions [0, π/5], which are for testing; logistic loss, 3e-3, 50 epochs, medians
of 5 seeds. Through the gap the flow of the plane can push the disc out, and it does: it fits, and generalises badly.

Solver. Training takes 8 or 16 steps of RK4, through which it backpropagates; the source takes dopri5 at 1e-3. What is
reported is solved by dopri5 at 1e-6, evaluations also at the source's 1e-3, and beside each stands how well
t = 0 → 1 → 0 comes back: where that fails, it is the solver that separates, not the ODE.

Published: the notebook's losses and evaluations; those of a replication (2026) for the crossing and the wedge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from isocline import audit
from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.pictures import COLOURS, INK, animate, bare, image, panels, save, title
from isocline.nn import MLP, AugmentedODE

TIGHT, LOOSE = 1e-6, 1e-3
NAMES = {0: "NODE", 1: "ANODE, p = 1", 5: "ANODE, p = 5"}
REPLICATED = {0: 1.0001, 1: 0.0, 5: 0.0}  # mean squared errors of the crossing
NOTEBOOK = {0: (12, 0.022, 26), 1: (6, 0.008, 20)}  # epochs, loss, evaluations
WEDGE = {0: 0.619, 1: 1.000}


def flow(job: Job, key: str, data: int, extra: int, steps: int) -> AugmentedODE:
    """The ODE block of all three, trained with fixed steps."""
    d = data + extra
    field = MLP((d, 32, 32, d), "relu", time=True, seed=job.draw_seed("weights", key))
    return AugmentedODE(field, extra, returns="end", solver="rk4", step=1 / steps, gradient="backprop")


def measured(model: AugmentedODE, x: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The end states, solved tightly in float64; evaluations and reconstruction at both tolerances."""
    field: Any = model.field
    field.double()
    kept: dict[str, float] = {}
    end = x
    for name, tolerance in (("loose", LOOSE), ("tight", TIGHT)):
        # Steps of the whole batch, as those that the published counts are of.
        options = {"solver": "dopri5", "rtol": tolerance, "atol": tolerance, "engine": "eager"}
        exact = AugmentedODE(field, model.extra, returns="end", **options)
        with torch.no_grad():
            end = exact(x.double())
        kept[f"{name} evaluations"] = exact.stats.evaluations
        kept[f"{name} reconstruction"] = audit.reconstruction(field, exact.augment(x.double()), (0.0, 1.0), **options)
    return end, kept


def came_back(kept: dict[str, float], which: str) -> str:
    """In words."""
    error = kept[f"{which} reconstruction"]
    words = "recovers the inputs to" if error < 1e-2 else "does not recover the inputs: an error of"
    return f"0 → 1 → 0 {words} {error:.0e}"


# ---- crossing -----------------------------------------------------------------------------------------------------
def crossing(job: Job, extra: int) -> dict[str, Any]:
    """Trains one model on two points."""
    x = torch.tensor([[-1.0], [1.0]])
    key = f"crossing p {extra}"
    model = flow(job, key, 1, extra, 8 if job.quick else 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2 if job.quick else 1e-3)
    history = train(
        job,
        key,
        {"model": model, "optimizer": optimizer},
        60 if job.quick else 2000,
        lambda i: (model(x)[:, :1] + x).square().mean(),
    )
    end, kept = measured(model, x)
    from_here = torch.tensor([[-1.0], [-0.9], [-1.1], [1.0], [0.9], [1.1]], dtype=torch.float64)
    with torch.no_grad():
        path = model.solution(
            from_here, torch.linspace(0, 1, 60), solver="dopri5", rtol=TIGHT, atol=TIGHT, step=None
        ).ys
    error = float((end[:, :1] + x).square().mean())
    return {"error": error, "path": path.tolist(), "seconds": history.seconds[-1], **kept}


# ---- annulus ------------------------------------------------------------------------------------------------------
def rings(inner: int, outer: int) -> tuple[Tensor, Tensor]:
    """Points (n, 2), uniform by area, and labels ±1 (n,)."""
    share = torch.rand(inner + outer)
    low = torch.cat([torch.zeros(inner), torch.ones(outer)])
    high = torch.cat([torch.full((inner,), 0.5), torch.full((outer,), 1.5)])
    radius = (low**2 + share * (high**2 - low**2)).sqrt()
    angle = 2 * math.pi * torch.rand(inner + outer)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), torch.sign(low - 0.5)


class Classifier(nn.Module):
    """A flow and a linear layer: (n, 2) -> (n,)."""

    def __init__(self, flow: AugmentedODE) -> None:
        super().__init__()
        self.flow, self.last = flow, nn.Linear(2 + flow.extra, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The score; positive for the annulus."""
        return self.last(self.flow(x)).squeeze(1)


def fit(
    job: Job, key: str, extra: int, x: Tensor, labels: Tensor, epochs: int, lr: float, loss: Callable[..., Tensor]
) -> tuple[Classifier, float]:
    """Batches of 64; also the seconds."""
    torch.manual_seed(job.draw_seed("last layer", key))
    model = Classifier(flow(job, key, 2, extra, 8))
    per_epoch = math.ceil(len(x) / 64)

    def step(i: int) -> Tensor:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(job.draw_seed(key, i // per_epoch)))
        batch = order[64 * (i % per_epoch) :][:64]
        return loss(model(x[batch]), labels[batch])

    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    history = train(job, key, {"model": model, "optimizer": optimizer}, epochs * per_epoch, step)
    return model, history.seconds[-1]


def annulus(job: Job, extra: int) -> dict[str, Any]:
    """Trains one model as the notebook does."""
    torch.manual_seed(job.draw_seed("annulus"))
    x, labels = rings(200, 400) if job.quick else rings(1000, 2000)
    epochs, lr = (8, 1e-2) if job.quick else (NOTEBOOK[extra][0], 1e-3)
    model, seconds = fit(job, f"annulus p {extra}", extra, x, labels, epochs, lr, nn.functional.smooth_l1_loss)
    end, kept = measured(model.flow, x)
    score = model.last.double()(end).squeeze(1).detach()
    some = torch.randperm(len(x))[:400]
    ts = torch.linspace(0, 1, 6 if job.quick else 31)
    options = {"solver": "dopri5", "rtol": TIGHT, "atol": TIGHT, "step": None}
    with torch.no_grad():
        path = model.flow.solution(x[some].double(), ts, **options).ys
    return {
        "loss": float(nn.functional.smooth_l1_loss(score, labels.double())),
        "accuracy": float(((score > 0) == (labels > 0)).double().mean()),
        "path": path.tolist(),
        "labels": labels[some].tolist(),
        "seconds": seconds,
        **kept,
    }


def wedge(job: Job, extra: int, repeat: int) -> dict[str, Any]:
    """Trains one model on the annulus with a piece missing, and asks it about that piece."""
    torch.manual_seed(job.draw_seed("wedge", repeat))
    x, labels = rings(1000, 2000)
    angle = torch.atan2(x[:, 1], x[:, 0])
    held = (angle >= 0) & (angle <= math.pi / 5)

    def loss(score: Tensor, label: Tensor) -> Tensor:
        return nn.functional.softplus(-label * score).mean()

    key = f"wedge p {extra} repeat {repeat}"
    model, seconds = fit(job, key, extra, x[~held], labels[~held], 50, 3e-3, loss)
    found = {"seconds": seconds}
    for name, which in (("train", ~held), ("test", held)):
        end, kept = measured(model.flow, x[which])
        score = model.last.double()(end).squeeze(1)
        found |= {name: float(((score > 0) == (labels[which] > 0)).double().mean()), **kept}
    return found


def run(job: Job) -> list[Row]:
    """All three, and the pictures."""
    rows, crossings, annuli = [], {}, {}
    for extra in (0, 1) if job.quick else NAMES:
        cell = crossings[extra] = job.cell(f"crossing {extra}", lambda extra=extra: crossing(job, extra))
        bound = 1.0 if extra == 0 else 0.0
        name = f"crossing, {NAMES[extra]}"
        note = came_back(cell, "tight")
        rows += [
            Row(f"{name}: MSE", cell["error"], published=REPLICATED[extra], bound=bound, note=note),
            Row(f"{name}: evaluations at 1e-6", cell["tight evaluations"]),
            Row(f"{name}: evaluations at 1e-3", cell["loose evaluations"], note=came_back(cell, "loose")),
        ]
    for extra, (epochs, published, evaluations) in NOTEBOOK.items():
        cell = annuli[extra] = job.cell(f"annulus {extra}", lambda extra=extra: annulus(job, extra))
        name = f"annulus, {NAMES[extra]}"
        rows += [
            Row(
                f"{name}: smooth L1",
                cell["loss"],
                published=published,
                note=f"{'a short run' if job.quick else f'{epochs} epochs'}, at 1e-6; {came_back(cell, 'tight')}",
            ),
            Row(f"{name}: accuracy", 100 * cell["accuracy"], "%"),
            Row(
                f"{name}: evaluations at 1e-3",
                cell["loose evaluations"],
                published=evaluations,
                note=came_back(cell, "loose"),
            ),
        ]
    for extra, published in WEDGE.items() if not job.quick else ():
        keys = [(f"wedge {extra} {repeat}", repeat) for repeat in range(5)]
        cells = [job.cell(key, lambda extra=extra, k=k: wedge(job, extra, k)) for key, k in keys]
        note = "median of 5; in the wedge both classes are held out"
        for part, number in (("test", published), ("train", None)):
            score = float(torch.tensor([cell[part] for cell in cells]).median())
            rows.append(Row(f"wedge, {NAMES[extra]}: {part} accuracy", score, published=number, note=note))
    save(draw_crossing(crossings), job.picture("crossing.png"))
    frames = [image(draw_annulus(annuli, k)) for k in range(len(annuli[0]["path"]))]
    animate(
        [*frames, *frames[-2:0:-1], frames[0]] if job.quick else frames, job.picture("annulus.gif"), milliseconds=80
    )
    save(draw_annulus(annuli, len(frames) - 1), job.picture("annulus.png"))
    return rows


# ---- pictures -----------------------------------------------------------------------------------------------------
def draw_crossing(cells: dict[int, dict[str, Any]]) -> Figure:
    """Trajectories of the two points and some near them; and the way around, in the second dimension."""
    figure, grid = panels(1, 3, (3.3, 3.0))
    ts = torch.linspace(0, 1, 60)
    for axes, extra, what in ((grid[0, 0], 0, "in one dimension"), (grid[0, 1], 1, "with one more")):
        path = torch.tensor(cells[extra]["path"])
        for k in range(path.shape[1]):
            axes.plot(ts, path[:, k, 0], color=COLOURS[k // 3], lw=1.8 if k % 3 == 0 else 0.8)
        axes.plot([1, 1], [1, -1], "o", color=INK, mfc="none", ms=6, clip_on=False)
        axes.set(xlabel="t", ylabel="x", ylim=(-1.6, 1.6))
        title(axes, f"{what}: MSE {cells[extra]['error']:.2g}")
    around = grid[0, 2]
    for k in range(path.shape[1]):
        around.plot(*path[:, k].T, color=COLOURS[k // 3], lw=1.8 if k % 3 == 0 else 0.8)
        around.plot(*path[-1, k], "o", color=COLOURS[k // 3], ms=3)
    around.set(xlabel="x", ylabel="appended coordinate")
    title(around, "the way around")
    return figure


def draw_annulus(cells: dict[int, dict[str, Any]], frame: int) -> Figure:
    """The features at one time: in the plane, and augmented from above and from the side."""
    figure, grid = panels(1, 3, (3.0, 3.2))
    for axes, extra, pair, what in zip(
        grid[0],
        (0, 1, 1),
        ((0, 1), (0, 1), (0, 2)),
        ("in the plane", "augmented, from above", "from the side"),
        strict=True,
    ):
        path = torch.tensor(cells[extra]["path"])
        labels = torch.tensor(cells[extra]["labels"])
        for label, colour in ((1.0, COLOURS[0]), (-1.0, COLOURS[1])):
            axes.scatter(*path[frame][labels == label][:, list(pair)].T, s=5, color=colour, lw=0)
        corners = [(float(path[..., k].min()), float(path[..., k].max())) for k in pair]
        half = 0.55 * max(high - low for low, high in corners)
        bare(axes)
        for (low, high), limit in zip(corners, (axes.set_xlim, axes.set_ylim), strict=True):
            limit((low + high) / 2 - half, (low + high) / 2 + half)
        title(axes, what)
    grid[0, 0].text(0.02, 0.0, f"t = {frame / (len(path) - 1):.2f}", color=INK, transform=grid[0, 0].transAxes)
    return figure


EXPERIMENT = Experiment(
    title="augmented neural ODEs: crossing, annulus, wedge",
    source="Dupont, Doucet & Teh (2019), sections 3 to 5",
    run=run,
)
