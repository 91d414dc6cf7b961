"""Heun's method of order 3."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class Heun3(ExplicitRungeKutta):
    """Heun's method of order 3: three evaluations a step, no error estimate.

    On three stages an interpolant has order 2 at most. Of those this is the one with b₃(θ) = ¾θ³, which also meets the
    condition Σ b_i a_ij c_j = θ³/6: of order 3 where the field is linear with constant coefficients.
    Source: K. Heun, Z. Math. Phys. 45 (1900); Hairer, Nørsett & Wanner I, II.1, table 1.1.

    Example:
        >>> import torch, isocline
        >>> ys = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 0.5], solver="heun3", step=0.25).ys
        >>> round(ys[-1].item(), 4)
        0.6063
    """

    tableau = ButcherTableau(
        c=(0, 1 / 3, 2 / 3),
        a=((1 / 3,), (0, 2 / 3)),
        b=(1 / 4, 0, 3 / 4),
        order=3,
        dense=((1, -3 / 2, 3 / 4), (0, 3 / 2, -3 / 2), (0, 0, 3 / 4)),
        dense_order=2,
    )
