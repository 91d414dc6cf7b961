"""Runs of fixed steps compiled for a field: the interpreter's states and gradients, whatever the method, times and inputs."""

import pytest
import torch
from caches import own_cache
from fused_fields import FIELDS, Field
from torch import nn

import isocline as ic
from isocline.engines.fused.emit import steps
from isocline.engines.fused.lanes import LANES
from isocline.engines.fused.plan import Plan
from isocline.engines.fused.trace import trace
from isocline.nn import MLP
from isocline.solvers import RK4, Tsit5

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures(own_cache.__name__)]
F32, F64 = torch.float32, torch.float64


class Driven(nn.Module):
    """A pendulum pushed in time, with a strength of each sample and a length that all share."""

    def __init__(self, dtype):
        super().__init__()
        self.friction = nn.Parameter(torch.tensor([0.3, 0.1], dtype=dtype))

    def forward(self, t, y, strength, length):
        angle, speed = y[:, :1], y[:, 1:]
        push = strength * torch.sin(3 * t) / length
        pull = push - torch.sin(angle) * 9.81 / length - self.friction.sum() * speed
        return torch.cat((speed, pull), -1)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def found(field, engine, y0, ts, args=None, **options):
    """States, and gradients of all that can have one."""
    leaves = [y0.clone().requires_grad_(), *(x.clone().requires_grad_() for x in args or ())]
    handed = {} if args is None else {"args": tuple(leaves[1:])}
    sol = ic.solve(field, leaves[0], ts, batching="per_sample", engine=engine, **handed, **options)
    weights = torch.linspace(-1, 1, sol.ys.numel(), dtype=sol.ys.dtype).view(sol.ys.shape)
    grads = torch.autograd.grad((sol.ys * weights).sum(), [*leaves, *field.parameters()], allow_unused=True)
    return sol.ys, [g for g in grads if g is not None]


def agree(field, y0, ts, args=None, **options):
    dtype = y0.dtype
    (want, exact), (got, ours) = (found(field, ic.Fused(x), y0, ts, args, **options) for x in (False, "wait"))
    loose = 1e-11 if dtype == F64 else 1e-3
    torch.testing.assert_close(got, want, rtol=loose, atol=loose)
    for x, y in zip(ours, exact, strict=True):
        assert float((x - y).norm()) <= 10 * loose * float(y.norm())


@pytest.fixture
def ran(monkeypatch):
    """The runs of the functions that were compiled, by name."""
    there = set()
    real = steps._Steps.small

    def small(self):
        if real(self):
            there.add(self.tableau)
        return real(self)

    monkeypatch.setattr(steps._Steps, "small", small)
    return there


TIMES = {
    "ends of steps": torch.linspace(0, 1, 6, dtype=F64),
    "within steps": torch.tensor([0.0, 0.013, 0.05, 0.33, 0.330001, 0.77, 1.0], dtype=F64),
    "every step": torch.linspace(0, 1, 51, dtype=F64),
    "backwards": torch.tensor([1.0, 0.5, 0.11, -0.3], dtype=F64),
    "one step": torch.tensor([0.0, 0.02], dtype=F64),
}


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4", "bosh3", "tsit5"])
@pytest.mark.parametrize("times", TIMES)
def test_methods_and_times(solver, times, ran):
    """Methods whose last slope is the next step's first, methods that leave slopes unused, and observations anywhere."""
    agree(
        Driven(F64),
        0.5 * numbers(21, 2),
        TIMES[times],
        (numbers(21, 1, seed=1), 1 + numbers(1, seed=2) ** 2),
        step=0.02,
        solver=solver,
    )
    assert ran


@pytest.mark.parametrize(("dtype", "width"), [(F64, 1), (F64, 8), (F32, 2), (F32, 8), (F32, 16)])
@pytest.mark.parametrize("name", ["Lorenz", "pieces", "where", "time"])
def test_fields_and_tiles(name, dtype, width, monkeypatch, ran):
    monkeypatch.setattr(Plan, "_width", lambda self, samples, together: width)
    y0 = (0.5 + 0.2 * numbers(150, 3)).to(dtype)
    agree(Field(FIELDS[name]).to(dtype), y0, torch.linspace(0, 0.5, 3, dtype=F64), step=0.02, solver="rk4")
    assert ran == {RK4.tableau}


def test_dense_output_and_threads():
    """Cotangents of the states in between; and the same bits however many threads there are."""
    field, y0 = Field(FIELDS["Lorenz"]), 1 + 0.1 * numbers(40, 3)
    values = []
    for engine in (ic.Fused(), ic.Fused("wait")):
        y = y0.clone().requires_grad_()
        sol = ic.solve(field, y, (0.0, 0.4), batching="per_sample", engine=engine, step=0.02, solver="rk4", dense=True)
        inner = sol.at(torch.full((40,), 0.155, dtype=F64))
        values.append((inner, *torch.autograd.grad(inner.square().sum(), y)))
    for a, b in zip(*values, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-11)
    many = 1 + 0.1 * numbers(2000, 3)
    before = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2):
            torch.set_num_threads(count)
            ys, grads = found(
                field, ic.Fused("wait"), many, torch.linspace(0, 0.2, 3, dtype=F64), step=0.02, solver="rk4"
            )
            runs.append([ys, *grads])
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    finally:
        torch.set_num_threads(before)


def test_a_sample_that_fails_fails_alone():
    """The machine goes over to a clock for each sample, as without what was compiled."""
    y0 = torch.tensor([[0.5], [3.0], [0.1]], dtype=F64)
    field = Field(lambda s, t, y: y**3)
    a, b = (
        ic.solve(field, y0, (0.0, 1.0), batching="per_sample", engine=engine, step=0.01, solver="rk4", throw=False)
        for engine in (ic.Fused(), ic.Fused("wait"))
    )
    assert a.status.tolist() == b.status.tolist()
    assert [x == ic.Status.SUCCESS for x in b.status.tolist()] == [True, False, True]
    torch.testing.assert_close(b.ys, a.ys, rtol=1e-12, atol=0, equal_nan=True)


def test_large_fields_are_left_to_the_machine():
    def of(field, size):
        traced = trace(field, torch.rand(LANES, 1, dtype=F64), numbers(LANES, size))
        return steps.forward(traced, Tsit5.tableau), steps.backward(traced, Tsit5.tableau)

    assert of(MLP((2, 20, 2), dtype=F64), 2) == ("", "")
    forward, backward = of(Field(FIELDS["Lorenz"]), 3)
    assert "isocline_steps(" in forward and "isocline_steps_back(" in backward


class Scaled(nn.Module):
    """Slopes that are a shared number times something: of nobody else, of another slope too, twice, and of the state itself."""

    def __init__(self):
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([0.7, -0.4, 1.3], dtype=F64))

    def forward(self, t, y):
        a, b, c, d = y.unbind(-1)
        first, second, third = self.rates
        read = second * (a * b)
        return torch.stack([first * (b - a), read, read + c.sin(), third * d], -1)


@pytest.mark.parametrize("solver", ["rk4", "bosh3", "tsit5"])
def test_shared_factors_of_slopes_go_into_the_weights_of_a_step(solver, ran):
    field = Scaled()
    of_steps = steps._Steps(trace(field, torch.rand(LANES, 1, dtype=F64), numbers(LANES, 4)), RK4.tableau)
    assert [factor is not None for factor in of_steps.factors] == [True, False, False, True]
    assert of_steps.slopes[3] == of_steps.y[3]
    agree(field, 0.5 * numbers(7, 4, seed=1), TIMES["ends of steps"], solver=solver, step=0.02)
    assert ran
