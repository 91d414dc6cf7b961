"""Tsitouras' 5(4) pair."""

from dataclasses import dataclass

from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.tableau import ButcherTableau

_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.3790085741037419,
    -3.2900695154360807,
    2.324710524099774,
    0.0,
)
_B_HAT = (
    0.09468075576583946,
    0.009183565540343253,
    0.48777052842476155,
    1.2342975669304790,
    -2.7077123499835254,
    1.8666284181705870,
    0.015151515151515152,
)


@dataclass(frozen=True)
class Tsit5(ExplicitRungeKutta):
    """Tsitouras' pair of orders 5(4): six evaluations a step, the seventh shared with the next step. The default.

    About a fifth more accurate than Dormand & Prince's pair for the same work, with an interpolant of order 4 that
    costs nothing more.
    Source: Ch. Tsitouras, Runge–Kutta pairs of order 5(4) satisfying only the first column simplifying assumption,
    Comput. Math. Appl. 62 (2011); the interpolant's factored polynomials are expanded here.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0])
        >>> round(sol.ys[-1].item(), 4)
        0.3679
    """

    tableau = ButcherTableau(
        c=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1),
        a=(
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
            (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
            _B[:-1],
        ),
        b=_B,
        order=5,
        b_error=tuple(b - b_hat for b, b_hat in zip(_B, _B_HAT, strict=True)),
        embedded_order=4,
        dense=(
            (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
            (0.0, 0.1317, -0.2234, 0.1017),
            (0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651252793),
            (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
            (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
            (0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
            (0.0, 1.5, -4.0, 2.5),
        ),
        dense_order=4,
        tolerance=1e-12,
    )
