"""Second-order equations y″ = g(t, y, y′) as fields of a pair (x, v)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SecondOrder:
    """The field (t, (x, v)) -> (v, g(t, x, v)) that `second_order` makes.

    Solvers of pairs read the velocity from the state and ask only for g.

    Example:
        >>> SecondOrder(lambda t, x, v: -x)(0.0, (1.0, 2.0))
        (2.0, -1.0)
    """

    g: Callable[..., Any]

    def __call__(self, t: Any, y: Any, *args: Any) -> tuple[Any, Any]:
        x, v = y
        return v, self.g(t, x, v, *args)


def second_order(g: Callable[..., Any]) -> SecondOrder:
    """Turns y″ = g(t, y, y′) into a field for `solve`, on states (x, v) with v = x′.

    Args:
        g: `g(t, x, v, *args)`, any callable; returns the acceleration, in the structure, shapes and dtypes of `x`.

    Returns:
        A field `f(t, (x, v), *args)`; every solver takes it. With `SymplecticEuler`, `Leapfrog` and `Yoshida4`, which
        want a force that does not depend on v, a step evaluates g once, once and three times.

    Raises:
        TypeError: `g` is not callable.

    Example:
        >>> import torch, isocline
        >>> pendulum = isocline.second_order(lambda t, x, v: -torch.sin(x))
        >>> y0 = (torch.ones(1), torch.zeros(1))
        >>> x, v = isocline.solve(pendulum, y0, [0.0, 100.0], solver="leapfrog", step=0.05).ys
        >>> energy = v[-1] ** 2 / 2 - torch.cos(x[-1])
        >>> round(energy.item(), 3), round(-torch.cos(torch.tensor(1.0)).item(), 3)
        (-0.54, -0.54)
    """
    if not callable(g):
        raise TypeError(
            f"g: expected a callable g(t, x, v, *args) that gives the acceleration, got {type(g).__name__}; "
            f"write second_order(lambda t, x, v: …)"
        )
    return SecondOrder(g)
