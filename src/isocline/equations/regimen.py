"""Doses of many series in one solve: jumps of the states, infusions, and what both do to the sensitivities.

An infusion is a constant rate into a state for some time. The rate is carried along as one more state of its own, which does
not change but where it jumps up and back down, so that an infusion begins and ends exactly where it should.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isocline.doses import Dose

if TYPE_CHECKING:
    from isocline.equations.measured import Measured


@dataclass(frozen=True)
class Regimen:
    """When how much is given into which state, by series.

    Attributes:
        ts: (B, D) times, NaN padded; a series without a dose has one of nothing after its end.
        jumps: (B, D, n) what a state jumps by.
        rates: (B, D, k) what the rates into the infused states jump by.
        infused: (k,) which states they are.
        kept: (B, D, 1) 0 where all begins again first, 1 elsewhere; None where nothing does.
    """

    ts: Tensor
    jumps: Tensor
    rates: Tensor
    infused: tuple[int, ...]
    kept: Tensor | None = None

    @staticmethod
    def of(series: Sequence[Measured], states: Sequence[str]) -> Regimen | None:
        """Of the doses of all series; None where there is none."""
        if not any(s.doses or len(s.resets) for s in series):
            return None
        infused = [j for j, name in enumerate(states) if any(_durations(s, name).any() for s in series)]
        count = len(states)
        rows = [_changes(s, states, infused) for s in series]
        ts = [r[0] for r in rows]
        tables = torch.nn.utils.rnn.pad_sequence([r[1] for r in rows], batch_first=True)
        times = torch.nn.utils.rnn.pad_sequence(ts, batch_first=True, padding_value=math.nan)
        kept = None
        if any(len(s.resets) for s in series):
            anew = [torch.isin(r, s.resets).double().unsqueeze(-1) for r, s in zip(ts, series, strict=True)]
            kept = 1.0 - torch.nn.utils.rnn.pad_sequence(anew, batch_first=True)
        return Regimen(times, tables[..., :count], tables[..., count:], tuple(infused), kept)

    def dose(self, rows: Sequence[int], shares: Tensor, slopes: Tensor | None, start: Tensor) -> Dose:
        """What the states, their sensitivities and the rates of some series jump by.

        Args:
            rows: of which series.
            shares: (R, n) of a dose into each state that arrives.
            slopes: (R, n, P) their derivatives; None without sensitivities.
            start: (R, n + n·P) states and sensitivities at time 0, to which a reset goes back.
        """
        index = list(rows)
        where = list(self.infused)
        parts = [self.jumps[index] * shares.unsqueeze(1)]
        rates = [self.rates[index] * shares[:, None, where]]
        if slopes is not None:
            parts.append((self.jumps[index].unsqueeze(-1) * slopes.unsqueeze(1)).flatten(2))
            rates.append((self.rates[index].unsqueeze(-1) * slopes[:, None, where]).flatten(2))
        amounts = torch.cat([*parts, *(rates if where else [])], -1)
        if self.kept is None:
            return Dose(self.ts[index], amounts, per_sample=True)
        kept = self.kept[index]
        begin = torch.nn.functional.pad(start, (0, amounts.shape[-1] - start.shape[-1])).unsqueeze(1)
        return Dose(self.ts[index], (kept, amounts + (1.0 - kept) * begin), jump=_again, per_sample=True)

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


def _changes(s: Measured, states: Sequence[str], infused: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Times (D,) of one series, and what states, then rates, jump by there (D, n + k)."""
    found: list[tuple[float, int, float]] = [(t, 0, 0.0) for t in s.resets.tolist()]
    for name, given in s.doses.items():
        j = states.index(name)
        durations = given[2].tolist() if len(given) > 2 else [0.0] * len(given[0])
        for t, amount, duration in zip(given[0].tolist(), given[1].tolist(), durations, strict=True):
            if duration > 0:
                column, rate = len(states) + infused.index(j), amount / duration
                found.append((t, column, rate))
                if not any(t < r <= t + duration for r in s.resets.tolist()):  # that ends it
                    found.append((t + duration, column, -rate))
            else:
                found.append((t, j, amount))
    if not found:
        found = [(float(s.ts[-1]) + 1.0, 0, 0.0)]
    times = sorted({t for t, _, _ in found})
    table = torch.zeros(len(times), len(states) + len(infused), dtype=torch.float64)
    for t, column, amount in found:
        table[times.index(t), column] += amount
    return torch.tensor(times, dtype=torch.float64), table
