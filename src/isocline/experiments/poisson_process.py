"""Events whose rate a latent trajectory sets: an inhomogeneous Poisson process, learned (section 5.4, Fig. 7).

Data. λ(t) = 1 + 8 e^{−t/8} sin² t on [0, 7]; 60 series to learn from, 600 to test on, drawn by thinning a process of rate 9
(Lewis & Shedler 1979).

Model. dz/dt = f(z), z of 4 numbers, z(0) and f learned; λ = softplus of a layer of z. The integral is one more state of the
same solve: log p(t_1 … t_N) = Σ log λ(z(t_i)) − ∫ λ(z(t)) dt.

Training. Adam, 0.02 falling to 0 along a cosine, 1000 steps on all events at once. rk4 in steps of 0.5 in training,
tolerances of 1e-8 and 1e-10 in the test.

Published: the figure, no number. Ours: the figure, the log-likelihood of unseen series beside that of the true rate, which
no other exceeds on average, and the distance between the two rates.
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.pictures import COLOURS, INK, MUTED, PALE, panels, save, title
from isocline.nn import MLP
from isocline.nn.latent_ode import Intensity
from isocline.quadrature import integral
from isocline.solve import solve

END, HIGHEST, TRAIN, TEST, LATENT = 7.0, 9.0, 60, 600, 4
COARSE: dict[str, Any] = {"solver": "rk4", "step": 0.5, "gradient": "backprop"}
TIGHT: dict[str, Any] = {"solver": "dopri5", "rtol": 1e-8, "atol": 1e-10}


def true_rate(t: Tensor) -> Tensor:
    """λ(t)."""
    return 1 + 8 * (-t / 8).exp() * t.sin().square()


def draw(count: int, generator: torch.Generator) -> list[Tensor]:
    """Series of event times: candidates of the highest rate, each kept with probability λ(t) / highest."""
    number = torch.poisson(torch.full((count,), HIGHEST * END), generator=generator).long()
    series = []
    for n in number.tolist():
        t = END * torch.rand(n, generator=generator, dtype=torch.float64)
        keep = HIGHEST * torch.rand(n, generator=generator, dtype=torch.float64) < true_rate(t)
        series.append(t[keep].sort().values)
    return series


class Process(nn.Module):
    """A latent trajectory and its rate."""

    def __init__(self, mean_rate: float) -> None:
        super().__init__()
        self.z0 = nn.Parameter(torch.randn(1, LATENT))
        self.field = MLP((LATENT, 20, LATENT), "tanh", seed=int(torch.randint(2**31, ())))
        readout = nn.Linear(LATENT, 1)
        nn.init.constant_(readout.bias, mean_rate)
        self.intensity = Intensity(readout)

    def forward(self, ts: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """z at times that rise from 0 to the end, (T, 1, 4), and ∫ λ over all of them."""
        zero = self.z0.new_zeros(1, 1)
        z, total = solve(integral(self.field, self.intensity), (self.z0, zero), ts, **options).ys
        return z, total[-1].sum()

    def log_likelihood(self, events: Tensor, series: int, **options: Any) -> Tensor:
        """Of all events of so many series, sorted; a series."""
        z, total = self(between(events), **options)
        return self.intensity.log(z[1:-1]).sum() / series - total


def between(events: Tensor) -> Tensor:
    """The times of a solve over the whole window that stops at each event."""
    return torch.cat([torch.zeros(1, dtype=torch.float64), events, torch.full((1,), END, dtype=torch.float64)])


def run(job: Job) -> list[Row]:
    """Draws, learns, compares."""
    generator = torch.Generator().manual_seed(job.draw_seed("events"))
    learned, unseen = draw(TRAIN, generator), draw(TEST, generator)
    events, tests = (torch.cat(some).unique() for some in (learned, unseen))
    iterations = 200 if job.quick else 1000
    torch.manual_seed(job.draw_seed("weights"))
    constant = len(events) / TRAIN / END
    model = Process(constant)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    train(job, "training", parts, iterations, lambda i: -model.log_likelihood(events, TRAIN, **COARSE))

    grid = torch.linspace(0, END, 2401, dtype=torch.float64)
    true, weights = true_rate(grid), simpson(len(grid), END)
    with torch.no_grad():
        model.double()
        ours = float(model.log_likelihood(tests, TEST, **TIGHT))
        z, total = model(grid, **TIGHT)
        rate = model.intensity(None, z)[:, 0, 0]
        coarse = float(model(grid, **COARSE)[1])
    best = float(true_rate(tests).log().sum() / TEST - weights @ true)
    flat = float(len(tests) / TEST * torch.tensor(constant).log() - constant * END)
    divergence = float(weights @ (true * (true / rate).log() - true + rate))
    save(picture(grid, true, rate, learned), job.picture("intensity.png"))
    about = f"{len(events)} events in {TRAIN} series to learn from; {TEST} unseen ones"
    return [
        Row(
            "log-likelihood of an unseen series",
            ours,
            "nats",
            bound=best,
            note=f"{about}; bound: the true rate on the same series; a constant rate has {flat:.2f}",
        ),
        Row(
            "divergence from the true process, a series", divergence, "nats", bound=0.0, note="∫ λ log(λ/λ̂) − λ + λ̂ dt"
        ),
        Row(
            "L2 error of the rate, relative",
            float((weights @ (rate - true).square()).sqrt() / (weights @ true.square()).sqrt()),
            bound=0.0,
            note=f"a constant rate has {float((weights @ (constant - true).square()).sqrt() / (weights @ true.square()).sqrt()):.3f}",
        ),
        Row(
            "∫ λ dt as a state, against Simpson's rule",
            abs(float(total) - float(weights @ rate)),
            bound=0.0,
            note=f"tolerance 1e-8; in the steps of the training it differs by {abs(coarse - float(total)):.1g}",
        ),
    ]


def simpson(count: int, length: float) -> Tensor:
    """Weights of Simpson's rule on an odd number of equidistant points."""
    weights = torch.ones(count, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    return weights * length / (count - 1) / 3


# ---- pictures -----------------------------------------------------------------------------------------------------
def picture(grid: Tensor, true: Tensor, rate: Tensor, series: list[Tensor]) -> Figure:
    """The rates, and below them the events of some series; Fig. 7."""
    figure, axes = panels(2, 1, (7.0, 2.1), sharex=True, height_ratios=(2.2, 1))
    above, below = axes[:, 0]
    above.plot(grid, true, color=PALE, lw=5, label="true rate", solid_capstyle="round")
    above.plot(grid, rate, color=COLOURS[1], lw=1.6, label="learned")
    above.set(ylabel="events a unit of time", ylim=(0, None))
    above.legend(frameon=False, fontsize=10, labelcolor=MUTED)
    title(above, f"learned from {len(series)} series of events")
    shown = series[:10]
    below.eventplot([t.tolist() for t in shown], colors=INK, linewidths=0.8, linelengths=0.7)
    below.set(xlabel="t", yticks=[], xlim=(0, END))
    below.set_ylabel("ten of them")
    return figure


EXPERIMENT = Experiment(
    title="the rate of events, learned from when they happen", source="Chen et al. (2018), section 5.2, Fig. 7", run=run
)
