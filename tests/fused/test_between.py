"""Dense output of fused solves: between the observations, and differentiable there, as of the eager engine's."""

import gc

import pytest
import torch
from fused_fields import Net, random

import isocline as ic
from isocline.engines.fused import path
from isocline.engines.fused.solve import Tape

pytestmark = pytest.mark.machine

F32, F64 = torch.float32, torch.float64
COUNT = 19
AT = torch.tensor([0.31, 0.05, 0.88, 0.31], dtype=F64)
SPANS = {
    "forwards": torch.tensor([0.0, 0.4, 1.0], dtype=F64),
    "backwards": torch.tensor([1.1, 0.4, 0.0], dtype=F64),
    "ragged": torch.tensor([0.0, 0.4, 1.0], dtype=F64) * torch.linspace(0.5, 1.2, COUNT, dtype=F64)[:, None],
}


def solved(engine, dtype, ts, between=True, **options):
    """The solution, what it is at `AT`, and the gradients by y0, the times, an argument and the parameters."""
    net, y0 = Net().to(dtype), random(COUNT, 2).to(dtype).requires_grad_()
    extra = torch.linspace(0, 1, COUNT, dtype=dtype)[:, None].requires_grad_()
    ts, at = ts.clone().requires_grad_(), AT.clone().requires_grad_()
    options = {"args": (extra,), **options}
    sol = ic.solve(net, y0, ts, batching="per_sample", engine=engine, dense=True, **options)
    found = torch.cat([sol.at(at), 0.1 * sol.derivative(at)])
    weights = torch.linspace(-1, 1, found.numel(), dtype=dtype).view_as(found)
    loss = (found.nan_to_num() * weights).sum() * between + sol.ys.square().mean()
    return sol, found, torch.autograd.grad(loss, [y0, ts, at, extra, *net.parameters()], materialize_grads=True)


def agree(ours, reference, loose):
    (fused, found, grads), (eager, want, exact) = ours, reference
    torch.testing.assert_close(found, want, rtol=loose, atol=loose, equal_nan=True)
    for x, y in zip(grads, exact, strict=True):
        assert float((x - y).norm()) <= loose * float(y.norm()) + 1e-13
    if loose > 1e-6:
        return  # in single precision the last bits choose other steps
    assert torch.equal(fused.stats.accepted, eager.stats.accepted)
    for x, y in zip(fused.accepted_ts, eager.accepted_ts, strict=True):
        # Lengths of steps are as good as the estimates of the error, which are differences of a few digits.
        torch.testing.assert_close(x, y, rtol=loose**0.5, atol=loose**0.5)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("solver", ["tsit5", "dopri8", "bosh3", "rk4"])
def test_it_is_the_eager_one_and_so_are_its_gradients(solver, span):
    options = {"solver": solver, "step": 0.13} if solver == "rk4" else {"solver": solver, "rtol": 1e-6, "atol": 1e-7}
    agree(*(solved(engine, F64, SPANS[span], **options) for engine in ("fused", "eager")), 1e-7)


@pytest.mark.parametrize(("options", "loose"), [({"step": 0.1}, 1e-4), ({"rtol": 1e-5, "atol": 1e-6}, 1e-3)])
def test_in_single_precision(options, loose):
    agree(*(solved(engine, F32, SPANS["forwards"], **options) for engine in ("fused", "eager")), loose)


@pytest.mark.parametrize("rows", [False, True])
def test_with_inputs_that_jump(rows):
    values = random(*((COUNT, 3, 1) if rows else (3, 1)), seed=1)
    knots = torch.tensor([0.2, 0.3, 0.6], dtype=F64) + (0.01 * torch.arange(COUNT, dtype=F64)[:, None] if rows else 0)
    found = [
        solved(engine, F64, SPANS["ragged"], inputs=ic.ZeroOrderHold(knots, values), rtol=1e-8, atol=1e-9)
        for engine in ("fused", "eager")
    ]
    agree(*found, 1e-8)


def test_with_doses():
    dose = ic.Dose(torch.tensor([0.25, 0.5], dtype=F64), torch.ones(2, 2, dtype=F64))
    agree(
        *(solved(engine, F64, SPANS["forwards"], doses=dose, rtol=1e-8, atol=1e-9) for engine in ("fused", "eager")),
        1e-8,
    )


def test_many_steps_are_pulled_back_in_parts(monkeypatch):
    whole = solved("fused", F64, SPANS["forwards"], step=0.01)
    monkeypatch.setattr(path, "AT_ONCE", 100)
    agree(solved("fused", F64, SPANS["forwards"], step=0.01), whole, 1e-12)


def test_observations_alone_have_the_gradients_of_a_solve_without_it():
    *_, dense = solved("fused", F64, SPANS["ragged"], between=False)
    *_, eager = solved("eager", F64, SPANS["ragged"], between=False)
    for x, y in zip(dense, eager, strict=True):
        assert float((x - y).norm()) <= 1e-8 * float(y.norm()) + 1e-13


def test_without_a_graph_and_of_a_solve_that_fails():
    def field(t, y):
        return y * y

    y0 = torch.tensor([[0.5], [1.5]], dtype=F64)
    options = {"batching": "per_sample", "dense": True, "throw": False}
    with torch.no_grad():
        fused, eager = (ic.solve(field, y0, [0.0, 1.0], engine=engine, **options) for engine in ("fused", "eager"))
    assert torch.equal(fused.status, eager.status)
    torch.testing.assert_close(fused.at(AT), eager.at(AT), equal_nan=True)
    still = ic.solve(field, y0, torch.zeros(1, dtype=F64), engine="fused", **options)
    assert still.accepted_ts[0].tolist() == [0.0]


def test_evaluations_count_the_stages_that_are_taken_once_more():
    plain = ic.solve(Net(), random(5, 2), [0.0, 1.0], batching="per_sample", engine="fused", solver="tsit5")
    dense = ic.solve(Net(), random(5, 2), [0.0, 1.0], batching="per_sample", engine="fused", solver="tsit5", dense=True)
    stages = ic.Tsit5().tableau.dense_stages
    assert torch.equal(dense.stats.evaluations, plain.stats.evaluations + stages * dense.stats.accepted)


def test_what_has_no_gradient_is_refused_by_name():
    y0 = random(5, 2).requires_grad_()
    options = {"batching": "per_sample", "engine": "fused", "dense": True}
    back = ic.solve(Net(), y0, [0.0, 1.0], gradient="backsolve", **options)
    back.ys.sum().backward()
    with pytest.raises(ic.GradientError, match=r"Backsolve has no gradient through Solution\.at"):
        back.at(0.5).sum().backward()
    with pytest.raises(ic.GradientError, match="second derivatives"):
        torch.autograd.grad(ic.solve(Net(), y0, [0.0, 1.0], **options).at(0.5).sum(), y0, create_graph=True)


def test_auto_keeps_shared_steps_where_nobody_asked_for_others():
    sol = ic.solve(Net(), random(5, 2), [0.0, 1.0], engine="auto", batching=None, dense=True)
    assert sol.accepted_ts.dim() == 1
    alone = ic.solve(Net(), random(5, 2), [0.0, 1.0], engine="auto", batching="per_sample", dense=True)
    assert len(alone.accepted_ts) == 5


def test_the_graph_is_freed_with_its_solution():
    net, y0 = Net(), random(5, 2).requires_grad_()
    sol = ic.solve(net, y0, [0.0, 1.0], batching="per_sample", engine="fused", dense=True)

    def tapes():
        return sum(type(x) is Tape for x in gc.get_objects())

    before = tapes()
    gc.disable()
    try:
        del sol
        assert tapes() == before - 1
    finally:
        gc.enable()
