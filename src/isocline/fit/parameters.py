"""The parameters of a run's equations: their values by maximum likelihood, with errors and intervals, for the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from isocline.equations import Estimates, Measured, estimate
from isocline.fit.bands import WORSE
from isocline.fit.drive import HOLDS
from isocline.fit.physics import Physics
from isocline.fit.reading.table import Series
from isocline.fit.recipe import Recipe
from isocline.inputs import Signal

INFERRED, LONGEST = 30, 2000  # series, and rows of each, from which standard errors are computed
EVALUATIONS = 60  # of the search, which starts at what the recipe found


def infer(model: Physics, recipe: Recipe, series: Sequence[Series]) -> dict[str, Any]:
    """What report.json tells about the equations; the model then has the values in the table.

    Whole series are fitted from free starting states, beginning at what the recipe found, with the recipe's penalty as the
    prior of the networks' weights. Where that ends in a worse fit the recipe's stays, and there are no errors.

    Args:
        model: of the recipe, changed in place.
        recipe: when its training is over.
        series: what it was trained on.
    """
    if not recipe.trainer.done:
        return _told(model, None, ["the training was broken off: no standard errors yet"])
    if not model.equations.free:
        return _told(model, None, [])
    data, notes = _measured(model, series, _begins(model, recipe))
    before = {k: v.detach().clone() for k, v in model.state_dict().items()}
    logs = dict(zip(model.equations.states, model.logs, strict=True))
    noise = {name: "log" if logs[name] else "constant" for name in data[0].columns}
    found: Estimates | None = None
    try:
        found = estimate(model.equations, data, noise=noise, prior=_prior(recipe), max_evaluations=EVALUATIONS)
        if _misfit(model, found) > WORSE**2 * float(recipe.trainer.misfit[recipe.trainer.best]):
            raise ValueError("fitting whole series at once ends in a worse fit than windows and their starts did")
        if not model.equations.remainders and found.freedom > 0:
            found.profiles()
    except ValueError as error:
        model.load_state_dict(before)
        return _told(model, None, [*notes, f"no standard errors: {error}"])
    if model.equations.remainders:
        notes.append(
            "standard errors allow for what is not known of the networks; there are no profiles beside networks"
        )
    return _told(model, found, notes)


def _prior(recipe: Recipe) -> float:
    """The standard deviation of weights for which the penalty stands: it is added to the mean over observations."""
    trainer = recipe.trainer
    count = sum(int((~np.isnan(y)).sum()) for y in recipe.record.y)
    return 1.0 / math.sqrt(max(count * float(trainer.objective.penalty[trainer.best]), 1e-6))


def _misfit(model: Physics, found: Estimates) -> float:
    """Mean square of the residuals in scaled coordinates."""
    data = found.search.misfit.data
    order = [model.equations.states.index(c) for c in data.columns]
    scaled = found.best.variances / model.sd[order].square()
    return float((data.counts * scaled).sum() / data.counts.sum())


def _begins(model: Physics, recipe: Recipe) -> dict[int, np.ndarray]:
    """By the number of a series: the state (d,) at its first row that the recipe found."""
    trainer, record = recipe.trainer, recipe.record
    starts = model.unscaled(trainer.objective.starts(trainer.theta)[trainer.best].detach()).numpy()
    knots = np.cumsum([0, *(len(k) for k in record.knots)])
    return {i: starts[knots[record.series.index(i)]] for i in dict.fromkeys(record.series)}


def _measured(
    model: Physics, series: Sequence[Series], begins: dict[int, np.ndarray]
) -> tuple[list[Measured], list[str]]:
    """Series as equations are compared with them; of many, some, and of long ones the first part."""
    notes = []
    chosen = [i for i in range(len(series)) if i in begins]
    if len(chosen) > INFERRED:
        chosen = [chosen[i] for i in np.unique(np.linspace(0, len(chosen) - 1, INFERRED).round().astype(int))]
        notes.append(f"errors of parameters are computed from {len(chosen)} series, spread over all")
    if max(len(series[i].t) for i in chosen) > LONGEST:
        notes.append(f"errors of parameters are computed from the first {LONGEST:,} rows of each series")
    hidden = np.all([s.hidden for s in series], 0)
    chosen = [i for i in chosen if not np.isnan(series[i].y[:LONGEST, ~hidden]).all(0).any()] or chosen
    names = list(zip(model.equations.states, hidden, strict=True))
    out = []
    for i in chosen:
        s, begin = series[i].rows(slice(LONGEST)), begins[i]
        columns = {name: s.y[:, k].copy() for k, (name, unseen) in enumerate(names) if not unseen}
        starts = {name: float(begin[k]) for k, (name, unseen) in enumerate(names) if unseen}
        out.append(Measured(s.t, columns, inputs=_signals(model, s), starts=starts, id=s.id or str(i + 1)))
    return out, notes


def _signals(model: Physics, s: Series) -> dict[str, Signal]:
    """Of each input of the equations, in the table's units."""
    if s.u is None:
        return {}
    u = s.u.stretch(float(s.t[0]), float(s.t[-1]))
    names = model.equations.system.inputs
    return {
        name: HOLDS[u.hold](torch.tensor(u.t), torch.tensor(u.u[:, k]), per_sample=False)
        for k, name in enumerate(names)
    }


def _told(model: Physics, found: Estimates | None, notes: Sequence[str]) -> dict[str, Any]:
    equations = model.equations
    rows = [] if found is None else [r for r in found.rows() if r["name"] in equations.values]
    fixed = {p.name for p in equations.fixed}
    plain = [
        {"name": p.name, "value": equations.values[p.name], "unit": p.unit, "fixed": p.name in fixed, "error": None,
         "bound": None}
        for p in equations.system.parameters
    ]  # fmt: skip
    return {
        "equations": equations.text().splitlines(),
        "with_values": equations.text(values=True, digits=4).splitlines(),
        "rows": rows or plain,
        "correlation": _correlation(model, found),
        "noise": {} if found is None else {k: v if math.isfinite(v) else None for k, v in found.noise.items()},
        "observations": 0 if found is None else found.count,
        "notes": [*notes, *([] if found is None else found.messages)],
    }


def _correlation(model: Physics, found: Estimates | None) -> dict[str, Any]:
    """Of the parameters only."""
    count = len(model.equations.names)
    if found is None or count < 2:
        return {"names": [], "values": []}
    block = torch.nan_to_num(found.correlation[:count, :count], 0.0)
    return {"names": list(model.equations.names), "values": block.tolist()}
