"""The reversible Heun method."""

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
class ReversibleHeun(AlgebraicallyReversible):
    """Order 2, one evaluation a step, reversible: from a step's end its start follows without solving anything.

    Beside y it carries ŷ, of the same size, at which f is asked:

        ŷ₁ = 2y − ŷ + h f(t, ŷ),    y₁ = y + h/2 (f(t, ŷ) + f(t₁, ŷ₁)),    error h/2 (f(t₁, ŷ₁) − f(t, ŷ)).

    Between the ends of a step lies the cubic of Hermite on these slopes. Stable on a stretch of the imaginary axis alone,
    h λ in [−i, i]: for what neither grows nor decays fast. Source: P. Kidger, J. Foster, X. Li & T. Lyons, Efficient and
    Accurate Gradients for Neural SDEs, NeurIPS 2021, algorithms 1 and 2 with the noise left out.

    Example:
        >>> import torch, isocline
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> round(isocline.solve(lambda t, y: -y, y0, [0.0, 1.0], solver="reversible_heun", step=0.01).ys[-1].item(), 4)
        0.3679
    """

    tableau = StepRows(
        c=(0.0, 1.0),
        order=2,
        embedded_order=1,
        b=(0.5, 0.5),
        b_error=(-0.5, 0.5),
        dense=hermite((0.5, 0.5)),
        dense_order=2,
    )

    def begin(self, y: Tensor) -> Tensor:
        return torch.stack((y, y))

    def anchor(self, state: Tensor) -> Tensor:
        return state[1]

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
        y, other = state.unbind(0)
        other = torch.add(2 * y - other, k1, alpha=scale)
        k2 = field(times[-1], other)
        k2 = k2 if paces is None else k2 * paces
        return torch.stack((torch.add(y, k1 + k2, alpha=scale / 2), other)), [k1, k2]

    def undone(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        after: Tensor,
        paces: Tensor | None = None,
    ) -> Tensor:
        y, other = after.unbind(0)
        k2 = field(times[-1], other)
        k2 = k2 if paces is None else k2 * paces
        other = torch.sub(2 * y - other, k2, alpha=scale)
        k1 = field(times[0], other)
        k1 = k1 if paces is None else k1 * paces
        return torch.stack((torch.sub(y, k1 + k2, alpha=scale / 2), other))
