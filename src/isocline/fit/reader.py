"""A file in, cells out: forgiving about how a table is written down."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from isocline.fit.errors import UserError

MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "?", ".")
_MISSING_SPELLINGS = sorted({f(m) for m in MISSING for f in (str, str.upper, str.title)} | {"NaN"})
_SEPARATORS = (";", "\t", "|", ",")
_BINARY_MARKS = (b"PK\x03\x04", b"PAR1", b"\x89PNG", b"\x89HDF", b"%PDF", b"\x1f\x8b", b"\xd0\xcf\x11\xe0")


@dataclass
class Cells:
    """The columns of a file as read.

    Attributes:
        path: of the file.
        frame: a column is numbers (NaN where empty) if every cell of it is one, else text.
        lines: (n,) line of the file each row stands in; the header is line 1 unless blank lines precede it.
        notes: what was unusual, for the screen and the report.
    """

    path: Path
    frame: pd.DataFrame
    lines: np.ndarray
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Headers."""
        return list(self.frame.columns)

    def text(self, column: str) -> pd.Series:
        """Cells as text; whole numbers without a fraction, empty where missing."""
        cells = self.frame[column]
        if pd.api.types.is_numeric_dtype(cells):
            whole = cells.dropna()
            if (whole == whole.round()).all() and (whole.abs() < 2**53).all():
                cells = cells.astype("Int64")
        return cells.astype("str").where(~pd.isna(cells), "").str.strip()

    def numbers(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """(values, bad): float64 with NaN where empty; bad marks text and infinities."""
        cells = self.frame[column]
        if pd.api.types.is_numeric_dtype(cells):
            values = cells.to_numpy(dtype=np.float64, copy=True)
            return values, np.isinf(values)
        text = self.text(column)
        values = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, copy=True)
        empty = text.str.lower().isin(MISSING).to_numpy()
        values[empty] = np.nan
        return values, (np.isnan(values) & ~empty) | np.isinf(values)

    def refuse_bad(self, column: str, bad: np.ndarray, expected: str) -> None:
        """UserError at the first bad cell."""
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            more = f" (and {int(bad.sum()) - 1} more in this column)" if bad.sum() > 1 else ""
            shown = self.text(column).iloc[i] or "empty"
            raise UserError(
                f"{self.path}: line {self.lines[i]}, column {column!r}: {shown!r}{more}; expected {expected}"
            )

    def require(self, *names: str) -> None:
        """UserError for a name that is no header, with the nearest one."""
        for name in names:
            if name not in self.columns:
                near = difflib.get_close_matches(name.lower(), [c.lower() for c in self.columns], n=1, cutoff=0.5)
                guess = next((f"; did you mean {c!r}?" for c in self.columns if near and c.lower() == near[0]), "")
                raise UserError(f"{self.path}: no column {name!r}{guess}; there are {_listed(self.columns)}")


def _listed(names: list[str], most: int = 20) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def read_cells(path: str | Path, one_column: bool = False) -> Cells:
    """Reads a CSV (separated by comma, semicolon, tab or bar; decimal point or comma; with or without a BOM; any line
    ends) or the first sheet of an Excel file.

    Args:
        path: of the file.
        one_column: a single column is a table, too.

    Raises:
        UserError: for a file that is missing, empty, not a table, or a table with rows longer than its header.
    """
    path = Path(path)
    _refuse_absent(path)
    if path.suffix.lower() in (".xlsx", ".xlsm", ".xls", ".ods"):
        return _excel(path)
    data = path.read_bytes()
    if not data.strip():
        raise UserError(f"{path}: the file is empty; expected a table with a header line (CSV)")
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    if data.startswith(_BINARY_MARKS) or (b"\x00" in data[:65536] and not utf16):
        raise UserError(f"{path}: a binary file, not a table; expected text with a header line (CSV), or Excel (.xlsx)")
    text, notes = _decoded(data, utf16)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    body = text.lstrip("\n")
    cells = _parsed(path, body, 1 + len(text) - len(body), one_column)
    cells.notes[:0] = notes
    return cells


def _refuse_absent(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a table; expected a CSV or Excel file")
    if not path.exists():
        near = []
        if path.parent.is_dir():
            near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir() if p.is_file()], n=1)
        raise UserError(f"{path}: no such file{f'; did you mean {path.with_name(near[0])}?' if near else ''}")


def _decoded(data: bytes, utf16: bool) -> tuple[str, list[str]]:
    if utf16:
        return data.decode("utf-16", errors="replace"), []
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:  # an old spreadsheet's µ and °
        return data.decode("cp1252", errors="replace"), ["the file is not UTF-8: read as Windows-1252"]


def _parsed(path: Path, text: str, first_line: int, one_column: bool) -> Cells:
    separator = _separator(text)
    if separator is None and one_column:
        separator = ";"
    if separator is None:
        raise UserError(
            f"{path}: not a table: found one column only; expected cells separated by , ; | or tab, e.g. time,x,y"
        )
    header_line, _, body = text.partition("\n")
    header = [name.strip() for name in next(csv.reader([header_line], delimiter=separator, skipinitialspace=True))]
    _check_header(path, header, first_line)
    if not body.strip():
        raise UserError(f"{path}: 0 rows of data, expected at least two times to learn from")
    header = [name or f"column {i + 1}" for i, name in enumerate(header)]
    _check_width(path, body, separator, header, first_line)
    try:
        frame = pd.read_csv(
            io.StringIO(body), sep=separator, header=None, names=header, index_col=False, skip_blank_lines=False,
            skipinitialspace=True, na_values=_MISSING_SPELLINGS, keep_default_na=False, low_memory=False,
        )  # fmt: skip
    except pd.errors.ParserError as error:
        found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if not found:
            raise UserError(f"{path}: cannot be read as a table: {error}") from error
        raise _too_wide(path, first_line + int(found[2]), int(found[3]), len(header)) from error
    lines = np.arange(len(frame)) + first_line + 1
    filled = frame.notna().any(axis=1).to_numpy()
    frame, lines = frame[filled].reset_index(drop=True), lines[filled]
    blank = [c for i, c in enumerate(header) if c == f"column {i + 1}" and frame[c].isna().all()]
    cells = Cells(path, frame.drop(columns=blank), lines)  # lines that end in a separator make a column of nothing
    if separator != ",":
        _read_decimal_commas(cells)
    return cells


def _separator(text: str) -> str | None:
    """The one that divides the first lines alike; else the one that divides the header most."""
    head = text[:40_000].split("\n")
    lines = [line for line in head[: 40 if len(head) > 41 else len(head)] if line.strip()]
    counts = {s: [_count(line, s) for line in lines] for s in _SEPARATORS}
    for separator in _SEPARATORS:
        common, times = Counter(counts[separator]).most_common(1)[0]
        if common and times == len(lines):
            return separator
    best = max(_SEPARATORS, key=lambda s: counts[s][0])
    return best if counts[best][0] else None


def _count(line: str, separator: str) -> int:
    return re.sub(r'"[^"]*"', "", line).count(separator)


def _check_header(path: Path, header: list[str], line: int) -> None:
    if all(re.fullmatch(r"[-+]?[\d.,]+([eE][-+]?\d+)?", name) for name in header):
        raise UserError(
            f"{path}: line {line}: the first line is {', '.join(header[:4])}: numbers, expected the names of the columns; "
            f"put a line such as time,x,y above it"
        )
    twice = [name for name, n in Counter(filter(None, header)).items() if n > 1]
    if twice:
        raise UserError(
            f"{path}: line {line}: the column name {twice[0]!r} stands twice in the header; expected it once"
        )


def _check_width(path: Path, body: str, separator: str, header: list[str], line: int) -> None:
    """pandas would take the first column of a body that is wider than its header for row names."""
    for number, cells in enumerate(csv.reader(body.split("\n", 1)[:1], delimiter=separator), line + 1):
        if len(cells) > len(header):
            raise _too_wide(path, number, len(cells), len(header))


def _too_wide(path: Path, line: int, found: int, expected: int) -> UserError:
    return UserError(
        f"{path}: line {line}: {found} cells, the header names {expected} columns; expected as many. "
        f"Are decimal commas written in a file that is separated by commas?"
    )


_COMMA_NUMBER = re.compile(r"[-+]?(\d+,?\d*|,\d+)([eE][-+]?\d+)?")


def _read_decimal_commas(cells: Cells) -> None:
    """Text columns whose cells are numbers once the comma is a point become numbers."""
    changed = []
    for column in cells.columns:
        if pd.api.types.is_numeric_dtype(cells.frame[column]):
            continue
        text = cells.text(column)
        present = text[text != ""]
        comma = present.str.contains(",", regex=False)
        if comma.any() and present[comma].str.fullmatch(_COMMA_NUMBER).mean() > 0.5:
            pointed = text.where(~text.str.fullmatch(_COMMA_NUMBER), text.str.replace(",", ".", regex=False))
            values = pd.to_numeric(pointed, errors="coerce")
            good = bool((values.notna() | (text == "")).all())
            cells.frame[column] = values if good else pointed
            changed.append(column)
    if changed:
        cells.notes.append(f"decimal commas read as points in {', '.join(changed)}")


def _excel(path: Path) -> Cells:
    try:
        frame = pd.read_excel(path)
    except ImportError as error:
        raise UserError(
            f"{path}: reading Excel needs a package that is not installed ({error.name or 'openpyxl'}): "
            f"pip install openpyxl, or save the sheet as CSV"
        ) from error
    except Exception as error:  # whatever the reader meets in a broken file is a fault of the file
        raise UserError(f"{path}: cannot be read as a spreadsheet: {error}") from error
    if not len(frame):
        raise UserError(f"{path}: the first sheet has no rows below its header; expected a table")
    frame.columns = [str(c).strip() for c in frame.columns]
    filled = frame.notna().any(axis=1).to_numpy()
    lines = np.arange(len(frame))[filled] + 2
    return Cells(path, frame[filled].reset_index(drop=True), lines, ["the first sheet was read"])
