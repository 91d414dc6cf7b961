"""From a field to a tile program: `torch.fx` traces it for three samples, every operation is lowered to instructions.

What depends on parameters alone stays with PyTorch, as the *prologue*: it is run before each solve, its results are the leaves
of the program, and their gradients go back through it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from isocline.engines.fused.derive import derive
from isocline.engines.fused.functions import Functions
from isocline.engines.fused.lanes import ANY, LANES, CannotFuseError, Lane, Places, coded, lanes_of, meet, rows_of
from isocline.engines.fused.native import Encoded
from isocline.engines.fused.program import Operand, Program

aten = torch.ops.aten

MOVES = {
    aten.view, aten._unsafe_view, aten.reshape, aten.expand, aten.permute, aten.transpose, aten.t, aten.unsqueeze,
    aten.squeeze, aten.slice, aten.select, aten.cat, aten.stack, aten.clone, aten.alias, aten.detach, aten.flip, aten.roll,
    aten.repeat, aten.unbind, aten.split, aten.split_with_sizes, aten.narrow, aten.movedim, aten.diagonal,
    aten.slice_scatter, aten.select_scatter, aten.diagonal_scatter, aten.lift_fresh_copy, aten.unfold, aten.index_select,
    aten.gather, aten.index, aten.squeeze_, aten.unsqueeze_, aten.t_, aten.transpose_,
}  # fmt: skip
POINTWISE = {
    aten.neg: "neg", aten.abs: "abs", aten.sign: "sign", aten.sgn: "sign", aten.exp: "exp", aten.expm1: "expm1",
    aten.log: "log", aten.log1p: "log1p", aten.sqrt: "sqrt", aten.rsqrt: "rsqrt", aten.reciprocal: "reciprocal",
    aten.sin: "sin", aten.cos: "cos", aten.tan: "tan", aten.sinh: "sinh", aten.cosh: "cosh", aten.tanh: "tanh",
    aten.atan: "atan", aten.sigmoid: "sigmoid", aten.erf: "erf", aten.logical_not: "not", aten.bitwise_not: "not",
    aten.add: "add", aten.sub: "sub", aten.mul: "mul", aten.div: "div", aten.atan2: "atan2",
    aten.minimum: "minimum", aten.maximum: "maximum", aten.lt: "lt", aten.le: "le", aten.gt: "gt", aten.ge: "ge",
    aten.eq: "eq", aten.ne: "ne", aten.logical_and: "and", aten.logical_or: "or", aten.bitwise_and: "and",
    aten.bitwise_or: "or", aten.where: "where",
}  # fmt: skip
FILLS = {aten.full: 1, aten.full_like: 1, aten.scalar_tensor: 0}
CONSTANTS = {
    aten.zeros: 0.0, aten.zeros_like: 0.0, aten.new_zeros: 0.0, aten.ones: 1.0, aten.ones_like: 1.0, aten.new_ones: 1.0,
    aten._efficientzerotensor: 0.0, aten._new_zeros_with_same_feature_meta: 0.0, aten.empty: 0.0, aten.empty_like: 0.0,
}  # fmt: skip


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


@dataclass
class Leaf:
    """Entries of a node of the prologue, flat; all of them where `index` is None."""

    node: fx.Node
    index: Tensor | None


@dataclass
class Traced:
    """A field as a tile program, and where its leaves come from."""

    program: Program
    graph: fx.GraphModule
    dtype: torch.dtype
    leaves: list[Leaf] = field(default_factory=list)
    shared: list[fx.Node] = field(default_factory=list)  # placeholders of what all samples are handed

    @cached_property
    def derivative(self) -> Program:
        """The derivative's program."""
        return derive(self.program)

    @cached_property
    def encoded(self) -> Encoded:
        """As the machine reads it."""
        return Encoded(self.program, derivative=self.derivative)

    @cached_property
    def encoded_derivative(self) -> Encoded:
        """The derivative likewise, without what the field computes itself."""
        return Encoded(self.derivative, self.program)

    def held(self) -> list[Tensor]:
        """The tensors that the field holds, each once."""
        nodes = (node for node in self.graph.graph.nodes if node.op == "get_attr")
        return list({id(x): x for x in (_attribute(self.graph, str(node.target)) for node in nodes)}.values())

    def prologue(self, shared: Sequence[Tensor] = ()) -> list[Tensor]:
        """The leaves as the parameters are now, flat, with the graph of their computation.

        Args:
            shared: what all samples are handed, as to `trace`.
        """
        found: dict[fx.Node, Any] = dict(zip(self.shared, shared, strict=True))
        for leaf in self.leaves:
            _evaluated(leaf.node, self.graph, found)
        values = [found[leaf.node].reshape(-1).to(self.dtype) for leaf in self.leaves]
        return [v if leaf.index is None else v[leaf.index] for v, leaf in zip(values, self.leaves, strict=True)]


def _evaluated(node: fx.Node, graph: fx.GraphModule, found: dict[fx.Node, Any]) -> Any:
    """A node that depends on parameters alone; without recursion, chains may be long."""
    waiting = [node]
    while waiting:
        here = waiting[-1]
        missing = [other for other in here.all_input_nodes if other not in found]
        if here in found:
            waiting.pop()
        elif here.op == "get_attr":
            found[here] = _attribute(graph, str(here.target))
        elif (fill := _fill(here)) is not None:  # of a tensor that it is made like only the shape matters
            found[here] = torch.full(_shape(here), fill, dtype=here.meta["val"].dtype)
        elif here.op == "placeholder":
            raise CannotFuseError("the field picks numbers by those of an argument")
        elif missing:
            waiting += missing
        else:
            target, mapped = _target(here), fx.node.map_arg((here.args, here.kwargs), found.__getitem__)
            found[here] = target(*mapped[0], **mapped[1])
    return found[node]


def _attribute(graph: fx.GraphModule, name: str) -> Any:
    value: Any = graph
    for part in name.split("."):
        value = getattr(value, part)
    return value


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
            graph = make_fx(f, decomposition_table=_decompositions(), tracing_mode="real")(t, y, *inputs, *shared)
    except CannotFuseError:
        raise
    except Exception as error:
        raise CannotFuseError(f"the field could not be traced: {error}") from error
    return _Lowering(graph, y.dtype, 2 + len(inputs)).run(shared)


@cache
def _decompositions() -> Any:
    """A plain dictionary: PyTorch's own table is put together anew by every tracing."""
    table: Any = torch._decomp.core_aten_decompositions()
    return dict(table.items())


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
            self.what = _name(node)
            if node.op != "placeholder" and node not in live:
                continue
            if node.op == "placeholder" and names:
                self.values[node] = self._input(names.pop(), node.meta["val"])
            elif node.op == "placeholder":
                self.traced.shared.append(node)
                self.values[node] = Shared(node, _shape(node))
            elif node.op == "get_attr":
                self.values[node] = Shared(node, tuple(_attribute(self.graph, str(node.target)).shape))
            elif node.op == "output":
                self._output(node.args[0])
            else:
                self.values[node] = self._call(node)
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
            if mutable and not (_packet(node) in MOVES | {aten.copy_} and len(node.all_input_nodes[0].users) == 1):
                raise CannotFuseError(f"{_name(node)} writes into a tensor; use the operation that makes a new one")
        waiting, live = [next(n for n in self.graph.graph.nodes if n.op == "output")], set()
        while waiting:
            node = waiting.pop()
            if node not in live:
                live.add(node)
                waiting += [] if _fill(node) is not None else node.all_input_nodes
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
        target, packet = _target(node), _packet(node)
        if (fill := _fill(node)) is not None:
            return Uniform(fill, _shape(node))
        mapped: Any = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        args, kwargs = mapped
        if target is operator.getitem:
            return args[0][args[1]] if isinstance(args[0], (list, tuple)) else Shared(node, _shape(node))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise CannotFuseError(f"{self.what} draws random numbers")
        if not any(isinstance(x, Lane) for x in leaves):
            if packet in MOVES:
                return (
                    Uniform(args[0].value, _shape(node)) if isinstance(args[0], Uniform) else Shared(node, _shape(node))
                )
            if not any(self._repeats(x) for x in leaves):
                return Shared(node, _shape(node))
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

        if _packet(node) in (aten.index_select, aten.gather, aten.index):
            moved = [self._code(args[0]), *torch.utils._pytree.tree_map(self._constant, list(args[1:]))]
            return Lane(_target(node)(*moved))
        args, kwargs = torch.utils._pytree.tree_map(code, (list(args), dict(kwargs)))
        out = _mover(node)(*args, **_plain(kwargs))
        return Lane(out) if isinstance(out, Tensor) else [Lane(one) for one in out]

    def _constant(self, value: Any) -> Any:
        """An index: its numbers, where they are none of the samples'."""
        if isinstance(value, Lane):
            raise CannotFuseError(f"{self.what} picks by numbers of the sample")
        if isinstance(value, Shared):
            return _evaluated(value.node, self.graph, {})
        return value

    def pointwise(self, op: str, *operands: Any) -> Lane:
        """Number by number, broadcast."""
        shape = torch.broadcast_shapes(*(self._shape_of(x) for x in operands))
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
            if _packet(node) not in MOVES - {aten.index_select, aten.gather, aten.index}:
                break
            moves.append(node)
            node = node.all_input_nodes[0]
        source, shape = node, self._shape_of(self.values[node])
        entries: Any = torch.arange(math.prod(shape)).view(shape)
        for move in reversed(moves):
            mapped: Any = fx.node.map_arg((move.args, move.kwargs), {node: entries}.__getitem__)
            entries = _mover(move)(*mapped[0], **_plain(mapped[1]))
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


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta["val"]
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _fill(node: fx.Node) -> float | None:
    """The number that all of a node is, where it is one whatever the node is handed."""
    packet = _packet(node)
    if packet in FILLS:
        value = node.args[FILLS[packet]]
        return float(value) if isinstance(value, (int, float, bool)) else None
    return CONSTANTS.get(packet)


def _target(node: fx.Node) -> Any:
    """What a node calls."""
    return node.target


def _mover(node: fx.Node) -> Any:
    """The same of what moves numbers; codes lie otherwise in memory, where a view may need a copy."""
    return aten.reshape if _packet(node) in (aten.view, aten._unsafe_view) else _target(node)


def _packet(node: fx.Node) -> Any:
    """Which operation, whatever its overload."""
    return getattr(node.target, "overloadpacket", None)


def _plain(kwargs: Any) -> dict[str, Any]:
    """Without what says how a tensor lies in memory, or of what kind it is."""
    return {name: value for name, value in kwargs.items() if name not in ("memory_format", "dtype", "layout", "device")}


def _name(node: fx.Node) -> str:
    """How messages call a node."""
    return f"the operation {node.target}" if node.op == "call_function" else str(node.op)
