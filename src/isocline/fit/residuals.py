"""What a fit leaves of the training part: over time, and how alike neighbours are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from isocline.fit.baselines import autocorrelations
from isocline.fit.drive import Drive
from isocline.fit.flow import Flow
from isocline.fit.forecast import padded
from isocline.fit.reading.table import Series
from isocline.fit.recipe import Recipe
from isocline.fit.scale import Scales

SEGMENTS, POINTS = 200, 1500  # that are looked at, and points of all together that the report carries
LAGS = 20  # at most; no more than a quarter of the longest segment


def residuals(flow: Flow, recipe: Recipe, taught: Sequence[Series], scales: Scales) -> dict[str, Any] | None:
    """Observed minus fitted, in units of each state's scale; None where no path is finite.

    The path of a segment starts where its training left the start, and runs to its end.

    Args:
        flow: of the model.
        recipe: when its training is over.
        taught: what it was trained on.
        scales: of the run.

    Returns:
        "t", "fitted" (table's units) and "residual" (scaled), row by row; "series" (which each row is of); "sd" of each state,
        "autocorrelation" of each state by lag, "bound" that 95 % of those of white noise keep, "like_noise" (whether the first
        lag does, by state). Of a state that was not measured None.
    """
    record, trainer = recipe.record, recipe.trainer
    starts = trainer.objective.starts(trainer.theta)[trainer.best].detach()
    first = np.cumsum([0, *(len(k) for k in record.knots)])
    chosen = np.unique(np.linspace(0, len(record.t) - 1, SEGMENTS).round().astype(int)).tolist()
    drive = Drive.stacked([record.begin[k] for k in chosen], [record.u[k] for k in chosen] if record.u else [])
    paths = flow(starts[[int(first[k]) for k in chosen]], padded([record.t[k] for k in chosen]), drive)
    fitted = [paths[: len(record.t[k]), b].numpy() for b, k in enumerate(chosen)]
    left = [np.where(np.isfinite(p), record.y[k] - p, np.nan) for k, p in zip(chosen, fitted, strict=True)]
    whole = np.concatenate(left)
    if not np.isfinite(whole).any():
        return None
    most = max(1, min(LAGS, max(len(r) for r in left) // 4))
    values = autocorrelations(left, most)
    seen = np.isfinite(whole).any(0) & (np.arange(whole.shape[1]) < taught[0].width)
    count = int(np.isfinite(whole).sum(0).max())
    bound = 1.96 / math.sqrt(count)
    t = np.concatenate([record.begin[k] + record.t[k] * scales.tau for k in chosen])
    names = np.concatenate([np.full(len(r), record.series[k]) for k, r in zip(chosen, left, strict=True)])
    rows = np.unique(np.linspace(0, len(t) - 1, POINTS).round().astype(int))
    return {
        "t": t[rows].tolist(),
        "series": names[rows].tolist(),
        "fitted": _plain(scales.unscaled(np.concatenate(fitted))[rows]),
        "residual": _plain(whole[rows]),
        "sd": [float(np.sqrt(np.nanmean(np.square(c)))) if yes else None for c, yes in zip(whole.T, seen, strict=True)],
        "autocorrelation": _plain(values.T),
        "bound": bound,
        "like_noise": [bool(abs(v) <= bound) if yes else None for v, yes in zip(values[1], seen, strict=True)],
    }


def _plain(values: np.ndarray) -> list[list[float | None]]:
    return [[float(v) if math.isfinite(v) else None for v in row] for row in values]
