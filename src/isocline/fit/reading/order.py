"""Whether the times of a table increase within each series, and where they do not."""

from __future__ import annotations

import shlex
from typing import Protocol, runtime_checkable

import numpy as np

from isocline.fit.errors import UserError
from isocline.fit.reading.cells import Cells, parted
from isocline.fit.reading.clock import Clock
from isocline.fit.reading.reader import FILE

LARGEST, SMALLEST = 1e100, 1e-100  # sizes whose squares, and ratios of which, are numbers, too
UNIT = "so that one can calculate with squares: give the column in another unit"
DIGITS = 8  # times the spacing of numbers, below which a step of time is not a step


@runtime_checkable
class Placed(Protocol):
    """What the messages of `refuse_unordered` speak of; fields as in `Roles`."""

    cells: Cells
    clock: Clock
    time: str
    id: str | None
    groups: tuple[np.ndarray, list[str]]
    ignored: list[tuple[str, str]]

    def apart(self) -> list[str]:
        """Columns that tell series apart."""
        ...


def disorder(t: np.ndarray, codes: np.ndarray, strictly: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(positions, order): rows sorted by series, and where in that order a time does not come after the one before.

    A time that stands again counts as such where `strictly`.
    """
    order = np.argsort(codes, kind="stable")
    steps = np.diff(t[order])
    return np.flatnonzero((np.diff(codes[order]) == 0) & ~(steps > 0 if strictly else steps >= 0)), order


def refuse_unordered(placed: Placed, t: np.ndarray, codes: np.ndarray, strictly: bool = True) -> None:
    """Times must increase within each series; to sort them silently would hide a mistake in the table.

    Args:
        placed: whose table it is.
        t, codes: (n,) time and series of each row of its cells.
        strictly: refuse times that stand again, too.
    """
    wrong, order = disorder(t, codes, strictly)
    if not len(wrong):
        _refuse_too_close(placed, t[order], codes[order], order)
        return
    cells = placed.cells
    a, b = order[wrong[0]], order[wrong[0] + 1]
    of = f" of series {placed.groups[1][placed.groups[0][b]]!r}" if placed.id else ""
    before = cells.place(a).removeprefix(f"{cells.place(b).rpartition(':')[0]}: ")
    first, second = placed.clock.text(t[a]), placed.clock.text(t[b])
    if t[a] == t[b]:
        what, hint = f"is repeated (first in {before})", "keep one row a time"
        other = next((c for c, why in placed.ignored if why.startswith("another time column")), None)
        if other:
            hint = f"if {other!r} is part of the time, write both as one column, such as 2024-05 or 2024.33"
        else:
            hint += ", or say --replicates mean (or series) if it was measured several times"
    else:
        what, hint = f"comes after {first} ({before})", "sort the rows"
        if placed.clock.daytime:
            hint += ", or give the date too, as a column of its own, if a new day begins here"
    apart = placed.apart() if t[a] > t[b] else []
    if apart:
        apart = [*(c for c in parted(placed.id) if c != FILE), *apart] if placed.id else apart
        flags = " ".join(f"--id {shlex.quote(c)}" for c in apart)
        hint = f"they do within each {' and '.join(map(repr, apart))}: if these are series of their own, say {flags}"
    elif placed.id is None:
        hint += "; or, if the table holds several series, name the column that tells them apart with --id"
    elif t[a] > t[b]:
        hint += f"; or, if {placed.id!r} alone does not tell series apart, name every column that does, each with --id"
    raise UserError(f"{cells.place(b, placed.time)}: time {second}{of} {what}; expected times that increase: {hint}")


def _refuse_too_close(placed: Placed, t: np.ndarray, codes: np.ndarray, order: np.ndarray) -> None:
    """Of sorted times: steps that are rounding more than time."""
    largest = np.zeros(codes.max() + 1)
    np.maximum.at(largest, codes, np.abs(t))
    steps, least = np.diff(t), np.maximum(DIGITS * np.spacing(largest), SMALLEST)[codes[1:]]
    close = np.flatnonzero((np.diff(codes) == 0) & (steps > 0) & (steps < least))
    if len(close):
        i = close[0]
        raise UserError(
            f"{placed.cells.place(order[i + 1], placed.time)}: only {steps[i]:.3g} after the time before it; expected at least "
            f"{least[i]:.3g}, as times in this series go up to {largest[codes[i]]:.3g} and a number has 16 digits: count "
            f"time in another unit or from a later origin, or keep rows that are further apart"
        )
