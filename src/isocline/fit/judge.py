"""The scores on the held-out part, beside those of simple models, row by row ahead, and how good the bands are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from isocline.fit import scores as of
from isocline.fit.ensemble import Ensemble
from isocline.fit.reading.table import Series, Table
from isocline.fit.rivals import LAST, LINEAR, SPARSE, Forecaster, Rivals, all_equal, model_forecaster
from isocline.fit.scale import Scales
from isocline.fit.split import Split, cut

NEURAL, EQUATIONS = "neural ODE", "equation model"  # names of what a run has fitted
MAX_HORIZON, MAX_SCORED = 1000, 200  # held-out rows of a series, and series, that are scored

Scores = list[dict[str, Any]]


@dataclass
class Judgement:
    """What the held-out part says.

    Attributes:
        scores: of every model, the run's own first.
        horizons: errors by rows ahead, of forecasts that start all over the held-out part; None where they are too few.
        bands: how good they are, by level; None without bands.
        warnings: sentences.
        absent: why a model is not among them, a sentence for each.
    """

    scores: Scores = field(default_factory=list)
    horizons: dict[str, Any] | None = None
    bands: dict[str, dict[str, float | None]] | None = None
    warnings: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def judge(
    model: nn.Module,
    table: Table,
    split: Split,
    scales: Scales,
    window: int,
    ensemble: Ensemble | None = None,
    name: str = NEURAL,
    rivals: Callable[[], Rivals | None] | None = None,
) -> Judgement:
    """Scores of the model and its rivals; with an ensemble that has bands, those of the bands.

    Every model starts from the training part: persistence from the last observed value, the two ODEs from a state
    settled on its last rows. Then every model forecasts from rows of the held-out part too, each time with all rows before
    known: errors by horizon. Nothing is fitted to those rows.

    Args:
        rivals: waits for what `fitted_rivals` gives; None: they are fitted here.
    """
    chosen, trains, held = _scored_parts(split)
    if not chosen:
        return Judgement()
    judged = Judgement()
    if len(chosen) < sum(len(h.t) > 0 for h in split.held):
        judged.warnings.append(f"scored on {MAX_SCORED} series, spread over all of them")
    if max(len(split.held[i].t) for i in chosen) > MAX_HORIZON:
        judged.warnings.append(f"scored on the first {MAX_HORIZON} held-out rows of each series")
    others = fitted_rivals(split, scales, window) if rivals is None else rivals()
    assert others is not None
    models = [model_forecaster(name, model, scales), *others.forecasters(scales)]
    if isinstance(others.sparse, str):
        judged.absent.append(others.sparse)
    forecasts = {m.name: m.forecast(trains, [h.t for h in held]) for m in models}
    for ode in (name, LINEAR, SPARSE):
        judged.warnings += _lost(ode, forecasts[ode], held, table) if ode in forecasts else []
    judged.scores = scored(models, forecasts, held, split.taught, scales, table)
    judged.horizons = _horizons(models, trains, held, scales)
    if ensemble is not None and ensemble.bands is not None:
        spread = np.concatenate(ensemble.spread(trains, [h.t for h in held], scales))
        seen, record = (scales.scaled(np.concatenate([s.compared for s in part])) for part in (held, split.taught))
        away = None if split.learned[chosen[0]] else distances(ensemble, trains, [len(h.t) for h in held], scales)
        bands = of.of_bands(ensemble.bands, np.concatenate(forecasts[name]), spread, seen, record, away)
        judged.bands = {level: {k: number(v) for k, v in row.items()} for level, row in bands.items()}
    return judged


def fitted_rivals(split: Split, scales: Scales, window: int) -> Rivals | None:
    """Those of a run, which do not depend on its model; None where nothing is held out, and none is judged."""
    chosen, trains, held = _scored_parts(split)
    return Rivals.of(split.taught, scales, window, all_equal(trains, held)) if chosen else None


def _scored_parts(split: Split) -> tuple[list[int], list[Series], list[Series]]:
    """Which series are scored, what precedes their held-out parts, and those."""
    chosen = [i for i, h in enumerate(split.held) if len(h.t)]
    if len(chosen) > MAX_SCORED:
        chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, MAX_SCORED).round().astype(int)]
    return chosen, [split.train[i] for i in chosen], [split.held[i].rows(slice(MAX_HORIZON)) for i in chosen]


def distances(ensemble: Ensemble, records: Sequence[Series], counts: Sequence[int], scales: Scales) -> np.ndarray:
    """(n, 1) where forecasts of records begin that were not learned from, for all rows of each."""
    return np.repeat([ensemble.distance(r, scales) for r in records], counts)[:, None]


def _lost(name: str, paths: Sequence[np.ndarray], held: Sequence[Series], table: Table) -> list[str]:
    """One sentence where a forecast is not finite to its end."""
    ends = [
        (h, int(np.flatnonzero(~np.isfinite(p).all(1))[0]))
        for h, p in zip(held, paths, strict=True)
        if not np.isfinite(p).all()
    ]
    if not ends:
        return []
    h, first = ends[0]
    where = f"of series {h.id!r} " if table.id else ""
    more = f" (and of {len(ends) - 1} more)" if len(ends) > 1 else ""
    return [
        f"the forecast of the {name} {where}is finite only up to {table.time.name} {table.clock.text(h.t[first])}{more}"
    ]


def scored(
    models: Sequence[Forecaster],
    forecasts: dict[str, list[np.ndarray]],
    held: Sequence[Series],
    taught: Sequence[Series],
    scales: Scales,
    table: Table,
) -> Scores:
    """A row for each model, persistence among them, of its forecasts of the held-out parts."""
    seen = np.concatenate([h.compared for h in held])
    paths = {m: np.concatenate(f) for m, f in forecasts.items()}
    pooled = {m: of.pooled(of.rmse(path, scales.scaled(seen))) for m, path in paths.items()}
    measured = [(i, c.header) for i, c in enumerate(table.own) if not table.hidden[i]]
    counts = (~np.isnan(seen)).sum(0)
    out = []
    for model in models:
        path = scales.unscaled(paths[model.name])
        columns, own = of.rmse(path, seen), pooled[model.name]
        row = {
            "model": model.name,
            "parameters": model.parameters,
            "observations": int(counts.sum()),
            "counts": {name: int(counts[i]) for i, name in measured},
            "rmse": {name: number(columns[i]) for i, name in measured},
            "nrmse": number(own),
            "mase": number(of.mase(path, seen, taught)),
            "skill": number(1 - own / pooled[LAST]) if pooled[LAST] > 0 else None,
        }
        out.append(row if model.period is None else {**row, "period": model.period})
    return out


def _horizons(
    models: Sequence[Forecaster], trains: Sequence[Series], held: Sequence[Series], scales: Scales
) -> dict[str, Any] | None:
    """Errors by rows ahead, and how many forecasts each is of; None where fewer than three reach an observation."""
    begins = of.origins([(len(s.t), len(h.t)) for s, h in zip(trains, held, strict=True)])
    whole = [
        replace(s, t=np.concatenate([s.t, h.t]), y=np.concatenate([s.y, h.y]))
        for s, h in zip(trains, held, strict=True)
    ]
    parts = [cut(whole[i], known) for i, known in begins]
    ahead = [scales.scaled(rest.compared) for _, rest in parts]
    rows = of.horizons(ahead)
    if not rows:
        return None
    records, later = [known for known, _ in parts], [rest.t[: rows[-1]] for _, rest in parts]
    errors = {m.name: of.by_horizon(m.forecast(records, later), ahead, rows) for m in models}
    last = errors[LAST]
    times = [[rest.t[h - 1] - known.t[-1] for known, rest in parts if len(rest.t) >= h] for h in rows]
    return {
        "rows": rows,
        "time": [float(np.median(t)) for t in times],
        "forecasts": [sum(len(y) >= h and bool(np.isfinite(y[h - 1]).any()) for y in ahead) for h in rows],
        "nrmse": {m: [number(e) for e in values] for m, values in errors.items()},
        "skill": {
            m: [number(1 - e / naive) if naive > 0 else None for e, naive in zip(values, last, strict=True)]
            for m, values in errors.items()
        },
    }


def number(x: float | None) -> float | None:
    """For JSON: None where not finite."""
    return None if x is None or not math.isfinite(x) else float(x)
