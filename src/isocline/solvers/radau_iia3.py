"""The Radau IIA method of two stages."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import interpolating
from isocline.solvers.tableau import ButcherTableau


@dataclass(frozen=True)
class RadauIIA3(ImplicitRungeKutta):
    """Radau IIA of order 3: fully implicit, L-stable, stiffly accurate; no error estimate.

    Source: Hairer & Wanner, Solving Ordinary Differential Equations II, IV.5.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="radau_iia3", step=0.05)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    tableau = ButcherTableau(
        c=(0.0, 1 / 3, 1.0),
        a=((0.0, 5 / 12, -1 / 12), (0.0, 3 / 4, 1 / 4)),
        b=(0.0, 3 / 4, 1 / 4),
        order=3,
        dense=interpolating((0.0, 1 / 3, 1.0)),
        dense_order=3,
    )
