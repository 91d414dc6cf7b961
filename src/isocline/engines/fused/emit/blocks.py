"""Which instructions of a program run together, their intermediate rows in registers, and which rows have to be in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from isocline.engines.fused.program import Instruction

UNROLLED = 8  # rows of an instruction up to which each is a statement
TINY = 32  # products of a matrix, terms of a sum, up to which they are written out
LONGEST = 256  # statements in a block


@dataclass
class Block:
    """Neighbouring instructions.

    Attributes:
        kind: "straight": every row is a statement; "loop": all of `count` rows, row i of each hangs on row i of those before;
            "alone": one that reads and writes memory.
    """

    kind: str
    code: list[Instruction] = field(default_factory=list)
    count: int = 0


def blocks(code: Sequence[Instruction]) -> list[Block]:
    """Code in blocks, in order; nothing in it collects.

    Example:
        >>> import torch
        >>> from isocline.engines.fused.trace import trace
        >>> weight = torch.ones(3, 20)
        >>> traced = trace(lambda t, y: torch.tanh(2 * (y @ weight)) @ weight.T, torch.zeros(3, 1), torch.ones(3, 3))
        >>> [(block.kind, [one.op for one in block.code]) for block in blocks(traced.program.code)]
        [('alone', ['linear']), ('loop', ['mul', 'tanh']), ('alone', ['linear'])]
    """
    found: list[Block] = []
    size = 0
    for one in code:
        kind = _kind(one)
        last = found[-1] if found else Block("")
        joins = kind == last.kind and kind != "alone"
        if kind == "straight":
            joins = joins and size < LONGEST
        elif kind == "loop":
            joins = joins and last.count == one.count and _aligned(one, last)
        if not joins:
            found.append(Block(kind, [], one.count))
            size = 0
        found[-1].code.append(one)
        size += statements(one)
    return found


def statements(one: Instruction) -> int:
    """How many terms an instruction is, written out."""
    return one.count * max(1, one.width)


def _kind(one: Instruction) -> str:
    if one.op in ("linear", "linear^T", "sum", "max"):
        return "straight" if statements(one) <= TINY else "alone"
    if one.count <= UNROLLED:
        return "straight"
    return "alone" if one.op == "copy" else "loop"


def _aligned(one: Instruction, block: Block) -> bool:
    """Whether row i reads row i alone of what the block computes."""
    for rows in reads(one):
        for other in block.code:
            made = written(other)
            if rows != made and rows.start < made.stop and made.start < rows.stop:
                return False
    return True


def written(one: Instruction) -> range:
    """The rows an instruction fills."""
    return range(one.out, one.out + one.count)


def reads(one: Instruction) -> Iterator[range]:
    """The runs of rows it reads."""
    for row in one.rows:
        yield range(row, row + 1)
    for i, operand in enumerate(one.operands):
        if operand.kind == "splat":
            yield range(operand.at, operand.at + 1)
        elif operand.kind == "rows":
            yield range(operand.at, operand.at + one.reach(i))


def stored(parts: Sequence[Block], left: set[int]) -> set[int]:
    """The rows that have to be in memory: those that are left, and those that another block reads."""
    home = {row: k for k, block in enumerate(parts) for one in block.code for row in written(one)}
    needed = set(left)
    for k, block in enumerate(parts):
        for one in block.code:
            needed |= {row for rows in reads(one) for row in rows if home.get(row, k) != k}
    return needed
