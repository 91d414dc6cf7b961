"""Which column is the time, which tells series apart, which are states: asked for, or guessed from names and contents."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from isocline.fit.clock import Clock, dates
from isocline.fit.errors import UserError
from isocline.fit.reader import Cells

TIME_NAMES = (
    "time", "t", "ds", "timestamp", "datetime", "date", "year", "years", "month", "months", "week", "weeks", "day", "days",
    "hour", "hours", "minute", "minutes", "min", "second", "seconds", "sec", "s", "h", "age",
)  # fmt: skip
ID_NAMES = (
    "id", "unique_id", "item_id", "series_id", "series", "run", "run_id", "subject", "subject_id", "patient", "trajectory",
    "experiment", "trial", "replicate", "group", "sample_id",
)  # fmt: skip
ROW_NUMBER = re.compile(r"index|row|unnamed: \d+|column \d+")
_UNIT = re.compile(r"^(?P<name>.*?)\s*(?:\[(?P<square>[^\[\]]+)\]|\((?P<round>[^()]+)\))\s*$")


@dataclass(frozen=True)
class Column:
    """A column with its unit, from a header such as `level [V]` or `level (V)`."""

    header: str
    name: str
    unit: str

    @staticmethod
    def of(header: str) -> Column:
        """Splits a header.

        Example:
            >>> Column.of("level [V]").unit, Column.of("hare").unit
            ('V', '')
        """
        match = _UNIT.match(header)
        if not match or not match["name"]:
            return Column(header, header, "")
        return Column(header, match["name"], (match["square"] or match["round"]).strip())

    @property
    def key(self) -> str:
        """The name as it is looked up among known ones."""
        return self.name.strip().lower()


class Roles:
    """Decides on roles: what was asked for, then what names say, then what contents say."""

    def __init__(self, cells: Cells, time: str | None, id: str | None, states: list[str], ignore: list[str]) -> None:
        self.cells, self.ignored, self.notes = cells, [(c, "as asked") for c in ignore], list[str]()
        asked = [*filter(None, (time, id)), *states, *ignore]
        cells.require(*asked)
        for name in asked:
            if asked.count(name) > 1:
                raise UserError(f"column {name!r} was given two roles; expected one of --time, --id, --state, --ignore")
        self.free = [c for c in cells.columns if c not in asked]
        self.values: dict[str, np.ndarray] = {}
        self.bad: dict[str, np.ndarray] = {}
        for column in [*self.free, *filter(None, [time]), *states]:
            self.values[column], self.bad[column] = cells.numbers(column)
        self.id = id or self._id_by_name()
        self.time = time or self._time()
        self.clock = self._clock()
        self.t = self.clock.numbers(cells, self.time)
        if self.id is None:
            self.id = self._id_by_content()
        self.groups = self._groups()
        self.states = self._given_states(states) if states else self._guessed_states()

    # ---- id -------------------------------------------------------------------------------------------------------
    def _id_by_name(self) -> str | None:
        for name in ID_NAMES:
            for column in self.free:
                if Column.of(column).key == name and self.cells.text(column).duplicated().any():
                    self.free.remove(column)
                    return column
        return None

    def _id_by_content(self) -> str | None:
        """The one text column that makes times increase where without it they do not."""
        if (np.diff(self.t) > 0).all():
            return None
        fitting = []
        for column in self.free:
            text = self.cells.text(column)
            groups = not self._mostly_numeric(column) and text.nunique() <= len(text) / 2
            if groups and not len(disorder(self.t, text.factorize()[0])[0]):
                fitting.append(column)
        if len(fitting) != 1:
            return None
        self.free.remove(fitting[0])
        self.notes.append(f"series are told apart by {fitting[0]!r}: within each, times increase")
        return fitting[0]

    def _groups(self) -> tuple[np.ndarray, list[str]]:
        """(codes (n,), names) of the series, in the order they appear."""
        if self.id is None:
            return np.zeros(len(self.cells.lines), dtype=np.int64), [""]
        text = self.cells.text(self.id)
        self.cells.refuse_bad(self.id, (text == "").to_numpy(), "the name of a series in every row")
        codes, names = text.factorize()
        return codes, [str(n) for n in names]

    # ---- time -----------------------------------------------------------------------------------------------------
    def _time(self) -> str:
        named = [c for name in TIME_NAMES for c in self.free if Column.of(c).key == name]
        named += [c for c in self.free if c not in named and re.match(r"(time|date)\b|time[_ ]", Column.of(c).key)]
        if named:
            for other in named[1:]:
                self.free.remove(other)
                self.ignored.append((other, f"another time column beside {named[0]!r}"))
            self.free.remove(named[0])
            return named[0]
        for column in self.free:
            values = self.values[column]
            if not np.isnan(values).any() and (np.diff(values) > 0).all():
                self.free.remove(column)
                self.notes.append(f"{column!r} is taken for the time: the first column that always increases")
                return column
        raise UserError(
            f"{self.cells.path}: no time column found: none is called time, t, date, year, … and none always increases; "
            f"name it with --time. Columns are {', '.join(map(repr, self.cells.columns[:20]))}"
        )

    def _clock(self) -> Clock:
        if self._mostly_numeric(self.time):
            return Clock()
        text = self.cells.text(self.time)
        stamps = dates(text)
        if stamps.notna().mean() <= 0.5:
            shown = text[text != ""].iloc[0] if (text != "").any() else "empty"
            raise UserError(
                f"{self.cells.path}: column {self.time!r}, the time, holds {shown!r}; "
                f"expected numbers, or dates as 2024-05-31 or 2024-05-31T12:30"
            )
        clock = Clock.of(stamps)
        self.notes.append(f"{self.time!r} holds dates, counted in {clock.label}")
        return clock

    # ---- states ---------------------------------------------------------------------------------------------------
    def _mostly_numeric(self, column: str) -> bool:
        """More than half of what is there is numbers: the rest is then a fault, not a text column."""
        values, bad = self.values[column], self.bad[column]
        numbers = ~np.isnan(values)
        return bool(numbers.any() and numbers.sum() > (bad & ~numbers).sum())

    def _given_states(self, states: list[str]) -> list[str]:
        self.ignored += [(c, "not asked for") for c in self.free]
        for column in states:
            self._check(column)
            if np.isnan(self.values[column]).all():
                raise UserError(f"{self.cells.path}: column {column!r} has no number in it")
            if self._constant(self.values[column]):
                self._refuse_constant(column)
        return states

    def _guessed_states(self) -> list[str]:
        states, constant = [], []
        for column in self.free:
            values = self.values[column]
            if not self._mostly_numeric(column):
                self.ignored.append((column, "not numeric" if self.bad[column].any() else "empty"))
                continue
            self._check(column)
            if ROW_NUMBER.fullmatch(Column.of(column).key) and (np.diff(values) == 1).all():
                self.ignored.append((column, "row numbers"))
            elif self._constant(values):
                constant.append(column)
                self.ignored.append((column, "constant"))
            elif self.id is not None and self._constant_within_series(values):
                self.ignored.append((column, "constant within every series"))
            else:
                states.append(column)
        if not states and constant:
            self._refuse_constant(constant[0])
        if not states:
            raise UserError(
                f"{self.cells.path}: no numeric column beside the time {self.time!r}; expected at least one state. "
                f"Columns are {', '.join(map(repr, self.cells.columns[:20]))}"
            )
        return states

    def _check(self, column: str) -> None:
        self.cells.refuse_bad(column, self.bad[column], "a finite number, or an empty cell where nothing was measured")

    def _constant(self, values: np.ndarray) -> bool:
        return bool(np.nanmax(values) == np.nanmin(values))

    def _constant_within_series(self, values: np.ndarray) -> bool:
        codes, names = self.groups
        low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
        seen = ~np.isnan(values)
        np.minimum.at(low, codes[seen], values[seen])
        np.maximum.at(high, codes[seen], values[seen])
        return len(names) < len(codes) and bool((high <= low).all())

    def _refuse_constant(self, column: str) -> None:
        raise UserError(
            f"{self.cells.path}: column {column!r} is {np.nanmax(self.values[column]):g} in every row: "
            f"expected a state that changes; there is no dynamics in this one to learn"
        )


def disorder(t: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(positions, order): rows sorted by series, and where in that order a time does not come after the one before."""
    order = np.argsort(codes, kind="stable")
    return np.flatnonzero((np.diff(codes[order]) == 0) & ~(np.diff(t[order]) > 0)), order
