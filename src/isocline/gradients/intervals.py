"""The stretch between two observations as `Backsolve` sees it: one time for all, or one pace a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID, Controller, FixedStep
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

    A joint solve: a parameter adjoint per sample would cost B times the parameters.
    """

    def __init__(self, rows: Tensor, start: Tensor, end: Tensor) -> None:
        super().__init__(float(start[0]), float(end[0]))
        self.rows, self.start, self.span = rows, start, end - start

    @property
    def clock(self) -> list[float]:
        return [1.0, 0.0]

    def part(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.rows)

    def merge(self, x: Tensor, part: Tensor) -> Tensor:
        return x.index_copy(0, self.rows, part)

    def field(self, field: VectorField) -> VectorField:
        return field.of_rows(self.rows)

    def slope(self, field: VectorField, clock: Tensor, y: Tensor) -> Tensor:
        time = torch.addcmul(self.start, self.span, clock.to(self.span.dtype))
        return field.at(time, y) * self.span.to(y.dtype).unsqueeze(1)

    def stops(self, ts: Sequence[float]) -> list[float]:
        clocks = ((self.start.new_tensor(list(ts)).unsqueeze(1) - self.start) / self.span).reshape(-1)
        return [s for s in clocks.tolist() if 0 < s < 1]

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
