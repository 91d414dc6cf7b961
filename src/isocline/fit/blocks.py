"""Held-out blocks spread over the record: what chooses the penalty, and what the bands are calibrated on; and whole series.

One segment at the end is a poor judge: on the cascaded tanks its order of settings hardly agrees with that of another
record. Here every block is forecast by networks that have seen everything else, before it and after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from isocline.fit.reading.table import Series
from isocline.fit.split import MANY, cut, looked_at

SHARE = 0.15  # of a series that a block takes
FIRST = 0.25  # of a series before the first block, to start from
BLOCKED = 14  # rows from which a series has blocks of its own; of shorter ones the second half is a block
SCORED, ROWS = 32, 200  # series a fold is scored on, and rows of a block
PIECE = 5  # rows a remaining piece has at least
FEWEST = 3  # rows of a short series: from two of them the third is forecast
GROUPS, QUARTER = 3, 4  # groups of series that are left out, and what part of all series is one


@dataclass
class Fold:
    """Series without one block each.

    Attributes:
        taught: the pieces that are left.
        before: what precedes each block, where a forecast starts; `blocks` the blocks.
    """

    taught: list[Series] = field(default_factory=list)
    before: list[Series] = field(default_factory=list)
    blocks: list[Series] = field(default_factory=list)


def folds(series: Sequence[Series], count: int) -> list[Fold]:
    """`count` folds, or none where the series are too short and too few.

    The blocks of a series are as far apart as they can be, the last at its end. Of series with fewer than 14 rows every
    `count`-th loses its second half: of ten rows or more, or of three where there are many series.
    """
    out = [Fold() for _ in range(count)]
    halved = FEWEST if len(series) >= MANY else 2 * PIECE
    for i, s in enumerate(series):
        n = len(s.t)
        length = max(2, round(SHARE * n))
        begins = np.linspace(FIRST * n, n - length, count).round().astype(int) if n >= BLOCKED else []
        for k, fold in enumerate(out):
            if len(begins):
                _block(fold, s, int(begins[k]), int(begins[k]) + length)
            elif i % count == k and n >= halved:
                _block(fold, s, max(2, n // 2), n)
            else:
                fold.taught.append(s)
    out = [f for f in out if f.taught and any(np.isfinite(b.y).any() for b in f.blocks)]
    return [_scored(f) for f in out] if len(out) == count else []


def without_series(series: Sequence[Series]) -> list[Fold]:
    """Three folds that lack a quarter of the series each, drawn by lot, and at least one; of two series two folds; of one none.

    Of a series that is left out the first rows are what precedes the block: what a forecast of a new series may look at.
    """
    usable = [s for s in series if s.complete and len(s.t) >= 2 * PIECE and looked_at(s) > s.first + 1]
    size = max(1, len(usable) // QUARTER)
    order = np.random.default_rng(0).permutation(len(usable))
    groups = [order[k : k + size] for k in range(0, GROUPS * size, size)] if len(usable) > 1 else []
    out = []
    for group in groups:
        if len(group):
            out_of_it = {id(usable[i]) for i in group}
            fold = Fold([s for s in series if id(s) not in out_of_it])
            for i in group:
                before, block = cut(usable[i], looked_at(usable[i]))
                fold.before.append(before)
                fold.blocks.append(block)
            out.append(_scored(fold))
    return out


def _block(fold: Fold, s: Series, begin: int, end: int) -> None:
    before, rest = cut(s, begin)
    block, after = cut(rest, end - begin)
    pieces = [piece for piece in (before, after.cut_off) if piece.complete]
    fold.taught += [piece for piece in pieces if len(piece.t) - piece.first >= PIECE]
    fold.before.append(before)
    fold.blocks.append(block)


def _scored(fold: Fold) -> Fold:
    chosen = np.unique(np.linspace(0, len(fold.blocks) - 1, SCORED).round().astype(int))
    blocks = [cut(fold.blocks[i], ROWS)[0] for i in chosen]
    return Fold(fold.taught, [fold.before[i] for i in chosen], blocks)
