"""What a gradient method is, and the tensors a field depends on without having been told."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from isocline.engines.eager import Problem, Trajectory
from isocline.field import VectorField
from isocline.solvers import snake_case


class GradientError(RuntimeError):
    """A gradient that cannot be trusted, or that this method does not have.

    Example:
        >>> raise GradientError("names the reason and what to use instead")
        Traceback (most recent call last):
        ...
        isocline.gradients.base.GradientError: names the reason and what to use instead
    """


@dataclass(frozen=True)
class Gradient:
    """One way back. Subclasses are frozen dataclasses with `run`; making one registers its name in snake case.

    Example:
        >>> from isocline.gradients import Gradient, Checkpointed
        >>> Gradient.registry["checkpointed"]() == Checkpointed()
        True
    """

    registry: ClassVar[dict[str, type[Gradient]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Gradient.registry[snake_case(cls.__name__)] = cls

    def run(self, problem: Problem, y0: Tensor) -> Trajectory:
        """Solves, and leaves `ys` (and the dense output) differentiable."""
        raise NotImplementedError


@dataclass
class Inputs:
    """Everything besides y0 a solve is differentiable in.

    Attributes:
        args: the tensors of `args` that take part, in order.
        parameters: leaves `f` reaches by itself: of modules, closures, globals.
        field: `f` bound to stand-ins of the args, so that a graph through it ends at them.
        stand_ins: those, parallel to `args`.
        saved: bytes that the graph of one evaluation keeps alive, beside y and the parameters.
    """

    args: list[Tensor]
    parameters: list[Tensor]
    field: VectorField
    stand_ins: list[Tensor]
    saved: int = 0

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.args, *self.parameters]

    @property
    def sources(self) -> list[Tensor]:
        """What to differentiate with respect to, parallel to `tensors`."""
        return [*self.stand_ins, *self.parameters]

    @staticmethod
    def of(problem: Problem, y0: Tensor) -> Inputs:
        """Finds them, with one evaluation of `f` at the start.

        Parameters are the union of what the field's modules, closure and globals hold and of the leaves found by
        walking the graph of that evaluation: the first misses what is hidden in other objects, the second misses
        branches not taken at the start.
        """
        leaves, spec = pytree.tree_flatten(problem.field.args)
        active = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        args = [leaves[i] for i in active]
        stand_ins = [leaf.detach().requires_grad_() for leaf in args]
        for i, stand_in in zip(active, stand_ins, strict=True):
            leaves[i] = stand_in
        field = problem.field.with_args(pytree.tree_unflatten(leaves, spec))
        known = {id(p): p for p in _held(problem) if p.requires_grad and p.is_leaf}
        start = y0.detach().clone().requires_grad_()
        t0 = torch.tensor(problem.ts[0], dtype=torch.float64) if y0.dim() == 1 else problem.ts[:, 0]
        saved = SavedBytes()
        with torch.enable_grad(), saved:
            slope = field.at(t0, start)
        known.update((id(p), p) for p in graph_leaves(slope))
        problem.start = start, slope
        problem.field.differentiates = field.differentiates
        for other in (start, *stand_ins):
            known.pop(id(other), None)
        parameters = list(known.values())
        return Inputs(args, parameters, field, stand_ins, saved.beside([start, *stand_ins, *parameters]))


def _held(problem: Problem) -> Iterator[Tensor]:
    """What the field holds, and a solver's learned correction."""
    yield from reachable(problem.field.f)
    correction = getattr(problem.solver, "correction", None)
    if correction is not None:
        yield from reachable(correction)


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts, by storage, what autograd saves inside."""

    def __init__(self) -> None:
        sizes: dict[int, int] = {}

        def count(x: Tensor) -> Tensor:
            if x._is_zerotensor():  # a tangent in f that is zero: without memory
                return x.detach()
            storage = x.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return x.detach()  # x itself would keep the node alive that keeps x

        self.sizes = sizes
        super().__init__(count, lambda x: x)

    def beside(self, known: Iterable[Tensor]) -> int:
        """Bytes of all storages but those of `known`."""
        own = {x.untyped_storage().data_ptr() for x in known}
        return sum(size for pointer, size in self.sizes.items() if pointer not in own)


def graph_leaves(output: Tensor) -> Iterator[Tensor]:
    """The leaf tensors that require grad in the autograd graph of `output`."""
    stack = [output.grad_fn]
    seen = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        stack.extend(parent for parent, _ in node.next_functions)


def reachable(f: Callable[..., Any]) -> Iterable[Tensor]:
    """Tensors and parameters of modules that a callable holds: itself, bound self, closure, defaults, globals it names."""
    seen: set[int] = set()
    found: list[Tensor] = []
    # A list of what to look at, not a function that calls itself: that one would be a cycle, and keep `found` alive.
    stack: list[tuple[Any, int]] = [(f, 0)]
    while stack:
        thing, depth = stack.pop()
        if id(thing) in seen or depth > 4:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found.append(thing)
        else:
            if isinstance(thing, nn.Module):
                found.extend(thing.parameters())
            stack.extend((child, depth + 1) for child in reversed(_held_by(thing)))
    return found


def _held_by(thing: Any) -> list[Any]:
    if isinstance(thing, nn.Module):
        return [value for module in thing.modules() for value in vars(module).values()]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if inspect.ismethod(thing):
        return [thing.__self__, thing.__func__]
    if inspect.isfunction(thing):
        names = inspect.getclosurevars(thing) if _has_cells_filled(thing) else None
        values = [] if names is None else [*names.nonlocals.values(), *names.globals.values()]
        return [*values, *(thing.__defaults__ or ())]
    if isinstance(thing, (list, tuple)):
        return list(thing[:1000])
    if isinstance(thing, dict):
        return list(thing.values())[:1000]
    if not isinstance(thing, type) and callable(thing) and hasattr(thing, "__dict__"):
        return [vars(thing)]
    return []


def _has_cells_filled(function: Any) -> bool:
    try:
        return all(cell.cell_contents is not None or True for cell in function.__closure__ or ())
    except ValueError:
        return False


def add_up(totals: list[Tensor | None], parts: Iterable[Tensor | None]) -> None:
    """totals += parts in place, None meaning zero."""
    for i, part in enumerate(parts):
        if part is not None:
            total = totals[i]
            totals[i] = part if total is None else total + part
