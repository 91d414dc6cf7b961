"""Times of a table as numbers, and back: plain numbers stay what they are, dates count from the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from isocline.fit.errors import UserError
from isocline.fit.reader import Cells

_UNITS = {"d": 86_400.0, "h": 3_600.0, "min": 60.0, "s": 1.0}
_WORDS = {"d": "days", "h": "hours", "min": "minutes", "s": "seconds"}


@dataclass(frozen=True)
class Clock:
    """How the time column of a run is written.

    Args:
        origin: the date that counts as 0, ISO 8601; None where the table has numbers.
        unit: of one: "d", "h", "min" or "s"; "" for numbers.

    Example:
        >>> clock = Clock("2020-02-28", "d")
        >>> clock.number("2020-03-01"), clock.text(1.5), Clock().text(1845.0)
        (2.0, '2020-02-29T12:00:00', '1845')
    """

    origin: str | None = None
    unit: str = ""

    @staticmethod
    def of(stamps: pd.Series) -> Clock:
        """Counts in the largest unit that is not longer than the usual step between these dates."""
        known = stamps.dropna()
        gaps = np.abs(np.diff(known.to_numpy(dtype="datetime64[ns]"))) / np.timedelta64(1, "s")
        step = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 86_400.0
        unit = next((u for u, seconds in _UNITS.items() if step >= seconds), "s")
        return Clock(_written(known.min()), unit)

    @property
    def label(self) -> str:
        """The unit for an axis."""
        return f"{_WORDS[self.unit]} since {self.origin}" if self.origin else self.unit

    def numbers(self, cells: Cells, column: str) -> np.ndarray:
        """Times (n,) of a column; UserError, naming the line, for a cell that is not one."""
        if self.origin is None:
            values, bad = cells.numbers(column)
            cells.refuse_bad(column, bad | np.isnan(values), "a time, as a finite number, in every row")
            return values
        stamps = dates(cells.text(column))
        cells.refuse_bad(column, stamps.isna().to_numpy(), "a date such as 2024-05-31 or 2024-05-31T12:30 in every row")
        seconds = ((stamps - dates(pd.Series([self.origin])).iloc[0]) / pd.Timedelta(seconds=1)).to_numpy(
            dtype=np.float64
        )
        return seconds / _UNITS[self.unit]

    def number(self, text: str) -> float:
        """A single time as typed; UserError if it is none."""
        if self.origin is None:
            try:
                value = float(text)
            except ValueError:
                value = np.nan
            if not np.isfinite(value):
                raise UserError(f"time {text!r}: expected a finite number")
            return value
        stamp = dates(pd.Series([text])).iloc[0]
        if pd.isna(stamp):
            raise UserError(f"time {text!r}: expected a date such as 2024-05-31, as in the table")
        return float((stamp - dates(pd.Series([self.origin])).iloc[0]) / pd.Timedelta(seconds=1)) / _UNITS[self.unit]

    def text(self, t: float) -> str:
        """A time as the table writes it."""
        if self.origin is None:
            return f"{t:.12g}"
        seconds = round(t * _UNITS[self.unit], 3)
        return _written(dates(pd.Series([self.origin])).iloc[0] + pd.Timedelta(milliseconds=round(seconds * 1000)))


def dates(cells: pd.Series) -> pd.Series:
    """ISO 8601 dates and times, NaT where a cell is none; with an offset from UTC or taken as UTC."""
    return pd.to_datetime(cells, format="ISO8601", errors="coerce", utc=True)


def _written(stamp: pd.Timestamp) -> str:
    plain = stamp.tz_convert(None)
    if plain == plain.normalize():
        return plain.date().isoformat()
    return plain.isoformat(timespec="milliseconds" if plain.microsecond else "seconds")
