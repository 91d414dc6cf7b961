"""From a source to series: every trajectory with its times and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from isocline.fit.drive import Inputs
from isocline.fit.errors import UserError
from isocline.fit.reading.arrange import Asked
from isocline.fit.reading.cells import listed, parted
from isocline.fit.reading.clock import UNITS, Clock
from isocline.fit.reading.column import Column
from isocline.fit.reading.given import Doses, Given, amounts_of
from isocline.fit.reading.long import means
from isocline.fit.reading.months import unrolled
from isocline.fit.reading.order import refuse_unordered
from isocline.fit.reading.reader import Source, read_source
from isocline.fit.reading.roles import Roles


@dataclass
class Series:
    """One trajectory: times (n,), strictly increasing, states (n, d), NaN where not observed, and what drives it.

    The inputs u may be known before, between and after the times: those of a part of a series are those of the whole. With
    `lags` the states are (y(t), y(t − lags[0]), y(t − lags[1]), …), each of these all columns.
    """

    id: str
    t: np.ndarray
    y: np.ndarray
    u: Inputs | None = None
    lags: tuple[float, ...] = ()

    @property
    def hidden(self) -> np.ndarray:
        """(d,) which states were never observed here."""
        return np.logical_and.reduce(np.isnan(self.y), 0)

    def rows(self, which: slice | np.ndarray) -> Series:
        """Some of the rows."""
        return replace(self, t=self.t[which], y=self.y[which])

    # ---- of delay coordinates -------------------------------------------------------------------------------------
    @property
    def width(self) -> int:
        """States that are not earlier values of others."""
        return self.y.shape[1] // (1 + len(self.lags))

    @property
    def own(self) -> Series:
        """Without earlier values."""
        return replace(self, y=self.y[:, : self.width], lags=())

    @property
    def compared(self) -> np.ndarray:
        """(n, d) what a forecast is compared with: NaN also where a column holds earlier values of another."""
        return np.where(np.arange(self.y.shape[1]) < self.width, self.y, np.nan)

    @property
    def complete(self) -> bool:
        """Whether some row has all of its earlier values."""
        return bool((~np.isnan(self.y[:, self.width :])).all(1).any())

    @property
    def first(self) -> int:
        """The first row with all of its earlier values; 0 where there is none."""
        return int(np.argmax((~np.isnan(self.y[:, self.width :])).all(1)))

    @property
    def cut_off(self) -> Series:
        """Without values from before its first row, which another part of the record may hold back."""
        early = self.t - self.t[:1] < np.repeat([0.0, *self.lags], self.width)[:, None] * (1 - 1e-9)
        return replace(self, y=np.where(early.T, np.nan, self.y)) if self.lags else self


def ungiven(s: Series) -> np.ndarray:
    """(n, d) states without what they were given since the first row: what has no jumps."""
    if s.u is None or s.u.doses is None:
        return s.y
    given = s.u.doses.so_far(s.t)
    return s.y - (given - given[0])


@dataclass
class Table:
    """What was read, and how it was understood.

    Attributes:
        path, sha256, rows: of the file, or of all files together.
        time, id, states, inputs: the columns that play these roles; `id` may be None.
        clock: how times are written.
        series: at least one, in the order of the file.
        ignored: (header, why) of columns that play no role.
        notes: what was guessed and what was masked, for the screen and the report.
        others: (header, role) of columns that are part of a role, or of a long table.
        long: headers of the names and the values of a long table.
        log: headers of states that were asked to be taken in logarithms.
        given: by series, doses and covariates; None where they were not asked for.
        lags: how long before the earlier values among the states are, as `Series` has them.
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
    others: list[tuple[str, str]] = field(default_factory=list)
    long: tuple[str, str] | None = None
    log: tuple[str, ...] = ()
    inputs: list[Column] = field(default_factory=list)
    given: dict[str, Given] | None = None
    lags: tuple[float, ...] = ()

    @property
    def own(self) -> list[Column]:
        """States that are not earlier values of others."""
        return self.states[: len(self.states) // (1 + len(self.lags))]

    @property
    def hidden(self) -> list[bool]:
        """Which states were never observed."""
        return np.all([s.hidden for s in self.series], 0).tolist()

    def with_hidden(self, names: Sequence[str]) -> Table:
        """With states that were never observed, behind the others.

        Raises:
            UserError: for a name that a column has.
        """
        taken = [c.header for c in (self.time, *([self.id] if self.id else []), *self.states, *self.inputs)]
        for k, name in enumerate(names):
            if name in [*taken, *names[:k]]:
                raise UserError(
                    f"--hidden-states {name}: {name!r} is a column of {self.path}, or stands twice; expected a new name"
                )
        if not names:
            return self
        series = [replace(s, y=np.pad(s.y, ((0, 0), (0, len(names))), constant_values=np.nan)) for s in self.series]
        return replace(self, states=[*self.states, *(Column(n, n, "") for n in names)], series=series)

    def with_doses(self) -> Table:
        """With what the series are given where they are driven; without those that have one row.

        Raises:
            UserError: for a dose into what is no state.
        """
        nothing = Given()
        series = [
            replace(s, u=replace(s.u or Inputs.none(s.t), doses=given.regimen(self.states, self.path)))
            for s in self.series
            if len(s.t) > 1
            for given in [(self.given or {}).get(s.id, nothing)]
        ]
        if not series:
            raise UserError(f"{self.path}: no series has two rows with a measurement; expected at least two times")
        return replace(self, series=series)


def read_table(
    source: Source,
    time: str | None = None,
    id: str | None = None,
    states: Sequence[str] = (),
    ignore: Sequence[str] = (),
    *,
    inputs: Sequence[str] = (),
    hold: str = "zoh",
    log: Sequence[str] = (),
    variable: str | None = None,
    value: str | None = None,
    replicates: str | None = None,
    time_unit: str | None = None,
    sheet: str | None = None,
    given: bool | None = False,
    doses: Sequence[str] = (),
    covariates: Sequence[str] = (),
) -> Table:
    """Reads a table: wide, one row a time and one column a state; or long, one row a measurement.

    Args:
        source: path of a file, several paths, or a data frame.
        time, id, states: headers that play these roles; what is not given is guessed from names and contents. Several
            columns that are the time together, or the name of a series, are joined by "+".
        ignore: headers that play none.
        inputs: headers of what drives the system; an empty cell keeps the value before it, the first must be there.
        hold: of inputs between rows: "zoh", "linear" or "cubic".
        log: states that must be positive.
        variable, value: headers of a long table: what was measured, and its values.
        replicates: of rows at the same time of a series: "mean", or each a "series"; None refuses them, but where a column
            numbers replicates it tells series apart, and values of a long table are averaged.
        time_unit: in which dates are counted.
        sheet: of an Excel file.
        given: whether doses are looked for, and covariates kept; a series may then have a single measurement. None: where
            there is a column amt of which nothing was said.
        doses: "COLUMN" or "COLUMN->STATE" of amounts; none: a column called amt.
        covariates: headers of columns that are constant within a series.

    Raises:
        UserError: naming the line of the file and the column.
    """
    if time_unit is not None and time_unit not in UNITS:
        raise UserError(f"--time-unit {time_unit}: expected one of {', '.join(UNITS)}")
    said = [c for header in (time, id) if header for c in (header, *parted(header))]
    said += [*states, *ignore, *inputs, *filter(None, [variable, value])]
    cells, digest = read_source(source, sheet)
    cells = unrolled(cells, said)
    rows = len(cells.lines)
    if rows < 2:
        raise UserError(
            f"{cells.path}: {rows} row{'s' * (rows != 1)} of data, expected at least two times to learn from"
        )
    guessed = amounts_of(cells, said) if given is None else None
    given, doses = given or guessed is not None, doses or tuple(filter(None, [guessed]))
    taken = Doses(cells, doses, (*states, *filter(None, [value]))) if given else None
    cells = taken.cells if taken is not None else cells
    if not len(cells.lines):
        raise UserError(f"{cells.path}: every row is a dose; expected rows with measurements, too")
    asked = Asked(
        time, id, tuple(states), tuple(ignore), tuple(inputs), tuple(log), variable, value, replicates, time_unit
    )
    roles = Roles(cells, asked)
    handed = None
    if taken is not None:
        handed = taken.given(roles, covariates)
        roles.others += [*taken.columns, *((c, "covariate") for c in covariates)]
        roles.ignored = [(c, why) for c, why in roles.ignored if c not in covariates]
        roles.notes += taken.notes
    if guessed is not None:
        into = roles.states[0]
        roles.notes.append(
            f"{guessed!r} is taken for doses into {into!r}, as by --dose '{guessed}->{into}': name another state, or give "
            f"--state, --input or --ignore {guessed} where it is none"
        )
    t, (codes, names) = roles.t, roles.groups
    yu, at = np.stack([roles.values[c] for c in (*roles.states, *roles.inputs)], 1), np.arange(len(t))
    if replicates == "mean":
        t, yu, codes, at = _averaged(t, yu, codes, roles)
    else:
        refuse_unordered(roles, t, codes)
    y, u = np.split(yu, [len(roles.states)], 1)
    driven = _inputs(t, u, codes, len(names), roles, hold, at)
    series = _split(t, y, codes, names, roles, driven, 1 if given else 2)
    masked = sum(int(np.isnan(s.y).sum()) for s in series)
    if masked:
        roles.notes.append(f"{masked} empty cell{'s' * (masked != 1)}: masked, left out of the loss, never filled in")
    time_column = Column.of(roles.time)
    if roles.clock.unit:
        time_column = Column(roles.time, time_column.name, roles.clock.label)
    long = (roles.long.variable, roles.long.value) if roles.long else None
    return Table(
        cells.path, digest, rows, time_column, Column.of(roles.id) if roles.id else None,
        [Column.of(c) for c in roles.states], roles.clock, series, roles.ignored, [*cells.notes, *roles.notes],
        roles.others, long, roles.log,
        [Column.of(c) for c in roles.inputs], handed,
    )  # fmt: skip


def _averaged(
    t: np.ndarray, yu: np.ndarray, codes: np.ndarray, roles: Roles
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times, states and inputs, series, and which row of the table it is, with one row a time: the mean of the cells that are not empty."""
    order = np.lexsort((t, codes))
    new = np.concatenate([[True], (np.diff(codes[order]) != 0) | (np.diff(t[order]) != 0)])
    if new.all():
        return t, yu, codes, np.arange(len(t))
    row = np.empty(len(t), dtype=np.int64)
    row[order] = np.cumsum(new) - 1
    first = order[new]
    roles.notes.append(f"{len(t)} rows at {len(first)} times: the mean of rows at the same time is taken")
    return t[first], np.stack([means(c, row, len(first))[0] for c in yu.T], 1), codes[first], first


def _inputs(
    t: np.ndarray, u: np.ndarray, codes: np.ndarray, count: int, roles: Roles, hold: str, at: np.ndarray
) -> list[Inputs | None]:
    """Of every series, from all of its rows, also those without a measurement."""
    if not roles.inputs:
        return [None] * count
    order = np.argsort(codes, kind="stable")
    out: list[Inputs | None] = []
    for rows in np.split(order, np.searchsorted(codes[order], np.arange(1, count))):
        columns = [
            _held(u[rows, j], roles.cells.place(int(at[rows[0]]), column)) for j, column in enumerate(roles.inputs)
        ]
        out.append(Inputs(t[rows], np.stack(columns, 1), hold))
    return out


def _held(values: np.ndarray, where: str) -> np.ndarray:
    """An input, every empty cell filled with the value before it: a set point is often written once."""
    known = np.flatnonzero(~np.isnan(values))
    if not len(known) or known[0]:
        raise UserError(
            f"{where}: empty; expected the input's value in the first row of each series (an empty cell "
            f"further down keeps the value before it)"
        )
    return values[np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))]


def _split(
    t: np.ndarray,
    y: np.ndarray,
    codes: np.ndarray,
    names: list[str],
    roles: Roles,
    inputs: list[Inputs | None],
    fewest: int = 2,
) -> list[Series]:
    """Series without the rows in which nothing was observed, and without those that then have too few."""
    seen = np.atleast_1d(np.isfinite(y).any(axis=1))
    order = np.argsort(codes, kind="stable")
    order = order[seen[order]]
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    out, short = [], []
    for name, start, stop, u in zip(names, bounds[:-1], bounds[1:], inputs, strict=True):
        if stop - start < fewest:
            short.append(name)
        else:
            out.append(Series(name, t[order[start:stop]], y[order[start:stop]], u))
    if not out:
        raise UserError(f"{roles.cells.path}: no series has two rows with a measurement; expected at least two times")
    if short:
        few = "fewer than two rows" if fewest > 1 else "no measurement"
        roles.notes.append(f"left out: series with {few} ({listed(short, 5)})")
    empty = int((~seen).sum())
    if empty:
        roles.notes.append(f"left out: {empty} row{'s' * (empty != 1)} without any measurement")
    return out
