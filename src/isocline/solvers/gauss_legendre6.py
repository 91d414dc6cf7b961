"""The Gauss–Legendre method of three stages."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import interpolating
from isocline.solvers.tableau import ButcherTableau

_S = 15**0.5
_NODES = (0.5 - _S / 10, 0.5, 0.5 + _S / 10)


@dataclass(frozen=True)
class GaussLegendre6(ImplicitRungeKutta):
    """Gauss' method of order 6: fully implicit, A-stable, symplectic, symmetric; no error estimate.

    Source: Hairer, Lubich & Wanner, Geometric Numerical Integration, II.1.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="gauss_legendre6", step=0.02)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    tableau = ButcherTableau(
        c=(0.0, *_NODES),
        a=(
            (0.0, 5 / 36, 2 / 9 - _S / 15, 5 / 36 - _S / 30),
            (0.0, 5 / 36 + _S / 24, 2 / 9, 5 / 36 - _S / 24),
            (0.0, 5 / 36 + _S / 30, 2 / 9 + _S / 15, 5 / 36),
        ),
        b=(0.0, 5 / 18, 4 / 9, 5 / 18),
        order=6,
        dense=interpolating((0.0, *_NODES)),
        dense_order=4,
    )
