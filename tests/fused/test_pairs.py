"""Sums, differences and products, of which the machine runs two as one instruction where nobody else reads the first."""

from itertools import product

import pytest
import torch
from fused_fields import random
from torch import nn

import isocline as ic
from isocline.engines.fused.native import OPS, Encoded, evaluate
from isocline.engines.fused.plan import Plan
from isocline.engines.fused.program import BINARY, Instruction, Operand, Program, execute

F64 = torch.float64
ARITHMETIC = ("add", "sub", "mul")
COUNT = 6  # rows of an instruction: of a leaf's entries more than a quick one reads


def operands(kind, first):
    """A place to read COUNT rows from."""
    return {
        "rows": Operand("rows", first),
        "splat": Operand("splat", first),
        "leaf": Operand("leaf", 1, leaf=0),
        "entry": Operand("entry", 2, leaf=0),
        "number": Operand("number", value=0.75),
    }[kind]


@pytest.mark.machine
@pytest.mark.parametrize("count", [1, 3, COUNT])
@pytest.mark.parametrize("kinds", [*product(["rows", "entry", "leaf"], repeat=3), ("splat", "number", "rows")])
def test_two_as_one(kinds, count):
    """Every pair, its result on either side; one instruction but of many entries of a leaf."""
    x = {"x": random(7, 3 * COUNT), "u": random(7, 1)}
    leaf = random(1, COUNT + 3)[0]
    places = [operands(kind, i * COUNT) for i, kind in enumerate(kinds)]
    rows = 3 * COUNT + 1
    for first, second, after in product(ARITHMETIC, ARITHMETIC, (False, True)):
        made = Operand("rows", rows)
        both = (places[2], made) if after else (made, places[2])
        code = [
            Instruction(first, rows, count, (places[0], places[1])),
            Instruction(second, rows + count, count, both),
        ]
        outputs = [("out", tuple(range(rows + count, rows + 2 * count)))]
        program = Program([("x", 0, 3 * COUNT), ("u", 3 * COUNT, 1)], rows + 2 * count, code, outputs, [len(leaf)])
        encoded = Encoded(program)
        want, _ = execute(program, x, [leaf])
        found, _ = evaluate(encoded, x, [leaf])
        assert torch.equal(found["out"], want["out"])
        assert encoded.whole.length == 1 + (count > 4 and "leaf" in kinds)
        if encoded.whole.length == 1:
            assert encoded.code[0].then == OPS.index(second)


def test_what_somebody_else_reads_stays():
    square = Instruction("mul", 2, 1, (Operand("rows", 0), Operand("rows", 1)))
    last = Instruction("add", 3, 1, (Operand("rows", 2), Operand("rows", 0)))
    for outputs, reader, length in (
        ((3,), [], 1),
        ((2, 3), [], 2),
        ((3,), [Instruction("exp", 4, 1, (Operand("rows", 2),))], 3),
    ):
        program = Program([("y", 0, 2)], 5, [square, last, *reader], [("dy", outputs)], [])
        assert Encoded(program).whole.length == length
    twice = Instruction("add", 3, 1, (Operand("rows", 2), Operand("rows", 2)))
    assert Encoded(Program([("y", 0, 2)], 4, [square, twice], [("dy", (3,))], [])).whole.length == 2


def test_a_sum_with_what_is_turned_round_is_a_difference():
    x, y, minus = Operand("rows", 0), Operand("rows", 1), Operand("rows", 2)
    neg = Instruction("neg", 2, 1, (y,))
    for order in ((x, minus), (minus, x)):
        program = Program([("y", 0, 2)], 4, [neg, Instruction("add", 3, 1, order)], [("dy", (3,))], [])
        (one,) = Encoded(program).plain
        assert (one.op, one.operands) == ("sub", (x, y))


class Polynomial(nn.Module):
    """All pairs, with numbers that all samples share at each place; and long sums."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-0.4, 0.5, 5, dtype=F64))
        self.m = nn.Parameter(random(9, 2, seed=3) / 4)

    def forward(self, t, y):
        x, z = y.unbind(-1)
        a, b, c, d, e = self.w
        terms = []
        for first, second in product(ARITHMETIC, ARITHMETIC):
            f, g = BINARY[first], BINARY[second]
            terms += [g(f(x, a), z), g(z, f(b, x)), g(f(x, z), c), g(d, f(z, x)), g(f(x, x), f(z, e))]
        grouped = torch.stack(terms[:9], -1) @ self.m.to(y.dtype)
        rest = torch.stack((sum(terms[9:20]), sum(terms[20:])), -1) / 20
        return grouped.tanh() + (rest - y * y.sum(-1, keepdim=True)).sin()


@pytest.mark.machine
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_tiles_of_all_widths(dtype, adaptive, monkeypatch):
    """The same bits of ys; gradients to rounding, as of the eager engine."""
    field, y0, found = Polynomial().to(dtype), random(40, 2).to(dtype), []
    how = {} if adaptive else {"solver": "rk4", "step": 0.1}
    for width in (None, 0, 1, 2, 8, 16):
        y = y0.clone().requires_grad_()
        with monkeypatch.context() as patch:
            if width is not None:
                patch.setattr(Plan, "_width", lambda self, samples, together, width=width: width)
            engine = "eager" if width is None else "fused"
            ys = ic.solve(field, y, [0.0, 0.5, 1.0], engine=engine, batching="per_sample", **how).ys
        loss = (ys * torch.linspace(-1, 1, ys.numel(), dtype=dtype).view(ys.shape)).sum()
        found.append((ys.detach(), *torch.autograd.grad(loss, [y, *field.parameters()])))
    eager, first, *others = found
    near = 1e-11 if dtype == F64 else 1e-3  # of which the choice of steps makes most
    for other in (first, *others):
        assert torch.equal(other[0], first[0])
        for x, want in zip(other, eager, strict=True):
            assert float((x - want).norm()) <= near * float(want.norm())
