"""Times of which columns say the parts: year and month, month and day, a date and a time of day, …"""

from __future__ import annotations

import pandas as pd

from isocline.fit.reading.column import Column
from isocline.fit.reading.dates import NUMBERS, dates, first_months, times_of_day

YEAR, MONTH, QUARTER, DAY, OF_YEAR, CLOCK = (
    "year",
    "month",
    "quarter",
    "day",
    "day of the year",
    ("hour", "minute", "second"),
)
NAMES = {
    YEAR: ("year", "years", "yr", "yyyy"),
    MONTH: ("month", "months", "mon", "mo", "mm"),
    QUARTER: ("quarter", "quarters", "qtr"),
    DAY: ("day", "days", "dd", "dom"),
    OF_YEAR: ("doy", "yday", "jday", "day of year", "dayofyear", "day_of_year", "julian day", "julian_day"),
    "hour": ("hour", "hours", "hr", "h", "hh"),
    "minute": ("minute", "minutes", "min"),
    "second": ("second", "seconds", "sec", "s"),
}
# What says which day it is (or month, or quarter), the likeliest first; where no year is said days are counted.
DAYS = (
    (YEAR, MONTH), (YEAR, QUARTER), (YEAR, MONTH, DAY), (YEAR, OF_YEAR), (YEAR, DAY), (MONTH, DAY), (OF_YEAR,), (DAY,),
)  # fmt: skip
SECONDS = 86_400  # of a day
_LEAP = "2000"  # a year that has every day


def part_of(header: str) -> str | None:
    """Which part of a time a header names, one of `NAMES`."""
    key = Column.of(header).key
    return next((part for part, names in NAMES.items() if key in names), None)


def arrangements(parts: dict[str, str]) -> list[list[str]]:
    """Columns that say a time together, the likeliest first: what says the day, alone and with hours, minutes, …

    Args:
        parts: columns by the part that they say.
    """
    out = []
    for day in DAYS:
        if any(part not in parts for part in day) or (YEAR in parts and YEAR not in day):
            continue
        columns = [parts[part] for part in day]
        out += [columns] if len(columns) > 1 else []
        if day[-1] in (DAY, OF_YEAR):
            out += [[*columns, *more] for more in clocks(parts)]
    return out


def clocks(parts: dict[str, str]) -> list[list[str]]:
    """The columns of hours, those of hours and minutes, …: as far as there are such."""
    count = next((i for i, part in enumerate(CLOCK) if part not in parts), len(CLOCK))
    return [[parts[part] for part in CLOCK[: i + 1]] for i in range(count)]


def joined(headers: list[str], texts: list[pd.Series]) -> pd.Series | None:
    """What columns say of the time together, in ISO 8601, or in days where no year is said; None where they are not such columns.

    Of a row that makes no time, its cells as they are.
    """
    kinds = [part_of(h) for h in headers]
    texts = [first_months(x) if kind == QUARTER else x for kind, x in zip(kinds, texts, strict=True)]
    first = _days(kinds[:1], texts[:1]) if kinds[0] in (DAY, OF_YEAR) else dates(texts[0])
    if len(texts) == 2 and kinds[0] != YEAR and first.notna().mean() > 0.5 and (kinds[1] is None or _clocked(texts[1])):
        return _written(first, daytimes(texts[1]), texts)
    for count in range(min(3, len(texts)), 0, -1):
        rest = kinds[count:]
        if tuple(rest) != CLOCK[: len(rest)]:
            continue
        if tuple(kinds[:count]) in DAYS and (not rest or kinds[count - 1] in (DAY, OF_YEAR)) and len(kinds) > 1:
            return _written(_days(kinds[:count], texts[:count]), _of_numbers(texts[count:]) if rest else None, texts)
        if count == 1 and rest and first.notna().mean() > 0.5:
            return _written(first, _of_numbers(texts[1:]), texts)
    return None


def side_by_side(texts: list[pd.Series], between: str) -> pd.Series:
    """The cells of columns, written one after another."""
    out = texts[0]
    for text in texts[1:]:
        out = out + between + text
    return out


def daytimes(text: pd.Series) -> pd.Series:
    """Seconds of 8:30, or of 830 as it is written without a colon; NaN where a cell is none."""
    whole = text.str.extract(r"^(?P<hour>\d{1,2}(?=\d\d))?(?P<minute>[0-5]?\d)(?:\.0+)?$")
    numbers = _of_numbers([whole["hour"].fillna("0"), whole["minute"]])
    return times_of_day(text).fillna(numbers)


def _clocked(text: pd.Series) -> bool:
    return bool(text.str.contains(":", regex=False).any())


def _days(kinds: list[str | None], texts: list[pd.Series]) -> pd.Series:
    """Dates, the first of a month where no day is said; without a year numbers of days, of a month from 1 January."""
    texts = [t.str.replace(r"\.0+$", "", regex=True).str.lower() for t in texts]
    said = dict(zip(kinds, texts, strict=True))
    if YEAR not in said and MONTH not in said:
        return pd.to_numeric(texts[-1], errors="coerce")
    year = said.get(YEAR, pd.Series(_LEAP, texts[0].index)).str.zfill(4)
    if OF_YEAR in said or set(said) == {YEAR, DAY}:
        number = texts[-1].str.zfill(3)
        return pd.to_datetime(year + "-" + number, format="%Y-%j", errors="coerce")
    month = said[MONTH] if MONTH in said else said[QUARTER]
    month = month.str[:3].map(NUMBERS).fillna(month).str.zfill(2)
    day = said[DAY].str.zfill(2) if DAY in said else "01"
    stamps = pd.to_datetime(year + "-" + month + "-" + day, format="%Y-%m-%d", errors="coerce")
    if YEAR in said:
        return stamps
    number, leap = stamps.dt.day_of_year, bool(((stamps.dt.month == 2) & (stamps.dt.day == 29)).any())
    return number - 1.0 - ((number > 60) & (not leap))


def _written(days: pd.Series, seconds: pd.Series | None, texts: list[pd.Series]) -> pd.Series | None:
    """Days and times of day as cells; None where most rows have no time of day."""
    if seconds is not None and seconds.notna().mean() <= 0.5:
        return None
    good = days.notna() if seconds is None else days.notna() & (seconds < SECONDS)
    if pd.api.types.is_numeric_dtype(days):
        out = (days if seconds is None else days + seconds / SECONDS).map("{:.12g}".format)
    elif seconds is None:
        out = days.dt.strftime("%Y-%m-%d")
    else:
        out = (days + pd.to_timedelta(seconds.where(good), unit="s")).dt.strftime("%Y-%m-%dT%H:%M:%S.%f")
    return out.where(good, side_by_side(texts, "-"))


def _of_numbers(columns: list[pd.Series]) -> pd.Series:
    """Seconds from columns of hours (and minutes, and seconds)."""
    out = pd.Series(0.0, index=columns[0].index)
    for size, column in zip((3600.0, 60.0, 1.0), columns, strict=False):
        out = out + size * pd.to_numeric(column, errors="coerce")
    return out
