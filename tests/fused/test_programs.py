"""Fields as tile programs: the program computes what the field does, its derivative what autograd does, for any batch."""

import inspect

import pytest
import torch
from fused_fields import FIELDS, Field
from torch import nn

import isocline as ic
from isocline.engines.fused.derive import derive
from isocline.engines.fused.lanes import LANES, CannotFuseError
from isocline.engines.fused.native import OPS, Encoded, evaluate
from isocline.engines.fused.program import Instruction, Operand, Program, execute
from isocline.engines.fused.trace import trace
from isocline.nn import MLP, TimeMLP

F64 = torch.float64


def compare(field, width, inputs=()):
    """Program and derivative against the field, on eleven samples that were not traced."""
    generator = torch.Generator().manual_seed(2)

    def draw(count):
        y = torch.randn(count, width, generator=generator, dtype=F64)
        return (
            torch.rand(count, 1, generator=generator, dtype=F64),
            y,
            *(torch.randn(count, *shape, generator=generator, dtype=F64) for shape in inputs),
        )

    t, y, *u = draw(LANES)
    traced = trace(field, t, y, u)
    given = [x.requires_grad_() for x in draw(11)]
    want = field(*given)
    names = ["t", "y", *(f"u{i}" for i in range(len(inputs)))]
    flat = {name: x.detach().reshape(11, -1) for name, x in zip(names, given, strict=True)}
    leaves = traced.prologue()
    got, _ = execute(traced.program, flat, leaves)
    torch.testing.assert_close(got["dy"], want.detach(), rtol=1e-12, atol=1e-12)
    g = torch.randn(11, width, generator=generator, dtype=F64)
    weights = list(field.parameters())
    exact = torch.autograd.grad(want, [*given, *weights], g, materialize_grads=True) if want.requires_grad else None
    derivative = derive(traced.program)
    found, collected = execute(derivative, {**flat, "g": g}, [leaf.detach() for leaf in leaves])
    if exact is None:
        assert all(not bool(x.any()) for x in found.values())
        return traced
    for name, x, e in zip(names, given, exact, strict=False):
        torch.testing.assert_close(found[name].view_as(x), e, rtol=1e-10, atol=1e-10)
    alive = [(leaf, c) for leaf, c in zip(leaves, collected, strict=True) if leaf.requires_grad]
    ours = [None] * len(weights)
    if alive:
        ours = torch.autograd.grad([x for x, _ in alive], weights, [c for _, c in alive], allow_unused=True)
    for a, e in zip(ours, exact[len(given) :], strict=True):
        torch.testing.assert_close(torch.zeros_like(e) if a is None else a, e, rtol=1e-10, atol=1e-10)
    return traced


@pytest.mark.parametrize("name", FIELDS)
def test_a_program_is_its_field(name):
    compare(Field(FIELDS[name]), 3)


@pytest.mark.parametrize("layer", ["concat", "concatsquash", "hyper", "galerkin"])
def test_layers_that_depend_on_time(layer):
    compare(TimeMLP((2, 6, 2), layer=layer).double(), 2)


def test_numbers_of_each_sample():
    compare(Field(lambda s, t, y, u, v: y @ s.w * u + v.sum((-1, -2)).unsqueeze(-1)), 3, [(3,), (2, 2)])


def test_arguments_of_all_samples_meet_outside_of_the_program():
    given = [torch.randn(shape, dtype=F64) for shape in ((LANES, 1), (LANES, 3))]
    v, c = torch.randn(3, dtype=F64), torch.randn((), dtype=F64)
    traced = trace(lambda t, y, v, c: y * (v * c), *given, shared=(v, c))
    (leaf,) = traced.prologue((v, c))
    assert torch.equal(leaf, v * c) and [one.op for one in traced.program.code] == ["mul"]


def _takes_nothing(name):
    found = getattr(ic.problems, name)
    return name.islower() and all(p.default is not p.empty for p in inspect.signature(found).parameters.values())


@pytest.mark.parametrize("name", sorted(filter(_takes_nothing, ic.problems.__all__)))
def test_problems(name):
    problem = getattr(ic.problems, name)()

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = problem.field

        def forward(self, t, y):
            return self.inner(t, y)

    compare(Wrapped(), len(problem.y0))


# ---- as text ------------------------------------------------------------------------------------------------------
def test_an_mlp_is_five_instructions():
    program = compare(MLP((2, 4, 2), dtype=F64), 2).program
    assert program.show().splitlines() == [
        "r0 = t",
        "r1..2 = y",
        "r3..6 = linear w0(4×2) r1..2 + w1[0..3]",
        "r7..10 = tanh r3..6",
        "r11..12 = linear w2(2×4) r7..10 + w3[0..1]",
        "dy = r11..12",
    ]
    assert derive(program).show().splitlines() == [
        "r0 = t",
        "r1..2 = y",
        "r13..14 = g",
        "r3..6 = linear w0(4×2) r1..2 + w1[0..3]",
        "r7..10 = tanh r3..6",
        "r15..18 = linear^T w2(2×4) r13..14",
        "w2[…] += outer r13..14, r7..10",
        "w3[0…] += gather r13..14",
        "r19..22 = mul r7..10, r7..10",
        "r23..26 = sub 1, r19..22",
        "r27..30 = mul r15..18, r23..26",
        "r31..32 = linear^T w0(4×2) r27..30",
        "w0[…] += outer r27..30, r1..2",
        "w1[0…] += gather r27..30",
        "r33 = fill 0",
        "t = r33",
        "y = r31..32",
    ]


def test_what_only_moves_numbers_is_no_instruction():
    program = compare(Field(FIELDS["pieces"]), 3).program
    assert [one.op for one in program.code] == ["mul"]


def test_what_is_computed_twice_is_computed_once():
    program = compare(Field(lambda s, t, y: torch.sin(y) * torch.sin(y) + torch.sin(y)), 3).program
    assert [one.op for one in program.code] == ["sin", "mul", "add"]


def test_what_hangs_on_parameters_alone_stays_outside():
    traced = compare(Field(FIELDS["weights from parameters"]), 3)
    assert [one.op for one in traced.program.code] == ["linear"]
    assert traced.prologue()[0].requires_grad


# ---- refusals -----------------------------------------------------------------------------------------------------
REFUSED = {
    "mixes samples": lambda s, t, y: y - y.mean(0),
    "mixes samples of": lambda s, t, y: y @ y.T @ y,
    "orders them anew": lambda s, t, y: y.flip(0),
    "differently": lambda s, t, y: torch.cat((y[:1], 2 * y[1:])),
    "sort.* is not supported": lambda s, t, y: y.sort(-1).values,
    "draws random numbers": lambda s, t, y: y + torch.randn_like(y),
    "writes into a tensor": lambda s, t, y: _written(y),
    "could not be traced": lambda s, t, y: y if y.sum() > 0 else -y,
    "picks by numbers of the sample": lambda s, t, y: y.gather(1, (y > 0).long()),
}


def _written(y):
    x = y * 1
    x[:, 0] = 0.0
    return x


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_none_is_refused_by_name(says):
    field = Field(REFUSED[says])
    with pytest.raises(CannotFuseError, match=says):
        trace(field, torch.rand(LANES, 1, dtype=F64), torch.randn(LANES, 3, dtype=F64))


def test_a_number_spread_over_a_matrix_gets_the_sum_of_the_entries_cotangents():
    def f(t, y):
        turned = torch.ones(50, 60, dtype=F64) * (t + y[:, :1]).reshape(-1, 1, 1).cos()
        return -y * torch.tanh(turned).mean((1, 2)).reshape(-1, 1)

    y0 = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    program = trace(f, torch.zeros(LANES, 1, dtype=F64), y0[:LANES]).program
    assert len(derive(program).code) < 40
    found = []
    for engine in ("fused", "eager"):
        y = y0.clone().requires_grad_()
        ys = ic.solve(f, y, [0.0, 1.0], engine=engine, batching="per_sample", solver="rk4", step=0.25).ys
        found.append([ys, *torch.autograd.grad(ys.square().sum(), y)])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(("activation", "shared"), [(nn.Tanh, True), (nn.SiLU, False)])
def test_results_take_the_place_of_what_nobody_else_reads(activation, shared):
    """The sums before a tanh, whose derivative is of its result; the derivative of SiLU reads what went in."""
    net = nn.Sequential(nn.Linear(2, 16), activation(), nn.Linear(16, 2)).double()
    traced = trace(lambda t, y: net(y), torch.zeros(LANES, 1, dtype=F64), torch.zeros(LANES, 2, dtype=F64), ())
    sums = next(one for one in traced.program.code if one.op == "linear")
    moved = [to.out for one, to in zip(traced.encoded.plain, traced.encoded.code, strict=False) if one.out == sums.out]
    assert (moved != [sums.out]) == shared
    after = [to.then for to in traced.encoded.code if to.out == moved[0]]
    assert after == ([OPS.index("tanh")] if shared else [-1])


def test_products_take_the_derivative_of_tanh_behind_them():
    """As one instruction, where its result is known before the product; where it is computed after, both stay."""
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    traced = trace(lambda t, y: net(y), torch.zeros(LANES, 1, dtype=F64), torch.zeros(LANES, 2, dtype=F64), ())
    encoded = traced.encoded_derivative
    bent, then = OPS.index("tanh'"), [one.then for one in encoded.code[: encoded.whole.length]]
    assert [one.then for one in traced.encoded.code].count(OPS.index("tanh")) == 2
    assert [one.op for one in encoded.plain].count("tanh'") == then.count(bent) == 2
    assert len(encoded.plain) == encoded.whole.length + 2

    rows = lambda at: Operand("rows", at)
    sums, z, g = (
        Instruction("linear", 4, 2, (rows(0),), leaf=0, width=2),
        Instruction("exp", 6, 2, (rows(2),)),
        Instruction("tanh'", 8, 2, (rows(4), rows(6))),
    )
    own = Instruction("tanh'", 8, 2, (rows(4), rows(4)))  # of the sums by themselves
    for code, length in (([sums, z, g], 3), ([z, sums, g], 2), ([sums, own], 2)):
        program = Program([("x", 0, 2), ("u", 2, 2)], 10, code, [("out", (8, 9))], [4])
        encoded = Encoded(program)
        assert encoded.whole.length == length
        x, u, w = torch.randn(5, 2), torch.randn(5, 2), torch.randn(2, 2)
        found, _ = evaluate(encoded, {"x": x, "u": u}, [w])
        by = x @ w.T if own in code else u.exp()
        torch.testing.assert_close(found["out"], x @ w.T * (1 - by.square()))


class Written(nn.Module):
    """y W + b as people write it, of which somebody may read the product too; and 1 − tanh² of it."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.w, self.b = (nn.Parameter(torch.randn(*shape, dtype=F64)) for shape in ((2, 2), (2,)))

    def forward(self, t, y):
        product = y @ self.w
        x = self.b + product if self.form == "before" else product + self.b
        if self.form == "read":
            return x * product
        if self.form == "slope":
            return (1 - torch.tanh(x) ** 2) * y.sin()
        return y * (1 - torch.tanh(x).square()) + 1 - y * y if self.form == "apart" else x


@pytest.mark.parametrize(
    ("form", "ops"),
    [
        ("after", ["linear"]),
        ("before", ["linear"]),
        ("read", ["linear", "add", "mul"]),
        ("slope", ["linear", "tanh", "sin", "tanh'"]),
        ("apart", ["linear", "tanh", "tanh'", "add", "mul", "sub"]),
    ],
)
@pytest.mark.machine
def test_sums_and_slopes_that_are_written_out(form, ops):
    traced = compare(Written(form), 2)
    assert [one.op for one in traced.encoded_alone.plain] == ops
    t, y = torch.zeros(7, 1, dtype=F64), torch.randn(7, 2, dtype=F64)
    leaves = [x.detach() for x in traced.prologue()]
    want, _ = execute(traced.program, {"t": t, "y": y}, leaves)
    for encoded in (traced.encoded_alone, traced.encoded):
        found, _ = evaluate(encoded, {"t": t, "y": y}, leaves)
        torch.testing.assert_close(found["dy"], want["dy"], rtol=1e-13, atol=1e-13)


def test_who_wants_no_derivative_keeps_nothing_for_it():
    net = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 2)).double()
    traced = trace(lambda t, y: net(y), torch.zeros(LANES, 1, dtype=F64), torch.zeros(LANES, 2, dtype=F64), ())
    written = [len({to.out for to in encoded.code}) for encoded in (traced.encoded_alone, traced.encoded)]
    assert written[0] < written[1]
