"""Seasons: a clock of a known period that a network is given beside the states, for what weather, weeks and days drive.

Two inputs tell where in its period the time is, cos(2πt/P) and sin(2πt/P). No state can: an epidemic that school terms
drive does not know when they begin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isocline.fit.errors import UserError
from isocline.fit.reading.clock import UNITS

WORDS = {
    "second": UNITS["s"], "minute": UNITS["min"], "hour": UNITS["h"], "day": UNITS["d"], "week": UNITS["w"],
    "month": UNITS["y"] / 12, "year": UNITS["y"],
}  # fmt: skip
TIMES, ABOUT = 3, 0.02  # periods of the calendar that a found one may be, and how near to one it is
CALENDAR = 1600, 2100  # years that a table may count in
PARTS, CLOSE = (4, 12, 52.18, 365.25), 0.01  # of a year: how many it has, and how near a step is to one
FREE = ("auto", "none")  # settings that say no period
NAMED = {"day": UNITS["d"], "week": UNITS["w"], "year": UNITS["y"]}  # seconds


@dataclass(frozen=True)
class Season:
    """A clock.

    Args:
        period: P, in the table's unit of time.
        tau: the table's time that is one unit of the field's.

    Example:
        >>> year = Season(period=12.0, tau=1.0)
        >>> year.told(torch.tensor(0.0), torch.tensor([3.0])).round(decimals=6).abs()
        tensor([0., 1.])
    """

    period: float
    tau: float

    def told(self, t: Tensor, begin: Tensor) -> Tensor:
        """(…, 2) where in the period the time is, which begins at `begin` (…, 1), or 0-d, of the table's and goes on for t of the
        field's."""
        angle = (begin + t * self.tau) * (2 * math.pi / self.period)
        angle = angle if angle.dim() else angle[None]
        return torch.cat([torch.cos(angle), torch.sin(angle)], -1)


def named_or_period(given: float | str) -> float | str:
    """A setting as it was meant: a name, or a period as a number; ValueError of anything else.

    Example:
        >>> named_or_period("year"), named_or_period("12")
        ('year', 12.0)
    """
    if given in (*FREE, *NAMED):
        return given
    try:
        period = float(given)
    except ValueError:
        period = math.nan
    if not (math.isfinite(period) and period > 0):
        raise ValueError(f"expected {', '.join((*FREE, *NAMED))}, or a period above 0 in the time's unit")
    return period


def seconds_in(unit: str, name: str, t: np.ndarray | None = None) -> float | None:
    """How long a unit of the table's time is; None where nobody knows.

    Args:
        unit: of its dates, or in its header: "w", "min", ….
        name: of its column: without a unit, "weeks" says one.
        t: times of a series: 1949.083 and 1949.167 are of years, in months.

    Example:
        >>> seconds_in("d", "time"), seconds_in("", "weeks"), seconds_in("", "time")
        (86400.0, 604800.0, None)
        >>> seconds_in("", "time", 1949 + np.arange(24) / 12) == seconds_in("y", "time")
        True
    """
    known = UNITS.get(unit) or WORDS.get(name.lower().removesuffix("s"))
    return known or (UNITS["y"] if t is not None and _of_years(t) else None)


def _of_years(t: np.ndarray) -> bool:
    """Whether times are years of our calendar, in equal parts of one."""
    if len(t) < 2 or t.min() < CALENDAR[0] or t.max() > CALENDAR[1]:
        return False
    step = float(np.median(np.diff(t)))
    return any(abs(step * parts - 1) < CLOSE for parts in PARTS) and not bool((t == t.round()).all())


def read_season(given: float | str, seconds: float | None) -> float | str:
    """The setting with a period in place of "day", "week" or "year".

    Args:
        given: as `named_or_period` gives it.
        seconds: in a unit of the table's time, as `seconds_in`.

    Raises:
        UserError: for a name where that is not known.

    Example:
        >>> read_season("week", 86400.0), read_season(12.0, None), read_season("none", None)
        (7.0, 12.0, 'none')
    """
    if given not in NAMED:
        return given
    if seconds is None:
        raise UserError(
            f"season={given!r}: the time column holds numbers and says no unit, so how long a {given} is is not known; give the "
            f"period as a number, or name the column as in 'time (d)'"
        )
    return NAMED[str(given)] / seconds


def periods_of(seconds: float | None) -> list[float]:
    """One to three days, weeks and years in units of the table's time; none where that is not known.

    Args:
        seconds: in one, as `seconds_in`.

    Example:
        >>> periods_of(604800.0)[3:6]
        [1.0, 2.0, 3.0]
    """
    return [] if seconds is None else [k * length / seconds for length in NAMED.values() for k in range(1, TIMES + 1)]


def of_calendar(period: float, seconds: float | None) -> float:
    """The period, or where it is about one to three days, weeks or years, exactly those.

    Example:
        >>> of_calendar(7.05, 86400.0), of_calendar(6.0, 86400.0), of_calendar(7.05, None)
        (7.0, 6.0, 7.05)
    """
    nearest = min(periods_of(seconds), key=lambda p: abs(p - period), default=period)
    return nearest if abs(nearest - period) <= ABOUT * period else period
