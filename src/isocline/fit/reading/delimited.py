"""Text to cells: forgiving about how a table is written down."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter

import numpy as np
import pandas as pd

from isocline.fit.errors import UserError
from isocline.fit.reading.cells import MISSING, THOUSANDS, Cells

_SEPARATORS = (";", "\t", "|", ",")
_NUMBER = re.compile(r"[-+]?(\d+[.,]?\d*|[.,]\d+)([eE][-+]?\d+)?")
_COMMA_NUMBER = re.compile(r"[-+]?(\d+,\d*|,\d+)([eE][-+]?\d+)?")
_POINT_GROUPS = re.compile(r"[-+]?[1-9]\d{0,2}(\.\d{3})+")
_WHOLE = re.compile(r"[-+]?\d+")


def parse(path: str, data: bytes, one_column: bool = False) -> Cells:
    """A table in text: separated by comma, semicolon, tab or bar; decimal point or comma; any usual encoding and line ends.

    Lines that begin with # are comments; where the last of them before numbers names the columns, it is the header.

    Raises:
        UserError: for what is not a table, or a table with rows longer than its header.
    """
    text, notes = _decoded(data)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\x00" in text:
        raise not_a_table(path)
    separator = _separator(text)
    if separator is None and one_column:
        separator = ";"
    if separator is None:
        raise UserError(
            f"{path}: not a table: found one column only; expected cells separated by , ; | or tab, e.g. time,x,y"
        )
    plain = None if '"' in text or "#" in text else _plain(path, text, separator)
    if plain is None:
        records, lines = _records(path, text, separator)
        header, records, lines = _headed(path, records, lines)
        plain = _framed(path, header, records, lines)
    cells = plain
    cells.notes += notes
    if "," in text and (separator != "," or '"' in text):
        _read_decimal_commas(cells, separator)
    return cells


def not_a_table(path: str) -> UserError:
    """What to say of a file of bytes."""
    return UserError(
        f"{path}: a binary file, not a table; expected text with a header line (CSV), Excel (.xlsx) or Parquet (.parquet)"
    )


def _decoded(data: bytes) -> tuple[str, list[str]]:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace"), []
    head = np.frombuffer(data[: min(len(data), 4000) // 2 * 2], dtype=np.uint8).reshape(-1, 2)
    for column, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # without its mark: every other byte is nothing
        if len(head) and (head[:, column] == 0).mean() > 0.9 and not (head[:, 1 - column] == 0).any():
            return data.decode(encoding, errors="replace"), []
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:  # an old spreadsheet's µ and °
        return data.decode("cp1252", errors="replace"), ["the file is not UTF-8: read as Windows-1252"]


def _separator(text: str) -> str | None:
    """The one that divides the first lines alike; else the one that divides the header most."""
    head = re.sub(r'"[^"]*"', "", text[:40_000]).split("\n")
    lines = [line for line in head[: 40 if len(head) > 41 else len(head)] if line.strip()]
    lines = [line for line in lines if not line.lstrip().startswith("#")] or lines
    if not lines:
        return None
    counts = {s: [line.count(s) for line in lines] for s in _SEPARATORS}
    for separator in _SEPARATORS:
        common, times = Counter(counts[separator]).most_common(1)[0]
        if common and times == len(lines):
            return separator
    best = max(_SEPARATORS, key=lambda s: counts[s][0])
    return best if counts[best][0] else None


def _plain(path: str, text: str, separator: str) -> Cells | None:
    """A table without quotes and comments, where every row has the width of the header: ten times as fast as by rows."""
    body = text.lstrip("\n")
    blank = len(text) - len(body)
    first, _, body = body.partition("\n")
    header = [" ".join(name.split()) for name in first.split(separator)]
    names = [name or f"column {i + 1}" for i, name in enumerate(header)]
    if not body.strip() or len(set(names)) < len(names) or body.split("\n", 1)[0].count(separator) >= len(names):
        return None
    try:
        frame = pd.read_csv(
            io.StringIO(body), sep=separator, header=None, names=names, index_col=False, dtype="str", na_filter=False,
            skip_blank_lines=False, skipinitialspace=True, low_memory=False, quoting=csv.QUOTE_NONE,
        )  # fmt: skip
    except pd.errors.ParserError:
        return None
    check_header(path, header, f"line {blank + 1}")
    frame = frame.fillna("")
    if " " in body or "\xa0" in body or (separator != "\t" and "\t" in body):
        frame = frame.apply(lambda column: column.str.strip())
    filled = (frame != "").any(axis=1).to_numpy()
    unnamed = [c for c, name in zip(names, header, strict=True) if not name and (frame[c] == "").all()]
    lines = np.flatnonzero(filled) + blank + 2
    return Cells(path, frame[filled].drop(columns=unnamed).reset_index(drop=True), lines)


def _records(path: str, text: str, separator: str) -> tuple[list[list[str]], list[int]]:
    """Rows of cells, and the line each begins in: a quoted cell may run over several."""
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    records, lines, before = [], [], 0
    try:
        for record in reader:
            records.append(record)
            lines.append(before + 1)
            before = reader.line_num
    except csv.Error as error:
        raise UserError(
            f"{path}: line {before + 1}: cannot be read as a row of cells ({error}); is a quotation mark not closed?"
        ) from error
    if text.count('"') % 2 and before > lines[-1]:
        raise UserError(f"{path}: line {lines[-1]}: a quotation mark opens here and is never closed; expected another")
    return records, lines


def _headed(path: str, records: list[list[str]], lines: list[int]) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and their lines, without comments and empty rows."""
    filled = [i for i, record in enumerate(records) if any(map(str.strip, record))]
    kept = [i for i in filled if not records[i][0].lstrip().startswith("#")]
    if not kept:
        raise UserError(f"{path}: nothing but comments; expected a table with a header line (CSV)")
    first = kept[0]
    header, line = records[first], lines[first]
    comments = filled[: filled.index(first)]
    if comments and all(_NUMBER.fullmatch(c.strip()) or c.strip().lower() in MISSING for c in header):
        names = [records[comments[-1]][0].lstrip().lstrip("#"), *records[comments[-1]][1:]]  # "# t,x,y" above numbers
        if len(names) == len(header):
            header, line, kept = names, lines[comments[-1]], [first, *kept]
    header = [" ".join(name.split()) for name in header]
    check_header(path, header, f"line {line}")
    if len(kept) == 1:
        raise UserError(f"{path}: 0 rows of data, expected at least two times to learn from")
    return header, [records[i] for i in kept[1:]], [lines[i] for i in kept[1:]]


def check_header(path: str, header: list[str], place: str) -> None:
    """UserError for a first row that names no columns, or two of them alike."""
    if all(_NUMBER.fullmatch(name) for name in header):
        raise UserError(
            f"{path}: {place}: the first line is {', '.join(header[:4])}: numbers, expected the names of the columns; "
            f"put a line such as time,x,y above it"
        )
    twice = [name for name, n in Counter(filter(None, header)).items() if n > 1]
    if twice:
        raise UserError(f"{path}: {place}: the column name {twice[0]!r} stands twice in the header; expected it once")


def _framed(path: str, header: list[str], records: list[list[str]], lines: list[int]) -> Cells:
    width = len(header)
    names = [name or f"column {i + 1}" for i, name in enumerate(header)]
    for i, record in enumerate(records):
        if len(record) != width:
            if any(cell.strip() for cell in record[width:]):
                raise UserError(
                    f"{path}: line {lines[i]}: {len(record)} cells, the header names {width} columns; expected as many. "
                    f"Are decimal commas written in a file that is separated by commas?"
                )
            records[i] = [*record[:width], *[""] * (width - len(record))]
    columns = zip(*records, strict=True)
    frame = pd.DataFrame(
        {name: pd.Series(column, dtype="str").str.strip() for name, column in zip(names, columns, strict=True)}
    )
    unnamed = [c for c, name in zip(names, header, strict=True) if not name and (frame[c] == "").all()]
    return Cells(path, frame.drop(columns=unnamed), np.array(lines))  # lines that end in a separator make such a column


def _read_decimal_commas(cells: Cells, separator: str) -> None:
    """In text columns whose cells are numbers once the comma is a point, it becomes one."""
    changed, grouped = [], []
    for column in cells.columns:
        text = cells.text(column)
        present = text[text != ""]
        comma = present[present.str.contains(",", regex=False)]
        if not len(comma):
            if len(present) and present.str.fullmatch(_POINT_GROUPS).all():
                grouped.append(column)
            continue
        if comma.str.fullmatch(_COMMA_NUMBER).mean() <= 0.5 or _thousands(present, comma, separator):
            continue
        pointed = text.where(~text.str.fullmatch(_COMMA_NUMBER), text.str.replace(",", ".", regex=False))
        cells.put(column, pointed)
        changed.append(column)
    if changed and grouped:
        raise UserError(
            f"{cells.path}: column {grouped[0]!r}: {cells.text(grouped[0]).iloc[0]!r} in a table with decimal commas "
            f"(in {changed[0]!r}) is 1.234 or 1234: expected numbers without a thousands separator"
        )
    if changed:
        cells.notes.append(f"decimal commas read as points in {', '.join(changed)}")


def _thousands(present: pd.Series, comma: pd.Series, separator: str) -> bool:
    """Whether the commas of a column may set thousands apart; such cells stay as they are, and are refused as numbers.

    1,234 is both. It is taken for a decimal where another cell can only be one, where every cell has its three digits, or
    where a thousand is written without; not in a file that is separated by commas.
    """
    if not comma.str.fullmatch(THOUSANDS).all():
        # A comma and a point in one cell, or two commas, make a thousands separator of all of them.
        return bool(comma.str.contains(r",.*[.,]", regex=True).any())
    whole = present[present.str.fullmatch(_WHOLE)]
    return (
        separator == ","
        or bool(comma.str.count(",").max() > 1 or comma.str.contains(".", regex=False).any())
        or bool(len(whole) and (whole.str.len() <= 3).all())
    )
