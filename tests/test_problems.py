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
STIFF = ("robertson", "hires")  # recomputed in tests/benchmarks/test_detest.py


def by_scipy(p, t, y0=None, **options):
    """The references in the package were made by this function."""

    def f(t, y):
        return p.field(torch.tensor(t, dtype=F64), torch.tensor(y)).numpy()

    start = (p.y0 if y0 is None else y0).numpy()
    found = solve_ivp(f, (p.t0, float(t)), start, method="DOP853", rtol=1e-13, atol=1e-15, **options)
    return found if options else found.y[:, -1]


@pytest.mark.parametrize("name", [n for n, p in ALL.items() if p.solution])
def test_a_closed_form_is_right(name):
    p = ALL[name]
    ts = torch.linspace(p.t0, p.t1, 5, dtype=F64)
    for t, y in zip(ts[1:], p.solution(ts, p.y0, p.t0)[1:], strict=True):
        assert torch.allclose(y, torch.tensor(by_scipy(p, t)), rtol=1e-8, atol=1e-9)


# How much an error grows until the end: chaos, and encounters with the Moon or a star, take the last digits.
GROWTH = {"lorenz": 1e2, "arenstorf": 1e4, "pleiades": 1e2}


@pytest.mark.parametrize("name", [n for n, p in ALL.items() if p.reference is not None and n not in STIFF])
def test_a_reference_is_recomputed(name):
    p = ALL[name]
    tol = 1e-9 * GROWTH.get(name, 1)
    assert torch.allclose(p.reference, torch.tensor(by_scipy(p, p.t1)), rtol=tol, atol=tol)


def test_references_agree_with_the_published_digits():
    """Test Set for IVP Solvers (2008), ROBER, HIRES and PLEI; Hairer, Nørsett and Wanner I, eq. II.0.1: a period."""
    published = {
        "robertson": [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050],
        "hires": [0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2],
        "pleiades": [0.3706139143970502, 0.3237284092057233e1, -0.3222559032418324e1, 0.6597091455775310],
    }
    for name, digits in published.items():
        got = ALL[name].reference[: len(digits)]
        assert got.tolist() == pytest.approx(digits, rel=1e-8), name
    # Closed to the digits of µ and y₀, which the Moon magnifies.
    assert torch.allclose(ALL["arenstorf"].reference, ALL["arenstorf"].y0, atol=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_isocline_solves_it(name):
    p = ALL[name]
    ts = torch.linspace(p.t0, p.t1, 4, dtype=F64)
    if name in STIFF:
        ys = ic.solve(p.field, p.y0, ts, solver="radau_iia5", rtol=1e-7, atol=1e-7 * p.reference.abs()).ys
    else:
        ys = ic.solve(p.field, p.y0, ts, solver="dopri8", rtol=1e-11, atol=1e-12).ys
    want = p.solution(ts, p.y0, p.t0)[-1] if p.solution else p.reference
    if want is not None:
        tol = 1e-6 * GROWTH.get(name, 1) if name == "arenstorf" else 1e-6
        assert torch.allclose(ys[-1], want, rtol=tol, atol=0.1 * tol)
    if p.invariant:
        values = p.invariant(ys)
        assert torch.allclose(values, values[0].expand_as(values), rtol=1e-7)
    assert want is not None or p.invariant is not None


@pytest.mark.parametrize("name", ALL)
def test_a_field_takes_batches_and_dtypes(name):
    p = ALL[name]
    for dtype in (torch.float32, F64):
        single = p.y0.to(dtype)
        for y in (single, single.expand(4, 3, -1)):
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


@pytest.mark.parametrize("name", [n for n, p in ALL.items() if p.solution])
def test_a_closed_form_takes_batches_and_a_later_start(name):
    p = ALL[name]
    y0 = torch.stack((p.y0, 0.5 * p.y0, -p.y0))
    ts = 3.0 + torch.linspace(0.0, 2.0, 5, dtype=F64)
    ys = p.solution(ts, y0, 3.0)
    assert ys.shape == (5, 3, 2) and torch.allclose(ys[0], y0, atol=1e-14)
    for row in range(3):
        assert torch.allclose(ys[:, row], p.solution(ts - 3.0, y0[row], 0.0), atol=1e-12)
    # The flow is one: half the way and then the other half.
    assert torch.allclose(p.solution(ts[4], ys[2], float(ts[2])), ys[4], atol=1e-12)
    assert p.solution(ts.float(), y0.float(), 3.0).dtype == torch.float32


@pytest.mark.parametrize("start", [(0.7, -2.0), (-2.5, 0.5), (0.0, 6.0), (0.0, 0.0), (3.1, 0.0)])
def test_the_pendulum_starts_anywhere_in_a_swing(start):
    p = problems.pendulum()
    y0 = torch.tensor(start, dtype=F64)
    got = p.solution(torch.tensor(4.0, dtype=F64), y0, 0.0)
    assert torch.allclose(got, torch.tensor(by_scipy(p, 4.0, y0)), atol=1e-9)


def test_the_pendulums_closed_form_refuses_a_full_turn():
    p = problems.pendulum()
    with pytest.raises(ValueError, match="covers swings"):
        p.solution(torch.tensor(1.0), torch.tensor([0.0, 7.0]), 0.0)


def test_an_oscillator_without_a_spring_is_refused():
    with pytest.raises(ValueError, match="stiffness=0"):
        problems.harmonic_oscillator(stiffness=0.0)


def test_van_der_pols_period_is_the_known_one():
    def upwards(t, y):  # x rises through 0
        return y[0]

    upwards.direction = 1
    crossings = by_scipy(problems.van_der_pol(), 60.0, events=upwards).t_events[0]
    assert crossings[-1] - crossings[-2] == pytest.approx(6.663286859323130, abs=1e-10)


def test_the_cubic_spiral_has_its_symmetry():
    p = problems.cubic_spiral()
    c = 0.5
    long = by_scipy(p, 2.0)  # y(2); from c·y0 the same point, c times nearer, is reached at 2/c²
    assert torch.allclose(torch.tensor(by_scipy(p, 2.0 / c**2, c * p.y0)), c * torch.tensor(long), atol=1e-10)


def test_constants_other_than_the_usual_have_no_reference():
    assert problems.van_der_pol(mu=5.0).reference is None
    assert problems.lotka_volterra(alpha=0.6).reference is None
    assert problems.lorenz(rho=20.0).reference is None
    assert problems.sir(beta=1.0).reference is None
    assert problems.robertson(k1=0.05).reference is None
    assert problems.brusselator(b=2.0).reference is None
    assert problems.arenstorf(mu=0.01).reference is None


def test_a_constant_can_be_made_a_parameter():
    field = problems.van_der_pol().field
    field.mu = torch.nn.Parameter(field.mu)
    field(torch.tensor(0.0), torch.tensor([2.0, 1.0])).sum().backward()
    assert field.mu.grad.item() == -3.0  # d/dμ of μ(1 − x²)v
