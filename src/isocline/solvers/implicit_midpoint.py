"""The implicit midpoint rule."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class ImplicitMidpoint(ImplicitRungeKutta):
    """y₁ = y + h f(t + h/2, (y + y₁)/2): order 2, A-stable, symplectic, symmetric; the Gauss method of one stage.

    The error estimate is the difference to Euler's method, of order 1. The interpolant follows the slopes at the start
    and in the middle.

    Source: Hairer, Lubich & Wanner, Geometric Numerical Integration, II.1.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="implicit_midpoint", step=0.01)
        >>> bool(sol.ys[-1].abs() < 1e-3)
        True
    """

    tableau = ButcherTableau(
        c=(0.0, 0.5),
        a=((0.0, 0.5),),
        b=(0.0, 1.0),
        order=2,
        b_error=(-1.0, 1.0),
        embedded_order=1,
        dense=((1.0, -1.0), (0.0, 1.0)),
        dense_order=2,
    )
