"""The named systems: closed forms, invariants and references against SciPy."""

import pytest
import torch
from scipy.integrate import solve_ivp

import isocline as ic
from isocline import problems

F64 = torch.float64
MAKERS = {
    n: getattr(problems, n) for n in problems.__all__ if n not in ("Problem", "pendulum_period", "sir_final_size")
}
ALL = {name: make() for name, make in MAKERS.items()}


def by_scipy(p, t):
    def f(t, y):
        return p.field(torch.tensor(t, dtype=F64), torch.tensor(y)).numpy()

    return solve_ivp(f, (p.t0, float(t)), p.y0.numpy(), method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]


@pytest.mark.parametrize("name", [n for n, p in ALL.items() if p.solution])
def test_a_closed_form_is_right(name):
    p = ALL[name]
    ts = torch.linspace(p.t0, p.t1, 5, dtype=F64)
    for t, y in zip(ts[1:], p.solution(ts, p.y0, p.t0)[1:], strict=True):
        assert torch.allclose(y, torch.tensor(by_scipy(p, t)), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", [n for n, p in ALL.items() if p.reference is not None])
def test_a_reference_is_recomputed(name):
    p = ALL[name]
    tol = 1e-7 if name == "lorenz" else 1e-9  # chaos: the last digits of two computations part
    assert torch.allclose(p.reference, torch.tensor(by_scipy(p, p.t1)), rtol=tol, atol=tol)


@pytest.mark.parametrize("name", ALL)
def test_isocline_solves_it(name):
    p = ALL[name]
    ts = torch.linspace(p.t0, p.t1, 4, dtype=F64)
    ys = ic.solve(p.field, p.y0, ts, solver="dopri8", rtol=1e-11, atol=1e-12).ys
    want = p.solution(ts, p.y0, p.t0)[-1] if p.solution else p.reference
    if want is not None:
        assert torch.allclose(ys[-1], want, rtol=1e-6, atol=1e-7)
    if p.invariant:
        values = p.invariant(ys)
        assert torch.allclose(values, values[0].expand_as(values), rtol=1e-7)
    assert want is not None or p.invariant is not None


@pytest.mark.parametrize("name", ALL)
def test_a_field_takes_batches_and_dtypes(name):
    p = ALL[name]
    for dtype in (torch.float32, F64):
        y = p.y0.to(dtype).expand(4, 3, -1)
        dy = p.field(torch.tensor(p.t0, dtype=dtype), y)
        assert dy.shape == y.shape and dy.dtype == dtype
        assert len(p.labels) == len(p.units) == p.y0.shape[-1]


def test_the_epidemic_has_its_final_size():
    p = problems.sir()
    end = ic.solve(p.field, p.y0, [p.t0, 300.0], rtol=1e-10, atol=1e-10).ys[-1]
    assert end.sum().item() == pytest.approx(p.y0.sum().item(), rel=1e-9)
    assert float(problems.sir_final_size(p.y0)) == pytest.approx(float(end[0]), rel=1e-6)


def test_the_pendulums_period_is_the_elliptic_one():
    p = problems.pendulum()
    assert p.y0[1] == 0
    period = problems.pendulum_period(float(p.y0[0]))
    end = ic.solve(p.field, p.y0, [0.0, period], rtol=1e-11, atol=1e-12).ys[-1]
    assert torch.allclose(end, p.y0, atol=1e-8)
