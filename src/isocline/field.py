"""The vector-field contract: how a state becomes a flat real buffer, and what `f` may and may not do.

Every engine works on one real buffer: shape (N,) when the whole state shares its steps, (B, N) when every sample steps
on its own. Leaves of a pytree are pieces of it, a complex leaf its real view (re, im, re, im, …). States in half
precision are carried in float32 and handed to `f` in their own dtype.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.utils import _pytree as pytree

from isocline._types import Float, Tensor

IN_PLACE = (
    "field: it changed its argument y in place (an in-place activation, y += …, y[...] = …); "
    "the solver still needs that state: use the out-of-place operation or y = y.clone() first"
)
WITHOUT_FLOAT64 = {"mps"}  # device types
REAL_OF = {torch.complex64: torch.float32, torch.complex128: torch.float64, torch.complex32: torch.float16}


@dataclass(frozen=True)
class Layout:
    """How a pytree of tensors lies in a flat real buffer.

    Attributes:
        spec: structure of the pytree, None for a single tensor.
        shapes, dtypes: of every leaf, without the batch dimension.
        sizes: real numbers a leaf takes in the buffer.
        dtype: real dtype of the buffer.
        device: of all leaves.
        batch: number of samples where they step on their own, else None.

    Example:
        >>> y0 = {"x": torch.zeros(3, 2), "z": torch.ones(4, dtype=torch.complex64)}
        >>> layout = Layout.of(y0)
        >>> layout.flatten(y0).shape, layout.unflatten(layout.flatten(y0))["z"].dtype
        (torch.Size([14]), torch.complex64)
    """

    spec: pytree.TreeSpec | None
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batch: int | None

    @staticmethod
    def of(y0: Any, per_sample: bool = False) -> Layout:
        """The layout of a state; TypeError or ValueError naming y0 when it cannot be one."""
        if type(y0) is Tensor and y0.dtype in (torch.float32, torch.float64) and (y0.dim() or not per_sample):
            # The common state, without a look for what it might be.
            shape = y0.shape[1:] if per_sample else y0.shape
            batch = y0.shape[0] if per_sample else None
            return Layout(None, (shape,), (y0.dtype,), (math.prod(shape),), y0.dtype, y0.device, batch)
        leaves, spec = pytree.tree_flatten(y0)
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise TypeError(f"y0: expected a tensor or a pytree of tensors, found {type(leaf).__name__} ({leaf!r})")
            if not (leaf.is_floating_point() or leaf.is_complex()):
                raise TypeError(f"y0: dtype {leaf.dtype} cannot change continuously; use y0.float() or y0.double()")
        if not leaves:
            raise ValueError("y0: no tensor in it, expected at least one")
        devices = {leaf.device for leaf in leaves}
        if len(devices) > 1:
            raise ValueError(f"y0: its tensors are on {sorted(map(str, devices))}, expected one device")
        batch = _batch_size(leaves) if per_sample else None
        lead = 0 if batch is None else 1
        shapes = tuple(leaf.shape[lead:] for leaf in leaves)
        sizes = tuple(
            # Not shape.numel(): a size that a tracer keeps open would become a number there.
            math.prod(shape) * (2 if leaf.is_complex() else 1)
            for shape, leaf in zip(shapes, leaves, strict=True)
        )
        dtype = widest([torch.float32, *(REAL_OF.get(leaf.dtype, leaf.dtype) for leaf in leaves)])
        single = isinstance(y0, Tensor)
        return Layout(
            None if single else spec,
            shapes,
            tuple(leaf.dtype for leaf in leaves),
            sizes,
            dtype,
            leaves[0].device,
            batch,
        )

    @property
    def size(self) -> int:
        """Real numbers of one sample (or of the whole state)."""
        return sum(self.sizes)

    @property
    def time_dtype(self) -> torch.dtype:
        """The real dtype `f` gets its time in: the widest of the leaves'."""
        return widest([REAL_OF.get(d, d) for d in self.dtypes])

    @property
    def clock_dtype(self) -> torch.dtype:
        """The dtype of times kept on the device: float64 where it has that.

        Where it has not, a float32 clock still does not drift: a step is the exact difference of two of its readings.
        """
        return torch.float32 if self.device.type in WITHOUT_FLOAT64 else torch.float64

    @property
    def plain(self) -> bool:
        """A single real tensor that lies in the buffer as it is: the fast path."""
        return self.spec is None and self.dtypes[0] == self.dtype

    @property
    def time_tail(self) -> tuple[int, ...]:
        """(1, …, 1): what the shape of the rows' times ends with, to broadcast against the leaf with most dimensions."""
        return (1,) * max(len(shape) for shape in self.shapes)

    def leaves(self, y: Any, what: str, lead: Sequence[int] = ()) -> list[Tensor]:
        """The leaves of `y` after comparing structure, shapes and dtypes with the state's; ValueError names both."""
        if self.spec is None:
            leaves = [y]
            if not isinstance(y, Tensor):
                raise ValueError(f"{what}: returned {type(y).__name__}, expected a tensor like the state")
        else:
            leaves, spec = pytree.tree_flatten(y)
            if spec != self.spec:
                raise ValueError(f"{what}: returned the structure {spec}, expected the state's: {self.spec}")
        for got, shape, dtype in zip(leaves, self.shapes, self.dtypes, strict=True):
            want = (*lead, *shape)
            if not isinstance(got, Tensor) or got.shape != want:
                found = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
                raise ValueError(f"{what}: returned shape {found}, expected the state's shape {tuple(want)}")
            if got.dtype != dtype:
                raise ValueError(
                    f"{what}: returned dtype {got.dtype}, expected the state's dtype {dtype}; convert one of them"
                )
        return leaves

    def flatten(self, y: Any, what: str = "y0", lead: Sequence[int] | None = None) -> Tensor:
        """Buffer of a state: (N,), or (B, N) where samples step on their own; differentiable.

        Args:
            y: the state.
            what: whose value this is, for messages.
            lead: the leading shape in place of the batch's, e.g. (T, B) for a whole path.
        """
        if lead is None:
            lead = () if self.batch is None else (self.batch,)
        return self.join(self.leaves(y, what, lead), lead)

    def join(self, leaves: Sequence[Tensor], lead: Sequence[int]) -> Tensor:
        """Leaves to buffer, unchecked."""
        parts = []
        for leaf, size in zip(leaves, self.sizes, strict=True):
            real = torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
            parts.append(real.reshape(*lead, size).to(self.dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def unflatten(self, flat: Tensor) -> Any:
        """State of a buffer (..., N): every leaf gets the leading dimensions; differentiable."""
        if self.plain:
            return flat.view((*flat.shape[:-1], *self.shapes[0]))
        lead = flat.shape[:-1]
        leaves = []
        ends = accumulate(self.sizes)
        for end, size, shape, dtype in zip(ends, self.sizes, self.shapes, self.dtypes, strict=True):
            piece = flat.narrow(-1, end - size, size)
            if dtype.is_complex:
                real = piece.to(REAL_OF[dtype]).reshape((*lead, *shape, 2))
                leaves.append(torch.view_as_complex(real.contiguous()))
            else:
                leaves.append(piece.to(dtype).reshape((*lead, *shape)))
        return leaves[0] if self.spec is None else pytree.tree_unflatten(leaves, self.spec)


def widest(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """What all of these real dtypes fit into; `torch.promote_types` would leave an operation in a traced graph.

    Example:
        >>> widest([torch.float16, torch.bfloat16]), widest([torch.bfloat16, torch.float64])
        (torch.float32, torch.float64)
    """
    if all(dtype == dtypes[0] for dtype in dtypes):
        return dtypes[0]
    return torch.float64 if torch.float64 in dtypes else torch.float32


def _batch_size(leaves: Sequence[Tensor]) -> int:
    if not all(leaf.dim() and leaf.shape[0] == leaves[0].shape[0] for leaf in leaves):
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ValueError(
            f"y0: batching='per_sample' wants the batch as first dimension of every tensor, found shapes {shapes}"
        )
    return leaves[0].shape[0]


# On a CPU an array is a tensor in less than half of `new_tensor`'s time.
CODES = {torch.float32: "f", torch.float64: "d"}


class VectorField:
    """`f` on flat buffers, checked at every evaluation.

    Args:
        f: the user's `f(t, y, *args)`.
        layout: of the state.
        args: further arguments, handed on as they are.

    Attributes:
        differentiates: `f` calls autograd itself (found out at the first call that needs it).
        batch_args: which leaves of `args` have the batch as first dimension (per-sample batching finds out).
        optional: an engine need not take it, another is there.
        common_times: with per-sample batching that nobody asked for, the times (T,) of the solve: f must be the same for one time
            and for the time of each sample; else None.

    Evaluations are counted here, never on the user's module: a Python counter there would make a compiled model
    recompile at every call.
    """

    def __init__(self, f: Callable[..., Any], layout: Layout, args: tuple[Any, ...] = ()) -> None:
        self.f = f
        self.layout = layout
        self.args = args
        self.time_dtype, self.time_tail = layout.time_dtype, layout.time_tail
        self.differentiates = False
        self.batch_args: frozenset[int] = frozenset()
        self.optional = False
        self.common_times: Tensor | None = None
        self._counter = [0]
        self._trusted = False  # f has worked without a graph: no need to guard the next call
        self._made_clock: Tensor | None = None
        self._plain_shape = tuple(layout.shapes[0]) if layout.plain else None
        self._code = CODES.get(self.time_dtype) if layout.device.type == "cpu" else None

    @property
    def _clock(self) -> Tensor:
        """Made when it is first asked for: most fields are never asked by an engine of PyTorch's operations."""
        if self._made_clock is None:
            self._made_clock = torch.empty((), dtype=self.time_dtype, device=self.layout.device)
        return self._made_clock

    def with_args(self, args: tuple[Any, ...]) -> VectorField:
        """The same field with other arguments and a count of its own."""
        other = VectorField(self.f, self.layout, args)
        other.differentiates, other.batch_args = self.differentiates, self.batch_args
        other.optional, other.common_times = self.optional, self.common_times
        return other

    def of_rows(self, rows: Tensor) -> VectorField:
        """The same field for some samples only: the arguments that carry the batch are picked too; counts here."""
        if not self.batch_args:
            return self
        leaves, spec = pytree.tree_flatten(self.args)
        picked = [leaf.index_select(0, rows) if i in self.batch_args else leaf for i, leaf in enumerate(leaves)]
        part = self.with_args(pytree.tree_unflatten(picked, spec))
        part._counter = self._counter
        return part

    @property
    def evaluations(self) -> int:
        """How often `f` was called."""
        return self._counter[0]

    def time(self, t: float) -> Tensor:
        """A fresh 0-d tensor: a field may keep the one it was given."""
        return self._clock.new_full((), t)

    def times(self, ts: Sequence[float]) -> Sequence[Tensor]:
        """The same for the stages of a step, made at once: pieces of one fresh tensor."""
        if self._clock.is_cuda:  # from pinned memory, so that nobody waits for the copy
            fresh = torch.tensor(ts, dtype=self.time_dtype, pin_memory=True)
            return fresh.to(self._clock.device, non_blocking=True).unbind()
        if self._code is None:
            return self._clock.new_tensor(ts).unbind()
        return torch.frombuffer(array(self._code, ts), dtype=self.time_dtype).unbind()

    def shaped(self, flat: Tensor) -> Tensor:
        """A buffer (…, N) as `fill` reads and writes it: the state's own shape, where that is a single real tensor."""
        return flat if self._plain_shape is None else flat.view((*flat.shape[:-1], *self._plain_shape))

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """f at time `t` on the buffer `y` (..., N); the result is flat too, and differentiable."""
        return self.slope(t, self.shaped(y)).reshape(y.shape)

    def at(self, t: Float[Tensor, "*rows"], y: Float[Tensor, "*rows state"]) -> Float[Tensor, "*rows state"]:
        """f at one time (0-d), or at the times (R,) of the rows of `y` (R, N), in whatever dtype they are kept."""
        time = t.to(device=y.device, dtype=self.time_dtype)
        return self(time.view(-1, *self.time_tail) if t.dim() else time, y)

    def fill(self, t: Tensor, y: Tensor, out: Tensor, scale: Tensor | None = None) -> Tensor:
        """Writes f, times `scale`, into `out` and returns f; all as `shaped` makes them."""
        if not self._trusted or self._plain_shape is None or torch.is_inference_mode_enabled():
            k = self.slope(t, y)
        else:
            # What `slope` does for the common field, without its calls: they cost as much as an operation.
            self._counter[0] += 1
            version = y._version
            k = self.f(t, y, *self.args)
            if type(k) is not Tensor or k.shape != out.shape or k.dtype != out.dtype:
                self.layout.leaves(k, "field", y.shape[: y.dim() - len(self._plain_shape)])
            if y._version != version:
                raise ValueError(IN_PLACE)
        if scale is None:
            out.copy_(k)
        else:
            torch.mul(k, scale, out=out)
        return k

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        """f, in and out as `shaped` makes them."""
        self._counter[0] += 1
        if self._plain_shape is None:
            lead = y.shape[:-1]
            return self.layout.join(self.layout.leaves(self._call(t, self.layout.unflatten(y)), "field", lead), lead)
        k = self._call(t, y)
        if not isinstance(k, Tensor) or k.shape != y.shape or k.dtype != y.dtype:
            self.layout.leaves(k, "field", y.shape[: y.dim() - len(self._plain_shape)])
        return k

    def _call(self, t: Tensor, state: Any) -> Any:
        """Calls `f` and notices if it changed its argument."""
        if torch.is_inference_mode_enabled():
            return self._evaluate(t, state)
        first = state if isinstance(state, Tensor) else pytree.tree_leaves(state)[0]
        version = first._version
        try:
            out = self.f(t, state, *self.args) if self._trusted else self._evaluate(t, state)
        except RuntimeError as error:
            if "leaf Variable that requires grad is being used in an in-place" in str(error):
                raise ValueError(IN_PLACE) from error
            raise
        if first._version != version:
            raise ValueError(IN_PLACE)
        return out

    def _evaluate(self, t: Tensor, state: Any) -> Any:
        """Calls `f`; one that differentiates itself (a Hamiltonian, a trace) gets inputs that require grad."""
        if not self.differentiates:
            try:
                out = self.f(t, state, *self.args)
                self._trusted = not torch.is_grad_enabled()
                return out
            except RuntimeError as error:
                if "does not require grad" not in str(error):
                    raise
                self.differentiates = True
        if torch.is_grad_enabled():
            state = pytree.tree_map(lambda leaf: leaf if leaf.requires_grad else leaf.detach().requires_grad_(), state)
            return self.f(t, state, *self.args)
        with torch.enable_grad():
            state = pytree.tree_map(lambda leaf: leaf.detach().requires_grad_(), state)
            out = self.f(t, state, *self.args)
        return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, out)
