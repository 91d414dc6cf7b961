"""Which columns are the time and which tell series apart: the first, by name or content, with which times increase."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import combinations, islice

import numpy as np
import pandas as pd

from isocline.fit.errors import UserError
from isocline.fit.reading.cells import Cells, listed, parted
from isocline.fit.reading.clock import Clock
from isocline.fit.reading.column import Column
from isocline.fit.reading.dates import dates
from isocline.fit.reading.long import Long
from isocline.fit.reading.order import LARGEST, UNIT, disorder
from isocline.fit.reading.parts import (
    DAY,
    MONTH,
    NAMES,
    OF_YEAR,
    QUARTER,
    YEAR,
    arrangements,
    clocks,
    part_of,
)
from isocline.fit.reading.reader import FILE

TIME_NAMES = (
    "time", "t", "ds", "timestamp", "datetime", "date", "year", "years", "month", "months", "week", "weeks", "day", "days",
    "hour", "hours", "minute", "minutes", "min", "second", "seconds", "sec", "s", "h", "age", "cycle", "cycles",
    *NAMES[QUARTER], *NAMES[OF_YEAR],
)  # fmt: skip
ROW_NUMBER, NAMELESS = re.compile(r"index|row|unnamed: \d+|column \d+"), ("column 1", "unnamed: 0")
SHORT_NAMES = ("t", "s", "h", "min")  # a temperature, susceptibles, a height, a minimum: beside another time, states
ID_NAMES = (
    "id", "unique_id", "item_id", "series_id", "series", "run", "run_id", "subject", "subject_id", "patient", "trajectory",
    "experiment", "simulationconditionid", "experimentid", "trial", "group", "sample_id", "recordid", "record_id",
)  # fmt: skip
# Columns that together may tell series apart, and how many such sets are tried; rows a series then has at least, on average.
MOST_APART, MOST_TRIED, ROWS_APART = 3, 200, 3
REPLICATE = "replicate"
REPLICATE_NAMES = (REPLICATE, "rep", "replica", "replicate_id", "replicates", "repeat", "repetition")


@dataclass(frozen=True)
class Asked:
    """Roles that were asked for; None or nothing is guessed. Fields as in `Config`."""

    time: str | None = None
    id: str | None = None
    states: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    variable: str | None = None
    value: str | None = None
    replicates: str | None = None
    time_unit: str | None = None


@dataclass(frozen=True)
class Times:
    """A time column, how it is written, its numbers (n,) and what there is to say."""

    header: str
    parts: list[str]
    clock: Clock
    t: np.ndarray
    notes: list[str] = field(default_factory=list)


class Candidates:
    """Columns that may be the time, or tell series apart.

    Args:
        cells: of the table.
        asked: what was asked for.
        free: columns that play no role yet.
        long: the columns of a long table.
        averaged: columns of replicates that are averaged over.
    """

    def __init__(self, cells: Cells, asked: Asked, free: list[str], long: Long | None, averaged: list[str]) -> None:
        self.cells, self.asked, self.free, self.long, self.averaged = cells, asked, free, long, averaged
        self.notes = list[str]()

    def best(self) -> tuple[Times, list[str]]:
        """The first columns of time and series with which times increase; else the first of all."""
        named = self._ids()
        codes = {tuple(ids): self.codes(ids) for ids in named}
        tried = [self._times(parts, i == 0) for i, parts in enumerate(self._time_candidates(codes[tuple(named[0])]))]
        repeats = self.long is not None or self.asked.replicates is not None
        for strictly in (True, False) if repeats else (True,):
            for times in filter(None, tried):
                for ids in named:
                    if not len(disorder(times.t, codes[tuple(ids)], strictly)[0]):
                        return self._chosen(times, tried), ids
                by_content = self._id_by_content(times, named[0]) if not self.asked.id and strictly else None
                if by_content:
                    return self._chosen(times, tried), [*named[0], by_content]
        assert tried[0] is not None
        return tried[0], named[0]

    def _chosen(self, times: Times, tried: list[Times | None]) -> Times:
        first = tried[0]
        if first is not None and times is not first:
            times.notes.append(f"{times.header!r} is taken for the time: {first.header!r} alone does not increase")
        return times

    def _ids(self) -> list[list[str]]:
        """Columns that may tell series apart by their names: one, then more together."""
        base = [FILE] if self.cells.file is not None else []
        if self.asked.id:
            return [[self.asked.id]] if not base or FILE in parted(self.asked.id) else [[FILE, self.asked.id]]
        names = ID_NAMES if self.asked.replicates == "mean" else (*ID_NAMES, *REPLICATE_NAMES)
        named = [c for name in names for c in self.free if Column.of(c).key == name and c not in base]
        named = [c for c in named if self.cells.text(c).duplicated().any()]
        if base and named and self.codes([*base, named[0]]).max() == self.codes(base).max():
            named = named[1:]  # says no more than the file
        return [[*base, *named[: k + 1]] for k in range(len(named))] or [base]

    def codes(self, ids: list[str]) -> np.ndarray:
        """(n,) of each row: the series; what was measured, in a long table; the replicate, where these are averaged."""
        columns = [*ids, *([self.long.variable] if self.long else []), *self.averaged]
        if not columns:
            return np.zeros(len(self.cells.lines), dtype=np.int64)
        return _numbered([self._codes_of(c) for c in columns])

    def _codes_of(self, column: str) -> np.ndarray:
        """(n,) of each row the number of what stands in a column, in the order of appearance."""
        return self.cells.text(column).factorize()[0]

    def _id_by_content(self, times: Times, base: list[str]) -> str | None:
        """The one text column that makes times increase where without it they do not; else the one of whole numbers, each in a
        block of rows of its own."""
        if len(base) > (self.cells.file is not None):
            return None
        found: dict[bytes, str] = {}  # by how they part the rows: of a name and its abbreviation, the first
        for column in self.free:
            if column in times.parts or says_time(column) or self.cells.numeric(column):
                continue
            text, codes = self.cells.text(column), self.codes([*base, column])
            if text.nunique() <= len(text) / 2 and not len(disorder(times.t, codes)[0]):
                found.setdefault(codes.tobytes(), column)
        fitting = list(found.values())
        if not fitting:
            fitting = [c for c in self.apart(times, base, most=1) if self._counts(c)]
        if len(fitting) != 1:
            return None
        self.notes.append(f"series are told apart by {fitting[0]!r}: within each, times increase")
        return fitting[0]

    def _counts(self, column: str) -> bool:
        """Whether it holds whole numbers, and nothing else."""
        values, _ = self.cells.numbers(column)
        return bool((values == values.round()).all())

    def apart(self, times: Times, base: list[str], most: int = MOST_APART) -> list[str]:
        """The fewest columns besides, up to `most`, with which times increase where with `base` alone they do not; nothing where
        there are none, or several choices. Several are but a hint: they may say what was measured as well as of whom."""
        blocks = len(times.t) / ROWS_APART  # series, and changes of what tells them apart: each is one block of rows
        codes = {c: self._codes_of(c) for c in self.free if c not in (*times.parts, *base) and not says_time(c)}
        few = [c for c, x in codes.items() if x.any() and x.max() < blocks and np.count_nonzero(np.diff(x)) < blocks]
        fixed = [self._codes_of(c) for c in base]
        for size in range(1, most + 1):
            found: dict[bytes, list[str]] = {}  # by how they part the rows: of two that say the same, the first
            for columns in islice(combinations(few, size), MOST_TRIED):
                series = _numbered([*fixed, *(codes[c] for c in columns)])
                count = series.max() + 1
                in_blocks = 1 + np.count_nonzero(np.diff(series)) == count <= blocks
                if in_blocks and not len(disorder(times.t, self.codes([*base, *columns]))[0]):
                    found.setdefault(series.tobytes(), list(columns))
            if found:
                return next(iter(found.values())) if len(found) == 1 else []
        return []

    def _time_candidates(self, codes: np.ndarray) -> list[list[str]]:
        """Columns that may be the time, each with those it is made of, the likeliest first."""
        if self.asked.time:
            return [[self.asked.time]]
        named = [c for name in TIME_NAMES for c in self.free if Column.of(c).key == name]
        named += [c for c in self.free if c not in named and says_time(c)]
        named = [c for c in named if not self.is_attribute(c, codes)]
        if named:
            lesser = [c for c in named if part_of(c) not in (None, YEAR)]
            alone = [[c] for c in named if c not in lesser]
            return [*self._dates_with_daytimes(named), *alone, *self._calendar(named), *([c] for c in lesser)]
        by_content = self._time_by_content(codes)
        if by_content:
            return [[by_content]]
        raise UserError(
            f"{self.cells.path}: no time column found: none is called time, t, date, year, … and none always increases; "
            f"name it with --time. Columns are {listed(self.cells.columns)}"
        )

    def _time_by_content(self, codes: np.ndarray) -> str | None:
        """The first column that always increases, dates before numbers; before numbers of rows, what series have in common."""
        increasing = (c for c in sorted(self.free, key=self.cells.numeric) if self._increases(c, codes))
        first = next(increasing, None)
        if first is None:
            return None
        counted = self.cells.numeric(first) and numbers_rows(Column.of(first).key, self.cells.numbers(first)[0])
        if counted and codes.any():
            shared = next((c for c in increasing if self.cells.text(c).nunique() <= len(codes) / 2), None)
            first, counted = shared or first, shared is None
        self.notes.append(
            f"no column says when a row was measured: at equal steps, as {first!r} numbers them, is a guess"
            if counted
            else f"{first!r} is taken for the time: the first column that always increases"
        )
        return first

    def _increases(self, column: str, codes: np.ndarray) -> bool:
        """Whether it holds times, which increase within each series."""
        try:
            return not len(disorder(Clock.of(self.cells, column)[0].numbers(self.cells, column), codes)[0])
        except UserError:
            return False

    def is_attribute(self, column: str, codes: np.ndarray) -> bool:
        """Whether it is an age that was told once of each series."""
        if Column.of(column).key != "age":
            return False
        order = np.argsort(codes, kind="stable")
        steps = np.diff(self._codes_of(column)[order])[np.diff(codes[order]) == 0]
        return len(steps) > 0 and not steps.any()

    def _dates_with_daytimes(self, named: list[str]) -> list[list[str]]:
        """A column of dates or numbered days beside one of times of day."""
        text = {c: self.cells.text(c) for c in (named if len(named) > 1 else [])}
        clocks_ = [c for c, cells in text.items() if self._is_clock(c, cells)]
        days = [c for c, cells in text.items() if c not in clocks_ and self._is_day(c, cells)]
        return [[d, c] for d in days for c in clocks_][:1]

    def _is_clock(self, column: str, cells: pd.Series) -> bool:
        """Whether times of day stand there: 8:30, or 830 in a column called by no unit, of more hours than one."""
        if not self.cells.numeric(column):
            return bool(cells.str.match(r"\d{1,2}:\d\d").mean() > 0.5)
        values, _ = self.cells.numbers(column)
        hours, minutes = np.divmod(values, 100)
        written = bool(((values == values.round()) & (hours >= 0) & (hours < 24) & (minutes < 60)).all())
        return part_of(column) is None and written and len(np.unique(minutes)) > 1 < len(np.unique(hours))

    def _is_day(self, column: str, cells: pd.Series) -> bool:
        if self.cells.numeric(column):
            return part_of(column) in (DAY, OF_YEAR)
        return not cells.str.contains(":", regex=False).any() and bool(dates(cells).notna().mean() > 0.5)

    def _calendar(self, named: list[str]) -> list[list[str]]:
        """What says the day in several columns, a date and hours, then minutes, …: as far as there are such columns."""
        parts = {part: c for c in reversed(self.free) if (part := part_of(c)) is not None}
        date = [c for c in named if Column.of(c).key in ("date", "ds")][:1]
        return [*arrangements(parts), *([*date, *more] for more in (clocks(parts) if date else []))]

    def _times(self, parts: list[str], first: bool) -> Times | None:
        """What these columns say; None where they are no times, unless they are the likeliest: then it is a fault."""
        try:
            header = self.cells.join(parts) if len(parts) > 1 else parts[0]
            clock, notes = Clock.of(self.cells, header, self.asked.time_unit)
            t = clock.numbers(self.cells, header)
            self.cells.refuse_bad(header, np.abs(t) > LARGEST, f"a time of at most {LARGEST:g}, {UNIT}")
            said = [part_of(c) for c in parted(header)]
            if len(said) > 1 and said[0] in (MONTH, DAY, OF_YEAR) and not clock.origin:
                clock, begin = Clock(unit="d"), ", from 1 January" if said[0] == MONTH else ""
                notes = [*notes, f"{header!r} says no year: time counts days{begin}"]
            return Times(header, parts, clock, t, notes)
        except UserError:
            if first:
                raise
            return None


def _numbered(columns: list[np.ndarray]) -> np.ndarray:
    """(n,) of each row the number of what stands in all of these, in the order of appearance."""
    return pd.MultiIndex.from_arrays(columns).factorize()[0]


def says_time(column: str) -> bool:
    """By its name."""
    key = Column.of(column).key
    return key in TIME_NAMES or bool(re.match(r"(time|date)\b|time[_ ]", key))


def numbers_rows(key: str, values: np.ndarray) -> bool:
    """Whether a column counts rows: one after the other, or, where the first column has no name, as they were numbered in a
    table that these are a part of."""
    if not ROW_NUMBER.fullmatch(key):
        return False
    if (np.diff(values) == 1).all():
        return True
    return key in NAMELESS and len(np.unique(values)) == len(values) and bool((values == values.round()).all())
