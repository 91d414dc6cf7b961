"""The instructions of a program as statements on an array `r` of its rows, one sample, in a language like C."""

from __future__ import annotations

import math
import struct
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from isocline.engines.fused.program import Instruction, Operand, Program

# Of operands {0}, {1}; the same in all these languages.
COMMON = {
    "neg": "-{0}",
    "reciprocal": "1 / {0}",
    "not": "{0} == 0 ? 1 : 0",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "lt": "{0} < {1} ? 1 : 0",
    "le": "{0} <= {1} ? 1 : 0",
    "gt": "{0} > {1} ? 1 : 0",
    "ge": "{0} >= {1} ? 1 : 0",
    "eq": "{0} == {1} ? 1 : 0",
    "ne": "{0} != {1} ? 1 : 0",
    "and": "{0} != 0 && {1} != 0 ? 1 : 0",
    "or": "{0} != 0 || {1} != 0 ? 1 : 0",
    "where": "{0} != 0 ? {1} : {2}",
}
FEW = 6  # runs of rows up to which a copy is written run by run


@dataclass(frozen=True)
class Dialect:
    """What differs between the languages.

    Attributes:
        functions: of an operation's operands {0}, {1}.
        helpers: functions that some of those call, by operation: their source.
        integer, real: what declares a counter, and a number.
        array: how a constant array begins, of its name.
        close: how it ends.
        number: a number as text.

    Example:
        >>> from isocline.engines.fused.emit.c import C
        >>> C.functions["tanh"].format("r[0]")
        'ISO_FN(tanh)(r[0])'
    """

    functions: dict[str, str]
    helpers: dict[str, str]
    integer: str
    real: str
    array: Callable[[str, str, int], str]
    close: tuple[str, str]
    number: Callable[[float], str]


def helpers(program: Program, dialect: Dialect) -> list[str]:
    """Source of the functions that a program's statements call."""
    used = {"maximum" if one.op == "max" else one.op for one in program.code}
    return [dialect.helpers[op] for op in dialect.helpers if op in used]


def constants(leaves: Sequence[Tensor], dialect: Dialect, name: str) -> list[str]:
    """The leaves as constant arrays."""
    found = []
    for i, leaf in enumerate(leaves):
        numbers = [shortest(x, leaf.element_size() == 4) for x in leaf.tolist()]
        found.append(array(f"{name}{i}", "real", numbers, dialect))
    return found


def array(name: str, kind: str, entries: Sequence[str], dialect: Dialect) -> str:
    """A constant array."""
    opening, closing = dialect.close
    text = textwrap.fill(", ".join(entries), 100, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
    return f"{dialect.array(name, kind, len(entries))} = {opening}\n{text}\n{closing};"


def shortest(x: float, single: bool = False) -> str:
    """A finite number in as few digits as give it back, in single precision or in double.

    Example:
        >>> shortest(0.1), shortest(0.10000000149011612, single=True), shortest(3.0, single=True)
        ('0.1', '0.1', '3.0')
    """
    if not math.isfinite(x):
        raise ValueError(f"a constant of the field is {x}: such a field cannot be exported")
    if not single:
        return repr(x)
    text = next(text for digits in range(1, 10) if _single(float(text := f"{x:.{digits}g}")) == x)
    return text if "." in text or "e" in text else f"{text}.0"


def _single(x: float) -> float:
    return struct.unpack("f", struct.pack("f", x))[0] if abs(x) < 3.4028235e38 else x


class Body:
    """The statements of a program.

    Example:
        >>> from isocline.engines.fused.emit.c import C
        >>> program = Program([("y", 0, 2)], 4, [Instruction("tanh", 2, 2, (Operand("rows", 0),))], [("dy", (2, 3))])
        >>> print("\\n".join(Body(program, C, "w").lines()))
        for (int i = 0; i < 2; i++) r[2 + i] = ISO_FN(tanh)(r[i]);
        for (int i = 0; i < 2; i++) dy[i] = r[2 + i];
    """

    def __init__(self, program: Program, dialect: Dialect, leaf: str) -> None:
        self.program, self.dialect, self.leaf = program, dialect, leaf
        self.tables = 0

    def lines(self) -> list[str]:
        """All of them, after the inputs have been written to their rows."""
        found = []
        for one in self.program.code:
            found += self.statements(one)
        ((_, rows),) = self.program.outputs
        return found + self.gather("dy", 0, rows)

    def statements(self, one: Instruction) -> list[str]:
        """Those of an instruction."""
        if one.op == "copy":
            return self.gather("r", one.out, one.rows)
        if one.op in ("linear", "sum", "max"):
            return self.nested(one)
        read = [self.operand(operand, one.count) for operand in one.operands]
        if one.op in ("fill", "load"):
            value = read[0]
        elif one.op == "pow" and one.operands[1].kind == "number" and one.operands[1].value in (2.0, 3.0):
            value = " * ".join(read[:1] * int(one.operands[1].value))
        else:
            value = self.dialect.functions[one.op].format(*read)
        return [self.each(one.count, f"{self.at('r', one.out, one.count)} = {value};")]

    def nested(self, one: Instruction) -> list[str]:
        """A sum over neighbours, or over what a matrix multiplies."""
        real, integer = self.dialect.real, self.dialect.integer
        source = one.operands[0]
        before = f"i * {one.width} + " if one.count > 1 else ""
        if one.op == "linear":
            x = self.at("r", source.at, one.width, "j")
            start = self.operand(one.operands[1], one.count) if len(one.operands) > 1 else "0"
            term, first = f"s += {self.leaf}{one.leaf}[{before}j] * {x};", 0
        else:
            before = f"{source.at} + {before}" if source.at else before
            start, entry, first = f"r[{before}0]", f"r[{before}j]", 1
            largest = self.dialect.functions["maximum"].format("s", entry)
            term = f"s += {entry};" if one.op == "sum" else f"s = {largest};"
        return [
            f"for ({integer} i = 0; i < {one.count}; i++) {{" if one.count > 1 else "{",
            f"  {real} s = {start};",
            f"  for ({integer} j = {first}; j < {one.width}; j++) {term}",
            f"  {self.at('r', one.out, one.count)} = s;",
            "}",
        ]

    def gather(self, target: str, first: int, rows: Sequence[int]) -> list[str]:
        """target[first …] from these rows: run by run, or by a table of them."""
        runs: list[list[int]] = []
        for row in rows:
            if runs and row == runs[-1][0] + runs[-1][1]:
                runs[-1][1] += 1
            else:
                runs.append([row, 1])
        if len(runs) > FEW:
            self.tables += 1
            name = f"rows{self.tables}"
            table = array(name, "int", [str(row) for row in rows], self.dialect)
            place = self.at(target, first, len(rows))
            return [*table.splitlines(), self.each(len(rows), f"{place} = r[{name}[i]];")]
        found = []
        for row, count in runs:
            found.append(self.each(count, f"{self.at(target, first, count)} = {self.at('r', row, count)};"))
            first += count
        return found

    def operand(self, operand: Operand, count: int) -> str:
        """Its number in turn i."""
        if operand.kind == "number":
            return self.dialect.number(operand.value)
        name = "r" if operand.kind in ("rows", "splat") else f"{self.leaf}{operand.leaf}"
        return self.at(name, operand.at, count if operand.kind in ("rows", "leaf") else 1)

    @staticmethod
    def at(name: str, first: int, count: int, index: str = "i") -> str:
        """An entry in turn i."""
        if count == 1:
            return f"{name}[{first}]"
        return f"{name}[{first} + {index}]" if first else f"{name}[{index}]"

    def each(self, count: int, statement: str) -> str:
        """A statement in turn i of `count`."""
        return statement if count == 1 else f"for ({self.dialect.integer} i = 0; i < {count}; i++) {statement}"
