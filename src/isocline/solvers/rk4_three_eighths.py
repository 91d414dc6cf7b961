"""Kutta's 3/8 rule."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class RK4ThreeEighths(ExplicitRungeKutta):
    """Kutta's 3/8 rule: order 4, four evaluations a step, a smaller error constant than the classical method.

    This is what torchdiffeq calls `"rk4"`. The interpolant is the only cubic of order 3 on its stages: the four order
    conditions of Hairer I, II.6 determine the four weights.
    Source: W. Kutta, Z. Math. Phys. 46 (1901); Hairer, Nørsett & Wanner I, II.1, table 1.2.

    Example:
        >>> import torch, isocline
        >>> ys = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 0.5], solver="rk4_three_eighths", step=0.25).ys
        >>> round(ys[-1].item(), 4)
        0.6065
    """

    tableau = ButcherTableau(
        c=(0, 1 / 3, 2 / 3, 1),
        a=((1 / 3,), (-1 / 3, 1), (1, -1, 1)),
        b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
        order=4,
        dense=((1, -15 / 8, 1), (0, 15 / 8, -3 / 2), (0, 3 / 8, 0), (0, -3 / 8, 1 / 2)),
        dense_order=3,
    )
