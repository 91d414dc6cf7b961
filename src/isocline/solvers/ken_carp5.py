"""Kennedy and Carpenter's 5(4) pair."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta, Partner
from isocline.solvers.interpolants import continuous
from isocline.solvers.tableau import ButcherTableau

_G = 41 / 200
_B = (
    -872700587467 / 9133579230613,
    0.0,
    0.0,
    22348218063261 / 9555858737531,
    -1143369518992 / 8141816002931,
    -39379526789629 / 19018526304540,
    32727382324388 / 42900044865799,
    _G,
)
_B_HAT = (
    -975461918565 / 9796059967033,
    0.0,
    0.0,
    78070527104295 / 32432590147079,
    -548382580838 / 3424219808633,
    -33438840321285 / 15594753105479,
    3629800801594 / 4656183773603,
    4035322873751 / 18575991585200,
)
_A = (
    (_G, _G),
    (41 / 400, -567603406766 / 11931857230679, _G),
    (683785636431 / 9252920307686, 0.0, -110385047103 / 1367015193373, _G),
    (3016520224154 / 10081342136671, 0.0, 30586259806659 / 12414158314087, -22760509404356 / 11113319521817, _G),
    (
        218866479029 / 1489978393911,
        0.0,
        638256894668 / 5436446318841,
        -1179710474555 / 5321154724896,
        -60928119172 / 8023461067671,
        _G,
    ),
    (
        1020004230633 / 5715676835656,
        0.0,
        25762820946817 / 25263940353407,
        -2161375909145 / 9755907335909,
        -211217309593 / 5846859502534,
        -4269925059573 / 7827059040719,
        _G,
    ),
    _B,
)
_EXPLICIT = (
    (41 / 100,),
    (367902744464 / 2072280473677, 677623207551 / 8224143866563),
    (1268023523408 / 10340822734521, 0.0, 1029933939417 / 13636558850479),
    (14463281900351 / 6315353703477, 0.0, 66114435211212 / 5879490589093, -54053170152839 / 4284798021562),
    (
        14090043504691 / 34967701212078,
        0.0,
        15191511035443 / 11219624916014,
        -18461159152457 / 12425892160975,
        -281667163811 / 9011619295870,
    ),
    (
        19230459214898 / 13134317526959,
        0.0,
        21275331358303 / 2942455364971,
        -38145345988419 / 4862620318723,
        -1 / 8,
        -1 / 8,
    ),
    (
        -19977161125411 / 11928030595625,
        0.0,
        -40795976796054 / 6384907823539,
        177454434618887 / 12078138498510,
        782672205425 / 8267701900261,
        -69563011059811 / 9646580694205,
        7356628210526 / 4942186776405,
    ),
)


@dataclass(frozen=True)
class KenCarp5(ImplicitRungeKutta):
    """ARK5(4)8L[2]SA: orders 5(4). Its implicit half has an explicit first stage, is stiffly accurate and L-stable.

    Of a field that is a `Split` only the implicit part goes through Newton's iteration, the other is stepped with the
    explicit half. Other fields are stepped with the implicit half alone. The error estimate nearly vanishes on oscillations,
    whose error comes out tens of times the tolerance.

    The interpolant is the continuous extension of order 4 (`interpolants.continuous`); the source's, of order 3, serves
    split fields.

    Source: C. A. Kennedy, M. H. Carpenter, Additive Runge–Kutta schemes for convection–diffusion–reaction equations,
    Appl. Numer. Math. 44 (2003).

    Example:
        >>> import torch, isocline
        >>> def slow(t, y):
        ...     return torch.cos(t).expand_as(y)
        >>> field = isocline.Split(slow, lambda t, y: -1000 * (y - torch.sin(t)))
        >>> round(isocline.solve(field, torch.zeros(1), [0.0, 1.0], solver="ken_carp5").ys[-1].item(), 3)
        0.841
    """

    partner = Partner(
        a=_EXPLICIT,
        dense=(
            (-17674230611817 / 10670229744614, 43486358583215 / 12773830924787, -9257016797708 / 5021505065439),
            (0.0, 0.0, 0.0),
            (0.0, 0.0, 0.0),
            (65168852399939 / 7868540260826, -91478233927265 / 11067650958493, 26096422576131 / 11239449250142),
            (15494834004392 / 5936557850923, -79368583304911 / 10890268929626, 92396832856987 / 20362823103730),
            (-99329723586156 / 26959484932159, -12239297817655 / 9152339842473, 30029262896817 / 10175596800299),
            (-19024464361622 / 5461577185407, 115839755401235 / 10719374521269, -26136350496073 / 3983972220547),
            (-6511271360970 / 6095937251113, 5843115559534 / 2180450260947, -5289405421727 / 3760307252460),
        ),
        dense_order=3,
    )
    tableau = ButcherTableau(
        c=(
            0.0,
            41 / 100,
            2935347310677 / 11292855782101,
            1426016391358 / 7196633302097,
            92 / 100,
            24 / 100,
            3 / 5,
            1.0,
        ),
        a=_A,
        b=_B,
        order=5,
        b_error=tuple(x - y for x, y in zip(_B, _B_HAT, strict=True)),
        embedded_order=4,
        dense=continuous(_A, _B, 4),
        dense_order=4,
        tolerance=1e-11,  # of the source's rational numbers
    )
