"""A solve by the fused engine as one operator of a graph, for `torch.compile` and `torch.export`.

The field is traced while the graph is made, with its parameters as arguments; what is computed of these alone stays outside
of the operator, as operations of the graph, and so do their gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from isocline.control import Controller
from isocline.engines.fused.lanes import CannotFuseError
from isocline.field import Layout, VectorField
from isocline.gradients import operators
from isocline.solution import Solution, Stats
from isocline.solvers import RungeKutta

MOST = 10_000  # numbers that a field holds as a constant
HOLDS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)  # 2.11's compiler fails over what `told` tells
FIELDS = ("inputs", "doses", "events", "dense", "save", "observer", "progress", "jump_ts")
Recipe = tuple[tuple[Any, ...], ...]  # (operation, its arguments), each result the next of the values
__all__ = ["describe", "fits", "operators", "solve_in_graph"]


def fits(field: Any, engine: Any, given: dict[str, Any]) -> bool:
    """Whether a solve can be an operator of a graph that is being made: of a module, with nothing that looks on.

    Others stay outside of compiled graphs, and all do with PyTorch before 2.13.
    """
    plain = not any(given.get(name) is not None and given.get(name) is not False for name in FIELDS)
    return (
        HOLDS and engine == "fused" and plain and isinstance(field, nn.Module) and given.get("batching") == "per_sample"
    )


def solve_in_graph(told: Callable[..., Any], field: Any, y0: Tensor, ts: Any, args: tuple[Any, ...]) -> Solution:
    """The solve.

    Args:
        told: (field, shape, dtype, example arguments) to what `describe` returns; called while the graph is made.
        field, y0, ts, args: as to `solve`.
    """
    if not isinstance(y0, Tensor) or y0.dim() < 2:
        raise CannotFuseError("engine='fused' in a graph: y0 must be one tensor with a batch as first dimension")
    if isinstance(ts, Tensor) and ts.requires_grad:
        raise CannotFuseError("engine='fused' in a graph: ts requires grad, which an operator has not; use ts.detach()")
    leaves = list(args)
    given = tuple(
        (tuple(x.shape[1:] if _own(x, y0) else x.shape), x.dtype, _own(x, y0)) if isinstance(x, Tensor) else x
        for x in leaves
    )
    what, names, recipe, picked = told(field, tuple(y0.shape[1:]), y0.dtype, given)
    if torch.compiler.is_dynamo_compiling():
        # Its result is not used: so that the graph is made anew where anything that the field hangs on is another.
        field(torch.zeros_like(y0[:, :1]).reshape(-1, *[1] * (y0.dim() - 1)), y0, *args)
    common = [x for x in leaves if isinstance(x, Tensor) and not _own(x, y0)]
    further = [x for x in leaves if isinstance(x, Tensor) and _own(x, y0)]
    held = [_named(field, name) for name in names]
    values = play(recipe, [*common, *held])
    found = [values[i].reshape(-1).to(y0.dtype) for i in picked]
    clock = ts if isinstance(ts, Tensor) else torch.tensor(ts, dtype=torch.float64)
    tape = torch.is_grad_enabled() and any(x.requires_grad for x in (y0, *further, *found))
    ys, counts, _ = torch.ops.isocline.tile_solve(y0, clock, further, found, what, tape)
    stats: Any = Stats(counts[3], counts[1], counts[2])
    return Solution(clock, ys, stats, counts[0])


def _own(x: Tensor, y0: Tensor) -> bool:
    return x.dim() > 0 and x.shape[0] == y0.shape[0]


def _named(module: Any, name: str) -> Tensor:
    for part in name.split("."):
        module = getattr(module, part)
    return module


# ---- while the graph is made --------------------------------------------------------------------------------------------
def describe(
    field: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    given: tuple[Any, ...],
    solver: RungeKutta,
    controller: Controller,
    step_ts: list[float],
    max_steps: int,
    throw: bool,
) -> tuple[str, tuple[str, ...], Recipe, tuple[int, ...]]:
    """What the operator is told; names of the tensors that the field holds; how the leaves come from these.

    Args:
        field: a module.
        shape: of a sample's state.
        given: of every argument of the field (shape, dtype, whether each sample has its own), or itself.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    from isocline.engines.fused.described import Described
    from isocline.engines.fused.prepare import made_anew

    named = {**dict(field.named_parameters()), **dict(field.named_buffers())}
    # torch.export watches the grad mode through a mode of torch functions, and would put its changes into the graph.
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.random.fork_rng(devices=[]):
        stand_ins = {name: _real(name, x) for name, x in named.items()}
        batch = next(n for n in itertools.count(5) if all(n not in x.shape[:1] for x in stand_ins.values()))
        examples = [_example(x, batch) for x in given]
        own = [i for i, x in enumerate(given) if isinstance(x, tuple) and len(x) == 3 and x[2] is True]

        def called(t: Tensor, y: Tensor, *args: Any) -> Tensor:
            held = dict(zip(stand_ins, args[len(examples) :], strict=True))
            return torch.func.functional_call(field, held, (t, y, *args[: len(examples)]))

        y = torch.randn(batch, *shape, dtype=dtype)
        vector_field = VectorField(called, Layout.of(y, per_sample=True), (*examples, *stand_ins.values()))
        t = torch.linspace(0.1, 0.9, batch, dtype=torch.float64)
        traced = made_anew(vector_field, t, y.reshape(batch, -1), own).traced
        told = Described(traced.program, len(own), solver, controller, step_ts, max_steps, throw)
        recipe, picked = _recipe(traced)
        return told.text(), tuple(stand_ins), recipe, picked


def _real(name: str, x: Tensor) -> Tensor:
    """A tensor of numbers in the place of one that the field holds, which may have none here."""
    if type(x) in (Tensor, nn.Parameter):
        return x.detach().clone().requires_grad_(x.requires_grad)
    if not x.is_floating_point():
        raise CannotFuseError(f"engine='fused' under torch.export: the field's {name} is no real number")
    return torch.rand(tuple(x.shape), dtype=x.dtype).requires_grad_(x.requires_grad)


def _example(given: Any, batch: int) -> Any:
    if not (isinstance(given, tuple) and len(given) == 3 and isinstance(given[1], torch.dtype)):
        return given
    shape, dtype, own = given
    return torch.rand((batch, *shape) if own else shape).to(dtype)


def _recipe(traced: Any) -> tuple[Recipe, tuple[int, ...]]:
    """How the leaves are computed of the tensors handed over, and which of the values they are."""
    known = {node: i for i, node in enumerate(traced.shared)}
    made: list[tuple[Any, ...]] = []

    def of(value: Any) -> Any:
        return ("value", known[value]) if isinstance(value, torch.fx.Node) else value

    needed, waiting = set(), [leaf.node for leaf in traced.leaves]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    for node in traced.graph.graph.nodes:
        if node not in needed or node in known:
            continue
        if node.op == "get_attr":
            made.append(("constant", *_numbers(getattr(traced.graph, str(node.target)))))
        else:
            spec = pytree.tree_map(
                of, (tuple(node.args), dict(node.kwargs)), is_leaf=lambda x: isinstance(x, torch.fx.Node)
            )
            made.append((*_operation(node), _frozen(spec[0]), tuple(sorted(spec[1].items()))))
        known[node] = len(traced.shared) + len(made) - 1
    picked = []
    for leaf in traced.leaves:
        if leaf.index is None:
            picked.append(known[leaf.node])
            continue
        made.append(("entries", known[leaf.node], tuple(leaf.index.tolist())))
        picked.append(len(traced.shared) + len(made) - 1)
    return tuple(made), tuple(picked)


def _operation(node: torch.fx.Node) -> tuple[str, str, str]:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return ("item", "", "")
    _, name = node.target.name().split("::")
    return ("call", name.split(".")[0], node.target._overloadname)


def _numbers(x: Tensor) -> tuple[Any, ...]:
    if x.numel() > MOST or x.requires_grad:
        raise CannotFuseError(
            "engine='fused' in a graph: the field uses a tensor that is no parameter or buffer of it; register it as one"
        )
    return tuple(x.reshape(-1).tolist()), tuple(x.shape), x.dtype


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def play(recipe: Recipe, tensors: Sequence[Tensor]) -> list[Tensor]:
    """All values: the tensors, then the result of every operation of a recipe."""
    values: list[Any] = list(tensors)

    def of(x: Any) -> Any:
        if isinstance(x, tuple):
            return values[x[1]] if len(x) == 2 and x[0] == "value" else [of(part) for part in x]
        return x

    for one in recipe:
        if one[0] == "constant":
            values.append(torch.tensor(one[1], dtype=one[3]).reshape(one[2]))
        elif one[0] == "entries":
            values.append(values[one[1]].reshape(-1)[torch.tensor(one[2])])
        elif one[0] == "item":
            values.append(of(one[3][0])[one[3][1]])
        else:
            operation = getattr(getattr(torch.ops.aten, one[1]), one[2])
            values.append(operation(*[of(x) for x in one[3]], **{name: of(x) for name, x in one[4]}))
    return values
