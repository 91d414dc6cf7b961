"""Fehlberg's 2(1) pair."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class Fehlberg2(ExplicitRungeKutta):
    """Fehlberg's RK1(2), advancing the solution of order 2: three evaluations a step.

    The estimate is that of Fehlberg's first-order solution, which is nearly of order 2: h²y″/512. The error of the
    solution of order 2 is therefore some hundred times the tolerance; `Heun` and `Bosh3` keep theirs.
    Fehlberg advanced the first-order solution, at whose end the third stage lies, and shared it with the next step. From
    the second-order solution a step has to evaluate its first slope anew; torchdiffeq's `"fehlberg2"` does not, and
    begins with a slope that belongs to another state.
    The interpolant is the quadratic one with b₂(θ) and b₃(θ) in the ratio of b₂ and b₃.
    Source: E. Fehlberg, Low-order classical Runge–Kutta formulas with stepsize control, NASA TR R-315 (1969).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], solver="fehlberg2", rtol=1e-6, atol=1e-8)
        >>> round(sol.ys[-1].item(), 4)
        0.3679
    """

    tableau = ButcherTableau(
        c=(0, 1 / 2, 1),
        a=((1 / 2,), (1 / 256, 255 / 256)),
        b=(1 / 512, 255 / 256, 1 / 512),
        order=2,
        b_error=(-1 / 512, 0, 1 / 512),
        embedded_order=1,
        dense=((1, -511 / 512), (0, 255 / 256), (0, 1 / 512)),
        dense_order=2,
    )
