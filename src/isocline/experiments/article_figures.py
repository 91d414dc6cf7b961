"""The article's figures, each drawn from a real solve, with the number that shows it is right.

Figures 1 and 7 are animations of trainings: `isocline reproduce spiral` and `linear-spiral`. The others are here:

2. Euler's polygon on x″ = -x: the slope at every step, beside the closed form cos t. Number: Euler's order, from its error
   at the end with one step and with half of it.
3. A path of dz/dt = A z and what it is compared with: L = ½ Σ |z(t_i) - y_i|², the length of every line being a part of it.
4. The same path as the computation it is, z_{n+1} = z_n + h A z_n, one A for all steps. The arrows from A are as wide as what
   the step through them adds to dL/dA.
5. The chain with A as a state, A_{n+1} = A_n: the derivative with respect to A_n is what all later steps add, and at the end
   it is nothing. Number: the sum over all steps beside dL/dA of the whole, which must be the same.
6. a_A(t) = dL/dA acting from t on, solved backwards from zero with the adjoint, beside differences of L where A is changed
   from t on and not before. Number: the largest difference between the two.

Published: pictures alone (the article counts 4 and 5 twice).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from isocline.experiments.lab import Experiment, Job, Row
from isocline.experiments.lab.pictures import COLOURS, INK, MUTED, PALE, panels, save, title
from isocline.solve import solve

F64 = torch.float64
TIGHT: dict[str, Any] = {"solver": "dopri8", "rtol": 1e-13, "atol": 1e-14}
TRUE = torch.tensor([[-0.1, -1.0], [1.0, -0.1]], dtype=F64)
GUESS = torch.tensor([[-0.22, -0.95], [0.95, -0.22]], dtype=F64)  # of a training on its way
START = torch.tensor([0.6, 0.3], dtype=F64)
SEEN = torch.linspace(0.0, 4.0, 9, dtype=F64)  # times of observations
STEPS = 16  # of Euler's method, two between observations


def run(job: Job) -> list[Row]:
    """Draws figures 2 to 6."""
    observed = solve(field(TRUE), START, SEEN, **TIGHT).ys
    order = euler_order(job)
    losses(job, observed)
    parts, whole = contributions(observed)
    chains(job, parts)
    apart = meaning(job, observed, quick=job.quick)
    difference = float((parts.sum(0) - whole).norm() / whole.norm())
    return [
        Row("figure 2: order of Euler's method, measured", order, bound=1.0),
        Row(
            "figure 5: |sum over steps - dL/dA| / |dL/dA|",
            difference,
            bound=0.0,
            note="the same sum, rounded differently",
        ),
        Row("figure 6: largest |a_A(t) - difference of L| / |a_A(t_0)|", apart, bound=0.0),
    ]


def field(A: Tensor) -> Any:
    """dz/dt = A z, z a row."""
    return lambda t, z: z @ A.T


def euler_order(job: Job) -> float:
    """Figure 2, and the slope of the error between one step and its half."""

    def oscillator(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[1], -y[0]])

    start, end = torch.tensor([1.0, 0.0], dtype=F64), 4.0

    def polygon(count: int) -> tuple[Tensor, Tensor]:
        ts = torch.linspace(0.0, end, count + 1, dtype=F64)
        return ts, solve(oscillator, start, ts, solver="euler", step=end / count).ys

    figure, ((axes,),) = panels(1, 1, (5.4, 3.0))
    fine = torch.linspace(0.0, end, 200, dtype=F64)
    axes.plot(fine, fine.cos(), color=MUTED, lw=1.5, label="cos t")
    ts, ys = polygon(10)
    axes.plot(ts, ys[:, 0], "o-", color=COLOURS[0], lw=1.2, ms=4, label="Euler, h = 0.4")
    for t, y in zip(ts[:-1], ys[:-1], strict=True):
        reach = torch.tensor([-0.13, 0.13], dtype=F64)
        axes.plot(t + reach, y[0] + reach * y[1], color=COLOURS[1], lw=1.2)
    axes.plot([], [], color=COLOURS[1], lw=1.2, label="slope f(t, z)")
    axes.set(xlabel="t", ylabel="x")
    axes.legend(frameon=False, fontsize=9)
    title(axes, "Figure 2: a step follows the slope where it starts")
    save(figure, job.picture("2-slopes.png"))
    errors = [float(abs(polygon(count)[1][-1, 0] - math.cos(end))) for count in (640, 1280)]
    return math.log2(errors[0] / errors[1])


def losses(job: Job, observed: Tensor) -> None:
    """Figure 3."""
    fine = torch.linspace(0.0, float(SEEN[-1]), 200, dtype=F64)
    path, at = (solve(field(GUESS), START, ts, **TIGHT).ys for ts in (fine, SEEN))
    parts = 0.5 * (at - observed).square().sum(-1)
    figure, ((axes,),) = panels(1, 1, (5.0, 4.2))
    axes.plot(*path.T, color=COLOURS[0], lw=1.6, label="z(t)")
    for i, (z, y) in enumerate(zip(at, observed, strict=True)):
        axes.plot([z[0], y[0]], [z[1], y[1]], color=COLOURS[1], lw=1.2)
        if i in (3, 5, 7):
            text = f"$L_{i}$ = {parts[i]:.3f}"
            axes.annotate(text, y.tolist(), (-8, 2), textcoords="offset points", ha="right", fontsize=9, color=MUTED)
    axes.set_xlim(-0.85, 0.7)
    axes.plot(*observed.T, "o", color=COLOURS[1], ms=5, label="observed")
    axes.plot(*at.T, "o", color=COLOURS[0], ms=4)
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=9)
    title(axes, f"Figure 3: L = {parts.sum():.3f}, a part at every observation")
    save(figure, job.picture("3-loss.png"))


def euler_path(matrices: list[Tensor], observed: Tensor) -> tuple[list[Tensor], Tensor]:
    """Euler's states with a matrix of its own for every step, and the loss."""
    h, every = float(SEEN[-1]) / STEPS, STEPS // (len(SEEN) - 1)
    states = [START]
    for A in matrices:
        states.append(states[-1] + h * states[-1] @ A.T)
    return states, 0.5 * (torch.stack(states[::every]) - observed).square().sum()


def contributions(observed: Tensor) -> tuple[Tensor, Tensor]:
    """What every step adds to dL/dA (STEPS, 2, 2), and dL/dA with one A for all (2, 2)."""
    copies = [GUESS.clone().requires_grad_() for _ in range(STEPS)]
    parts = torch.stack(torch.autograd.grad(euler_path(copies, observed)[1], copies))
    one = GUESS.clone().requires_grad_()
    return parts, torch.autograd.grad(euler_path([one] * STEPS, observed)[1], one)[0]


def chains(job: Job, parts: Tensor) -> None:
    """Figures 4 and 5, at the places where Euler's steps are."""
    states = torch.stack(euler_path([GUESS] * STEPS, torch.zeros(len(SEEN), 2, dtype=F64))[0])
    size = parts.flatten(1).norm(dim=1)
    width = 0.4 + 4.0 * size / size.max()
    figure, ((left, right),) = panels(1, 2, (4.6, 4.2))
    for axes in (left, right):
        axes.set_axis_off()
        axes.set_aspect("equal")
        for a, b in pairwise(states.tolist()):
            arrow(axes, a, b, INK, 1.0)
        axes.plot(*states.T, "o", color=INK, ms=4.5, zorder=4)
    centre = states.mean(0)
    for i, w in enumerate(width.tolist()):
        arrow(left, centre.tolist(), ((states[i] + states[i + 1]) / 2).tolist(), COLOURS[0], w, head=False)
    box = {"boxstyle": "circle,pad=0.35", "fc": "white", "ec": COLOURS[0], "lw": 1.4}
    left.text(*centre.tolist(), "A", ha="center", va="center", color=COLOURS[0], fontsize=12, bbox=box, zorder=6)
    title(left, "Figure 4: one A for all steps\n(widths: what each adds to dL/dA)")
    outer = centre + 1.38 * (states - centre)
    for i in range(STEPS):
        arrow(right, outer[i].tolist(), outer[i + 1].tolist(), COLOURS[0], 1.0)
        arrow(right, outer[i].tolist(), ((states[i] + states[i + 1]) / 2).tolist(), PALE, 0.8, head=False)
    later = torch.cat([parts.flip(0).cumsum(0).flip(0), torch.zeros(1, 2, 2, dtype=F64)]).flatten(1).norm(dim=1)
    right.scatter(*outer.T, s=14 + 150 * (later / later.max()).numpy(), color=COLOURS[0], zorder=5, linewidths=0)
    title(right, "Figure 5: A as a state, A′ = 0\n(areas: dL/dA from there on; none at the end)")
    save(figure, job.picture("4-5-chains.png"))


def arrow(axes: Axes, start: list[float], end: list[float], colour: str, width: float, head: bool = True) -> None:
    """From one place to another."""
    style = {"arrowstyle": "-|>" if head else "-", "color": colour, "lw": width, "shrinkA": 3, "shrinkB": 4}
    axes.annotate("", xy=(end[0], end[1]), xytext=(start[0], start[1]), arrowprops=style)


def meaning(job: Job, observed: Tensor, quick: bool) -> float:
    """Figure 6; the largest difference between a_A by the adjoint and by changing A from t on."""
    end = solve(field(GUESS), START, SEEN, **TIGHT).ys

    def flow(t: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """z' = A z, a' = -Aᵀ a, a_A' = -a zᵀ, to be solved backwards, with a jump z(t_i) - y_i at every observation."""
        z, a, _ = state
        return z @ GUESS.T, -a @ GUESS, -torch.outer(a, z)

    a, a_theta = torch.zeros(2, dtype=F64), torch.zeros(2, 2, dtype=F64)
    times, adjoints = [], []
    for i in range(len(SEEN) - 1, 0, -1):
        inner = torch.linspace(float(SEEN[i]), float(SEEN[i - 1]), 9, dtype=F64)
        _, all_a, all_theta = solve(flow, (end[i], a + end[i] - observed[i], a_theta), inner, **TIGHT).ys
        times.append(inner)
        adjoints.append(all_theta)
        a, a_theta = all_a[-1], all_theta[-1]
    ts, found = torch.cat(times), torch.cat(adjoints)

    at = SEEN[:-1] if quick else torch.cat([SEEN[:-1], SEEN[:-1] + 0.25]).sort().values
    changed = torch.stack([differences(float(t), observed) for t in at])
    figure, ((axes,),) = panels(1, 1, (5.4, 3.2))
    for k in range(4):
        row, column = divmod(k, 2)
        axes.plot(ts, found[:, row, column], color=COLOURS[k], lw=1.5)
        axes.plot(at, changed[:, row, column], "o", color=COLOURS[k], ms=4.5, mfc="none")
        axes.annotate(
            f"$A_{{{row + 1}{column + 1}}}$", (0.0, float(found[-1, row, column])), (-6, 0), textcoords="offset points",
            ha="right", va="center", fontsize=9, color=COLOURS[k],
        )  # fmt: skip
    axes.plot([], [], color=INK, label="$a_A(t)$ by the adjoint")
    axes.plot([], [], "o", color=INK, mfc="none", ms=4.5, label="change of L, A changed from t on")
    axes.set(xlabel="t", xlim=(-0.35, 4.1))
    axes.legend(frameon=False, fontsize=9)
    title(axes, "Figure 6: what acts from t on; at the end nothing is left")
    save(figure, job.picture("6-meaning.png"))
    by_adjoint = torch.stack([found[(ts - t).abs().argmin()] for t in at])
    return float((by_adjoint - changed).abs().max() / found[-1].abs().max())


def differences(t: float, observed: Tensor, eps: float = 1e-4) -> Tensor:
    """(2, 2): central differences of L where an entry of A is changed from t on."""
    before = SEEN[t - SEEN > 1e-12]
    stops = torch.cat([before, torch.tensor([t], dtype=F64)]) if len(before) else SEEN[:1]
    first = solve(field(GUESS), START, stops, **TIGHT).ys if len(stops) > 1 else START[None]
    kept = first[:-1] if len(before) else first[:0]
    rest = torch.cat([torch.tensor([t], dtype=F64), SEEN[SEEN - t > 1e-12]])
    seen_at_t = bool((SEEN - t).abs().min() < 1e-12)

    def loss(A: Tensor) -> Tensor:
        later = solve(field(A), first[-1], rest, **TIGHT).ys
        return 0.5 * (torch.cat([kept, later if seen_at_t else later[1:]]) - observed).square().sum()

    out = np.zeros((2, 2))
    for row in range(2):
        for column in range(2):
            change = torch.zeros(2, 2, dtype=F64)
            change[row, column] = eps
            out[row, column] = float(loss(GUESS + change) - loss(GUESS - change)) / (2 * eps)
    return torch.tensor(out)


EXPERIMENT = Experiment(
    title="the article's figures 2 to 6, drawn from real solves", source="Cheung (2020), figures", run=run
)
