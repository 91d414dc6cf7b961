"""Long tables, one row a measurement: to one row a time, one column a variable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from isocline.fit.errors import UserError
from isocline.fit.reading.cells import Cells
from isocline.fit.reading.column import Column

VARIABLE_NAMES = (
    "variable", "variable_name", "var", "observable", "observableid", "observable_id", "parameter", "parameter_name", "param",
    "measure", "analyte", "dvid", "quantity", "metric", "name",
)  # fmt: skip
VALUE_NAMES = (
    "value", "values", "val", "measurement", "measured", "reading", "result", "conc", "concentration", "dv",
)  # fmt: skip
WEAK = ("name",)  # names a variable only beside a column that is called a value
UNIT_NAMES = ("unit", "units")


@dataclass(frozen=True)
class Long:
    """The columns of a long table: names of what was measured, values, and units where there are any."""

    variable: str
    value: str
    unit: str | None = None

    @staticmethod
    def of(cells: Cells, free: list[str], variable: str | None, value: str | None) -> Long | None:
        """From what was asked for, else from names; None for a wide table.

        Args:
            free: columns that may play these roles.
            variable, value: what was asked for.

        Raises:
            UserError: where one of the two was asked for and the other cannot be told.
        """
        asked = variable is not None or value is not None
        if variable is None:
            variable = _named(cells, free, VARIABLE_NAMES, value, numeric=False)
            if variable is None and asked:
                variable = _only(cells, free, value, numeric=False)
            if variable is None and asked:
                raise UserError(
                    f"{cells.path}: --value {value}: which column names what was measured? Give it with --variable"
                )
        if variable is None:
            return None
        if value is None:
            value = _named(cells, free, VALUE_NAMES, variable, numeric=True)
            strong = asked or Column.of(variable).key not in WEAK
            value = _only(cells, free, variable, numeric=True) if value is None and strong else value
        if value is None:
            if asked:
                raise UserError(
                    f"{cells.path}: --variable {variable}: which column holds the values? Give it with --value"
                )
            return None
        unit = _named(cells, free, UNIT_NAMES, variable, numeric=False)
        if unit is not None and cells.text(unit).groupby(cells.text(variable)).nunique().max() > 1:
            unit = None
        return Long(variable, value, unit)

    def header(self, name: str, cells: Cells, rows: np.ndarray) -> str:
        """Of the column of a variable, with its unit."""
        unit = cells.text(self.unit)[rows].iloc[0] if self.unit else ""
        return f"{name} [{unit}]" if unit and not Column.of(name).unit else name


def _named(cells: Cells, free: list[str], names: tuple[str, ...], taken: str | None, numeric: bool) -> str | None:
    for name in names:
        for column in free:
            if column != taken and Column.of(column).key == name and cells.numeric(column) == numeric:
                return column
    return None


def _only(cells: Cells, free: list[str], taken: str | None, numeric: bool) -> str | None:
    fitting = [c for c in free if c != taken and cells.numeric(c) == numeric]
    return fitting[0] if len(fitting) == 1 else None


@dataclass
class Wide:
    """A long table turned: cells with one row a time of a series, and what the columns of variables hold.

    Attributes:
        cells: the columns of time and series, and one for each variable.
        rows: (n,) row of the long table that each row begins with.
        codes: (n,) series of each row.
        values, bad: by variable: (n,) numbers, the mean where one was measured several times, and which are none.
        repeated: how many times something was measured more than once.
    """

    cells: Cells
    rows: np.ndarray
    codes: np.ndarray
    values: dict[str, np.ndarray]
    bad: dict[str, np.ndarray]
    repeated: int


def widened(cells: Cells, long: Long, keep: list[str], t: np.ndarray, codes: np.ndarray) -> Wide:
    """Turns a long table: series by series, by time within each; a variable that was not measured at a time is empty there.

    Args:
        keep: columns of time and series.
        t, codes: (m,) time and series of each row.
    """
    names = cells.text(long.variable)
    cells.refuse_bad(long.variable, (names == "").to_numpy(), "the name of what was measured in every row")
    order = np.lexsort((t, codes))
    new = np.concatenate([[True], (np.diff(codes[order]) != 0) | (np.diff(t[order]) != 0)])
    row = np.empty(len(t), dtype=np.int64)
    row[order] = np.cumsum(new) - 1
    first = order[new]
    numbers, wrong = cells.numbers(long.value)
    frame = cells.frame.loc[first, keep].reset_index(drop=True)
    file = None if cells.file is None else cells.file[first]
    wide = Cells(cells.path, frame, cells.lines[first], cells.notes, cells.rows, cells.paths, file)
    out = Wide(wide, first, codes[first], {}, {}, 0)
    kinds, variables = names.factorize()
    for k, name in enumerate(map(str, variables)):
        mine = np.flatnonzero(kinds == k)
        header = long.header(name, cells, mine)
        if header in frame.columns:
            raise UserError(
                f"{cells.place(int(mine[0]), long.variable)}: a variable {name!r}, which is the name of another column, too; "
                f"rename one of them"
            )
        out.values[header], count = means(numbers[mine], row[mine], len(first))
        out.bad[header] = np.bincount(row[mine], wrong[mine], minlength=len(first)) > 0
        lines, written = wide.lines.copy(), cells.text(long.value)
        cell = np.full(len(first), "", dtype=object)
        for some in (mine[~wrong[mine]], mine[wrong[mine]]):  # of several, the place of one that is bad
            lines[row[some]], cell[row[some]] = cells.lines[some], written.iloc[some]
        wide.places[header] = (lines, f"column {long.value!r} of {name!r}")
        frame[header] = pd.Series(cell, dtype="str") if out.bad[header].any() else out.values[header]
        out.repeated += int((count > 1).sum())
    return out


def means(values: np.ndarray, row: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) means of the values that are not NaN by row, NaN where there is none; and (n,) how many there are."""
    seen = np.isfinite(values)
    count = np.bincount(row[seen], minlength=n)
    total = np.bincount(row[seen], values[seen] / count[row[seen]], minlength=n)
    return np.where(count > 0, total, np.nan), count


def occurrences(*keys: np.ndarray) -> np.ndarray:
    """(n,) how often each row's keys stood before it."""
    return pd.DataFrame(dict(enumerate(keys))).groupby(list(range(len(keys)))).cumcount().to_numpy()
