"""Ralston's method of order 2."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class Ralston(ExplicitRungeKutta):
    """Ralston's method: the two-stage method of order 2 with the least bound on its local error.

    Error estimate against Euler; the interpolant is the only quadratic one on these two stages.
    Source: A. Ralston, Runge–Kutta methods with minimum error bounds, Math. Comp. 16 (1962).

    Example:
        >>> import torch, isocline
        >>> ys = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 0.5], solver="ralston", step=0.25).ys
        >>> round(ys[-1].item(), 4)
        0.6104
    """

    tableau = ButcherTableau(
        c=(0, 2 / 3),
        a=((2 / 3,),),
        b=(1 / 4, 3 / 4),
        order=2,
        b_error=(-3 / 4, 3 / 4),
        embedded_order=1,
        dense=((1, -3 / 4), (0, 3 / 4)),
        dense_order=2,
    )
