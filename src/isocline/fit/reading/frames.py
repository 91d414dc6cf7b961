"""Tables that come with types, to cells: sheets of Excel, Parquet, data frames."""

from __future__ import annotations

import datetime
import io
import math
from collections.abc import Callable
from typing import Any, TypeVar

import narwhals as nw
import numpy as np
import pandas as pd

from isocline.fit.errors import UserError
from isocline.fit.reading.cells import Cells, listed
from isocline.fit.reading.delimited import check_header

T = TypeVar("T")
FRAME = "the table"  # what messages call a data frame
_ENGINES = {".xls": "xlrd", ".ods": "odfpy", ".xlsb": "pyxlsb"}


def excel(path: str, data: bytes, suffix: str, sheet: str | None) -> Cells:
    """A sheet: named, or by its number from 1; the first where none is asked for."""
    package = _ENGINES.get(suffix, "openpyxl")
    missing = (
        f"{path}: reading this kind of spreadsheet needs a package that is not installed ({package}): "
        f"pip install {package}, or save the sheet as CSV"
    )
    book = _opened(lambda: pd.ExcelFile(io.BytesIO(data)), f"{path}: cannot be read as a spreadsheet", missing)
    names = [str(name) for name in book.sheet_names]
    name = _sheet(path, names, sheet)
    raw = _opened(
        lambda: pd.read_excel(book, sheet_name=names.index(name), header=None, dtype=object, na_filter=False),
        f"{path}: sheet {name!r} cannot be read",
        missing,
    )
    rows = [[_cell(v) for v in row] for row in raw.to_numpy(dtype=object)]
    filled = [i for i, row in enumerate(rows) if any(row)]
    if len(filled) < 2:
        raise UserError(f"{path}: sheet {name!r} has no rows below its header; expected a table")
    header = [" ".join(cell.split()) for cell in rows[filled[0]]]
    check_header(path, [h for h in header if h], f"sheet {name!r}, row {filled[0] + 1}")
    columns = {h or f"column {i + 1}": [rows[k][i] for k in filled[1:]] for i, h in enumerate(header)}
    frame = pd.DataFrame({h: pd.Series(v, dtype="str") for h, v in columns.items() if any(v) or h in header})
    notes = [f"sheet {name!r} was read, of {listed(names)}"] if len(names) > 1 else []
    return Cells(path, frame, np.array(filled[1:]) + 1, notes, rows=True)


def _sheet(path: str, names: list[str], sheet: str | None) -> str:
    if sheet is None:
        return names[0]
    if sheet in names:
        return sheet
    if sheet.isdecimal() and 1 <= int(sheet) <= len(names):
        return names[int(sheet) - 1]
    raise UserError(f"{path}: no sheet {sheet!r}; there are {listed(names)} (or give a number from 1 to {len(names)})")


def parquet(path: str, data: bytes) -> Cells:
    """A Parquet file."""
    missing = (
        f"{path}: reading Parquet needs a package that is not installed: pip install 'isocline[parquet]', "
        f"or save the table as CSV"
    )
    frame = _opened(lambda: pd.read_parquet(io.BytesIO(data)), f"{path}: cannot be read as Parquet", missing)
    return _typed(path, frame)


def _opened(read: Callable[[], T], fault: str, missing: str) -> T:
    """What a reader of files gives; UserError with `missing` where its package is not installed, else with the fault."""
    try:
        return read()
    except ImportError as error:
        raise UserError(missing) from error
    except Exception as error:  # whatever the reader meets in a broken file is a fault of the file
        raise UserError(f"{fault}: {error}") from error


def frame(source: Any) -> Cells:
    """A data frame of pandas, Polars or another library that narwhals knows.

    Raises:
        UserError: for what is no data frame.
    """
    try:
        return _typed(FRAME, source)
    except TypeError as error:
        raise UserError(
            f"{FRAME}: expected the path of a file, several paths, or a data frame; found {type(source).__name__}"
        ) from error


def _typed(path: str, source: Any) -> Cells:
    """Numbers stay numbers; all else becomes text as a CSV would have it. Rows are counted from 0."""
    if isinstance(source, pd.DataFrame) and not (type(source.index) is pd.RangeIndex and source.index.name is None):
        named = [n is not None for n in source.index.names]
        if any(named) or isinstance(source.index, pd.DatetimeIndex):  # df.set_index("time"), and what resampling leaves
            source = source.reset_index()
    if isinstance(source, pd.DataFrame) and len(source.columns):
        check_header(path, list(map(str, source.columns)), "names of columns")
    table = nw.from_native(source)
    table = table.collect() if isinstance(table, nw.LazyFrame) else table
    names = [" ".join(str(name).split()) for name in table.columns]
    if not names:
        raise UserError(f"{path}: no columns; expected a table with a time and at least one state")
    check_header(path, names, "names of columns")
    columns = {
        name or f"column {i + 1}": _column(table[c])
        for i, (name, c) in enumerate(zip(names, table.columns, strict=True))
    }
    cells = pd.DataFrame(columns)
    filled = (cells.notna() & (cells != "")).any(axis=1).to_numpy()
    if not filled.any():
        raise UserError(f"{path}: 0 rows of data, expected at least two times to learn from")
    return Cells(path, cells[filled].reset_index(drop=True), np.flatnonzero(filled), rows=True)


def _column(column: nw.Series[Any]) -> pd.Series:
    if column.dtype.is_float():
        return pd.Series(column.cast(nw.Float64).to_numpy())
    if column.dtype.is_integer() and not column.is_null().any():
        return pd.Series(column.to_numpy())
    return pd.Series([_cell(v) for v in column.to_list()], dtype="str")


def _cell(value: Any) -> str:
    """As a CSV would have it."""
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, datetime.datetime):
        return value.isoformat().removesuffix("T00:00:00")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
        return f"{int(seconds // 3600)}:{int(seconds // 60) % 60:02d}:{seconds % 60:09.6f}"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value).strip()
