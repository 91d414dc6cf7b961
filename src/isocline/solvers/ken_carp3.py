"""Kennedy and Carpenter's 3(2) pair."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta, Partner
from isocline.solvers.interpolants import hermite
from isocline.solvers.tableau import ButcherTableau

_G = 1767732205903 / 4055673282236
_B = (1471266399579 / 7840856788654, -4482444167858 / 7529755066697, 11266239266428 / 11593286722821, _G)
_B_HAT = (
    2756255671327 / 12835298489170,
    -10771552573575 / 22201958757719,
    9247589265047 / 10645013368117,
    2193209047091 / 5459859503100,
)


@dataclass(frozen=True)
class KenCarp3(ImplicitRungeKutta):
    """ARK3(2)4L[2]SA: orders 3(2). Its implicit half has an explicit first stage, is stiffly accurate and L-stable.

    Of a field that is a `Split` only the implicit part goes through Newton's iteration, the other is stepped with the
    explicit half. Other fields are stepped with the implicit half alone. The interpolant is Hermite's cubic; the source's,
    of order 2, serves split fields.

    Source: C. A. Kennedy, M. H. Carpenter, Additive Runge–Kutta schemes for convection–diffusion–reaction equations,
    Appl. Numer. Math. 44 (2003).

    Example:
        >>> import torch, isocline
        >>> def slow(t, y):
        ...     return torch.cos(t).expand_as(y)
        >>> field = isocline.Split(slow, lambda t, y: -1000 * (y - torch.sin(t)))
        >>> round(isocline.solve(field, torch.zeros(1), [0.0, 1.0], solver="ken_carp3").ys[-1].item(), 3)
        0.841
    """

    partner = Partner(
        a=(
            (2 * _G,),
            (5535828885825 / 10492691773637, 788022342437 / 10882634858940),
            (
                6485989280629 / 16251701735622,
                -4246266847089 / 9704473918619,
                10755448449292 / 10357097424841,
            ),
        ),
        dense=(
            (4655552711362 / 22874653954995, -215264564351 / 13552729205753),
            (-18682724506714 / 9892148508045, 17870216137069 / 13817060693119),
            (34259539580243 / 13192909600954, -28141676662227 / 17317692491321),
            (584795268549 / 6622622206610, 2508943948391 / 7218656332882),
        ),
        dense_order=2,
    )
    tableau = ButcherTableau(
        c=(0.0, 2 * _G, 3 / 5, 1.0),
        a=((_G, _G), (2746238789719 / 10658868560708, -640167445237 / 6845629431997, _G), _B),
        b=_B,
        order=3,
        b_error=tuple(x - y for x, y in zip(_B, _B_HAT, strict=True)),
        embedded_order=2,
        dense=hermite(_B),
        dense_order=3,
    )
