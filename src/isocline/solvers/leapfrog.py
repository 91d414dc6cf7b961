"""The leapfrog method."""

from dataclasses import dataclass

from isocline.solvers.partitioned import Partitioned, Splitting


@dataclass(frozen=True)
class Leapfrog(Partitioned):
    """Half a kick, a drift, half a kick of a pair (x, v): order 2, symplectic, time-reversible, three evaluations a step.

    v½ = v + h/2 G(t, x), x₁ = x + h F(t + h/2, v½), v₁ = v½ + h/2 G(t + h, x₁). One evaluation a step where the field is
    made by `isocline.second_order`. What `y0` and the field must be stands at `Partitioned`: a tuple `(x, v)` of two
    alike, and dx/dt = F(t, v), dv/dt = G(t, x).

    Also known as velocity Verlet and Störmer–Verlet. Source: Hairer, Lubich & Wanner, Geometric Numerical Integration,
    I.1 (1.17).

    Example:
        >>> import torch, isocline
        >>> y0 = (torch.ones(1), torch.zeros(1))
        >>> x, v = isocline.solve(lambda t, y: (y[1], -y[0]), y0, [0.0, 1.0], solver="leapfrog", step=0.01).ys
        >>> round(x[-1].item(), 4), round(v[-1].item(), 4)
        (0.5403, -0.8415)
    """

    tableau = Splitting(kicks=(0.5, 0.5), drifts=(1.0,), order=2)
