"""Dormand and Prince's 5(4) pair."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau

_B = (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0)
_B_HAT = (5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)

# Hairer's fifth interpolation column (dopri5.f, D1 … D7): y(θ) is the cubic Hermite polynomial plus
# θ²(1 − θ)² h Σ d_i k_i, which is of order 4.
_D = (
    -12715105075 / 11282082432,
    0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)


def _interpolant() -> tuple[tuple[float, ...], ...]:
    """Coefficients of θ, θ², θ³, θ⁴ of every stage."""
    polynomials = []
    for stage, (b, d) in enumerate(zip(_B, _D, strict=True)):
        # (3θ² − 2θ³)(y₁ − y₀) + θ(θ − 1)² h k₁ + θ²(θ − 1) h k₇
        first, last = float(stage == 0), float(stage == 6)
        polynomials.append((first, 3 * b - 2 * first - last + d, -2 * b + first + last - 2 * d, d))
    return tuple(polynomials)


@dataclass(frozen=True)
class Dopri5(ExplicitRungeKutta):
    """Dormand & Prince's pair of orders 5(4): six evaluations a step, the seventh shared with the next step.

    The error weights are Hairer's; torchdiffeq's are exactly 2/3 of them, so its tolerance is 1.5 times looser.
    Sources: J. R. Dormand, P. J. Prince, J. Comp. Appl. Math. 6 (1980); the interpolant of order 4: Hairer, Nørsett &
    Wanner I, II.6 and their code dopri5.f.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], solver="dopri5")
        >>> round(sol.ys[-1].item(), 4)
        0.3679
    """

    tableau = ButcherTableau(
        c=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        a=(
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            _B[:-1],
        ),
        b=_B,
        order=5,
        b_error=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT, strict=True)),
        embedded_order=4,
        dense=_interpolant(),
        dense_order=4,
    )
