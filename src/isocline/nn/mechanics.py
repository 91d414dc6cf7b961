"""What Hamiltonian and Lagrangian fields share: halves of a state, derivatives inside a field, forces that are no gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from isocline._types import Tensor


def split(y: Any, who: str) -> tuple[Tensor, Tensor]:
    """(q, p) of a state: a pair as it is, a tensor (..., 2n) in halves.

    Raises:
        ValueError: for a tensor with an odd last dimension, or anything else.
    """
    if isinstance(y, Tensor):
        if not y.dim() or y.shape[-1] % 2:
            raise ValueError(
                f"{who}: a state of shape {tuple(y.shape)}, expected (..., 2n), positions and then momenta"
            )
        return y.chunk(2, -1)[0], y.chunk(2, -1)[1]
    if not (isinstance(y, tuple) and len(y) == 2 and all(isinstance(half, Tensor) for half in y)):
        raise ValueError(f"{who}: a state of type {type(y).__name__}, expected a tensor (..., 2n) or a pair (q, p)")
    return y


def like(y: Any, first: Tensor, second: Tensor) -> Any:
    """The two halves in the form `y` has."""
    return torch.cat([first, second], -1) if isinstance(y, Tensor) else (first, second)


@contextmanager
def on_leaves(*inputs: Tensor) -> Iterator[tuple[bool, list[Tensor]]]:
    """Where derivatives with respect to `inputs` can be taken, whatever mode the caller is in.

    Yields:
        whether the caller wants a graph through the derivatives, and the inputs to take them with respect to.
    """
    keep = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        yield (
            keep,
            [
                x if x.requires_grad else (x.clone() if x.is_inference() else x.detach()).requires_grad_()
                for x in inputs
            ],
        )


def derivative(output: Tensor, inputs: Tensor | tuple[Tensor, ...], keep: bool) -> tuple[Tensor, ...]:
    """∂(sum of output)/∂inputs; zeros where it does not depend on one; `keep` asks for a graph through them."""
    several = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not output.requires_grad:
        return tuple(map(torch.zeros_like, several))
    return torch.autograd.grad(output.sum(), several, create_graph=keep, retain_graph=True, materialize_grads=True)


class Mechanics(nn.Module):
    """Base: a scalar function of the state, and generalised forces −D(t, q) q̇ + F(t, [q, ·], *args).

    Args:
        scalar: the energy or the Lagrangian, `(t, y) -> (...)` or `(..., 1)` for y (..., 2n).
        damping: D, coefficients of friction proportional to velocity: a number, a tensor (n,), or a callable D(t, q) of
            shape (..., n); None: none.
        force: F, what else acts; its `args` are those of the solve, the first the input u(t) where it has `inputs`.
    """

    def __init__(
        self,
        scalar: Callable[..., Tensor],
        damping: float | Tensor | Callable[..., Tensor] | None,
        force: Callable[..., Tensor] | None,
    ) -> None:
        super().__init__()
        self.scalar, self.force = scalar, force
        if isinstance(damping, Tensor) and not isinstance(damping, nn.Parameter):
            self.register_buffer("damping", damping)
        else:
            self.damping = damping

    def summed(self, t: Tensor, y: Tensor) -> Tensor:
        """Of all samples: its gradient is every sample's own."""
        value = self.scalar(t, y)
        if value.shape not in (y.shape[:-1], (*y.shape[:-1], 1)):
            raise ValueError(
                f"{type(self).__name__}: its scalar function returned shape {tuple(value.shape)} for a state "
                f"{tuple(y.shape)}, expected one number a sample, {tuple(y.shape[:-1])} or {(*y.shape[:-1], 1)}"
            )
        return value.sum()

    def forces(self, t: Tensor, q: Tensor, second: Tensor, velocity: Tensor, args: tuple[Any, ...]) -> Tensor | None:
        """−D(t, q) q̇ + F, or None; `second` is the other half of the state."""
        total = None
        damping: Any = self.damping
        if damping is not None:
            total = -(damping if isinstance(damping, (Tensor, float, int)) else damping(t, q)) * velocity
        if self.force is not None:
            more = self.force(t, torch.cat([q, second], -1), *args)
            total = more if total is None else total + more
        return total
