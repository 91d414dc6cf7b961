"""The verdict: scores on the held-out part, beside persistence, a linear ODE and an autoregression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from isocline.fit.autoregression import Autoregression, equal_steps
from isocline.fit.bands import LEVELS
from isocline.fit.baselines import LinearODE, last_values
from isocline.fit.ensemble import Ensemble
from isocline.fit.flow import flow_of
from isocline.fit.forecast import forecast
from isocline.fit.scale import Scales
from isocline.fit.split import Split
from isocline.fit.table import Series, Table
from isocline.fit.windows import Record

NEURAL, EQUATIONS = "neural ODE", "equation model"  # names of what a run has fitted
LAST, LINEAR, AUTO = "persistence", "linear ODE", "autoregression"
MAX_HORIZON, MAX_SCORED = 1000, 200  # held-out rows of a series, and series, that are scored
CLOSE = 0.03  # errors that differ by less than this share count as equal, however many observations there are

Scores = list[dict[str, Any]]


def judge(
    model: nn.Module,
    table: Table,
    split: Split,
    scales: Scales,
    window: int,
    ensemble: Ensemble | None = None,
    name: str = NEURAL,
) -> tuple[Scores, list[str]]:
    """Scores of the model and its rivals, and warnings; with an ensemble that has bands, what share of the points they hold.

    Every model starts from the training part: persistence from the last observed value, the two ODEs from a state
    settled on its last rows. With equal steps an autoregression is among the rivals.
    """
    chosen = [i for i, h in enumerate(split.held) if len(h.t)]
    if not chosen:
        return [], []
    warnings = []
    if len(chosen) > MAX_SCORED:
        chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, MAX_SCORED).round().astype(int)]
        warnings.append(f"scored on {MAX_SCORED} series, spread over all of them")
    if max(len(split.held[i].t) for i in chosen) > MAX_HORIZON:
        warnings.append(f"scored on the first {MAX_HORIZON} held-out rows of each series")
    trains = [split.train[i] for i in chosen]
    held = [Series(h.id, h.t[:MAX_HORIZON], h.y[:MAX_HORIZON]) for h in (split.held[i] for i in chosen)]
    linear = LinearODE(Record.of(split.taught, scales, window))
    times = [h.t for h in held]
    last = [np.tile(last_values(scales.scaled(s.y)), (len(t), 1)) for s, t in zip(trains, times, strict=True)]
    forecasts = {
        name: forecast(flow_of(model), trains, times, scales),
        LAST: last,
        LINEAR: forecast(linear.flow, trains, times, scales),
    }
    if equal_steps(
        [
            Series(s.id, *(np.concatenate(p) for p in ((s.t, h.t), (s.y, h.y))))
            for s, h in zip(trains, held, strict=True)
        ]
    ):
        auto = Autoregression(split.taught, scales)
        forecasts[AUTO] = [auto.forecast(s, len(t)) for s, t in zip(trains, times, strict=True)]
    for ode in (name, LINEAR):
        warnings += _lost(ode, forecasts[ode], held, table)
    scores = _scores(forecasts, held, scales, table)
    if ensemble is not None and ensemble.bands is not None:
        scores[0]["coverage"] = _coverage(ensemble, forecasts[name], trains, held, scales)
    return scores, warnings


def _coverage(
    ensemble: Ensemble, paths: Sequence[np.ndarray], trains: Sequence[Series], held: Sequence[Series], scales: Scales
) -> dict[str, float | None]:
    """Share of the held-out observations inside each band."""
    assert ensemble.bands is not None
    spreads = ensemble.spread(trains, [h.t for h in held], scales)
    error = np.abs(np.concatenate(paths) - scales.scaled(np.concatenate([h.y for h in held])))
    seen = ~np.isnan(error)
    inside = {level: error <= ensemble.bands.half_widths(np.concatenate(spreads), level) for level in LEVELS}
    return {f"{100 * level:.0f}": number(float(inside[level][seen].mean())) for level in LEVELS}


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


def _scores(forecasts: dict[str, list[np.ndarray]], held: list[Series], scales: Scales, table: Table) -> Scores:
    seen = np.concatenate([h.y for h in held])
    scaled = {m: _rmse(np.concatenate(f), scales.scaled(seen)) for m, f in forecasts.items()}
    pooled = {m: math.sqrt(np.nanmean(np.square(columns))) for m, columns in scaled.items()}
    out = []
    for m, f in forecasts.items():
        columns = _rmse(scales.unscaled(np.concatenate(f)), seen)
        out.append(
            {
                "model": m,
                "observations": int((~np.isnan(seen)).sum()),
                "rmse": {c.header: number(v) for c, v in zip(table.states, columns, strict=True)},
                "nrmse": number(pooled[m]),
                "skill": number(1 - pooled[m] / pooled[LAST]) if pooled[LAST] > 0 else None,
            }
        )
    return out


def _rmse(predicted: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Root mean square error of each column; inf if a prediction is not finite, NaN where nothing was observed."""
    error = np.where(np.isfinite(predicted), predicted, np.inf) - seen
    count = (~np.isnan(seen)).sum(0)
    with np.errstate(over="ignore"):
        total = np.nansum(np.square(error), 0)
    return np.sqrt(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def verdict(scores: Scores) -> tuple[str, bool]:
    """Who wins on the held-out part, in one plain sentence that may say no; and whether the model does, whose scores come first.

    The relative standard error of a root mean square of n independent errors is 1/√(2n), of the ratio of two 1/√n (at
    least: errors of neighbouring times are alike): a difference below that is no difference.
    """
    if not scores:
        return (
            "Nothing was held out, so nothing is known of how well the model predicts: hold out a tail or a series to learn it.",
            False,
        )
    by = {s["model"]: math.inf if s["nrmse"] is None else s["nrmse"] for s in scores}
    ours = scores[0]["model"]
    own, rival = by[ours], min((m for m in by if m != ours), key=lambda m: by[m])
    best, count = by[rival], scores[0]["observations"]
    close = max(CLOSE, 1 / math.sqrt(count))
    if own == math.inf:
        return (
            f"The {ours}'s forecast does not stay finite on the held-out part: {_the(rival)} is the better model here "
            f"(error {best:.3g}).",
            False,
        )
    if best == math.inf:
        return (
            f"The {ours} wins on the held-out part: its error ({own:.3g}) is finite, unlike the baselines'.",
            True,
        )
    if abs(own / best - 1) <= close:
        return (
            f"On the held-out part the {ours} (error {own:.3g}) and {_the(rival)} ({best:.3g}) cannot be told apart "
            f"by {count} observations: prefer the simpler model.",
            False,
        )
    if own < best:
        return (
            f"The {ours} wins on the held-out part: its error ({own:.3g}) is {1 - own / best:.0%} lower than that "
            f"of {_the(rival)} ({best:.3g}).",
            True,
        )
    return (
        f"The {ours} does not beat {_the(rival)} on the held-out part: its error is {own:.3g} against {best:.3g}. "
        f"Prefer the simpler model, or measure more.",
        False,
    )


def _the(model: str) -> str:
    return f"the {model}" if model != LAST else "persistence (the last observed value)"


def number(x: float | None) -> float | None:
    """For JSON: None where not finite."""
    return None if x is None or not math.isfinite(x) else float(x)
