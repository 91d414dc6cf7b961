"""Implicit and Rosenbrock methods on stiff systems: right, in few steps, with one small Jacobian a sample."""

import math
import warnings

import pytest
import torch

import isocline as ic
from isocline.solvers import RungeKutta, Solver

F64 = torch.float64
STIFF = sorted(n for n, cls in Solver.registry.items() if issubclass(cls, RungeKutta) and not cls.tableau.explicit)
ADAPTIVE = [n for n in STIFF if Solver.registry[n].error_order > 2]

# SciPy's Radau at rtol 1e-12, atol 1e-14; Robertson also in Hairer & Wanner II, IV.10 to fewer digits.
VAN_DER_POL = (1.7061677321704876, -0.0008928097010247924)  # µ = 1000, from (2, 0), t = 2000
ROBERTSON = (0.6172348823963015, 6.153591274644204e-06, 0.3827589640124226)  # from (1, 0, 0), t = 100


def van_der_pol(t, y, mu=1000.0):
    x, v = y.unbind(-1)
    return torch.stack((v, mu * (1 - x * x) * v - x), -1)


def robertson(t, y):
    a, b, c = y.unbind(-1)
    slow, fast, fastest = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack((fast - slow, slow - fast - fastest, fastest), -1)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_stiff_problems_are_solved_to_their_tolerance(name, batching):
    y0 = torch.tensor([[1.0, 0.0, 0.0]] * 2, dtype=F64)
    sol = ic.solve(robertson, y0, [0.0, 100.0], solver=name, rtol=1e-5, atol=1e-9, batching=batching)
    assert torch.allclose(sol.ys[-1], torch.tensor(ROBERTSON, dtype=F64).expand(2, -1), rtol=1e-3, atol=1e-8)
    assert int(torch.as_tensor(sol.stats.accepted).max()) < 400  # an explicit method takes 10⁵


@pytest.mark.parametrize("name", ["radau_iia5", "rodas5_p", "kvaerno5"])
def test_a_relaxation_oscillation(name):
    sol = ic.solve(van_der_pol, torch.tensor([2.0, 0.0], dtype=F64), [0.0, 2000.0], solver=name, rtol=1e-6, atol=1e-9)
    assert torch.allclose(sol.ys[-1], torch.tensor(VAN_DER_POL, dtype=F64), rtol=1e-4)
    assert 0 < sol.stats.jacobians <= sol.stats.accepted


@pytest.mark.parametrize("name", STIFF)
def test_large_steps_do_not_blow_up(name):
    """A-stable: with h |λ| = 100 what has decayed does not come back."""
    y = ic.solve(lambda t, y: -1000.0 * y, torch.ones(1, dtype=F64), [0.0, 10.0], solver=name, step=0.1).ys[-1]
    assert float(y.abs()) <= 1.0


def test_newton_starts_again_with_a_new_jacobian_or_the_step_is_rejected():
    """The system stiffens a thousandfold on the way."""

    def f(t, y):
        return -(1 + 1e3 * torch.sigmoid(50 * (t - 1))) * (y**3 - torch.cos(t))

    sol = ic.solve(f, torch.ones(1, dtype=F64), [0.0, 2.0], solver="kvaerno3", rtol=1e-8, atol=1e-10)
    want = ic.solve(f, torch.ones(1, dtype=F64), [0.0, 2.0], solver="dopri8", rtol=1e-11, atol=1e-12).ys[-1]
    assert sol.stats.jacobians > 1 and torch.allclose(sol.ys[-1], want, rtol=1e-6)


def test_samples_are_looked_at_alone_unless_the_field_couples_them():
    y0 = torch.linspace(1, 2, 6, dtype=F64).reshape(3, 2)
    solver = ic.solvers.Kvaerno5()
    for field, blocks in ((lambda t, y: -100 * y**3, (3, 2, 2)), (lambda t, y: -y * y.sum(), (1, 6, 6))):
        layout = ic.field.Layout.of(y0)
        vector_field = ic.field.VectorField(field, layout, ())
        workspace = solver.workspace(layout.flatten(y0), vector_field)
        workspace.rows[0].copy_(field(None, y0))
        times = vector_field.times([c * 0.01 for c in solver.tableau.c])
        workspace.step(vector_field.fill, times, 0.01, layout.flatten(y0))
        assert workspace.jacobian.shape == blocks
    want = ic.solve(lambda t, y: -y * y.sum(), y0, [0.0, 1.0], rtol=1e-10, atol=1e-12).ys[-1]
    got = ic.solve(lambda t, y: -y * y.sum(), y0, [0.0, 1.0], solver="rodas5_p", rtol=1e-9, atol=1e-11).ys[-1]
    assert torch.allclose(got, want, rtol=1e-7)


@pytest.mark.parametrize("name", ["kvaerno5", "rodas5_p", "radau_iia5"])
def test_the_memory_of_a_stiff_batch_grows_with_the_batch_only(name):
    """B · D² numbers for the Jacobians: two thousand samples must not need (B · D)²."""
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64).repeat(2000, 1)
    y0[:, 1] = torch.linspace(0, 1e-5, 2000, dtype=F64)
    sol = ic.solve(robertson, y0, [0.0, 1.0], solver=name, rtol=1e-4, atol=1e-8, batching="per_sample")
    assert torch.allclose(sol.ys[-1].sum(1), y0.sum(1), rtol=1e-6)


@pytest.mark.parametrize("name", STIFF)
def test_second_derivatives(name):
    """d²/dk² of the discretisation, by central differences of its first derivative."""
    y0 = torch.tensor([0.7, -0.4], dtype=F64)

    def first(k, **kw):
        y = ic.solve(lambda t, y: -k * y + torch.sin(k * t) * y**2, y0, [0.0, 0.5, 1.0], solver=name, step=0.1, **kw)
        return torch.autograd.grad((y.ys**2).sum(), k, create_graph=True)[0]

    for gradient in ("checkpointed", "backprop"):
        k = torch.tensor(1.3, dtype=F64, requires_grad=True)
        second = torch.autograd.grad(first(k, gradient=gradient), k)[0].item()
        ends = [first(torch.tensor(1.3 + d, dtype=F64, requires_grad=True)).item() for d in (1e-5, -1e-5)]
        assert second == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", ["trbdf2", "kvaerno3", "rodas5_p"])
def test_pytrees_complex_and_single_precision(name):
    y0 = {"z": torch.ones(2, dtype=torch.complex128), "x": torch.ones(3, dtype=F64)}
    ys = ic.solve(
        lambda t, y: {"z": 1j * y["z"], "x": -50 * y["x"]}, y0, [0.0, 1.0], solver=name, rtol=1e-7, atol=1e-9
    ).ys
    assert torch.allclose(
        ys["z"][-1], torch.full((2,), complex(math.cos(1), math.sin(1)), dtype=torch.complex128), rtol=1e-4
    )
    assert float(ys["x"][-1].abs().max()) < 1e-6
    y = ic.solve(lambda t, y: -50 * (y - torch.cos(t)), torch.zeros(2), [0.0, 1.0], solver=name).ys[-1]
    assert y.dtype == torch.float32 and float((y - 0.5570).abs().max()) < 2e-3


def test_f_is_asked_past_the_end_only_where_the_formula_demands_it():
    for name in STIFF:
        asked = []

        def f(t, y, asked=asked):
            asked.append(float(t))
            return -y

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ic.solve(f, torch.ones(1), [0.0, 1.0], solver=name, step=0.25)
        assert max(asked) <= (1.0 if name != "kvaerno5" else 1.0 + 0.231 * 0.25) + 1e-6, name


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_failures_of_implicit_solvers_say_what_failed(batching):
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64)
    with pytest.raises(ic.SolveError, match="too long for Newton's method"):
        ic.solve(van_der_pol, y0, [0.0, 2000.0], solver="gauss_legendre4", step=300.0, batching=batching)
    with pytest.raises(ic.SolveError, match="blows up") as found:
        ic.solve(lambda t, y: y**2, y0[:, :1], [0.0, 2.0], solver="kvaerno5", max_steps=2000, batching=batching)
    assert int(torch.as_tensor(found.value.status).max()) == ic.Status.BLOW_UP
    with pytest.raises(ic.SolveError, match="solver='rodas5_p'"):
        ic.solve(van_der_pol, y0, [0.0, 2000.0], max_steps=1000, batching=batching)
    with pytest.raises(ic.SolveError, match=r"max_steps = 20 used up.*Raise max_steps"):
        ic.solve(van_der_pol, y0, [0.0, 2000.0], solver="kvaerno5", max_steps=20, batching=batching)


@pytest.mark.parametrize("name", ["radau_iia5", "kvaerno5", "rodas5_p"])
def test_finished_samples_leave_a_stiff_batch(name, caplog):
    """The stored slope of an implicit step is off by Newton's tolerance; that is no coupling of the samples."""
    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64).repeat(40, 1)
    ts = torch.stack((torch.zeros(40), torch.linspace(0.1, 100.0, 40)), 1).double()
    sol = ic.solve(robertson, y0, ts, solver=name, rtol=1e-3, atol=1e-6, batching="per_sample")
    assert "couples" not in caplog.text and int(sol.stats.evaluations[0]) < int(sol.stats.evaluations[-1])
