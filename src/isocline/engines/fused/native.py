"""Tile programs on the machine."""

from __future__ import annotations

import ctypes
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.engines.fused.build import library
from isocline.engines.fused.program import BINARY, COLLECTS, UNARY, Instruction, Operand, Program

# In the order of interpreter.hpp's list.
OPS = [
    *UNARY,
    *BINARY,
    "where",
    "fill",
    "load",
    "copy",
    "linear",
    "linear^T",
    "sum",
    "max",
    "gather",
    "total",
    "outer",
    "tanh'",
]
POINTWISE = {*UNARY, *BINARY, "tanh'"}
PAIRED = {"add", "sub", "mul"}
FEW = 4  # entries of a leaf: interpreter.hpp
ONE = Operand("number", value=1.0)
KINDS = ["rows", "splat", "leaf", "entry", "number"]


class _Operand(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("kind", "at", "leaf", "unused")] + [("value", ctypes.c_double)]


class _Instruction(ctypes.Structure):
    _numbers = ("op", "out", "count", "leaf", "width", "first_row", "operands", "packed", "then", "entry")
    _fields_ = [*((name, ctypes.c_int32) for name in _numbers), ("operand", _Operand * 3)]


class Code(ctypes.Structure):
    """Instructions, as the machine's `Code`."""

    _fields_ = [
        ("code", ctypes.c_void_p),
        ("length", ctypes.c_int32),
        ("collects", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("picked", ctypes.c_void_p),
        ("native", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
    ]


class Encoded:
    """A program as the machine reads it: what collects comes last.

    Args:
        program: one.
        field: of a derivative: the field's program, whose rows are filled already; only the rest of the code is taken.
        derivative: of a field: its derivative, where that is to find its rows filled.

    Attributes:
        plain, collects: the code, what does not collect and what does.
        slots: numbers of the matrices that are packed, by (whether it is collected, op, leaf, count, width).
    """

    def __init__(self, program: Program, field: Program | None = None, derivative: Program | None = None) -> None:
        self.program, picked = program, []
        code = program.code if field is None else [x for x in program.code if x.op in COLLECTS or x.out >= field.rows]
        known = set(code)
        readers = code if derivative is None else [*code, *(one for one in derivative.code if one not in known)]
        counts: Counter[int] = Counter(row for _, rows in program.outputs for row in rows)
        for one in readers:
            counts.update(one.reads())
        self.plain = plain = _bent([one for one in code if one.op not in COLLECTS], counts)
        homes = _in_place(plain, counts)
        then = _behind_products(plain, homes)
        self.collects = collects = [one for one in code if one.op in COLLECTS]
        then |= _beside_products(collects)
        pairs = _in_pairs(plain, counts)
        joined = {*then.values(), *pairs.values()}
        run, sums = ([one for one in part if one not in joined] for part in (plain, collects))
        self.slots: dict[Any, int] = {}
        self.code = (_Instruction * max(1, len(run) + len(sums)))()
        for one, to in zip([*run, *sums], self.code, strict=False):
            to.op, to.out, to.count, to.leaf, to.width = OPS.index(one.op), one.out, one.count, one.leaf, one.width
            if one.op not in COLLECTS:
                to.out = homes.get(one.out, one.out)
            to.first_row, to.then, operands = len(picked), -1, one.operands
            if one in pairs:
                first = pairs[one]
                to.op, to.then = OPS.index(first.op), to.op
                to.entry = int(one.operands[0] != Operand("rows", first.out))
                operands = *first.operands, one.operands[1 - to.entry]
            to.operands = len(operands)
            if one in then:
                after = then[one]
                if one.op == "outer":
                    to.then, to.entry = after.leaf, after.out
                else:
                    to.then = OPS.index(after.op)
                if after.op == "tanh'":
                    z = after.operands[1].at
                    to.operand[2].at = homes.get(z, z)
            picked += one.rows
            if one.op in ("linear", "linear^T", "outer"):
                key = (one.op == "outer", one.op, one.leaf, one.count, one.width)
                to.packed = self.slots.setdefault(key, sum(other[0] == key[0] for other in self.slots))
            for operand, place in zip(operands, to.operand, strict=False):
                place.kind, place.at, place.leaf = KINDS.index(operand.kind), operand.at, max(0, operand.leaf)
                if operand.kind == "rows":
                    place.at = homes.get(operand.at, operand.at)
                place.value = operand.value
        self.picked = _ints(picked)
        pointers = ctypes.addressof(self.code), ctypes.addressof(self.picked)
        self.whole = Code(pointers[0], len(run), len(sums), program.rows, pointers[1], None, None)
        self.inputs = _ints([row for _, first, count in program.inputs for row in range(first, first + count)])
        self.outputs = _ints([row for _, rows in program.outputs for row in rows])
        self.sizes = (ctypes.c_int64 * max(1, len(program.leaves)))(*program.leaves)

    def by(self, native: int | None, steps: int | None = None) -> Code:
        """The code with functions in the place of what does not collect, and of runs of steps, at these addresses."""
        whole = self.whole
        return Code(whole.code, whole.length, whole.collects, whole.rows, whole.picked, native, steps)


def _bent(code: list[Instruction], counts: Counter[int]) -> list[Instruction]:
    """With g (1 − z²), the derivative of tanh, and 1 − z² as one instruction where nobody else reads its parts; so is x − z for
    x + (−z).

    Args:
        code: in order.
        counts: of every row, how often it is read.
    """
    made: dict[int, Instruction] = {}

    def part(x: Operand, one: Instruction) -> Instruction | None:
        """What is made for one instruction alone, row by row."""
        found = made.get(x.at) if x.kind == "rows" else None
        alone = found and found.count == one.count and all(counts[x.at + i] == 1 for i in range(one.count))
        return found if alone else None

    for one in code:
        gone = None
        if one.op == "sub" and one.operands[0] == ONE:
            square = part(one.operands[1], one)
            z = square.operands[0] if square and square.op == "mul" else ONE
            if square and z.kind == "rows" and z == square.operands[1]:
                gone, one = square, Instruction("tanh'", one.out, one.count, (ONE, z))
        elif one.op == "add":
            for x, z in (one.operands, one.operands[::-1]):
                minus = part(z, one)
                if minus and minus.op == "neg":
                    gone, one = minus, Instruction("sub", one.out, one.count, (x, minus.operands[0]))
                    break
        elif one.op == "mul":
            for g, x in (one.operands, one.operands[::-1]):
                slope = part(x, one)
                if slope and slope.op == "tanh'" and slope.operands[0] == ONE and g.kind == "rows":
                    gone, one = slope, Instruction("tanh'", one.out, one.count, (g, slope.operands[1]))
                    break
        if gone:
            del made[gone.out]
        made[one.out] = one
    return list(made.values())


def _in_place(code: list[Instruction], counts: Counter[int]) -> dict[int, int]:
    """Of runs of rows that one pointwise instruction alone reads, where they go instead: to where that puts its results.

    A tile then fits nearer caches. By the first row of each; the arguments are those of `_bent`.
    """
    made = {one.out: one for one in code}
    homes: dict[int, int] = {}
    for one in reversed(code):
        if one.op not in POINTWISE:
            continue
        for operand in one.operands:
            parts = made.get(operand.at) if operand.kind == "rows" else None
            reads = sum(operand == other for other in one.operands)
            if parts and parts.count == one.count and all(counts[parts.out + i] == reads for i in range(one.count)):
                homes[parts.out] = homes.get(one.out, one.out)
                break
    return homes


def _behind_products(code: list[Instruction], homes: dict[int, int]) -> dict[Instruction, Instruction]:
    """By products of matrices: tanh, or its derivative, that alone reads their rows and puts its own in their place.

    The machine makes one instruction of both. The arguments are the code and what `_in_place` found in it.
    """
    at = {one.out: place for place, one in enumerate(code)}
    found = {}
    for here, one in enumerate(code):
        if one.op not in ("tanh", "tanh'") or one.operands[0].kind != "rows" or one.operands[0].at not in at:
            continue
        before = at[one.operands[0].at]
        product, z = code[before], one.operands[1].at if one.op == "tanh'" else -one.count
        joins = product.op in ("linear", "linear^T") and homes.get(product.out) == homes.get(one.out, one.out)
        if joins and not any(x.out < z + one.count and z < x.out + x.count for x in code[before:here]):
            found[product] = one
    return found


def _in_pairs(code: list[Instruction], counts: Counter[int]) -> dict[Instruction, Instruction]:
    """By sums, differences and products: one of these that made an operand of theirs, which nobody else reads.

    The machine makes one instruction of both. The arguments are those of `_bent`.
    """
    made: dict[int, Instruction] = {}
    found: dict[Instruction, Instruction] = {}
    for one in code:
        if one.op not in PAIRED or any(x.kind == "leaf" and one.count > FEW for x in one.operands):
            continue
        made[one.out] = one
        for operand in one.operands:
            first = made.get(operand.at) if operand.kind == "rows" else None
            if first and first.count == one.count and all(counts[first.out + i] == 1 for i in range(one.count)):
                found[one] = first
                del made[first.out], made[one.out]
                break
    return found


def _beside_products(collects: list[Instruction]) -> dict[Instruction, Instruction]:
    """By products that a matrix's gradient is: the sum of the same rows, a bias's. The machine reads them once for both."""
    sums = {(one.operands[0], one.count): one for one in collects if one.op == "gather"}
    found: dict[Instruction, Instruction] = {}
    for one in collects:
        if one.op == "outer" and (one.operands[0], one.count) in sums:
            found[one] = sums.pop((one.operands[0], one.count))
    return found


def _ints(values: Sequence[int]) -> Any:
    return (ctypes.c_int32 * max(1, len(values)))(*values)


def addresses(tensors: Sequence[Tensor]) -> array[int]:
    """Pointers to their numbers, for C."""
    return array("Q", map(Tensor.data_ptr, tensors))


def evaluate(
    encoded: Encoded, inputs: dict[str, Tensor], leaves: Sequence[Tensor], native: int | None = None
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """As `program.execute`, on the machine: float32 or float64, on the processor.

    Args:
        encoded, inputs, leaves: the program and what it reads.
        native: the address of a function in its place, of tiles of two vectors and all rows in one memory.
    """
    program = encoded.program
    given = torch.cat(
        [inputs[name].reshape(len(inputs[name]), count) for name, _, count in program.inputs], 1
    ).contiguous()
    samples, dtype = len(given), given.dtype
    suffix = {torch.float32: "float", torch.float64: "double"}[dtype]
    flat = [leaf.detach().to(dtype).contiguous() for leaf in leaves]
    widths = [len(rows) for _, rows in program.outputs]
    found = given.new_empty(samples, sum(widths))
    collected = [torch.zeros_like(leaf) for leaf in flat]
    pointers = addresses(flat), addresses(collected)
    given_at, found_at, leaves_at, collected_at = (
        ctypes.c_void_p(at)
        for at in (given.data_ptr(), found.data_ptr(), *(array_.buffer_info()[0] for array_ in pointers))
    )
    getattr(library(), f"isocline_evaluate_{suffix}")(
        ctypes.byref(encoded.by(native)), leaves_at, len(flat), encoded.sizes,
        encoded.inputs, given.shape[1], given_at,
        encoded.outputs, sum(widths), found_at, collected_at, ctypes.c_int64(samples),
    )  # fmt: skip
    return dict(zip((name for name, _ in program.outputs), found.split(widths, 1), strict=True)), collected
