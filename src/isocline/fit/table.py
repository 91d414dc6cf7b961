"""A wide table in, series out: forgiving about how a file is written, strict about what is in it."""

from __future__ import annotations

import difflib
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from isocline.fit.errors import UserError

TIME_NAMES = ("time", "t", "ds", "date", "datetime", "timestamp", "year", "month", "day", "hour", "minute", "second", "age")
ID_NAMES = ("id", "series", "run", "unique_id", "item_id", "series_id", "subject", "trajectory", "experiment", "sample")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?", "."})
UNIT = re.compile(r"^(?P<name>.*?)\s*[\[(](?P<unit>[^\])]+)[\])]\s*$")


@dataclass(frozen=True)
class Column:
    """A column with its unit, from a header such as `level [V]`."""

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
        match = UNIT.match(header)
        return Column(header, match["name"], match["unit"]) if match and match["name"] else Column(header, header, "")


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
        series: at least one.
        notes: what was guessed, ignored, masked, for the screen and the report.
    """

    path: str
    sha256: str
    rows: int
    time: Column
    id: Column | None
    states: list[Column]
    series: list[Series]
    notes: list[str] = field(default_factory=list)


def read_table(
    path: str | Path, time: str | None = None, id: str | None = None, states: Sequence[str] = ()
) -> Table:
    """Reads a CSV (any of , ; tab | between cells, decimal point or comma) or an Excel file.

    Args:
        path: of the file.
        time, id, states: headers that play these roles; what is not given is guessed from names and contents.

    Raises:
        UserError: naming the row (line of the file) and the column.
    """
    path = Path(path)
    raw, notes = _cells(path)
    rows = len(raw)
    columns = list(raw.columns)
    if rows < 2:
        raise UserError(f"{path}: {rows} row{'s' * (rows != 1)} of data, expected at least two times to learn from")
    for given in [x for x in (time, id, *states) if x is not None]:
        if given not in columns:
            near = difflib.get_close_matches(given, columns, n=1, cutoff=0.4)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{path}: no column {given!r}, there are {', '.join(map(repr, columns))}{guess}")
    numbers = {c: _numbers(raw[c]) for c in columns}
    id = id or _guess_id(raw, numbers, time, states)
    time = time or _guess_time(path, raw, numbers, [c for c in columns if c != id and c not in states], notes)
    t = _times(path, raw, time, numbers, notes)
    wanted = list(states) or [c for c in columns if c not in (time, id) and _mostly_numeric(raw[c], numbers[c])]
    if not wanted:
        raise UserError(f"{path}: no numeric column beside the time {time!r}; columns are {', '.join(map(repr, columns))}")
    for column in wanted:
        _refuse_text(path, raw[column], numbers[column])
    kept = _changing(path, numbers, wanted, bool(states), notes)
    ignored = [c for c in columns if c not in (time, id, *wanted)]
    if ignored:
        notes.append(f"ignored: {', '.join(ignored)} (not numeric, or not asked for)")
    y = np.stack([numbers[c] for c in kept], 1)
    series = _series(path, raw[id] if id else None, t, y, time)
    masked = int(np.isnan(y).sum())
    if masked:
        notes.append(f"{masked} empty cells are masked: never filled in, left out of the loss")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Table(
        str(path), digest, rows, Column.of(time), Column.of(id) if id else None, [Column.of(c) for c in kept], series, notes
    )


def _cells(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """All cells as text."""
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{f'; did you mean {near[0]!r}?' if near else ''}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a table (CSV or Excel)")
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        return _excel(path)
    data = path.read_bytes()
    if not data.strip():
        raise UserError(f"{path}: the file is empty")
    if b"\x00" in data[:4096] and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: not a table but a binary file; expected text with a header line (CSV)")
    text, notes = _decode(data)
    separator, decimal = _dialect(text)
    if separator is None:
        raise UserError(f"{path}: not a table: found no separator (, ; tab |) that divides the first lines alike")
    try:
        raw = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: cannot be read as a table: {error}") from error
    raw.columns = [str(c).strip() for c in raw.columns]
    if decimal == ",":
        for column in raw.columns:
            raw[column] = raw[column].str.replace(r"^(\s*[-+]?\d*),(\d+\s*)", r"\1.\2", regex=True)
        notes.append("decimal commas were read as points")
    doubled = raw.columns[raw.columns.duplicated()]
    if len(doubled):
        raise UserError(f"{path}: the column name {doubled[0]!r} stands twice in the header")
    return raw, notes


def _excel(path: Path) -> tuple[pd.DataFrame, list[str]]:
    try:
        frame = pd.read_excel(path, dtype=str, keep_default_na=False)
    except ImportError as error:
        raise UserError(f"{path}: reading Excel needs openpyxl: pip install openpyxl, or save the sheet as CSV") from error
    except Exception as error:  # whatever the reader meets in a broken file is a fault of the file
        raise UserError(f"{path}: cannot be read as a spreadsheet: {error}") from error
    frame.columns = [str(c).strip() for c in frame.columns]
    return frame.fillna(""), ["read the first sheet"]


def _decode(data: bytes) -> tuple[str, list[str]]:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16"), []
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), ["not UTF-8: read as Windows-1252"]


def _dialect(text: str) -> tuple[str | None, str]:
    """Separator and decimal mark, from the first lines."""
    lines = [line for line in text[:20000].splitlines()[:30] if line.strip()]
    if len(text) > 20000:
        lines = lines[:-1] or lines
    for separator in (";", "\t", "|", ","):
        counts = {_count(line, separator) for line in lines}
        if len(counts) == 1 and counts != {0}:
            break
    else:
        counts = [(_count(lines[0], s), s) for s in (";", "\t", ",", "|")] if lines else []
        best = max(counts, default=(0, ""))
        if best[0] == 0:
            return None, "."
        separator = best[1]
    cells = [cell for line in lines[1:] for cell in line.split(separator)]
    commas = sum(bool(re.fullmatch(r'\s*"?[-+]?\d*,\d+"?\s*', cell)) for cell in cells)
    return separator, "," if separator != "," and commas else "."


def _count(line: str, separator: str) -> int:
    return re.sub(r'"[^"]*"', "", line).count(separator)


def _missing(cells: pd.Series) -> np.ndarray:
    return cells.str.strip().str.lower().isin(MISSING).to_numpy()


def _numbers(cells: pd.Series) -> np.ndarray:
    """Numbers; NaN where missing or not a number."""
    values = pd.to_numeric(cells.str.strip(), errors="coerce").to_numpy(dtype=np.float64, copy=True)
    values[_missing(cells)] = np.nan
    return values


def _mostly_numeric(cells: pd.Series, values: np.ndarray) -> bool:
    """More than half of what is there is numbers: the rest is then a fault, not a text column."""
    present = ~_missing(cells)
    return bool(present.any()) and (~np.isnan(values))[present].mean() > 0.5


def _refuse_text(path: Path, cells: pd.Series, values: np.ndarray) -> None:
    bad = (np.isnan(values) & ~_missing(cells)) | np.isinf(values)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        more = f" (and {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
        raise UserError(
            f"{path}: line {i + 2}, column {cells.name!r}: {cells.iloc[i]!r} is not a finite number{more}; "
            f"leave the cell empty where nothing was measured"
        )
    if np.isnan(values).all():
        raise UserError(f"{path}: column {cells.name!r} has no number in it")


def _changing(path: Path, numbers: dict[str, np.ndarray], wanted: list[str], asked: bool, notes: list[str]) -> list[str]:
    """Columns that are not constant."""
    constant = [c for c in wanted if np.nanmax(numbers[c]) == np.nanmin(numbers[c])]
    kept = [c for c in wanted if c not in constant]
    if constant and (asked or not kept):
        raise UserError(
            f"{path}: column {constant[0]!r} is constant ({np.nanmax(numbers[constant[0]]):g}): there is no dynamics in it to learn"
        )
    notes += [f"ignored: {c} (constant)" for c in constant]
    return kept


def _guess_id(raw: pd.DataFrame, numbers: dict[str, np.ndarray], time: str | None, states: Sequence[str]) -> str | None:
    free = [c for c in raw.columns if c != time and c not in states]
    for column in free:
        if Column.of(column).name.lower() in ID_NAMES:
            return column
    for column in free:
        text = not _mostly_numeric(raw[column], numbers[column])
        if text and not _dates(raw[column]) and 1 <= raw[column].nunique() <= len(raw) / 2 and column == raw.columns[0]:
            return column
    return None


def _guess_time(path: Path, raw: pd.DataFrame, numbers: dict[str, np.ndarray], free: list[str], notes: list[str]) -> str:
    for name in TIME_NAMES:
        for column in free:
            if Column.of(column).name.lower() == name:
                return column
    for column in free:
        values = numbers[column]
        if not np.isnan(values).any() and (np.diff(values) > 0).all():
            notes.append(f"time: {column!r}, the first column that always increases")
            return column
    raise UserError(
        f"{path}: no time column found (none is called time, t, year, date, …, none always increases); name it with --time. "
        f"Columns are {', '.join(map(repr, raw.columns))}"
    )


def _dates(cells: pd.Series) -> bool:
    sample = cells[~_missing(cells)].iloc[:20]
    return bool(len(sample)) and bool(pd.to_datetime(sample, errors="coerce", format="ISO8601").notna().all())


def _times(path: Path, raw: pd.DataFrame, column: str, numbers: dict[str, np.ndarray], notes: list[str]) -> np.ndarray:
    """Times as numbers; dates become days since the first."""
    cells, values = raw[column], numbers[column]
    if not _mostly_numeric(cells, values) and _dates(cells):
        stamps = pd.to_datetime(cells, errors="coerce", format="ISO8601")
        values = ((stamps - stamps.min()) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
        notes.append(f"time: {column!r} holds dates, counted in days since {stamps.min().date()}")
    bad = ~np.isfinite(values)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise UserError(f"{path}: line {i + 2}, column {column!r}: {cells.iloc[i]!r} is not a time; every row needs one")
    return values


def _series(path: Path, ids: pd.Series | None, t: np.ndarray, y: np.ndarray, time: str) -> list[Series]:
    """Rows by id, in the order of the file; times must increase within each."""
    names = np.full(len(t), "", dtype=object) if ids is None else ids.to_numpy()
    codes, uniques = pd.factorize(names)
    out = []
    for code, name in enumerate(uniques):
        rows = np.flatnonzero(codes == code)
        steps = np.diff(t[rows])
        if len(steps) and not (steps > 0).all():
            i = int(np.flatnonzero(~(steps > 0))[0])
            a, b = rows[i], rows[i + 1]
            of = f" of series {name!r}" if ids is not None else ""
            what = "is repeated" if t[a] == t[b] else f"comes after {t[a]:g}"
            hint = "" if ids is not None else "; if the table holds several series, name their column with --id"
            raise UserError(f"{path}: line {b + 2}, column {time!r}: time {t[b]:g}{of} {what} (line {a + 2}): times must increase{hint}")
        seen = ~np.isnan(y[rows]).all(1)
        if seen.sum() < 2:
            raise UserError(f"{path}: series {name!r} has {int(seen.sum())} row with a measurement, expected at least two")
        out.append(Series(str(name), t[rows][seen], y[rows][seen]))
    return out
