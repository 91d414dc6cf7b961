"""Shu and Osher's strong-stability-preserving method of order 3."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class SSPRK3(ExplicitRungeKutta):
    """Shu & Osher's method, SSPRK(3,3): order 3, three evaluations a step, no error estimate.

    It is a convex combination of Euler steps: what Euler does not increase at step h (the total variation, a maximum
    norm), it does not increase either. Its interpolant of order 2 keeps that between the ends of the step.
    Sources: C.-W. Shu, S. Osher, J. Comput. Phys. 77 (1988), eq. (2.18); the interpolant: D. I. Ketcheson, L. Lóczi,
    A. Jangabylova, A. Kusmanov, Dense output for strong stability preserving Runge–Kutta methods, J. Sci. Comput. 71
    (2017).

    Example:
        >>> import torch, isocline
        >>> ys = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 0.5], solver="ssprk3", step=0.25).ys
        >>> round(ys[-1].item(), 4)
        0.6063
    """

    tableau = ButcherTableau(
        c=(0, 1, 1 / 2),
        a=((1,), (1 / 4, 1 / 4)),
        b=(1 / 6, 1 / 6, 2 / 3),
        order=3,
        dense=((1, -5 / 6), (0, 1 / 6), (0, 2 / 3)),
        dense_order=2,
    )
