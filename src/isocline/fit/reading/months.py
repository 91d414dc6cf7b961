"""Tables with a row a year and a column a month, as climate records are written: turned to a row a month."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from isocline.fit.reading.cells import Cells, listed
from isocline.fit.reading.column import Column
from isocline.fit.reading.dates import MONTHS

VALUE = "value"  # the header of what the months' columns hold


def unrolled(cells: Cells, said: Collection[str]) -> Cells:
    """A row a month, its date in the place of the year and its value in a column "value"; other tables as they are.

    Numbers beside them, such as the mean of a year, are left out.

    Args:
        said: headers that play a role; where a month is among them it is a state, and the table stays as it is.
    """
    months = _months(cells.columns)
    years = [c for c in cells.columns if Column.of(c).key == "year" and cells.numeric(c)]
    if len(months) < len(MONTHS) or len(years) != 1 or VALUE in cells.columns or not set(months).isdisjoint(said):
        return cells
    (year,), each = years, len(months)
    beside = [c for c in cells.columns if c not in (year, *months)]
    kept = [c for c in beside if c in said or not cells.numeric(c)]
    frame = cells.frame[[year, *kept]].loc[cells.frame.index.repeat(each)].reset_index(drop=True)
    written = cells.text(year).str.replace(r"\.0+$", "", regex=True).repeat(each).reset_index(drop=True)
    number = pd.Series([f"{1 + i:02d}" for i in range(each)] * len(cells.lines))
    frame[year] = (written.str.zfill(4) + "-" + number).where(written.str.fullmatch(r"\d{1,4}"), written)
    frame[VALUE] = np.stack([cells.text(c) for c in months], 1).reshape(-1)
    lines = np.repeat(cells.lines, each)
    file = None if cells.file is None else np.repeat(cells.file, each)
    note = (
        f"{months[0]!r} to {months[-1]!r} are the months of {year!r}: one state, {VALUE!r}, with twelve values a year"
    )
    if left := [c for c in beside if c not in kept]:
        note += f"; left out beside them: {listed(left, 5)}"
    places = {VALUE: (lines, "the column of a month")}
    return Cells(cells.path, frame, lines, [*cells.notes, note], cells.rows, cells.paths, file, places)


def _months(columns: list[str]) -> list[str]:
    """Columns called by a month, January first; nothing where one is called twice."""
    found: dict[str, str] = {}
    for column in columns:
        key = Column.of(column).key
        short = key[:3]
        if short not in MONTHS or key not in (short, MONTHS[short]):
            continue
        if short in found:
            return []
        found[short] = column
    return [found[short] for short in MONTHS if short in found]
