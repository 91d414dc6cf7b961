"""The parameters of a run's equations: their values by maximum likelihood, with errors and intervals, for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from isocline.equations import Estimates, Measured, estimate
from isocline.fit.bands import WORSE, kept
from isocline.fit.drive import HOLDS
from isocline.fit.physics import Physics
from isocline.fit.reading.table import Series
from isocline.fit.recipe import FEWEST, Recipe
from isocline.inputs import Signal

INFERRED, LONGEST = 30, 2000  # series, and rows of each, from which standard errors are computed
EVALUATIONS = 60  # of the search, which starts at what the recipe found
LEFT_OUT = 1e-6  # the standard deviation of weights of networks that the held-out blocks have left out


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
    noise = {name: "log" if logs[name] else "additive" for name in data[0].columns}
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
    if not model.equations.remainders:
        return _told(model, found, notes)
    spread, count = by_members(model, recipe)
    notes.append("standard errors allow for what is not known of the networks, near this fit")
    # Tried on Lotka-Volterra with a network of 22 numbers in place of two terms: an interval took 1,300 to 1,900 evaluations,
    # where the fit takes 60, and the loss along it went up and down by half the threshold from one minimum to another.
    notes.append(
        "there are no profile intervals beside networks: refitted at every value of a parameter, these end in other minima, "
        "so that a profile is jagged"
        + (f"; “by members” is the spread over {count} fits to the data with noise added" if spread else "")
    )
    return _told(model, found, notes, spread)


def by_members(model: Physics, recipe: Recipe) -> tuple[dict[str, float], int]:
    """By parameter the standard deviation over the members that fit well, and how many those are; nothing of too few.

    Each is fitted to the data with noise added once more and begins at weights of its own, so that this is a parametric bootstrap
    that knows of other minima.

    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 6.
    """
    trainer, first = recipe.trainer, recipe.config.starts
    if not recipe.config.members:
        return {}, 0
    good = kept(trainer.misfit[first:])
    raw = trainer.networks.parts(trainer.objective.network(trainer.theta).detach()[first:][good])[0]
    if len(raw) < FEWEST:
        return {}, len(raw)
    values = [p.natural(raw[:, i]) for i, p in enumerate(model.equations.free)]
    return {p.name: float(v.std()) for p, v in zip(model.equations.free, values, strict=True)}, len(raw)


def _prior(recipe: Recipe) -> float:
    """The standard deviation of weights for which the penalty stands: it is added to the mean over observations."""
    trainer = recipe.trainer
    count = sum(int((~np.isnan(y)).sum()) for y in recipe.record.y)
    penalty = float(trainer.objective.penalty[trainer.best])
    return LEFT_OUT if math.isinf(penalty) else 1.0 / math.sqrt(max(count * penalty, 1e-6))


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


def _told(
    model: Physics, found: Estimates | None, notes: Sequence[str], spread: Mapping[str, float] | None = None
) -> dict[str, Any]:
    equations = model.equations
    rows = [] if found is None else [r for r in found.rows() if r["name"] in equations.values]
    fixed = {p.name for p in equations.fixed}
    plain = [
        {"name": p.name, "value": equations.values[p.name], "unit": p.unit, "fixed": p.name in fixed, "error": None,
         "bound": None}
        for p in equations.system.parameters
    ]  # fmt: skip
    known = spread or {}
    rows = [row | ({"by_members": known[row["name"]]} if row["name"] in known else {}) for row in rows or plain]
    return {
        "equations": equations.text().splitlines(),
        "with_values": equations.text(values=True, digits=4).splitlines(),
        "rows": rows,
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
