"""The trapezoidal rule."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import hermite
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class Trapezoid(ImplicitRungeKutta):
    """y₁ = y + h/2 (f(t, y) + f(t₁, y₁)): order 2, A-stable, not L-stable (stiff parts ring instead of dying out).

    The error estimate is the difference to Euler's method, of order 1; the interpolant is Hermite's cubic.

    Source: Hairer & Wanner, Solving Ordinary Differential Equations II, IV.3.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="trapezoid", step=0.01)
        >>> bool(sol.ys[-1].abs() < 1e-3)
        True
    """

    tableau = ButcherTableau(
        c=(0.0, 1.0),
        a=((0.5, 0.5),),
        b=(0.5, 0.5),
        order=2,
        b_error=(-0.5, 0.5),
        embedded_order=1,
        dense=hermite((0.5, 0.5)),
        dense_order=2,
    )
