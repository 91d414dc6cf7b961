"""The classical Runge–Kutta method."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class RK4(ExplicitRungeKutta):
    """The classical Runge–Kutta method: order 4, four evaluations a step, no error estimate.

    torchdiffeq's `"rk4"` is the 3/8 rule, here `RK4ThreeEighths`.
    The interpolant of order 3 costs no further evaluation (Hairer, Nørsett & Wanner I, II.6).
    Source: W. Kutta, Z. Math. Phys. 46 (1901); Hairer I, II.1, table 1.2.

    Example:
        >>> import torch, isocline
        >>> ys = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 0.5], solver="rk4", step=0.25).ys
        >>> round(ys[-1].item(), 4)
        0.6065
    """

    tableau = ButcherTableau(
        c=(0, 1 / 2, 1 / 2, 1),
        a=((1 / 2,), (0, 1 / 2), (0, 0, 1)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
        order=4,
        dense=((1, -3 / 2, 2 / 3), (0, 1, -2 / 3), (0, 1, -2 / 3), (0, -1 / 2, 2 / 3)),
        dense_order=3,
    )
