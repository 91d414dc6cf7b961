"""The Heun–Euler pair under the name it has elsewhere."""

from dataclasses import dataclass

from isocline.solvers.heun import Heun
from isocline.solvers.runge_kutta import ExplicitRungeKutta


@dataclass(frozen=True)
class AdaptiveHeun(ExplicitRungeKutta):
    """The pair of Heun's method and Euler's, orders 2(1): the tableau of `Heun`, which chooses its steps too.

    Here for those who look for torchdiffeq's `"adaptive_heun"`. Theirs begins a step with the last stage of the step
    before, which is the slope at Euler's result and not at the step's; this one evaluates it anew.
    Source: Hairer, Nørsett & Wanner I, II.4.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], solver="adaptive_heun", rtol=1e-4)
        >>> round(sol.ys[-1].item(), 3)
        0.368
    """

    tableau = Heun.tableau
