"""The machine: native programs are the reference's, native solves the eager engine's, gradients to rounding."""

import itertools
import os
import re
import subprocess
import sys
import weakref

import pytest
import torch
from fused_fields import FIELDS, Field
from torch import nn

import isocline as ic
from isocline.engines.fused import native, prepare, solve, threads
from isocline.engines.fused.derive import derive
from isocline.engines.fused.lanes import LANES
from isocline.engines.fused.program import execute
from isocline.engines.fused.trace import trace
from isocline.nn import MLP, NeuralODE
from isocline.solvers import Solver
from isocline.solvers.runge_kutta import ExplicitRungeKutta

pytestmark = pytest.mark.machine

F64 = torch.float64
EXPLICIT = sorted(
    name for name, cls in Solver.registry.items() if issubclass(cls, ExplicitRungeKutta) and not cls.wants_pair
)
STEPS = [(name, {"step": 0.05}) for name in EXPLICIT]
TIGHT, LOOSE = {"rtol": 1e-6, "atol": 1e-8}, {"rtol": 1e-4, "atol": 1e-6}  # for methods of order 2 the steps are many
STEPS += [(n, LOOSE if Solver.named(n).order < 3 else TIGHT) for n in EXPLICIT if Solver.named(n).error_order]


FUNCTIONS = [
    "exp",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "tanh",
    "atan",
    "sigmoid",
    "softplus",
    "erf",
    "sqrt",
    "rsqrt",
]


# ---- programs -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", FIELDS)
def test_native_programs(name, dtype):
    field, generator = Field(FIELDS[name]), torch.Generator().manual_seed(0)
    traced = trace(field, torch.rand(LANES, 1, dtype=F64), torch.randn(LANES, 3, generator=generator, dtype=F64))
    given = {"t": 1, "y": 3, "g": 3}
    given = {name: torch.randn(37, n, generator=generator, dtype=F64) for name, n in given.items()}
    leaves = [leaf.detach() for leaf in traced.prologue()]
    for program in (traced.program, derive(traced.program)):
        inputs = {name: given[name] for name, _, _ in program.inputs}
        want, collected = execute(program, inputs, leaves)
        found, ours = native.evaluate(native.Encoded(program), {k: v.to(dtype) for k, v in inputs.items()}, leaves)
        tolerance = 1e-12 if dtype == F64 else 2e-4
        for a, b in zip([*found.values(), *ours], [*want.values(), *collected], strict=True):
            torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * (1 + float(b.abs().max())))


CLOSE = {"tanh": 2.0, "exp": 2.0}


# What PyTorch's own are within is not known; double precision says.
@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions_are_within_few_units_in_the_last_place(op):
    """Over floats of all sizes: two units for the common activations' tanh and exp, four for the others; where the result is no
    ordinary float, what is near it."""
    bits = torch.arange(0, 2**31 - 1, 5021 if op in CLOSE else 50021, dtype=torch.int64).to(torch.int32)
    x = torch.cat((bits.view(torch.float32), -bits.view(torch.float32)))
    x = x[x.isfinite()]
    reference = getattr(torch, op, None) or getattr(torch.nn.functional, op)
    want = reference(x.double())
    program = trace(lambda t, y: reference(y), torch.zeros(LANES, 1), torch.ones(LANES, 1)).program
    found, _ = native.evaluate(native.Encoded(program), {"t": torch.zeros(len(x), 1), "y": x[:, None]}, [])
    got = found["dy"][:, 0]
    rounded = want.float()
    assert torch.equal(got.isnan(), rounded.isnan())
    ordinary = rounded.isfinite() & (rounded.abs() >= torch.finfo(torch.float32).tiny) & (x.abs() < 1e5)
    unit = torch.nextafter(rounded.abs(), torch.tensor(float("inf"))).double() - rounded.abs().double()
    off = ((got.double() - want).abs() / unit)[ordinary]
    assert float(off.max()) <= CLOSE.get(op, 4.0)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0])
    found, _ = native.evaluate(native.Encoded(program), {"t": torch.zeros(5, 1), "y": special[:, None]}, [])
    torch.testing.assert_close(found["dy"][:, 0], reference(special), equal_nan=True)


# ---- solves -------------------------------------------------------------------------------------------------------
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = MLP((2, 16, 2), seed=3, dtype=F64)

    def forward(self, t, y, a):
        return (3 * self.mlp(t, y) + torch.sin(3 * t)) * a


def given(count=21):
    """y0, ragged times in both directions, an argument of each sample."""
    generator = torch.Generator().manual_seed(1)
    y0 = torch.randn(count, 2, generator=generator, dtype=F64)
    ts = torch.linspace(0, 3, 11, dtype=F64) * torch.linspace(0.5, 1.5, count, dtype=F64)[:, None]
    if count > 5:
        ts[3] *= -1
        ts[5, 6:] = float("nan")
    return y0.requires_grad_(), ts, torch.linspace(0.8, 1.2, count, dtype=F64)[:, None].requires_grad_()


@pytest.mark.parametrize(("solver", "options"), STEPS)
def test_a_native_solve_is_the_eager_one(solver, options):
    net = Net()
    found = {}
    for engine in ("eager", "fused"):
        y0, ts, a = given()
        sol = ic.solve(net, y0, ts, solver=solver, batching="per_sample", engine=engine, args=(a,), **options)
        weights = torch.linspace(-1, 1, sol.ys.numel(), dtype=F64).reshape(sol.ys.shape)
        grads = torch.autograd.grad((sol.ys.nan_to_num() * weights).sum(), [y0, a, *net.parameters()])
        found[engine] = sol, grads
    (eager, want), (fused, got) = found["eager"], found["fused"]
    assert torch.equal(fused.ys.isnan(), eager.ys.isnan())
    # What the last bits choose shows in the steps, and these in the error of the method.
    loose = 1e-6 if "rtol" in options else 1e-11
    torch.testing.assert_close(fused.ys, eager.ys, rtol=loose, atol=loose, equal_nan=True)
    further = bool(Solver.named(solver).tableau.extra_c)  # eagerly all samples are asked where one must be
    for count in ("accepted", "rejected", "evaluations")[: 2 if further else 3]:
        assert torch.equal(getattr(fused.stats, count), getattr(eager.stats, count)), count
    assert torch.equal(fused.status, eager.status)
    for x, y in zip(got, want, strict=True):
        assert float((x - y).norm()) <= loose * float(y.norm())


@pytest.mark.parametrize("name", FIELDS)
def test_gradients_through_every_field(name):
    """To rounding: what the way back finds filled is what the way forward fills."""
    field, generator = Field(FIELDS[name]), torch.Generator().manual_seed(0)
    start = 0.3 * torch.randn(5, 3, generator=generator, dtype=F64)
    found = []
    for engine in ("eager", "fused"):
        y0 = start.clone().requires_grad_()
        options = {"batching": "per_sample", "engine": engine, "solver": "rk4", "step": 0.1}
        ys = ic.solve(field, y0, [0.0, 0.15, 0.2], throw=False, **options).ys
        found.append(
            (ys, *torch.autograd.grad(ys.nan_to_num().square().sum(), (y0, field.w, field.b), materialize_grads=True))
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, equal_nan=True)


def test_gradients_of_times():
    found = []
    for engine in ("eager", "fused"):
        y0, _, _ = given(5)
        ts = torch.linspace(0, 1, 4, dtype=F64, requires_grad=True)
        options = {"batching": "per_sample", "engine": engine, "rtol": 1e-9, "atol": 1e-11}
        ys = ic.solve(lambda t, y: torch.sin(y) * torch.cos(t), y0, ts, **options).ys
        found.append((ys, *torch.autograd.grad(ys.square().sum(), (y0, ts))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "controller", [ic.PID.pi(1e-5, 1e-7), ic.PID(1e-5, 1e-7, dcoeff=0.1, pcoeff=0.3, first_step=0.01, max_step=0.2)]
)
def test_controllers(controller):
    y0, ts, _ = given()
    sols = [
        ic.solve(Net(), y0.detach(), ts, args=(1.0,), batching="per_sample", engine=engine, controller=controller)
        for engine in ("eager", "fused")
    ]
    assert torch.equal(sols[0].stats.accepted, sols[1].stats.accepted)
    torch.testing.assert_close(sols[0].ys, sols[1].ys, rtol=1e-7, atol=1e-7, equal_nan=True)


def test_failures_are_those_of_the_eager_engine():
    def field(t, y):
        return torch.where(y > 5, torch.nan, y * y)

    y0 = torch.tensor([[1.0], [-1.0], [0.1], [6.0]], dtype=F64)
    found = [
        ic.solve(f, y0, [0.0, 2.0], batching="per_sample", engine=engine, throw=False)
        for engine, f in itertools.product(("eager", "fused"), (field, lambda t, y: y * y))
    ]
    for eager, fused in zip(found[:2], found[2:], strict=True):
        assert fused.status.tolist() == eager.status.tolist()
        without_numbers = [re.sub(r"[\d.]+(e-\d+)?", "#", sol.message) for sol in (eager, fused)]
        assert without_numbers[0] == without_numbers[1] != ""
        torch.testing.assert_close(fused.ys, eager.ys, equal_nan=True)
    limited = ic.solve(lambda t, y: -y, y0, [0.0, 2.0], batching="per_sample", engine="fused", throw=False, max_steps=2)
    assert limited.status.tolist() == [int(ic.Status.MAX_STEPS)] * 4


@pytest.fixture
def handed(monkeypatch):
    """The numbers of threads that the machine is handed, of which it takes several whatever little there is to do."""
    counts = []
    monkeypatch.setattr(threads, "WORTH", 0)
    monkeypatch.setattr(threads, "PROCESSORS", 3)
    monkeypatch.setattr(solve, "threads", lambda work: (counts.append(threads.threads(work)), counts[-1])[1])
    return counts


@pytest.mark.parametrize("options", [{}, {"solver": "rk4", "step": 0.1}], ids=["adaptive", "fixed"])
@pytest.mark.parametrize("count", [1, 7, 100, 2000])
def test_results_do_not_depend_on_threads_or_neighbours(handed, count, options):
    net = Net()
    y0, _, _ = given(count)
    ts = torch.linspace(0, 1, 5, dtype=F64)
    found = []
    for several in (1, 2, 3):
        with threads.alone_with(several):
            ys = ic.solve(net, y0, ts, args=(1.0,), batching="per_sample", engine="fused", **options).ys
            found.append((ys, *torch.autograd.grad(ys.sum(), [y0, *net.parameters()])))
    assert handed == [1, 1, 2, 2, 3, 3]
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    mixed = ic.solve(net, y0[order], ts, args=(1.0,), batching="per_sample", engine="fused", **options).ys
    assert torch.equal(mixed, found[0][0][:, order])


@pytest.mark.parametrize("common", [True, False])
def test_gradients_of_signals_do_not_depend_on_threads(handed, common):
    """Those common to all samples are summed over them, in one order."""
    count, knots = 50, torch.linspace(0, 1, 4, dtype=F64)
    values = torch.rand(*(() if common else (count,)), 4, 1, dtype=F64, generator=torch.Generator().manual_seed(1))
    y0, found = torch.ones(count, 1, dtype=F64), []
    for several in (1, 3):
        u = values.clone().requires_grad_()
        signal = ic.LinearInterpolation(knots if common else knots.expand(count, -1), u)
        with threads.alone_with(several):
            ys = ic.solve(
                lambda t, y, u: u - y, y0, [0.0, 1.0], inputs=signal, solver="rk4", step=0.1, engine="fused",
                batching="per_sample",
            ).ys  # fmt: skip
            found.append(torch.autograd.grad(ys.square().sum(), u)[0])
    assert torch.equal(*found) and handed[-1] == 3


def test_threads_are_for_solves_that_are_worth_it_and_as_many_as_pytorch_takes(monkeypatch):
    monkeypatch.setattr(threads, "PROCESSORS", 4)
    assert threads.threads(threads.WORTH - 1) == 1
    assert threads.threads(threads.WORTH) == torch.get_num_threads()
    with threads.alone_with(3):
        assert threads.threads(threads.WORTH) == 3
        with threads.alone_with(9):
            assert threads.threads(threads.WORTH) == 4
    assert threads.threads(threads.WORTH) == torch.get_num_threads()


@pytest.fixture
def traces(monkeypatch):
    """A list with an entry for every tracing."""
    count = []
    monkeypatch.setattr(prepare, "trace", lambda *a: (count.append(1), trace(*a))[1])
    return count


FUSED = {"engine": "fused", "batching": "per_sample"}


def test_a_model_that_is_trained_is_traced_once(traces):
    model = NeuralODE(MLP((2, 8, 2), seed=0), **FUSED)
    y0 = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(y0, torch.linspace(0, 1, 4))[-1] - y0.flip(1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0] and len(traces) == 1


def test_a_common_argument_may_be_another_each_time(traces):
    """It is no part of the program: not traced anew, not kept, its gradient its own."""
    field = lambda t, y, k: -k * y
    y0 = torch.ones(4, 1, dtype=F64)
    for value in (0.5, 1.0, 2.0):
        source = torch.tensor(value, dtype=F64, requires_grad=True)
        end = ic.solve(field, y0, [0.0, 1.0], args=(source * source,), rtol=1e-9, atol=1e-11, **FUSED).ys[-1]
        torch.testing.assert_close(end, torch.exp(-(source**2)).expand(4, 1), rtol=1e-7, atol=1e-8)
        end.sum().backward()
        assert source.grad.item() == pytest.approx(-8 * value * torch.tensor(-(value**2)).exp().item(), rel=1e-6)
    assert len(traces) == 1


def test_what_a_field_holds_may_be_computed_anew():
    """The gradient goes to the tensor it holds now, though another with the same numbers was there before."""

    class Held(nn.Module):
        def forward(self, t, y):
            return -self.rate * y

    field, y0 = Held(), torch.ones(4, 1, dtype=F64)
    for make in (lambda x: x * 1.0, lambda x: x):
        for _ in range(2):
            source = torch.tensor(0.7, dtype=F64, requires_grad=True)
            field.rate = make(source)
            ic.solve(field, y0, [0.0, 1.0], rtol=1e-9, atol=1e-11, **FUSED).ys[-1].sum().backward()
            assert source.grad.item() == pytest.approx(-4 * torch.tensor(-0.7).exp().item(), rel=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_what_is_hidden_from_autograd_is_found(size):
    """Whatever the size of the field, and though it was traced before where no gradient was wanted."""
    y0 = torch.tensor([[1.0], [0.5], [2.0]])
    field = lambda t, y: -size * y.detach() * y
    with torch.no_grad(), pytest.raises(ValueError, match="computes something else"):
        ic.solve(field, y0, [0.0, 1.0], **FUSED)
    with pytest.raises(ValueError, match="computes something else"):
        ic.solve(field, y0.requires_grad_(), [0.0, 1.0], **FUSED)


@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_a_field_that_changes_is_traced_anew(size):
    class Switched(nn.Module):
        rate = 1.0

        def forward(self, t, y):
            return -size * self.rate * y

    field, y0 = Switched(), torch.ones(2, 1, dtype=F64)
    for rate in (1.0, 2.0):
        field.rate = rate
        end = ic.solve(field, y0, [0.0, 1.0], rtol=1e-10, atol=1e-12, **FUSED).ys[-1]
        torch.testing.assert_close(end, torch.exp(-size * rate * y0), rtol=1e-9, atol=1e-9)


def test_what_it_cannot_take_is_refused_by_name():
    y0 = torch.ones(3, 2, dtype=F64, requires_grad=True)
    for says, call in {
        "batching='per_sample'": lambda: ic.solve(lambda t, y: -y, y0, [0.0, 1.0], engine="fused"),
        "no explicit": lambda: ic.solve(lambda t, y: -y, y0, [0.0, 1.0], solver="kvaerno3", **FUSED),
        "mixes samples": lambda: ic.solve(lambda t, y: y - y.mean(0), y0, [0.0, 1.0], **FUSED),
        "'gauss_adjoint'": lambda: ic.solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="gauss_adjoint", **FUSED),
        "seminorm": lambda: ic.solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=ic.Backsolve(seminorm=False), **FUSED),
        "computes something else": lambda: ic.solve(lambda t, y: y.detach() * y, y0, [0.0, 1.0], **FUSED),
    }.items():
        with pytest.raises(ValueError, match=says):
            call()
    ys = ic.solve(lambda t, y: -y * y, y0, [0.0, 1.0], **FUSED).ys
    with pytest.raises(ic.GradientError, match="second derivatives"):
        torch.autograd.grad(ys.sum(), y0, create_graph=True)


def test_nothing_is_left_behind(monkeypatch):
    """Neither the states nor the tape outlive the result, whether it was pulled back or not."""
    from isocline.engines.fused import solve as fused

    tapes = []

    class Seen(fused.Tape):
        def __init__(self, *args):
            super().__init__(*args)
            tapes.append(weakref.ref(self))

    monkeypatch.setattr(fused, "Tape", Seen)
    net, (y0, ts, a) = Net(), given()
    for way in ("pulled back", "thrown away"):
        sol = ic.solve(net, y0, ts, args=(a,), batching="per_sample", engine="fused")
        if way == "pulled back":
            sol.ys.nan_to_num().sum().backward()
        del sol
    # At once, without a collection of cycles.
    assert len(tapes) == 2 and all(tape() is None for tape in tapes)
    with torch.no_grad():
        ic.solve(net, y0, ts, args=(a,), batching="per_sample", engine="fused")
    assert len(tapes) == 2


def test_transforms_are_refused_by_name():
    with pytest.raises(ValueError, match=r"torch\.func"):
        torch.func.vmap(lambda y: ic.solve(lambda t, y: -y, y, [0.0, 1.0], engine="fused", batching="per_sample").ys)(
            torch.ones(3, 2, 2)
        )


@pytest.mark.skipif(sys.platform != "linux", reason="how much memory a process has is read as Linux tells it")
@pytest.mark.skipif(
    "sanitize" in os.environ.get("ISOCLINE_CXXFLAGS", ""), reason="the checker takes memory its own way"
)
def test_running_out_of_memory_is_an_error():
    """And not the end of the process: on any of the machine's threads."""
    code = """
import resource, torch, isocline as ic
y0 = torch.ones(2000, 64, requires_grad=True)
run = lambda step: ic.solve(lambda t, y: -y, y0, [0.0, 1.0], step=step, solver="euler", batching="per_sample", engine="fused")
torch.set_num_threads(2)
run(0.5)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), used + (300 << 20)))
try:
    run(0.001)
except MemoryError as error:
    print(error)
print(run(0.5).ys.shape)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("the fused engine ran out of memory; take fewer samples")
    assert done.stdout.splitlines()[1] == "torch.Size([2, 2000, 64])"
