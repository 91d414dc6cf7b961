"""Text to dates and times of day: ISO 8601, and the usual other layouts where only one reading is possible."""

from __future__ import annotations

import re

import pandas as pd

_DAYTIME = r"(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?\s*([AaPp][Mm])?"
_LAYOUT = rf"(\d{{1,4}})([./-])(\d{{1,2}})\2(\d{{1,4}})(?:[T ]\s*{_DAYTIME})?"
_ELAPSED = r"(\d+):([0-5]?\d)(?::([0-5]?\d(?:[.,]\d+)?))?\s*([AaPp][Mm])?"
_OFFSET = r"[T ]\d{1,2}(?::?\d{2}){0,2}(?:\.\d+)?\s*(Z|z|[-+]\d{2}(?::?\d{2})?)"
MONTHS = {
    name[:3]: name for name in (
        "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
    )
}  # fmt: skip
NUMBERS = {name: str(1 + i) for i, name in enumerate(MONTHS)}
_MONTH, _APART = rf"(?P<month>(?:{'|'.join(MONTHS)})[a-z]*)\.?", r"[ ,./-]\s*"
_YEAR, _DAY = r"(?P<year>1[5-9]\d\d|20\d\d|21\d\d)", r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
# Months by name; months and quarters with their letter, a quarter being its first month. Of these, the first that fits a cell.
_WORDED = (
    rf"{_DAY}{_APART}{_MONTH}{_APART}{_YEAR}", rf"{_MONTH}{_APART}{_DAY}{_APART}{_YEAR}",
    rf"{_YEAR}{_APART}{_MONTH}{_APART}{_DAY}", rf"{_MONTH}{_APART}{_YEAR}", rf"{_YEAR}{_APART}{_MONTH}",
    rf"(?P<month>\d{{1,2}})[/.-]{_YEAR}", r"(?P<month>\d{1,2})/(?P<short>\d\d)", rf"{_YEAR}[ -]?m(?P<month>\d{{1,2}})",
    rf"{_YEAR}[ ./-]?q(?P<quarter>[1-4])", rf"q(?P<quarter>[1-4])[ ./-]?{_YEAR}",
)  # fmt: skip


def dates(text: pd.Series, zone: str = "") -> pd.Series:
    """Dates and times in UTC, NaT where a cell is none: with an offset from UTC, or taken as in `zone` ("" for UTC).

    ISO 8601; months by name, in English, and quarters; else day, month and year in the one order that all cells allow (between
    points the day comes first).
    """
    stamps = _iso(text, zone)
    if stamps.notna().mean() > 0.5:
        return stamps
    parts = text.str.extract(rf"^(.*?)(?:,? +{_DAYTIME})?$")
    parts.columns = ["day", "hour", "minute", "second", "half"]
    worded = _worded(parts["day"].fillna(""))
    if (worded != "").mean() > 0.5:
        return _iso(worded, zone) + _clock(parts)
    parts = text.str.extract(rf"^{_LAYOUT}$")
    parts.columns = ["a", "separator", "b", "c", "hour", "minute", "second", "half"]
    seen = parts["a"].notna()
    order = _order(parts[seen]) if seen.mean() > 0.5 else None
    if order is None:
        return stamps
    year, month, day = (parts[name] for name in order)
    whole = year + "-" + month.str.zfill(2) + "-" + day.str.zfill(2)
    return _iso(whole.fillna(""), zone) + _clock(parts)


def _clock(parts: pd.DataFrame) -> pd.Series:
    """The time of day behind dates, 0:00 where there is none."""
    cells = parts[["hour", "minute", "second", "half"]].fillna({"hour": "0", "minute": "0"})
    return pd.to_timedelta(_seconds(cells), unit="s")


def ambiguous(text: pd.Series) -> bool:
    """Whether these are dates of which day and month cannot be told apart."""
    parts = text.str.extract(rf"^{_LAYOUT}$")
    parts.columns = ["a", "separator", "b", "c", "hour", "minute", "second", "half"]
    seen = parts[parts["a"].notna()]
    return len(seen) > len(text) / 2 and bool((seen["c"].str.len() == 4).all()) and _order(seen) is None


def compact(text: pd.Series) -> pd.Series | None:
    """Days written 20240531 or months written 202405, as ISO 8601; None where not all cells are such."""
    for digits, form in (("8", "%Y%m%d"), ("6", "%Y%m")):
        if text.str.fullmatch(rf"(1[5-9]|20|21)\d{{{int(digits) - 2}}}").all():
            stamps = pd.to_datetime(text, format=form, errors="coerce")
            return None if stamps.isna().any() else stamps.dt.strftime("%Y-%m-%d")
    return None


def _worded(text: pd.Series) -> pd.Series:
    """31 May 2024, May-31-2024, May 2024, 5/2024, 5/24, 2024M05, 2024Q2 or Q2 2024 as ISO 8601; "" where a cell is none of these."""
    out, rest = pd.Series("", index=text.index), text.str.lower()
    for layout in _WORDED:
        found = rest.str.extract(f"^{layout}$").dropna(how="all")
        if not len(found):
            continue
        month = first_months(found["quarter"]) if "quarter" in found else found["month"].str[:3].map(NUMBERS)
        month = month.fillna(found.get("month", "")).str.zfill(2)
        day = found["day"].str.zfill(2) if "day" in found else "01"
        year = found["year"] if "year" in found else found["short"].map(lambda yy: f"{'20' if yy < '69' else '19'}{yy}")
        out[found.index] = year + "-" + month + "-" + day
        rest = rest.drop(found.index)
    return out


def first_months(quarters: pd.Series) -> pd.Series:
    """1, 4, 7 or 10 of quarters written 1 or Q1; what is none stays as it is."""
    number = quarters.str.lower().str.removeprefix("q").str.replace(r"\.0+$", "", regex=True)
    return number.map({str(1 + q): str(1 + 3 * q) for q in range(4)}).fillna(quarters)


def times_of_day(text: pd.Series) -> pd.Series:
    """Seconds of 8:30, 08:30:15.5 or 2:30 PM (or elapsed, as 26:15:00), NaN where a cell is none."""
    parts = text.str.extract(rf"^{_ELAPSED}$")
    parts.columns = ["hour", "minute", "second", "half"]
    return _seconds(parts)


def offsets(text: pd.Series) -> pd.Series:
    """The offset from UTC that each cell is written with: "Z", "+02:00", …; NaN without one."""
    return text.str.extract(rf"{_OFFSET}$")[0]


def _iso(text: pd.Series, zone: str) -> pd.Series:
    stamps = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
    if zone not in ("", "Z"):
        naive = offsets(text).isna()
        stamps = stamps.where(~naive, stamps - pd.Timedelta(seconds=seconds_of(zone)))
    return stamps


def seconds_of(zone: str) -> int:
    """Of an offset from UTC such as "+02:00", "+0200", "+02" or "Z"."""
    digits = re.sub(r"\D", "", zone).ljust(4, "0")
    return (-1 if zone.startswith("-") else 1) * (3600 * int(digits[:2]) + 60 * int(digits[2:]))


def _order(parts: pd.DataFrame) -> tuple[str, str, str] | None:
    """Which of three numbers are year, month and day."""
    if (parts["a"].str.len() == 4).all():
        return "a", "b", "c"
    if not (parts["c"].str.len() == 4).all() or parts["separator"].nunique() > 1:
        return None
    first, second = parts["a"].astype(int).max(), parts["b"].astype(int).max()
    if parts["separator"].iloc[0] == "." or (first > 12 and second <= 12):
        return "c", "b", "a"
    return ("c", "a", "b") if second > 12 and first <= 12 else None


def _seconds(parts: pd.DataFrame) -> pd.Series:
    hour, minute = (pd.to_numeric(parts[p], errors="coerce") for p in ("hour", "minute"))
    second = pd.to_numeric(parts["second"].str.replace(",", "."), errors="coerce").fillna(0.0)
    half = parts["half"].str.lower()
    hour = hour.where(half.isna(), hour % 12 + 12.0 * (half == "pm"))
    return hour * 3600.0 + minute * 60.0 + second
