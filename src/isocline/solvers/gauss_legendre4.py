"""The Gauss–Legendre method of two stages."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import interpolating
from isocline.solvers.tableau import ButcherTableau

_R = 3**0.5 / 6


@dataclass(frozen=True)
class GaussLegendre4(ImplicitRungeKutta):
    """Gauss' method of order 4: fully implicit, A-stable, symplectic, symmetric; no error estimate.

    Source: Hairer, Lubich & Wanner, Geometric Numerical Integration, II.1.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="gauss_legendre4", step=0.02)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    tableau = ButcherTableau(
        c=(0.0, 0.5 - _R, 0.5 + _R),
        a=((0.0, 1 / 4, 1 / 4 - _R), (0.0, 1 / 4 + _R, 1 / 4)),
        b=(0.0, 0.5, 0.5),
        order=4,
        dense=interpolating((0.0, 0.5 - _R, 0.5 + _R)),
        dense_order=3,
    )
