"""Euler's method."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class Euler(ExplicitRungeKutta):
    """Euler's method: order 1, one evaluation a step, no error estimate; a straight line inside the step.

    Source: L. Euler, Institutionum calculi integralis I (1768), §650.

    Example:
        >>> import torch, isocline
        >>> ys = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 0.5], solver="euler", step=0.25).ys
        >>> round(ys[-1].item(), 4)
        0.5625
    """

    tableau = ButcherTableau(c=(0,), a=(), b=(1,), order=1, dense=((1,),), dense_order=1)
