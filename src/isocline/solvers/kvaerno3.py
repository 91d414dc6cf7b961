"""Kværnø's 3(2) pair."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import hermite
from isocline.solvers.tableau import ButcherTableau

# The root of γ³ − 3γ² + 3γ/2 − 1/6 that makes the method L-stable.
_G = 0.4358665215084589994160194511935568
_A31 = (-4 * _G**2 + 6 * _G - 1) / (4 * _G)
_A32 = (1 - 2 * _G) / (4 * _G)
_A41 = (6 * _G - 1) / (12 * _G)
_A42 = -1 / ((24 * _G - 12) * _G)
_A43 = (-6 * _G**2 + 6 * _G - 1) / (6 * _G - 3)


@dataclass(frozen=True)
class Kvaerno3(ImplicitRungeKutta):
    """Kværnø's pair of orders 3(2): diagonally implicit with an explicit first stage, stiffly accurate, L-stable, as is
    the embedded solution.

    The second stage lies at t + 2γh < t + h. The interpolant is Hermite's cubic.

    Source: A. Kværnø, Singly diagonally implicit Runge–Kutta methods with an explicit first stage, BIT 44 (2004).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="kvaerno3", rtol=1e-4, atol=1e-6)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    tableau = ButcherTableau(
        c=(0.0, 2 * _G, 1.0, 1.0),
        a=((_G, _G), (_A31, _A32, _G), (_A41, _A42, _A43, _G)),
        b=(_A41, _A42, _A43, _G),
        order=3,
        b_error=(_A41 - _A31, _A42 - _A32, _A43 - _G, _G),
        embedded_order=2,
        dense=hermite((_A41, _A42, _A43, _G)),
        dense_order=3,
    )
