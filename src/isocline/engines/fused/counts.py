"""What the machine counts of every sample, in memory of its own until somebody asks: most solves are never asked."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from isocline.solution import Count, Stats

ROWS = 6  # of eight bytes a sample
STATUS, ACCEPTED, REJECTED, EVALUATIONS, T, H = range(ROWS)


class Outcome(ctypes.Structure):
    """Where the counts of every sample go."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("status", "accepted", "rejected", "evaluations", "t", "h")]


class Counts:
    """Of one solve; each a tensor (B,) on the memory that the machine fills.

    Args:
        samples: B.
        further: bytes for whoever asks, at `behind`.

    Attributes:
        status, accepted, rejected, evaluations: int64.
        t, h: float64, where and with which step a sample stopped.
    """

    def __init__(self, samples: int, further: int = 0) -> None:
        self.samples, self.behind = samples, 8 * ROWS * samples
        self.memory = bytearray(self.behind + further or 1)

    def outcome(self) -> Outcome:
        """Where the machine finds it."""
        start, row = self.address, 8 * self.samples
        return Outcome(*(range(start, start + ROWS * row, row) if row else [start] * ROWS))

    @property
    def address(self) -> int:
        """Of the memory."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def _row(self, i: int, dtype: torch.dtype = torch.int64) -> Tensor:
        if not self.samples:
            return torch.zeros(0, dtype=dtype)
        return torch.frombuffer(self.memory, dtype=dtype, count=self.samples, offset=8 * self.samples * i)

    @cached_property
    def status(self) -> Tensor:
        """How each ended."""
        return self._row(STATUS)

    @cached_property
    def accepted(self) -> Tensor:
        """Steps."""
        return self._row(ACCEPTED)

    @cached_property
    def rejected(self) -> Tensor:
        """Steps."""
        return self._row(REJECTED)

    @cached_property
    def evaluations(self) -> Tensor:
        """Of the field."""
        return self._row(EVALUATIONS)

    @cached_property
    def t(self) -> Tensor:
        """Where each stopped."""
        return self._row(T, torch.float64)

    @cached_property
    def h(self) -> Tensor:
        """With which step."""
        return self._row(H, torch.float64)


def _counted(name: str) -> Any:
    """A count that is read from the memory, unless it was set."""

    def get(self: Counted) -> Any:
        found = vars(self).get(name)
        found = getattr(self.counts, name) if found is None else found
        return Count.of(found) if self.together else found

    return property(get, lambda self, value: vars(self).update({name: value}))


class Counted(Stats):
    """Statistics that are read from the machine's memory when they are asked for.

    Args:
        counts: the memory.
        stages: how often a way back evaluates the field for a step.

    Attributes:
        together: of the whole batch, as `engine="auto"` tells them where it chose that samples step on their own.
        passes: ways back.
    """

    evaluations, accepted, rejected = map(_counted, ("evaluations", "accepted", "rejected"))

    def __init__(self, counts: Counts, stages: int) -> None:
        self.counts, self.stages, self.together, self.passes, self.further = counts, stages, False, 0, 0

    @property
    def evaluations_backward(self) -> int:
        calls = self.passes * self.stages
        return self.further + (calls and calls * int(self.counts.accepted.max()))

    @evaluations_backward.setter
    def evaluations_backward(self, value: int) -> None:
        self.further += value - self.evaluations_backward

    def __repr__(self) -> str:
        return super().__repr__().replace("Counted", "Stats", 1)
