"""Fields in two parts, of which only one is stiff."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Split:
    """The field f + g: `explicit` is f, `implicit` is g, the stiff part.

    An implicit–explicit solver (`KenCarp3`, `KenCarp4`, `KenCarp5`) solves equations in g alone: a g that is linear, or apart in every component,
    is solved with cheaply whatever f may be, and f is evaluated once a stage. Every other solver takes the sum.

    Args:
        explicit, implicit: `f(t, y, *args)`, any callables; both get the same `args` and return what a field returns.

    Raises:
        TypeError: naming the part that cannot be called.

    Example:
        >>> import torch, isocline
        >>> def slow(t, y):
        ...     return torch.cos(t).expand_as(y)
        >>> field = isocline.Split(explicit=slow, implicit=lambda t, y: -1000 * (y - torch.sin(t)))
        >>> sol = isocline.solve(field, torch.zeros(1), [0.0, 1.0], solver="ken_carp4")
        >>> round(sol.ys[-1].item(), 3), round(torch.tensor(1.0).sin().item(), 3)
        (0.841, 0.841)
    """

    explicit: Callable[..., Any]
    implicit: Callable[..., Any]

    def __post_init__(self) -> None:
        for name in ("explicit", "implicit"):
            part = getattr(self, name)
            if not callable(part):
                raise TypeError(f"Split: {name} is a {type(part).__name__}, expected a callable f(t, y, *args)")

    def __call__(self, t: Any, y: Any, *args: Any) -> Any:
        return pytree.tree_map(lambda f, g: f + g, self.explicit(t, y, *args), self.implicit(t, y, *args))
