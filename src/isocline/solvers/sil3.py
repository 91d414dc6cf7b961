"""Whitaker and Kar's method for fast and slow waves."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta, Partner
from isocline.solvers.interpolants import hermite
from isocline.solvers.tableau import ButcherTableau

_B = (3 / 8, 0.0, 3 / 8, 1 / 4)
_B_HAT = (1 / 2, -1 / 2, 1.0, 0.0)


@dataclass(frozen=True)
class Sil3(ImplicitRungeKutta):
    """Order 2, of linear fields 3 in its explicit half; four stages, the implicit ones with coefficients 1/6, 1/3, 1/4.

    Made for a `Split` into fast waves, stepped implicitly, and slow ones, stepped explicitly with other weights: accurate
    near the imaginary axis. Other fields are stepped with the implicit half alone. The error is estimated by weights of
    Heun's type, of order 2 too, so it is that of both. The interpolant is Hermite's cubic.

    Source: J. S. Whitaker & S. K. Kar, Implicit–explicit Runge–Kutta methods for fast–slow wave problems, Mon. Weather Rev.
    141 (2013), table 1; the weights of the error estimate as in diffrax.

    Example:
        >>> import torch, isocline
        >>> def slow(t, y):
        ...     return torch.cos(t).expand_as(y)
        >>> field = isocline.Split(slow, lambda t, y: -100 * (y - torch.sin(t)))
        >>> round(isocline.solve(field, torch.zeros(1), [0.0, 1.0], solver="sil3").ys[-1].item(), 3)
        0.841
    """

    partner = Partner(
        a=((1 / 3,), (1 / 6, 1 / 2), (1 / 2, -1 / 2, 1.0)),
        dense=hermite(_B),
        dense_order=2,
        b=_B_HAT,
        b_error=(0.0, 1 / 2, -1.0, 1 / 2),
    )
    tableau = ButcherTableau(
        c=(0.0, 1 / 3, 2 / 3, 1.0),
        a=((1 / 6, 1 / 6), (1 / 3, 0.0, 1 / 3), _B),
        b=_B,
        order=2,
        b_error=(1 / 8, 0.0, -3 / 8, 1 / 4),
        embedded_order=2,
        dense=hermite(_B),
        dense_order=2,
    )
