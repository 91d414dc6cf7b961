"""How well a population fits its own rows: predictions and residuals, and a visual predictive check."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isocline.equations import Population
from isocline.equations.weighted import Weighted, weighted
from isocline.fit.summary import plain

QUANTILES = (0.1, 0.5, 0.9)
DRAWS, LEVEL = 300, 0.9  # of the predictive check, and how much of them its bands hold
MOST = 100  # series that it is made of
PER_BIN, BINS = 12, 8  # measurements that a stretch of time has at least, and stretches at most
POINTS = 1500  # of a column that the report carries


def checked(found: Population, seed: int) -> dict[str, Any]:
    """By column: "t", "observed", "individual", "population", "own", "conditional" (`isocline.equations.weighted`), row by row;
    and "predictive": by stretch of time the quantiles of what was measured and of what the model draws.

    Args:
        found: the fit.
        seed: of the draws.

    Raises:
        ValueError: where the equations cannot be solved over a series.
    """
    left = weighted(found)
    drawn = _drawn(found, left, seed)
    columns = []
    for c, name in enumerate(found.noise):
        mine = (left.column == c).nonzero().squeeze(1)
        rows = mine[torch.linspace(0, len(mine) - 1, min(len(mine), POINTS)).round().long()]
        told = ("t", "observed", "individual", "population", "own", "conditional")
        columns.append(
            {"name": name, "count": len(mine), **{key: plain(getattr(left, key)[rows].numpy()) for key in told},
             "predictive": _predictive(left, mine, drawn)}
        )  # fmt: skip
    return {"columns": columns, "draws": DRAWS, "level": LEVEL, "quantiles": list(QUANTILES)}


def _drawn(found: Population, left: Weighted, seed: int) -> np.ndarray:
    """(DRAWS, n) of every measurement, by other series of the same population, given the same; NaN of those that are too many."""
    series = found.laplace.individuals.series
    out = torch.full((DRAWS, len(left.t)), torch.nan, dtype=torch.float64)
    known = torch.zeros_like(found.covariance)  # the population as it was found: what is in question
    for b in np.unique(np.linspace(0, len(series) - 1, MOST).round().astype(int)).tolist():
        mine = (left.series == b).nonzero().squeeze(1)
        y = found.curves.simulate(series[b], left.t[mine], known, None, DRAWS, seed + b)
        out[:, mine] = torch.stack(list(y.values()), -1)[:, torch.arange(len(mine)), left.column[mine]]
    return out.numpy()


def _predictive(left: Weighted, mine: torch.Tensor, drawn: np.ndarray) -> list[dict[str, Any]]:
    """By stretch of time: "begin", "end", "t" (the median), "observed" (a quantile each), "low", "high" (likewise)."""
    mine = mine[torch.tensor(np.isfinite(drawn[:, mine.numpy()]).all(0))]
    t, y, draws = left.t[mine].numpy(), left.observed[mine].numpy(), drawn[:, mine.numpy()]
    rows = []
    for part in _stretches(t):
        quantiles = np.quantile(draws[:, part], QUANTILES, axis=1)  # (quantile, draw)
        low, high = np.quantile(quantiles, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
        rows.append(
            {"begin": float(t[part].min()), "end": float(t[part].max()), "t": float(np.median(t[part])),
             "observed": np.quantile(y[part], QUANTILES).tolist(), "low": low.tolist(), "high": high.tolist()}
        )  # fmt: skip
    return rows


def _stretches(t: np.ndarray) -> list[np.ndarray]:
    """Rows by stretch of time, about as many in each; rows of one time are never parted."""
    order = np.argsort(t, kind="stable")
    count = int(np.clip(len(t) // PER_BIN, 1, BINS))
    ends = [t[part[-1]] for part in np.array_split(order, count) if len(part)]
    place = np.searchsorted(np.unique(ends), t)
    return [np.flatnonzero(place == k) for k in range(len(np.unique(ends))) if (place == k).any()]
