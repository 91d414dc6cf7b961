"""The state as torchdiffeq's users see it: one tensor, or a tuple of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from isocline.control.controllers import Norm
from isocline.field import Layout

WIDE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}  # the buffer of such a state is single precision, and a norm may need its range


class State:
    """Form, norms and tolerances of a state.

    Packed, a single tensor is itself, a tuple one flat vector. Every method takes and gives user's form or packed form
    as its name says.

    Args:
        y0: tensor or tuple of tensors.

    Raises:
        TypeError: for anything else.
    """

    def __init__(self, y0: Any) -> None:
        if not isinstance(y0, Tensor):
            if not isinstance(y0, tuple):
                raise TypeError(f"y0: expected a tensor or a tuple of tensors, got {type(y0).__name__}; try tuple(y0)")
            for i, part in enumerate(y0):
                if not isinstance(part, Tensor):
                    raise TypeError(f"y0[{i}]: expected a tensor, got {type(part).__name__}")
        self.layout = Layout.of(y0)
        self.is_tuple = isinstance(y0, tuple)
        self._wide = replace(self.layout, dtypes=tuple(WIDE.get(d, d) for d in self.layout.dtypes))

    def pack(self, y: Any) -> Tensor:
        """A state, differentiable."""
        return self.layout.flatten(y) if self.is_tuple else y

    def pack_path(self, ys: Any, times: int) -> Tensor:
        """States at several times, time first."""
        return self.layout.flatten(ys, "ys", (times,)) if self.is_tuple else ys

    def unpack(self, packed: Tensor) -> Any:
        """Back to the user's form; leading dimensions stay."""
        return self.layout.unflatten(packed) if self.is_tuple else packed

    def field(self, func: Callable[..., Any]) -> Callable[[Tensor, Any], Any]:
        """`func` with its result in the state's form: torchdiffeq takes a list for a tuple, and casts."""
        if not self.is_tuple:
            return _Field(func)
        return _TupleField(func)

    def norm(self, norm: Callable[[Any], Any] | None) -> Norm | None:
        """A norm of the user's form as a norm of the flat buffer; None: torchdiffeq's default."""
        if norm is None:
            if not self.is_tuple:
                return None if self.layout.plain else self.norm(rms)
            norm = mixed
        return lambda flat: norm(self._wide.unflatten(flat))

    def tolerance(self, name: str, value: Any) -> Any:
        """`rtol` or `atol` as isocline takes it: a number, a tensor, or for a tuple one entry a part.

        Raises:
            ValueError: for one that requires grad, or the wrong number of entries.
        """
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(f"{name}: a tolerance cannot require gradient; pass {name}.detach()")
        if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.dim() == 0):
            return float(value)
        if not self.is_tuple:
            return torch.as_tensor(value)
        parts = tuple(value)
        if len(parts) != len(self.layout.shapes):
            raise ValueError(
                f"{name}: {len(parts)} entries for a state of {len(self.layout.shapes)} tensors; give one each, or a number"
            )
        return tuple(_shaped(part, shape) for part, shape in zip(parts, self.layout.shapes, strict=True))


class _Field:
    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, t: Tensor, y: Tensor) -> Any:
        return _like(self.func(t, y), y)


class _TupleField(_Field):
    def __call__(self, t: Tensor, y: Any) -> Any:
        out = tuple(self.func(t, y))
        return tuple(map(_like, out, y)) if len(out) == len(y) else out


def _like(k: Any, y: Tensor) -> Any:
    """A slope in the shape and dtype of the state, where that loses nothing; isocline names what is left."""
    if not isinstance(k, Tensor):
        return k
    if k.dtype != y.dtype and (y.is_complex() or not k.is_complex()):
        k = k.to(y.dtype)
    return k.reshape(y.shape) if k.shape != y.shape and k.numel() == y.numel() else k


def _shaped(tolerance: Any, shape: torch.Size) -> Tensor:
    """torchdiffeq also takes one entry for each number of a part, flat."""
    tolerance = torch.as_tensor(tolerance)
    return tolerance.reshape(shape) if tolerance.numel() == shape.numel() else tolerance


def rms(x: Tensor) -> Tensor:
    """Root mean square of a tensor; 0 for an empty one."""
    return x.abs().square().mean().sqrt() if x.numel() else x.abs().sum()


def mixed(parts: Sequence[Tensor]) -> Tensor:
    """The largest root mean square of the parts: torchdiffeq's norm of a tuple."""
    return torch.stack([rms(part) for part in parts]).amax()
