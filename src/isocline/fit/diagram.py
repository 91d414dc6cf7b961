"""The equilibria of a model over one number, as a run tells them: followed from all over the data, in the table's units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isocline.fit.config import Config
from isocline.fit.continuation import Continuation, Curve, Family, SpentError
from isocline.fit.equilibria import MARGIN, roots
from isocline.fit.physics import Physics, full
from isocline.fit.reading.column import Column
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales

SLICES, STARTS, STEPS = (
    9,
    40,
    15,
)  # values at which equilibria are sought; rows of the data, and Newton steps, each time
CHEAP = 2000  # calls of the field that a report may spend: a second of a busy core
SAME = 1e-3  # distance of points on different curves that are one


def over_first_input(
    model: nn.Module, config: Config, taught: Sequence[Series], scales: Scales
) -> dict[str, Any] | None:
    """The same over the observed range of the first input, for the report; None without inputs, where equations depend on time,
    where the input never changes, and where it would take long."""
    if not config.inputs or "begin" in getattr(model, "takes", ()):
        return None
    rows = np.concatenate([s.u.at(s.t)[:, 0] for s in taught if s.u is not None])
    low, high = float(rows.min()), float(rows.max())
    diagram = followed(model, "input", "0", low, high, taught, scales, CHEAP) if low < high else None
    if diagram is None or not diagram["branches"]:
        return None
    column = Column.of(config.inputs[0])
    return {"over": column.name, "unit": column.unit, "kind": "input", "low": low, "high": high, **diagram}


def followed(
    model: nn.Module,
    kind: str,
    which: str,
    low: float,
    high: float,
    taught: Sequence[Series],
    scales: Scales,
    calls: int = 100_000,
) -> dict[str, Any] | None:
    """ "branches" and "points" of `bifurcation`; None where more calls of the field are needed.

    Args:
        model: in scaled coordinates.
        kind, which: "input" and its number, or "parameter" and its name.
        low, high: the range.
        taught: the training part.
        scales: of the run.
        calls: of the field, at most.
    """
    x = scales.scaled(np.concatenate([s.y for s in taught]))
    x = x[np.isfinite(x).all(1)]
    if not len(x):
        return {"branches": [], "points": []}
    known = not isinstance(model, Physics) or bool(model.equations.remainders)
    reach = MARGIN if known else x.max(0) - x.min(0)
    corners = x.min(0) - reach, x.max(0) + reach
    family = _family(model, kind, which, low, high, taught, scales)
    walk = Continuation(family, *corners, calls)
    try:
        curves = _curves(walk, x)
    except SpentError:
        return None
    return _described(curves, low, high, scales)


def _curves(walk: Continuation, x: np.ndarray) -> list[Curve]:
    """All curves through what is found at some values."""
    rows = x[np.unique(np.linspace(0, len(x) - 1, STARTS).round().astype(int))]
    rows = torch.tensor(np.concatenate([rows, [walk.low, walk.high], [(walk.low + walk.high) / 2]]))
    far = 2 * float((walk.high - walk.low).max())
    curves: list[Curve] = []
    for q in np.linspace(0.0, 1.0, SLICES):
        slopes = _counted(walk, float(q))
        for root in roots(slopes, rows, far, STEPS).numpy():
            inside = bool(((root >= walk.low) & (root <= walk.high)).all())
            if inside and not any(curve.holds(root, float(q)) for curve in curves):
                curves.append(walk.curve(root, float(q)))
    return [curve for curve in curves if len(curve.q) > 1]


def _counted(walk: Continuation, q: float) -> Any:
    """f(t, x) at one value, each call counted."""
    return lambda t, x: torch.tensor(walk.slopes(np.column_stack([x.numpy(), np.full(len(x), q)])))


def _family(
    model: nn.Module, kind: str, which: str, low: float, high: float, taught: Sequence[Series], scales: Scales
) -> Family:
    """f(x, q), scaled, with the number at low + q (high − low) and the inputs else at their median."""
    u = None
    if taught[0].u is not None:
        u = torch.tensor(np.median(np.concatenate([scales.scaled_inputs(s.u.at(s.t)) for s in taught if s.u]), 0))
    time = torch.tensor(0.0, dtype=torch.float64)

    def over_input(x: Tensor, q: Tensor) -> Tensor:
        assert u is not None
        scale = scales.inputs[int(which)]
        given = u.expand(len(x), -1).clone()
        given[:, int(which)] = (low + q * (high - low) - scale.mean) / scale.sd
        return model(time, x, {"u": given})

    def over_parameter(x: Tensor, q: Tensor) -> Tensor:
        assert isinstance(model, Physics)
        y = model.unscaled(x)
        _, inputs = model.driven(time, None if u is None else {"u": u.expand(len(x), -1)})
        jets = model.equations.parameter_jets(y) | {which: (low + q * (high - low), None)}
        rates = model.equations.rates(model.equations.evaluation(time, y, inputs, parameters=jets))
        return model.scaled(torch.stack([full(v, y) for v, _ in rates], -1), y)

    return over_input if kind == "input" else over_parameter


def _described(curves: Sequence[Curve], low: float, high: float, scales: Scales) -> dict[str, Any]:
    """In the table's units."""
    branches = [
        {
            "value": (low + c.q * (high - low)).tolist(),
            "state": scales.unscaled(c.x).tolist(),
            "stable": c.stable.tolist(),
        }
        for c in curves
    ]
    found = sorted((p for c in curves for p in c.points), key=lambda p: p.q)
    points = []
    for k, p in enumerate(found):
        if any(o.kind == p.kind and np.abs(np.append(o.x - p.x, o.q - p.q)).max() < SAME for o in found[:k]):
            continue
        points.append(
            {
                "kind": p.kind,
                "value": low + p.q * (high - low),
                "state": scales.unscaled(p.x[None])[0].tolist(),
                "period": None if p.frequency is None else 2 * math.pi / p.frequency * scales.tau,
            }
        )
    return {"branches": branches, "points": points}
