"""The Adams–Bashforth methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.adams import Adams, Past, PastOfRows


@dataclass(frozen=True)
class AdamsBashforth(Adams):
    """Orders 1 to 12, one evaluation a step whatever the order, explicit, for steps of any length.

    y₁ = y + h ∫ P, with P through the slopes of the last `order` steps; its error is estimated with the slope at the end,
    as the difference to the polynomial through that one too. Between the ends of a step lies ∫ P. For smooth fields that
    are expensive to evaluate and not stiff: the stretch of the negative real axis on which h λ is stable halves with every
    order (0.3 at order 4, 0.001 at order 12), and imaginary ones are stable of orders 3, 4, 7, 8, 11, 12 alone.

    Args:
        order: 1 to 12.
        start: order of the steps that make the first slopes, and those after a jump, at start·(start − 1)/2 + 1
            evaluations each; None: `order`. After a lower one the order rises by one a step; the solution is then of order start + 1.

    Source: F. Bashforth & J. C. Adams (1883); for steps of any length E. Hairer, S. P. Nørsett & G. Wanner, Solving
    Ordinary Differential Equations I, III.5.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import torch, isocline
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> solver = isocline.solvers.AdamsBashforth(order=5)
        >>> sol = isocline.solve(lambda t, y: -y, y0, [0.0, 1.0], solver=solver, step=0.02)
        >>> round(sol.ys[-1].item(), 8), sol.stats.evaluations
        (0.36787944, 91)
    """

    def _step(
        self, field: VectorField, time: Any, h: Any, y: Tensor, slope: Tensor, past: Past | PastOfRows
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inner = past.extrapolated()
        y1 = self.advanced(y, h, slope, inner)
        last = field(time, y1)
        return y1, inner, (last - inner[-1]) * past.error(), last
