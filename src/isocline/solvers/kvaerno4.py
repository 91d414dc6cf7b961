"""Kværnø's 4(3) pair."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import hermite
from isocline.solvers.tableau import ButcherTableau

# The root of γ⁴ − 4γ³ + 3γ² − 2γ/3 + 1/24 that makes the method L-stable.
_G = 0.5728160624821349
_P, _Q, _R = 12 * _G**2 - 6 * _G + 1, 3 * _G - 1, 12 * _G**2 - 9 * _G + 2
_A31 = _G * (144 * _G**4 - 180 * _G**3 + 81 * _G**2 - 15 * _G + 1) / _P**2
_A32 = _G * (-36 * _G**3 + 39 * _G**2 - 15 * _G + 2) / _P**2
_A41 = (-144 * _G**5 + 396 * _G**4 - 330 * _G**3 + 117 * _G**2 - 18 * _G + 1) / (12 * _G**2 * _R)
_A42 = (72 * _G**4 - 126 * _G**3 + 69 * _G**2 - 15 * _G + 1) / (12 * _G**2 * _Q)
_A43 = (-6 * _G**2 + 6 * _G - 1) * _P**2 / (12 * _G**2 * _R * _Q)
_A51 = (288 * _G**4 - 312 * _G**3 + 120 * _G**2 - 18 * _G + 1) / (48 * _G**2 * _R)
_A52 = (24 * _G**2 - 12 * _G + 1) / (48 * _G**2 * _Q)
_A53 = -(_P**3) / (48 * _G**2 * _Q * _R * (6 * _G**2 - 6 * _G + 1))
_A54 = (-24 * _G**3 + 36 * _G**2 - 12 * _G + 1) / (24 * _G**2 - 24 * _G + 4)
_B = (_A51, _A52, _A53, _A54, _G)


@dataclass(frozen=True)
class Kvaerno4(ImplicitRungeKutta):
    """Kværnø's pair of orders 4(3): diagonally implicit with an explicit first stage, stiffly accurate, L-stable.

    Its second stage lies at t + 1.15 h: `f` is asked a little past the end of the interval. The interpolant is Hermite's
    cubic.

    Source: A. Kværnø, Singly diagonally implicit Runge–Kutta methods with an explicit first stage, BIT 44 (2004).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="kvaerno4", rtol=1e-4, atol=1e-6)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    tableau = ButcherTableau(
        c=(0.0, 2 * _G, _G + _A31 + _A32, 1.0, 1.0),
        a=((_G, _G), (_A31, _A32, _G), (_A41, _A42, _A43, _G), _B),
        b=_B,
        order=4,
        b_error=(_A51 - _A41, _A52 - _A42, _A53 - _A43, _A54 - _G, _G),
        embedded_order=3,
        dense=hermite(_B),
        dense_order=3,
        tolerance=1e-12,
    )
