"""The steady state of doses: what the states are at before a dose, where the same was given at an interval for ever.

It is the fixed point z = Ψ(z) of one interval: from z the dose arrives, after its lag, and the interval ends at z again. It is
found by Newton's method with M = ∂Ψ/∂z from the sensitivities of the solve, in one step where the equations are linear, however
slowly they forget; and as z depends on the parameters, ∂z/∂θ = (I − M)⁻¹ ∂Ψ/∂θ.

Source: T. J. Aprille & T. N. Trick, Proc. IEEE 60 (1972) 108 (periodic states by Newton's method).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.equations.measured import Given
from isocline.equations.regimen import Arrival, Change, Regimen
from isocline.equations.sensitivity import Sensitivities

if TYPE_CHECKING:
    from isocline.equations.course import Course

STEPS = 30
CLOSE = 30.0  # tolerances of the solve that Ψ(z) may be from z
FORGETS = 1e-9  # least singular value of I − M: below, what is given stays for ever


@dataclass
class Steady:
    """Of the series of a course.

    Args:
        course: what solves.
        regimen: its doses.
        twin: its field, with directions for the numbers of the state.
        most: steady states that a series comes to.
    """

    course: Course
    regimen: Regimen
    twin: Sensitivities
    most: int

    @staticmethod
    def of(course: Course) -> Steady | None:
        """None where no dose was given for ever before."""
        most = max((len(s.steady) for s in course.series), default=0)
        if course.regimen is None or not most:
            return None
        return Steady(course, course.regimen, course.both.with_directions(len(course.both.field.states)), most)

    def __call__(
        self,
        rows: Sequence[int],
        y0: Tensor,
        directions: int,
        arrival: Arrival,
        args: Sequence[Any],
        rtol: float | None,
    ) -> list[Tensor]:
        """By steady state: (R, n + n·P + k + k·P) states, sensitivities and rates before the dose; NaN where there are none.

        Args:
            directions: P, those of the course; 0 without sensitivities.
            rows, y0, arrival, args, rtol: as for `Course`.
        """
        found = []
        for which in range(self.most):
            mine = [i for i, b in enumerate(rows) if len(self.course.series[b].steady) > which]
            width = (y0.shape[1] + len(self.regimen.infused)) * (1 + directions)
            whole = torch.zeros(len(rows), width, dtype=y0.dtype)
            if mine:
                index = torch.tensor(mine)
                own = pytree.tree_map(functools.partial(_picked, index), tuple(args))
                doses = [self.course.series[rows[i]].steady[which] for i in mine]
                of = _Interval.of(doses, self.course.both.field.states, self.regimen, arrival.pick(index), self.twin)
                solved = functools.partial(self._end, of, rows=rows, args=own, rtol=rtol)
                tolerance = CLOSE * (rtol or self.course.settings.rtol) * self.course.scale
                whole[index] = self._fixed(of, *_newton(solved, y0[index], tolerance), directions)
            found.append(whole)
        return found

    def _fixed(self, of: _Interval, z: Tensor, slopes: Tensor, found: Tensor, directions: int) -> Tensor:
        """(R, N) what begins, from z, the derivatives (R, n, P + n) of Ψ there, and whether it is a fixed point (R,)."""
        count = z.shape[1]
        whole = torch.eye(count, dtype=z.dtype) - slopes[..., -count:].nan_to_num(0.0)
        late = (of.arrival.lag >= of.interval.unsqueeze(1)).any(1)
        good = found & (torch.linalg.svdvals(whole)[:, -1] > FORGETS) & ~late
        if not bool(good.all()):
            b = int((~good).nonzero()[0])
            why = "a lag as long as the interval" if late[b] else "the states come to none"
            d = of.doses[b]
            self.course.trouble = f"there is no steady state of {d.amount:g} at every {d.interval:g}: {why}"
        by = torch.linalg.lstsq(whole, slopes[..., :directions].nan_to_num(0.0)).solution
        rates = of.rates[..., : 1 + directions]
        parts = [z, by.flatten(1), rates[..., 0], rates[..., 1:].flatten(1)]
        return torch.where(good.unsqueeze(1), torch.cat(parts, 1), torch.nan)

    def _end(
        self, of: _Interval, z: Tensor, rows: Sequence[int], args: Sequence[Any], rtol: float | None
    ) -> tuple[Tensor, Tensor]:
        """Ψ(z) (R, n) and its derivatives (R, n, P + n) by the parameters and z."""
        course, twin, count = self.course, self.twin, z.shape[1]
        seeds = torch.nn.functional.pad(torch.eye(count, dtype=z.dtype), (twin.directions - count, 0))
        flat = twin.join(z, seeds.expand(len(z), -1, -1))
        start = torch.cat([flat, of.rates[..., 0], of.rates[..., 1:].flatten(1)], 1)
        dose = of.regimen.dose(range(len(z)), of.arrival, (), course.rates(twin, rows, args))
        ts = torch.stack([torch.zeros_like(of.interval), of.interval], 1)
        ys = course.solved(twin, ts, start, args, rtol, rows, dose)[-1]
        return twin.split(ys[:, : flat.shape[1]])


def _picked(index: Tensor, x: Any) -> Any:
    """Some samples of what has a row a sample."""
    return x[index] if isinstance(x, Tensor) and x.dim() else x


def _newton(
    solved: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor, tolerance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """z with Ψ(z) within `tolerance` (n,) of it, the derivatives of Ψ there, and whether it was found (R,).

    Args:
        solved: z (R, n) -> Ψ(z) and its derivatives, the last n by z.
        z: where to begin.
    """
    count = z.shape[1]
    left = torch.full((len(z),), torch.inf, dtype=z.dtype)
    best, slopes = z, None
    for _ in range(STEPS):
        end, by = solved(z)
        distance = ((end - z) / tolerance).abs().amax(1).nan_to_num(torch.inf)
        better = (distance < left) | (slopes is None)
        best, left = torch.where(better.unsqueeze(1), z, best), torch.where(better, distance, left)
        slopes = by if slopes is None else torch.where(better[:, None, None], by, slopes)
        if bool((left <= 1.0).all()):
            break
        change = torch.eye(count, dtype=z.dtype) - by[..., -count:].nan_to_num(0.0)
        step = torch.linalg.lstsq(change, (end - z).nan_to_num(0.0).unsqueeze(-1)).solution.squeeze(-1)
        z = torch.where(better.unsqueeze(1), z + step, 0.5 * (z + best))  # half the way back from where it went astray
    assert slopes is not None
    return best, slopes, left <= 1.0


@dataclass(frozen=True)
class _Interval:
    """What is given in one interval of each series, and what flows already when it begins.

    Attributes:
        doses: (R,) of each.
        interval: (R,).
        regimen: a row a series, from 0 on.
        arrival: with directions of the state.
        rates: (R, k, 1 + P + n) and their derivatives.
    """

    doses: Sequence[Given]
    interval: Tensor
    regimen: Regimen
    arrival: Arrival
    rates: Tensor

    @staticmethod
    def of(
        doses: Sequence[Given], states: Sequence[str], regimen: Regimen, arrival: Arrival, twin: Sensitivities
    ) -> _Interval:
        """Of one dose of each series, beside the regimen of all."""
        arrival = arrival.with_directions(twin.directions - arrival.share_slopes.shape[2])
        changes = []
        rates = torch.zeros(len(doses), len(regimen.infused), 1 + twin.directions, dtype=torch.float64)
        for i, d in enumerate(doses):
            j = states.index(d.state)
            into = j if regimen.lagged[j] else -1
            if d.duration == 0:
                changes.append([Change(0.0, j, d.amount, into)])
                continue
            k, rate = regimen.infused.index(j), d.amount / d.duration
            # Doses before this interval, at -1, -2, … times its length, that still flow when it begins.
            before = max(0, math.ceil((float(arrival.lag[i, j]) + d.duration) / d.interval) - 1)
            end = d.duration - before * d.interval
            changes.append([Change(t, len(states) + k, r, into) for t, r in ((0.0, rate), (end, -rate))])
            rates[i, k, 0] = before * rate * arrival.share[i, j]
            rates[i, k, 1:] = before * rate * arrival.share_slopes[i, j]
        interval = torch.tensor([d.interval for d in doses], dtype=torch.float64)
        table = Regimen.table(changes, len(states), regimen.infused, regimen.lagged)
        return _Interval(doses, interval, table, arrival, rates)
