"""From a field to a tile program: `torch.fx` traces it for three samples, every operation is lowered to instructions.

What depends on parameters alone stays with PyTorch, as the *prologue*: it is run before each solve, its results are the leaves
of the program, and their gradients go back through it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from isocline.engines.fused.functions import Functions
from isocline.engines.fused.lanes import ANY, LANES, CannotFuseError, Lane, Places, coded, lanes_of, meet, rows_of
from isocline.engines.fused.nodes import (
    MOVES,
    POINTWISE,
    attribute,
    evaluated,
    fill_of,
    mover_of,
    name_of,
    packet_of,
    plain,
    shape_of,
    target_of,
)  # fmt: skip
from isocline.engines.fused.program import Operand, Program, with_biases
from isocline.engines.fused.record import record
from isocline.engines.fused.traced import Leaf, Traced

aten = torch.ops.aten


@dataclass(frozen=True)
class Shared:
    """One that does not: a node of the prologue."""

    node: fx.Node
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Uniform:
    """One number everywhere."""

    value: float
    shape: tuple[int, ...]


def trace(
    f: Callable[..., Tensor], t: Tensor, y: Tensor, inputs: Sequence[Tensor] = (), shared: Sequence[Tensor] = ()
) -> Traced:
    """The program of f.

    Args:
        f: `f(t, y, *inputs, *shared)`, of t (LANES, 1, …), y (LANES, N) and further numbers of each sample, and of tensors that
            all samples are handed, to (LANES, N).
        t, y, inputs, shared: three samples; their values do not matter where no branch hangs on them.

    Raises:
        CannotFuseError: naming the operation that is none of a tile program, or that mixes samples.

    Example:
        >>> y = torch.randn(LANES, 2)
        >>> print(trace(lambda t, y: torch.tanh(y) * t, torch.zeros(LANES, 1), y).program.show())
        r0 = t
        r1..2 = y
        r3..4 = tanh r1..2
        r5..6 = mul r3..4, r0
        dy = r5..6
    """
    try:
        with torch.enable_grad():
            graph = record(f, (t, y, *inputs, *shared), _decompositions())
    except CannotFuseError:
        raise
    except Exception as error:
        raise CannotFuseError(f"the field could not be traced: {error}") from error
    return _Lowering(graph, y.dtype, 2 + len(inputs)).run(shared)


@cache
def _decompositions() -> Any:
    """What operations are made of: PyTorch's table but for those that say so themselves, whose collection takes a tenth of a
    second."""
    table: Any = torch._decomp._core_aten_decompositions_post_autograd()
    return table


class _Lowering(Functions):
    def __init__(self, graph: fx.GraphModule, dtype: torch.dtype, own: int) -> None:
        """`own` placeholders are of the samples."""
        self.graph, self.program, self.own = graph, Program(), own
        self.traced = Traced(self.program, graph, dtype)
        self.values: dict[fx.Node, Any] = {}
        self.loaded: dict[fx.Node, Tensor] = {}
        self.what = ""

    def run(self, shared: Sequence[Tensor]) -> Traced:
        """Node by node; `shared` is what all samples are handed."""
        names = ["t", "y", *(f"u{i}" for i in range(self.own - 2))][::-1]
        live = self._live()
        for node in self.graph.graph.nodes:
            self.what = name_of(node)
            if node.op != "placeholder" and node not in live:
                continue
            if node.op == "placeholder" and names:
                self.values[node] = self._input(names.pop(), node.meta["val"])
            elif node.op == "placeholder":
                self.traced.shared.append(node)
                self.values[node] = Shared(node, shape_of(node))
            elif node.op == "get_attr":
                self.values[node] = Shared(node, tuple(attribute(self.graph, str(node.target)).shape))
            elif node.op == "output":
                self._output(node.args[0])
            else:
                self.values[node] = self._call(node)
        with_biases(self.program)
        self.program.leaves = [
            math.prod(self._shape_of(self.values[leaf.node])) if leaf.index is None else len(leaf.index)
            for leaf in self.traced.leaves
        ]
        return self.traced

    def _live(self) -> set[fx.Node]:
        """What the result hangs on; CannotFuseError for an operation that writes where somebody else reads.

        Autograd inside the field begins with a sum over samples of which only the shape matters, for one.
        """
        for node in self.graph.graph.nodes:
            mutable = node.op == "call_function" and hasattr(node.target, "_schema") and node.target._schema.is_mutable
            if mutable and not (packet_of(node) in MOVES | {aten.copy_} and len(node.all_input_nodes[0].users) == 1):
                raise CannotFuseError(f"{name_of(node)} writes into a tensor; use the operation that makes a new one")
        waiting, live = [next(n for n in self.graph.graph.nodes if n.op == "output")], set()
        while waiting:
            node = waiting.pop()
            if node not in live:
                live.add(node)
                waiting += [] if fill_of(node) is not None else node.all_input_nodes
        return live

    def _input(self, name: str, example: Tensor) -> Lane:
        count = example.numel() // LANES
        first = self.program.take(count)
        self.program.inputs.append((name, first, count))
        lanes = torch.arange(LANES).unsqueeze(1)
        return Lane(coded(first + torch.arange(count).unsqueeze(0), lanes).view(example.shape))

    def _output(self, node: Any) -> None:
        value = self.values[node]
        shape = tuple(node.meta["val"].shape) if not isinstance(value, Lane) else tuple(value.code.shape)
        code = self._code(value).expand(shape).reshape(LANES, -1)
        lanes, rows = lanes_of(code), rows_of(code)
        if not bool(((lanes == ANY) | (lanes == torch.arange(LANES).unsqueeze(1))).all()):
            raise CannotFuseError("the result mixes samples of the batch, or orders them anew")
        if bool((rows != rows[0]).any()):
            raise CannotFuseError("the result treats samples differently")
        self.program.outputs.append(("dy", tuple(rows[0].tolist())))

    # ---- operations -----------------------------------------------------------------------------------------------
    def _call(self, node: fx.Node) -> Any:
        target, packet = target_of(node), packet_of(node)
        if (fill := fill_of(node)) is not None:
            return Uniform(fill, shape_of(node))
        mapped: Any = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        args, kwargs = mapped
        if target is operator.getitem:
            return args[0][args[1]] if isinstance(args[0], (list, tuple)) else Shared(node, shape_of(node))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise CannotFuseError(f"{self.what} draws random numbers")
        if not any(isinstance(x, Lane) for x in leaves):
            if packet in MOVES:
                return (
                    Uniform(args[0].value, shape_of(node))
                    if isinstance(args[0], Uniform)
                    else Shared(node, shape_of(node))
                )
            if not any(self._repeats(x) for x in leaves):
                return Shared(node, shape_of(node))
            # One row for each sample, all alike, perhaps: computed among the rows, where it shows.
            args = torch.utils._pytree.tree_map(lambda x: Lane(self._code(x)) if self._repeats(x) else x, args)
        if packet in MOVES:
            return self._move(node, args, kwargs)
        if packet in POINTWISE:
            if (kwargs or len(args) > 2) and kwargs.get("alpha", 1) != 1:
                args = (args[0], self.pointwise("mul", args[1], kwargs["alpha"]))
            if kwargs.get("rounding_mode") is not None:
                raise CannotFuseError(f"{self.what} with rounding_mode={kwargs['rounding_mode']!r} is not supported")
            return self.pointwise(POINTWISE[packet], *args)
        made = getattr(self, f"_{packet.__name__.strip('_')}", None)
        if made is None:
            raise CannotFuseError(f"{self.what} is not supported")
        return made(*args, **kwargs)

    def _repeats(self, value: Any) -> bool:
        """Whether a tensor that no sample enters holds a number several times, as one expanded over samples does."""
        if isinstance(value, Shared):
            entries = self._source(value)[1]
            return len(entries.unique()) < entries.numel()
        return isinstance(value, Uniform) and math.prod(value.shape) > 1

    def _move(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        def code(value: Any) -> Any:
            return self._code(value) if isinstance(value, (Lane, Shared, Uniform)) else value

        if packet_of(node) in (aten.index_select, aten.gather, aten.index):
            moved = [self._code(args[0]), *torch.utils._pytree.tree_map(self._constant, list(args[1:]))]
            return Lane(target_of(node)(*moved))
        args, kwargs = torch.utils._pytree.tree_map(code, (list(args), dict(kwargs)))
        out = mover_of(node)(*args, **plain(kwargs))
        return Lane(out) if isinstance(out, Tensor) else [Lane(one) for one in out]

    def _constant(self, value: Any) -> Any:
        """An index: its numbers, where they are none of the samples'."""
        if isinstance(value, Lane):
            raise CannotFuseError(f"{self.what} picks by numbers of the sample")
        if isinstance(value, Shared):
            return evaluated(value.node, self.graph, {})
        return value

    def pointwise(self, op: str, *operands: Any) -> Lane:
        """Number by number, broadcast."""
        # Not torch.broadcast_shapes: that loads a computer algebra first, for sizes that are symbols.
        number = torch.empty(())
        shape = torch.broadcast_tensors(*(number.expand(self._shape_of(x)) for x in operands))[0].shape
        lanes = [lanes_of(x.code).expand(shape).reshape(-1) for x in operands if isinstance(x, Lane)]
        out = torch.empty(math.prod(shape), dtype=torch.int64)
        for where, places in Places.among(meet(torch.stack(lanes, 1), self.what), self.what):
            read = [self._read(x, shape, where, places) for x in operands]
            # What is computed several times from the same numbers is computed once.
            columns = list(zip(*(numbers for _, numbers in read), strict=True))
            first = {column: i for i, column in reversed(list(enumerate(columns)))}
            distinct = sorted(first.values())
            place = {columns[i]: k for k, i in enumerate(distinct)}
            found = [make([numbers[i] for i in distinct]) for make, numbers in read]
            row = self.program.add(op, len(distinct), *found)
            out[where] = places.codes(torch.tensor([row + place[column] for column in columns]))
        return Lane(out.view(shape))

    def _read(
        self, x: Any, shape: Sequence[int], where: Tensor, places: Places
    ) -> tuple[Callable[[list[int]], Operand], list[int]]:
        """How to make an operand of some of its numbers, and these, one for every entry of a sample's result."""
        if isinstance(x, (int, float, bool, Uniform)):
            number = Operand("number", value=x.value if isinstance(x, Uniform) else float(x))
            return lambda _: number, [0] * places.at.shape[1]
        if isinstance(x, Lane):
            return self._rows, places.template(rows_of(x.code).expand(tuple(shape)).reshape(-1)[where], self.what)
        node, entries = self._source(x)
        numbers = places.template(entries.expand(tuple(shape)).reshape(-1)[where], self.what)
        return lambda chosen: self._entries(node, chosen), numbers

    def _rows(self, rows: list[int]) -> Operand:
        """An operand that reads these rows."""
        if len(set(rows)) == 1:
            return Operand("splat" if len(rows) > 1 else "rows", rows[0])
        if rows == list(range(rows[0], rows[0] + len(rows))):
            return Operand("rows", rows[0])
        return Operand("rows", self.program.add("copy", len(rows), rows=tuple(rows)))

    def _source(self, x: Shared) -> tuple[fx.Node, Tensor]:
        """Where its numbers come from, whatever only moved them: a node, and the entry of it in every place."""
        moves, node = [], x.node
        while node.op == "call_function" and len(node.all_input_nodes) == 1:
            if packet_of(node) not in MOVES - {aten.index_select, aten.gather, aten.index}:
                break
            moves.append(node)
            node = node.all_input_nodes[0]
        source, shape = node, self._shape_of(self.values[node])
        entries: Any = torch.arange(math.prod(shape)).view(shape)
        for move in reversed(moves):
            mapped: Any = fx.node.map_arg((move.args, move.kwargs), {node: entries}.__getitem__)
            entries = mover_of(move)(*mapped[0], **plain(mapped[1]))
            node = move
        return source, entries

    def _entries(self, node: fx.Node, entries: list[int]) -> Operand:
        """An operand that reads these entries of a node of the prologue."""
        if len(set(entries)) == 1:
            return Operand("entry", entries[0], self.leaf(node, None))
        if entries == list(range(entries[0], entries[0] + len(entries))):
            return Operand("leaf", entries[0], self.leaf(node, None))
        return Operand("leaf", 0, self.leaf(node, torch.tensor(entries)))

    def leaf(self, node: fx.Node, index: Tensor | None) -> int:
        """The number of a leaf; the same for the same entries."""
        for i, leaf in enumerate(self.traced.leaves):
            same = leaf.index is index or (
                leaf.index is not None and index is not None and torch.equal(leaf.index, index)
            )
            if leaf.node is node and same:
                return i
        self.traced.leaves.append(Leaf(node, index))
        return len(self.traced.leaves) - 1

    def _code(self, value: Any) -> Tensor:
        """Codes of anything: what is shared is loaded into rows."""
        if isinstance(value, Lane):
            return value.code
        if isinstance(value, Uniform):
            row = self.program.add("fill", 1, Operand("number", value=value.value))
            return coded(torch.full(value.shape, row), ANY)
        node, entries = self._source(value)
        if node not in self.loaded:
            count = int(self._shape_of(self.values[node]).numel())
            first = self.program.add("load", count, Operand("leaf", 0, self.leaf(node, None)))
            self.loaded[node] = coded(first + torch.arange(count), ANY)
        return self.loaded[node][entries]

    def _shape_of(self, value: Any) -> torch.Size:
        if isinstance(value, Lane):
            return value.code.shape
        return torch.Size(value.shape if isinstance(value, (Shared, Uniform)) else ())

    # ---- products -------------------------------------------------------------------------------------------------
    def _mm(self, a: Any, b: Any, bias: Any = None) -> Lane:
        if isinstance(a, Lane) and isinstance(b, Lane):
            return self._bmm(Lane(a.code.unsqueeze(0)), Lane(b.code.unsqueeze(0)), squeeze=True)
        if isinstance(b, Lane):
            out = self._product(b.code.t(), a, transposed=False, bias=bias)
            return Lane(out.t())
        if isinstance(b, Uniform):
            b = Lane(self._code(b))
            return self._mm(a, b)
        return Lane(self._product(a.code, b, transposed=True, bias=bias))

    def _product(self, x: Tensor, w: Any, transposed: bool, bias: Any = None) -> Tensor:
        """Codes of x Wᵀ, x (M, k) of lanes, W (m, k); it is given as Wᵀ (k, m) where `transposed`."""
        node, entries = self._source(w)
        return self._weighted(x, node, entries.t() if transposed else entries, bias)

    def _weighted(self, x: Tensor, node: fx.Node, entries: Tensor, bias: Any = None) -> Tensor:
        """The same, W given as entries (m, k) of a node."""
        m, k = entries.shape
        flat = entries.reshape(-1)
        whole = torch.equal(flat, torch.arange(self._shape_of(self.values[node]).numel()))
        weights = self.leaf(node, None if whole else flat)
        out = torch.empty(len(x), m, dtype=torch.int64)
        extra = ()
        if bias is not None:
            node, entries = self._source(bias)
            extra = (self._entries(node, entries.tolist()),)
        for where, places in Places.among(meet(lanes_of(x), self.what), self.what):
            for i, row in enumerate(places.templates(rows_of(x)[where], self.what)):
                first = self.program.add("linear", m, self._dense(row), *extra, leaf=weights, width=k)
                out[where[places.at[:, i]]] = coded(first + torch.arange(m).unsqueeze(0), places.lanes.unsqueeze(1))
        return out

    def _dense(self, rows: list[int]) -> Operand:
        """As `_rows`, never one row for several."""
        if len(rows) > 1 and len(set(rows)) == 1:
            return Operand("rows", self.program.add("copy", len(rows), rows=tuple(rows)))
        return self._rows(rows)

    def _addmm(self, bias: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Lane:
        plain = beta == 1 and alpha == 1
        plain = plain and isinstance(a, Lane) and isinstance(b, Shared) and isinstance(bias, Shared)
        if plain and bias.shape == (b.shape[1],):
            return self._mm(a, b, bias)
        product = self._mm(a, b)
        product = product if alpha == 1 else self.pointwise("mul", product, alpha)
        bias = bias if beta == 1 else self.pointwise("mul", bias, beta)
        return self.pointwise("add", product, bias)

    def _bmm(self, a: Any, b: Any, squeeze: bool = False) -> Lane:
        if isinstance(a, Lane) and isinstance(b, Shared):
            node, entries = self._source(b)
            if bool((entries == entries[0]).all()):
                flat = self._weighted(a.code.reshape(-1, a.code.shape[2]), node, entries[0].t())
                return Lane(flat.view(*a.code.shape[:2], -1))
        a, b = (x if isinstance(x, Lane) else Lane(self._code(x)) for x in (a, b))
        left, right = a.code.unsqueeze(3), b.code.unsqueeze(1)
        product = self.pointwise("mul", Lane(left), Lane(right))
        out = self._sum(product, [2])
        return Lane(out.code.squeeze(0)) if squeeze else out

    def _copy(self, a: Any, b: Any, non_blocking: bool = False) -> Lane:
        return Lane(self._code(b).expand(self._shape_of(a)))

    def _dot(self, a: Any, b: Any) -> Lane:
        return self._sum(self.pointwise("mul", a, b), [0])

    def _mv(self, a: Any, b: Any) -> Lane:
        return self._sum(self.pointwise("mul", a, b), [1])

    # ---- reductions -----------------------------------------------------------------------------------------------
    def _reduce(self, op: str, x: Any, dims: Any, keepdim: bool) -> Lane:
        code = self._code(x)
        dims = [d % code.dim() for d in (dims if dims else range(code.dim()))] if code.dim() else []
        kept = [d for d in range(code.dim()) if d not in dims]
        shape = [code.shape[d] for d in kept]
        groups = code.permute(*kept, *dims).reshape(math.prod(shape), -1) if code.dim() else code.view(1, 1)
        out = torch.empty(len(groups), dtype=torch.int64)
        for where, places in Places.among(meet(lanes_of(groups), self.what), self.what):
            rows = [tuple(group) for group in places.templates(rows_of(groups)[where], self.what)]
            place = {group: i for i, group in enumerate(dict.fromkeys(rows))}
            flat = [row for group in place for row in group]
            first = self.program.add(op, len(place), self._dense(flat), width=groups.shape[1])
            out[where] = places.codes(torch.tensor([first + place[group] for group in rows]))
        final = [1 if d in dims else code.shape[d] for d in range(code.dim())] if keepdim else shape
        return Lane(out.view(final))

    def _to_copy(self, x: Any, **_: Any) -> Any:
        return x

    def _constant_pad_nd(self, x: Any, pad: Any, value: float = 0.0) -> Lane:
        code = self._code(x)
        return Lane(aten.constant_pad_nd(code, pad, int(self._code(Uniform(float(value), ())))))
