"""The singly diagonally implicit method of two stages."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import hermite
from isocline.solvers.tableau import ButcherTableau

_G = 1 - 0.5**0.5


@dataclass(frozen=True)
class SDIRK2(ImplicitRungeKutta):
    """Two equal diagonal entries γ = 1 − 1/√2: order 2, L-stable, stiffly accurate; no error estimate.

    Source: R. Alexander, SIAM J. Numer. Anal. 14 (1977).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="sdirk2", step=0.05)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    tableau = ButcherTableau(
        c=(0.0, _G, 1.0),
        a=((0.0, _G), (0.0, 1 - _G, _G)),
        b=(0.0, 1 - _G, _G),
        order=2,
        dense=hermite((0.0, 1 - _G, _G)),
        dense_order=2,
    )
