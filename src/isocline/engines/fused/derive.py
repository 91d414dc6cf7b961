"""The derivative of a tile program, as a tile program: the cotangent of dy goes in, those of the inputs and leaves come out.

The rule of each instruction is here, in one line where it can be. Where several are right (a maximum of equals, the slope of
|x| at 0) it is PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from isocline.engines.fused.program import COLLECTS, Instruction, Operand, Program

COTANGENT = "g"
MANY = 4  # parts of a row's cotangent that are added by one instruction
Make = Callable[..., Operand]  # an operation on operands and numbers, of as many rows as the instruction has


def derive(program: Program) -> Program:
    """g (cotangent of dy) and the inputs to the inputs' cotangents, by name; those of the leaves are collected.

    Example:
        >>> import torch
        >>> from isocline.engines.fused.trace import trace
        >>> print(derive(trace(lambda t, y: torch.sin(y) * t, torch.zeros(3, 1), torch.ones(3, 2)).program).show())
        r0 = t
        r1..2 = y
        r7..8 = g
        r3..4 = sin r1..2
        r9..10 = mul r7..8, r0
        r11..12 = mul r7..8, r3..4
        r13 = sum of 2 r11..12
        r14..15 = cos r1..2
        r16..17 = mul r9..10, r14..15
        t = r13
        y = r16..17
    """
    return _Derivative(program).run()


class _Derivative:
    def __init__(self, program: Program) -> None:
        self.before = program
        self.made = Program(list(program.inputs), program.rows, list(program.code), [], list(program.leaves))
        self.made.known = dict(program.known)
        self.adjoint: dict[int, int] = {}  # row of the program -> row of its cotangent

    def run(self) -> Program:
        """Backwards through the code."""
        made = self.made
        ((_, outputs),) = self.before.outputs
        start = made.take(len(outputs))
        made.inputs.append((COTANGENT, start, len(outputs)))
        self.give(outputs, range(start, start + len(outputs)))
        for one in reversed(self.before.code):
            rows = range(one.out, one.out + one.count)
            if any(row in self.adjoint for row in rows):
                self.rule(one, self.rows([self.of(row) for row in rows]))
        for name, first, count in self.before.inputs:
            made.outputs.append((name, tuple(self.of(row) for row in range(first, first + count))))
        made.code = _needed(made)
        return made

    # ---- cotangents -----------------------------------------------------------------------------------------------
    def of(self, row: int) -> int:
        """The cotangent of a row."""
        if row not in self.adjoint:
            return self.made.add("fill", 1, Operand("number", value=0.0))
        return self.adjoint[row]

    def give(self, rows: Sequence[int], parts: Sequence[int]) -> None:
        """Adds parts to the cotangents of rows, which may repeat: a row that was spread over many gets their sum."""
        waiting: dict[int, list[int]] = {}
        for row, part in zip(rows, parts, strict=True):
            waiting.setdefault(row, []).append(part)
        for row, several in waiting.items():
            if len(several) > MANY:
                waiting[row] = [self.made.add("sum", 1, self.rows(several), width=len(several))]
        while waiting:
            old: list[int] = []
            new: list[int] = []
            owners: list[int] = []
            for row, several in waiting.items():
                if row not in self.adjoint:
                    self.adjoint[row] = several.pop(0)
                if several:
                    owners.append(row)
                    old.append(self.adjoint[row])
                    new.append(several.pop(0))
            if owners:
                first = self.made.add("add", len(owners), self.rows(old), self.rows(new))
                self.adjoint.update(zip(owners, range(first, first + len(owners)), strict=True))
            waiting = {row: several for row, several in waiting.items() if several}

    def rows(self, rows: list[int]) -> Operand:
        """An operand that reads these rows; never some of the field's own and some of the derivative's in one run."""
        apart = rows[0] < self.before.rows <= rows[-1]
        if rows == list(range(rows[0], rows[0] + len(rows))) and not apart:
            return Operand("rows", rows[0])
        return Operand("rows", self.made.add("copy", len(rows), rows=tuple(rows)))

    def back(self, operand: Operand, part: int, count: int) -> None:
        """What an operand gets: rows `part` …, one for each row of the instruction."""
        rows = Operand("rows", part)
        if operand.kind == "rows":
            self.give(range(operand.at, operand.at + count), range(part, part + count))
        elif operand.kind == "splat":
            self.give([operand.at], [part if count == 1 else self.made.add("sum", 1, rows, width=count)])
        elif operand.kind == "leaf":
            self.collect("gather", operand.at, count, rows, leaf=operand.leaf)
        elif operand.kind == "entry":
            self.collect("total", operand.at, count, rows, leaf=operand.leaf)

    def collect(self, op: str, at: int, count: int, *operands: Operand, leaf: int, width: int = 0) -> None:
        """An instruction that adds to what is collected for a leaf."""
        self.made.code.append(Instruction(op, at, count, operands, leaf=leaf, width=width))

    # ---- rules ----------------------------------------------------------------------------------------------------
    def rule(self, one: Instruction, g: Operand) -> None:
        """The cotangents of an instruction's operands from that of its result."""
        out, n = Operand("rows", one.out), one.count

        def make(op: str, *operands: Operand | float) -> Operand:
            found = [x if isinstance(x, Operand) else Operand("number", value=x) for x in operands]
            return Operand("rows", self.made.add(op, n, *found))

        if one.op in ("linear", "sum", "max", "copy", "load"):
            getattr(self, f"_{one.op}")(one, g)
        elif one.op == "where":
            condition, a, b = one.operands
            self.back(a, make("where", condition, g, 0.0).at, n)
            self.back(b, make("where", condition, 0.0, g).at, n)
        elif len(one.operands) == 2:
            for operand, part in zip(one.operands, self.binary(one.op, *one.operands, out, g, make), strict=True):
                if part is not None and operand.kind != "number":
                    self.back(operand, part().at, n)
        elif one.op != "fill":
            part = self.unary(one.op, one.operands[0], out, g, make)
            if part is not None:
                self.back(one.operands[0], part.at, n)

    @staticmethod
    def unary(op: str, x: Operand, out: Operand, g: Operand, make: Make) -> Operand | None:
        """g times the slope; None where that is 0."""
        rules = {
            "neg": lambda: make("neg", g),
            "abs": lambda: make("mul", g, make("sign", x)),
            "exp": lambda: make("mul", g, out),
            "expm1": lambda: make("mul", g, make("add", out, 1.0)),
            "log": lambda: make("div", g, x),
            "log1p": lambda: make("div", g, make("add", x, 1.0)),
            "sqrt": lambda: make("div", make("mul", g, 0.5), out),
            "rsqrt": lambda: make("mul", make("mul", g, -0.5), make("mul", out, make("mul", out, out))),
            "reciprocal": lambda: make("neg", make("mul", g, make("mul", out, out))),
            "sin": lambda: make("mul", g, make("cos", x)),
            "cos": lambda: make("neg", make("mul", g, make("sin", x))),
            "tan": lambda: make("mul", g, make("add", make("mul", out, out), 1.0)),
            "sinh": lambda: make("mul", g, make("cosh", x)),
            "cosh": lambda: make("mul", g, make("sinh", x)),
            "tanh": lambda: make("mul", g, make("sub", 1.0, make("mul", out, out))),
            "atan": lambda: make("div", g, make("add", make("mul", x, x), 1.0)),
            "sigmoid": lambda: make("mul", g, make("mul", out, make("sub", 1.0, out))),
            "softplus": lambda: make("mul", g, make("sigmoid", x)),
            "erf": lambda: make(
                "mul", make("mul", g, 2 / math.sqrt(math.pi)), make("exp", make("neg", make("mul", x, x)))
            ),
        }
        return rules[op]() if op in rules else None

    @staticmethod
    def binary(
        op: str, a: Operand, b: Operand, out: Operand, g: Operand, make: Make
    ) -> tuple[Callable[[], Operand] | None, ...]:
        """How to make g times the slopes by both operands; None where one is 0."""

        def norm() -> Operand:
            return make("add", make("mul", a, a), make("mul", b, b))

        def beyond(strictly: str, at_least: str, x: Operand, y: Operand) -> Operand:
            """g where x is chosen, half of it where x is y; of a bound, y a number, nothing there, as of a rectifier."""
            if y.kind == "number":
                return make("where", make(strictly, x, y), g, 0.0)
            half = make("mul", g, 0.5)
            return make(
                "add", make("where", make(strictly, x, y), half, 0.0), make("where", make(at_least, x, y), half, 0.0)
            )

        rules = {
            "add": (lambda: g, lambda: g),
            "sub": (lambda: g, lambda: make("neg", g)),
            "mul": (lambda: make("mul", g, b), lambda: make("mul", g, a)),
            "div": (lambda: make("div", g, b), lambda: make("neg", make("div", make("mul", g, out), b))),
            "pow": (
                lambda: make("mul", g, make("mul", b, make("pow", a, make("sub", b, 1.0)))),
                # As PyTorch: 0 where the base is 0, whose logarithm is not finite.
                lambda: make("where", make("eq", a, 0.0), 0.0, make("mul", g, make("mul", out, make("log", a)))),
            ),
            "atan2": (
                lambda: make("div", make("mul", g, b), norm()),
                lambda: make("neg", make("div", make("mul", g, a), norm())),
            ),
            "minimum": (lambda: beyond("lt", "le", a, b), lambda: beyond("lt", "le", b, a)),
            "maximum": (lambda: beyond("gt", "ge", a, b), lambda: beyond("gt", "ge", b, a)),
        }
        return rules.get(op, (None, None))

    def _linear(self, one: Instruction, g: Operand) -> None:
        x, *bias = one.operands
        first = self.made.add("linear^T", one.width, g, leaf=one.leaf, width=one.count)
        self.give(range(x.at, x.at + one.width), range(first, first + one.width))
        self.collect("outer", 0, one.count, g, x, leaf=one.leaf, width=one.width)
        for operand in bias:
            self.back(operand, g.at, one.count)

    def _sum(self, one: Instruction, g: Operand) -> None:
        at = one.operands[0].at
        self.give(range(at, at + one.count * one.width), [g.at + i for i in range(one.count) for _ in range(one.width)])

    def _max(self, one: Instruction, g: Operand) -> None:
        """Equals share."""
        x, total = one.operands[0], one.count * one.width

        def spread(first: int) -> Operand:
            return self.rows([first + i for i in range(one.count) for _ in range(one.width)])

        mask = Operand("rows", self.made.add("eq", total, x, spread(one.out)))
        count = Operand("rows", self.made.add("sum", one.count, mask, width=one.width))
        share = self.made.add("div", one.count, g, count)
        self.back(x, self.made.add("mul", total, mask, spread(share)), total)

    def _copy(self, one: Instruction, g: Operand) -> None:
        self.give(one.rows, range(g.at, g.at + one.count))

    def _load(self, one: Instruction, g: Operand) -> None:
        self.back(one.operands[0], g.at, one.count)


def _needed(program: Program) -> list[Instruction]:
    """The code without what nothing left depends on."""
    wanted = {row for _, rows in program.outputs for row in rows}
    kept = []
    for one in reversed(program.code):
        collects = one.op in COLLECTS
        if not collects and wanted.isdisjoint(range(one.out, one.out + one.count)):
            continue
        kept.append(one)
        wanted.update(one.reads())
    return kept[::-1]
