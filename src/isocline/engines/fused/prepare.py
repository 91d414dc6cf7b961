"""A field made ready for the machine: traced once, checked before use, and again where it may have changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.engines.fused.agreement import near, reached
from isocline.engines.fused.kept import MISSES, Kept
from isocline.engines.fused.lanes import LANES, CannotFuseError
from isocline.engines.fused.native import evaluate
from isocline.engines.fused.nodes import packet_of
from isocline.engines.fused.program import execute
from isocline.engines.fused.trace import trace
from isocline.engines.fused.traced import Traced
from isocline.engines.fused.watch import Reads, UnwatchedError, Watch, home
from isocline.engines.fused.worth import worth
from isocline.field import VectorField
from isocline.inputs import Driven

aten = torch.ops.aten
PICKS = {aten.index_select, aten.gather, aten.index}
LOCK = threading.RLock()  # a tracer changes what all threads of a process see


@dataclass
class Prepared:
    """A field for one solve.

    Attributes:
        traced: its program.
        further: what it is handed for each sample, (B, …) each, beside
        signals: (knots, coefficients) of its inputs, as `Signal.table` makes them, whose values come before these.
        leaves: the program's leaves as they are now, with their graphs.
        kept: what tells at the next solve whether the program still is the field's; None where that takes more.
        own, common: which of the field's arguments these come from: tensors with a row for each sample, and without.
    """

    traced: Traced
    further: list[Tensor]
    leaves: list[Tensor]
    signals: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    kept: Kept | None = None
    own: tuple[int, ...] = ()
    common: tuple[int, ...] = ()


KEPT: WeakKeyDictionary[Any, dict[Any, Kept]] = WeakKeyDictionary()  # by field; they go with it


def prepare(field: VectorField, t: Tensor, y: Tensor) -> Prepared:
    """The field as a program.

    Arguments whose first dimension is the batch's may be per-sample or not: the reading under which three samples alone have the
    slopes they have in the batch is right.

    Raises:
        CannotFuseError: naming what cannot be.
    """
    if not field.args:
        return _Reading(field, t, y, ()).prepared()
    f, signals = field.f, []
    if driven := isinstance(f, Driven):
        f, (field, signals) = f.field, _undriven(field, t)
    leaves = pytree.tree_leaves(field.args)
    batched = {i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.dim() and x.shape[0] == len(y)}
    refused: list[CannotFuseError] = []
    for own in dict.fromkeys((tuple(sorted(batched | field.batch_args)), tuple(sorted(field.batch_args)))):
        try:
            found = _Reading(field, t, y, own, f).prepared()
        except CannotFuseError as error:
            refused.append(error)
        else:
            return Prepared(found.traced, found.further[len(signals) :], found.leaves, signals) if driven else found
    raise refused[0]


def made_anew(field: VectorField, t: Tensor, y: Tensor, own: Sequence[int]) -> Prepared:
    """A program that nobody keeps, of a field of which the arguments `own` have a row for each sample.

    Raises:
        CannotFuseError: naming what cannot be.
    """
    with LOCK:
        return _Reading(field, t, y, tuple(own))._made({}, ())


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
    plain.optional, plain.common_times = field.optional, field.common_times
    dtype = field.layout.dtype
    return plain, [(knots.detach(), table.to(dtype)) for knots, table in tables]


class _Reading:
    """A field on three samples, where the arguments `own` have a row for each sample and the other tensors none."""

    def __init__(
        self, field: VectorField, t: Tensor, y: Tensor, own: tuple[int, ...], f: Callable[..., Any] | None = None
    ) -> None:
        """`f`: what it is known by, where that is not the field's function."""
        self.field, self.t, self.y, self.own, self.f = field, t, y, own, f or field.f
        self.args, self.spec = pytree.tree_flatten(field.args) if field.args else ([], None)
        self.common = tuple(i for i, x in enumerate(self.args) if isinstance(x, Tensor) and i not in own)
        self.further, self.shared = ([self.args[i] for i in which] for which in (own, self.common))

    @cached_property
    def times(self) -> Tensor:
        """As f gets them."""
        return self.t.to(self.field.time_dtype).view(-1, *self.field.time_tail)

    @cached_property
    def some(self) -> Tensor:
        """Which samples."""
        return torch.arange(LANES) % len(self.y)

    @cached_property
    def given(self) -> list[Tensor]:
        """Time, state and arguments of three samples."""
        return [x.detach()[self.some] for x in (self.times, self.y, *self.further)]

    @cached_property
    def state(self) -> Tensor:
        """Theirs, as a leaf of a graph: a field that differentiates would otherwise make another each time."""
        return self.given[1].detach().requires_grad_()

    def slope(self, t: Tensor, y: Tensor, *tensors: Tensor) -> Tensor:
        """f, the tensors among its arguments handed over: those of the samples, then the common ones."""
        if self.spec is None:
            return self.field(t, y)
        read = list(self.args)
        for i, value in zip((*self.own, *self.common), tensors, strict=True):
            read[i] = value
        return self.field.with_args(pytree.tree_unflatten(read, self.spec))(t, y)

    def prepared(self) -> Prepared:
        """With its program."""
        prepared = self._prepared()
        if self.field.common_times is not None and not self._is_worth(prepared):
            raise CannotFuseError(
                f"of {len(self.y)} samples the eager engine is quicker: it computes for all at once what they have in common"
            )
        return prepared

    def _is_worth(self, prepared: Prepared) -> bool:
        known, count = {} if prepared.kept is None else prepared.kept.worth, len(self.y)
        if count not in known:
            known[count] = worth(
                prepared.traced.program, lambda: self.field(self._two_times()[0], self.y), count, self.y.dtype
            )
        return known[count]

    def _prepared(self) -> Prepared:
        """With the program that was made before, where it is still the field's."""
        kept, key = self._kept()
        found, f, count = kept.get(key), self.f, len(self.y)
        if found is not None and found.refused and self.field.optional and (found.watch is None or found.sure(f)):
            raise CannotFuseError(found.refused)
        if found is not None and found.traced is not None and found.sure(f) and count in found.sizes:
            return self._with(found)
        with LOCK:
            return self._looked_at(kept, key, found)

    def _looked_at(self, kept: dict[Any, Kept], key: Any, found: Kept | None) -> Prepared:
        """The same, where that takes a look at the field."""
        f, count = self.f, len(self.y)
        if found is not None and found.traced is not None:
            if found.sure(f):
                self._check_size()
                found.sizes.add(count)
                return self._with(found)
            leaves = found.traced.prologue(self.shared)
            if count in found.sizes and self._still(found, leaves):
                self._look(found)
                return self._with(found)
        try:
            return self._made(kept, key)
        except CannotFuseError as error:
            kept[key] = Kept(refused=str(error))
            kept[key].look(f)
            raise
        except Exception as error:
            kept[key] = Kept(refused=f"the field could not be traced: {error}")
            kept[key].look(f)
            raise CannotFuseError(kept[key].refused) from error

    def _made(self, kept: dict[Any, Kept], key: Any) -> Prepared:
        """Traced anew."""
        if self.field.optional and key is None:
            raise CannotFuseError("what the field is, or is handed, cannot be looked up: it would be traced each time")
        shared = self._stand_ins()
        before = self._watched()
        traced = trace(self.slope, self.given[0], self.given[1], self.given[2:], shared)
        self._check(traced, shared)
        if self.field.optional and before is not None and not before.holds():
            raise CannotFuseError("the field changes what it holds when it is called, which a native solve would not")
        # What is computed anew for each solve, outside of it, is found again by tracing alone.
        lasting = not any(x.grad_fn is not None for x in traced.held())
        if lasting:
            kept[key] = Kept(traced, self._reached(), sizes={len(self.y)})
            self._look(kept[key])
        elif self.field.optional:
            raise CannotFuseError("the field holds a tensor that is computed anew for each solve; hand it over in args")
        return self._as(traced, traced.prologue(self.shared), kept.get(key) if lasting else None)

    def _with(self, found: Kept) -> Prepared:
        assert found.traced is not None
        return self._as(found.traced, found.leaves(self.shared), found)

    def _as(self, traced: Traced, leaves: list[Tensor], kept: Kept | None) -> Prepared:
        return Prepared(traced, self.further, leaves, kept=kept, own=self.own, common=self.common)

    def _stand_ins(self) -> list[Tensor]:
        """The common arguments with the same graphs behind them as they have."""
        return [x.detach().requires_grad_(x.requires_grad) for x in self.shared]

    def _watched(self) -> Watch | None:
        try:
            return Watch(self.f)
        except UnwatchedError:
            return None

    def _look(self, kept: Kept) -> None:
        """Begins to watch, where what the program is depends on no numbers in tensors."""
        if kept.misses >= MISSES or kept.traced is None:
            return
        with Reads() as reads:
            self._alone()
        if reads.found or any(packet_of(node) in PICKS for node in kept.traced.graph.graph.nodes):
            kept.misses = MISSES
        kept.look(self.f)

    def _kept(self) -> tuple[dict[Any, Kept], Any]:
        others = tuple((type(x), x) for x in self.args if not isinstance(x, Tensor))
        further = tuple((x.shape[1:], x.dtype) for x in self.further)
        shared = tuple((x.shape, x.dtype, x.requires_grad) for x in self.shared)
        layout = self.field.layout
        thing, more = home(self.f)
        key = (
            more, self.spec, self.own, others, further, shared, layout.spec, layout.shapes, layout.dtype,
            torch.get_default_dtype(), self.field.common_times is None,
        )  # fmt: skip
        try:
            hash(key)
            return KEPT.setdefault(thing, {}), key
        except TypeError:  # what can be no key, or not be referred to weakly, is traced each time
            return {}, None

    def _alone(self) -> Tensor:
        """f, with the graph of what it holds, and of the state."""
        t, y, *others = self.given
        return self.slope(t, self.state if torch.is_grad_enabled() else y, *others, *(x.detach() for x in self.shared))

    def _reached(self) -> frozenset[int]:
        """The leaves of autograd's graph that f hangs on, beside what it is handed."""
        with torch.enable_grad():
            return reached(self._alone()) - {id(self.state)}

    def _still(self, kept: Kept, leaves: list[Tensor]) -> bool:
        """Whether a program made before is the field as it is now: a mode, an attribute, a parameter may be another."""
        assert kept.traced is not None
        want = self._alone()
        names = [name for name, _, _ in kept.traced.program.inputs]
        inputs = {name: x.to(want.dtype) for name, x in zip(names, self.given, strict=True)}
        got, _ = evaluate(kept.traced.encoded, inputs, leaves)
        same = not torch.is_grad_enabled() or reached(want) - {id(self.state)} == kept.reached
        return same and near([got["dy"]], [want.detach()])

    def _check(self, traced: Traced, shared: Sequence[Tensor]) -> None:
        """CannotFuseError where a program computes something else than the field, or its derivative than autograd.

        The field may hide something from autograd, or from the tracer.
        """
        self._check_size()
        if not self._agrees(traced, shared):
            raise CannotFuseError("the field cannot be fused: its program computes something else than it does")

    @torch.no_grad()
    def _check_size(self) -> None:
        """The same where it treats three samples otherwise than all, which may hang on how many there are."""
        whole = self.field(self.times, self.y)[self.some]
        for t in self._two_times():
            each, all_ = (self.field(x, self.y) for x in (t.expand_as(self.times), t))
            if not near([each], [all_]):
                raise CannotFuseError("the field takes a time of each sample otherwise than one time for all")
        if not near([self._alone()], [whole]):
            raise CannotFuseError("the field cannot be fused: its program computes something else than it does")

    def _two_times(self) -> Sequence[Tensor]:
        """0-d: the start, and one within."""
        ts = self.field.common_times
        if ts is None:
            return ()
        ts = ts.detach().to(self.times)
        return ts[0], ts[0] + 0.382 * (ts[-1] - ts[0])

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
        # Of sums, here and below: handed cotangents, PyTorch loads a computer algebra to look at their sizes.
        exact = torch.autograd.grad((want * g).sum(), [*inputs, *rest], materialize_grads=True, retain_graph=True)
        found, collected = execute(traced.derivative, {**flat, "g": g}, plain)
        ours = [found[name].view_as(x) for name, x in zip(names, inputs, strict=True)]
        moving = [(leaf, part) for leaf, part in zip(leaves, collected, strict=True) if leaf.requires_grad]
        if rest:
            parts = [(leaf * part).sum() for leaf, part in moving]
            ours += (
                torch.autograd.grad(torch.stack(parts).sum(), rest, materialize_grads=True, retain_graph=True)
                if parts
                else [torch.zeros_like(x) for x in rest]
            )
        return near(ours, exact, float(g.max()))
