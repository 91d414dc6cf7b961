"""A bouncing ball learned from its heights: when it meets something, what happens there, and how it falls between.

Data. The ball of `bouncing_ball` (a drop of 9.8 under g = 9.8, radius 0.2, 0.8 of the speed kept): its height at 300 times,
50 a second, so 6 seconds with three bounces. The next 4 seconds, with four more, are for testing.

Model. x″ = 10 tanh(w); an event where x − r² = 0; there v ← −σ(b) v; the start is learned too, from (10, 0): five numbers.
Baseline: no events; dx/dt by a network 3-64-64-3 with sines, its state x and two more coordinates, its start learned.

Training. Mean of |(x̂ − x) / (x + 10⁻³)|; Adam, 0.1, cosine to 0; 1000 steps; float64. The times seen grow from 1.2 s to all
6 over the first half, of both models: with all from the start the loss has a minimum where the ball soon comes to rest.
The baseline takes 0.01, for at 0.1 its gradients overflow, and its gradients are clipped at a norm of 1.

Solver. The source takes dopri5 at 1e-8. The ball's parabolas are exact under RK4 whatever the step; the baseline takes 120
steps of RK4 over the 6 seconds, and is measured at 1e-8. Where the bounces of an early guess come to rest, the ball lies
on the floor from there on; the source lets it fall through after 20.

Published: a picture. Ours: the errors within and beyond, the gravity, the share of speed and the radius found.
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from isocline.events import Event
from isocline.experiments.bouncing_ball import parameters, simulate
from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.pictures import COLOURS, INK, MUTED, PALE, panels, save, title
from isocline.nn import NeuralODE
from isocline.solve import solve

SEEN, UNTIL, RATE = 300, 500, 50  # samples, samples, samples a second
DOUBLE = torch.float64


def heights() -> tuple[Tensor, Tensor]:
    """Times and heights (500,), those to train on first."""
    ts = torch.arange(UNTIL, dtype=DOUBLE) / RATE
    with torch.no_grad():
        return ts, simulate(parameters(), ts, "checkpointed").ys[:, 0]


class Ball(nn.Module):
    """Five numbers: fall, floor, bounce, start."""

    def __init__(self) -> None:
        super().__init__()
        self.fall = nn.Parameter(2 * torch.rand((), dtype=DOUBLE) - 1)
        self.radius = nn.Parameter(torch.rand((), dtype=DOUBLE))
        self.bounce = nn.Parameter(2 * (2 * torch.rand((), dtype=DOUBLE) - 1))
        self.start = nn.Parameter(torch.tensor([10.0, 0.0], dtype=DOUBLE))

    @property
    def acceleration(self) -> Tensor:
        """x″."""
        return 10 * self.fall.tanh()

    @property
    def floor(self) -> Tensor:
        """Where the event is."""
        return self.radius**2

    @property
    def kept(self) -> Tensor:
        """Of the speed, by a bounce."""
        return self.bounce.sigmoid()

    def forward(self, ts: Tensor) -> Tensor:
        """Heights at `ts`."""
        floor = Event(
            lambda t, y: y[0] - self.floor,
            direction=-1,
            reset=lambda t, y: torch.stack([y[0], -self.kept * y[1]]),
        )

        def fall(t: Tensor, y: Tensor) -> Tensor:
            return torch.stack([y[1], self.acceleration])

        # Bounces that come to rest are not an error here: what is not reached is NaN.
        solution = solve(
            fall, self.start, ts, solver="rk4", step=0.5, events=floor, max_events=20, throw=False, gradient="backprop"
        )
        x = solution.ys[:, 0]
        return torch.where(x.isnan(), self.floor, x)


class Waves(nn.Module):
    """3-64-64-3 with sines; weights uniform in ±2/√inputs, biases zero, as in the source."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(i, o, dtype=DOUBLE) for i, o in ((3, 64), (64, 64), (64, 3))]
        self.layers = nn.ModuleList(layers)
        for layer in layers:
            bound = 2 / layer.in_features**0.5
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        for layer in self.layers[:-1]:
            y = layer(y).sin()
        return self.layers[-1](y)


class Smooth(nn.Module):
    """The baseline: no events."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.tensor([10.0, 0.0, 0.0], dtype=DOUBLE))
        self.model = NeuralODE(Waves())

    def forward(self, ts: Tensor) -> Tensor:
        """Heights at `ts`: trained with fixed steps, measured tightly."""
        how = {"solver": "rk4", "step": 0.05, "gradient": "backprop"} if self.training else {"rtol": 1e-8, "atol": 1e-8}
        return self.model.solution(self.start, ts, **how).ys[:, 0]


def fitted(job: Job, key: str, model: Ball | Smooth, iterations: int, ts: Tensor, x: Tensor) -> Tensor:
    """Trains; the heights at all times."""
    lr, clip = (0.1, None) if isinstance(model, Ball) else (0.01, 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)

    def step(i: int) -> Tensor:
        seen = min(SEEN, SEEN // 5 + round(2 * i / iterations * 0.8 * SEEN))
        return ((model(ts[:seen]) - x[:seen]) / (x[:seen] + 1e-3)).abs().mean()

    train(job, key, {"model": model, "optimizer": optimizer, "schedule": schedule}, iterations, step, clip=clip)
    model.eval()
    with torch.no_grad():
        return model(ts)


def run(job: Job) -> list[Row]:
    """Both models; what they say beyond the data."""
    iterations = 100 if job.quick else 1000
    ts, x = heights()
    torch.manual_seed(job.draw_seed("start"))
    ball, smooth = Ball(), Smooth()
    found = {
        "with events": fitted(job, "with events", ball, iterations, ts, x),
        "without": fitted(job, "without", smooth, 6 if job.quick else iterations, ts, x),
    }
    save(draw(ts, x, found), job.picture("heights.png"))
    rows = []
    for name, path in found.items():
        miss = (path - x).abs()
        relative = (miss / (x + 1e-3))[:SEEN].mean()
        rows += [
            Row(f"{name}: loss", float(relative), note="mean of |error| / (height + 1 mm)"),
            Row(f"{name}: mean error within the 6 s", float(miss[:SEEN].mean()), "m"),
            Row(f"{name}: mean error in the next 4 s", float(miss[SEEN:].mean()), "m"),
        ]
    with torch.no_grad():
        rows += [
            Row("gravity", -float(ball.acceleration), "m/s²", bound=9.8, note="its model can say at most 10"),
            Row("share of speed kept", float(ball.kept), bound=0.8),
            Row("radius", float(ball.floor), "m", bound=0.2),
        ]
    return rows


# ---- pictures -----------------------------------------------------------------------------------------------------
def draw(ts: Tensor, x: Tensor, found: dict[str, Tensor]) -> Figure:
    """Data, and both continuations."""
    figure, grid = panels(1, 2, (5.2, 3.0), sharey=True)
    for axes, (name, path), colour in zip(grid[0], found.items(), COLOURS, strict=False):
        axes.axvspan(0, SEEN / RATE, color=PALE, alpha=0.25, lw=0)
        axes.plot(ts, x, color=MUTED, lw=3, alpha=0.45, label="true")
        axes.plot(ts, path, color=colour, lw=1.4, label=f"learned {name}")
        axes.set(xlabel="t, s", ylim=(-1.5, 12.5))
        axes.legend(frameon=False, fontsize=9, loc="upper right", labelcolor=INK)
        error = float((path - x).abs()[SEEN:].mean())
        title(axes, f"{name}: {error:.2g} m beyond the data")
    grid[0, 0].set_ylabel("height, m")
    return figure


EXPERIMENT = Experiment(
    title="the physics of a bouncing ball, learned with its events",
    source="Chen, Amos & Nickel (2021); torchdiffeq's learn_physics example",
    run=run,
)
