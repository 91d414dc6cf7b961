"""What an expression is once it has been read, and how it is written again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from isocline.equations.tokens import is_word

# How tightly operators bind; what binds at least as tightly as its place asks for needs no brackets.
OR, AND, NOT, COMPARISON, SUM, PRODUCT, SIGN, POWER, ATOM = range(9)
BINDING = {
    "or": OR, "and": AND, "<": COMPARISON, "<=": COMPARISON, ">": COMPARISON, ">=": COMPARISON, "==": COMPARISON,
    "!=": COMPARISON, "+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, "^": POWER,
}  # fmt: skip
CONDITIONS = frozenset({"or", "and", "not", "<", "<=", ">", ">=", "==", "!="})
WORDS = frozenset({"and", "or", "not"})


@dataclass(frozen=True)
class Number:
    """A number as written, at least 0; a sign is an operation."""

    value: float
    at: int = field(default=0, compare=False, repr=False)
    end: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True)
class Name:
    """A state, an input, a parameter, a definition, t or pi."""

    name: str
    at: int = field(default=0, compare=False, repr=False)
    end: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True)
class Operation:
    """An operator with one operand ("-", "not") or two.

    Attributes:
        at, end: where the operator stands.
    """

    operator: str
    operands: tuple[Tree, ...]
    at: int = field(default=0, compare=False, repr=False)
    end: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True)
class Call:
    """A function or a net of arguments; options as in `width=16` only for nets."""

    name: str
    arguments: tuple[Tree, ...]
    options: tuple[tuple[str, float | str], ...] = ()
    at: int = field(default=0, compare=False, repr=False)
    end: int = field(default=0, compare=False, repr=False)


Tree = Number | Name | Operation | Call


def children(tree: Tree) -> tuple[Tree, ...]:
    """The parts of a tree."""
    if isinstance(tree, Operation):
        return tree.operands
    return tree.arguments if isinstance(tree, Call) else ()


def walk(tree: Tree) -> Iterator[Tree]:
    """A tree and all its parts, in the order they are written."""
    yield tree
    for child in children(tree):
        yield from walk(child)


def names(tree: Tree) -> list[str]:
    """The names in a tree, each once."""
    return list(dict.fromkeys(part.name for part in walk(tree) if isinstance(part, Name)))


def rebuilt(tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
    """The tree with `change` applied to every part, inner parts first."""
    if isinstance(tree, Operation):
        parts = tuple(rebuilt(x, change) for x in tree.operands)
        tree = Operation(tree.operator, parts, tree.at, tree.end)
    elif isinstance(tree, Call):
        parts = tuple(rebuilt(x, change) for x in tree.arguments)
        tree = Call(tree.name, parts, tree.options, tree.at, tree.end)
    return change(tree)


# ---- writing ----------------------------------------------------------------------------------------------------------
def written(tree: Tree, values: Mapping[str, float] | None = None, digits: int = 17) -> str:
    """The tree as text that reads as the same tree.

    Args:
        tree: what to write.
        values: numbers to write in the place of names.
        digits: significant ones of numbers; 17 gives every number back exactly, in the shortest way.

    Example:
        >>> k, x = Name("k"), Name("x")
        >>> decay = Operation("*", (Operation("-", (k,)), Operation("^", (x, Number(2.0)))))
        >>> written(decay), written(decay, {"k": 0.25})
        ('-k*x^2', '-0.25*x^2')
    """
    return _written(tree, OR, values or {}, digits)


def _written(tree: Tree, place: int, values: Mapping[str, float], digits: int) -> str:
    if isinstance(tree, Number):
        return number(tree.value, digits)
    if isinstance(tree, Name):
        if tree.name not in values:
            return quoted(tree.name)
        value = values[tree.name]
        text = number(abs(value), digits)
        return _bracketed(f"-{text}", place > SIGN) if math.copysign(1.0, value) < 0 else text
    if isinstance(tree, Call):
        inside = [_written(x, OR, values, digits) for x in tree.arguments]
        inside += [f"{k}={number(v, digits) if isinstance(v, float) else v}" for k, v in tree.options]
        return f"{tree.name}({', '.join(inside)})"
    if len(tree.operands) == 1:
        bound = NOT if tree.operator == "not" else SIGN
        sign = "not " if tree.operator == "not" else "-"
        return _bracketed(sign + _written(tree.operands[0], bound, values, digits), bound < place)
    bound = BINDING[tree.operator]
    left, right = tree.operands
    # Sums and products go from left to right, powers from right to left; comparisons do not follow each other.
    a = _written(left, bound + (bound in (COMPARISON, POWER)), values, digits)
    b = _written(right, SIGN if bound == POWER else bound + 1, values, digits)
    space = "" if bound >= PRODUCT else " "
    return _bracketed(f"{a}{space}{tree.operator}{space}{b}", bound < place)


def _bracketed(text: str, needed: bool) -> str:
    return f"({text})" if needed else text


def number(value: float, digits: int = 17) -> str:
    """The shortest text with so many significant digits."""
    if digits < 17:
        value = float(f"{value:.{digits}g}")
    text = repr(float(value))
    return text[:-2] if text.endswith(".0") else text


def quoted(name: str) -> str:
    """A name as it is written: in backticks where it is no word."""
    return name if is_word(name) and name not in WORDS else f"`{name}`"
