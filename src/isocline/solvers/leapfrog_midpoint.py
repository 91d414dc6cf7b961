"""The leapfrog/midpoint method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.interpolants import hermite
from isocline.solvers.memory import Remembering, StepRows


@dataclass(frozen=True)
class LeapfrogMidpoint(Remembering):
    """Order 2, one evaluation a step, explicit: from the state before last, along the slope at the last.

    y_{n+1} = y_{n−1} + 2h f(t_n, y_n); where a step h follows one of another length g, the parabola through y_{n−1} and y_n with
    that slope at y_n, which is y_n + h f + (h/g)² (y_{n−1} − y_n + g f). It is begun, and begun anew after a jump, by the trapezoidal sum of the
    slopes at both ends of a step of Euler's. Without an error estimate: for fixed steps. Stable on a stretch of the imaginary axis alone, h λ in [−i, i]: what decays is overtaken
    by a second solution that alternates in sign and grows. For waves and oscillations over limited times. Not
    `Leapfrog`, which takes a pair (x, v), nor `Midpoint`.

    Source: L. F. Shampine, Stability of the leapfrog/midpoint method, Appl. Math. Comput. 208 (2009).

    Example:
        >>> import torch, isocline
        >>> y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> def turn(t, y):
        ...     return torch.stack((y[1], -y[0]))
        >>> isocline.solve(turn, y0, [0.0, torch.pi], solver="leapfrog_midpoint", step=0.01).ys[-1][0].round(decimals=3).item()
        -1.0
    """

    tableau = StepRows(c=(0.0, 1.0), order=2, b=(0.0, 1.0, 0.0), dense=hermite((0.0, 1.0, 0.0)), dense_order=2)

    # The memory is the state before, how long ago that was, in every number, and where the slope is asked: at y, but after
    # a beginning at Euler's.
    def begin(self, y: Tensor) -> Tensor:
        return torch.stack((y, y, torch.zeros_like(y), y))

    def anchor(self, state: Tensor) -> Tensor:
        return state[3]

    def taken(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        state: Tensor,
        k1: Tensor,
        paces: Tensor | None = None,
        note: Any = None,
    ) -> tuple[Tensor, list[Tensor]]:
        y, before, ago, _ = state.unbind(0)
        h: Any = scale if paces is None else paces
        slope = k1 if paces is None else k1 / torch.where(paces == 0, 1.0, paces)
        ratio = h / torch.where(ago == 0, 1.0, ago)
        asked = y + h * slope + torch.where(ago == 0, 0.0, ratio.square() * (before - y + ago * slope))
        last = field(times[-1], asked)
        y1 = torch.where(ago == 0, y + (slope + last) * (h / 2), asked)
        increment = (y1 - y) / scale
        rows = [k1, increment, last if paces is None else last * paces]
        return torch.stack((y1, y, torch.zeros_like(y) + h, asked)), rows
