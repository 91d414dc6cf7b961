"""Solves alike take what the first of them laid out; what may change between two of them is noticed."""

import copy
import gc
import weakref

import pytest
import torch
from fused_fields import random
from torch import nn

import isocline as ic
from isocline.engines.fused.plan import Plan

pytestmark = pytest.mark.machine

F64 = torch.float64
TS = torch.tensor([0.0, 0.2, 0.9], dtype=F64)


@pytest.fixture
def laid_out(monkeypatch):
    """One entry for each time that a solve was laid out."""
    count, whole = [], Plan.__init__
    monkeypatch.setattr(Plan, "__init__", lambda *a, **k: (count.append(1), whole(*a, **k))[1])
    return count


class Moody(nn.Module):
    """A field with a mode; of modules that the tests' checks of types do not wrap, which change what they hold."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, dtype=F64)
        self.sign = -1.0

    def forward(self, t, y):
        return self.sign * torch.tanh(self.layer(y)) if self.training else -y


def solved(field, y0, ts=TS, **options):
    """The solution, and the gradients by y0 and the parameters."""
    y0 = y0.clone().requires_grad_()
    sol = ic.solve(field, y0, ts, **{"batching": "per_sample", "engine": "fused", "rtol": 1e-6, "atol": 1e-8} | options)
    sources = [y0, *(p for p in getattr(field, "parameters", list)() if p.requires_grad)]
    grads = torch.autograd.grad(sol.ys.square().sum(), sources, allow_unused=True)
    return [sol.ys.detach(), *(torch.zeros(()) if g is None else g for g in grads)], sol


def close(found, want):
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["fused", "auto"])
@pytest.mark.parametrize("gradient", ["checkpointed", "backsolve"])
def test_the_second_solve_is_laid_out_no_more_and_is_the_same(gradient, engine, laid_out):
    field, y0 = Moody(), random(5, 2)
    options = {"gradient": gradient, "engine": engine, "batching": None if engine == "auto" else "per_sample"}
    found = [solved(field, y0, **options) for _ in range(3)]
    assert len(laid_out) == 1
    for numbers, solution in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(numbers, found[0][0], strict=True))
        assert str(solution.stats) == str(found[0][1].stats) and solution.ts is TS


def test_numbers_may_change(laid_out):
    field = Moody()
    for i in range(3):
        y0 = random(5, 2, seed=i)
        with torch.no_grad():
            for p in field.parameters():
                p.mul_(0.9)
        close(solved(field, y0)[0], solved(field, y0, engine="eager")[0])
    assert len(laid_out) == 1


CHANGES = {
    "mode": lambda field, given: field.eval(),
    "attribute": lambda field, given: setattr(field, "sign", 2.0),
    "parameter": lambda field, given: setattr(field, "layer", nn.Linear(2, 2, dtype=F64)),
    "frozen": lambda field, given: field.layer.bias.requires_grad_(False),
    "batch": lambda field, given: given.update(y0=random(9, 2)),
    "shape": lambda field, given: given.update(y0=random(9, 2).view(3, 3, 2)),
    "dtype": lambda field, given: (field.float(), given.update(y0=random(5, 2).float())),
    "times": lambda field, given: given.update(ts=TS * 1.1),
    "times in place": lambda field, given: given["ts"].mul_(1.3),
    "times in a list": lambda field, given: given.update(ts=[0.0, 0.1, 0.7]),
    "times backwards": lambda field, given: given.update(ts=TS.flip(0)),
    "times of each sample": lambda field, given: given.update(ts=TS * torch.linspace(1, 2, 5, dtype=F64)[:, None]),
    "tolerance": lambda field, given: given.update(rtol=1e-9),
    "tolerance in place": lambda field, given: given["atol"].mul_(1e-4),
    "solver": lambda field, given: given.update(solver="bosh3"),
    "fixed steps": lambda field, given: given.update(rtol=None, atol=None, step=0.05),
    "forced stops": lambda field, given: given.update(step_ts=[0.5]),
    "precision by default": lambda field, given: torch.set_default_dtype(F64),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_else_changes_is_noticed(name):
    """The solve after the change is the one that a field which has never been solved would get."""
    field = Moody()
    given = {"y0": random(5, 2), "ts": TS.clone()}
    if "tolerance" in name:
        given |= {"rtol": 1e-3, "atol": torch.full((2,), 1e-3, dtype=F64) if "place" in name else 1e-3}
    before = [solved(field, **given) for _ in range(2)][1]
    try:
        CHANGES[name](field, given)
        found, solution = solved(field, **given)
        fresh = Moody().to(given["y0"].dtype)
        fresh.load_state_dict(field.state_dict())
        fresh.sign, fresh.training = field.sign, field.training
        fresh.layer.bias.requires_grad_(field.layer.bias.requires_grad)
        want, first = solved(fresh, **given)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
    assert str(solution.stats) == str(first.stats)
    if name not in ("frozen", "precision by default"):
        assert found[0].shape != before[0][0].shape or not torch.equal(found[0], before[0][0])


def test_failures_are_told_each_time():
    def field(t, y):
        return y * y

    messages = []
    for _ in range(3):
        with pytest.raises(ic.SolveError) as failure:
            solved(field, torch.tensor([[0.1], [1.0]], dtype=F64), [0.0, 3.0])
        messages.append(str(failure.value))
        assert failure.value.solution.status.tolist() == [0, int(ic.Status.BLOW_UP)]
    assert messages[0] == messages[1] == messages[2]
    fine, solution = solved(field, torch.tensor([[0.1], [0.2]], dtype=F64), [0.0, 3.0])
    assert solution.success and fine[0].isfinite().all()


def test_bad_numbers_are_refused_after_good_ones():
    field = Moody()
    solved(field, random(5, 2))
    for ts in ([0.0, 1.0, 0.5], [0.0, float("nan")]):
        for _ in range(2):
            with pytest.raises(ValueError, match="ts"):
                solved(field, random(5, 2), ts)
    with pytest.raises(ic.SolveError, match="not finite"):
        solved(field, torch.full((5, 2), torch.nan, dtype=F64))


@pytest.mark.parametrize("engine", ["fused", "auto"])
@pytest.mark.parametrize("method", [False, True])
def test_a_field_is_kept_alive_by_nothing(method, engine):
    field = Moody()
    for _ in range(3):
        solved(field.forward if method else field, random(5, 2), engine=engine)
    gone = weakref.ref(field)
    del field
    gc.collect()
    assert gone() is None


def test_second_derivatives_of_a_repeated_solve():
    field = Moody()
    found = []
    for _ in range(2):
        y0 = random(4, 2).requires_grad_()
        ys = ic.solve(field, y0, TS, batching="per_sample", engine="auto", rtol=1e-8, atol=1e-8).ys
        first = torch.autograd.grad(ys.square().sum(), y0, create_graph=True)[0]
        found.append(torch.autograd.grad(first.square().sum(), y0)[0])
    assert torch.equal(*found)


def carried(t, y, gain, matrix, shift, power=1):
    """Numbers of each sample, a matrix that all share, a number, and a setting."""
    return gain * torch.tanh(y @ matrix) ** power - shift


def given(seed=0, samples=5, **changes):
    """Arguments of `carried`."""
    parts = {"gain": random(samples, 2, seed=seed), "matrix": random(2, 2, seed=seed + 1), "shift": 0.1, "power": 1}
    return tuple((parts | changes).values())


def with_arguments(args, engine="fused", field=carried, y0=None):
    """The solution, and the gradients by y0 and the tensors among the arguments."""
    y0 = (random(5, 2) if y0 is None else y0).requires_grad_()
    tensors = [x for x in args if isinstance(x, torch.Tensor) and x.requires_grad]
    sol = ic.solve(field, y0, TS, args=args, engine=engine, batching="per_sample", rtol=1e-8, atol=1e-9)
    return [sol.ys.detach(), *torch.autograd.grad(sol.ys.square().sum(), [y0, *tensors])]


def test_arguments_may_change_their_numbers(laid_out):
    for seed in range(3):
        args = tuple(x.requires_grad_() if isinstance(x, torch.Tensor) else x for x in given(seed))
        close(with_arguments(args), with_arguments(args, "eager"))
    assert len(laid_out) == 1


OTHER = {
    "a number": {"shift": 0.3},
    "a setting": {"power": 2},
    "the kind of a number": {"power": True},
    "what has a gradient": {"matrix": random(2, 2, seed=1).requires_grad_()},
    "what each sample has": {"gain": random(2, seed=7)},
    "what all samples have": {"shift": random(5, 2, seed=8)},
    "a view": {"matrix": random(2, 2, seed=1).t()},
    "the negative of numbers, lazily": {"gain": torch.complex(random(5, 2), random(5, 2, seed=3)).conj().imag},
}


@pytest.mark.parametrize("name", OTHER)
def test_other_arguments_are_noticed(name):
    for _ in range(2):
        before = with_arguments(given())
    for _ in range(2):
        found = with_arguments(given(**OTHER[name]))
        close(found, with_arguments(given(**OTHER[name]), "eager"))
    assert torch.equal(with_arguments(given())[0], before[0])


def test_arguments_that_are_changed_in_place_are_read_anew():
    args = given()
    before = with_arguments(args)[0]
    args[0].mul_(0.5)
    after = with_arguments(args)
    close(after, with_arguments(args, "eager"))
    assert not torch.allclose(after[0], before)


def test_as_many_samples_as_an_argument_has_rows():
    """Two samples and a matrix of two rows, which all share: whichever engine takes it, before and after other batches."""
    for samples in (3, 2, 2, 5, 2):
        y0 = random(samples, 2, seed=samples)
        args = given(samples=samples)
        close(with_arguments(args, "auto", y0=y0), with_arguments(args, "eager", y0=y0.detach()))


@pytest.mark.parametrize("engine", ["fused", "auto"])
@pytest.mark.parametrize("learned_times", [False, True])
def test_a_solution_keeps_nothing_of_what_was_laid_out(engine, learned_times):
    """So that it can be copied and stored; the first solve, the second, and one that fails."""
    field, ts = nn.Linear(2, 2).double(), torch.linspace(0, 1, 3, dtype=torch.float64, requires_grad=learned_times)
    given = {"engine": engine, "batching": "per_sample"}
    for options in ({}, {}, {"max_steps": 1, "throw": False}):
        solution = ic.solve(lambda t, y: field(y), random(5, 2), ts, **given, **options)
        assert solution._alike is None
        assert torch.equal(copy.deepcopy(solution.stats).accepted, solution.stats.accepted)
    with pytest.raises(ic.SolveError) as caught:
        ic.solve(lambda t, y: field(y), random(5, 2), ts, **given, max_steps=1)
    assert caught.value.solution._alike is None
