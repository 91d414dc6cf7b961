"""A field made ready for the machine: traced once, checked before use, and again where it may have changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.engines.fused.lanes import LANES, CannotFuseError
from isocline.engines.fused.native import evaluate
from isocline.engines.fused.program import execute
from isocline.engines.fused.trace import Traced, trace
from isocline.field import VectorField
from isocline.inputs import Driven


@dataclass
class Prepared:
    """A field for one solve.

    Attributes:
        traced: its program.
        further: what it is handed for each sample, (B, …) each, beside
        signals: (knots, coefficients) of its inputs, as `Signal.table` makes them, whose values come before these.
        leaves: the program's leaves as they are now, with their graphs.
    """

    traced: Traced
    further: list[Tensor]
    leaves: list[Tensor]
    signals: list[tuple[Tensor, Tensor]]


@dataclass
class _Kept:
    """A program, and the leaves of autograd's graph that the field reached when it was made."""

    traced: Traced
    reached: frozenset[int]


KEPT: WeakKeyDictionary[Any, dict[Any, _Kept]] = WeakKeyDictionary()  # by field; they go with it


def prepare(field: VectorField, t: Tensor, y: Tensor) -> Prepared:
    """The field as a program.

    Arguments whose first dimension is the batch's may be per-sample or not: the reading under which three samples alone have the
    slopes they have in the batch is right.

    Raises:
        CannotFuseError: naming what cannot be.
    """
    anchor, signals = field.f, []
    if isinstance(field.f, Driven):
        anchor, (field, signals) = field.f.field, _undriven(field, t)
    leaves = pytree.tree_leaves(field.args)
    batched = {i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.dim() and x.shape[0] == len(y)}
    refused: list[CannotFuseError] = []
    for own in dict.fromkeys((tuple(sorted(batched | field.batch_args)), tuple(sorted(field.batch_args)))):
        try:
            found = _Reading(field, t, y, own, anchor).prepared()
        except CannotFuseError as error:
            refused.append(error)
        else:
            return Prepared(found.traced, found.further[len(signals) :], found.leaves, signals)
    raise refused[0]


def _undriven(field: VectorField, t: Tensor) -> tuple[VectorField, list[tuple[Tensor, Tensor]]]:
    """A driven field as one of the values of its signals, which are its first arguments; and their tables."""
    driven: Any = field.f
    tables, *args = field.args
    if any(knots.requires_grad for knots, _ in tables):
        raise CannotFuseError("the fused engine cannot take inputs whose knots are to be learned")
    if any(table.is_complex() for _, table in tables):
        raise CannotFuseError("the fused engine cannot take complex inputs")
    values = driven.values(t.to(field.time_dtype).view(-1, *field.time_tail), tables)
    count = len(t)
    values = [u.detach().expand(count, *u.shape[1:]) for u in values]
    own = len(values)
    plain = VectorField(
        lambda t, y, *us: driven.field(t, y, pytree.tree_unflatten(list(us[:own]), driven.spec), *us[own:]),
        field.layout,
        (*values, *args),
    )
    shift = own - len(pytree.tree_leaves(tables))
    plain.batch_args = frozenset(range(own)) | {i + shift for i in field.batch_args if i + shift >= own}
    dtype = field.layout.dtype
    return plain, [(knots.detach(), table.to(dtype)) for knots, table in tables]


class _Reading:
    """A field on three samples, where the arguments `own` have a row for each sample and the other tensors none."""

    def __init__(self, field: VectorField, t: Tensor, y: Tensor, own: tuple[int, ...], anchor: Any) -> None:
        self.field, self.y, self.own, self.anchor = field, y, own, anchor
        self.args, self.spec = pytree.tree_flatten(field.args)
        self.common = tuple(i for i, x in enumerate(self.args) if isinstance(x, Tensor) and i not in own)
        self.further, self.shared = ([self.args[i] for i in which] for which in (own, self.common))
        self.times = t.to(field.time_dtype).view(-1, *field.time_tail)
        self.some = torch.arange(LANES) % len(y)
        self.given = [x.detach()[self.some] for x in (self.times, y, *self.further)]

    def slope(self, t: Tensor, y: Tensor, *tensors: Tensor) -> Tensor:
        """f, the tensors among its arguments handed over: those of the samples, then the common ones."""
        read = list(self.args)
        for i, value in zip((*self.own, *self.common), tensors, strict=True):
            read[i] = value
        return self.field.with_args(pytree.tree_unflatten(read, self.spec))(t, y)

    def prepared(self) -> Prepared:
        """With the program that was made before, where it is still the field's."""
        kept, key = self._kept()
        found = kept.get(key)
        if found is not None:
            leaves = found.traced.prologue(self.shared)
            if self._still(found, leaves):
                return Prepared(found.traced, self.further, leaves, [])
        # With the same graphs behind them as they have.
        shared = [x.detach().requires_grad_(x.requires_grad) for x in self.shared]
        traced = trace(self.slope, self.given[0], self.given[1], self.given[2:], shared)
        self._check(traced, shared)
        # What is computed anew for each solve, outside of it, is found again by tracing alone.
        if not any(x.grad_fn is not None for x in traced.held()):
            kept[key] = _Kept(traced, self._reached())
        return Prepared(traced, self.further, traced.prologue(self.shared), [])

    def _kept(self) -> tuple[dict[Any, _Kept], Any]:
        others = tuple((type(x), x) for x in self.args if not isinstance(x, Tensor))
        shapes = tuple((x.shape, x.dtype, x.requires_grad) for x in (*self.given, *self.shared))
        key = (self.spec, self.own, others, shapes, self.field.layout)
        try:
            hash(key)
            return KEPT.setdefault(self.anchor, {}), key
        except TypeError:  # what can be no key, or not be referred to weakly, is traced each time
            return {}, None

    def _alone(self) -> Tensor:
        """f, with the graph of what it holds alone."""
        return self.slope(*self.given, *(x.detach() for x in self.shared))

    def _reached(self) -> frozenset[int]:
        """The leaves of autograd's graph that f, with nothing handed over, hangs on."""
        with torch.enable_grad():
            return reached(self._alone())

    def _still(self, kept: _Kept, leaves: list[Tensor]) -> bool:
        """Whether a program made before is the field as it is now: a mode, an attribute, a parameter may be another."""
        want = self._alone()
        names = [name for name, _, _ in kept.traced.program.inputs]
        inputs = {name: x.to(want.dtype) for name, x in zip(names, self.given, strict=True)}
        got, _ = evaluate(kept.traced.encoded, inputs, leaves)
        same = not torch.is_grad_enabled() or reached(want) == kept.reached
        return same and near([got["dy"]], [want.detach()])

    def _check(self, traced: Traced, shared: Sequence[Tensor]) -> None:
        """CannotFuseError where a program computes something else than the field, or its derivative than autograd.

        The field may treat three samples otherwise than all, or hide something from autograd, or from the tracer.
        """
        with torch.no_grad():
            whole = self.field(self.times, self.y)[self.some]
            same = near([self._alone()], [whole])
        if not (same and self._agrees(traced, shared)):
            raise CannotFuseError("the field cannot be fused: its program computes something else than it does")

    @torch.enable_grad()
    def _agrees(self, traced: Traced, shared: Sequence[Tensor]) -> bool:
        inputs = [x.clone().requires_grad_() for x in self.given]
        want = self.slope(*inputs, *shared)
        leaves = traced.prologue(shared)
        plain = [leaf.detach() for leaf in leaves]
        names = [name for name, _, _ in traced.program.inputs]
        flat = {name: x.detach().reshape(LANES, -1).to(self.y.dtype) for name, x in zip(names, inputs, strict=True)}
        got, _ = execute(traced.program, flat, plain)
        if not near([got["dy"]], [want.detach()]):
            return False
        if not want.requires_grad:
            return True
        rest = [x for x in (*traced.held(), *shared) if x.requires_grad]
        g = torch.linspace(0.5, 1.5, want.numel(), dtype=want.dtype).view_as(want)
        exact = torch.autograd.grad(want, [*inputs, *rest], g, materialize_grads=True, retain_graph=True)
        found, collected = execute(traced.derivative, {**flat, "g": g}, plain)
        ours = [found[name].view_as(x) for name, x in zip(names, inputs, strict=True)]
        moving = [(leaf, part) for leaf, part in zip(leaves, collected, strict=True) if leaf.requires_grad]
        if rest:
            outputs, cotangents = [leaf for leaf, _ in moving], [part for _, part in moving]
            ours += (
                torch.autograd.grad(outputs, rest, cotangents, materialize_grads=True, retain_graph=True)
                if outputs
                else [torch.zeros_like(x) for x in rest]
            )
        return near(ours, exact)


def reached(x: Tensor) -> frozenset[int]:
    """The identities of the leaves of autograd's graph that a tensor hangs on.

    Example:
        >>> a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        >>> reached(a * 2) == {id(a)}, reached((a + b).detach())
        (True, frozenset())
    """
    waiting, seen, found = [x.grad_fn], set(), set()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [before for before, _ in node.next_functions]
    return frozenset(found)


def near(ours: Sequence[Tensor], exact: Sequence[Tensor]) -> bool:
    """Whether tensors agree but for rounding: each in units of its own size, and what is nothing but the rounding of the
    largest of them left out.

    Example:
        >>> near([torch.tensor([1e-6])], [torch.tensor([1.1e-6])]), near([torch.tensor(1.0)], [torch.tensor(1.00001)])
        (False, True)
    """
    sizes = [float(b[b.isfinite()].abs().max()) if bool(b.isfinite().any()) else 0.0 for b in exact]
    for a, b, size in zip(ours, exact, sizes, strict=True):
        eps = torch.finfo(b.dtype).eps
        slack = 1e4 * eps * max(size, eps**0.5 * max(sizes))
        finite = b.isfinite()
        if not torch.equal(a.isfinite(), finite) or bool(((a - b)[finite].abs() > slack).any()):
            return False
    return True
