"""The Adams–Moulton methods, predicted and corrected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.adams import Adams, Past, PastOfRows


@dataclass(frozen=True)
class AdamsMoulton(Adams):
    """Orders 1 to 12, predicted by Adams–Bashforth of the same order and corrected: two evaluations a step, any length.

    P through the last `order` slopes predicts y₁; with f there it becomes the polynomial through the end of the step and
    the last order − 1 slopes, whose integral is y₁; so on for every correction; f at the last y₁ serves the next step
    (PECE, in general P(EC)ᵐE). The error is Milne's, from predictor and corrector. Between the ends of a step lies the
    corrector's integral. More accurate and more stable than `AdamsBashforth`, at twice the evaluations; not for stiff
    systems, the corrections are no Newton's method.

    Args:
        order: 1 to 12.
        start: as of `AdamsBashforth`.
        corrections: evaluations of the corrector a step, m ≥ 1; many make it the implicit method, where they converge.

    Source: F. R. Moulton (1926), W. E. Milne (1926); E. Hairer, S. P. Nørsett & G. Wanner, Solving Ordinary Differential
    Equations I, III.1, III.5; L. F. Shampine & M. K. Gordon, Computer Solution of Ordinary Differential Equations (1975).

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import torch, isocline
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> solver = isocline.solvers.AdamsMoulton(order=5)
        >>> sol = isocline.solve(lambda t, y: -y, y0, [0.0, 1.0], solver=solver, rtol=1e-8, atol=1e-8)
        >>> round(sol.ys[-1].item(), 5)
        0.36788
    """

    corrections: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.corrections, int) and self.corrections >= 1):
            raise ValueError(f"AdamsMoulton: corrections={self.corrections!r}, expected a whole number of at least 1")

    def _step(
        self, field: VectorField, time: Any, h: Any, y: Tensor, slope: Tensor, past: Past | PastOfRows
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        predicted = inner = delta = past.extrapolated()
        lift, milne = past.corrector()
        y1 = self.advanced(y, h, slope, predicted)
        for _ in range(self.corrections):
            delta = field(time, y1) - predicted[-1]
            inner = predicted + lift * delta
            y1 = self.advanced(y, h, slope, inner)
        return y1, inner, delta * milne, field(time, y1)
