"""SciPy's solvers under `solve`: the same times, errors and dense output as ours, gradients by continuous adjoints."""

import sys

import pytest
import torch

import isocline as ic
from isocline.gradients import Gradient
from isocline.solvers import Scipy
from isocline.solvers.scipy import METHODS

F64 = torch.float64
Y0 = torch.tensor([1.0, 0.2], dtype=F64)
TS = torch.linspace(0.0, 3.0, 7, dtype=F64)
pytestmark = pytest.mark.usefixtures("unchecked")


def swing(t, y, k=1.0):
    return torch.stack((y[1], -k * torch.sin(y[0]) + 0.3 * torch.cos(t)))


@pytest.fixture(scope="module")
def exact():
    return ic.solve(swing, Y0, TS, solver="vern9", rtol=1e-12, atol=1e-13, dense=True)


@pytest.mark.parametrize("method", METHODS)
def test_it_solves_observes_and_interpolates(method, exact):
    tol = 1e-8
    sol = ic.solve(swing, Y0, TS, solver=Scipy(method), rtol=tol, atol=tol, dense=True)
    assert (sol.ys - exact.ys).abs().max() < 50 * tol  # as our own solvers are held to
    # Between steps the interpolants of SciPy lose an order to the steps, and a digit or two.
    t = torch.linspace(0.01, 2.99, 40)
    assert (sol.at(t) - exact.at(t)).abs().max() < 200 * tol
    assert (sol.derivative(t) - exact.derivative(t)).abs().max() < 2e4 * tol
    # Its own interpolant at an observation and the one made of it are the same polynomial.
    assert torch.allclose(sol.at(TS), sol.ys, rtol=1e-11, atol=1e-12)
    assert sol.success and sol.stats.accepted == len(sol.accepted_ts) - 1
    back = ic.solve(swing, sol.ys[-1], TS.flip(0), solver=Scipy(method), rtol=tol, atol=tol)
    assert (back.ys[-1] - Y0).abs().max() < 200 * tol


def test_every_evaluation_is_counted():
    calls = []

    def counted(t, y):
        calls.append(float(t))
        return swing(t, y)

    for method in METHODS:
        calls.clear()
        sol = ic.solve(counted, Y0, TS, solver=Scipy(method))
        assert sol.stats.evaluations == len(calls) > 0
        assert (sol.stats.jacobians > 0) == (method in ("Radau", "BDF"))
        assert min(calls) >= 0.0 and max(calls) <= 3.0


def test_trees_complex_and_half_precision_states():
    y0 = {"x": torch.ones(2, dtype=torch.bfloat16), "z": torch.ones(1, dtype=torch.complex64)}
    sol = ic.solve(lambda t, y: {"x": -y["x"], "z": 1j * y["z"]}, y0, [0.0, 1.0], solver=Scipy("RK45"))
    assert sol.ys["x"].dtype == torch.bfloat16 and sol.ys["z"].dtype == torch.complex64
    assert torch.allclose(sol.ys["z"][-1], torch.exp(torch.tensor(1j)), atol=1e-2)  # x sets the tolerance: 1e-2


def test_jumps_and_doses_end_steps():
    def field(t, y):
        return torch.where(t < 1.0, 1.0, -1.0) * torch.ones_like(y)

    options = {"solver": Scipy("RK45"), "rtol": 1e-10, "atol": 1e-10}
    sol = ic.solve(field, torch.zeros(1, dtype=F64), [0.0, 1.0, 2.0], jump_ts=[1.0], dense=True, **options)
    assert torch.allclose(sol.ys[:, 0], torch.tensor([0.0, 1.0, 0.0], dtype=F64), atol=1e-12)
    assert 1.0 in sol.accepted_ts
    doses = ic.Dose([0.5], torch.ones(1, 1, dtype=F64))
    sol = ic.solve(lambda t, y: -y, torch.zeros(1, dtype=F64), [0.0, 1.0], doses=doses, **options)
    assert torch.allclose(sol.ys[-1], torch.exp(torch.tensor(-0.5, dtype=F64)), rtol=1e-8)


def test_a_failure_is_a_solve_error_with_what_there_is():
    with pytest.raises(ic.SolveError, match="blows up at t = 1") as caught:
        ic.solve(lambda t, y: y * y, torch.ones(1), [0.0, 0.5, 2.0], solver=Scipy("RK45"))
    ys = caught.value.solution.ys
    assert ys[1].item() == pytest.approx(2.0, rel=1e-4) and ys[2].isnan().all()
    sol = ic.solve(swing, Y0, TS, solver=Scipy("RK45"), max_steps=3, throw=False)
    assert sol.status is ic.Status.MAX_STEPS and sol.stats.accepted == 3 and not sol.success
    sol = ic.solve(lambda t, y: y * torch.sqrt(0.5 - t), Y0, [0.0, 0.4, 2.0], solver=Scipy("Radau"), throw=False)
    assert not sol.success and sol.ys[1].isfinite().all() and sol.ys[2].isnan().all()


@pytest.mark.parametrize(
    "gradient", [ic.Backsolve(solver="tsit5"), ic.GaussAdjoint(solver="tsit5"), ic.GaussAdjoint(solver="kvaerno5")]
)
def test_continuous_adjoints_give_its_gradients(gradient):
    k, y0 = torch.tensor(1.0, dtype=F64, requires_grad=True), Y0.clone().requires_grad_()

    def grads(**options):
        ys = ic.solve(swing, y0, TS, args=(k,), rtol=1e-9, atol=1e-11, **options).ys
        return torch.autograd.grad(ys.square().sum(), (k, y0))

    for g, w in zip(grads(solver=Scipy("DOP853"), gradient=gradient), grads(solver="dopri8"), strict=True):
        assert torch.allclose(g, w, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(Gradient.registry))
def test_a_gradient_that_needs_its_steps_is_refused_by_name(name):
    k = torch.tensor(1.0, dtype=F64, requires_grad=True)
    with pytest.raises((ValueError, ic.GradientError), match=r"Backsolve|solver="):
        ic.solve(swing, Y0, TS, args=(k,), solver=Scipy(), gradient=name)
    with torch.no_grad():
        assert ic.solve(swing, Y0, TS, args=(k,), solver=Scipy(), gradient=name).success
    if name not in ("backprop", "reversible_adjoint"):  # which do not look whether there is anything to differentiate
        assert ic.solve(swing, Y0, TS, solver=Scipy(), gradient=name).success


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"step": 0.1}, "chooses its steps itself"),
        ({"batching": "per_sample"}, "one sample after the other"),
        ({"events": ic.Event(lambda t, y: y[0, 0])}, "events: not available"),
        ({"observer": ic.Observer(accepted=print)}, "observer: not available"),
        ({"controller": ic.PID(norm=torch.norm)}, "norm: not available"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(options, says):
    with pytest.raises(ValueError, match=says):
        ic.solve(lambda t, y: -y, Y0[None], TS, solver=Scipy(), **options)


def test_an_unknown_method_and_a_missing_scipy_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"method='RK99'.*LSODA"):
        Scipy("RK99")
    monkeypatch.setitem(sys.modules, "scipy.integrate", None)
    solver = Scipy("LSODA")
    with pytest.raises(ImportError, match=r"Scipy\(method='LSODA'\) needs SciPy: pip install scipy"):
        ic.solve(swing, Y0, TS, solver=solver)
