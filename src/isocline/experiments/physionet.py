"""Two days in intensive care: what is measured next, and who dies (Rubanova et al. 2019, PhysioNet 2012).

Data. 4000 stays of 48 hours (set a, the one with outcomes); 37 variables, measured when somebody thought it useful, and
age, sex, height and kind of unit, seen once at the start. Rounded to the hour, several values of an hour averaged (the
source: to the minute, many times the steps); 18 % of the 41 × 49 cells are filled. Each variable to [0, 1] by its least
and greatest value, time to [0, 1]. A fifth of the stays is the test, a tenth more chooses the stopping point; three such
splits, no stay tested on twice.

Models. Recurrent ones read hour by hour and predict each from those before; a classifier (300-300) reads the last state:
"RNN dt", a GRU that is told the time differences; "GRU-D"; "ODE-RNN", whose state follows an ODE, 40-50-50-40, between
hours; "neural CDE", driven by values, time and counts on a rectilinear path, so that it too knows the past only (24
units, one Heun step a piece). "Latent ODE": an ODE-RNN reads everything backwards into z(0) of 20 numbers, dz/dt an MLP
20-50-50-20, from which everything is decoded; a classifier (300-300) reads z(0). All: 40 units unless said.

Training. Each model once for both tasks: 100 · (squared error) + cross-entropy (+ KL for the latent ODE); the source
trains for each task. Adamax, 1e-2 falling by 0.999 a step to 1e-3, batches of 50, gradients clipped, 2500 steps (45
epochs; the source: 100); the neural CDE 800 steps from 2e-3 (from 1e-2 its loss soon was ten times that of the start).

Scores. Squared error as in the source: averaged over the hours of a variable of a stay, then over all 41 variables and
stays, one never measured counting 0; the first hour is given to those that predict. So a latent ODE *reconstructs* what
it has read, and the others *predict* what comes next: in the source too the two answer different questions. Area under
the ROC curve of death in hospital. Each at the step where its own value on the validation stays was best.

Published: see `PUBLISHED`. Ours beside them, beside the mean, the last value carried on, and a logistic regression on
means, last values and counts.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from isocline.experiments.lab import Experiment, Job, Kept, Row, train
from isocline.experiments.lab.irregular import GRUD, auc, auc_error
from isocline.experiments.lab.physionet import FOLDER, NAMES, physionet
from isocline.experiments.lab.pictures import COLOURS, INK, MUTED, panels, save, title
from isocline.nn import MLP, ODERNN, LatentODE, MatrixField, NeuralCDE
from isocline.nn.latent_ode import gaussian_kl

HIDDEN, LATENT, CHANNELS, BATCH, SPLITS = 40, 20, len(NAMES), 50, 3
PUBLISHED = {
    # squared error · 1000, area under the curve
    "RNN dt": (3.520, 0.787),
    "GRU-D": (3.384, 0.818),
    "ODE-RNN": (2.361, 0.833),
    "latent ODE": (2.118, 0.829),
}
STEPS = {"neural CDE": 800}
SHOWN = ("HR", "NISysABP", "Temp")


class Data(NamedTuple):
    """x (49, B, 41), 0 where missing; mask, bool; died (B,) float."""

    x: Tensor
    mask: Tensor
    died: Tensor

    def of(self, which: Any) -> Data:
        """Some of the stays."""
        return Data(self.x[:, which], self.mask[:, which], self.died[which])

    @property
    def ts(self) -> Tensor:
        """(49,)."""
        return torch.linspace(0, 1, len(self.x))


class Predictor(nn.Module):
    """A recurrent core, what it predicts from its state before each hour, and a classifier of its last state.

    Args:
        core: (x, ts, mask) -> states before and after each row.
        hidden: of its state.
    """

    def __init__(self, core: nn.Module, hidden: int) -> None:
        super().__init__()
        self.core = core
        self.decoder = layers(hidden, 50, CHANNELS)
        self.classifier = layers(hidden, 300, 300, 1)

    def forward(self, data: Data) -> tuple[Tensor, Tensor]:
        """Values (49, B, 41), the first hour's those given; logits (B,)."""
        before, after = self.core(data.x, data.ts, data.mask)
        found = torch.cat([data.x[:1], self.decoder(before[1:])])
        return found, self.classifier(after[-1]).squeeze(1)

    def loss(self, data: Data, done: float) -> Tensor:
        """Of a batch."""
        found, logits = self(data)
        return 100 * squared_error(found, data) + binary_cross_entropy_with_logits(logits, data.died)


class Driven(nn.Module):
    """A neural CDE in the form of the recurrent cores."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        channels = 1 + 2 * CHANNELS
        field = MatrixField(hidden, channels, 40, activation="relu", seed=int(torch.randint(2**31, ())), last_gain=0.1)
        options: dict[str, Any] = {"solver": "heun", "step": 1.0, "gradient": "backprop"}
        initial = nn.Linear(channels, hidden)
        self.cde = NeuralCDE(field, initial, path="rectilinear", intensity=True, returns="path", **options)

    def forward(self, x: Tensor, ts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Hours are of equal length: the state after one hour is what is known before the next."""
        after = self.cde(torch.where(mask, x, torch.nan), ts)
        return torch.cat([torch.zeros_like(after[:1]), after[:-1]]), after


class Latent(nn.Module):
    """The latent ODE."""

    def __init__(self) -> None:
        super().__init__()
        seeds = torch.randint(2**31, (2,)).tolist()
        encoder = ODERNN(CHANNELS, HIDDEN, MLP((HIDDEN, 50, 50, HIDDEN), seed=seeds[0], last_gain=0.1), backwards=True)
        options: dict[str, Any] = {"solver": "dopri5", "rtol": 1e-3, "atol": 1e-4, "gradient": "backprop"}
        self.model = LatentODE(
            CHANNELS,
            LATENT,
            encoder=encoder,
            hidden=HIDDEN,
            field=MLP((LATENT, 50, 50, LATENT), seed=seeds[1]),
            decoder=layers(LATENT, 50, CHANNELS),
            noise=0.01,
            classes=2,
            **options,
        )

    def decode(self, z0: Tensor, ts: Tensor) -> tuple[Tensor, Tensor]:
        """(49, ..., 41) and logits (...)."""
        assert self.model.classifier is not None
        logits = self.model.classifier(z0)
        return self.model.decoder(self.model.path(z0, ts)[0]), logits[..., 1] - logits[..., 0]

    def forward(self, data: Data) -> tuple[Tensor, Tensor]:
        """From the mean of q(z0 | x)."""
        return self.decode(self.model.encode(data.x, data.ts, data.mask)[0], data.ts)

    def loss(self, data: Data, done: float) -> Tensor:
        """The source's bound, of noise 0.01, times 0.02; the KL term grows in from a tenth of the training on."""
        mean, std = self.model.encode(data.x, data.ts, data.mask)
        draws = mean + std * torch.randn(3, *mean.shape)
        found, logits = self.decode(draws, data.ts)
        error = torch.stack([squared_error(found[:, i], data) for i in range(3)]).mean()
        kl = gaussian_kl(mean, std).mean() / LATENT
        weight = max(0.0, 1 - 0.99 ** (100 * done - 10))
        return 100 * error + 0.02 * weight * kl + binary_cross_entropy_with_logits(logits, data.died.expand(3, -1))


def layers(*sizes: int) -> nn.Sequential:
    """Linear layers with tanh (300s: ReLU) between."""
    parts: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        parts += [nn.Linear(n_in, n_out), nn.ReLU() if n_out == 300 else nn.Tanh()]
    return nn.Sequential(*parts[:-1])


Model = Predictor | Latent


def models(mean: Tensor) -> dict[str, Callable[[], Model]]:
    """By name; `mean` (41,) of the training stays."""

    def ode_rnn() -> Model:
        field = MLP((HIDDEN, 50, 50, HIDDEN), seed=int(torch.randint(2**31, ())), last_gain=0.1)
        return Predictor(ODERNN(CHANNELS, HIDDEN, field), HIDDEN)

    return {
        "RNN dt": lambda: Predictor(ODERNN(CHANNELS, HIDDEN, gaps=True), HIDDEN),
        "GRU-D": lambda: Predictor(GRUD(CHANNELS, HIDDEN, mean), HIDDEN),
        "ODE-RNN": ode_rnn,
        "neural CDE": lambda: Predictor(Driven(24), 24),
        "latent ODE": Latent,
    }


def squared_error(found: Tensor, data: Data) -> Tensor:
    """Mean over the hours of a variable of a stay, then over all variables and stays."""
    seen = data.mask.to(found.dtype)
    return (((found - data.x).square() * seen).sum(0) / seen.sum(0).clamp(min=1)).mean()


# ---- what is done ---------------------------------------------------------------------------------------------------
def prepare(job: Job) -> tuple[Data, Tensor]:
    """All stays, and for each a number in [0, 1) that says which part of a split it is in; deaths are spread evenly."""
    stays = physionet(job)
    x, mask = (part[:, :100] if job.quick else part for part in stays.binned())
    died = torch.from_numpy(stays.died[: x.shape[1]])
    low = torch.where(mask, x, torch.inf).amin((0, 1))
    high = torch.where(mask, x, -torch.inf).amax((0, 1))
    x = torch.where(mask, (x - low) / torch.where(high > low, high - low, 1.0), 0.0)
    torch.manual_seed(job.draw_seed("split"))
    rank = torch.zeros(len(died))
    for kind in (died, ~died):
        places = kind.nonzero().squeeze(1)
        rank[places[torch.randperm(len(places))]] = torch.arange(len(places)) / len(places)
    return Data(x, mask, died.float()), rank


def split(data: Data, rank: Tensor, k: int) -> dict[str, Data]:
    """The k-th: a fifth to test on, a tenth to validate on, the rest to train on."""
    turned = (rank - k / 5) % 1.0
    parts = {"test": turned < 0.2, "validation": (turned >= 0.2) & (turned < 0.3), "train": turned >= 0.3}
    return {name: data.of(which) for name, which in parts.items()}


def learn(job: Job, key: str, name: str, make: Callable[[], Model], sets: dict[str, Data]) -> dict[str, Any]:
    """Trains a model; at every look its scores on validation and test stays."""
    slow = name == "neural CDE"
    steps = (3 if slow else 12) if job.quick else STEPS.get(name, 2500)
    every = 3 if job.quick else 50
    torch.manual_seed(job.draw_seed("weights", key))
    model = make()
    optimizer = torch.optim.Adamax(model.parameters(), 2e-3 if slow else 1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: max(0.1, 0.999**i))
    looks, data = Kept(), sets["train"]

    def step(i: int) -> Tensor:
        return model.loss(data.of(torch.randperm(len(data.died))[:BATCH]), i / steps)

    def look(i: int, loss: float) -> None:
        if (i + 1) % every == 0:
            looks.append([i + 1, *scores(model, sets["validation"]), *scores(model, sets["test"])])

    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "looks": looks}
    history = train(job, key, parts, steps, step, clip=5.0, look=look)
    one = sets["test"].of([pictured(sets["test"])])
    with torch.no_grad():
        shown = model(one)[0][:, 0, [NAMES.index(variable) for variable in SHOWN]]
    return {
        "looks": list(looks),
        "per_step": history.seconds[-1] / steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "shown": shown.tolist(),
    }


def scores(model: Model, data: Data) -> tuple[float, float]:
    """Squared error and area under the curve."""
    with torch.no_grad():
        found, logits = model(data)
    return float(squared_error(found, data)), auc(logits, data.died > 0)


def baselines(sets: dict[str, Data]) -> dict[str, float]:
    """The mean of each variable, the last value seen, and a logistic regression."""
    train_set, test = sets["train"], sets["test"]
    mean = variable_means(train_set)
    out = {"mean": squared_error(torch.cat([test.x[:1], mean.expand_as(test.x[1:])]), test).item()}
    row = torch.arange(len(test.x)).view(-1, 1, 1)
    last = torch.where(test.mask, row, -1).cummax(0).values
    carried = torch.where(last < 0, mean, test.x.gather(0, last.clamp(min=0)))
    out["last"] = squared_error(torch.cat([test.x[:1], carried[:-1]]), test).item()
    usual = stay_means(train_set)
    features = {key: summary(one, usual) for key, one in sets.items()}
    shift, scale = features["train"].mean(0), features["train"].std(0).clamp(min=1e-6)
    features = {key: ((one - shift) / scale).clamp(-5, 5) for key, one in features.items()}
    best = -1.0
    for penalty in (1e-3, 1e-2, 1e-1, 1.0):
        weights = torch.zeros(features["train"].shape[1] + 1, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

        def closure(weights: Tensor = weights, penalty: float = penalty, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            logits = features["train"] @ weights[1:] + weights[0]
            loss = binary_cross_entropy_with_logits(logits, train_set.died) + penalty * weights[1:].square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        found = {key: auc((features[key] @ weights[1:]).detach(), sets[key].died > 0) for key in ("validation", "test")}
        if found["validation"] > best:
            best, out["logistic"] = found["validation"], found["test"]
    return out


def variable_means(data: Data) -> Tensor:
    """(41,)."""
    return (data.x * data.mask).sum((0, 1)) / data.mask.sum((0, 1)).clamp(min=1)


def stay_means(data: Data) -> Tensor:
    """(41,): the mean over stays of what a variable is on average in a stay that has it."""
    count = data.mask.sum(0)
    level = (data.x * data.mask).sum(0) / count.clamp(min=1)
    return level.sum(0) / (count > 0).sum(0).clamp(min=1)


def summary(data: Data, usual: Tensor) -> Tensor:
    """(B, 123): mean, last value and log(1 + count) of each variable; `usual` (41,) where it was never seen."""
    count = data.mask.sum(0)
    row = torch.arange(len(data.x)).view(-1, 1, 1)
    last = torch.where(data.mask, row, -1).amax(0)
    never = last < 0
    level = (data.x * data.mask).sum(0) / count.clamp(min=1)
    final = data.x.gather(0, last.clamp(min=0).unsqueeze(0)).squeeze(0)
    return torch.cat([torch.where(never, usual, level), torch.where(never, usual, final), (1.0 + count).log()], 1)


def run(job: Job) -> list[Row]:
    """All models on all splits, one after the other."""
    data, rank = prepare(job)
    splits = [split(data, rank, k) for k in range(1 if job.quick else SPLITS)]
    plain = [job.cell(f"baselines, split {k}", lambda sets=sets: baselines(sets)) for k, sets in enumerate(splits)]
    deaths = sum(int(sets["test"].died.sum()) for sets in splits)
    alive = sum(len(sets["test"].died) for sets in splits) - deaths
    found: dict[str, list[dict[str, Any]]] = {}
    for k, sets in enumerate(splits):
        for name, make in models(variable_means(sets["train"])).items():
            key = f"{name}, split {k}"
            cell = job.cell(key, lambda a=(key, name, make, sets): learn(job, *a))
            found.setdefault(name, []).append(cell)
    area = mean_of(one["logistic"] for one in plain)
    rows = [
        Row("mean of each variable: squared error", 1e3 * mean_of(one["mean"] for one in plain), "1e-3"),
        Row("last value carried on: squared error", 1e3 * mean_of(one["last"] for one in plain), "1e-3"),
        Row(
            "logistic regression on means, last values, counts: AUC",
            area,
            note=f"standard error {auc_error(area, deaths, alive):.3f}: {deaths} deaths, {alive} survivors",
        ),
    ]
    for name, cells in found.items():
        rows += report(name, cells, deaths, alive)
    save(draw(found, plain, splits[0]["test"]), job.picture("scores.png"))
    return rows


def report(name: str, cells: list[dict[str, Any]], deaths: int, alive: int) -> list[Row]:
    """The two scores of a model, each at its own stopping point of each split."""
    published = PUBLISHED.get(name, (None, None))
    by_error = [min(cell["looks"], key=lambda look: look[1]) for cell in cells]
    by_area = [max(cell["looks"], key=lambda look: look[2]) for cell in cells]
    errors, areas = [1e3 * look[3] for look in by_error], [look[4] for look in by_area]
    steps, seconds = cells[0]["looks"][-1][0], mean_of(cell["per_step"] for cell in cells)
    what = "reconstructs what it has read" if name == "latent ODE" else "predicts the next hour"
    area = mean_of(areas)
    return [
        Row(
            f"{name}: squared error",
            mean_of(errors),
            "1e-3",
            published=published[0],
            note=f"{what}; hours in place of minutes, both tasks in one training; splits: {listed(errors, 2)}; "
            f"{cells[0]['parameters']} parameters, {steps} steps of {seconds:.2g} s, stopped at "
            f"{listed([look[0] for look in by_error], 0)}",
        ),
        Row(
            f"{name}: AUC",
            area,
            published=published[1],
            note=f"standard error {auc_error(area, deaths, alive):.3f} from {deaths} deaths and {alive} survivors; splits: "
            f"{listed(areas, 3)}; stopped at {listed([look[0] for look in by_area], 0)}",
        ),
    ]


def mean_of(numbers: Iterable[float]) -> float:
    """Their mean."""
    return statistics.mean(list(numbers))


def listed(numbers: list[float], digits: int) -> str:
    """Separated by commas."""
    return ", ".join(f"{one:.{digits}f}" for one in numbers)


# ---- picture ------------------------------------------------------------------------------------------------------
def pictured(test: Data) -> int:
    """The stay in which the variable of `SHOWN` that was measured least was measured most."""
    return int(test.mask[..., [NAMES.index(variable) for variable in SHOWN]].sum(0).amin(1).argmax())


def draw(found: dict[str, list[dict[str, Any]]], plain: list[dict[str, float]], test: Data) -> Figure:
    """Three variables of a stay nobody trained on; the two scores as training went on."""
    figure, grid = panels(1, 3, (3.6, 3.2))
    stay, error, area = grid[0]
    hours, one = torch.arange(len(test.x)), pictured(test)
    for k, variable in enumerate(SHOWN):
        values, seen = (part[:, one, NAMES.index(variable)] for part in (test.x, test.mask))
        middle = values[seen].mean()
        size = 2.5 * max(1e-3, float((values[seen] - middle).abs().max()))
        stay.scatter(hours[seen], (values[seen] - middle) / size - k, s=9, color=COLOURS[k], zorder=3)
        path = torch.tensor(found["latent ODE"][0]["shown"])[:, k]
        stay.plot(hours, (path - middle) / size - k, color=INK, lw=1.1)
        stay.text(0, -k + 0.42, variable, fontsize=9, color=COLOURS[k])
    stay.set(xlabel="hours", yticks=[], ylim=(-2.7, 0.7))
    title(stay, "a test stay, and the latent ODE")
    for (name, cells), colour in zip(found.items(), COLOURS, strict=False):
        looks = torch.tensor([cell["looks"] for cell in cells]).mean(0)
        error.plot(looks[:, 0], 1e3 * looks[:, 3], color=colour, lw=1.2, label=name)
        area.plot(looks[:, 0], looks[:, 4], color=colour, lw=1.2)
    error.axhline(1e3 * mean_of(one["last"] for one in plain), color=MUTED, lw=0.8, ls=":")
    area.axhline(mean_of(one["logistic"] for one in plain), color=MUTED, lw=0.8, ls=":")
    error.legend(frameon=False, fontsize=8)
    error.set(xlabel="step", ylabel="squared error · 1000", yscale="log")
    title(error, "test error (dotted: last value)")
    area.set(xlabel="step", ylabel="area under the ROC curve")
    title(area, "deaths (dotted: logistic)")
    return figure


EXPERIMENT = Experiment(
    title="PhysioNet 2012: irregular series from intensive care",
    source="Rubanova, Chen, Duvenaud (2019), PhysioNet; Che et al. (2018); Kidger et al. (2020)",
    run=run,
    data=(FOLDER,),
)
