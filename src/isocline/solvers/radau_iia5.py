"""The Radau IIA method of three stages."""

from dataclasses import dataclass

from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.interpolants import interpolating
from isocline.solvers.tableau import ButcherTableau

_S = 6**0.5
_NODES = ((4 - _S) / 10, (4 + _S) / 10, 1.0)
_A = (
    ((88 - 7 * _S) / 360, (296 - 169 * _S) / 1800, (-2 + 3 * _S) / 225),
    ((296 + 169 * _S) / 1800, (88 + 7 * _S) / 360, (-2 - 3 * _S) / 225),
    ((16 - _S) / 36, (16 + _S) / 36, 1 / 9),
)
# The real eigenvalue of A, and the weights of the increments in Hairer's estimate (IV.8.19-20).
_G0 = 1 / ((6 + 81 ** (1 / 3) - 9 ** (1 / 3)) / 30) ** -1
_E = tuple(_G0 / 3 * w for w in (-13 - 7 * _S, -13 + 7 * _S, -1.0))


@dataclass(frozen=True)
class RadauIIA5(ImplicitRungeKutta):
    """Radau IIA of order 5: fully implicit, L-stable, stiffly accurate; the estimate is of order 3, filtered by
    (I − hγ₀J)⁻¹. The interpolant follows the slopes at all nodes, the start included.

    Source: Hairer & Wanner, Solving Ordinary Differential Equations II, IV.5 (method), IV.8 (estimate).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="radau_iia5", rtol=1e-4, atol=1e-6)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    filter = _G0
    tableau = ButcherTableau(
        c=(0.0, *_NODES),
        a=tuple((0.0, *row) for row in _A),
        b=(0.0, *_A[2]),
        order=5,
        b_error=(_G0, *(sum(e * row[j] for e, row in zip(_E, _A, strict=True)) for j in range(3))),
        embedded_order=3,
        dense=interpolating((0.0, *_NODES)),
        dense_order=4,
    )
