"""The explicit midpoint rule."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class Midpoint(ExplicitRungeKutta):
    """The explicit midpoint rule: order 2, two evaluations a step, error estimate against Euler.

    The interpolant is the only quadratic one on these two stages: θ − θ² and θ².
    Source: C. Runge, Math. Annalen 46 (1895); Hairer, Nørsett & Wanner I, II.1, eq. (1.4).

    Example:
        >>> import torch, isocline
        >>> ys = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 0.5], solver="midpoint", step=0.25).ys
        >>> round(ys[-1].item(), 4)
        0.6104
    """

    tableau = ButcherTableau(
        c=(0, 1 / 2),
        a=((1 / 2,),),
        b=(0, 1),
        order=2,
        b_error=(-1, 1),
        embedded_order=1,
        dense=((1, -1), (0, 1)),
        dense_order=2,
    )
