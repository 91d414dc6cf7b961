"""Fixed steps as plain operations: the eager engine's numbers. What tracers make of them is in `traced.py`."""

from pathlib import Path

import pytest
import torch
from apart import passes

import isocline as ic
from isocline.nn import MLP, NeuralODE
from isocline.solvers import Solver

F64 = torch.float64
TS = [0.0, 0.4, 1.0]  # the second lies inside a step of 0.3


def tableau_of(cls):
    return cls().tableau if getattr(cls, "tableau", None) is not None else None


EXPLICIT = sorted(n for n, cls in Solver.registry.items() if (tableau := tableau_of(cls)) and tableau.explicit)


def both(field, y0, ts=TS, **options):
    """By the unrolled engine, and by the eager one."""
    return (ic.solve(field, y0, ts, engine=engine, gradient="backprop", **options) for engine in ("unrolled", "eager"))


# ---- the same numbers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("solver", EXPLICIT)
def test_values_and_gradients_are_those_of_the_eager_engine(solver, batching):
    k = torch.tensor(1.3, dtype=F64, requires_grad=True)
    x = torch.tensor([[0.5, -0.3], [1.0, 0.2]], dtype=F64, requires_grad=True)
    if Solver.registry[solver].wants_pair:
        field, y0 = ic.second_order(lambda t, x, v: -k * torch.sin(x) + torch.cos(3 * t)), (x, 0.4 * x.detach())
    else:
        field, y0 = lambda t, y: torch.sin(k * y.flip(-1)) + torch.cos(3 * t) * y, x
    found = []
    for sol in both(field, y0, solver=solver, step=0.3, batching=batching):
        ys = torch.stack(sol.ys) if isinstance(sol.ys, tuple) else sol.ys
        found.append((ys, *torch.autograd.grad((ys**2).sum(), (k, x))))
    for got, want in zip(*found, strict=True):
        assert torch.allclose(got, want, rtol=1e-13, atol=1e-14)  # some thirty additions, in another order


def test_pytrees_complex_numbers_and_times_that_decrease():
    y0 = {"x": torch.ones(2, dtype=F64), "z": torch.ones(1, dtype=torch.complex128)}
    got, want = both(lambda t, y: {"x": -t * y["x"], "z": 1j * y["z"]}, y0, [1.0, 0.5, 0.0], solver="rk4", step=0.2)
    for name in y0:
        assert torch.allclose(got.ys[name], want.ys[name], rtol=1e-13)
        assert got.ys[name].dtype == y0[name].dtype


def test_step_ts_end_steps_and_statistics_count():
    def field(t, y):
        return torch.where(t < 0.55, 1.0, -1.0) * y

    y0 = torch.ones(3, dtype=F64)
    got, want = both(field, y0, solver="rk4", max_step=0.25, step_ts=[0.55])
    assert torch.allclose(got.ys, want.ys, rtol=1e-13) and got.success
    assert (got.stats.accepted, got.stats.evaluations) == (want.stats.accepted, want.stats.evaluations) == (6, 24)


def test_half_precision_states_are_carried_in_single():
    y0 = torch.ones(1, dtype=torch.bfloat16)
    got = ic.solve(lambda t, y: torch.ones_like(y), y0, [0.0, 1.0], solver="euler", step=1e-3, engine="unrolled").ys
    assert got.dtype == torch.bfloat16 and got[-1].item() == 2.0  # 1 + 0.001 is 1 in bfloat16


# ---- refusals ---------------------------------------------------------------------------------------------------------
def model(**options):
    return NeuralODE(MLP((2, 8, 2), time=True), **{"solver": "rk4", "step": 0.5, **options})


REFUSED = [
    ({"step": None}, ValueError, "controller=PID.*fixed ones"),
    ({"solver": "kvaerno3"}, ValueError, "solver='kvaerno3'.*explicit"),
    ({"gradient": "backsolve"}, ic.GradientError, "gradient='backsolve'.*'checkpointed'"),
    ({"dense": True}, ValueError, "dense.*ts"),
    ({"inputs": ic.ZeroOrderHold([0.0], torch.ones(1))}, ValueError, r"inputs.*signal\(t\)"),
    ({"events": ic.Event(lambda t, y: y[0])}, ValueError, "events"),
    ({"doses": ic.Dose([0.5], torch.ones(1, 2))}, ValueError, "doses"),
    ({"jump_ts": [0.5]}, ValueError, "jump_ts.*step_ts"),
    ({"max_steps": 1}, ValueError, "max_steps=1.*2 fixed steps"),
]


@pytest.mark.parametrize(("options", "error", "says"), REFUSED)
def test_what_a_tracer_cannot_follow_is_refused_by_name(options, error, says):
    options = {"solver": "tsit5", **options}
    y = torch.ones(4, 2)
    with pytest.raises(error, match=says):
        model(**options, engine="unrolled")(y)


def test_times_are_numbers(unchecked):
    y, ts = torch.ones(4, 2), torch.tensor(TS)
    with pytest.raises(ValueError, match="ts: requires grad"):
        model(engine="unrolled")(y, ts.requires_grad_())
    with pytest.raises(ValueError, match="strictly"):
        model(engine="unrolled")(y, [0.0, 1.0, 0.5])
    with pytest.raises(ValueError, match="expected a sequence of numbers"):
        model(engine="unrolled", batching="per_sample")(y, [[0.0, 1.0]] * 4)
    assert torch.allclose(model(engine="unrolled")(y, ts.detach()), model()(y, TS), rtol=1e-5)


def test_tracers_make_graphs_of_it():
    passes(Path(__file__).with_name("traced.py"))
