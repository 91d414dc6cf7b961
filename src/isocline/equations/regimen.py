"""Doses of many series in one solve: jumps of the states, infusions, and what both do to the sensitivities.

An infusion is a constant rate into a state for some time. The rate is carried along as one more state of its own, which does
not change but where it jumps up and back down, so that an infusion begins and ends exactly where it should.

A dose may arrive after a lag, which rests on parameters, and the time τ of its jump with it. As the state after the jump is
to be the same seen from both sides, the sensitivities S = ∂y/∂θ then jump, beside what the amount does, by

    S⁺ − S⁻ = (f(τ, y⁻) − f(τ, y⁺)) ∂τ/∂θ

(the saltation matrix of a jump at a time that does not depend on the state; E. N. Rozenvasser, Autom. Remote Control 28
(1967) 1047). Infusions need no formula of their own: the rate is part of y, and f of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isocline.doses import Dose

if TYPE_CHECKING:
    from isocline.equations.measured import Measured

RESET, STEADY = 1, 2  # how all begins anew: as at time 0, or in the first steady state of a series, or in a later one
APART = 1e-12  # of the largest time: how far apart doses are given that come at one time by a lag


@dataclass(frozen=True)
class Arrival:
    """How doses into each state arrive, for R samples with P directions.

    Attributes:
        share, share_slopes: (R, n) of a dose, and (R, n, P).
        lag, lag_slopes: (R, n) time until it arrives, and (R, n, P).
    """

    share: Tensor
    share_slopes: Tensor
    lag: Tensor
    lag_slopes: Tensor

    def pick(self, rows: Tensor) -> Arrival:
        """Of some samples."""
        return Arrival(self.share[rows], self.share_slopes[rows], self.lag[rows], self.lag_slopes[rows])

    def with_directions(self, count: int) -> Arrival:
        """With so many directions more, in which nothing changes."""
        wider = (torch.nn.functional.pad(x, (0, count)) for x in (self.share_slopes, self.lag_slopes))
        share_slopes, lag_slopes = wider
        return Arrival(self.share, share_slopes, self.lag, lag_slopes)


@dataclass(frozen=True)
class Change:
    """What changes at one time of a series.

    Attributes:
        t: as recorded; the lag of the state that it goes into is still to come.
        column: of the state that jumps or, behind the states, of the rate that does.
        amount: by which.
        into: state whose lag delays it; -1: none does.
        recorded: when it was given: what begins anew after that, before it arrives, cancels it.
        anew: 0, `RESET`, or `STEADY` and how many steady states the series was in before.
    """

    t: float
    column: int = 0
    amount: float = 0.0
    into: int = -1
    recorded: float = -math.inf
    anew: int = 0


@dataclass(frozen=True)
class Regimen:
    """When how much is given into which state, by series.

    Attributes:
        ts: (B, D) times as recorded, NaN padded; a series without a dose has one of nothing after its end.
        jumps: (B, D, n) what a state jumps by.
        rates: (B, D, k) what the rates into the infused states jump by.
        infused: (k,) which states they are.
        into, recorded, anew: (B, D), as `Change` has them.
        lagged: (n,) which states have a lag.
    """

    ts: Tensor
    jumps: Tensor
    rates: Tensor
    infused: tuple[int, ...]
    into: Tensor
    recorded: Tensor
    anew: Tensor
    lagged: tuple[bool, ...]

    @staticmethod
    def of(series: Sequence[Measured], states: Sequence[str], lags: Sequence[str] = ()) -> Regimen | None:
        """Of the doses of all series; None where there is none.

        Args:
            states: names.
            lags: those of them with a lag.
        """
        if not any(s.doses or len(s.resets) for s in series):
            return None
        infused = [j for j, name in enumerate(states) if any(_durations(s, name).any() for s in series)]
        lagged = tuple(name in lags for name in states)
        changes = [_changes(s, states, infused, lagged) for s in series]
        return Regimen.table(changes, len(states), infused, lagged)

    @staticmethod
    def table(
        changes: Sequence[Sequence[Change]], states: int, infused: Sequence[int], lagged: Sequence[bool]
    ) -> Regimen:
        """Of the changes of each series; what happens at one time in any case is one row."""
        rows = [_merged(own, states + len(infused)) for own in changes]

        def padded(part: int, value: float) -> Tensor:
            parts = [r[part] for r in rows]
            return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)

        amounts = padded(1, 0.0)
        return Regimen(
            padded(0, math.nan), amounts[..., :states], amounts[..., states:], tuple(infused), padded(2, -1).long(),
            padded(3, -math.inf), padded(4, 0).long(), tuple(lagged),
        )  # fmt: skip

    def dose(
        self,
        rows: Sequence[int],
        arrival: Arrival,
        begin: Sequence[Tensor],
        rates: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> Dose:
        """What the states, their sensitivities and the rates of some series jump by.

        Args:
            rows: of which series.
            arrival: of a dose into each state.
            begin: of what begins anew, by `RESET` and then each steady state: (R, n + n·P + k + k·P) what it begins with.
            rates: (R, 1) and whole states -> (R, n) dy/dt; None without sensitivities.
        """
        index = list(rows)
        where = list(self.infused)
        parts = [self.jumps[index] * arrival.share.unsqueeze(1)]
        flows = [self.rates[index] * arrival.share[:, None, where]]
        if rates is not None:
            slopes = arrival.share_slopes
            parts.append((self.jumps[index].unsqueeze(-1) * slopes.unsqueeze(1)).flatten(2))
            flows.append((self.rates[index].unsqueeze(-1) * slopes[:, None, where]).flatten(2))
        amounts = torch.cat([*parts, *(flows if where else [])], -1)
        anew = self.anew[index]
        if not any(self.lagged) and not bool(anew.any()):
            return Dose(self.ts[index], amounts, per_sample=True)
        ts, valid = self._arrived(index, arrival)
        kept = 1.0 - (anew > 0).to(amounts.dtype).unsqueeze(-1)
        added = torch.where(valid.unsqueeze(-1), amounts, 0.0)
        for which, start in enumerate(begin):
            added = added + torch.where((anew == RESET + which).unsqueeze(-1), start.unsqueeze(1), 0.0)
        if not any(self.lagged):
            return Dose(ts, (kept, added), jump=_again, per_sample=True)
        order = torch.sort(ts.nan_to_num(math.inf), dim=1, stable=True).indices
        ts = _apart(ts.gather(1, order))
        sample = torch.arange(len(index)).unsqueeze(1)
        kept, added = kept[sample, order], added[sample, order]
        if rates is None:
            return Dose(ts, (kept, added), jump=_again, per_sample=True)
        into = self.into[index]
        moved = arrival.lag_slopes[sample, into.clamp(min=0)]
        moved = torch.where(((into >= 0) & valid).unsqueeze(-1), moved, 0.0)[sample, order]
        return Dose(ts, (kept, added, ts.nan_to_num(0.0).unsqueeze(-1), moved), jump=_Late(rates), per_sample=True)

    def _arrived(self, index: list[int], arrival: Arrival) -> tuple[Tensor, Tensor]:
        """(R, D) when each arrives, and whether it does: what begins anew between record and arrival cancels it."""
        ts, recorded, anew = self.ts[index], self.recorded[index], self.anew[index] > 0
        into = self.into[index]
        ts = ts + torch.where(into >= 0, arrival.lag.gather(1, into.clamp(min=0)), 0.0)
        again = torch.where(anew, ts, math.nan).unsqueeze(1)
        cancelled = ((recorded.unsqueeze(2) < again) & (again <= ts.unsqueeze(2))).any(2)
        return ts, ~cancelled & (ts >= recorded)

    def field(self, field: nn.Module, states: int, directions: int) -> nn.Module:
        """The field with the rates of infusions behind its state (and sensitivities in so many directions)."""
        return Infused(field, self.infused, states, directions) if self.infused else field

    def widened(self, y0: Tensor, directions: int) -> Tensor:
        """Starting states with the rates behind: nothing is given yet."""
        return torch.nn.functional.pad(y0, (0, len(self.infused) * (1 + directions)))


def _again(y: Tensor, amount: tuple[Tensor, Tensor]) -> Tensor:
    """What is left of a state, and what is added."""
    kept, added = amount
    return kept * y + added


@dataclass(frozen=True)
class _Late:
    """A jump at a time that moves with the parameters.

    Args:
        rates: as for `Regimen.dose`.
    """

    rates: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, y: Tensor, amount: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        kept, added, t, moved = amount  # (R, 1), (R, N), (R, 1), (R, P)
        after = kept * y + added
        drop = self.rates(t, y) - self.rates(t, after)
        turned = torch.where(moved.unsqueeze(1) == 0.0, 0.0, drop.unsqueeze(-1) * moved.unsqueeze(1)).flatten(1)
        n = drop.shape[1]
        return torch.cat([after[:, :n], after[:, n : n + turned.shape[1]] + turned, after[:, n + turned.shape[1] :]], 1)


class Infused(nn.Module):
    """A field of (y, S) with constant rates r, and their derivatives, behind: r goes into states of its own.

    Args:
        field: of (y, S), flat: (…, n + n·P).
        infused: the states that the rates go into.
        states, directions: n and P; 0 directions without sensitivities.
    """

    into: Tensor

    def __init__(self, field: nn.Module, infused: Sequence[int], states: int, directions: int) -> None:
        super().__init__()
        self.field, self.size = field, states * (1 + directions)
        count = len(infused)
        into = torch.zeros(count * (1 + directions), self.size, dtype=torch.float64)
        for k, j in enumerate(infused):
            into[k, j] = 1.0
            for p in range(directions):
                into[count + k * directions + p, states + j * directions + p] = 1.0
        self.register_buffer("into", into)

    def forward(self, t: Tensor, flat: Tensor, *args: Any) -> Tensor:
        """(dy/dt, dS/dt, 0)."""
        rates = flat[..., self.size :]
        return torch.cat([self.field(t, flat[..., : self.size], *args) + rates @ self.into, rates * 0.0], -1)


def _durations(s: Measured, state: str) -> Tensor:
    """(D,) of the doses into a state; 0 is at once."""
    given = s.doses.get(state)
    return given[2] if given is not None and len(given) > 2 else torch.zeros(1)


def _changes(s: Measured, states: Sequence[str], infused: Sequence[int], lagged: Sequence[bool]) -> list[Change]:
    """Of one series."""
    anew = [Change(t, recorded=t, anew=RESET) for t in s.resets.tolist()]
    anew += [Change(d.t, recorded=d.t, anew=STEADY + i) for i, d in enumerate(s.steady)]
    found = []
    for d in s.given:
        j = states.index(d.state)
        into = j if lagged[j] else -1
        if d.duration == 0:
            found.append(Change(d.t, j, d.amount, into, d.t))
            continue
        column, rate = len(states) + infused.index(j), d.amount / d.duration
        found += [Change(d.t, column, rate, into, d.t), Change(d.t + d.duration, column, -rate, into, d.t)]
        # Of those before a steady state: what flows at its time ends after it; where there is a lag, that decides which do.
        after = math.nextafter(d.t, math.inf)
        before = math.ceil(d.duration / d.interval) + lagged[j] if d.interval > 0 else 0
        ends = [d.t + d.duration - i * d.interval for i in range(1, before + 1)]
        found += [Change(t, column, -rate, into, after) for t in ends if lagged[j] or t > d.t]
    cut = [c for c in found if c.into < 0 and any(c.recorded < a.t <= c.t for a in anew)]
    return [*anew, *(c for c in found if c not in cut)] or [Change(float(s.ts[-1]) + 1.0)]


def _merged(changes: Sequence[Change], columns: int) -> tuple[Tensor, ...]:
    """Times (D,), amounts (D, columns), and into, recorded, anew (D,): those first that begin anew at a time."""
    rows: dict[tuple[float, int, float], int] = {}

    def key(c: Change) -> tuple[float, int, float]:
        """Which changes are one row: those with a lag where they were given together, too."""
        return c.t, c.into, c.recorded if c.into >= 0 else math.inf

    for k in sorted(key(c) for c in changes):
        rows.setdefault(k, len(rows))
    ts, into = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    times, begins = ts - math.inf, torch.zeros_like(ts)
    table = torch.zeros(len(rows), columns, dtype=torch.float64)
    for c in changes:
        row = rows[key(c)]
        table[row, c.column] += c.amount
        ts[row], into[row], times[row] = c.t, c.into, max(float(times[row]), c.recorded)
        begins[row] = max(float(begins[row]), c.anew)
    return ts, table, into, times, begins


def _apart(ts: Tensor) -> Tensor:
    """Sorted times (R, D) with those that are equal set apart, by next to nothing."""
    if not bool((ts.diff(dim=1) <= 0).any()):
        return ts
    width = APART * ts.nan_to_num(0.0).abs().max().clamp(min=1e-300)
    columns = [ts[:, 0]]
    for column in ts.unbind(1)[1:]:
        columns.append(torch.where(column <= columns[-1] + 0.5 * width, columns[-1] + width, column))
    return torch.stack(columns, 1)
