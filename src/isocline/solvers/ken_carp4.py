"""Kennedy and Carpenter's 4(3) pair, the implicit half."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import continuous
from isocline.solvers.tableau import ButcherTableau

_G = 1 / 4
_B = (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, _G)
_B_HAT = (
    4586570599 / 29645900160,
    0.0,
    178811875 / 945068544,
    814220225 / 1159782912,
    -3700637 / 11593932,
    61727 / 225920,
)

_C = (0.0, 1 / 2, 83 / 250, 31 / 50, 17 / 20, 1.0)
_A = (
    (_G, _G),
    (8611 / 62500, -1743 / 31250, _G),
    (5012029 / 34652500, -654441 / 2922500, 174375 / 388108, _G),
    (15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912, _G),
    _B,
)


@dataclass(frozen=True)
class KenCarp4(ImplicitRungeKutta):
    """ARK4(3)6L[2]SA, its diagonally implicit half: orders 4(3), explicit first stage, stiffly accurate, L-stable.

    The interpolant is the continuous extension of order 4 (`interpolants.continuous`); the source's is of order 3.

    Source: C. A. Kennedy, M. H. Carpenter, Additive Runge–Kutta schemes for convection–diffusion–reaction equations,
    Appl. Numer. Math. 44 (2003).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="ken_carp4", rtol=1e-4, atol=1e-6)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    tableau = ButcherTableau(
        c=_C,
        a=_A,
        b=_B,
        order=4,
        b_error=tuple(x - y for x, y in zip(_B, _B_HAT, strict=True)),
        embedded_order=3,
        dense=continuous(_A, _B, 4),
        dense_order=4,
    )
