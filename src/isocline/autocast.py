"""What `torch.autocast` around a solve means: the field runs under it, the solver's own arithmetic does not.

A step adds small increments to the state: in 8 bits of mantissa they vanish. So autocast is switched off inside of
`solve`, and on again for every call of the field, on the way back as on the way forward, whatever surrounds `backward()`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

F = TypeVar("F", bound=Callable[..., Any])


class Autocast:
    """A field whose calls run under autocast; slopes of a lower precision than the state's are converted to it.

    Weights are cast anew in every call: PyTorch's cache of casts may hold some made without a graph, and would then
    cut off gradients.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> field = Autocast(lambda t, y: layer(y), "cpu", torch.bfloat16)
        >>> field(torch.tensor(0.0), torch.ones(5, 2)).dtype
        torch.float32
    """

    def __init__(self, f: Callable[..., Any], device_type: str, dtype: torch.dtype) -> None:
        self.f, self.device_type, self.dtype = f, device_type, dtype

    def __call__(self, t: Tensor, y: Any, *args: Any) -> Any:
        with torch.autocast(self.device_type, self.dtype, cache_enabled=False):
            slope = self.f(t, y, *args)
        leaves, spec = pytree.tree_flatten(slope)
        states = pytree.tree_leaves(y)
        if len(leaves) != len(states):
            return slope  # said by the field's own check
        return pytree.tree_unflatten([_like(k, x) for k, x in zip(leaves, states, strict=True)], spec)


def _like(slope: Any, state: Tensor) -> Any:
    lower = isinstance(slope, Tensor) and slope.is_floating_point() and state.is_floating_point()
    return slope.to(state.dtype) if lower and slope.element_size() < state.element_size() else slope


def outside_autocast(solve: F) -> F:
    """`solve(field, y0, …)` under no autocast but that of the field's calls."""

    @functools.wraps(solve)
    def called(field: Any, y0: Any, *args: Any, **kwargs: Any) -> Any:
        leaves = [y0] if isinstance(y0, Tensor) else pytree.tree_leaves(y0)
        first = next((leaf for leaf in leaves if isinstance(leaf, Tensor)), None)
        if first is None or not callable(field) or not torch.is_autocast_enabled(first.device.type):
            return solve(field, y0, *args, **kwargs)
        device_type = first.device.type
        field = Autocast(field, device_type, torch.get_autocast_dtype(device_type))
        with torch.autocast(device_type, enabled=False):
            return solve(field, y0, *args, **kwargs)

    return cast(F, called)


def uncast(backward: F) -> F:
    """A `backward` of a `torch.autograd.Function` whose arithmetic autocast leaves alone."""

    @functools.wraps(backward)
    def called(ctx: Any, *cotangents: Any) -> Any:
        device_type = next(x.device.type for x in cotangents if x is not None)
        if not torch.is_autocast_enabled(device_type):
            return backward(ctx, *cotangents)
        with torch.autocast(device_type, enabled=False):
            return backward(ctx, *cotangents)

    return cast(F, called)
