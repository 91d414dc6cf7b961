"""Which way does a spiral turn? Neural CDEs on the toy problem of torchcde and of Diffrax, and with most points dropped.

Data. Diffrax: 256 spirals exp(t A) y(0), A = [[-0.3, 2], [-2, -0.3]], y(0) anywhere on the unit circle, 100 points over
[0, 4π], half of them mirrored (y → −y); 256 others for the test. torchcde: 128 spirals of radius 1/(1 + t/2) and 128 for
the test, noise 0.01. Three channels: time, x, y. Dropped: of each spiral others, at random, so that no two have the
same times.

Model. dz = f(z) dX, X the cubic Hermite path with backward differences, z of 8 numbers, f a perceptron 8-128-(8·3) with
tanh at the end and softplus (torchcde: ReLU) inside; z(0) from X(0) by a perceptron of width 128 (torchcde: linear); a
linear layer reads the last z.

Training. Diffrax: 20 steps of Adam, 1e-2, batches of 32. torchcde: 30 epochs, Adam, 1e-3, batches of 32. One step of the
midpoint rule from observation to observation (Diffrax: Tsit5 to 1e-3; torchcde: Dormand-Prince to 1e-4): what it leaves
is measured, the test is repeated with dopri8 to 1e-6.

Published: Diffrax, after 20 steps, test loss 0.1057, accuracy 1.0. torchcde prints an accuracy and quotes none.
Ours: the same quantities, also with 30, 50 and 70 % of the points dropped (as Kidger et al. 2020 do with real series).
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.pictures import COLOURS, MUTED, PALE, panels, save, title
from isocline.nn import NeuralCDE

POINTS, HIDDEN, BATCH, SHOWN = 100, 8, 32, 24
TIGHT = {"solver": "dopri8", "step": None, "rtol": 1e-6, "atol": 1e-8}


def diffrax_spirals(count: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Points (100, count, 2), times (count, 100) and labels (count,), 1 where mirrored."""
    ts = torch.linspace(0, 4 * math.pi, POINTS)
    matrix = torch.matrix_exp(ts.view(-1, 1, 1) * torch.tensor([[-0.3, 2.0], [-2.0, -0.3]]))
    angle = 2 * math.pi * torch.rand(count)
    x = (matrix @ torch.stack([angle.cos(), angle.sin()])).transpose(1, 2)
    labels = (torch.arange(count) < count // 2).float()
    x[..., 1] *= 1 - 2 * labels
    return x, ts.expand(count, -1), labels


def torchcde_spirals(count: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """Likewise; mirrored x → −x."""
    ts = torch.linspace(0, 4 * math.pi, POINTS)
    angle = 2 * math.pi * torch.rand(count) + ts.unsqueeze(1)
    labels = (torch.arange(count) < count // 2).float()
    x = torch.stack([angle.cos() * (1 - 2 * labels), angle.sin()], -1) / (1 + ts.view(-1, 1, 1) / 2)
    return x + 0.01 * torch.randn_like(x), ts.expand(count, -1), labels


def drop(x: Tensor, ts: Tensor, percent: int) -> tuple[Tensor, Tensor]:
    """Of each series the given part of the points, at random."""
    left = POINTS - POINTS * percent // 100
    kept = torch.rand(ts.shape).argsort(1)[:, :left].sort(1).values
    return x.gather(0, kept.t().unsqueeze(2).expand(-1, -1, x.shape[2])), ts.gather(1, kept)


class Field(nn.Module):
    """tanh of a perceptron, as a matrix; initial weights as both sources have them, U(±1/√inputs).

    Shapes:
        z (B, 8) -> (B, 8, 3).
    """

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(HIDDEN, 128), activation(), nn.Linear(128, HIDDEN * 3), nn.Tanh())

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        """f(z)."""
        return self.layers(z).unflatten(-1, (HIDDEN, 3))


class Classifier(nn.Module):
    """A neural CDE and a linear layer.

    Shapes:
        x (K, B, 2), ts (B, K) -> logits (B,), or (K, B) with `everywhere`.
    """

    def __init__(self, recipe: str) -> None:
        super().__init__()
        if recipe == "diffrax":
            field, initial = Field(nn.Softplus), nn.Sequential(nn.Linear(3, 128), nn.ReLU(), nn.Linear(128, HIDDEN))
        else:
            field, initial = Field(nn.ReLU), nn.Linear(3, HIDDEN)
        self.cde = NeuralCDE(field, initial, returns="path", solver="midpoint", step=1.0, gradient="backprop")
        self.readout = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor, ts: Tensor, everywhere: bool = False, **options: Any) -> Tensor:
        """The logit of "mirrored"."""
        zs = self.cde.solution(x, ts, **options).ys
        return self.readout(zs if everywhere else zs[-1]).squeeze(-1)


RECIPES = {
    # name: (data, learning rate, steps, repeats of the whole in a full run)
    "diffrax": (diffrax_spirals, 1e-2, 20, 5),
    "torchcde": (torchcde_spirals, 1e-3, 120, 1),
}


def learn(job: Job, key: str, recipe: str, percent: int, repeat: int) -> dict[str, Any]:
    """Trains one model and tests it."""
    make, rate, steps, _ = RECIPES[recipe]
    torch.manual_seed(job.draw_seed("data", recipe, repeat))
    sets = [make(), make()]
    torch.manual_seed(job.draw_seed("dropped", recipe, percent, repeat))
    (x, ts, labels), (test_x, test_ts, test_labels) = [(*drop(x, ts, percent), y) for x, ts, y in sets]
    torch.manual_seed(job.draw_seed("weights", recipe, repeat))
    model = Classifier(recipe)
    optimizer = torch.optim.Adam(model.parameters(), rate)

    def step(i: int) -> Tensor:
        chosen = torch.randperm(len(labels))[:BATCH]
        return binary_cross_entropy_with_logits(model(x[:, chosen], ts[chosen]), labels[chosen])

    history = train(job, key, {"model": model, "optimizer": optimizer}, steps, step)
    with torch.no_grad():
        logits = model(test_x, test_ts)
        few = slice(None, None, len(test_labels) // SHOWN)
        exact = model(test_x[:, few], test_ts[few], **TIGHT)
        shown = model(test_x[:, few], test_ts[few], everywhere=True)
    return {
        "loss": float(binary_cross_entropy_with_logits(logits, test_labels)),
        "accuracy": float(((logits > 0) == (test_labels > 0)).float().mean()),
        "solver": float((exact - logits[few]).abs().max()),
        "per_step": history.seconds[-1] / steps,
        "losses": history.loss,
        "shown": shown.tolist(),
    }


def run(job: Job) -> list[Row]:
    """Both recipes, then with points dropped."""
    cells = [("diffrax", percent) for percent in ((0, 70) if job.quick else (0, 30, 50, 70))]
    if not job.quick:
        cells += [("torchcde", 0), ("torchcde", 70)]
    rows, found = [], {}
    for recipe, percent in cells:
        repeats = 1 if job.quick else RECIPES[recipe][-1]
        runs = []
        for repeat in range(repeats):
            key = f"{recipe}, {percent} % dropped, run {repeat}"
            runs.append(job.cell(key, lambda key=key, a=(recipe, percent, repeat): learn(job, key, *a)))
        found[recipe, percent] = runs
        rows += report(recipe, percent, runs)
    save(draw(job, found), job.picture("turns.png"))
    return rows


def report(recipe: str, percent: int, runs: list[dict[str, Any]]) -> list[Row]:
    """Accuracy and loss of a recipe, the mean over its runs."""
    published = (1.0, 0.1057) if (recipe, percent) == ("diffrax", 0) else (None, None)
    where = f"{recipe}'s spirals" + (f", {percent} % dropped" if percent else "")
    losses = [one["loss"] for one in runs]
    spread = f"{min(losses):.4f} to {max(losses):.4f} over {len(runs)} runs with other data and weights; "
    step = runs[-1]["per_step"]
    note = f"{spread if len(runs) > 1 else ''}{RECIPES[recipe][2]} steps of {step:.2g} s"
    rows = [
        Row(f"{where}: test accuracy", statistics.mean(r["accuracy"] for r in runs), published=published[0], bound=1.0),
        Row(f"{where}: test loss", statistics.mean(losses), "nats", published=published[1], note=note),
    ]
    if percent == 0:
        worst = max(one["solver"] for one in runs)
        rows.append(Row(f"{where}: largest change of a logit under dopri8 to 1e-6", worst))
    return rows


# ---- picture ------------------------------------------------------------------------------------------------------
def draw(job: Job, found: dict[tuple[str, int], list[dict[str, Any]]]) -> Figure:
    """Two spirals with what is left of their points; how the model makes up its mind; losses."""
    figure, grid = panels(1, 3, (3.4, 3.1))
    spirals, minds, curves = grid[0]
    torch.manual_seed(job.draw_seed("picture"))
    x, ts, _ = diffrax_spirals(4)
    some, _ = drop(x, ts, 70)
    for i, colour in ((0, COLOURS[0]), (3, COLOURS[1])):
        spirals.plot(*x[:, i].T, color=PALE, lw=1.2)
        spirals.scatter(*some[:, i].T, c=[colour], s=14, zorder=3)
    spirals.set(xlabel="x", ylabel="y", aspect="equal")
    title(spirals, "30 points are left of 100")
    shown = torch.tensor(found["diffrax", 70][0]["shown"]).sigmoid()
    for i in range(shown.shape[1]):
        minds.plot(shown[:, i], color=COLOURS[0] if i < shown.shape[1] // 2 else COLOURS[1], lw=0.9, alpha=0.7)
    minds.axhline(0.5, color=MUTED, lw=0.6, ls=":")
    minds.set(xlabel="observations seen", ylabel="probability of mirrored", ylim=(0, 1))
    title(minds, "unseen spirals, read point by point")
    for (_, percent), colour in zip([key for key in found if key[0] == "diffrax"], COLOURS, strict=False):
        losses = torch.tensor([one["losses"] for one in found["diffrax", percent]]).mean(0)
        curves.plot(range(1, len(losses) + 1), losses, color=colour, lw=1.3, label=f"{percent} % dropped")
    curves.legend(frameon=False, fontsize=9)
    curves.set(xlabel="step", ylabel="training loss, nats", ylim=(0, None))
    title(curves, "training")
    return figure


EXPERIMENT = Experiment(
    title="neural CDEs: which way does a spiral turn?",
    source="Kidger et al. (2020); torchcde and Diffrax, their examples",
    run=run,
)
