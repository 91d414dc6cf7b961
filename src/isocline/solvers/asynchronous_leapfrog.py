"""The asynchronous leapfrog method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.interpolants import hermite
from isocline.solvers.memory import StepRows
from isocline.solvers.reversible import AlgebraicallyReversible


@dataclass(frozen=True)
class AsynchronousLeapfrog(AlgebraicallyReversible):
    """Order 2, one evaluation a step, reversible: from a step's end its start follows without solving anything.

    Beside y it carries a velocity v of the same size, at first f(t0, y0):

        u = f(t + h/2, y + h/2 v),    v₁ = 2u − v,    y₁ = y + h/2 (v + v₁),    error h (u − v).

    Any field will do, where `Leapfrog` wants a pair (x, v). Between the ends of a step lies the cubic of Hermite on the
    velocities. Stable on a stretch of the imaginary axis alone: for what neither grows nor decays fast.

    Source: U. Mutze, An asynchronous leapfrog method II, arXiv:1311.6602 (2013); J. Zhuang, N. C. Dvornek, S. Tatikonda &
    J. S. Duncan, MALI, ICLR 2021, algorithm 2.

    Example:
        >>> import torch, isocline
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> solver = isocline.solvers.AsynchronousLeapfrog()
        >>> sol = isocline.solve(lambda t, y: -y, y0, [0.0, 1.0], solver=solver, step=0.01)
        >>> round(sol.ys[-1].item(), 4), sol.stats.evaluations
        (0.3679, 101)
    """

    # Rows: f, which counts in a fresh step alone, through v; v, u, v₁.
    tableau = StepRows(
        c=(0.0, 0.5, 1.0),
        order=2,
        embedded_order=1,
        b=(0.0, 0.5, 0.0, 0.5),
        b_error=(0.0, -1.0, 1.0, 0.0),
        dense=((0.0,), *hermite((0.5, 0.0, 0.5))),
        dense_order=2,
    )

    # The memory is the part of v that is not f at the start of the step, and whether v is that: 1 in a fresh one.
    def begin(self, y: Tensor) -> Tensor:
        return torch.stack((y, torch.zeros_like(y), torch.ones_like(y)))

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
        y, v, fresh = state.unbind(0)
        unit: Any = 1.0 if paces is None else paces
        v = v * unit + torch.where(fresh != 0, k1, 0.0)
        u = field(times[1], torch.add(y, v, alpha=scale / 2)) * unit
        v1 = 2 * u - v
        y1 = torch.add(y, v + v1, alpha=scale / 2)
        kept = v1 if paces is None else v1 / torch.where(paces == 0, 1.0, paces)
        return torch.stack((y1, kept, torch.zeros_like(y))), [k1, v, u, v1]

    def undone(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        after: Tensor,
        paces: Tensor | None = None,
    ) -> Tensor:
        y1, v1, fresh = after.unbind(0)
        h: Any = scale if paces is None else paces
        middle = y1 - v1 * (h / 2)
        v = 2 * field(times[1], middle) - v1
        return torch.stack((middle - v * (h / 2), v, fresh))
