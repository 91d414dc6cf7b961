"""What an instruction of a tile program computes, row by row, as an expression of C++."""

from __future__ import annotations

from collections.abc import Callable

from isocline.engines.fused.program import BINARY, UNARY, Instruction, Operand

Entry = Callable[[int, "int | str"], str]  # of a leaf, the same for all samples


def result(
    one: Instruction, i: int, read: Callable[[Operand, int], str], row: Callable[[int], str], entry: Entry
) -> str:
    """Row i of an instruction's result, written out.

    Args:
        one, i: which.
        read: an operand's row.
        row: a row of the tile.
        entry: a number of a leaf.
    """
    x = one.operands[0] if one.operands else None
    if one.op == "copy":
        return row(one.rows[i])
    if one.op in ("linear", "linear^T"):
        assert x is not None
        start = read(one.operands[1], i) if len(one.operands) > 1 else "V<T>{}"
        at = [i * one.width + j if one.op == "linear" else j * one.count + i for j in range(one.width)]
        return " + ".join([start, *(f"{entry(one.leaf, k)} * {read(x, j)}" for j, k in enumerate(at))])
    if one.op in ("sum", "max"):
        assert x is not None
        terms = [read(x, i * one.width + j) for j in range(one.width)]
        value = terms[0]
        for term in terms[1:]:
            value = f"{value} + {term}" if one.op == "sum" else f"f_maximum::at<T>({value}, {term})"
        return value
    return applied(one, [read(operand, i) for operand in one.operands])


def applied(one: Instruction, read: list[str]) -> str:
    """A pointwise instruction on its operands."""
    if one.op in ("fill", "load"):
        return read[0]
    if one.op == "where":
        return f"pick<T>({read[0]} != 0, {read[1]}, {read[2]})"
    if one.op == "pow" and one.operands[1].kind == "number" and one.operands[1].value in (2.0, 3.0):
        return " * ".join(read[:1] * int(one.operands[1].value))
    assert one.op in UNARY or one.op in BINARY or one.op == "tanh'"
    name = {"not": "not_", "and": "and_", "or": "or_", "tanh'": "tanh_back"}.get(one.op, one.op)
    return f"f_{name}::at<T>({', '.join(read)})"


def uniform(operand: Operand, i: int | str, entry: Entry) -> str:
    """A number that is the same for all samples, of row i."""
    if operand.kind == "number":
        return f"all<T>({number(operand.value)})"
    if operand.kind == "entry":
        return entry(operand.leaf, operand.at)
    return entry(operand.leaf, operand.at + i if isinstance(i, int) else f"{operand.at} + {i}")


def number(value: float) -> str:
    """A constant of the tile's type."""
    special = {float("inf"): "INFINITY", float("-inf"): "-INFINITY"}.get(value, repr(value))
    return f"T({'NAN' if value != value else special})"
