"""Claims made about neural ODEs, measured again.

Memory. "O(1)": one field of convolutions, on one batch, solved at tighter and tighter tolerances, and the peak of a
forward and a backward against the evaluations. So did a replication (Leonardo, re-augmented-neural-odes, 2026): 0.0007
MB for each further evaluation with the adjoint, 31.8 MB without. Theirs are megabytes of a GPU for larger images; ours
are counts of bytes. What is to be compared is that one grows and the other does not.

Evaluations. "Backward takes half": counts of both ways for several fields, in `ode-net-solver` for images. "They grow
in training": a field in the plane that is to tell a disc from a ring around it, which no flow of the plane can (Dupont
2019), looked at on the same points at one tolerance.

Reconstruction. Beside every such number: does y come back when integrated from 0 to T and from T to 0? Where it does
not, the solver is no longer computing the flow of an ODE, and the adjoint, which relies on it, is off.

Numerical error. The article that this project began with, and many after it, say that backpropagation through the
solver has "numerical error" and that the adjoint avoids it. It is the other way round. Backpropagation is the
derivative of what was computed, to rounding: finite differences agree. The adjoint, solved with steps of h, is off by
as much as the solver is: O(h^p), p its order. Here p is measured for methods of order 1 to 4; Heun's, of order 2, is
one power better than it must.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor, nn
from torch.nn import functional

from isocline import audit
from isocline.experiments.lab import Experiment, Job, Kept, Row, train
from isocline.experiments.lab.image_nets import ConvField
from isocline.experiments.lab.live_bytes import peak_bytes
from isocline.experiments.lab.pictures import COLOURS, INK, MUTED, panels, save, title
from isocline.gradients import Backsolve, Checkpointed, Gradient, GradientError
from isocline.nn import MLP, NeuralODE
from isocline.solve import solve

F64 = torch.float64
UNCHECKED, FAR = Backsolve(check="off"), 1e2
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "heun3": 3, "rk4": 4}


def run(job: Job) -> list[Row]:
    """All four, and a picture of them."""
    used, fields = (
        {name: found for name, found in job.cell(key, make).items() if name != "seconds"}
        for key, make in (
            ("memory", lambda: memory(job.quick)),
            ("fields", lambda: {name: both_ways(*made, job.quick) for name, made in systems().items()}),
        )
    )
    orders = job.cell("orders", order_of_the_adjoint)
    grown, back = growth(job)
    save(draw(used, fields, grown, orders), job.picture("claims.png"))
    return [*memory_rows(used), *field_rows(fields), *growth_rows(grown, back), *order_rows(orders)]


# ---- memory -------------------------------------------------------------------------------------------------------
def memory(quick: bool) -> dict[str, list[list[float]]]:
    """[evaluations forward, peak MB] by tolerance, for three gradients."""
    torch.manual_seed(0)
    channels, images = (8, 2) if quick else (64, 32)
    field = ConvField(channels)
    y0 = torch.randn(images, channels, 6, 6)
    ways: dict[str, Gradient | str] = {
        "backprop": "backprop",
        "checkpointed": Checkpointed(graphs=0),
        "adjoint": UNCHECKED,
    }
    out: dict[str, list[list[float]]] = {name: [] for name in ways}
    for tolerance in (1e-2, 1e-3, 1e-4) if quick else (1e-2, 1e-3, 1e-4, 1e-5):
        for name, way in ways.items():
            block = NeuralODE(field, returns="end", solver="dopri5", rtol=tolerance, atol=tolerance, gradient=way)
            peak = peak_bytes(lambda block=block: block(y0).square().mean())
            out[name].append([block.stats.evaluations, peak / 1e6])
    return out


def memory_rows(used: dict[str, list[list[float]]]) -> list[Row]:
    """The slopes."""
    published = {"backprop": 31.8, "adjoint": 0.0007}
    out = []
    for name, pairs in used.items():
        (first, low), (last, high) = pairs[0], pairs[-1]
        note = f"peak {low:.2f} MB at {first:.0f} evaluations, {high:.2f} MB at {last:.0f}"
        if name in published:
            note += "; published for larger images on a GPU, by a replication: 442 MB flat and 689 to 3185 MB"
        each = slope(pairs)
        out.append(Row(f"{name}: memory for one more evaluation", each, "MB", published=published.get(name), note=note))
    return out


def slope(pairs: list[list[float]]) -> float:
    """Of the line of least squares."""
    x, y = torch.tensor(pairs, dtype=F64).T
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


# ---- evaluations and reconstruction -------------------------------------------------------------------------------
def systems() -> dict[str, tuple[Any, Tensor, float]]:
    """name -> (field, y0, T): from one that runs backwards well to ones that do not."""
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(32, 2, generator=generator, dtype=F64)
    torch.manual_seed(0)
    convolutions = ConvField(8).double()
    smooth = ConvField(8, functional.softplus).double()
    smooth.load_state_dict(convolutions.state_dict())
    images = torch.randn(4, 8, 6, 6, generator=generator, dtype=F64)
    return {
        "network, 2-32-2": (MLP((2, 32, 2), dtype=F64), plane, 2.0),
        "convolutions, ReLU": (convolutions, images, 1.0),
        "convolutions, softplus": (smooth, images, 1.0),
        "contracting network": (Pulled(4.0), plane, 2.0),
        "strongly contracting network": (Pulled(12.0), plane, 2.0),
    }


class Pulled(nn.Module):
    """dy/dt = MLP(y) − rate · y: contracts on the way forward, and so expands on the way back."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.inner = rate, MLP((2, 32, 2), dtype=F64)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        return self.inner(t, y) - self.rate * y


def both_ways(field: nn.Module, y0: Tensor, end: float, quick: bool) -> list[dict[str, Any]]:
    """At each tolerance: evaluations forward and backward, reconstruction, distance of the gradient, refused or not."""
    out = []
    for tolerance in (1e-2, 1e-3, 1e-4) if quick else (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        options = {"solver": "dopri5", "rtol": tolerance, "atol": tolerance}
        exact, _ = gradient(field, y0, end, gradient="backprop", **options)
        line: dict[str, Any] = {
            "tolerance": tolerance,
            "reconstruction": audit.reconstruction(field, y0, (0.0, end), **options),
            "refused": False,
        }
        found, line["counts"] = gradient(field, y0, end, gradient=UNCHECKED, **options)
        line["off"] = float((found - exact).norm() / exact.norm())
        try:
            with warnings.catch_warnings(action="ignore"):  # near misses
                gradient(field, y0, end, gradient=Backsolve(check="raise"), **options)
        except GradientError:
            line["refused"] = True
        out.append(line)
    return out


def gradient(field: nn.Module, y0: Tensor, end: float, **options: Any) -> tuple[Tensor, list[int]]:
    """Of the mean square of y(T) by all parameters; evaluations forward and backward."""
    field.zero_grad()
    solution = solve(field, y0, (0.0, end), **options)
    solution.ys[-1].square().mean().backward()
    counts = [solution.stats.evaluations, solution.stats.evaluations_backward]
    return torch.cat([p.grad.flatten() for p in field.parameters() if p.grad is not None]), counts


def field_rows(fields: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """At 1e-3, the tolerance of the paper."""
    out = []
    for name, lines in fields.items():
        at = next(one for one in lines if one["tolerance"] == 1e-3)
        forward, back = at["counts"]
        note = (
            f"{back} and {forward} evaluations at 1e-3; y comes back to {at['reconstruction']:.1e}, the gradient is "
            f"{at['off']:.1e} from backpropagation's" + ("; `Backsolve` refuses it" if at["refused"] else "")
        )
        out.append(Row(f"{name}: backward to forward", back / forward, published=0.5, note=note))
    every = [one for lines in fields.values() for one in lines]
    wrong = [one for one in every if one["off"] > 0.1]
    note = f"of {len(wrong)}, in {len(every)} cases; those of ReLU are off because the way back jumps where a ReLU switches"
    out.append(Row("gradients more than 10 % off, not refused", sum(not one["refused"] for one in wrong), note=note))
    right = sum(one["refused"] for one in every if one["off"] < 0.01)
    out.append(Row("gradients less than 1 % off, refused", right, note="a y that does not come back need not matter"))
    return out


# ---- growth in training -------------------------------------------------------------------------------------------
def growth(job: Job) -> tuple[list[list[float]], float]:
    """[iteration, evaluations, loss] on the way, and the reconstruction error at the end: a disc and a ring around it."""
    iterations, every = (60, 10) if job.quick else (1500, 25)
    torch.manual_seed(job.draw_seed("weights"))
    options = {"solver": "dopri5", "rtol": 1e-3, "atol": 1e-3}
    flow = NeuralODE(MLP((2, 32, 32, 2), "softplus", seed=job.seed), returns="end", **options)
    readout = nn.Linear(2, 1)
    both = nn.ModuleList([flow, readout])
    optimizer = torch.optim.Adam(both.parameters(), lr=5e-3)
    looks = Kept()
    fixed, _ = disc_and_ring(256, torch.Generator().manual_seed(job.draw_seed("fixed")))

    def step(i: int) -> Tensor:
        x, inside = disc_and_ring(128)
        return functional.binary_cross_entropy_with_logits(readout(flow(x))[:, 0], inside)

    def look(i: int, loss: float) -> None:
        if (i + 1) % every == 0:
            with torch.no_grad():
                flow(fixed)
            looks.append([i + 1, flow.stats.evaluations, loss])

    look(-1, math.log(2))
    train(job, "growth", {"model": both, "optimizer": optimizer, "looks": looks}, iterations, step, look=look)
    return list(looks), audit.reconstruction(flow, fixed, (0.0, 1.0))


def disc_and_ring(count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Points (count, 2), half within 0.5, half between 1 and 1.5, and 1.0 for those inside."""
    inside = (torch.arange(count) % 2).float()
    share = torch.rand(count, generator=generator)
    radius = torch.where(inside.bool(), 0.5 * share.sqrt(), (1 + 1.25 * share).sqrt())
    angle = 2 * math.pi * torch.rand(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), inside


def growth_rows(looks: list[list[float]], back: float) -> list[Row]:
    """How many times as many, and whether they mean anything."""
    (_, first, _), (iteration, last, loss) = looks[0], looks[-1]
    note = (
        f"{first:.0f} to {last:.0f} evaluations at 1e-3 in {iteration:.0f} iterations, loss {loss:.2g}; published for an image "
        f"model: 384 to 738 at 1e-7 in six epochs"
    )
    return [
        Row("growth of evaluations in training", last / first, published=738 / 384, note=note),
        Row(
            "reconstruction error of y after that training",
            back,
            note="relative, at the tolerance of the training, 1e-3",
        ),
    ]


# ---- numerical error ----------------------------------------------------------------------------------------------
def order_of_the_adjoint() -> dict[str, Any]:
    """[h, distance of the adjoint's gradient from the exact one] by solver, and that of the exact one from differences."""
    field, end = MLP((2, 16, 2), dtype=F64), 2.0
    y0 = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    out: dict[str, Any] = {}
    for solver in ORDERS:
        out[solver] = []
        for steps in (16, 32, 64, 128):
            options = {"solver": solver, "step": end / steps}
            exact, _ = gradient(field, y0, end, gradient="backprop", **options)
            found, _ = gradient(field, y0, end, gradient=UNCHECKED, **options)
            out[solver].append([end / steps, float((found - exact).norm() / exact.norm())])
    out["differences"] = differences(field, y0, end)
    return out


def differences(field: nn.Module, y0: Tensor, end: float) -> float:
    """Backpropagation through 16 steps of Euler's method against central differences of the same loss, along the gradient."""
    options = {"solver": "euler", "step": end / 16}
    exact, _ = gradient(field, y0, end, gradient="backprop", **options)
    parameters = list(field.parameters())
    start = nn.utils.parameters_to_vector(parameters).detach()
    direction, h = exact / exact.norm(), 1e-5
    losses = []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            nn.utils.vector_to_parameters(start + sign * h * direction, parameters)
            losses.append(float(solve(field, y0, (0.0, end), **options).ys[-1].square().mean()))
        nn.utils.vector_to_parameters(start, parameters)
    return abs((losses[0] - losses[1]) / (2 * h) / float(exact.norm()) - 1)


def order_rows(orders: dict[str, Any]) -> list[Row]:
    """Slopes in logarithms, between the two smallest steps."""
    note = "16 steps of Euler's method, along the gradient: nothing but rounding"
    out = [Row("backprop: distance from differences of the computed loss", orders["differences"], bound=0.0, note=note)]
    for solver, order in ORDERS.items():
        pairs = orders[solver]
        (h0, e0), (h1, e1) = pairs[-2:]
        note = "at least; " if solver == "heun" else ""
        note += "distance from the exact gradient: " + ", ".join(f"{e:.1e} at h = {h:.3g}" for h, e in pairs)
        found = math.log(e0 / e1) / math.log(h0 / h1)
        out.append(Row(f"{solver}: order of the adjoint's error", found, bound=order, note=note))
    return out


# ---- pictures -----------------------------------------------------------------------------------------------------
def draw(used: dict[str, Any], fields: dict[str, Any], grown: list[list[float]], orders: dict[str, Any]) -> Figure:
    """A claim a panel."""
    figure, ((store, trust), (growth, order)) = panels(2, 2, (4.4, 3.4))
    for (name, pairs), colour in zip(used.items(), COLOURS, strict=False):
        store.plot(*zip(*pairs, strict=True), color=colour, marker="o", ms=4, label=name)
    store.set(xlabel="evaluations forward", ylim=(0, None))
    store.legend(frameon=False, fontsize=9, labelcolor=INK)
    title(store, "memory of a gradient, MB")
    for (name, lines), colour in zip(fields.items(), COLOURS, strict=False):
        back, off = [min(one["reconstruction"], FAR) for one in lines], [one["off"] for one in lines]
        trust.plot(back, off, color=colour, lw=0.7, alpha=0.6)
        for x, y, one in zip(back, off, lines, strict=True):
            trust.plot(x, y, marker="x" if one["refused"] else "o", ms=5, color=colour)
        trust.plot([], [], color=colour, marker="o", ms=5, label=name)
    trust.plot([], [], color=MUTED, marker="x", ls="", ms=5, label="refused")
    trust.set(xscale="log", yscale="log", xlabel="y missed by, after 0 → T → 0 (at the edge: more)")
    trust.legend(frameon=False, fontsize=8, labelcolor=INK)
    title(trust, "adjoint's gradient: relative error")
    growth.plot([one[0] for one in grown], [one[1] for one in grown], color=COLOURS[0])
    growth.set(xlabel="iteration", ylim=(0, None))
    title(growth, "evaluations in training, disc and ring")
    for (solver, expected), colour in zip(ORDERS.items(), COLOURS, strict=False):
        order.plot(
            *zip(*orders[solver], strict=True), color=colour, marker="o", ms=4, label=f"{solver}, order {expected}"
        )
    order.axhline(orders["differences"], color=MUTED, lw=0.8, ls=(0, (4, 3)))
    order.annotate(
        "backprop against differences", (1.0, orders["differences"]), (-4, 4), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", fontsize=8, color=MUTED,
    )  # fmt: skip
    order.set(xscale="log", yscale="log", xlabel="h", ylim=(1e-16, 1.0))
    order.set_xticks([h for h, _ in orders["euler"]], [f"1/{1 / h:.0f}" for h, _ in orders["euler"]])
    order.xaxis.set_minor_formatter(NullFormatter())
    order.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right", ncols=2)
    title(order, "adjoint's gradient: relative error")
    return figure


EXPERIMENT = Experiment(
    title="claims about neural ODEs, measured again",
    source="Chen et al. (2018), section 3; Cheung (2020); Leonardo (2026)",
    run=run,
)
