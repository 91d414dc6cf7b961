"""Profile likelihood: the loss as a function of one number, all others fitted anew at each of its values.

An interval holds the values whose loss is within a threshold of the best: n log(1 + q²/(n - p)), with q the quantile of
Student's t with n - p degrees of freedom. For one column this is exactly the F-test of the sum of squares, the interval of R's
`confint` for `nls`; for several columns it tends to the χ² threshold as n grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from isocline.equations.inference import Optimum, Search

MOST = 40  # points on each side
BETTER = 0.01  # of the threshold: what a fit must be better by to be taken instead
TOLERANCE = 1e-3  # of the signed root at the ends
EDGE = 7.0  # of a logit: a thousandth of the way from a bound
FAR = {"above": 18.0, "below": 18.0, "between": 16.0}  # how far the unbounded coordinate is followed


class BetterFitError(Exception):
    """A profile came upon a better fit than the one it started from."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


@dataclass(frozen=True)
class Profile:
    """The loss along one number.

    Attributes:
        name, level: of what, and the confidence of the interval.
        values: of the number, increasing.
        losses: minus twice the log-likelihood above its minimum there.
        threshold: what the interval stays below.
        low, high: its ends; a bound, or an infinity, where the data set no limit.
        open_low, open_high: why an end is none that the data set, or "".
    """

    name: str
    level: float
    values: tuple[float, ...]
    losses: tuple[float, ...]
    threshold: float
    low: float
    high: float
    open_low: str = ""
    open_high: str = ""

    def __str__(self) -> str:
        text = f"{self.name}: {100 * self.level:g} % interval {self.low:.4g} to {self.high:.4g}"
        reasons = [
            f"no {end} limit: {why}" for end, why in (("lower", self.open_low), ("upper", self.open_high)) if why
        ]
        return "; ".join([text, *reasons])


def profile(search: Search, best: Optimum, index: int, error: float, threshold: float, level: float) -> Profile:
    """Follows entry `index` of x to both sides.

    Args:
        search, best: the fit.
        index: of the entry.
        error: its standard error, in the coordinate of x; inf or nan where there is none.
        threshold: of the loss.
        level: for the record.

    Raises:
        BetterFitError: with a point from which a search finds a lower loss.
    """
    sides = [Side(search, best, index, error, threshold, way).walk() for way in (-1, 1)]
    natural = search_value(search, index)
    centre = float(best.x[index])
    points = sorted({**dict(sides[0].points), **dict(sides[1].points), centre: 0.0}.items())
    ordered = sorted((natural(u), z * z) for u, z in points)
    ends = sorted((side.limit(natural), side.why) for side in sides)
    return Profile(
        search.misfit.names[index], level, tuple(v for v, _ in ordered), tuple(z for _, z in ordered), threshold,
        ends[0][0], ends[1][0], ends[0][1], ends[1][1],
    )  # fmt: skip


def search_value(search: Search, index: int) -> Callable[[float], float]:
    """From the coordinate of x to the number itself."""
    free = search.misfit.field.free
    return free[index].value if index < len(free) else float


class Side:
    """One side of a profile: steps outwards, each fitted from where the one before ended."""

    def __init__(self, search: Search, best: Optimum, index: int, error: float, threshold: float, way: int) -> None:
        self.search, self.best, self.index, self.way = search, best, index, way
        self.target = math.sqrt(threshold)
        kind = search.misfit.field.free[index].kind if index < len(search.misfit.field.free) else "identity"
        self.kind = kind
        size = max(1.0, abs(float(best.x[index])))
        known = math.isfinite(error) and error > 0
        self.step = min(error, 3.0) * 0.7 * self.target if known and kind != "identity" else 0.0
        if kind == "identity":
            self.step = 0.7 * self.target * (error if known else 0.1 * size)
        self.step = self.step or 0.5
        self.reach = FAR.get(kind, 1e4 * max(size, self.step))
        self.points: list[tuple[float, float]] = []
        self.end: float | None = None
        self.why = ""

    def at(self, u: float, guess: Tensor, variances: Tensor) -> Optimum:
        x = guess.clone()
        x[self.index] = u
        found = self.search.run(x, self.index, variances)
        if found.loss < self.best.loss - BETTER * self.target**2:
            raise BetterFitError(found.x)
        self.points.append((u, math.sqrt(max(0.0, found.loss - self.best.loss))))
        return found

    def walk(self) -> Side:
        """To where the loss reaches the threshold, or as far as makes sense."""
        centre = float(self.best.x[self.index])
        if (
            self.kind == "between" and centre * self.way < -EDGE
        ):  # away from a bound it lies at: first to where it can be seen
            centre = -EDGE * self.way
        before, here = (centre, 0.0), (centre, 0.0)
        optimum, earlier = self.best, self.best
        halved = 0
        while len(self.points) < MOST:
            if abs(here[0] - centre) >= self.reach * (1 - 1e-9):  # there, but for the rounding of centre + reach
                break
            u = centre + self.way * min(abs(here[0] - centre) + self.step, self.reach)
            try:
                guess = self._guess(earlier, optimum, u)
                found = self.at(u, guess, optimum.variances)
            except ValueError:
                halved += 1
                self.step /= 4
                if halved > 5:
                    self.why = "the equations cannot be solved beyond it"
                    return self
                continue
            before, here, earlier, optimum = here, self.points[-1], optimum, found
            if here[1] >= self.target:
                self.end = self._refine(before, here, earlier, optimum)
                return self
            slope = (here[1] - before[1]) / abs(here[0] - before[0])
            wanted = 0.5 * self.target / slope if slope > 0 else math.inf
            self.step = min(2.0 * self.step, max(0.5 * self.step, wanted))
        self.why = self._open()
        return self

    def _guess(self, earlier: Optimum, optimum: Optimum, u: float) -> Tensor:
        """The last optimum, moved on along the line through the last two."""
        gap = float(optimum.x[self.index] - earlier.x[self.index])
        if gap == 0.0:
            return optimum.x
        share = (u - float(optimum.x[self.index])) / gap
        return optimum.x + min(share, 2.0) * (optimum.x - earlier.x)

    def _refine(self, before: tuple[float, float], here: tuple[float, float], inner: Optimum, outer: Optimum) -> float:
        """Where the root of the loss, nearly a straight line, meets the target: false position, then halves."""
        low, high = before, here
        for turn in range(12):
            share = (self.target - low[1]) / (high[1] - low[1])
            if turn % 3 == 2:
                share = 0.5
            u = low[0] + share * (high[0] - low[0])
            guess = inner.x + share * (outer.x - inner.x)
            found = self.at(u, guess, outer.variances)
            z = self.points[-1][1]
            if abs(z - self.target) < TOLERANCE * self.target:
                return u
            if z < self.target:
                low, inner = (u, z), found
            else:
                high, outer = (u, z), found
        return low[0] + (self.target - low[1]) / (high[1] - low[1]) * (high[0] - low[0])

    def _open(self) -> str:
        free = self.search.misfit.field.free
        if self.index < len(free) and self._bound() is not None:
            return f"the fit stays as good up to its bound {self._bound():g}"
        return "the fit stays as good however far it goes"

    def _bound(self) -> float | None:
        """The bound that this side runs towards."""
        p = self.search.misfit.field.free[self.index]
        towards_low = (self.way < 0) != (p.kind == "below")
        bound = p.low if towards_low else p.high
        return bound if math.isfinite(bound) else None

    def limit(self, natural: Callable[[float], float]) -> float:
        """The end of the interval on this side."""
        if self.end is not None:
            return natural(self.end)
        free = self.search.misfit.field.free
        if self.why.startswith("the equations"):
            return natural(self.points[-1][0]) if self.points else natural(float(self.best.x[self.index]))
        if self.index < len(free):
            bound = self._bound()
            if bound is not None:
                return bound
            return math.copysign(math.inf, self.way if self.kind != "below" else -self.way)
        return math.copysign(math.inf, self.way)
