"""A file, several files or a data frame in, cells out."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isocline.fit.errors import UserError
from isocline.fit.reading import frames
from isocline.fit.reading.cells import Cells, listed
from isocline.fit.reading.delimited import not_a_table, parse

FILE = "file"  # header of the column that says which of several files a row is from
_SHEETS = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")
_BINARY_MARKS = (b"PK\x03\x04", b"\x89PNG", b"\x89HDF", b"%PDF", b"\xd0\xcf\x11\xe0")
# What a table can be read from: a path (or a pattern such as runs/*.csv), several, or a data frame.
Source = Any


def read_cells(path: str | Path, one_column: bool = False, sheet: str | None = None) -> Cells:
    """Reads a table in text (CSV and its kin, also compressed with gzip), a sheet of Excel, or Parquet.

    Args:
        path: of the file.
        one_column: a single column is a table, too.
        sheet: of Excel: its name, or its number from 1. None: the first.

    Raises:
        UserError: for a file that is missing, empty, not a table, or a table with rows longer than its header.
    """
    path = Path(path)
    return _cells(path, _bytes(path), one_column, sheet)


def read_source(source: Source, sheet: str | None = None) -> tuple[Cells, str]:
    """Cells, and a SHA-256 of what they were read from. Of several files each row gets its file's name in a column "file".

    Raises:
        UserError: as `read_cells`; where the columns of several files differ, naming file and column.
    """
    paths = paths_of(source)
    if paths is None:
        if sheet is not None:
            raise UserError(
                f"sheet={sheet!r}: {frames.FRAME} is a data frame; expected an Excel file to choose a sheet of"
            )
        cells = frames.frame(source)
        return cells, hashlib.sha256(cells.frame.to_csv(index=False).encode()).hexdigest()
    data = [_bytes(p) for p in paths]
    digests = [hashlib.sha256(d).hexdigest() for d in data]
    tables = [_cells(p, d, False, sheet) for p, d in zip(paths, data, strict=True)]
    if len(tables) == 1:
        return tables[0], digests[0]
    names = _stems(paths)
    lines = "".join(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    return _together(tables, names), hashlib.sha256(lines.encode()).hexdigest()


def paths_of(source: Source) -> list[Path] | None:
    """The files of a source, patterns resolved, each once; None for a data frame."""
    if isinstance(source, (str, Path)):
        source = [source]
    if not (isinstance(source, Sequence) and all(isinstance(s, (str, Path)) for s in source)):
        return None
    if not source:
        raise UserError("no file given; expected a table")
    paths: dict[Path, Path] = {}
    for given in source:
        for path in _matching(Path(given)):
            paths.setdefault(path.resolve(), path)
    return list(paths.values())


def name_of(path: str | Path) -> str:
    """The file's name without its endings: lynx of lynx.csv and of lynx.csv.gz."""
    path = Path(path)
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def _matching(path: Path) -> list[Path]:
    if path.exists() or not any(mark in str(path) for mark in "*?["):
        return [path]
    found = sorted(p for p in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if p.is_file())
    if not found:
        raise UserError(f"{path}: no file matches")
    return found


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a table; expected a CSV, Excel or Parquet file (or '{path / '*.csv'}')")
    if not path.exists():
        near = []
        if path.parent.is_dir():
            near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir() if p.is_file()], n=1)
        raise UserError(f"{path}: no such file{f'; did you mean {path.with_name(near[0])}?' if near else ''}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _cells(path: Path, data: bytes, one_column: bool, sheet: str | None) -> Cells:
    suffixes = [s.lower() for s in path.suffixes]
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be decompressed: {error}") from error
        suffixes = suffixes[:-1]
    suffix = suffixes[-1] if suffixes else ""
    if not data.strip():
        raise UserError(f"{path}: the file is empty; expected a table with a header line (CSV)")
    if suffix in _SHEETS:
        return frames.excel(str(path), data, suffix, sheet)
    if sheet is not None:
        raise UserError(f"--sheet {sheet}: {path} is no Excel file; expected .xlsx to choose a sheet of")
    if data.startswith(b"PAR1") or suffix in (".parquet", ".pq"):
        return frames.parquet(str(path), data)
    if data.startswith(_BINARY_MARKS):
        raise not_a_table(str(path))
    return parse(str(path), data, one_column)


def _stems(paths: list[Path]) -> list[str]:
    """Names that tell files apart, as short as they can be."""
    root = Path(os.path.commonpath([p.resolve().parent for p in paths]))
    inside = [p.resolve().relative_to(root) for p in paths]
    shorter: Iterable[list[str]] = (
        [name_of(p) for p in paths],
        [p.name for p in paths],
        [(p.parent / name_of(p)).as_posix() for p in inside],
    )
    return next((names for names in shorter if len(set(names)) == len(names)), [p.as_posix() for p in inside])


def _together(tables: list[Cells], names: list[str]) -> Cells:
    """The rows of several files under each other."""
    first = tables[0]
    for table in tables[1:]:
        for column in [c for c in first.columns if c not in table.columns][:1]:
            raise UserError(
                f"{table.path}: no column {column!r}, which {first.path} has; expected the same columns in every file. "
                f"There are {listed(table.columns)}"
            )
        for column in [c for c in table.columns if c not in first.columns][:1]:
            raise UserError(
                f"{table.path}: column {column!r} is not in {first.path}; expected the same columns in every file, "
                f"which has {listed(first.columns)}"
            )
    if FILE in first.columns:
        raise UserError(
            f"{first.path}: a column {FILE!r}, by which the series of several files are to be told apart; rename it"
        )
    sizes = [len(t.lines) for t in tables]
    columns: dict[str, Any] = {FILE: np.repeat(np.array(names, dtype=object), sizes)}
    for column in first.columns:
        parts = [t.frame[column] for t in tables]
        if len({p.dtype for p in parts}) > 1 and not all(map(pd.api.types.is_numeric_dtype, parts)):
            parts = [t.text(column) for t in tables]
        columns[column] = pd.concat(parts, ignore_index=True)
    frame = pd.DataFrame(columns)
    frame[FILE] = frame[FILE].astype("str")
    path = f"{first.path} and {len(tables) - 1} more"
    notes = [f"{Path(t.path).name}: {n}" for t in tables for n in t.notes]
    return Cells(
        path, frame, np.concatenate([t.lines for t in tables]), notes, rows=first.rows,
        paths=[t.path for t in tables], file=np.repeat(np.arange(len(tables)), sizes),
    )  # fmt: skip
