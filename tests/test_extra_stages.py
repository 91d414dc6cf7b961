"""Stages that only an interpolant needs are evaluated where one is asked for, and gradients go through them."""

import math

import pytest
import torch

import isocline as ic
from isocline.solvers import ButcherTableau, Solver, Vern7

F64 = torch.float64
SOLVERS = sorted(n for n, cls in Solver.registry.items() if cls().tableau.extra_c)
BATCHING = pytest.mark.parametrize("batching", ["shared", "per_sample"])
GRADIENTS = pytest.mark.parametrize(
    "gradient", [ic.Checkpointed(), ic.Checkpointed(graphs=0), ic.Checkpointed(memory=1)]
)


class Counted:
    """y' = θ cos(t) y, and how often it was asked."""

    def __init__(self, theta=1.0):
        self.theta, self.count = theta, 0

    def __call__(self, t, y):
        self.count += 1
        return self.theta * torch.cos(t) * y


def evaluations(name, ts, batching, **options):
    f = Counted()
    sol = ic.solve(f, torch.ones(1, 1, dtype=F64), ts, solver=name, batching=batching, step=0.5, **options)
    assert int(sol.stats.evaluations) == f.count
    return f.count


@BATCHING
@pytest.mark.parametrize("name", SOLVERS)
def test_only_steps_with_an_observation_inside_evaluate_them(name, batching):
    extra = len(Solver.named(name).tableau.extra_c)
    without = evaluations(name, [0.0, 2.0], batching)
    at_end = extra if batching == "per_sample" else 0  # there the last step's observation is not told from one inside
    assert evaluations(name, [0.0, 0.7, 2.0], batching) == without + extra
    assert evaluations(name, [0.0, 0.6, 0.7, 1.3, 2.0], batching) == without + 2 * extra
    assert evaluations(name, [0.0, 2.0], batching, dense=True) == without - at_end + 4 * extra


@BATCHING
@pytest.mark.parametrize("name", SOLVERS)
def test_an_observation_inside_and_the_dense_output_agree(name, batching):
    ts = torch.linspace(0.0, 2.0, 23, dtype=F64)
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64)
    sol = ic.solve(Counted(), y0, ts, solver=name, batching=batching, rtol=1e-10, atol=1e-12, dense=True)
    exact = y0 * torch.exp(torch.sin(ts))[:, None, None]
    assert torch.allclose(sol.ys, exact, rtol=1e-8)
    assert torch.allclose(sol.at(ts), sol.ys, rtol=1e-11)


@BATCHING
@GRADIENTS
@pytest.mark.parametrize("name", SOLVERS)
def test_gradients_through_them_are_those_of_backprop(name, batching, gradient):
    def grads(gradient):
        theta = torch.tensor(0.8, dtype=F64, requires_grad=True)
        y0 = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True)
        options = {"solver": name, "batching": batching, "step": 0.5, "gradient": gradient}
        ys = ic.solve(Counted(theta), y0, [0.0, 0.3, 1.2, 2.0], **options).ys
        sol = ic.solve(Counted(theta), y0, [0.0, 2.0], dense=True, **options)
        loss = (ys[1] * ys[2]).sum() + sol.at(torch.tensor([0.4, 1.9], dtype=F64)).square().sum()
        return torch.autograd.grad(loss, (theta, y0))

    for got, want in zip(grads(gradient), grads(ic.Backprop()), strict=True):
        assert torch.allclose(got, want, rtol=1e-11)


@BATCHING
@pytest.mark.parametrize("name", SOLVERS)
def test_second_derivatives_go_through_them(name, batching):
    """y(t) = exp(θ sin t)."""
    theta = torch.tensor(0.8, dtype=F64, requires_grad=True)
    f = Counted(theta)
    ys = ic.solve(f, torch.ones(1, 1, dtype=F64), [0.0, 0.7, 2.0], solver=name, batching=batching, step=0.25).ys
    (first,) = torch.autograd.grad(ys[1].sum(), theta, create_graph=True)
    (second,) = torch.autograd.grad(first, theta)
    s = torch.sin(torch.tensor(0.7, dtype=F64))
    assert torch.allclose(first.detach(), s * torch.exp(0.8 * s), rtol=1e-7)
    assert torch.allclose(second, s**2 * torch.exp(0.8 * s), rtol=1e-6)


def test_samples_keep_their_own_count():
    """The sample that is done stops counting; the other one's later steps are its own."""
    ts = torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.7, 4.0]], dtype=F64)
    sol = ic.solve(Counted(), torch.ones(2, 1, dtype=F64), ts, solver="vern7", batching="per_sample", step=0.5)
    short, long = sol.stats.evaluations.tolist()
    assert short == 1 + 2 * 10 + 2 * 5 and long == 1 + 8 * 10 + 4 * 5


def test_a_wrong_extra_stage_is_refused():
    tableau = Vern7.tableau
    settings = {name: getattr(tableau, name) for name in tableau.__dataclass_fields__}
    row = list(tableau.extra_a[2])
    row[3], row[4] = row[3] + 1e-9, row[4] - 1e-9
    with pytest.raises(ValueError, match="dense output"):
        ButcherTableau(**settings | {"extra_a": (*tableau.extra_a[:2], tuple(row), *tableau.extra_a[3:])})
    with pytest.raises(ValueError, match="row 14 of a sums to"):
        ButcherTableau(**settings | {"extra_c": (*tableau.extra_c[:2], 0.26, *tableau.extra_c[3:])})


@BATCHING
@pytest.mark.parametrize("name", SOLVERS)
def test_in_float32_the_interpolant_loses_no_digits(name, batching):
    """In powers of θ its coefficients of 1e4 would cost four of the seven."""
    ts = torch.linspace(0.0, 2.0, 41, dtype=F64)
    y0 = torch.ones(1, 1)
    sol = ic.solve(Counted(), y0, ts, solver=name, batching=batching, rtol=1e-6, atol=1e-6, dense=True)
    exact = torch.exp(torch.sin(ts))[:, None, None]
    rounding = 20 * torch.finfo(torch.float32).eps  # the interpolant's 26 stages, and a few steps
    assert torch.allclose(sol.ys.double(), exact, rtol=rounding)
    assert torch.allclose(sol.at(ts).double(), exact, rtol=rounding)


@BATCHING
@GRADIENTS
@pytest.mark.parametrize("name", SOLVERS)
def test_an_event_is_found_with_them(name, batching, gradient):
    """y = exp(θ sin t) reaches 1.5 where sin t = log(1.5)/θ; looking for it asks for the interpolant of every step."""

    def solve(gradient):
        theta = torch.tensor(0.8, dtype=F64, requires_grad=True)
        y0 = torch.ones(1, 1, dtype=F64, requires_grad=True)
        event = ic.Event(lambda t, y: y[..., 0] - 1.5)
        options = {"solver": name, "batching": batching, "rtol": 1e-9, "atol": 1e-9, "gradient": gradient}
        sol = ic.solve(Counted(theta), y0, [0.0, 0.3, 2.0], events=event, **options)
        t = sol.event_ts.reshape(-1)[0]
        return t, torch.autograd.grad(t + sol.ys[1].sum(), (theta, y0))

    t, grads = solve(gradient)
    assert t.item() == pytest.approx(math.asin(math.log(1.5) / 0.8), abs=1e-8)
    for got, want in zip(grads, solve(ic.Backprop())[1], strict=True):
        assert torch.allclose(got, want, rtol=1e-9)
