"""What tracing a field gives: its tile program, its derivative's, and where the leaves come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from isocline.engines.fused.derive import derive
from isocline.engines.fused.native import Encoded
from isocline.engines.fused.nodes import attribute, evaluated
from isocline.engines.fused.program import Program


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
        """As the machine reads it, with what the derivative reads."""
        return Encoded(self.program, derivative=self.derivative)

    @cached_property
    def encoded_alone(self) -> Encoded:
        """The same for who wants nothing but the slope."""
        return Encoded(self.program)

    @cached_property
    def encoded_derivative(self) -> Encoded:
        """The derivative likewise, without what the field computes itself."""
        return Encoded(self.derivative, self.program)

    def held(self) -> list[Tensor]:
        """The tensors that the field holds, each once."""
        nodes = (node for node in self.graph.graph.nodes if node.op == "get_attr")
        return list({id(x): x for x in (attribute(self.graph, str(node.target)) for node in nodes)}.values())

    def prologue(self, shared: Sequence[Tensor] = ()) -> list[Tensor]:
        """The leaves as the parameters are now, flat, with the graph of their computation.

        Args:
            shared: what all samples are handed, as to `trace`.
        """
        found: dict[fx.Node, Any] = dict(zip(self.shared, shared, strict=True))
        for leaf in self.leaves:
            evaluated(leaf.node, self.graph, found)
        values = [found[leaf.node].reshape(-1).to(self.dtype) for leaf in self.leaves]
        return [v if leaf.index is None else v[leaf.index] for v, leaf in zip(values, self.leaves, strict=True)]
