"""The cells of a table as read, each with the place it was read from."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from isocline.fit.errors import UserError
from isocline.fit.reading.parts import joined, side_by_side

MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "?", ".")
# Digits in groups of three: 1,234 or 1 234.5 or 1'234 or 1.234,5 (spaces may be narrow or unbreakable ones).
THOUSANDS = re.compile(
    r"[-+]?[1-9]\d{0,2}(?:(?:,\d{3})+(?:\.\d*)?|(?:[ \u00a0\u2009\u202f'’]\d{3})+(?:[.,]\d*)?|(?:\.\d{3})+,\d*|(?:\.\d{3}){2,})"
)
SHOWN = 40  # characters of a cell that a message repeats
TOGETHER = "+"  # joins the headers of columns that play a role together


@dataclass
class Cells:
    """The columns of a table as read.

    Attributes:
        path: what messages call the table: its file, or "the table".
        frame: a column is text as written ("" where empty), or numbers (NaN where empty) where the source has types.
        lines: (n,) line of the file each row stands in; the header is line 1 unless blank lines precede it.
        notes: what was unusual, for the screen and the report.
        rows: whether places are called rows, as in spreadsheets, and not lines.
        paths, file: of several files: their paths and, (n,), which of them each row is from.
        places: of columns made from others: (n,) line of each cell, and what messages call the column.
    """

    path: str
    frame: pd.DataFrame
    lines: np.ndarray
    notes: list[str] = field(default_factory=list)
    rows: bool = False
    paths: list[str] = field(default_factory=list)
    file: np.ndarray | None = None
    places: dict[str, tuple[np.ndarray, str]] = field(default_factory=dict)
    _numbers: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    @property
    def columns(self) -> list[str]:
        """Headers."""
        return list(self.frame.columns)

    def put(self, column: str, cells: pd.Series | np.ndarray) -> None:
        """Sets a column."""
        self.frame[column] = cells
        self._numbers.pop(column, None)

    def text(self, column: str) -> pd.Series:
        """Cells as text; whole numbers without a fraction, empty where missing."""
        cells = self.frame[column]
        if pd.api.types.is_numeric_dtype(cells):
            whole = cells.dropna()
            if (whole == whole.round()).all() and (whole.abs() < 2**53).all():
                cells = cells.astype("Int64")
            return cells.astype("str").where(~pd.isna(cells), "")
        return cells.where(~cells.str.lower().isin(MISSING), "")

    def numbers(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """(values, bad): float64 with NaN where empty; bad marks text and infinities."""
        if column not in self._numbers:
            self._numbers[column] = self._parsed(column)
        values, bad = self._numbers[column]
        return values.copy(), bad.copy()

    def _parsed(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        cells = self.frame[column]
        if pd.api.types.is_numeric_dtype(cells):
            values = cells.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
            return values, np.isinf(values)
        # Python's own conversion: pandas' is off by a last digit now and then. But it takes 1_000 for a number.
        text = cells.to_numpy(dtype=object)
        try:
            values = text.astype(np.float64)
        except ValueError:
            values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, copy=True)
            known = np.isfinite(values)
            values[known] = text[known].astype(np.float64)
        if "_" in "".join(text):
            values[cells.str.contains("_", regex=False).to_numpy()] = np.nan
        nothing = np.isnan(values)
        nothing[nothing] = cells[nothing].str.lower().isin(MISSING).to_numpy()
        return values, ~(np.isfinite(values) | nothing)

    def numeric(self, column: str) -> bool:
        """More than half of what is there is meant as a number: the rest is then a fault, not a text column."""
        values, bad = self.numbers(column)
        count = int((~np.isnan(values)).sum())
        if not bad.any():
            return count > 0
        grouped = int(self.text(column)[bad & np.isnan(values)].str.fullmatch(THOUSANDS).sum())
        return 2 * (count + grouped) > count + int((bad & np.isnan(values)).sum())

    def place(self, i: int | np.integer, column: str | None = None) -> str:
        """Where row i was read, as messages name it: the file and the line, and the column where one is given."""
        path = self.path if self.file is None else self.paths[self.file[i]]
        lines, called = self.places.get(column or "", (self.lines, f"column {column!r}"))
        return f"{path}: {'row' if self.rows else 'line'} {lines[i]}" + (f", {called}" if column is not None else "")

    def refuse_bad(self, column: str, bad: np.ndarray, expected: str) -> None:
        """UserError at the first bad cell."""
        if not bad.any():
            return
        i = int(np.flatnonzero(bad)[0])
        more = f" (and {int(bad.sum()) - 1} more in this column)" if bad.sum() > 1 else ""
        text = self.text(column).iloc[i]
        shown = (text[:SHOWN] + "…" if len(text) > SHOWN else text) or "empty"
        grouped = "; thousands are not to be set apart: write 1234.5" if THOUSANDS.fullmatch(text) else ""
        raise UserError(f"{self.place(i, column)}: {shown!r}{more}; expected {expected}{grouped}")

    def require(self, *names: str) -> None:
        """UserError for a name that is no header, with the nearest one.

        The headers of several columns joined by "+" name what these say together; that column is made here.
        """
        for name in names:
            if name in self.columns:
                continue
            parts = _parted(name, self.columns)
            if parts is None:
                near = difflib.get_close_matches(name.lower(), [c.lower() for c in self.columns], n=1, cutoff=0.5)
                guess = next((f"; did you mean {c!r}?" for c in self.columns if near and c.lower() == near[0]), "")
                raise UserError(f"{self.path}: no column {name!r}{guess}; there are {listed(self.columns)}")
            self.join(parts)

    def join(self, columns: list[str]) -> str:
        """A column of what several say together, a time or a name; its header. It is made where it is not there yet."""
        header = TOGETHER.join(columns)
        if header not in self.columns:
            times = joined(columns, [self.text(c) for c in columns])
            self.put(header, self._names(columns) if times is None else times)
        return header

    def _names(self, columns: list[str]) -> pd.Series:
        parts = [self.text(c) for c in columns]
        for column, part in zip(columns, parts, strict=True):
            self.refuse_bad(column, (part == "").to_numpy(), "the name of a series in every row")
        names = side_by_side(parts, "/")
        codes = pd.MultiIndex.from_arrays(parts).factorize()[0]
        if names.nunique() < codes.max() + 1:
            raise UserError(
                f"{self.path}: columns {listed(columns)} name two series alike once joined by '/'; "
                f"expected names without a slash"
            )
        return names


def listed(names: list[str], most: int = 20) -> str:
    """Names in quotes, the first of them where they are many."""
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def parted(name: str) -> list[str]:
    """The headers in a name such as `subject+replicate`."""
    return name.split(TOGETHER)


def _parted(name: str, columns: list[str]) -> list[str] | None:
    """As `parted`, but a header may hold a plus itself; None where no headers make up the name."""
    pieces = name.split(TOGETHER)
    for size in range(1, len(pieces)):
        head, tail = TOGETHER.join(pieces[:size]), TOGETHER.join(pieces[size:])
        if head in columns:
            rest = [tail] if tail in columns else _parted(tail, columns)
            if rest is not None:
                return [head, *rest]
    return None
