"""Euler's method with the slope at the end of the step."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import hermite
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class ImplicitEuler(ImplicitRungeKutta):
    """y₁ = y + h f(t₁, y₁): order 1, L-stable. The error estimate is the difference to the trapezoidal rule.

    Source: Hairer & Wanner, Solving Ordinary Differential Equations II, IV.3.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="implicit_euler", step=0.1)
        >>> bool(sol.ys[-1].abs() < 1e-6)
        True
    """

    tableau = ButcherTableau(
        c=(0.0, 1.0),
        a=((0.0, 1.0),),
        b=(0.0, 1.0),
        order=1,
        b_error=(-0.5, 0.5),
        embedded_order=1,
        dense=hermite((0.0, 1.0)),
        dense_order=1,
    )
