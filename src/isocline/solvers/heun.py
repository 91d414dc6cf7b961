"""Heun's method of order 2."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class Heun(ExplicitRungeKutta):
    """Heun's method (the explicit trapezoid rule): order 2, two evaluations a step, error estimate against Euler.

    The interpolant is the only quadratic one on these two stages: θ − θ²/2 and θ²/2.
    Source: K. Heun, Z. Math. Phys. 45 (1900); Süli & Mayers (2003), §12.3.

    Example:
        >>> import torch, isocline
        >>> ys = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 0.5], solver="heun", step=0.25).ys
        >>> round(ys[-1].item(), 4)
        0.6104
    """

    tableau = ButcherTableau(
        c=(0, 1),
        a=((1,),),
        b=(1 / 2, 1 / 2),
        order=2,
        b_error=(-1 / 2, 1 / 2),
        embedded_order=1,
        dense=((1, -1 / 2), (0, 1 / 2)),
        dense_order=2,
    )
