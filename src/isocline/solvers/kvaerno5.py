"""Kværnø's 5(4) pair."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import continuous
from isocline.solvers.tableau import ButcherTableau

_G = 0.26
_A = (
    (_G, _G),
    (0.13, 0.84033320996790809, _G),
    (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, _G),
    (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, _G),
    (0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, _G),
    (
        0.13659751177640291,
        0.0,
        -0.05496908796538376,
        -0.04118626728321046,
        0.62993304899016403,
        0.06962479448202728,
        _G,
    ),
)


@dataclass(frozen=True)
class Kvaerno5(ImplicitRungeKutta):
    """Kværnø's pair of orders 5(4): diagonally implicit with an explicit first stage, stiffly accurate, L-stable.

    Its third stage lies at t + 1.23 h: `f` is asked a little past the end of the interval. The interpolant is the continuous
    extension of order 4 (`interpolants.continuous`).

    Source: A. Kværnø, Singly diagonally implicit Runge–Kutta methods with an explicit first stage, BIT 44 (2004).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="kvaerno5", rtol=1e-4, atol=1e-6)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    tableau = ButcherTableau(
        c=(0.0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1.0, 1.0),
        a=_A,
        b=_A[-1],
        order=5,
        b_error=tuple(x - y for x, y in zip(_A[-1], (*_A[-2], 0.0), strict=True)),
        embedded_order=4,
        dense=continuous(_A, _A[-1], 4),
        dense_order=4,
        tolerance=1e-12,
    )
