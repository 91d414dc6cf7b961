"""Periodic series at few, irregular times: interpolation and extrapolation (Rubanova et al. 2019, section 4.1).

Data. 1000 series sin φ(t) + offset on [0, 5], φ′ = 2π × a frequency that goes linearly from one to another draw of
U[0.4, 0.8], offset 1 + N(0, 0.1²), noise uniform in [0, 0.01] as in the authors' code; 100 times drawn once, the same for all;
800 series to learn from. Interpolation: 30 of the 100 points are seen, all are to be told; tested with 10, 30 and 50 seen.
Extrapolation: 20 of those in [0, 2.5] are seen, all of those in (2.5, 5] are to be told.

Model. Latent ODE with an ODE-RNN as encoder: z of 10 numbers, 20 in the encoder, one hidden layer of 100 in f and in the
encoder's field, GRU. RNN-VAE: the same z from a GRU backwards, unrolled by a GRU of 20 that is told the time steps. ODE-RNN: 20
hidden, tells each point from the state just before it; after the last point seen its ODE goes on alone.

Training. Adamax, 0.01, × 0.999 a step down to 0.001, batches of 50. Known deviation 0.01 and 3 draws of z; the weight of the KL
term is 0 at first, then 1 − 0.99^k. 2500 steps here, 8000 there. Euler between observations, rk4 in steps of 0.2 for z, where
the authors use dopri5 at 1e-3; in the test tolerances of 1e-6 and 1e-8.

Published: figures only. Ours: the figure and the mean squared errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.pictures import COLOURS, INK, MUTED, PALE, panels, save, title
from isocline.nn import MLP, ODERNN, LatentODE

SERIES, TRAIN, POINTS, END, BATCH, DEVIATION, HIDDEN, LATENT = 1000, 800, 100, 5.0, 50, 0.01, 20, 10
TIGHT: dict[str, Any] = {"solver": "tsit5", "step": None, "rtol": 1e-6, "atol": 1e-8}
TASKS = {"interpolation": (10, 30, 50), "extrapolation": (20,)}


class Data(NamedTuple):
    """`ts` (100,); `x` (100, B, 1) with noise; frequencies at both ends and offsets, (B, 1)."""

    ts: Tensor
    x: Tensor
    first: Tensor
    last: Tensor
    offset: Tensor

    def curve(self, ts: Tensor) -> Tensor:
        """Without noise, (T, B, 1)."""
        return curve(ts, self.first, self.last, self.offset)


def draw(seed: int, end: float = END) -> Data:
    """All series, up to a time."""
    generator = torch.Generator().manual_seed(seed)
    ts = (end * torch.rand(POINTS, generator=generator)).sort().values
    first, last = 0.4 + 0.4 * torch.rand(2, SERIES, 1, generator=generator)
    offset = 1 + 0.1 * torch.randn(SERIES, 1, generator=generator)
    noise = DEVIATION * torch.rand(POINTS, SERIES, 1, generator=generator)
    return Data(ts, curve(ts, first, last, offset) + noise, first, last, offset)


def curve(ts: Tensor, first: Tensor, last: Tensor, offset: Tensor) -> Tensor:
    """sin φ + offset, φ the integral of a frequency linear in t."""
    t = ts[:, None, None]
    return (2 * math.pi * (first * t + (last - first) * t**2 / (2 * END))).sin() + offset


def some(ts: Tensor, task: str, count: int, batch: int) -> Tensor:
    """Masks (100, batch, 1) of `count` points seen: of all times, or of those in the first half."""
    there = torch.rand(len(ts), batch)
    if task == "extrapolation":
        there[ts > END / 2] = 2.0
    return (there.argsort(0).argsort(0) < count)[..., None]


def asked(ts: Tensor, task: str) -> Tensor:
    """Which of the times are to be told, (100,) bool."""
    return ts > END / 2 if task == "extrapolation" else torch.ones_like(ts, dtype=torch.bool)


class RNNVAE(nn.Module):
    """z from a GRU run backwards; a second one unrolls it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ODERNN(1, HIDDEN, backwards=True, gaps=True)
        self.posterior = nn.Linear(HIDDEN, 2 * LATENT)
        self.start, self.unroll, self.read = nn.Linear(LATENT, HIDDEN), nn.GRU(1, HIDDEN), nn.Linear(HIDDEN, 1)

    def encode(self, x: Tensor, ts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of z."""
        mean, log_variance = self.posterior(self.encoder.encode(x, ts, mask, 0.0)).chunk(2, -1)
        return mean, (0.5 * log_variance).exp()

    def decode(self, z: Tensor, ts: Tensor) -> Tensor:
        """(…, 10) -> (T, …, 1): a step a time, told how far it is."""
        steps = torch.cat([ts[:1], ts.diff()])[:, None, None]
        start = self.start(z).tanh().reshape(1, -1, HIDDEN)
        hidden, _ = self.unroll(steps.expand(-1, start.shape[1], 1), start)
        return self.read(hidden).reshape(len(ts), *z.shape[:-1], 1)

    def predict(self, x: Tensor, ts: Tensor, at: Tensor, mask: Tensor, **options: Any) -> Tensor:
        """At the mean of z."""
        return self.decode(self.encode(x, ts, mask)[0], at)

    def loss(self, x: Tensor, ts: Tensor, mask: Tensor, wanted: Tensor, kl_weight: float) -> Tensor:
        """Negative bound, a number."""
        mean, std = self.encode(x, ts, mask)
        z = mean + std * torch.randn(3, *mean.shape)
        found = self.decode(z, ts)[wanted]
        fit = (found - x[wanted][:, None]).square().sum((0, -1)).mean() / (2 * DEVIATION**2)
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(-1).mean()
        return (fit + kl_weight * kl) / int(wanted.sum())


class Recurrent(nn.Module):
    """The ODE-RNN by itself: from the state just before a time, what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = ODERNN(1, HIDDEN, field(HIDDEN))
        self.read = nn.Sequential(nn.Linear(HIDDEN, 100), nn.Tanh(), nn.Linear(100, 1))

    def predict(self, x: Tensor, ts: Tensor, at: Tensor, mask: Tensor, **options: Any) -> Tensor:
        """At any times, from what was seen before each."""
        times, order = torch.cat([at, ts]).sort(stable=True)  # where both have a time, it is told before it is seen
        nothing = torch.zeros(len(at), *x.shape[1:])
        states = self.rnn(torch.cat([nothing, x])[order], times, torch.cat([nothing.bool(), mask])[order])
        return self.read(states.before[order.argsort()[: len(at)]])

    def loss(self, x: Tensor, ts: Tensor, mask: Tensor, wanted: Tensor, kl_weight: float) -> Tensor:
        """Squared error, in units of the known deviation."""
        found = self.read(self.rnn(x, ts, mask).before)
        return mse_loss(found[wanted], x[wanted]) / (2 * DEVIATION**2)


class Latent(LatentODE):
    """The latent ODE of the paper's sizes."""

    def __init__(self) -> None:
        encoder = ODERNN(1, HIDDEN, field(HIDDEN), backwards=True)
        options: dict[str, Any] = {"solver": "rk4", "step": 0.2, "gradient": "backprop", "noise": DEVIATION}
        super().__init__(
            1,
            LATENT,
            encoder=encoder,
            hidden=HIDDEN,
            width=100,
            field=field(LATENT),
            decoder=nn.Linear(LATENT, 1),
            **options,
        )

    def loss(self, x: Tensor, ts: Tensor, mask: Tensor, wanted: Tensor, kl_weight: float) -> Tensor:
        """Negative bound, a number."""
        target = {"target": x[wanted], "target_ts": ts[wanted]}
        return -self.elbo(x, ts, mask, **target, samples=3, kl_weight=kl_weight).value.mean() / int(wanted.sum())


def field(size: int) -> MLP:
    """One hidden layer of 100."""
    return MLP((size, 100, size), seed=int(torch.randint(2**31, ())))


MODELS: dict[str, Callable[[], Any]] = {"ODE-RNN": Recurrent, "RNN-VAE": RNNVAE, "latent ODE": Latent}


def steps(job: Job) -> int:
    """Of each training."""
    return 120 if job.quick else 2500


def learn(job: Job, name: str, task: str, data: Data) -> Any:
    """The model, trained; at once where that has been done."""
    torch.manual_seed(job.draw_seed("weights", name))
    model = MODELS[name]()
    iterations = steps(job)
    optimizer = torch.optim.Adamax(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: max(0.1, 0.999**i))
    wanted = asked(data.ts, task)
    count = TASKS[task][len(TASKS[task]) // 2]

    def step(i: int) -> Tensor:
        x = data.x[:, torch.randint(TRAIN, (BATCH,))]
        epoch = 3 * i / (TRAIN / BATCH)  # three times as fast as theirs, in three times fewer steps
        return model.loss(x, data.ts, some(data.ts, task, count, BATCH), wanted, max(0.0, 1 - 0.99 ** (epoch - 10)))

    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    train(job, f"{name} {task}", parts, iterations, step, clip=10.0)
    return model


@torch.no_grad()
def test(job: Job, model: Any, task: str, count: int, data: Data) -> float:
    """Mean squared error of what is asked, on the test series."""
    torch.manual_seed(job.draw_seed("test", task, count))
    x, wanted = data.x[:, TRAIN:], asked(data.ts, task)
    mask = some(data.ts, task, count, x.shape[1])
    options = TIGHT if isinstance(model, LatentODE) else {}
    return float(mse_loss(model.predict(x, data.ts, data.ts[wanted], mask=mask, **options), x[wanted]))


def run(job: Job) -> list[Row]:
    """Every model at either task."""
    data = draw(job.draw_seed("data"), END / 4 if job.quick else END)  # a quarter is learned in seconds
    held = data.x[:, TRAIN:]
    level, average = (float((held - held.mean(axis, keepdim=True)).square().mean()) for axis in (0, 1))
    rows, learned = [], {}
    names = ["latent ODE"] if job.quick else list(MODELS)
    tasks = ["interpolation"] if job.quick else list(TASKS)
    for task in tasks:
        for name in names:

            def measure(name: str = name, task: str = task) -> dict[str, Any]:
                model = learn(job, name, task, data)
                return {str(count): test(job, model, task, count, data) for count in TASKS[task]}

            found = job.cell(f"{name} {task}", measure)
            learned[name, task] = learn(job, name, task, data)
            for count in TASKS[task]:
                what = f"{name}, {task} from {count} points: MSE"
                note = f"each series' own mean has {level:.3f}, the mean of all at each time {average:.3f}; noise {DEVIATION**2 / 12:.1g}; {steps(job)} steps, 8000 in the source"
                rows.append(Row(what, found[str(count)], bound=DEVIATION**2 / 12, note=note))
    with torch.no_grad():
        for task in tasks:
            save(picture(job, data, task, names, learned), job.picture(f"{task}.png"))
    return rows


# ---- pictures -----------------------------------------------------------------------------------------------------
def picture(job: Job, data: Data, task: str, names: list[str], learned: dict[tuple[str, str], Any]) -> Figure:
    """A row a model, the same test series in a column, with as many points seen as its title says."""
    counts = TASKS[task] if len(TASKS[task]) > 1 else TASKS[task] * 3
    figure, axes = panels(len(names), len(counts), (3.4, 1.75), sharex=True, sharey=True)
    end = float(data.ts[-1])
    grid = torch.linspace(0, end, 201)
    for c, count in enumerate(counts):
        torch.manual_seed(job.draw_seed("picture", task, c))
        x = data.x[:, TRAIN + c : TRAIN + c + 1]
        mask = some(data.ts, task, count, 1)
        seen = mask[:, 0, 0]
        for r, name in enumerate(names):
            model = learned[name, task]
            options = TIGHT if isinstance(model, LatentODE) else {}
            found = model.predict(x, data.ts, grid, mask=mask, **options)
            one = axes[r, c]
            true = data.curve(grid)[:, TRAIN + c, 0]
            one.plot(grid, true, color=PALE, lw=4, solid_capstyle="round", label="true" if c + r == 0 else None)
            one.plot(grid, found[:, 0, 0], color=COLOURS[r], lw=1.5, label=name if c == 0 else None)
            one.plot(data.ts[seen], x[seen, 0, 0], ".", color=INK, ms=5, label="seen" if c + r == 0 else None)
            one.set(ylim=(-0.6, 2.6), xlim=(0, end))
            if task == "extrapolation":
                one.axvline(END / 2, color=MUTED, lw=0.8, ls=":")
            if r == 0:
                title(one, f"{count} points seen")
    axes[-1, len(counts) // 2].set_xlabel("t")
    figure.legend(loc="outside lower center", ncols=2 + len(names), frameon=False, fontsize=10, labelcolor=MUTED)
    return figure


EXPERIMENT = Experiment(
    title="periodic series at irregular times: latent ODE, ODE-RNN, RNN-VAE",
    source="Rubanova et al. (2019), section 4.1",
    run=run,
)
