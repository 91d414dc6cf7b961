"""torchdiffeq's latent ODE demo: how near the bound comes to the best any model could do (section 5.1, Fig. 8).

Data. Two Archimedean curves of 500 points over t in [0, 6π], one wound each way: r = 15 / (6π + 1 − t) about (−5, 0), and
r = 0.3 t about (5, 0). 1000 series of 100 points from a start drawn from 100 … 399, with noise 0.3.

Model. Encoder: tanh(W [x, h] + b), 25 hidden, backwards; z of 4 numbers; f 4-20-20-4 with ELU; decoder 4-20-2 with ReLU; the
noise known.

Training. Adam, 0.01, 2000 steps, each on all series; ELBO. Three things differ: the rate falls to 0 along a cosine, gradients
are clipped at a norm of 1000 (the first ones are far larger than all that follow, and Adam remembers them), and rk4 takes steps
of 0.25, the demo's dopri5 at 1e-7 and 1e-9 being at the edge of float32; in the test tolerances of 1e-6 and 1e-8.

Published: the pictures, no number. The log-likelihood of a series under its true curve is −43.0 on average, so that no bound
exceeds −43.0 less the KL term. Ours: the bound of the series learned from and of 1000 new ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from isocline.experiments.lab import Experiment, Job, Kept, Row, train
from isocline.experiments.lab.pictures import COLOURS, INK, MUTED, PALE, animate, bare, image, panels, save, title
from isocline.nn import MLP, ODERNN, LatentODE

SERIES, LENGTH, NOISE, POINTS = 1000, 100, 0.3, 500
ALL_TS = torch.linspace(0, 6 * math.pi, POINTS)
TS = ALL_TS[:LENGTH]
TIGHT: dict[str, Any] = {"solver": "tsit5", "step": None, "rtol": 1e-6, "atol": 1e-8}


def curves() -> Tensor:
    """(500, 2 curves, 2)."""
    back = ALL_TS[-1] + 1 - ALL_TS
    one = torch.stack([15 / back * back.cos() - 5, 15 / back * back.sin()], -1)
    other = torch.stack([0.3 * ALL_TS * ALL_TS.cos() + 5, 0.3 * ALL_TS * ALL_TS.sin()], -1)
    return torch.stack([one, other], 1)


def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Series with noise (100, B, 2), the true ones, and which curve they are of (B,)."""
    start = torch.randint(LENGTH, POINTS - LENGTH, (SERIES,), generator=generator)
    which = torch.randint(2, (SERIES,), generator=generator)
    true = curves()[start + torch.arange(LENGTH)[:, None], which]
    return true + NOISE * torch.randn(true.shape, generator=generator), true, which


def make() -> LatentODE:
    """The demo's sizes."""
    encoder = ODERNN(2, 25, cell=nn.RNNCell, backwards=True, see_mask=False)
    field = MLP((4, 20, 20, 4), "elu", seed=int(torch.randint(2**31, ())))
    return LatentODE(2, 4, encoder=encoder, field=field, noise=NOISE, solver="rk4", step=0.25, gradient="backprop")


def run(job: Job) -> list[Row]:
    """Trains, and measures the bound."""
    iterations = 240 if job.quick else 2000
    generator = torch.Generator().manual_seed(job.draw_seed("data"))
    (x, true, which), (new, new_true, _) = draw(generator), draw(generator)
    torch.manual_seed(job.draw_seed("weights"))
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    looks = Kept()
    shown, frames = first_of_each(which), 6 if job.quick else 24
    moments = {max(1, round(iterations * (k / frames) ** 2)) for k in range(1, frames + 1)}

    def look(i: int, loss: float) -> None:
        if (i + 1) in moments:
            with torch.no_grad():
                looks.append((i + 1, model.predict(x[:, shown], TS, around())))

    def step(i: int) -> Tensor:
        some = x[:, torch.randint(SERIES, (100,))] if job.quick else x
        return -model.elbo(some, TS).value.mean()

    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "looks": looks}
    history = train(job, "training", parts, iterations, step, clip=1000.0, look=look)
    animate(
        [image(draw_series(x, true, shown, *one)) for one in looks],
        job.picture("training.gif"),
        milliseconds=120,
        colours=128,
    )
    save(draw_series(x, true, shown, *looks[-1]), job.picture("extrapolation.png"))

    rows = []
    coarse, model.options = model.options, {**model.options, **TIGHT}
    with torch.no_grad():
        for name, seen, without in (("series learned from", x, true), ("new series", new, new_true)):
            torch.manual_seed(job.draw_seed("test"))
            bound = model.elbo(seen, TS, samples=5)
            best = torch.distributions.Normal(without, NOISE).log_prob(seen).sum((0, 2)).mean()
            error = (model.reconstruct(seen, TS) - without).square().mean().sqrt()
            rows.append(
                Row(
                    f"ELBO a series, {name}",
                    float(bound.value.mean()),
                    "nats",
                    bound=float(best),
                    note=f"KL {float(bound.kl.mean()):.2f}; log-likelihood {float(bound.log_likelihood.mean()):.2f}, bound: that "
                    f"of the true curves; distance from these, RMSE {float(error):.3f}",
                )
            )
    model.options = coarse
    return [
        *rows,
        Row(
            "training time",
            history.seconds[-1],
            "s",
            note=f"{iterations} steps, each on {'100' if job.quick else 'all'} series",
        ),
    ]


def first_of_each(which: Tensor) -> list[int]:
    """The first series of either curve."""
    return [int((which == k).nonzero()[0]) for k in range(2)]


# ---- pictures -----------------------------------------------------------------------------------------------------
def around() -> Tensor:
    """From π before the series to 2π after its start, as the demo draws."""
    return torch.linspace(-math.pi, 2 * math.pi, 301)


def draw_series(x: Tensor, true: Tensor, shown: list[int], iteration: int, found: Tensor) -> Figure:
    """A series of either curve: the points, their curve, and what the model says before, within and after."""
    figure, axes = panels(1, 2, (3.4, 3.5))
    at = around()
    parts = (
        (at <= 0, COLOURS[2], "before"),
        ((at >= 0) & (at <= TS[-1]), COLOURS[0], "within"),
        (at >= TS[-1], COLOURS[1], "after"),
    )
    for c, i in enumerate(shown):
        one = axes[0, c]
        one.plot(*curves()[:, c].T, color=PALE, lw=1.0)
        one.plot(*true[:, i].T, color=PALE, lw=5, solid_capstyle="round", label="true")
        one.plot(*x[:, i].T, ".", color=INK, ms=2.5, label="seen")
        for where, colour, label in parts:
            one.plot(*found[where, c].T, color=colour, lw=1.6, label=label)
        middle = (-5, 5)[c]
        one.set(xlim=(middle - 7, middle + 7), ylim=(-7, 7))
        bare(one)
    title(axes[0, 0], f"step {iteration}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=10, labelcolor=MUTED)
    return figure


EXPERIMENT = Experiment(
    title="torchdiffeq's latent ODE demo, and how near it comes to its ceiling",
    source="Chen (2018), torchdiffeq, latent_ode; Chen et al. (2018), Fig. 8",
    run=run,
)
