"""From a file to series: every trajectory with its times and states."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from isocline.fit.clock import Clock
from isocline.fit.errors import UserError
from isocline.fit.reader import Cells, read_cells
from isocline.fit.roles import Column, Roles, disorder


@dataclass
class Series:
    """One trajectory: times (n,), strictly increasing, and states (n, d), NaN where not observed."""

    id: str
    t: np.ndarray
    y: np.ndarray


@dataclass
class Table:
    """What was read, and how it was understood.

    Attributes:
        path, sha256, rows: of the file.
        time, id, states: the columns that play these roles; `id` may be None.
        clock: how times are written.
        series: at least one, in the order of the file.
        ignored: (header, why) of all other columns.
        notes: what was guessed and what was masked, for the screen and the report.
    """

    path: str
    sha256: str
    rows: int
    time: Column
    id: Column | None
    states: list[Column]
    clock: Clock
    series: list[Series]
    ignored: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table(
    path: str | Path,
    time: str | None = None,
    id: str | None = None,
    states: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Table:
    """Reads a wide table: one row a time, one column a state.

    Args:
        path: of a CSV or Excel file.
        time, id, states: headers that play these roles; what is not given is guessed from names and contents.
        ignore: headers that play none.

    Raises:
        UserError: naming the line of the file and the column.
    """
    cells = read_cells(path)
    if len(cells.lines) < 2:
        n = len(cells.lines)
        raise UserError(f"{path}: {n} row{'s' * (n != 1)} of data, expected at least two times to learn from")
    roles = Roles(cells, time, id, list(states), list(ignore))
    t = roles.t
    y = np.stack([roles.values[c] for c in roles.states], 1)
    codes, names = roles.groups
    _refuse_unordered(cells, roles, t, codes, names)
    series = _split(t, y, codes, names, roles)
    masked = int(np.isnan(y).sum())
    if masked:
        roles.notes.append(f"{masked} empty cell{'s' * (masked != 1)}: masked, left out of the loss, never filled in")
    time_column = Column.of(roles.time)
    if roles.clock.origin:
        time_column = Column(roles.time, time_column.name, roles.clock.label)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return Table(
        str(path), digest, len(t), time_column, Column.of(roles.id) if roles.id else None,
        [Column.of(c) for c in roles.states], roles.clock, series, roles.ignored, [*cells.notes, *roles.notes],
    )  # fmt: skip


def _refuse_unordered(cells: Cells, roles: Roles, t: np.ndarray, codes: np.ndarray, names: list[str]) -> None:
    """Times must increase within each series; to sort them silently would hide a mistake in the table."""
    wrong, order = disorder(t, codes)
    if not len(wrong):
        return
    a, b = order[wrong[0]], order[wrong[0] + 1]
    of = f" of series {names[codes[a]]!r}" if roles.id else ""
    first, second = roles.clock.text(t[a]), roles.clock.text(t[b])
    what = (
        f"is repeated (first in line {cells.lines[a]})"
        if t[a] == t[b]
        else f"comes after {first} (line {cells.lines[a]})"
    )
    hint = "sort the rows" if t[a] != t[b] else "keep one row a time"
    other = next((c for c, why in roles.ignored if why.startswith("another time column")), None)
    if other and t[a] == t[b]:
        hint = f"if {other!r} is part of the time, write both as one column, such as 2024-05 or 2024.33"
    elif roles.id is None:
        hint += "; or, if the table holds several series, name the column that tells them apart with --id"
    raise UserError(
        f"{cells.path}: line {cells.lines[b]}, column {roles.time!r}: time {second}{of} {what}; "
        f"expected times that increase: {hint}"
    )


def _split(t: np.ndarray, y: np.ndarray, codes: np.ndarray, names: list[str], roles: Roles) -> list[Series]:
    """Series without the rows in which nothing was observed, and without those that have one row only."""
    seen = np.atleast_1d(np.isfinite(y).any(axis=1))
    order = np.argsort(codes, kind="stable")
    order = order[seen[order]]
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    out, short = [], []
    for name, start, stop in zip(names, bounds[:-1], bounds[1:], strict=True):
        if stop - start < 2:
            short.append(name)
        else:
            out.append(Series(name, t[order[start:stop]], y[order[start:stop]]))
    if not out:
        raise UserError(f"{roles.cells.path}: no series has two rows with a measurement; expected at least two times")
    if short:
        shown = ", ".join(map(repr, short[:5])) + (f" and {len(short) - 5} more" if len(short) > 5 else "")
        roles.notes.append(f"left out: series with fewer than two rows ({shown})")
    empty = int((~seen).sum())
    if empty:
        roles.notes.append(f"left out: {empty} row{'s' * (empty != 1)} without any measurement")
    return out
