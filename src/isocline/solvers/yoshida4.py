"""Yoshida's method of order 4."""

from dataclasses import dataclass

from isocline.solvers.partitioned import Partitioned, Splitting

_OUTER = 1 / (2 - 2 ** (1 / 3))
_INNER = 1 - 2 * _OUTER


@dataclass(frozen=True)
class Yoshida4(Partitioned):
    """Three leapfrogs of length γ₁h, γ₀h, γ₁h of a pair (x, v), γ₁ = 1/(2 − 2^(1/3)): order 4, symplectic, reversible.

    Seven evaluations a step, three where the field is made by `isocline.second_order`. What `y0` and the field must be
    stands at `Partitioned`: a tuple `(x, v)` of two alike, and dx/dt = F(t, v), dv/dt = G(t, x).

    The middle leapfrog goes back in time, γ₀ = −1.70, as in every such method of order above 2 some move must: `f` is
    asked up to 0.36 h outside of the step, and a jump of `f` there costs order. Between steps the interpolant is cubic.

    Source: H. Yoshida, Phys. Lett. A 150 (1990), equations 2.10 to 2.12; Hairer, Lubich & Wanner, Geometric Numerical
    Integration, II.4 (4.4).

    Example:
        >>> import torch, isocline
        >>> y0 = (torch.ones(1), torch.zeros(1))
        >>> x, v = isocline.solve(lambda t, y: (y[1], -y[0]), y0, [0.0, 1.0], solver="yoshida4", step=0.1).ys
        >>> round(x[-1].item(), 4), round(v[-1].item(), 4)
        (0.5403, -0.8415)
    """

    tableau = Splitting(
        kicks=(_OUTER / 2, (_OUTER + _INNER) / 2, (_INNER + _OUTER) / 2, _OUTER / 2),
        drifts=(_OUTER, _INNER, _OUTER),
        order=4,
    )
