"""Kennedy and Carpenter's 4(3) pair."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta, Partner
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

_EXPLICIT = (
    (1 / 2,),
    (13861 / 62500, 6889 / 62500),
    (-116923316275 / 2393684061468, -2731218467317 / 15368042101831, 9408046702089 / 11113171139209),
    (
        -451086348788 / 2902428689909,
        -2682348792572 / 7519795681897,
        12662868775082 / 11960479115383,
        3355817975965 / 11060851509271,
    ),
    (
        647845179188 / 3216320057751,
        73281519250 / 8382639484533,
        552539513391 / 3454668386233,
        3354512671639 / 8306763924573,
        4040 / 17871,
    ),
)


@dataclass(frozen=True)
class KenCarp4(ImplicitRungeKutta):
    """ARK4(3)6L[2]SA: orders 4(3). Its implicit half has an explicit first stage, is stiffly accurate and L-stable.

    Of a field that is a `Split` only the implicit part goes through Newton's iteration, the other is stepped with the
    explicit half. Other fields are stepped with the implicit half alone.

    The interpolant is the continuous extension of order 4 (`interpolants.continuous`); the source's, of order 3, serves
    split fields.

    Source: C. A. Kennedy, M. H. Carpenter, Additive Runge–Kutta schemes for convection–diffusion–reaction equations,
    Appl. Numer. Math. 44 (2003).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="ken_carp4", rtol=1e-4, atol=1e-6)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    partner = Partner(
        a=_EXPLICIT,
        dense=(
            (6943876665148 / 7220017795957, -54480133 / 30881146, 6818779379841 / 7100303317025),
            (0.0, 0.0, 0.0),
            (7640104374378 / 9702883013639, -11436875 / 14766696, 2173542590792 / 12501825683035),
            (-20649996744609 / 7521556579894, 174696575 / 18121608, -31592104683404 / 5083833661969),
            (8854892464581 / 2390941311638, -12120380 / 966161, 61146701046299 / 7138195549469),
            (-11397109935349 / 6675773540249, 3843 / 706, -17219254887155 / 4939391667607),
        ),
        dense_order=3,
    )
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
