"""Which columns are the time, tell series apart, are states: asked for, or guessed from names and contents."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from isocline.fit.cells import TOGETHER, Cells, listed, parted
from isocline.fit.clock import Clock
from isocline.fit.column import Column
from isocline.fit.dates import dates, part_of
from isocline.fit.errors import UserError
from isocline.fit.long import Long, occurrences, widened
from isocline.fit.reader import FILE

TIME_NAMES = (
    "time", "t", "ds", "timestamp", "datetime", "date", "year", "years", "month", "months", "week", "weeks", "day", "days",
    "hour", "hours", "minute", "minutes", "min", "second", "seconds", "sec", "s", "h", "age",
)  # fmt: skip
SHORT_NAMES = ("t", "s", "h", "min")  # a temperature, susceptibles, a height, a minimum: beside another time, states
ID_NAMES = (
    "id", "unique_id", "item_id", "series_id", "series", "run", "run_id", "subject", "subject_id", "patient", "trajectory",
    "experiment", "simulationconditionid", "experimentid", "trial", "group", "sample_id",
)  # fmt: skip
REPLICATE = "replicate"
REPLICATE_NAMES = (REPLICATE, "rep", "replica", "replicate_id", "replicates", "repeat", "repetition")
ROW_NUMBER = re.compile(r"index|row|unnamed: \d+|column \d+")


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


class Roles:
    """Decides on roles: what was asked for, then what names say, then what contents say.

    Attributes:
        cells: as read; of a long table, turned to one row a time.
        time, id: headers; of several columns together, joined by "+".
        clock, t: how times are written, and the times (n,) as numbers.
        groups: (codes (n,), names) of the series, in the order they appear.
        states, inputs: headers; `values` and `bad` by header, as `Cells.numbers`.
        others: (header, role) of columns that play another role, or part of one.
        ignored: (header, why) of those that play none.
    """

    def __init__(self, cells: Cells, asked: Asked) -> None:
        self.cells, self.asked = cells, asked
        self.ignored = [(c, "as asked") for c in asked.ignore if c in cells.columns]
        self.notes, self.others = list[str](), list[tuple[str, str]]()
        self._require()
        asked = self.asked
        taken = [*self._columns_of(asked.time), *self._columns_of(asked.id), *asked.ignore, *asked.inputs]
        self.free = [c for c in cells.columns if c not in taken and c not in (asked.time, asked.id)]
        self.long = self._long()
        self.averaged = [c for c in self.free if asked.replicates == "mean" and Column.of(c).key in REPLICATE_NAMES]
        self.values, self.bad = dict[str, np.ndarray](), dict[str, np.ndarray]()
        before = self.cells.columns
        times, ids = self._arranged()
        tried = [c for c in self.cells.columns if c not in (*before, times.header)]
        self.cells.frame = self.cells.frame.drop(columns=tried)
        self.time, self.clock, self.t = times.header, times.clock, times.t
        self.notes += times.notes
        if asked.time_unit and not self.clock.origin:
            raise UserError(
                f"--time-unit {asked.time_unit}: {cells.path} has plain numbers in column {self.time!r}; expected dates. "
                f"The unit of numbers is what the header says, as in 'time [h]'"
            )
        self.id = TOGETHER.join(ids) or None
        self._take(times, ids)
        self.groups = self._groups(ids)
        if self.long:
            self._widen(times, ids)
        elif asked.replicates == "mean":
            refuse_unordered(self, self.t, self._codes(ids), strictly=False)
        elif asked.replicates == "series" and len(disorder(self.t, self.groups[0])[0]):
            self._number(self.t)
        for column in [*self.free, *(c for c in self.asked.states if c not in self.free), *self.asked.inputs]:
            if column not in self.values:
                self.values[column], self.bad[column] = self.cells.numbers(column)
        self.inputs = self._given_inputs()
        self.states = self._given_states() if self.asked.states else self._guessed_states()
        self._check_log()

    # ---- what was asked for -----------------------------------------------------------------------------------------
    def _require(self) -> None:
        """Refuses names that are no headers, and columns with two roles."""
        asked, cells = self.asked, self.cells
        if asked.id and asked.replicates == "series" and asked.id not in cells.columns:
            *others, last = parted(asked.id)
            if last == REPLICATE and REPLICATE not in cells.columns:  # a run's id: its rows are numbered here again
                self.asked = asked = replace(asked, id=TOGETHER.join(others) or None)
        cells.require(*filter(None, (asked.time, asked.id, asked.variable, asked.value)))
        named = [
            *filter(None, (asked.time, asked.id, asked.variable, asked.value)),
            *asked.states,
            *asked.ignore,
            *asked.inputs,
        ]
        for name in named:
            if named.count(name) > 1:
                raise UserError(
                    f"column {name!r} was given two roles; expected one of --time, --id, --state, --input, --ignore, "
                    f"--variable, --value"
                )

    def _columns_of(self, header: str | None) -> list[str]:
        """The columns a role is played by."""
        if header is None:
            return []
        return [c for c in self.cells.columns if c in (header, *parted(header))]

    def _long(self) -> Long | None:
        asked = self.asked
        given = asked.variable or asked.value
        wide = not given and asked.states and all(c in self.cells.columns for c in asked.states)
        known = (*TIME_NAMES, *ID_NAMES, *REPLICATE_NAMES, FILE)
        free = [c for c in self.free if Column.of(c).key not in known and c not in asked.states]
        long = None if wide else Long.of(self.cells, free, asked.variable, asked.value)
        if long is None:
            self.cells.require(*asked.states, *asked.ignore, *asked.inputs)
            return None
        self.others += [(long.variable, "names of the states"), (long.value, "values of the states")]
        self.others += [(long.unit, "units of the states")] if long.unit else []
        if not given:
            self.notes.append(
                f"a long table: {long.variable!r} names what was measured, {long.value!r} holds the values"
            )
        used = (long.variable, long.value, long.unit)
        self.free = [c for c in self.free if c not in used]
        return long

    # ---- time and series ----------------------------------------------------------------------------------------------
    def _arranged(self) -> tuple[Times, list[str]]:
        """The first columns of time and series with which times increase; else the first of all."""
        named = self._ids()
        codes = {tuple(ids): self._codes(ids) for ids in named}
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
        if base and named and self._codes([*base, named[0]]).max() == self._codes(base).max():
            named = named[1:]  # says no more than the file
        return [[*base, *named[: k + 1]] for k in range(len(named))] or [base]

    def _codes(self, ids: list[str]) -> np.ndarray:
        """(n,) of each row: the series; what was measured, in a long table; the replicate, where these are averaged."""
        columns = [*ids, *([self.long.variable] if self.long else []), *self.averaged]
        if not columns:
            return np.zeros(len(self.cells.lines), dtype=np.int64)
        return pd.MultiIndex.from_arrays([self.cells.text(c) for c in columns]).factorize()[0]

    def _id_by_content(self, times: Times, base: list[str]) -> str | None:
        """The one text column that makes times increase where without it they do not."""
        if len(base) > (self.cells.file is not None):
            return None
        fitting = []
        for column in self.free:
            if column in times.parts or self._says_time(column) or self.cells.numeric(column):
                continue
            text = self.cells.text(column)
            if text.nunique() <= len(text) / 2 and not len(disorder(times.t, self._codes([*base, column]))[0]):
                fitting.append(column)
        if len(fitting) != 1:
            return None
        self.notes.append(f"series are told apart by {fitting[0]!r}: within each, times increase")
        return fitting[0]

    def _groups(self, ids: list[str]) -> tuple[np.ndarray, list[str]]:
        if not ids:
            return np.zeros(len(self.cells.lines), dtype=np.int64), [""]
        text = self.cells.text(self.cells.join(ids) if len(ids) > 1 else ids[0])
        self.cells.refuse_bad(ids[0], (text == "").to_numpy(), "the name of a series in every row")
        codes, names = text.factorize()
        return codes, [str(n) for n in names]

    def _says_time(self, column: str) -> bool:
        key = Column.of(column).key
        return key in TIME_NAMES or bool(re.match(r"(time|date)\b|time[_ ]", key))

    def _time_candidates(self, codes: np.ndarray) -> list[list[str]]:
        """Columns that may be the time, each with those it is made of, the likeliest first."""
        if self.asked.time:
            return [[self.asked.time]]
        named = [c for name in TIME_NAMES for c in self.free if Column.of(c).key == name]
        named += [c for c in self.free if c not in named and self._says_time(c)]
        if named:
            lesser = [c for c in named if (part_of(c) or 0) > 0]
            alone = [[c] for c in named if c not in lesser]
            return [*self._dates_with_daytimes(named), *alone, *self._calendar(named), *([c] for c in lesser)]
        for column in sorted(self.free, key=self.cells.numeric):  # dates before numbers
            try:
                times = Clock.of(self.cells, column)[0].numbers(self.cells, column)
            except UserError:
                continue
            if not len(disorder(times, codes)[0]):
                self.notes.append(f"{column!r} is taken for the time: the first column that always increases")
                return [[column]]
        raise UserError(
            f"{self.cells.path}: no time column found: none is called time, t, date, year, … and none always increases; "
            f"name it with --time. Columns are {listed(self.cells.columns)}"
        )

    def _dates_with_daytimes(self, named: list[str]) -> list[list[str]]:
        """A column of days beside one of times of day."""
        text = {c: self.cells.text(c) for c in (named if len(named) > 1 else []) if not self.cells.numeric(c)}
        clocks = [c for c, cells in text.items() if cells.str.match(r"\d{1,2}:\d\d").mean() > 0.5]
        days = [c for c, cells in text.items() if c not in clocks and not cells.str.contains(":", regex=False).any()]
        return [[d, c] for d in days for c in clocks if dates(text[d]).notna().mean() > 0.5][:1]

    def _calendar(self, named: list[str]) -> list[list[str]]:
        """Year and month, then day, hour, …; a date and hours, then minutes, …: as far as there are such columns."""
        parts = {part_of(c): c for c in reversed(self.free) if part_of(c) is not None}
        out = []
        for first in (0, 3):
            run = [] if first == 0 else [c for c in named if Column.of(c).key in ("date", "ds")][:1]
            if first == 3 and not run:
                break
            for k in range(first, 6):
                if k not in parts:
                    break
                run = [*run, parts[k]]
                if len(run) > 1:
                    out.append(run)
        return out

    def _times(self, parts: list[str], first: bool) -> Times | None:
        """What these columns say; None where they are no times, unless they are the likeliest: then it is a fault."""
        try:
            header = self.cells.join(parts) if len(parts) > 1 else parts[0]
            clock, notes = Clock.of(self.cells, header, self.asked.time_unit)
            return Times(header, parts, clock, clock.numbers(self.cells, header), notes)
        except UserError:
            if first:
                raise
            return None

    def _take(self, times: Times, ids: list[str]) -> None:
        """What plays these roles is free no more; nor is a second time column."""
        parts = times.parts if len(times.parts) > 1 else self._columns_of(times.header)
        several = [c for header in ids for c in self._columns_of(header)]
        self.others += [(c, "part of the time") for c in parts if c != times.header]
        self.others += [(c, "part of the series' name") for c in several if c != self.id]
        self.free = [c for c in self.free if c not in (*parts, *several, times.header)]
        for column in self.free if not self.asked.time else []:
            if self._says_time(column) and not self._may_be_state(column, ids):
                self.ignored.append((column, f"another time column beside {times.header!r}"))
        beside = [c for c, why in self.ignored if why.startswith("another")]
        self.free = [c for c in self.free if c not in beside]

    def _may_be_state(self, column: str, ids: list[str]) -> bool:
        key = Column.of(column).key
        if key not in SHORT_NAMES or not self.cells.numeric(column):
            return False
        return key != "t" or len(disorder(self.cells.numbers(column)[0], self._codes(ids))[0]) > 0

    # ---- replicates, and tables that are long -------------------------------------------------------------------------
    def _number(self, *keys: np.ndarray) -> None:
        """Repeated rows of a series become series of their own."""
        codes, names = self.groups
        count = occurrences(codes, *keys)
        both, pairs = pd.MultiIndex.from_arrays([codes, count]).factorize()
        self.groups = both, [f"{names[c]}/{k + 1}" if self.id else str(k + 1) for c, k in pairs]
        self.id = f"{self.id}{TOGETHER}{REPLICATE}" if self.id else REPLICATE
        self.notes.append(f"rows at the same time are replicates: {len(pairs)} series, one for each")

    def _widen(self, times: Times, ids: list[str]) -> None:
        """One row a time, one column a variable."""
        assert self.long is not None
        long, cells = self.long, self.cells
        refuse_unordered(self, self.t, self._codes(ids), strictly=False)
        kinds = cells.text(long.variable).factorize()[0]
        if self.asked.replicates == "series" and occurrences(self.groups[0], self.t, kinds).any():
            self._number(self.t, kinds)
        keep = list(dict.fromkeys([times.header, *ids, *([self.id] if self.id in cells.columns else [])]))
        wide = widened(cells, long, keep, self.t, self.groups[0])
        why = "not part of a long table: neither time, series, variable nor value"
        asked = dict(self.ignored)
        self.ignored += [(c, why) for c in self.free if c not in asked]
        self.cells, self.t, self.groups = wide.cells, self.t[wide.rows], (wide.codes, self.groups[1])
        self.values, self.bad, self.free = wide.values, wide.bad, list(wide.values)
        by_name = {Column.of(c).name: c for c in self.free}
        self.asked = asked = replace(
            self.asked,
            states=tuple(by_name.get(c, c) for c in self.asked.states),
            ignore=tuple(by_name.get(c, c) for c in self.asked.ignore),
            inputs=tuple(by_name.get(c, c) for c in self.asked.inputs),
            log=tuple(by_name.get(c, c) for c in self.asked.log),
        )
        self.cells.require(*asked.states, *asked.inputs, *(c for c in asked.ignore if c not in cells.columns))
        self.ignored += [(c, "as asked") for c in asked.ignore if c in self.free]
        self.free = [c for c in self.free if c not in (*asked.ignore, *asked.inputs)]
        if wide.repeated:
            self.notes.append(
                f"{wide.repeated} value{'s' * (wide.repeated != 1)} measured several times at a time: the mean is taken "
                f"(--replicates series makes a series of each)"
            )

    # ---- inputs ---------------------------------------------------------------------------------------------------
    def _given_inputs(self) -> list[str]:
        for column in self.asked.inputs:
            expected = "a finite number, or an empty cell where the input keeps the value before it"
            self.cells.refuse_bad(column, self.bad[column], expected)
        return list(self.asked.inputs)

    # ---- states ---------------------------------------------------------------------------------------------------
    def _given_states(self) -> list[str]:
        states = list(self.asked.states)
        self.ignored += [(c, "not asked for") for c in self.free if c not in states]
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
            if column in self.averaged or not self.cells.numeric(column):
                why = (
                    "averaged over" if column in self.averaged else "not numeric" if self.bad[column].any() else "empty"
                )
                self.ignored.append((column, why))
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
                f"Columns are {listed(self.cells.columns)}"
            )
        return states

    def _check(self, column: str) -> None:
        self.cells.refuse_bad(column, self.bad[column], "a finite number, or an empty cell where nothing was measured")

    def _check_log(self) -> None:
        self.log = tuple(self.asked.log)
        for column in self.log:
            if column not in self.states:
                raise UserError(
                    f"--log {column}: {self.cells.path} has no state {column!r}; there are {listed(self.states)}"
                )
            self.cells.refuse_bad(column, self.values[column] <= 0, "a positive number, for --log")

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


def disorder(t: np.ndarray, codes: np.ndarray, strictly: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(positions, order): rows sorted by series, and where in that order a time does not come after the one before.

    A time that stands again counts as such where `strictly`.
    """
    order = np.argsort(codes, kind="stable")
    steps = np.diff(t[order])
    return np.flatnonzero((np.diff(codes[order]) == 0) & ~(steps > 0 if strictly else steps >= 0)), order


def refuse_unordered(roles: Roles, t: np.ndarray, codes: np.ndarray, strictly: bool = True) -> None:
    """Times must increase within each series; to sort them silently would hide a mistake in the table."""
    wrong, order = disorder(t, codes, strictly)
    if not len(wrong):
        return
    cells = roles.cells
    a, b = order[wrong[0]], order[wrong[0] + 1]
    of = f" of series {roles.groups[1][roles.groups[0][b]]!r}" if roles.id else ""
    before = cells.place(a).removeprefix(f"{cells.place(b).rpartition(':')[0]}: ")
    first, second = roles.clock.text(t[a]), roles.clock.text(t[b])
    if t[a] == t[b]:
        what, hint = f"is repeated (first in {before})", "keep one row a time"
        other = next((c for c, why in roles.ignored if why.startswith("another time column")), None)
        if other:
            hint = f"if {other!r} is part of the time, write both as one column, such as 2024-05 or 2024.33"
        else:
            hint += ", or say --replicates mean (or series) if it was measured several times"
    else:
        what, hint = f"comes after {first} ({before})", "sort the rows"
        if roles.clock.daytime:
            hint += ", or give the date too, as a column of its own, if a new day begins here"
    if roles.id is None:
        hint += "; or, if the table holds several series, name the column that tells them apart with --id"
    raise UserError(f"{cells.place(b, roles.time)}: time {second}{of} {what}; expected times that increase: {hint}")
