"""Draws the figures of adjoint.md from real solves: `python docs/learn/figures.py [FOLDER]`."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import torch
from from_scratch import NeuralODE, augmented, euler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import isocline as ic

INK, MUTED, BLUE, RED, VIOLET = "#20242a", "#686d75", "#1b5e9b", "#bf4a1e", "#87699f"
STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "isocline",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "text.color": INK,
    "axes.labelcolor": INK,
}
TIMES = torch.tensor([0.1, 0.9, 1.6], dtype=torch.float64)
WEIGHTS = torch.tensor([[0.7], [-1.1], [0.9]], dtype=torch.float64)
START = torch.tensor([0.5], dtype=torch.float64)
TIGHT = {"solver": "dopri8", "rtol": 1e-11, "atol": 1e-12}


class Field(torch.nn.Module):
    """The equation of the page."""

    def __init__(self, theta: float = 0.3) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.sin(t) * z + self.theta * z**2


def slopes(axes: Axes, h_max: float) -> None:
    """Euler's polygon, the slope it followed at each step, and the solution it leaves."""
    f, (t0, t1) = Field(), (TIMES[0], TIMES[-1])
    fine = torch.linspace(float(t0), float(t1), 100, dtype=torch.float64)
    exact = ic.solve(f, START, fine, **TIGHT).ys.detach()
    axes.plot(fine, exact, color=MUTED, lw=1.5, label="solution")
    count = round(float(t1 - t0) / h_max)
    ts = torch.linspace(float(t0), float(t1), count + 1, dtype=torch.float64)
    path = [START]
    for a, b in pairwise(ts):
        path += euler(lambda t, state: [f(t, state[0])], [path[-1]], a, b, h_max=float("inf"))
    zs = torch.stack(path).detach()
    axes.plot(ts, zs, "o-", color=BLUE, lw=1, ms=3, label=f"Euler, {count} steps")
    for t, z in zip(ts[:-1], zs[:-1], strict=True):
        reach, slope = 0.12, f(t, z).item()
        x, y = [float(t) - reach, float(t) + reach], [z.item() - reach * slope, z.item() + reach * slope]
        axes.plot(x, y, color=RED, lw=0.8)
    axes.set(xlabel="t", ylabel="z")
    axes.legend(frameon=False)


def chain(axes: Axes, shared: bool) -> None:
    """The computation as a chain: one θ for all steps, or a θ that is handed on as part of the state."""
    columns = range(4)
    box = {"boxstyle": "circle,pad=0.3", "fc": "white", "ec": INK, "lw": 0.8}

    def arrow(start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
        style = {"arrowstyle": "->", "color": colour, "lw": 0.9, "shrinkA": 13, "shrinkB": 13}
        axes.annotate("", xy=end, xytext=start, arrowprops=style)

    for i in columns:
        axes.text(i, 1, f"$z_{i}$", ha="center", va="center", bbox=box)
        axes.text(i, 2, f"$L_{i}$", ha="center", va="center", color=RED)
        arrow((i, 1), (i, 2), RED)
        if i:
            arrow((i - 1, 1), (i, 1))
        if not shared:
            axes.text(i, 0, f"$θ_{i}$", ha="center", va="center", bbox=box | {"ec": BLUE}, color=BLUE)
            if i:
                arrow((i - 1, 0), (i, 0), BLUE)
                arrow((i - 1, 0), (i, 1), BLUE)
    if shared:
        axes.text(1.5, 0, "$θ$", ha="center", va="center", bbox=box | {"ec": BLUE}, color=BLUE)
        for i in columns[1:]:
            arrow((1.5, 0), (i, 1), BLUE)
    axes.set(xlim=(-0.5, 3.5), ylim=(-0.5, 2.4))
    axes.set_title("one θ for all steps" if shared else "θ as a state: dθ/dt = 0", fontsize=9)
    axes.set_axis_off()


def errors(axes: Axes) -> None:
    """Distance of both gradients from the exact one, and from each other."""
    f, ends = Field(), TIMES[[0, 2]]
    start = START.clone().requires_grad_()
    exact = torch.autograd.grad(ic.solve(f, start, ends, **TIGHT).ys[-1].sum(), start)[0].item()
    steps = [0.1, 0.05, 0.025, 0.0125, 0.00625]
    back, adjoint = [], []
    for h in steps:
        end = euler(lambda t, state: [f(t, state[0])], [start], ends[0], ends[1], h)[0]
        back.append(torch.autograd.grad(end.sum(), start)[0].item())
        adjoint.append(torch.autograd.grad(NeuralODE(f, h)(start, ends)[-1].sum(), start)[0].item())
    pairs = zip(back, adjoint, strict=True)
    axes.loglog(steps, [abs(b / exact - 1) for b in back], "o-", color=BLUE, ms=3, label="backpropagation − exact")
    axes.loglog(steps, [abs(a / exact - 1) for a in adjoint], "s-", color=VIOLET, ms=3, label="adjoint − exact")
    axes.loglog(steps, [abs(a / b - 1) for b, a in pairs], "^-", color=RED, ms=3, label="adjoint − backpropagation")
    axes.set(xlabel="h, Euler", ylabel="relative distance of $dL/dz_0$")
    axes.legend(frameon=False)


def backwards(upper: Axes, lower: Axes) -> None:
    """a and a_θ from t_2 back to t_0, and what they mean, by finite differences."""
    f = Field()
    path = ic.solve(f, START, TIMES, **TIGHT).ys.detach()
    zero = torch.zeros((), dtype=torch.float64)
    a, a_theta = torch.zeros(1, dtype=torch.float64), zero
    for i in (2, 1):
        upper.plot(
            [TIMES[i]] * 2, [a.item(), (a + WEIGHTS[i]).item()], color=RED, lw=1.2, label=_once(i == 2, "jump $g_i$")
        )
        ts = torch.linspace(float(TIMES[i]), float(TIMES[i - 1]), 60, dtype=torch.float64)
        state = [path[i], a + WEIGHTS[i], zero, a_theta]
        with torch.no_grad():
            _, all_a, _, all_theta = ic.solve(augmented(f, [f.theta]), state, ts, **TIGHT).ys
        upper.plot(ts, all_a, color=BLUE, lw=1.5, label=_once(i == 2, "a(t)"))
        lower.plot(ts, all_theta, color=BLUE, lw=1.5, label=_once(i == 2, "$a_θ(t)$"))
        a, a_theta = all_a[-1], all_theta[-1]
    at = torch.linspace(0.1, 1.6, 9, dtype=torch.float64)
    pushed = [(_loss(t, push=1e-5) - _loss(t, push=-1e-5)) / 2e-5 for t in at.tolist()]
    changed = [(_loss(t, theta=1e-5) - _loss(t, theta=-1e-5)) / 2e-5 for t in at.tolist()]
    upper.plot(at, pushed, "o", color=INK, ms=3.5, mfc="none", label="change of L when z is pushed just after t")
    lower.plot(at, changed, "o", color=INK, ms=3.5, mfc="none", label="change of L when θ changes from t on")
    for axes, name in ((upper, "$a$"), (lower, "$a_θ$")):
        axes.set(ylabel=name)
        axes.legend(frameon=False)
    lower.set(xlabel="t")


def _once(first: bool, label: str) -> str:
    return label if first else "_"


def _loss(t: float, push: float = 0.0, theta: float = 0.0) -> float:
    """L without the observation at t_0, of a solution that is pushed, or gets another θ, at time t."""
    stops = sorted({*TIMES.tolist(), t})
    z, total = START, 0.0
    for i, stop in enumerate(stops):
        if i:
            field = Field(0.3 + (theta if stops[i - 1] >= t else 0.0))
            z = ic.solve(field, z, [stops[i - 1], stop], **TIGHT).ys[-1].detach()
        if i and stop in TIMES.tolist():
            total += WEIGHTS[TIMES.tolist().index(stop)].item() * z.item()
        z = z + push if stop == t else z
    return total


def draw(folder: Path) -> list[Path]:
    """Writes the figures as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    with matplotlib.rc_context(STYLE):
        figures["slopes"] = Figure((6.4, 2.8), layout="constrained")
        slopes(figures["slopes"].subplots(), 0.25)
        figures["chains"] = Figure((6.4, 2.2), layout="constrained")
        left, right = figures["chains"].subplots(1, 2)
        chain(left, shared=True)
        chain(right, shared=False)
        figures["errors"] = Figure((6.4, 3.0), layout="constrained")
        errors(figures["errors"].subplots())
        figures["backwards"] = Figure((6.4, 4.4), layout="constrained")
        backwards(*figures["backwards"].subplots(2, 1, sharex=True))
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return [folder / f"{name}.svg" for name in figures]


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures"):
        print(path)
