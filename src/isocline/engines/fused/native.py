"""Tile programs on the machine."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.engines.fused.build import library
from isocline.engines.fused.program import BINARY, UNARY, Program

# In the order of interpreter.hpp's list.
OPS = [*UNARY, *BINARY, "where", "fill", "load", "copy", "linear", "linear^T", "sum", "max", "gather", "total", "outer"]
KINDS = ["rows", "splat", "leaf", "entry", "number"]


class _Operand(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("kind", "at", "leaf", "unused")] + [("value", ctypes.c_double)]


class _Instruction(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("op", "out", "count", "leaf", "width", "first_row", "operands", "packed")
        ),
        ("operand", _Operand * 3),
    ]


class Encoded:
    """A program as the machine reads it."""

    def __init__(self, program: Program) -> None:
        self.program, picked, matrices = program, [], {}
        self.code = (_Instruction * max(1, len(program.code)))()
        for one, to in zip(program.code, self.code, strict=False):
            to.op, to.out, to.count, to.leaf, to.width = OPS.index(one.op), one.out, one.count, one.leaf, one.width
            to.first_row, to.operands = len(picked), len(one.operands)
            picked += one.rows
            if one.op in ("linear", "linear^T"):
                to.packed = matrices.setdefault((one.op, one.leaf, one.count, one.width), len(matrices))
            for operand, place in zip(one.operands, to.operand, strict=False):
                place.kind, place.at, place.leaf = KINDS.index(operand.kind), operand.at, max(0, operand.leaf)
                place.value = operand.value
        self.picked = (ctypes.c_int32 * max(1, len(picked)))(*picked)
        self.inputs = _ints([row for _, first, count in program.inputs for row in range(first, first + count)])
        self.outputs = _ints([row for _, rows in program.outputs for row in rows])


def _ints(values: Sequence[int]) -> Any:
    return (ctypes.c_int32 * max(1, len(values)))(*values)


def addresses(tensors: Sequence[Tensor]) -> Any:
    """Pointers to their numbers, for C."""
    return (ctypes.c_void_p * max(1, len(tensors)))(*(x.data_ptr() for x in tensors))


def evaluate(
    encoded: Encoded, inputs: dict[str, Tensor], leaves: Sequence[Tensor]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """As `program.execute`, on the machine: float32 or float64, on the processor."""
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
    sizes = (ctypes.c_int64 * max(1, len(flat)))(*(x.numel() for x in flat))
    getattr(library(), f"isocline_evaluate_{suffix}")(
        encoded.code, len(program.code), program.rows, encoded.picked, addresses(flat), len(flat), sizes,
        encoded.inputs, given.shape[1], ctypes.c_void_p(given.data_ptr()),
        encoded.outputs, sum(widths), ctypes.c_void_p(found.data_ptr()), addresses(collected), ctypes.c_int64(samples),
    )  # fmt: skip
    return dict(zip((name for name, _ in program.outputs), found.split(widths, 1), strict=True)), collected
