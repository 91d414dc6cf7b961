"""What is given to a series beside its measurements: doses, in rows as NONMEM and its kin write them, and covariates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from isocline.fit.dosing import Regimen
from isocline.fit.errors import UserError
from isocline.fit.reading.cells import Cells, listed
from isocline.fit.reading.clock import Clock
from isocline.fit.reading.column import Column
from isocline.fit.reading.long import VALUE_NAMES

if TYPE_CHECKING:
    from isocline.fit.reading.roles import Roles

AMOUNT_NAMES = ("amt", "amount")
# Columns that say more of a dose, by the role they are printed with.
BESIDE = {
    "evid": "kind of a row: 0 measured, 1 dose, 3 reset, 4 both",
    "mdv": "1 where nothing was measured",
    "cmt": "which state a dose goes into",
    "rate": "rate of an infusion",
    "dur": "duration of an infusion",
    "addl": "further doses like it",
    "ii": "time between these",
    "ss": "1 for a dose in steady state",
}
SAYS_DOSES = ("evid", "mdv", "cmt", "addl")  # names that nothing else has; the others say it beside one of these
ARROW = "->"


@dataclass(frozen=True)
class Dose:
    """One dose: when, how much, over how long (0 is at once), and into which state: its name, its number from 1, or unsaid.

    An interval that is not 0 says that the same was given at it for ever before.
    """

    t: float
    amount: float
    duration: float
    state: str | int | None
    interval: float = 0.0


@dataclass
class Given:
    """What one series is given: doses by time, covariates by the header of their column; and when all begins again."""

    doses: list[Dose] = field(default_factory=list)
    covariates: dict[str, float] = field(default_factory=dict)
    resets: list[float] = field(default_factory=list)

    def regimen(self, states: Sequence[Column], path: object) -> Regimen:
        """The doses into states of a network; what says nothing else goes into the first.

        Raises:
            UserError: for a dose into what is no state.
        """
        places = {name: i for i, c in enumerate(states) for name in (c.header, c.name)}
        if self.resets:
            raise UserError(
                f"{path}: evid 3 or 4 at {self.resets[0]:g}: a reset is known of equations without networks only"
            )
        steady = [d.t for d in self.doses if d.interval > 0]
        if steady:
            raise UserError(
                f"{path}: ss is 1 at {steady[0]:g}: a steady state is known of equations without networks only; write the "
                f"doses before it out"
            )
        doses = sorted(self.doses, key=lambda d: d.t)
        amount = np.zeros((len(doses), len(states)))
        for row, d in zip(amount, doses, strict=True):
            into = 0 if d.state is None else d.state - 1 if isinstance(d.state, int) else places.get(d.state, -1)
            if not 0 <= into < len(states):
                raise UserError(
                    f"{path}: a dose into {d.state!r}, which is no state; there are "
                    f"{', '.join(c.header for c in states)}: give the column as in --dose 'amt->{states[0].header}'"
                )
            row[into] = d.amount
        return Regimen(np.array([d.t for d in doses]), amount, np.array([d.duration for d in doses]))


def dosed(text: str) -> tuple[str, str | None]:
    """Column and state of "amt->gut", or of "amt" alone.

    Example:
        >>> dosed("amt -> gut"), dosed("amt")
        (('amt', 'gut'), ('amt', None))
    """
    column, arrow, state = text.rpartition(ARROW)
    return (column.strip(), state.strip()) if arrow else (text.strip(), None)


def amounts_of(cells: Cells, taken: Sequence[str]) -> str | None:
    """The column amt of a table in which nothing was said of doses; None where it has another role, or is no dose in any row.

    Nor where it is one in every row, and no other column says so: that is something measured which has this name.
    """
    found = next((c for c in cells.columns if Column.of(c).key == AMOUNT_NAMES[0]), None)
    if found is None or found in taken or not cells.numeric(found):
        return None
    values, bad = cells.numbers(found)
    given = np.nan_to_num(values) != 0
    sure = not given.all() or bool(of_doses([c for c in cells.columns if c != found]))
    return found if not bad.any() and bool(given.any()) and sure else None


def of_doses(columns: Sequence[str]) -> list[str]:
    """The columns, of those without amounts, that only say how something is given."""
    keys = [Column.of(c).key for c in columns]
    if not set(SAYS_DOSES) & set(keys):
        return []
    return [c for c, key in zip(columns, keys, strict=True) if key in (*AMOUNT_NAMES, *BESIDE)]


@dataclass(frozen=True)
class Clocked:
    """As much of `Roles` as doses need: of a table without measurements."""

    time: str
    id: str | None
    clock: Clock
    asked: Any = None


class Doses:
    """The dose rows and columns of a table.

    Args:
        cells: as read.
        asked: "COLUMN" or "COLUMN->STATE" of each column with amounts; none: one called amt or amount, where there is one.
        measured: headers of what is measured, where they are known.

    Attributes:
        cells: without dose columns, and without rows in which nothing was measured.
        columns: (header, role) of the columns taken.
        notes: what was found.
    """

    def __init__(self, cells: Cells, asked: Sequence[str], measured: Sequence[str]) -> None:
        self.whole = cells
        by_key = {Column.of(c).key: c for c in reversed(cells.columns)}
        pairs = [dosed(text) for text in asked] or [(by_key[n], None) for n in AMOUNT_NAMES if n in by_key][:1]
        cells.require(*(column for column, _ in pairs))
        self.amounts = {column: (self._numbers(column), state) for column, state in pairs}
        self.beside = {
            key: by_key[key] for key in BESIDE if pairs and key in by_key and by_key[key] not in self.amounts
        }
        self.columns = [(c, f"dose into {s}" if s else "dose") for c, (_, s) in self.amounts.items()]
        self.columns += [(c, BESIDE[key]) for key, c in self.beside.items()]
        self.notes: list[str] = []
        kind = self._beside("evid")
        cells.refuse_bad(
            self.beside.get("evid", ""), ~np.isin(kind, (0, 1, 2, 3, 4)),
            "0 (measured), 1 (a dose), 2 (neither), 3 (a reset) or 4 (a reset and a dose)",
        )  # fmt: skip
        self.resets = kind >= 3
        cells.refuse_bad(
            self.beside.get("ss", ""), ~np.isin(self._beside("ss"), (0, 1)),
            "0, or 1 for a dose before which the same was given for ever",
        )  # fmt: skip
        dosing = (kind == 1) | (kind == 4) if "evid" in self.beside else np.ones(len(cells.lines), dtype=bool)
        self.dosing = {column: (a != 0) & dosing for column, (a, _) in self.amounts.items()}
        given = np.logical_or.reduce([*self.dosing.values(), np.zeros(len(dosing), dtype=bool)])
        nothing = (kind != 0) | (self._beside("mdv") == 1)
        if not self.beside.keys() & {"evid", "mdv"}:
            nothing = given & self._unmeasured(measured)
        drop = [c for c, _ in self.columns]
        keep = ~nothing
        frame = cells.frame.loc[keep].drop(columns=drop).reset_index(drop=True)
        file = None if cells.file is None else cells.file[keep]
        self.cells = replace(cells, frame=frame, lines=cells.lines[keep], file=file, _numbers={})

    def _numbers(self, column: str) -> np.ndarray:
        values, bad = self.whole.numbers(column)
        self.whole.refuse_bad(column, bad, "an amount, or an empty cell where nothing is given")
        return np.nan_to_num(values)

    def _beside(self, key: str) -> np.ndarray:
        """(n,) of a column beside the amounts; 0 without one, and where it is empty."""
        if key not in self.beside:
            return np.zeros(len(self.whole.lines))
        return self._numbers(self.beside[key])

    def _unmeasured(self, measured: Sequence[str]) -> np.ndarray:
        """(n,) rows that are empty in all that is measured: what was asked for, else a column called dv, conc, …"""
        known = [c for c in self.whole.columns if c in measured or Column.of(c).name in measured]
        known = known or [c for c in self.whole.columns if Column.of(c).key in VALUE_NAMES]
        if not known:
            return np.zeros(len(self.whole.lines), dtype=bool)
        return np.all([(self.whole.text(c) == "").to_numpy() for c in known], 0)

    # ---- once roles are known -----------------------------------------------------------------------------------------
    def given(self, roles: Roles | Clocked, covariates: Sequence[str]) -> dict[str, Given]:
        """By the name of each series."""
        names = self._series(roles)
        out = {name: Given() for name in dict.fromkeys(names.tolist())}
        for column in covariates:
            values = self._covariate(column)
            for name in out:
                own = values[names == name]
                own = own[~np.isnan(own)]
                if not len(own):
                    raise UserError(
                        f"{self.whole.path}: column {column!r} is empty in series {name!r}; expected a number"
                    )
                wrong = (names == name) & ~np.isnan(values) & (values != own[0])
                self.whole.refuse_bad(column, wrong, f"{own[0]:g} as before: a covariate is constant within a series")
                out[name].covariates[column] = float(own[0])
        if self.resets.any() or any(mine.any() for mine in self.dosing.values()):
            self._schedule(out, names, roles)
        return out

    def _series(self, roles: Roles | Clocked) -> np.ndarray:
        """(n,) names of all rows."""
        if roles.id is None:
            return np.full(len(self.whole.lines), "")
        if roles.asked is not None and roles.asked.replicates == "series":
            raise UserError("--replicates series: beside doses or covariates; name the series with --id")
        self.whole.require(roles.id)
        return self.whole.text(roles.id).to_numpy()

    def _covariate(self, column: str) -> np.ndarray:
        """(n,) numbers; of a text column with two values 0 and 1 in the order of the alphabet."""
        self.whole.require(column)
        if self.whole.numeric(column):
            values, bad = self.whole.numbers(column)
            self.whole.refuse_bad(column, bad, "a finite number, or an empty cell")
            return values
        text = self.whole.text(column)
        kinds = sorted(set(text) - {""})
        if len(kinds) != 2:
            raise UserError(
                f"{self.whole.path}: column {column!r} holds {listed(kinds, 5)}; expected numbers, or a text column with two "
                f"values, as a covariate"
            )
        self.notes.append(f"{column}: {kinds[0]} = 0, {kinds[1]} = 1")
        return text.map({kinds[0]: 0.0, kinds[1]: 1.0, "": np.nan}).to_numpy(dtype=np.float64)

    def _schedule(self, out: dict[str, Given], names: np.ndarray, roles: Roles | Clocked) -> None:
        self.whole.require(roles.time)
        t = roles.clock.numbers(self.whole, roles.time)
        rate, duration, further, gap = (self._beside(key) for key in ("rate", "dur", "addl", "ii"))
        steady = self._beside("ss") == 1
        self._check_further(rate, further, gap, steady)
        into = self.beside.get("cmt")
        for name, given in out.items():
            given.resets += t[self.resets & (names == name)].tolist()
        count = 0
        for column, mine in self.dosing.items():
            amounts, state = self.amounts[column]
            for name, given in out.items():
                rows = np.flatnonzero(mine & (names == name))
                whole = np.flatnonzero(names == name)
                if len(rows) == len(whole) > 1 and len(set(amounts[rows])) == 1:
                    rows = rows[:1]  # a column that repeats the one dose in every row
                for i in rows:
                    over = amounts[i] / rate[i] if rate[i] > 0 else duration[i]
                    to = state if state else _state(self.whole.text(into).iloc[i]) if into else None
                    times = t[i] + gap[i] * np.arange(1 + int(further[i]))
                    begins = [
                        *given.resets,
                        *t[mine & steady & (names == name)],
                    ]  # what begins anew ends a series of doses
                    times = times[times < min((x for x in begins if x > t[i]), default=np.inf)]
                    before = [gap[i] * steady[i], *np.zeros(len(times) - 1)]
                    given.doses += [
                        Dose(float(x), float(amounts[i]), float(over), to, float(every))
                        for x, every in zip(times, before, strict=True)
                    ]
                    count += len(times)
        self.notes.append(f"{count} dose{'s' * (count != 1)} to {sum(bool(g.doses) for g in out.values())} series")

    def _check_further(self, rate: np.ndarray, further: np.ndarray, gap: np.ndarray, steady: np.ndarray) -> None:
        """Refuses what says nothing that can be given."""
        given = np.logical_or.reduce([*self.dosing.values()])
        refuse, beside = self.whole.refuse_bad, self.beside.get
        refuse(beside("rate", ""), rate < 0, "a rate, or 0 for a dose at once")
        refuse(beside("addl", ""), (further < 0) | (further % 1 != 0), "a whole number of further doses, or 0")
        refuse(beside("ss", ""), steady & ~given, "0 where no amount is given")
        refuse(beside("ii", ""), gap < 0, "the time between doses, or 0")
        where = beside("ii", beside("ss", beside("addl", "")))
        without = given & (gap == 0)
        refuse(where, without & (further > 0), "the time between doses in a column ii, as addl asks for further ones")
        refuse(where, without & steady, "the time between doses in a column ii, as ss asks for those before")


def _state(text: str) -> str | int | None:
    """What a cell of cmt names: a state by its number from 1, or by its name."""
    return (int(text) if text.isdigit() else text) if text not in ("", "0") else None
