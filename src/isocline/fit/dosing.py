"""What is given to the states of series at known times, at once or over a while, in a fit by windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isocline.doses import Dose
from isocline.inputs import Signal, ZeroOrderHold

NEVER = 1e30  # when a sample that is given nothing gets it


@dataclass(frozen=True)
class Regimen:
    """Of one series: at times t (K,) the amounts (K, d) into its states, each over a duration (K,), 0 being at once.

    A row at the time of a dose shows the state before it.

    Example:
        >>> twice = Regimen(np.array([0.0, 2.0]), np.array([[3.0], [4.0]]), np.array([0.0, 4.0]))
        >>> twice.so_far(np.array([0.0, 1.0, 4.0, 9.0]))[:, 0]
        array([0., 3., 5., 7.])
    """

    t: np.ndarray
    amount: np.ndarray
    duration: np.ndarray

    def so_far(self, t: np.ndarray) -> np.ndarray:
        """(n, d) that has arrived before times (n,)."""
        past = t[:, None] - self.t
        share = np.where(
            self.duration > 0, np.clip(past / np.where(self.duration > 0, self.duration, 1.0), 0, 1), past > 0
        )
        return share @ self.amount

    def stretch(self, begin: float, end: float) -> Regimen:
        """What acts between two times."""
        return self.pick((self.t < end) & np.where(self.duration > 0, self.t + self.duration > begin, self.t >= begin))

    def pick(self, rows: np.ndarray) -> Regimen:
        """Some of it."""
        return Regimen(self.t[rows], self.amount[rows], self.duration[rows])

    def scaled(self, begin: float, sd: np.ndarray, tau: float) -> Regimen:
        """In scaled units (of standard deviations (d,)), the time counted from `begin`."""
        return Regimen((self.t - begin) / tau, self.amount / sd, self.duration / tau)

    def to_dict(self) -> dict[str, Any]:
        """For states.json."""
        return {"t": self.t.tolist(), "amount": self.amount.tolist(), "duration": self.duration.tolist()}

    @staticmethod
    def from_dict(kept: dict[str, Any], count: int) -> Regimen:
        """From states.json, into so many states."""
        t, duration = np.array(kept["t"]), np.array(kept["duration"])
        return Regimen(t, np.array(kept["amount"]).reshape(len(t), count), duration)


@dataclass(frozen=True)
class Given:
    """What a batch of samples is given, each on its clock.

    Attributes:
        t: (B, D) times of what is given at once, NaN padded, and `jumps` (B, D, d) what states jump by.
        knots: (B, K) times from which `rates` (B, K, d) flow in; None where nothing is given over a while.
    """

    t: Tensor
    jumps: Tensor
    knots: Tensor | None = None
    rates: Tensor | None = None

    @staticmethod
    def of(parts: Sequence[Regimen]) -> Given | None:
        """Of scaled regimens; None of none."""
        if not parts:
            return None
        ts, jumps, knots, rates = [], [], [], []
        for p in parts:
            at_once = p.duration == 0
            times, where = np.unique(p.t[at_once], return_inverse=True)
            jump = np.zeros((len(times), p.amount.shape[1]))
            np.add.at(jump, where, p.amount[at_once])
            if not len(times):
                times, jump = np.array([NEVER]), np.zeros((1, p.amount.shape[1]))
            ts.append(torch.tensor(times))
            jumps.append(torch.tensor(jump))
            slow = p.pick(~at_once)
            edges = np.concatenate([slow.t, slow.t + slow.duration])
            edges = np.unique(np.append(edges, edges.min(initial=0.0) - 1.0))  # nothing flows before the first
            inside = (edges[:, None] >= slow.t) & (edges[:, None] < slow.t + slow.duration)
            knots.append(torch.tensor(edges))
            rates.append(
                torch.tensor(inside @ (slow.amount / np.where(slow.duration > 0, slow.duration, 1.0)[:, None]))
            )
        given = Given(_padded(ts, torch.nan), _padded(jumps, 0.0))
        if not any((p.duration > 0).any() for p in parts):
            return given
        return Given(given.t, given.jumps, _padded(knots, torch.nan), _padded(rates, 0.0))

    @staticmethod
    def joined(parts: Sequence[Given | None]) -> Given | None:
        """The samples of several: all are given something, or none is."""
        some = [p for p in parts if p is not None]
        if not some:
            return None
        t = _padded([row for p in some for row in p.t], torch.nan)
        jumps = _padded([row for p in some for row in p.jumps], 0.0)
        if all(p.knots is None for p in some):
            return Given(t, jumps)
        pairs = [p.slow for p in some]
        knots = _padded([row for k, _ in pairs for row in k], torch.nan)
        return Given(t, jumps, knots, _padded([row for _, r in pairs for row in r], 0.0))

    @property
    def slow(self) -> tuple[Tensor, Tensor]:
        """Knots and rates, of nothing that flows where there is none."""
        if self.knots is not None and self.rates is not None:
            return self.knots, self.rates
        return self.t.new_full((len(self.t), 1), -1.0), torch.zeros_like(self.jumps[:, :1])

    def pick(self, rows: Tensor) -> Given:
        """Some of the samples."""
        slow = () if self.knots is None or self.rates is None else (self.knots[rows], self.rates[rows])
        return Given(self.t[rows], self.jumps[rows], *slow)

    @property
    def dose(self) -> Dose | None:
        """What jumps, as `solve` takes it; None where nothing does."""
        some = bool((self.t < NEVER).any())
        return Dose(self.t, self.jumps, per_sample=True) if some else None

    @property
    def flowing(self) -> Signal | None:
        """What flows in; None where nothing does."""
        return None if self.knots is None else ZeroOrderHold(self.knots, self.rates, per_sample=True)


class Flowing:
    """A field of samples into which something flows: dy/dt = f + rate, f being given what it takes beside.

    Args:
        field: f(t, y, *args), or f(t, y, {name: …}, *args) with what its attribute `takes` names.
    """

    def __init__(self, field: Callable[..., Tensor]) -> None:
        self.field, self.takes = field, tuple(getattr(field, "takes", ()))

    def __call__(self, t: Tensor, y: Tensor, given: dict[str, Tensor], *args: Any) -> Tensor:
        beside = [{name: given[name] for name in self.takes}] if self.takes else []
        return self.field(t, y, *beside, *args) + given["flowing"]


@lru_cache(8)
def flowing(field: Callable[..., Tensor]) -> Flowing:
    """The same one for the same field, of which an engine then knows that it has seen it."""
    return Flowing(field)


def _padded(rows: Sequence[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
