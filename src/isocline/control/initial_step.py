"""The error norm and the first step (Hairer, Nørsett & Wanner I, II.4)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.control.controllers import PID
from isocline.field import Layout

DEFAULT_RTOL = {32: 1e-5, 64: 1e-7, 16: 1e-2}
DEFAULT_ATOL = {32: 1e-6, 64: 1e-9, 16: 1e-3}


class Tolerance:
    """atol + rtol · |y| on the flat buffer, and norms in units of it.

    Args:
        controller: its `rtol`, `atol`, `norm`.
        layout: of the state; tensors and pytrees of tolerances are laid out like it.
    """

    def __init__(self, controller: PID, layout: Layout) -> None:
        bits = torch.finfo(layout.time_dtype).bits
        self.rtol = _laid_out(controller.rtol, DEFAULT_RTOL[bits], layout, "rtol")
        atol = _laid_out(controller.atol, DEFAULT_ATOL[bits], layout, "atol")
        # y identically zero under a purely relative tolerance: 0/0 must read "no error", not NaN. A tensor, because
        # PyTorch adds one in a third of the time of a number.
        self.atol = torch.as_tensor(atol, dtype=layout.dtype, device=layout.device).clamp(
            min=torch.finfo(layout.dtype).tiny
        )
        self.norm = controller.norm
        self.layout = layout

    @cached_property
    def mean(self) -> Tensor:
        """(1/N, …, 1/N)."""
        size = self.layout.size
        return torch.full((size,), 1.0 / size, dtype=self.layout.dtype, device=self.layout.device)

    def scale(self, y: Tensor) -> Tensor:
        """atol + rtol · y for y ≥ 0."""
        if isinstance(self.rtol, Tensor):
            return torch.addcmul(self.atol, y, self.rtol)
        return torch.add(self.atol, y, alpha=self.rtol)

    def shared(self, x: Tensor) -> float:
        """Norm of a vector already in units of the tolerance, as a Python float: the one synchronisation of a step."""
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return largest(self.norm(x) if self.norm is not None else (torch.dot(x, x) / x.numel()).sqrt())
        if self.norm is not None:
            return float(self.norm(x))
        return (torch.dot(x, x).item() / x.numel()) ** 0.5

    def squares(self, x: Tensor) -> Tensor:
        """The square of the norm of every row; a product with (1/N, …, 1/N) is the fastest mean of few numbers."""
        if self.norm is not None:
            return self.norm(x) ** 2
        return torch.mv(x * x, self.mean)

    def rows(self, x: Tensor) -> Tensor:
        """The norm of every row."""
        return self.squares(x).sqrt_()


def largest(x: Tensor) -> float:
    """The number; under `torch.func.vmap` the largest of all samples, which the others' steps are chosen by too."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return float(x.detach().max())


def _laid_out(value: Any, default: float, layout: Layout, name: str) -> float | Tensor:
    if value is None:
        return default
    if isinstance(value, (int, float)):
        return float(value)
    shape_of = [
        torch.empty(shape, dtype=dtype, device=layout.device)
        for shape, dtype in zip(layout.shapes, layout.dtypes, strict=True)
    ]
    if isinstance(value, Tensor) and (value.dim() == 0 or layout.spec is None):
        leaves = [value] * len(shape_of)
    else:
        leaves, _spec = pytree.tree_flatten(value)
        if len(leaves) != len(shape_of):
            raise ValueError(
                f"{name}: {len(leaves)} tolerances for a state of {len(shape_of)} tensors; give one a tensor, or one number"
            )
    parts = []
    for leaf, like in zip(leaves, shape_of, strict=True):
        tolerance = torch.as_tensor(leaf, dtype=layout.dtype, device=layout.device).detach()
        if not bool((tolerance >= 0).all()):
            raise ValueError(f"{name}: has negative or NaN entries, expected tolerances >= 0")
        try:
            full = tolerance.expand(like.shape)
        except RuntimeError as error:
            raise ValueError(
                f"{name}: shape {tuple(tolerance.shape)} does not broadcast to the state's {tuple(like.shape)}"
            ) from error
        repeat = 2 if like.is_complex() else 1
        parts.append(full.reshape(-1).repeat_interleave(repeat))
    return torch.cat(parts)


def hairer_start(span: float, d0: float, d1: float) -> float:
    """First guess h₀ from d₀ = ‖y₀/sc‖, d₁ = ‖f₀/sc‖; the absolute constants of the book are taken relative to the span."""
    h0 = 0.01 * d0 / d1 if d0 > 1e-5 and d1 > 1e-5 else 1e-6 * span
    return min(h0, span)


def hairer_finish(span: float, h0: float, d1: float, d2: float, order: int) -> float:
    """h from the probe's second derivative d₂ = ‖(f(t+h₀, y+h₀f₀) − f₀)/sc‖/h₀; `order` is the error estimate's plus one."""
    largest = max(d1, d2)
    if not largest < float("inf"):
        return h0
    h1 = max(1e-6 * span, h0 * 1e-3) if largest <= 1e-15 else (0.01 / largest) ** (1.0 / order)
    return min(100 * h0, h1, span)


def hairer_start_rows(span: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """`hairer_start`, row by row."""
    h0 = torch.where((d0 > 1e-5) & (d1 > 1e-5), 0.01 * d0 / d1, 1e-6 * span)
    return torch.minimum(h0.nan_to_num(nan=0.0), span)


def hairer_finish_rows(span: Tensor, h0: Tensor, d1: Tensor, d2: Tensor, order: int) -> Tensor:
    """`hairer_finish`, row by row."""
    largest = torch.maximum(d1, d2)
    h1 = torch.where(largest <= 1e-15, (1e-3 * h0).maximum(1e-6 * span), (0.01 / largest) ** (1.0 / order))
    return torch.minimum(torch.where(largest.isfinite(), torch.minimum(100 * h0, h1), h0), span)
