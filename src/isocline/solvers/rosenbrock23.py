"""Shampine and Reichelt's pair of orders 2(3), known as ode23s."""

from dataclasses import dataclass

from isocline.solvers.rosenbrock import Rosenbrock, classical

_D = 1 / (2 + 2**0.5)
_E = 6 + 2**0.5


@dataclass(frozen=True)
class Rosenbrock23(Rosenbrock):
    """Three stages, order 2, L-stable; the estimate compares with order 3. For crude tolerances.

    Source: L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997).

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -50 * y, torch.ones(1), [0.0, 1.0], solver="rosenbrock23", rtol=1e-3)
        >>> bool(sol.ys[-1].abs() < 1e-4)
        True
    """

    tableau = classical(
        alpha=((0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 1.0, 0.0)),
        gamma=((_D, 0.0, 0.0), (-_D, _D, 0.0), (_D * (_E - 2), -_D * _E, _D)),
        weights=(0.0, 1.0, 0.0),
        error=(1 / 6, -1 / 3, 1 / 6),
        interpolant=((1 / (1 - 2 * _D), -1 / (1 - 2 * _D)), (-2 * _D / (1 - 2 * _D), 1 / (1 - 2 * _D)), (0.0,)),
        order=2,
        embedded_order=2,
        dense_order=2,
    )
