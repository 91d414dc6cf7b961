"""Tile programs: what a field computes for one sample, as a list of instructions on rows.

A *row* holds one number of every sample of a tile; instruction by instruction a program fills rows from rows. Numbers that
are the same for all samples (parameters, and what is computed of them alone) come in *leaves*, flat tensors handed over
with each call. Rows are written once. The instructions:

    fill     n rows that are one number
    load     n rows that are entries of a leaf
    copy     n rows gathered from anywhere
    <unary>  n rows, of a row each: neg, exp, tanh, …, see UNARY
    <binary> n rows, of two operands each: add, sub, mul, div, pow, min, max, comparisons (1 or 0), see BINARY
    where    n rows: of the second operand where the first is not 0, else of the third
    linear   m rows: W x + b, of k rows x, a leaf W of m × k entries and perhaps a leaf b of m
    linear^T k rows: Wᵀ x, of m rows x
    sum      n rows, each of k neighbouring ones; max likewise

and those that only a derivative has, each adding to what is collected for a leaf over all samples:

    gather   of n rows each into an entry
    outer    of m rows g and k rows x, all products g xᵀ
    total    of n rows, their sum, into one entry

An operand is a run of rows, one row for all n (`splat`), a run of a leaf's entries, one entry, or a number.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

UNARY: dict[str, Any] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "atan": torch.atan,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "erf": torch.erf,
    "not": lambda x: (x == 0).to(x.dtype),
}
BINARY: dict[str, Any] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "atan2": torch.atan2,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "lt": lambda a, b: (a < b).to(a.dtype),
    "le": lambda a, b: (a <= b).to(a.dtype),
    "gt": lambda a, b: (a > b).to(a.dtype),
    "ge": lambda a, b: (a >= b).to(a.dtype),
    "eq": lambda a, b: (a == b).to(a.dtype),
    "ne": lambda a, b: (a != b).to(a.dtype),
    "and": lambda a, b: ((a != 0) & (b != 0)).to(a.dtype),
    "or": lambda a, b: ((a != 0) | (b != 0)).to(a.dtype),
}
COLLECTS = ("gather", "total", "outer")


@dataclass(frozen=True)
class Operand:
    """Where an instruction reads: `kind` is "rows", "splat", "leaf", "entry" or "number".

    Attributes:
        at: the first row, or the entry of the leaf.
        leaf: which leaf.
        value: the number.

    Example:
        >>> str(Operand("rows", 3).show(5)), Operand("entry", 2, leaf=0).show(5), Operand("number", value=0.5).show(5)
        ('r3..7', 'w0[2]', '0.5')
    """

    kind: str
    at: int = 0
    leaf: int = -1
    value: float = 0.0

    def show(self, count: int) -> str:
        """As text, of an instruction of `count` rows."""
        span = f"{self.at}" if count == 1 else f"{self.at}..{self.at + count - 1}"
        return {
            "rows": f"r{span}",
            "splat": f"r{self.at}",
            "leaf": f"w{self.leaf}[{span}]",
            "entry": f"w{self.leaf}[{self.at}]",
            "number": f"{self.value:g}",
        }[self.kind]


@dataclass(frozen=True)
class Instruction:
    """One of those above.

    Attributes:
        op: its name.
        out: the first row it fills; of those that collect, the first entry.
        count: rows it fills; of those that collect, rows it reads.
        operands: what it reads.
        leaf: of linear the matrix; of those that collect, where to.
        width: rows of x of linear, of a group of sum and max, of outer.
        rows: of copy, where from.
    """

    op: str
    out: int
    count: int
    operands: tuple[Operand, ...] = ()
    leaf: int = -1
    width: int = 0
    rows: tuple[int, ...] = ()

    def reach(self, which: int) -> int:
        """How many rows an operand spans."""
        if self.operands[which].kind == "splat":
            return 1
        if self.op in ("sum", "max"):
            return self.count * self.width
        if (self.op in ("linear", "linear^T") and which == 0) or (self.op == "outer" and which == 1):
            return self.width
        return self.count

    def reads(self) -> list[int]:
        """The rows it reads, one as often as it does."""
        found = list(self.rows)
        for i, operand in enumerate(self.operands):
            if operand.kind in ("rows", "splat"):
                found += range(operand.at, operand.at + self.reach(i))
        return found

    def show(self) -> str:
        """As text."""
        target = Operand("rows", self.out).show(self.count)
        read = [operand.show(self.count) for operand in self.operands]
        if self.op == "copy":
            return f"{target} = copy {runs(self.rows)}"
        if self.op in ("linear", "linear^T"):
            x = self.operands[0].show(self.width)
            bias = f" + {read[1]}" if len(read) > 1 else ""
            size = f"{self.count}×{self.width}" if self.op == "linear" else f"{self.width}×{self.count}"
            return f"{target} = {self.op} w{self.leaf}({size}) {x}{bias}"
        if self.op in ("sum", "max"):
            return f"{target} = {self.op} of {self.width} {self.operands[0].show(self.count * self.width)}"
        if self.op in ("gather", "total"):
            return f"w{self.leaf}[{self.out}{'' if self.op == 'total' else '…'}] += {self.op} {read[0]}"
        if self.op == "outer":
            return f"w{self.leaf}[…] += outer {read[0]}, {self.operands[1].show(self.width)}"
        return f"{target} = {self.op} {', '.join(read)}"


def runs(rows: tuple[int, ...]) -> str:
    """Rows in their order, neighbours together.

    Example:
        >>> runs((3, 4, 5, 1, 1))
        'r3..5 r1 r1'
    """
    found: list[list[int]] = []
    for row in rows:
        if found and row == found[-1][1] + 1:
            found[-1][1] = row
        else:
            found.append([row, row])
    return " ".join(f"r{a}" if a == b else f"r{a}..{b}" for a, b in found)


@dataclass
class Program:
    """Instructions, and what they read and leave.

    Attributes:
        inputs: (name, first row, count): the state, the time, numbers of each sample; of a derivative the cotangent too.
        rows: how many there are.
        code: in order.
        outputs: (name, rows): what is left, "dy"; of a derivative the cotangents of the inputs.
        leaves: their sizes.
    """

    inputs: list[tuple[str, int, int]] = field(default_factory=list)
    rows: int = 0
    code: list[Instruction] = field(default_factory=list)
    outputs: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    known: dict[Any, int] = field(default_factory=dict, repr=False)

    def take(self, count: int) -> int:
        """New rows; the first of them."""
        self.rows += count
        return self.rows - count

    def add(self, op: str, count: int, *operands: Operand, **settings: Any) -> int:
        """The first of the rows that hold what it computes: new ones, but where the same was asked before."""
        key = (op, count, operands, tuple(settings.items()))
        if key not in self.known:
            self.known[key] = self.take(count)
            self.code.append(Instruction(op, self.known[key], count, operands, **settings))
        return self.known[key]

    def show(self) -> str:
        """The program as text."""
        lines = [f"{Operand('rows', start).show(count)} = {name}" for name, start, count in self.inputs]
        lines += [instruction.show() for instruction in self.code]
        lines += [f"{name} = {runs(rows)}" for name, rows in self.outputs]
        return "\n".join(lines)


def with_biases(program: Program) -> None:
    """Makes sums of a product and a leaf one instruction, where nobody else reads the product: as `linear` has its bias."""
    counts = Counter(row for _, rows in program.outputs for row in rows)
    for one in program.code:
        counts.update(one.reads())
    code: dict[int, Instruction] = {}  # by the first row, in order
    for one in program.code:
        for x, bias in (one.operands, one.operands[::-1]) if one.op == "add" else ():
            product = code.get(x.at) if x.kind == "rows" and bias.kind == "leaf" else None
            if product is None or product.op != "linear" or len(product.operands) > 1 or product.count != one.count:
                continue
            if all(counts[x.at + i] == 1 for i in range(one.count)):
                one = replace(product, out=one.out, operands=(product.operands[0], bias))
                del code[product.out]
                program.known = {key: row for key, row in program.known.items() if row != product.out}
                break
        code[one.out] = one
    program.code = list(code.values())


def execute(
    program: Program, inputs: dict[str, Tensor], leaves: list[Tensor]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The program in PyTorch, for tests and for comparing with the field: outputs (B, rows), and what was collected.

    Args:
        program: one.
        inputs: by name, (B, count).
        leaves: flat.
    """
    lanes = next(iter(inputs.values()))
    rows: list[Tensor] = [lanes.new_zeros(len(lanes))] * program.rows
    collected = [torch.zeros_like(leaf) for leaf in leaves]

    def read(operand: Operand, count: int) -> Tensor:
        if operand.kind == "rows":
            return torch.stack(rows[operand.at : operand.at + count])
        if operand.kind == "splat":
            return rows[operand.at].expand(count, -1)
        if operand.kind == "number":
            return lanes.new_full((count, len(lanes)), operand.value)
        size = count if operand.kind == "leaf" else 1
        return leaves[operand.leaf][operand.at : operand.at + size].unsqueeze(1).expand(count, len(lanes))

    for name, start, count in program.inputs:
        rows[start : start + count] = list(inputs[name].reshape(len(lanes), count).t().unbind(0))
    for one in program.code:
        if one.op in COLLECTS:
            g = read(one.operands[0], one.count)
            if one.op == "outer":
                g = g @ read(one.operands[1], one.width).t()
            else:
                g = g.sum(1) if one.op == "gather" else g.sum().view(1)
            collected[one.leaf][one.out : one.out + g.numel()] += g.reshape(-1)
            continue
        value: Any
        if one.op == "copy":
            value = torch.stack([rows[i] for i in one.rows])
        elif one.op in ("fill", "load"):
            value = read(one.operands[0], one.count)
        elif one.op == "linear":
            value = leaves[one.leaf].view(one.count, one.width) @ read(one.operands[0], one.width)
            value = value if len(one.operands) == 1 else value + read(one.operands[1], one.count)
        elif one.op == "linear^T":
            value = leaves[one.leaf].view(one.width, one.count).t() @ read(one.operands[0], one.width)
        elif one.op in ("sum", "max"):
            grouped = read(one.operands[0], one.count * one.width).view(one.count, one.width, -1)
            value = grouped.sum(1) if one.op == "sum" else grouped.amax(1)
        elif one.op == "where":
            value = torch.where(
                *(x != 0 if i == 0 else x for i, x in enumerate(read(o, one.count) for o in one.operands))
            )
        elif one.op in UNARY:
            value = UNARY[one.op](read(one.operands[0], one.count))
        else:
            value = BINARY[one.op](*(read(operand, one.count) for operand in one.operands))
        rows[one.out : one.out + one.count] = list(value.unbind(0))
    outputs = {name: torch.stack([rows[i] for i in at], 1) for name, at in program.outputs}
    return outputs, collected
