"""The symplectic Euler method."""

from dataclasses import dataclass

from isocline.solvers.partitioned import Partitioned, Splitting


@dataclass(frozen=True)
class SymplecticEuler(Partitioned):
    """v₁ = v + h G(t, x), x₁ = x + h F(t + h, v₁) on a pair (x, v): order 1, symplectic, two evaluations a step.

    One evaluation where the field is made by `isocline.second_order`. What `y0` and the field must be stands at
    `Partitioned`: a tuple `(x, v)` of two alike, and dx/dt = F(t, v), dv/dt = G(t, x).

    Also known as semi-implicit Euler. Source: Hairer, Lubich & Wanner, Geometric Numerical Integration, I.1 (1.9).

    Example:
        >>> import torch, isocline
        >>> y0 = (torch.ones(1), torch.zeros(1))
        >>> x, v = isocline.solve(lambda t, y: (y[1], -y[0]), y0, [0.0, 1.0], solver="symplectic_euler", step=0.01).ys
        >>> round(x[-1].item(), 2), round(v[-1].item(), 2)
        (0.54, -0.84)
    """

    tableau = Splitting(kicks=(1.0,), drifts=(1.0,), order=1)
