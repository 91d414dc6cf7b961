"""DETEST and the classics: what the benchmark compares solvers on, checked by SciPy and by closed forms."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.special import jv

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import detest
from classics import CLASSICS
from detest import DETEST, MATRICES, STATES

NAMES = {p.name: p for p in DETEST}
F64 = torch.float64


def test_there_are_five_of_each_class_with_a_state_each():
    assert [p.name for p in DETEST] == [f"{c}{i}" for c in "ABCDE" for i in range(1, 6)] == list(STATES)
    assert all(len(p.start) == len(p.reference) for p in DETEST)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_recomputed_by_scipy(name):
    p = NAMES[name]
    found = solve_ivp(p.numpy, (p.t0, p.t1), p.y0, method="DOP853", rtol=1e-13, atol=1e-15)
    # At eccentricity 0.9 an error of the first passage grows with time, through the period.
    assert np.allclose(found.y[:, -1], p.reference, rtol=1e-9, atol=1e-11 if name[0] != "D" else 1e-9)


@pytest.mark.parametrize("p", [p for p in CLASSICS if p.stiff], ids=lambda p: p.name)
def test_a_stiff_reference_is_recomputed_by_an_implicit_method(p):
    atol = 1e-10 * np.abs(p.reference)
    found = solve_ivp(p.numpy, (p.t0, p.t1), p.y0, method="Radau", rtol=1e-10, atol=atol)
    assert found.success and np.allclose(found.y[:, -1], p.reference, rtol=1e-8, atol=0)


def closed_forms():
    yield "A1", [math.exp(-20)]
    yield "A2", [1 / math.sqrt(21)]
    yield "A3", [math.exp(math.sin(20))]
    yield "A4", [20 / (1 + 19 * math.exp(-5))]
    yield "E1", [jv(0.5, 21), (jv(-0.5, 21) - jv(1.5, 21)) / 2]
    speed = math.sqrt(0.032 / 0.4)
    yield "E4", [30 + math.log(math.cosh(0.4 * speed * 20)) / 0.4, speed * math.tanh(0.4 * speed * 20)]
    yield "E5", [(-25 * math.log(5 / 25) - 20 + (5**2 - 25**2) / 50 + 20) / 2, 2.4]
    for p in DETEST[10:14]:
        matrix = MATRICES[id(p.formula.args[0]), "numpy"]
        yield p.name, expm(20 * matrix) @ p.y0


@pytest.mark.parametrize(("name", "want"), list(closed_forms()), ids=lambda x: x if isinstance(x, str) else "")
def test_a_state_is_the_closed_form(name, want):
    assert np.allclose(NAMES[name].reference, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["D1", "D2", "D3", "D4", "D5"])
def test_an_orbit_is_keplers(name):
    e = 0.1 + 0.2 * int(name[1]) - 0.2
    anomaly = 20.0
    for _ in range(100):
        anomaly -= (anomaly - e * math.sin(anomaly) - 20.0) / (1 - e * math.cos(anomaly))
    want = math.cos(anomaly) - e, math.sqrt(1 - e * e) * math.sin(anomaly)
    assert NAMES[name].reference[:2] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("p", [*DETEST, *CLASSICS], ids=lambda p: p.name)
def test_both_libraries_are_given_the_same_field(p):
    rng = np.random.default_rng(0)
    for t in (p.t0, 0.5 * (p.t0 + p.t1)):
        y = p.y0 * (1 + 0.1 * rng.standard_normal(len(p.y0))) + 0.01 * rng.random(len(p.y0))
        want = p.torch(torch.tensor(t, dtype=F64), torch.tensor(y)).numpy()
        assert np.allclose(p.numpy(t, y), want, rtol=1e-13, atol=1e-13 * np.abs(want).max())


def test_the_outer_planets_move_as_the_paper_writes_it():
    """Term by term: k₂(−(m₀ + mⱼ)xⱼ/rⱼ³ + Σ_{k≠j} mₖ((xₖ − xⱼ)/dⱼₖ³ − xₖ/rₖ³))."""
    y, m = np.array(NAMES["C5"].start), detest.PLANETS
    slope, x = NAMES["C5"].numpy(0.0, y), y[:15].reshape(5, 3)
    cube = lambda v: np.linalg.norm(v) ** 3
    for j in range(5):
        pull = -(detest.SUN + m[j]) * x[j] / cube(x[j])
        for k in set(range(5)) - {j}:
            pull = pull + m[k] * ((x[k] - x[j]) / cube(x[k] - x[j]) - x[k] / cube(x[k]))
        assert np.allclose(slope[15 + 3 * j : 18 + 3 * j], detest.GRAVITY * pull, rtol=1e-12)
    assert np.array_equal(slope[:15], y[15:])
