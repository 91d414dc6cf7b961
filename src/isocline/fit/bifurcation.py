"""How the equilibria of a run's model move, turn and lose their stability over one input or one parameter."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

from torch import nn

from isocline.fit.diagram import followed
from isocline.fit.errors import UserError
from isocline.fit.files import read_run
from isocline.fit.fitted import Fitted
from isocline.fit.physics import Physics
from isocline.fit.reading.column import Column
from isocline.fit.run import read_as
from isocline.fit.split import Split


def bifurcation(folder: str | Path, over: str, low: float, high: float) -> dict[str, Any]:
    """Equilibria of a run's model and their stability over one input, held constant, or one parameter of its equations.

    Equilibria are sought at nine values in the range by Newton's method from all over the data, and each is followed both ways by
    continuation. Other inputs are held at their median. Networks are asked within the range of the data and half a standard
    deviation beyond; equations without networks as far again on each side as the data are wide.

    Args:
        folder: of the run.
        over: header or name of an input, or name of a parameter.
        low, high: the range, in its unit.

    Returns:
        "over", "unit", "kind" ("input" or "parameter"), "low", "high"; "branches", each with "value" (n,), "state" (n, d) in the
        table's units and "stable" (n,); "points", each with "kind" ("fold", "Hopf", "branch point"), "value", "state" and
        "period" (of the oscillation born at a Hopf point, in the table's time; else None).

    Raises:
        UserError: where there is no run, no such input or parameter, or the field depends on time.

    Source:
        Kuznetsov (2004), Elements of Applied Bifurcation Theory, chapters 3 and 10.

    Example:
        >>> from isocline.fit import fit
        >>> rows = {"t": [0.2 * i for i in range(12)], "x": [-math.tanh(0.2 * i) for i in range(12)]}
        >>> own = {"matching": 2, "iterations": 1, "polish": 0, "starts": 1, "members": 0, "blocks": 0, "hold_out": 0.0}
        >>> run = fit(rows, equations=("dx = r + x^2",), **own)
        >>> found = bifurcation(run.folder, "r", -1, 1)
        >>> [(point["kind"], abs(point["value"]) < 1e-6) for point in found["points"]]
        [('fold', True)]
    """
    folder = Path(folder)
    fitted = Fitted.read(folder)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"--over {over} {low:g} {high:g}: expected two numbers, the lower one first")
    kept = read_run(folder)
    taught = Split.of(read_as(kept["table"], fitted.config), fitted.config.hold_out).taught
    kind, which = _found(fitted, over)
    if "begin" in getattr(fitted.field, "takes", ()):
        what = "equations" if fitted.config.equations else "networks"
        raise UserError(f"{folder}: the run's {what} depend on the time t, so they have no equilibria")
    diagram = followed(fitted.field, kind, which, low, high, taught, fitted.scales)
    assert diagram is not None
    unit = Column.of(fitted.config.inputs[int(which)]).unit if kind == "input" else _unit(fitted.field, which)
    return {"over": over, "unit": unit, "kind": kind, "low": low, "high": high, **diagram}


def _found(fitted: Fitted, over: str) -> tuple[str, str]:
    """("input", its number) or ("parameter", its name)."""
    headers = fitted.config.inputs
    for j, header in enumerate(headers):
        if over in (header, Column.of(header).name):
            return "input", str(j)
    parameters = list(fitted.field.equations.values) if isinstance(fitted.field, Physics) else []
    if over in parameters:
        return "parameter", over
    known = [*headers, *parameters]
    near = difflib.get_close_matches(over, known, n=1)
    if not known:
        raise UserError(f"--over {over}: the run has neither inputs nor parameters to go over")
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"--over {over}: neither an input nor a parameter{hint}; there are {', '.join(known)}")


def _unit(model: nn.Module, name: str) -> str:
    assert isinstance(model, Physics)
    return next(p.unit for p in model.equations.system.parameters if p.name == name)
