"""engine="auto": the fused engine where it takes the solve, the eager one and a line in the log where not."""

import copy
import pickle
import subprocess

import pytest
import torch
from torch import nn

import isocline as ic
from isocline import fusing
from isocline.engines.fused import build, prepare
from isocline.engines.fused.watch import UnwatchedError, Watch
from isocline.nn import CNF, MLP, NeuralODE
from isocline.solution import Count

pytestmark = pytest.mark.machine

F64 = torch.float64
Y0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
TS = torch.linspace(0, 1, 4, dtype=F64)
WEIGHT = torch.ones(1, dtype=F64, requires_grad=True) * 2
AUTO = {"engine": "auto", "batching": "per_sample"}


# ---- what is taken --------------------------------------------------------------------------------------------------
def test_a_neural_ode_is_fused_and_its_results_are_those_of_the_eager_engine(solved, said):
    field, y0 = MLP((2, 16, 2), seed=1, dtype=F64), Y0.clone().requires_grad_()
    found = []
    for options in ({}, {"engine": "eager"}):
        model = NeuralODE(field, rtol=1e-9, atol=1e-11, **options)
        path = model(y0, TS)
        found.append((path, *torch.autograd.grad(path.square().sum(), [y0, *field.parameters()])))
    assert len(solved) == 1 and said() == []
    # Each sample with its own steps, or all with those of the batch: apart by the error of the solves, 1e-9 a step.
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_statistics_and_status_stay_those_of_the_whole_batch(solved):
    model = NeuralODE(MLP((2, 16, 2), seed=1, dtype=F64))
    solution = model.solution(Y0.clone().requires_grad_(), TS)
    assert solution.status is ic.Status.SUCCESS and solution.ys.shape == (4, 6, 2) and solution.success
    stats = model.stats
    assert isinstance(stats.accepted, int) and stats.accepted == int(stats.accepted.each.max()) > 0
    assert stats.accepted.each.shape == (6,) and f"{stats.evaluations:d}" == str(int(stats.evaluations))
    solution.ys.sum().backward()
    assert stats.evaluations_backward > stats.accepted and len(solved) == 1
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert str(other.stats) == str(stats) and torch.equal(other.stats.accepted.each, stats.accepted.each)
    assert Count.of(3) == 3


def test_statistics_are_shown_alike_by_both_engines():
    shown = [
        repr(ic.solve(MLP((2, 8, 2), dtype=F64), Y0, TS, solver="rk4", step=0.5, **{**AUTO, "engine": engine}).stats)
        for engine in ("fused", "eager")
    ]
    assert shown[0] == shown[1] and shown[0].startswith("Stats(evaluations=tensor([")


def test_a_failure_says_which_sample_and_keeps_the_status_of_a_whole():
    y0 = torch.tensor([[0.1], [1.0]], dtype=F64)
    model = NeuralODE(lambda t, y: y * y)
    with pytest.raises(ic.SolveError, match=r"1 of 2 samples .* in sample 1") as failure:
        model(y0, [0.0, 3.0])
    assert failure.value.status is ic.Status.BLOW_UP
    solution = model.solution(y0, [0.0, 3.0], throw=False)
    assert solution.status is ic.Status.BLOW_UP and not solution.success
    assert solution.ys[-1].isnan().flatten().tolist() == [False, True]


def test_asked_for_per_sample_statistics_stay_of_each_sample(solved):
    solution = ic.solve(MLP((2, 8, 2), dtype=F64), Y0, TS, **AUTO)
    assert solution.stats.accepted.shape == (6,) and solution.status.shape == (6,) and len(solved) == 1


def test_second_derivatives_and_mapped_ones_go_through(solved):
    field, y0 = MLP((2, 8, 2), seed=0, dtype=F64), Y0.clone().requires_grad_()
    found = []
    for engine in ("auto", "eager"):
        model = NeuralODE(field, engine=engine, rtol=1e-9, atol=1e-11)
        (g,) = torch.autograd.grad(model(y0)[-1].square().sum(), y0, create_graph=True)
        twice = torch.autograd.grad(g.square().sum(), [y0, *field.parameters()])
        sides = torch.eye(2, dtype=F64)
        (rows,) = torch.autograd.grad(model(y0)[-1].sum(0), y0, sides, is_grads_batched=True)
        found.append((g, *twice, rows))
    assert len(solved) == 2
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


# ---- what is not ----------------------------------------------------------------------------------------------------
def decay(t, y):
    return -y


def on_a_branch(t, y):
    return -y if t < 0.5 else y


def a_clock_of_one_time(t, y):
    return -y * torch.stack([t, t]) if t.dim() == 0 else -y


class Counting(nn.Module):
    calls = 0

    def forward(self, t, y):
        self.calls += 1
        return -y


AWAY = {
    "batch dimension": lambda: ic.solve(decay, Y0[0], TS, engine="auto"),
    "no explicit": lambda: ic.solve(decay, Y0, TS, solver="kvaerno3", **AUTO),
    "'gauss_adjoint'": lambda: ic.solve(decay, Y0, TS, gradient="gauss_adjoint", **AUTO),
    "own; pass": lambda: NeuralODE(decay, doses=ic.Dose([0.5], torch.ones(1, 2, dtype=F64)))(Y0, TS),
    "somebody looks on": lambda: ic.solve(decay, Y0, TS, progress=lambda *_: None, **AUTO),
    "only where batching='per_sample'": lambda: ic.solve(decay, Y0, TS, dense=True, engine="auto", batching=None),
    "all in single or all in double": lambda: ic.solve(
        lambda t, y: {k: -v for k, v in y.items()}, {"a": Y0, "b": Y0.float()}, TS, **AUTO
    ),
    "mixes samples": lambda: NeuralODE(lambda t, y: y - y.mean(0))(Y0, TS),
    "sort": lambda: NeuralODE(lambda t, y: -y.sort(-1).values)(Y0, TS),
    "Boolean value": lambda: NeuralODE(on_a_branch)(Y0, TS),
    "otherwise than one time": lambda: NeuralODE(a_clock_of_one_time)(Y0, TS),
    "changes what it holds": lambda: NeuralODE(Counting())(Y0, TS),
    "computed anew": lambda: NeuralODE(lambda t, y: -WEIGHT * y)(Y0, TS),
    "torch.func": lambda: torch.func.vmap(lambda y: NeuralODE(decay)(y, TS))(Y0[None]),
}  # fmt: skip


@pytest.mark.parametrize("says", AWAY)
def test_what_cannot_be_fused_is_solved_by_the_eager_engine_and_said(says, solved, said, monkeypatch):
    monkeypatch.setattr(fusing, "noted", type(fusing.noted)())
    monkeypatch.setattr(fusing, "others_noted", set())
    got = AWAY[says]()
    assert len(solved) == 0 and isinstance(got, (torch.Tensor, ic.Solution))
    (line,) = said()
    assert says in line


def test_a_reason_is_said_once_for_a_field(said):
    field = lambda t, y: -y.sort(-1).values
    model = NeuralODE(field)
    for _ in range(3):
        model(Y0, TS)
    assert len(said()) == 1
    NeuralODE(lambda t, y: -y.sort(-1).values * 1)(Y0, TS)
    assert len(said()) == 2


def test_what_is_refused_is_not_traced_again(monkeypatch):
    traces, whole = [], prepare.trace
    monkeypatch.setattr(prepare, "trace", lambda *a: (traces.append(1), whole(*a))[1])
    model = NeuralODE(lambda t, y: -y.sort(-1).values)
    for _ in range(3):
        model(Y0, TS)
    assert len(traces) == 1


@pytest.mark.parametrize("options", [{}, {"engine": "eager"}])
def test_errors_of_the_field_come_out_as_they_are(options):
    def field(t, y):
        raise ValueError("the field's own")

    with pytest.raises(ValueError, match=r"^the field's own$"):
        NeuralODE(field, **options)(Y0, TS)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        NeuralODE(lambda t, y: y @ torch.ones(3, 3, dtype=F64), **options)(Y0, TS)


def test_an_eager_default_stays(solved):
    ic.solve(decay, Y0, TS, batching="per_sample")
    NeuralODE(decay, engine="eager")(Y0, TS)
    assert len(solved) == 0


def test_without_a_compiler_all_is_eager_after_one_warning(monkeypatch, said, caplog, solved):
    def none():
        raise build.NoMachineError("no C++ compiler found: install one")

    from isocline.engines.fused import solve as fused

    monkeypatch.setattr(fusing, "missing", [])
    monkeypatch.setattr(fused, "library", none)
    for field in (decay, lambda t, y: y * 0.5):
        NeuralODE(field)(Y0, TS)
    (line,) = said()
    assert "install one" in line and [r.levelname for r in caplog.records if r.getMessage() == line] == ["WARNING"]
    assert len(solved) == 1  # asked once


class Net(nn.Module):
    """A field whose calls no type checker of the tests wraps."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    def forward(self, t, y):
        return self.layers(y)


# ---- whether a field is what it was ---------------------------------------------------------------------------------
class Held(nn.Module):
    shared = 1.0

    def __init__(self):
        super().__init__()
        self.net = Net()
        self.drop = nn.Dropout(0.0)
        self.settings, self.factors, self.spare = {"rate": 1.0}, [1.0], None
        self.register_buffer("scale", torch.ones(2, dtype=F64))

    def forward(self, t, y):
        return self.net(t, y) * self.scale * self.settings["rate"] * self.factors[0] * self.shared * SPEED


SPEED = 1.0


def _speed(_, monkeypatch):
    monkeypatch.setitem(globals(), "SPEED", 2.0)


CHANGES = {
    "a mode": lambda f, _: f.eval(),
    "an attribute": lambda f, _: setattr(f, "shared", 2.0),
    "an attribute of the class": lambda f, m: m.setattr(Held, "shared", 3.0),
    "an entry of a dict": lambda f, _: f.settings.update(rate=2.0),
    "an entry of a list": lambda f, _: f.factors.__setitem__(0, 2.0),
    "a parameter": lambda f, _: setattr(f.net.layers[0], "bias", nn.Parameter(torch.ones(4, dtype=F64))),
    "a buffer": lambda f, _: setattr(f, "scale", torch.full((2,), 2.0, dtype=F64)),
    "a module": lambda f, _: f.net.layers.__setitem__(1, nn.Sigmoid()),
    "a hook": lambda f, _: f.net.register_forward_hook(lambda m, args, out: 2 * out),
    "a hook on the way back": lambda f, _: f.net.register_full_backward_hook(lambda m, down, up: None),
    "a name": lambda f, _: vars(f).update(other=vars(f).pop("spare")),
    "a global": _speed,
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_noticed(what, monkeypatch):
    field = Held()
    options = {"engine": "fused", "batching": "per_sample", "rtol": 1e-9, "atol": 1e-11}
    before = ic.solve(field, Y0, TS, **options).ys
    (kept,) = prepare.KEPT[field].values()
    assert kept.watch is not None and kept.sure(field)
    assert torch.equal(ic.solve(field, Y0, TS, **options).ys, before)
    CHANGES[what](field, monkeypatch)
    assert not kept.sure(field)
    got, want = (ic.solve(field, Y0, TS, **{**options, "engine": e}).ys for e in ("fused", "eager"))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)


def test_numbers_of_parameters_may_change_without_a_look(monkeypatch):
    field, looks = Held(), []
    options = {"engine": "fused", "batching": "per_sample", "rtol": 1e-9, "atol": 1e-11}
    ic.solve(field, Y0, TS, **options)
    monkeypatch.setattr(prepare._Reading, "_alone", lambda *a: looks.append(1))
    with torch.no_grad():
        for p in field.parameters():
            p.mul_(1.5)
        field.scale.mul_(0.5)
    got, want = (ic.solve(field, Y0, TS, **{**options, "engine": e}).ys for e in ("fused", "eager"))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)
    assert looks == []


def test_a_field_that_reads_numbers_is_looked_at_each_time():
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = torch.tensor(1.0, dtype=F64)

        def forward(self, t, y):
            return -float(self.rate) * y

    field = Reading()
    for rate in (1.0, 2.0):
        field.rate.fill_(rate)
        got = ic.solve(field, Y0, TS, engine="fused", batching="per_sample", rtol=1e-9, atol=1e-11).ys[-1]
        torch.testing.assert_close(got, Y0 * torch.exp(torch.tensor(-rate, dtype=F64)), rtol=1e-7, atol=1e-8)


def test_what_cannot_be_seen_through_is_not_watched():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.counter = iter([1])

    with pytest.raises(UnwatchedError, match="list_iterator"):
        Watch(Odd())


def test_a_bound_method_and_a_flow_are_traced_once(monkeypatch):
    traces, whole = [], prepare.trace
    monkeypatch.setattr(prepare, "trace", lambda *a: (traces.append(1), whole(*a))[1])

    class Owner:
        rate = 2.0

        def field(self, t, y):
            return -self.rate * y

    owner = Owner()
    for _ in range(3):
        ic.solve(owner.field, Y0, TS, engine="fused", batching="per_sample")
    assert len(traces) == 1
    flow = CNF(Net(), 2, engine="fused", batching="per_sample").double()
    for _ in range(3):
        flow.log_prob(Y0)
    assert len(traces) == 2


def test_a_batch_of_another_size_is_checked_but_not_traced(monkeypatch):
    traces, whole = [], prepare.trace
    monkeypatch.setattr(prepare, "trace", lambda *a: (traces.append(1), whole(*a))[1])
    field, w = Net(), torch.ones(5, 1, dtype=F64)
    for count in (6, 3, 1, 6):
        ic.solve(field, Y0[:count], TS, engine="fused", batching="per_sample")
    assert len(traces) == 1
    mixed = lambda t, y: y * w if len(y) == 5 else y
    ic.solve(mixed, Y0, TS, engine="fused", batching="per_sample")
    with pytest.raises(ValueError, match=r"could not be traced|something else"):
        ic.solve(lambda t, y: y * w, Y0[:5], TS, engine="fused", batching="per_sample")


def test_the_line_is_silent_by_default():
    """At level INFO: a user who has set up no logging sees nothing."""
    code = """
import torch, isocline
print(isocline.nn.NeuralODE(lambda t, y: -y.sort(-1).values)(torch.ones(3, 2)).shape)
"""
    import sys

    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
