"""Which columns are the time, tell series apart, are states: asked for, or guessed from names and contents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from isocline.fit.errors import UserError
from isocline.fit.reading.arrange import (
    ID_NAMES,
    REPLICATE,
    REPLICATE_NAMES,
    SHORT_NAMES,
    TIME_NAMES,
    Asked,
    Candidates,
    Times,
    numbers_rows,
    says_time,
)
from isocline.fit.reading.cells import TOGETHER, Cells, listed, parted
from isocline.fit.reading.column import Column
from isocline.fit.reading.given import of_doses
from isocline.fit.reading.long import Long, occurrences, widened
from isocline.fit.reading.order import LARGEST, SMALLEST, UNIT, disorder, refuse_unordered
from isocline.fit.reading.reader import FILE

FINITE = "a finite number, or an empty cell where nothing was measured"


class Roles:
    """Decides on roles: what was asked for, then what names say, then what contents say.

    Attributes:
        cells: as read; of a long table, turned to one row a time.
        time, id: headers; of several columns together, joined by "+".
        clock, t: how times are written, and the times (n,) as numbers.
        chosen: the columns of both, as found.
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
        self.candidates = Candidates(cells, asked, list(self.free), self.long, self.averaged)
        times, ids = self.candidates.best()
        tried = [c for c in self.cells.columns if c not in (*before, times.header)]
        self.cells.frame = self.cells.frame.drop(columns=tried)
        self.time, self.clock, self.t, self.chosen = times.header, times.clock, times.t, (times, ids)
        self.notes += [*self.candidates.notes, *times.notes]
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
            refuse_unordered(self, self.t, self.candidates.codes(ids), strictly=False)
        elif asked.replicates == "series" and len(disorder(self.t, self.groups[0])[0]):
            self._number(self.t)
        for column in [*self.free, *(c for c in self.asked.states if c not in self.free), *self.asked.inputs]:
            if column not in self.values:
                self.values[column], self.bad[column] = self.cells.numbers(column)
        self.inputs = self._given_inputs()
        self.states = self._given_states() if self.asked.states else self._guessed_states()
        self._check_log()

    def apart(self) -> list[str]:
        """The columns that tell series apart where those that were taken for it do not, as far as the contents show that."""
        return self.candidates.apart(*self.chosen)

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
    def _groups(self, ids: list[str]) -> tuple[np.ndarray, list[str]]:
        if not ids:
            return np.zeros(len(self.cells.lines), dtype=np.int64), [""]
        text = self.cells.text(self.cells.join(ids) if len(ids) > 1 else ids[0])
        self.cells.refuse_bad(ids[0], (text == "").to_numpy(), "the name of a series in every row")
        codes, names = text.factorize()
        return codes, [str(n) for n in names]

    def _take(self, times: Times, ids: list[str]) -> None:
        """What plays these roles is free no more; nor is a second time column."""
        parts = times.parts if len(times.parts) > 1 else self._columns_of(times.header)
        several = [c for header in ids for c in self._columns_of(header)]
        self.others += [(c, "part of the time") for c in parts if c != times.header]
        self.others += [(c, "part of the series' name") for c in several if c != self.id]
        self.free = [c for c in self.free if c not in (*parts, *several, times.header)]
        codes = self.candidates.codes(ids)
        for column in self.free if not self.asked.time else []:
            if (
                says_time(column)
                and not self.candidates.is_attribute(column, codes)
                and not self._may_be_state(column, ids)
            ):
                self.ignored.append((column, f"another time column beside {times.header!r}"))
        beside = [c for c, why in self.ignored if why.startswith("another")]
        self.free = [c for c in self.free if c not in beside]

    def _may_be_state(self, column: str, ids: list[str]) -> bool:
        key = Column.of(column).key
        if key not in SHORT_NAMES or not self.cells.numeric(column):
            return False
        return key != "t" or len(disorder(self.cells.numbers(column)[0], self.candidates.codes(ids))[0]) > 0

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
        refuse_unordered(self, self.t, self.candidates.codes(ids), strictly=False)
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
            self.cells.refuse_bad(column, self.bad[column], FINITE)
            if np.isnan(self.values[column]).all():
                raise UserError(f"{self.cells.path}: column {column!r} has no number in it")
            self._check(column)
            if self._constant(self.values[column]):
                self._refuse_constant(column)
        return states

    def _guessed_states(self) -> list[str]:
        states, constant = [], []
        dosing = of_doses(self.free)
        for column in self.free:
            values = self.values[column]
            if column in dosing:
                self.ignored.append((column, f"says how doses are given (--state {column} takes it as a state)"))
                continue
            if column in self.averaged or not self.cells.numeric(column):
                why = (
                    "averaged over" if column in self.averaged else "not numeric" if self.bad[column].any() else "empty"
                )
                self.ignored.append((column, why))
                continue
            self._check(column)
            if numbers_rows(Column.of(column).key, values):
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
        cells, values = self.cells, self.values[column]
        cells.refuse_bad(column, self.bad[column], FINITE)
        cells.refuse_bad(column, np.abs(values) > LARGEST, f"at most {LARGEST:g}, {UNIT}")
        low, high = np.nanmin(values), np.nanmax(values)
        if low < high and high - low < SMALLEST:
            raise UserError(
                f"{cells.path}: column {column!r} varies by {high - low:g} only; expected at least {SMALLEST:g}, {UNIT}"
            )

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
