"""Numbers beside an axis: short, exact, without an exponent hidden in a corner."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

from matplotlib.ticker import Formatter

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(value: float, digits: int = 2) -> str:
    """`value` in powers of ten where plain figures would be long.

    >>> [power(v) for v in (0, 0.05, 1845, 2e6, 1e-4, -2.5e-7)]
    ['0', '0.05', '1845', '2·10⁶', '10⁻⁴', '−2.5·10⁻⁷']
    """
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    if -4 < exponent < 5:
        text = f"{value:.{max(digits - 1, exponent) + 1}g}"
    else:
        mantissa = f"{value / 10.0**exponent:.{digits}g}"
        text = f"10{str(exponent).translate(_RAISED)}"
        text = text if mantissa == "1" else f"{mantissa}·{text}" if mantissa != "-1" else f"-{text}"
    return text.replace("-", "−")


def log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Round numbers inside [low, high], seven at most, and their labels.

    >>> log_ticks(0.8, 60)
    ([1.0, 2.0, 5.0, 10.0, 20.0, 50.0], ['1', '2', '5', '10', '20', '50'])
    >>> log_ticks(3e-5, 2)[1]
    ['10⁻⁴', '0.001', '0.01', '0.1', '1']
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    finest = range(10, 100) if high < 1.6 * low else range(10, 100, 5)  # a narrow range has no 1, 2 or 5 in it
    for mantissas in (finest, range(10, 100, 10), (10, 20, 50), (10, 30), (10,)):
        at = [m / 10 * 10.0**e for e in range(first, last + 1) for m in mantissas]
        at = [v for v in at if low * 0.999 <= v <= high * 1.001]
        if not at:
            return [low, high], [power(low, 4), power(high, 4)]
        if len(at) <= 7:
            return at, [power(v) for v in at]
    at = at[:: math.ceil(len(at) / 7)]
    return at, [power(v) for v in at]


class Plain(Formatter):
    """Ticks with as many decimals as tell neighbours apart: 1845, 0.25, 2·10⁶."""

    ticks: tuple[float, ...] = ()

    def set_locs(self, locs: Iterable[float]) -> None:
        self.ticks = tuple(sorted({float(v) for v in locs}))

    def __call__(self, x: float, pos: int | None = None) -> str:
        step = min((b - a for a, b in pairwise(self.ticks)), default=abs(x)) or 1.0
        largest = max(map(abs, self.ticks), default=abs(x))
        if abs(x) < 1e-9 * step:
            return "0"
        if not 1e-3 <= largest < 1e5:
            return power(x, max(1, math.ceil(math.log10(largest / step) + 0.3)) + 1)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        decimals += abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6  # steps of 2.5
        return f"{x:.{decimals}f}".replace("-", "−")
