"""Values of expressions, and with them, where asked for, their derivatives in several directions (forward mode).

A jet is a value and its derivatives in P directions, in a last dimension of its own; None where they are all zero.
Everything is an operation on tensors, so that the fused engine can trace it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.equations.functions import FUNCTIONS, OPERATIONS, Function
from isocline.equations.tree import CONDITIONS, Call, Name, Number, Operation, Tree, children, rebuilt

Value = Tensor | float
Jet = tuple[Value, Tensor | None]
NetJet = Callable[[Sequence[Jet]], Jet]


class NotFiniteError(ValueError):
    """A part of an expression, made of numbers alone, that has no finite value."""

    def __init__(self, tree: Tree, value: float) -> None:
        super().__init__(tree, value)
        self.tree, self.value = tree, value


def folded(tree: Tree) -> Tree:
    """The tree with every part that is made of numbers alone computed, and pi put in.

    Raises:
        NotFiniteError: for a part such as 1/0.

    Example:
        >>> from isocline.equations.parser import parse_expression
        >>> from isocline.equations.tree import written
        >>> written(folded(parse_expression("x*(2^3 - 1)")))
        'x*7'
    """
    return rebuilt(tree, _fold)


def _fold(tree: Tree) -> Tree:
    if isinstance(tree, Name) and tree.name == "pi":
        return Number(math.pi, tree.at, tree.end)
    parts = children(tree)
    if not parts or not all(isinstance(part, Number) for part in parts):
        return tree
    if isinstance(tree, Operation) and tree.operator in CONDITIONS:
        return tree
    if isinstance(tree, Call) and tree.name not in FUNCTIONS:
        return tree
    value = float(Evaluation({}, {}, torch.zeros((), dtype=torch.float64)).value(tree))
    if not math.isfinite(value):
        raise NotFiniteError(tree, value)
    return Number(value, tree.at, tree.end)


class Evaluation:
    """Expressions at given values of the names.

    Args:
        jets: of the names.
        nets: a function of jets for each net.
        like: a tensor of the dtype and device to compute in.
    """

    def __init__(self, jets: Mapping[str, Jet], nets: Mapping[str, NetJet], like: Tensor) -> None:
        self.jets, self.nets, self.like = dict(jets), nets, like

    def value(self, tree: Tree) -> Value:
        """Without the derivatives."""
        return self(tree)[0]

    def tensor(self, value: Value) -> Tensor:
        """A number as a 0-d tensor."""
        if isinstance(value, Tensor):
            return value
        return torch.full((), value, dtype=self.like.dtype, device=self.like.device)

    def __call__(self, tree: Tree) -> Jet:
        if isinstance(tree, Number):
            return tree.value, None
        if isinstance(tree, Name):
            return self.jets[tree.name]
        parts = [self(part) for part in children(tree)]
        if isinstance(tree, Call):
            if tree.name in self.nets:
                return self.nets[tree.name](parts)
            function = FUNCTIONS[tree.name]
            parts = [(self.tensor(v), d) for v, d in parts]
            while function.many and len(parts) > 2:
                parts = [self.apply(function, parts[:2]), *parts[2:]]
            return self.apply(function, parts)
        if len(parts) == 1:
            return self.apply(OPERATIONS["neg" if tree.operator == "-" else tree.operator], parts)
        if tree.operator == "^" or not any(isinstance(v, Tensor) for v, _ in parts):
            parts[0] = self.tensor(parts[0][0]), parts[0][1]
        return self.apply(OPERATIONS[tree.operator], parts)

    def apply(self, function: Function, parts: Sequence[Jet]) -> Jet:
        """The chain rule."""
        arguments: list[Any] = [v for v, _ in parts]
        value = function.apply(*arguments)
        total: Tensor | None = None
        if not function.slopes:
            return value, None
        for slope, (_, tangent) in zip(function.slopes, parts[function.first :], strict=True):
            if tangent is None:
                continue
            part = scaled(slope(value, *arguments), tangent)
            total = part if total is None else total if part is None else total + part
        return value, total


def scaled(slope: Value, tangent: Tensor) -> Tensor | None:
    """A derivative times the directions; where a condition is the slope, the directions where it holds."""
    if not isinstance(slope, Tensor):
        return None if slope == 0.0 else tangent if slope == 1.0 else slope * tangent
    if slope.dtype == torch.bool:
        return torch.where(slope.unsqueeze(-1), tangent, 0.0)
    return slope.unsqueeze(-1) * tangent
