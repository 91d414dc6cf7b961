"""Bogacki and Shampine's 3(2) pair."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class Bosh3(ExplicitRungeKutta):
    """Bogacki & Shampine's pair of orders 3(2): three evaluations a step, the last shared with the next step.

    The interpolant is the cubic Hermite polynomial on both ends and both slopes, as in the source.
    Source: P. Bogacki, L. F. Shampine, A 3(2) pair of Runge–Kutta formulas, Appl. Math. Lett. 2 (1989).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], solver="bosh3", rtol=1e-4, atol=1e-6)
        >>> round(sol.ys[-1].item(), 3)
        0.368
    """

    tableau = ButcherTableau(
        c=(0, 1 / 2, 3 / 4, 1),
        a=((1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0),
        order=3,
        b_error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
        embedded_order=2,
        dense=((1, -4 / 3, 5 / 9), (0, 1, -2 / 3), (0, 4 / 3, -8 / 9), (0, -1, 1)),
        dense_order=3,
    )
