"""The stretch between two observations as a continuous adjoint sees it: one time for all, or one pace a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID, Controller, FixedStep
from isocline.control.schedule import between, by_row, jumps_at
from isocline.engines.eager import Problem
from isocline.field import VectorField


@dataclass
class Interval:
    """From t1 back to t0, the whole state together; the solver's clock is time itself."""

    t0: float
    t1: float

    @property
    def clock(self) -> list[float]:
        """Start and end of the way back."""
        return [self.t1, self.t0]

    def part(self, x: Tensor) -> Tensor:
        """The samples that move."""
        return x

    def merge(self, x: Tensor, part: Tensor) -> Tensor:
        """x with those samples replaced."""
        return part

    def field(self, field: VectorField) -> VectorField:
        """The field of those samples."""
        return field

    def time(self, clock: Tensor) -> Tensor:
        """The time `f` sees."""
        return clock

    def slope(self, field: VectorField, clock: Tensor, y: Tensor) -> Tensor:
        """dy/d(clock)."""
        return field.at(clock, y)

    def stops(self, ts: Sequence[float]) -> list[float]:
        """Times on the clock."""
        return list(ts)

    def paced(self, controller: Controller) -> Controller:
        """A controller whose step lengths are in time, on the clock."""
        return controller


class RowInterval(Interval):
    """Samples going back together, each from its own t1 to its own t0: t = t0 + s (t1 − t0), s from 1 to 0.

    A joint solve: a parameter adjoint per sample would cost B times the parameters. It never passes a stop: those are
    at different places of different samples, so that going from one to the one before is an interval of its own.

    Args:
        rows: (r,) which samples.
        start, end: (r,) each, in the order of the way forward.
        low, high: the first and the last time `f` sees: `start` and `end`, moved inside at jumps.
    """

    def __init__(self, rows: Tensor, start: Tensor, end: Tensor, low: Tensor, high: Tensor) -> None:
        super().__init__(float(start[0]), float(end[0]))
        self.rows, self.start, self.span = rows, start, end - start
        self.first, self.last = torch.minimum(low, high), torch.maximum(low, high)

    @staticmethod
    def between(rows: Tensor, start: Tensor, end: Tensor, problem: Problem) -> list[RowInterval]:
        """The intervals from stop to stop, the last one first."""
        by_sample = [None if x is None else x[rows] for x in (problem.row_step_ts, problem.row_jump_ts)]
        start, end = start.unsqueeze(1), end.unsqueeze(1)
        tables = by_row(start, [*problem.step_ts, *problem.jump_ts], *by_sample)
        times = torch.cat([start, between(start, end, tables)], 1)
        dtype = problem.field.time_dtype
        jumps = jumps_at(times, problem.jump_ts, by_sample[1], dtype)

        def inside(t: Tensor, towards: Tensor, jump: Tensor) -> Tensor:
            return torch.where(jump, torch.nextafter(t.to(dtype), towards.to(dtype)).to(t.dtype), t)

        out = []
        for column in range(times.shape[1] - 1, 0, -1):
            moves = (times[:, column] != times[:, column - 1]).nonzero().squeeze(1)
            (t0, t1), (jump0, jump1) = (x[moves, column - 1 : column + 1].unbind(1) for x in (times, jumps))
            if len(moves):
                out.append(RowInterval(rows[moves], t0, t1, inside(t0, t1, jump0), inside(t1, t0, jump1)))
        return out

    @property
    def clock(self) -> list[float]:
        return [1.0, 0.0]

    def part(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.rows)

    def merge(self, x: Tensor, part: Tensor) -> Tensor:
        return x.index_copy(0, self.rows, part)

    def field(self, field: VectorField) -> VectorField:
        return field.of_rows(self.rows)

    def time(self, clock: Tensor) -> Tensor:
        return torch.addcmul(self.start, self.span, clock.to(self.span.dtype)).maximum(self.first).minimum(self.last)

    def slope(self, field: VectorField, clock: Tensor, y: Tensor) -> Tensor:
        return field.at(self.time(clock), y) * self.span.to(y.dtype).unsqueeze(1)

    def stops(self, ts: Sequence[float]) -> list[float]:
        return []

    def paced(self, controller: Controller) -> Controller:
        longest = float(self.span.abs().max())
        if isinstance(controller, PID):
            return replace(controller, min_step=controller.min_step / longest, max_step=controller.max_step / longest)
        assert isinstance(controller, FixedStep)
        settings: dict[str, Any] = {}
        if controller.step is not None:
            settings["step"] = controller.step / longest
        if controller.max_step is not None:
            settings["max_step"] = controller.max_step / longest
        return FixedStep(**settings)


def intervals_before(index: int, ys: Tensor, problem: Problem) -> Sequence[Interval]:
    """From observation `index` back to the one before it, the last first; none where nothing lies between."""
    ts = problem.ts
    if isinstance(ts, list):
        return [] if bool(ys[index].isnan().any()) else [Interval(ts[index - 1], ts[index])]
    moves = ~ys[index].isnan().any(1) & (ts[:, index] != ts[:, index - 1])
    rows = moves.nonzero().squeeze(1)
    return RowInterval.between(rows, ts[rows, index - 1], ts[rows, index], problem) if len(rows) else []
