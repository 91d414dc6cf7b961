"""What works with what, found out by trying: writes support.md beside itself. `python docs/support.py`."""

from __future__ import annotations

import warnings
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import torch

import isocline as ic
from isocline.gradients import Gradient
from isocline.solvers import Solver
from isocline.solvers.implicit import ImplicitRungeKutta, blocks
from isocline.solvers.partitioned import Partitioned
from isocline.solvers.rosenbrock import Rosenbrock

PAGE = Path(__file__).parent / "support.md"
F64 = torch.float64
# By order: so short that the way back of the 2018 adjoint finds y0 again, so long that its error shows.
STEPS = {1: 0.01, 2: 0.025, 3: 0.05, 4: 0.05, 5: 0.125, 6: 0.125}
EXACT, NEAR = 1e-12, 5e-2

HEAD = """# What works with what

Made by `docs/support.py`, which tries every pair on a small nonlinear system and compares the gradient with that of
plain backpropagation; a test keeps this page true. Not written by hand.

- **exact**: the derivative of the computed solution, to rounding. **continuous**: it differs from that by the solver's
  own error. A number refers to the reason, below, for which a pair is refused, by name, when it is asked for.
- Both batchings were tried; where they differ, the cell says so.
"""

METHODS = """## The solvers

- *order*: of the solution. *error*: the exponent of the step controller, the order of the error estimate plus one; 0:
  without an estimate, for fixed steps alone. *dense*: order of the interpolant between the ends of a step. *stages*:
  of a step, one that is shared with the next step included.
"""

FURTHER = """## Second derivatives, and the state between observations

Each gradient with a solver it takes: the first derivative; that of the squared norm of the first, by `create_graph=True`;
and that of a loss on `Solution.at`. All against plain backpropagation, in both batchings.
"""

SCIPY = """## SciPy's methods

`solvers.Scipy("LSODA")` and the five others choose their steps themselves, for states that share them. These steps are not
recorded: gradients need a continuous adjoint, with a solver of its own for the way back. Tried with `Scipy("DOP853")`.
"""


def kind(cls: Any) -> str:
    """Which family a solver is of."""
    if issubclass(cls, Partitioned):
        return "symplectic, for pairs (x, v)"
    if issubclass(cls, Rosenbrock):
        return "Rosenbrock"
    if issubclass(cls, ImplicitRungeKutta):
        together = max(len(block.a) for block in blocks(cls.tableau))
        return "implicit, stage by stage" if together == 1 else f"implicit, {together} stages together"
    if cls.remembers:
        return "with a memory"
    return "explicit"


@cache
def gradient(cls: Any, way_back: str, batching: str, what: str = "first") -> torch.Tensor:
    """Of a solve with three observations, one inside a step: with respect to y0 and a parameter.

    `what`: the "first" derivative; the "second", of the squared norm of the first; or the first of a loss on
    `Solution.at`, "between".
    """
    k = torch.tensor(1.7, dtype=F64, requires_grad=True)
    x = torch.tensor([[0.5, -0.3], [1.0, 0.2]], dtype=F64, requires_grad=True)
    if cls.wants_pair:
        field: Any = ic.second_order(lambda t, x, v: -k * torch.sin(x) + 0.3 * torch.cos(3 * t))
        y0: Any = (x, 0.4 * x.detach())
    else:
        field, y0 = lambda t, y: torch.sin(k * y.flip(-1)) + 0.3 * torch.cos(3 * t) * y, x
    options = {"solver": cls(), "step": STEPS.get(cls().order, 0.25), "gradient": way_back, "batching": batching}
    sol = ic.solve(field, y0, torch.tensor([0.0, 0.31, 0.5], dtype=F64), dense=what == "between", **options)
    ys = sol.at(torch.tensor([0.2, 0.4])) if what == "between" else sol.ys
    ys = ys[0] if cls.wants_pair else ys
    loss = (ys**2).sum() + ys[1].sum()
    if what == "second":
        loss = sum((g**2).sum() for g in torch.autograd.grad(loss, (x, k), create_graph=True))
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, (x, k))])


def outcome(cls: Any, way_back: str, batching: str, what: str = "first") -> tuple[str, str]:
    """What became of a try: "exact", "continuous" or "refused"; and the reason."""
    want = gradient(cls, "backprop", batching, what)
    try:
        got = gradient(cls, way_back, batching, what)
    except (ic.GradientError, ValueError) as error:
        name = next(name for name, solver in Solver.registry.items() if solver is cls)
        return "refused", str(error).replace(f"'{name}'", "it")
    gap = float((got - want).norm() / want.norm())
    if not gap <= NEAR:
        raise AssertionError(f"{cls.__name__} with {way_back}, {batching}: off by {gap:.1g} of the gradient")
    return ("exact" if gap <= EXACT else "continuous"), ""


def further() -> list[str]:
    """The table of what else each gradient has, on a solver it takes."""
    lines = ["| gradient | with | derivative | second derivatives | through `Solution.at` |", f"|{'---|' * 5}"]
    for method in sorted(Gradient.registry):
        name = "reversible" if method == "reversible_adjoint" else "tsit5"
        cells = []
        for what in ("first", "second", "between"):
            found = {outcome(Solver.registry[name], method, batching, what)[0] for batching in ("shared", "per_sample")}
            cells.append(" or ".join(sorted(found)))
        lines.append(f"| `{method}` | `{name}` | {' | '.join(cells)} |")
    return lines


def by_scipy(way_back: Gradient) -> str:
    """What becomes of a gradient of SciPy's steps."""
    k = torch.tensor(1.7, dtype=F64, requires_grad=True)

    def found(solver: Any, way_back: Any) -> torch.Tensor:
        options = {"solver": solver, "gradient": way_back, "rtol": 1e-9, "atol": 1e-11}
        ys = ic.solve(
            lambda t, y: torch.sin(k * y.flip(-1)), torch.tensor([0.5, -0.3], dtype=F64), [0.0, 0.5], **options
        ).ys
        return torch.autograd.grad(ys.square().sum(), k)[0]

    try:
        got = found(ic.solvers.Scipy("DOP853"), way_back)
    except (ic.GradientError, ValueError):
        return "refused"
    if not abs(got / found("dopri8", "backprop") - 1) < 1e-6:
        raise AssertionError(f"Scipy with {way_back}: {got}")
    return "continuous"


def of_scipy() -> list[str]:
    """The table of gradients of SciPy's steps."""
    lines = ['| gradient | as it is | with `solver="tsit5"` |', f"|{'---|' * 3}"]
    for name, cls in sorted(Gradient.registry.items()):
        own: Any = {"solver": "tsit5"} if any(field.name == "solver" for field in fields(cls)) else None
        lines.append(f"| `{name}` | {by_scipy(cls())} | {'' if own is None else by_scipy(cls(**own))} |")
    return lines


def ordered() -> list[tuple[str, Any]]:
    """The solvers by family, order and name."""
    return sorted(Solver.registry.items(), key=lambda item: (kind(item[1]), item[1]().order, item[0]))


def solvers() -> list[str]:
    """The table of what each solver is."""
    titles = ["solver", "kind", "steps", "order", "error", "dense", "stages"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for name, cls in ordered():
        solver = cls()
        row = [f"`{name}`", kind(cls), "adaptive, fixed" if solver.error_order else "fixed"]
        row += map(str, (solver.order, solver.error_order, solver.dense_order, solver.tableau.stages))
        lines.append(f"| {' | '.join(row)} |")
    return lines


def page() -> str:
    """The whole page."""
    methods = sorted(Gradient.registry)
    titles = ["solver", *(method.replace("_", "_<wbr>") for method in methods)]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    reasons: list[str] = []
    for name, cls in ordered():
        row = [f"`{name}`"]
        for method in methods:
            cells = []
            for batching in ("shared", "per_sample"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result, reason = outcome(cls, method, batching)
                if reason and reason not in reasons:
                    reasons.append(reason)
                cells.append(f"refused ({1 + reasons.index(reason)})" if reason else result)
            row.append(cells[0] if cells[0] == cells[1] else f"shared: {cells[0]}; per_sample: {cells[1]}")
        lines.append(f"| {' | '.join(row)} |")
    notes = [f"{i}. {reason}." for i, reason in enumerate(reasons, start=1)]
    parts = [
        HEAD,
        *lines,
        "",
        "Reasons:",
        "",
        *notes,
        "",
        METHODS,
        *solvers(),
        "",
        FURTHER,
        *further(),
        "",
        SCIPY,
        *of_scipy(),
    ]
    return "\n".join([*parts, ""])


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE.name}: {len(Solver.registry)} solvers, {len(Gradient.registry)} gradients")
