"""The functions an equation may use: on tensors, and their derivatives.

A derivative is with respect to one argument, at given values; it is asked for only where that argument depends on what
is differentiated by. At kinks (abs, min, max, relu) it is the one PyTorch takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Slope = Callable[..., Any]  # (value, *arguments) -> derivative


@dataclass(frozen=True)
class Function:
    """A function of tensors.

    Attributes:
        apply: the function, elementwise.
        slopes: its derivative by each argument.
        many: takes two arguments or more, by pairs.
        first: the first argument is a condition.
        does: for lists and messages.
    """

    apply: Callable[..., Tensor]
    slopes: tuple[Slope, ...]
    does: str
    many: bool = False
    first: bool = False

    @property
    def count(self) -> int:
        """Arguments it takes (at least)."""
        return len(self.slopes) + self.first


def _minimum(a: Tensor, b: Tensor) -> Tensor:
    return torch.minimum(a, b)


def _maximum(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b)


def _share(first: Tensor, second: Tensor) -> Tensor:
    """1 where the first argument is taken, 0 where the second, 1/2 where they are equal."""
    return torch.where(first == second, 0.5, torch.where(first > second, 1.0, 0.0)).to(first.dtype)


FUNCTIONS: dict[str, Function] = {
    "exp": Function(torch.exp, (lambda v, x: v,), "e to the power of x"),
    "expm1": Function(torch.expm1, (lambda v, x: v + 1.0,), "exp(x) - 1, exact for small x"),
    "log": Function(torch.log, (lambda v, x: 1.0 / x,), "natural logarithm"),
    "ln": Function(torch.log, (lambda v, x: 1.0 / x,), "natural logarithm"),
    "log1p": Function(torch.log1p, (lambda v, x: 1.0 / (1.0 + x),), "log(1 + x), exact for small x"),
    "log2": Function(lambda x: torch.log(x) / math.log(2.0), (lambda v, x: 1.0 / (x * math.log(2.0)),), "by base 2"),
    "log10": Function(
        lambda x: torch.log(x) / math.log(10.0), (lambda v, x: 1.0 / (x * math.log(10.0)),), "by base 10"
    ),
    "sqrt": Function(torch.sqrt, (lambda v, x: 0.5 / v,), "square root"),
    "sin": Function(torch.sin, (lambda v, x: torch.cos(x),), "of radians"),
    "cos": Function(torch.cos, (lambda v, x: -torch.sin(x),), "of radians"),
    "tan": Function(torch.tan, (lambda v, x: 1.0 + v * v,), "of radians"),
    "atan": Function(torch.atan, (lambda v, x: 1.0 / (1.0 + x * x),), "in radians"),
    "sinh": Function(torch.sinh, (lambda v, x: torch.cosh(x),), "hyperbolic sine"),
    "cosh": Function(torch.cosh, (lambda v, x: torch.sinh(x),), "hyperbolic cosine"),
    "tanh": Function(torch.tanh, (lambda v, x: 1.0 - v * v,), "hyperbolic tangent"),
    "sigmoid": Function(torch.sigmoid, (lambda v, x: v * (1.0 - v),), "1/(1 + exp(-x))"),
    "softplus": Function(functional.softplus, (lambda v, x: torch.sigmoid(x),), "log(1 + exp(x))"),
    "relu": Function(torch.relu, (lambda v, x: (x > 0).to(x.dtype),), "max(x, 0)"),
    "abs": Function(torch.abs, (lambda v, x: torch.sign(x),), "absolute value"),
    "sign": Function(torch.sign, (lambda v, x: 0.0,), "-1, 0 or 1"),
    "min": Function(
        _minimum, (lambda v, a, b: _share(b, a), lambda v, a, b: _share(a, b)), "the least of its arguments", many=True
    ),
    "max": Function(
        _maximum, (lambda v, a, b: _share(a, b), lambda v, a, b: _share(b, a)), "the greatest of them", many=True
    ),
    "where": Function(
        torch.where, (lambda v, c, a, b: c, lambda v, c, a, b: ~c), "a where a condition holds, else b", first=True
    ),
}

OPERATIONS: dict[str, Function] = {
    "+": Function(lambda a, b: a + b, (lambda v, a, b: 1.0, lambda v, a, b: 1.0), "sum"),
    "-": Function(lambda a, b: a - b, (lambda v, a, b: 1.0, lambda v, a, b: -1.0), "difference"),
    "*": Function(lambda a, b: a * b, (lambda v, a, b: b, lambda v, a, b: a), "product"),
    "/": Function(lambda a, b: a / b, (lambda v, a, b: 1.0 / b, lambda v, a, b: -v / b), "quotient"),
    "^": Function(
        lambda a, b: a**b,
        (lambda v, a, b: b * a ** (b - 1.0), lambda v, a, b: torch.where(v == 0, 0.0, v * torch.log(a))),
        "power",
    ),
    "neg": Function(lambda a: -a, (lambda v, a: -1.0,), "negative"),
    "<": Function(lambda a, b: a < b, (), "less"),
    "<=": Function(lambda a, b: a <= b, (), "at most"),
    ">": Function(lambda a, b: a > b, (), "greater"),
    ">=": Function(lambda a, b: a >= b, (), "at least"),
    "==": Function(lambda a, b: a == b, (), "equal"),
    "!=": Function(lambda a, b: a != b, (), "unequal"),
    "and": Function(torch.logical_and, (), "both"),
    "or": Function(torch.logical_or, (), "one of both"),
    "not": Function(torch.logical_not, (), "not"),
}

HABITS = {  # names from elsewhere
    "absolute": "abs", "arctan": "atan", "clip": "min(max(x, low), high)", "heaviside": "where(x > 0, 1, 0)",
    "if": "where(condition, a, b)", "ifelse": "where(condition, a, b)", "maximum": "max", "minimum": "min",
    "pow": "x^n", "power": "x^n", "sgn": "sign", "square": "x^2", "step": "where(x > 0, 1, 0)", "logistic": "sigmoid",
    "piecewise": "where(condition, a, b)", "sqr": "sqrt(x) or x^2", "mlp": "net", "nn": "net",
}  # fmt: skip
