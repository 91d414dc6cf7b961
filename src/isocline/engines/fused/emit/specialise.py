"""A tile program as one C++ function, compiled into the machine's cache: in the place of the interpreter.

Runs of pointwise instructions become one loop over the tile's vectors of lanes, what lies between them stays in registers. The
functions of numbers are the interpreter's own, and so are the products with large matrices.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import threading
from collections.abc import Iterable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch

from isocline.engines.fused import build
from isocline.engines.fused.emit import steps
from isocline.engines.fused.emit.blocks import Block, blocks, stored, written
from isocline.engines.fused.emit.values import applied, number, result, uniform
from isocline.engines.fused.native import Encoded
from isocline.engines.fused.program import Operand
from isocline.engines.fused.traced import Traced
from isocline.solvers.tableau import Tableau

logger = logging.getLogger("isocline")
TYPES = {torch.float32: "float", torch.float64: "double"}

FRAME = """// Tile programs as straight code.
#include "interpreter.hpp"

typedef {type} T;
constexpr int NV = {vectors};
"""
FUNCTION = """
extern "C" void isocline_{name}(const T *const *leaves, const T *const *packed, V<T> *low, V<T> *high) {{
  (void)leaves, (void)packed, (void)low, (void)high;
{body}
}}
"""


def frame(dtype: torch.dtype, vectors: int, *functions: str) -> str:
    """A source of functions by `emit`.

    Args:
        dtype: float32 or float64.
        vectors: of lanes in a tile.
        functions: with names of their own.
    """
    return FRAME.format(type=TYPES[dtype], vectors=vectors) + "".join(functions)


def emit(name: str, encoded: Encoded, split: int = 0, kept: Iterable[int] = ()) -> str:
    """A program as a function, `isocline_` and the name: `void (leaves, packed, low, high)`, all but what collects.

    Args:
        name: of the function.
        encoded: the program.
        split: rows that lie in the memory `low`; those from here on in `high`.
        kept: rows that are to be in memory, beside the outputs and what is collected.

    Example:
        >>> from isocline.engines.fused.program import Instruction, Program
        >>> program = Program([("y", 0, 1)], 2, [Instruction("exp", 1, 1, (Operand("rows", 0),))], [("dy", (1,))])
        >>> "const V<T> r1 = f_exp::at<T>(r0);" in emit("f", Encoded(program))
        True
    """
    return FUNCTION.format(name=name, body="\n".join(_Emitter(encoded, split, kept).lines()))


def forward(traced: Traced, dtype: torch.dtype, vectors: int, tableau: Tableau | None = None) -> str:
    """The source of the field's function, which leaves its outputs; and, of a small field, of runs of a method's fixed steps."""
    runs = [] if tableau is None else [steps.forward(traced, tableau)]
    return frame(dtype, vectors, emit("field", traced.encoded, traced.program.rows), *runs)


def backward(traced: Traced, dtype: torch.dtype, vectors: int, tableau: Tableau | None = None) -> str:
    """The source of the field's function and its derivative's, for which the former keeps what the latter reads; and of runs of
    steps likewise, forwards and backwards."""
    rows, rest = traced.program.rows, traced.encoded_derivative
    read = {row for one in (*rest.plain, *rest.collects) for row in one.reads()}
    read |= {row for _, out in rest.program.outputs for row in out}
    kept = [row for row in read if row < rows]
    runs = [] if tableau is None else [steps.forward(traced, tableau), steps.backward(traced, tableau)]
    derivative = emit("derivative", traced.encoded_derivative, rows)
    return frame(dtype, vectors, emit("field", traced.encoded, rows, kept), derivative, *runs)


def entry(leaf: int, index: int | str) -> str:
    """A number of a leaf, the same in all lanes."""
    return f"all<T>(leaves[{leaf}][{index}])"


class _Emitter:
    def __init__(self, encoded: Encoded, split: int, kept: Iterable[int]) -> None:
        self.encoded, self.split, self.parts = encoded, split, blocks(encoded.plain)
        left = {row for _, rows in encoded.program.outputs for row in rows}
        left |= {row for one in encoded.collects for row in one.reads()}
        self.stored = stored(self.parts, left | set(kept))

    def at(self, row: int, plus: str = "") -> str:
        """Where the vectors of a row begin, or of one that comes `plus` rows after it."""
        memory, first = ("low", row) if row < self.split else ("high", row - self.split)
        return f"{memory} + ({first}{plus}) * NV"

    def place(self, row: int, plus: str = "") -> str:
        """Vector v of it."""
        memory, _, first = self.at(row, plus).partition(" + ")
        return f"{memory}[{first} + v]"

    def lines(self) -> list[str]:
        """Block by block."""
        found = []
        for block in self.parts:
            found += [f"  {line}" for line in getattr(self, f"_{block.kind}")(block)]
        return found

    # ---- blocks ---------------------------------------------------------------------------------------------------
    def _straight(self, block: Block) -> list[str]:
        """Every row a statement, in a loop over the vectors of the tile."""
        made: list[str] = []
        known: set[int] = set()

        def row(r: int) -> str:
            if r not in known:
                known.add(r)
                made.append(f"  const V<T> r{r} = {self.place(r)};")
            return f"r{r}"

        def read(operand: Operand, i: int) -> str:
            if operand.kind == "rows":
                return row(operand.at + i)
            return row(operand.at) if operand.kind == "splat" else uniform(operand, i, entry)

        for one in block.code:
            for i in range(one.count):
                value, r = result(one, i, read, row, entry), one.out + i
                made.append(f"  const V<T> r{r} = {value};")
                known.add(r)
                if r in self.stored:
                    made.append(f"  {self.place(r)} = r{r};")
        return ["for (int v = 0; v < NV; v++) {", *made, "}"]

    def _loop(self, block: Block) -> list[str]:
        """Row i of all of them, in registers."""
        made: list[str] = []
        names: dict[range, str] = {}

        def read(operand: Operand) -> str:
            if operand.kind == "rows":
                place = range(operand.at, operand.at + block.count)
                return names.get(place) or self.place(operand.at, " + i")
            return self.place(operand.at) if operand.kind == "splat" else uniform(operand, "i", entry)

        for one in block.code:
            value, name = applied(one, [read(operand) for operand in one.operands]), f"r{one.out}"
            made.append(f"  const V<T> {name} = {value};")
            names[written(one)] = name
            if not self.stored.isdisjoint(written(one)):
                made.append(f"  {self.place(one.out, ' + i')} = {name};")
        return [f"for (int i = 0; i < {block.count}; i++)", "for (int v = 0; v < NV; v++) {", *made, "}"]

    def _alone(self, block: Block) -> list[str]:
        (one,) = block.code
        if one.op == "copy":
            table = ", ".join(f"{self.at(row)}" for row in one.rows)
            return [
                "{",
                f"  const V<T> *const from[] = {{{table}}};",
                f"  for (int i = 0; i < {one.count}; i++)",
                f"    for (int v = 0; v < NV; v++) {self.place(one.out, ' + i')} = from[i][v];",
                "}",
            ]
        x = one.operands[0]
        if one.op in ("linear", "linear^T"):
            matrix = self.encoded.slots[False, one.op, one.leaf, one.count, one.width]
            bias = self._source(one.operands[1]) if len(one.operands) > 1 else "Source<T>{}"
            sizes = f"{one.count}, {one.width}, NV"
            return [f"product<T>(packed[{matrix}], {bias}, {self.at(x.at)}, {sizes}, {self.at(one.out)});"]
        value = "s + x" if one.op == "sum" else "f_maximum::at<T>(s, x)"
        return [
            f"for (int i = 0; i < {one.count}; i++)",
            "for (int v = 0; v < NV; v++) {",
            f"  const V<T> *from = {self.at(x.at, f' + i * {one.width}')} + v;",
            "  V<T> s = from[0];",
            f"  for (int j = 1; j < {one.width}; j++) {{",
            "    const V<T> x = from[j * NV];",
            f"    s = {value};",
            "  }",
            f"  {self.place(one.out, ' + i')} = s;",
            "}",
        ]

    def _source(self, operand: Operand) -> str:
        if operand.kind in ("rows", "splat"):
            return f"Source<T>{{{self.at(operand.at)}, nullptr, {'NV' if operand.kind == 'rows' else '0'}, 0}}"
        if operand.kind == "number":
            return f"Source<T>{{nullptr, nullptr, 0, {number(operand.value)}}}"
        return f"Source<T>{{nullptr, leaves[{operand.leaf}] + {operand.at}, {int(operand.kind == 'leaf')}, 0}}"


# ---- compiling ----------------------------------------------------------------------------------------------------
@cache
def library(source: str) -> ctypes.CDLL:
    """A source compiled, in the cache or now, which takes seconds.

    Raises:
        NoMachineError: where it cannot be.
    """
    compiled_by = build.compiler()
    name = hashlib.sha256(f"{source}\0{build.key(compiled_by)}".encode()).hexdigest()[:16]
    return ctypes.CDLL(str(build.program(compiled_by, name, source)))


def address(found: ctypes.CDLL, name: str) -> int | None:
    """Where a function is; None where there is none of this name."""
    function = getattr(found, f"isocline_{name}", None)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value


class Pending:
    """A source that is being compiled beside; the process waits for it before it ends, so that the next finds it.

    Args:
        source: as for `library`.
    """

    def __init__(self, source: str) -> None:
        self.found: ctypes.CDLL | None = None
        self.thread = threading.Thread(target=self._compile, args=(source,))
        self.thread.start()

    def _compile(self, source: str) -> None:
        try:
            self.found = library(source)
        except (build.NoMachineError, OSError) as error:
            logger.warning("isocline: the field stays interpreted: %s", error)

    def result(self, wait: bool = False) -> ctypes.CDLL | None:
        """The compiled functions; None as long as there are none."""
        if wait:
            self.thread.join()
        return self.found


PENDING: WeakKeyDictionary[Encoded, dict[Any, Pending]] = WeakKeyDictionary()  # by the field's program; they go with it


def compiled(
    way: Any, traced: Traced, dtype: torch.dtype, vectors: int, wait: bool, tableau: Tableau | None = None
) -> ctypes.CDLL | None:
    """The functions of a field, once they are compiled; the first call has it begun.

    Args:
        way: `forward` or `backward`.
        traced, dtype, vectors, tableau: as for these.
        wait: for the compiler.
    """
    own = PENDING.setdefault(traced.encoded, {})
    key = (way, dtype, vectors, tableau)
    if key not in own:
        own[key] = Pending(way(traced, dtype, vectors, tableau))
    return own[key].result(wait)
