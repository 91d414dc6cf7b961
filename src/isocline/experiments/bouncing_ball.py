"""A bouncing ball: the times of its bounces, and their derivatives, against closed forms.

Data. A ball of radius 0.2 falls from a height of 10 under g = 9.8; every bounce keeps 0.8 of the speed.

Model. x′ = v, v′ = −g; an event where x meets the radius, and there v ← −0.8 v. float64, tolerance 1e-8.

Closed form. With the drop h = x₀ − r and the speed s = √(v₀² + 2gh) of the first impact,
T_n = t₀ + (v₀ + s)/g + (2s/g) Σ_{k<n} 0.8ᵏ. Its derivatives are exact, where the source compares with finite differences
to 1e-4. Ours: the derivatives of the tenth time through nine bounces, with every gradient method. The parameter of the
condition (the radius) and that of the reset need not be in the state, as the source's implementation demands.
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from isocline.events import Event
from isocline.experiments.lab import Experiment, Job, Row
from isocline.experiments.lab.pictures import COLOURS, INK, PALE, panels, save, title
from isocline.solution import Solution
from isocline.solve import solve

BOUNCES, END = 10, 11.4  # the eleventh bounce is at 11.5
GRADIENTS = ("checkpointed", "backprop", "backsolve", "gauss_adjoint", "interpolating")


def parameters() -> dict[str, Tensor]:
    """As the source has them, and the share of speed a bounce keeps."""
    values = {"init_pos": 10.0, "init_vel": 0.0, "gravity": 9.8, "t0": 0.0, "log_radius": 0.2, "kept": 0.8}
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    tensors["log_radius"] = tensors["log_radius"].log()
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def simulate(p: dict[str, Tensor], ts: Tensor, gradient: str) -> Solution:
    """The flight with its bounces."""
    ground = Event(
        lambda t, y: y[0] - p["log_radius"].exp(),
        direction=-1,
        reset=lambda t, y: torch.stack([y[0], -p["kept"] * y[1]]),
    )
    y0 = torch.stack([p["init_pos"], p["init_vel"]])

    def fall(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -p["gravity"].expand_as(y[1])])

    return solve(fall, y0, ts, events=ground, gradient=gradient, rtol=1e-8, atol=1e-8)


def exact(p: dict[str, Tensor]) -> Tensor:
    """T₁ … T₁₀."""
    speed = (p["init_vel"] ** 2 + 2 * p["gravity"] * (p["init_pos"] - p["log_radius"].exp())).sqrt()
    flights = p["kept"] ** torch.arange(1, BOUNCES) * 2 * speed / p["gravity"]
    first = p["t0"] + (p["init_vel"] + speed) / p["gravity"]
    return torch.cat([first[None], first + flights.cumsum(0)])


def slopes(times: Tensor, p: dict[str, Tensor]) -> Tensor:
    """(bounces, parameters): dT_n/dp."""
    return torch.stack([torch.stack(torch.autograd.grad(t, list(p.values()), retain_graph=True)) for t in times])


def run(job: Job) -> list[Row]:
    """Solves, differentiates, draws."""
    p = parameters()
    want = exact(p)
    want_slopes = slopes(want, p)
    want = want.detach()
    found, misses = {}, {}
    for gradient in GRADIENTS:
        times = simulate(p, torch.stack([p["t0"], torch.tensor(END, dtype=torch.float64)]), gradient).event_ts
        found[gradient] = times.detach(), slopes(times, p)
        misses[gradient] = float((found[gradient][1] - want_slopes).abs().max())
    times, derivatives = found["checkpointed"]
    with torch.no_grad():
        ts = torch.linspace(0, END, 600, dtype=torch.float64)
        path = simulate(p, ts, "checkpointed").ys[:, 0]
    save(draw(ts, path, times, derivatives, want_slopes, list(p)), job.picture("bounces.png"))
    return [
        Row("tenth collision time", float(times[-1]), "s", bound=float(want[-1])),
        Row("ten collision times: largest error", float((times - want).abs().max()), "s", bound=0.0),
        *(
            Row(f"dT10/d {name}", float(got), bound=float(true), note="gradient='checkpointed'")
            for name, got, true in zip(p, derivatives[-1], want_slopes[-1], strict=True)
        ),
        *(Row(f"all 60 derivatives, {gradient}: largest error", miss, bound=0.0) for gradient, miss in misses.items()),
    ]


# ---- pictures -----------------------------------------------------------------------------------------------------
def draw(ts: Tensor, path: Tensor, times: Tensor, found: Tensor, want: Tensor, names: list[str]) -> Figure:
    """The flight; how every collision time moves with every parameter."""
    figure, grid = panels(1, 2, (5.2, 3.2))
    flight, lines = grid[0]
    flight.plot(ts, path, color=INK, lw=1.4)
    flight.plot(times, torch.full_like(times, 0.2), "o", color=COLOURS[1], ms=4)
    flight.set(xlabel="t, s", ylabel="height, m")
    title(flight, "events where the ball meets the floor")
    n = range(1, BOUNCES + 1)
    for k, name in enumerate(names):
        lines.plot(n, want[:, k], color=COLOURS[k], lw=1.2)
        lines.plot(n, found[:, k], "o", color=COLOURS[k], ms=4, label=name)
    lines.axhline(0, color=PALE, lw=0.8)
    lines.set(xlabel="n-th collision", ylabel="dT$_n$/dp", yscale="symlog", xticks=[1, 4, 7, 10])
    lines.legend(frameon=False, fontsize=9, ncols=2)
    title(lines, "its derivatives: dots ours, lines exact")
    return figure


EXPERIMENT = Experiment(
    title="a bouncing ball: collision times and their gradients",
    source="Chen, Amos & Nickel (2021); torchdiffeq's bouncing_ball example",
    run=run,
)
