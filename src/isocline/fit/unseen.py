"""Series that were not learned from: how far from all that was learned they begin, and how far bands must reach for them.

A block in the middle of a known series is met by networks that know what lies around it. On two releases of a pendulum they
err there by 0.03 standard deviations, and by 0.1 to 2.5 where one release is forecast by networks that know the other alone; the
error goes with the distance in state space between where the new one begins and what was known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isocline.fit.blocks import Fold
from isocline.fit.choose import LOST, Choice, candidates, errors_of
from isocline.fit.config import Config
from isocline.fit.forecast import anchor
from isocline.fit.group import ALONE, Group
from isocline.fit.loop import Trainer
from isocline.fit.networks import Networks
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales

SHARE = 0.3  # of the steps of the final training: for the size of errors
LEARNED = 2000  # rows, spread over all, that stand for what was learned


def learned_rows(series: Sequence[Series], scales: Scales) -> np.ndarray:
    """(R, d) scaled states that were learned from, of many some."""
    rows = scales.scaled(np.concatenate([s.y for s in series]))
    rows = rows[np.isfinite(rows).any(1)]
    return rows[np.unique(np.linspace(0, len(rows) - 1, LEARNED).round().astype(int))] if len(rows) else rows


def distance(rows: np.ndarray, learned: np.ndarray) -> float:
    """How far the farthest of some rows (m, d) is from its nearest among those that were learned (R, d), scaled.

    Cells that are missing in one of two rows do not count, and the others for them; 0 where nothing can be compared.

    Example:
        >>> learned = np.array([[0.0, 0.0], [3.0, 4.0]])
        >>> distance(np.array([[3.0, 4.0], [3.0, 3.0]]), learned), distance(np.array([[np.nan, 6.0]]), learned)
        (1.0, 2.8284271247461903)
    """
    squares = np.square(rows[:, None] - learned)
    shared = np.isfinite(squares)
    measured, count = np.isfinite(learned).any(0).sum(), shared.sum(2)
    whole = np.where(count > 0, np.where(shared, squares, 0.0).sum(2) * measured / np.maximum(count, 1), np.inf)
    nearest = np.sqrt(whole.min(1, initial=np.inf))
    return float(nearest[np.isfinite(nearest)].max(initial=0.0))


def begins_at(record: Series, learned: np.ndarray, scales: Scales) -> float:
    """The distance of the rows that the starting state of a forecast is settled on."""
    return distance(scales.scaled(anchor(record, scales).y), learned)


def newcomers(
    config: Config, choice: Choice, folds: Sequence[Fold], scales: Scales, networks: Networks, group: Group = ALONE
) -> Trainer:
    """A training of networks of the chosen penalty for every fold that lacks whole series."""
    chosen = config.model_copy(update={"penalty": (choice.penalty,)})
    return candidates(chosen, folds, scales, networks, group, SHARE)


def unseen_ratios(choice: Choice, folds: Sequence[Fold], scales: Scales, trainer: Trainer) -> list[np.ndarray]:
    """Of every series that was left out (n, d) |error| / √(spread² + noise² + distance²), by networks that have not seen it.

    Args:
        trainer: as `newcomers` made it, trained.
    """
    out = list[np.ndarray]()
    for k, fold in enumerate(folds):
        learned = learned_rows(fold.taught, scales)
        error, spread = errors_of(trainer, k, len(folds), fold, scales)
        ends = np.cumsum([len(b.t) for b in fold.blocks])[:-1]
        for before, e, s in zip(fold.before, np.split(error, ends), np.split(spread, ends), strict=True):
            away = begins_at(before, learned, scales)
            out.append(np.minimum(e, LOST) / np.sqrt(s**2 + np.square(choice.noise) + away**2))
    return out
