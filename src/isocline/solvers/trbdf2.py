"""A trapezoidal step followed by a backward difference."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import hermite
from isocline.solvers.tableau import ButcherTableau

_G = 2 - 2**0.5  # where the trapezoidal part ends
_D, _W = _G / 2, 2**0.5 / 4


@dataclass(frozen=True)
class TRBDF2(ImplicitRungeKutta):
    """TR-BDF2: order 2, L-stable, one Jacobian and one factorisation a step; estimate of order 3, filtered.

    Source: M. E. Hosea, L. F. Shampine, Analysis and implementation of TR-BDF2, Appl. Numer. Math. 20 (1996).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="trbdf2", rtol=1e-4, atol=1e-6)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    filter = _D
    tableau = ButcherTableau(
        c=(0.0, _G, 1.0),
        a=((_D, _D), (_W, _W, _D)),
        b=(_W, _W, _D),
        order=2,
        b_error=(_W - (1 - _W) / 3, _W - (3 * _W + 1) / 3, _D - _D / 3),
        embedded_order=3,
        dense=hermite((_W, _W, _D)),
        dense_order=2,
    )
