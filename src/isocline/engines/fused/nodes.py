"""The nodes of a traced graph: which operations they are, and what those that depend on parameters alone come to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from isocline.engines.fused.lanes import CannotFuseError

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


def evaluated(node: fx.Node, graph: fx.GraphModule, found: dict[fx.Node, Any]) -> Any:
    """A node that depends on parameters alone; without recursion, chains may be long."""
    waiting = [node]
    while waiting:
        here = waiting[-1]
        missing = [other for other in here.all_input_nodes if other not in found]
        if here in found:
            waiting.pop()
        elif here.op == "get_attr":
            found[here] = attribute(graph, str(here.target))
        elif (fill := fill_of(here)) is not None:  # of a tensor that it is made like only the shape matters
            found[here] = torch.full(shape_of(here), fill, dtype=here.meta["val"].dtype)
        elif here.op == "placeholder":
            raise CannotFuseError("the field picks numbers by those of an argument")
        elif missing:
            waiting += missing
        else:
            target, mapped = target_of(here), fx.node.map_arg((here.args, here.kwargs), found.__getitem__)
            found[here] = target(*mapped[0], **mapped[1])
    return found[node]


def attribute(graph: fx.GraphModule, name: str) -> Any:
    value: Any = graph
    for part in name.split("."):
        value = getattr(value, part)
    return value


def shape_of(node: fx.Node) -> tuple[int, ...]:
    value = node.meta["val"]
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def fill_of(node: fx.Node) -> float | None:
    """The number that all of a node is, where it is one whatever the node is handed."""
    packet = packet_of(node)
    if packet in FILLS:
        value = node.args[FILLS[packet]]
        return float(value) if isinstance(value, (int, float, bool)) else None
    return CONSTANTS.get(packet)


def target_of(node: fx.Node) -> Any:
    """What a node calls."""
    return node.target


def mover_of(node: fx.Node) -> Any:
    """The same of what moves numbers; codes lie otherwise in memory, where a view may need a copy."""
    return aten.reshape if packet_of(node) in (aten.view, aten._unsafe_view) else target_of(node)


def packet_of(node: fx.Node) -> Any:
    """Which operation, whatever its overload."""
    return getattr(node.target, "overloadpacket", None)


def plain(kwargs: Any) -> dict[str, Any]:
    """Without what says how a tensor lies in memory, or of what kind it is."""
    return {name: value for name, value in kwargs.items() if name not in ("memory_format", "dtype", "layout", "device")}


def name_of(node: fx.Node) -> str:
    """How messages call a node."""
    return f"the operation {node.target}" if node.op == "call_function" else str(node.op)
