"""Implicit and Rosenbrock methods on stiff systems: right, in few steps, with one small Jacobian a sample."""

import functools
import math
import warnings

import pytest
import torch

import isocline as ic
from isocline.solvers import RungeKutta, Solver

F64 = torch.float64
STIFF = sorted(n for n, cls in Solver.registry.items() if issubclass(cls, RungeKutta) and not cls().tableau.explicit)
ADAPTIVE = [n for n in STIFF if Solver.named(n).error_order > 2]

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


@pytest.mark.parametrize("name", [n for n in STIFF if n != "auto_switch"])  # it begins explicit
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

    ends = [first(torch.tensor(1.3 + d, dtype=F64, requires_grad=True)).item() for d in (1e-5, -1e-5)]
    for gradient in ("checkpointed", "backprop"):
        k = torch.tensor(1.3, dtype=F64, requires_grad=True)
        second = torch.autograd.grad(first(k, gradient=gradient), k)[0].item()
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
        beyond = max(0.0, max(Solver.named(name).tableau.c) - 1.0)  # 0.23 of Kvaerno5's third stage
        assert max(asked) <= 1.0 + 0.25 * beyond + 1e-6, name


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


# ---- the Jacobian given, or never formed ------------------------------------------------------------------------------
def robertson_jacobian(t, y):
    a, b, c = y.unbind(-1)
    none = torch.zeros_like(a)
    slow, fast, fastest = torch.full_like(a, 0.04), (1e4 * c, 1e4 * b), 6e7 * b
    rows = ((-slow, *fast), (slow, -fast[0] - fastest, -fast[1]), (none, fastest, none))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def wrong(t, y):
    return 1.01 * robertson_jacobian(t, y)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("cls", [ic.Kvaerno5, ic.RadauIIA5, ic.Rodas5P])
def test_a_given_jacobian_changes_nothing_but_who_evaluates_it(cls, batching):
    asked = []

    def given(t, y):
        asked.append(tuple(y.shape))
        return robertson_jacobian(t, y)

    y0 = torch.tensor([[1.0, 0.0, 0.0]] * 2, dtype=F64)
    options = {"rtol": 1e-5, "atol": 1e-9, "batching": batching}
    want = ic.solve(robertson, y0, [0.0, 10.0], solver=cls(), **options)
    got = ic.solve(robertson, y0, [0.0, 10.0], solver=cls(jacobian=given), **options)
    assert torch.allclose(got.ys, want.ys, rtol=1e-7, atol=1e-12)
    assert len(asked) == got.stats.jacobians and set(asked) == {(2, 3)}


def test_gradients_with_a_given_jacobian_are_the_same():
    def loss(solver):
        k = torch.tensor(2.0, dtype=F64, requires_grad=True)
        ys = ic.solve(
            lambda t, y, k: -k * y**3, torch.ones(2, 1, dtype=F64), [0.0, 1.0], solver=solver, args=(k,), step=0.1
        )
        return torch.autograd.grad((ys.ys**2).sum(), k)[0]

    for cls in (ic.Kvaerno3, ic.Rodas5P):
        assert torch.allclose(
            loss(cls(jacobian=lambda t, y, k: -3 * k * y.unsqueeze(-1) ** 2)), loss(cls()), rtol=1e-10
        )
    kw = {"solver": ic.Kvaerno3(jacobian=lambda t, y: torch.diag_embed(-3 * y**2)), "gradient": "gauss_adjoint"}
    y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)  # the adjoint's Jacobian is another one
    got = torch.autograd.grad(ic.solve(lambda t, y: -(y**3), y0, [0.0, 1.0], **kw).ys[-1].sum(), y0)[0]
    assert torch.allclose(got, torch.full_like(got, 3.0**-1.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (wrong, "jacobian: its product with a random vector differs by"),
        (lambda t, y: robertson_jacobian(t, y).mT, "looks transposed"),
        (lambda t, y: y, r"jacobian: returned shape \(2, 3\), expected .* \(2, 3, 3\)"),
        (lambda t, y: 1.0, "jacobian: returned float, expected"),
    ],
)
def test_a_wrong_jacobian_is_refused_by_name(given, message):
    y0 = torch.tensor([[0.9, 1e-5, 0.1]] * 2, dtype=F64)
    with pytest.raises(ValueError, match=message):
        ic.solve(robertson, y0, [0.0, 1.0], solver=ic.Kvaerno5(jacobian=given), batching="per_sample")


def test_settings_that_make_no_sense_are_refused(unchecked):
    for settings, message in (
        ({"linear": "cg"}, "linear='cg', expected 'dense' or 'gmres'"),
        ({"jacobian": 1.0}, "jacobian: expected a callable"),
        ({"jacobian": wrong, "linear": "gmres"}, "forms none"),
    ):
        with pytest.raises(ValueError, match=message):
            ic.Kvaerno5(**settings)


def brusselator(t, y, spread=0.02):
    """In one dimension, with fixed ends: Hairer & Wanner II, IV.10."""
    u, v = y.unbind(-1)
    second = lambda x, end: (torch.nn.functional.pad(x[None], (1, 1), value=end)[0].diff(n=2)) * (len(x) + 1) ** 2
    return torch.stack(
        (1 + u * u * v - 4 * u + spread * second(u, 1.0), 3 * u - u * u * v + spread * second(v, 3.0)), -1
    )


def start(cells):
    x = torch.linspace(0, 1, cells + 2, dtype=F64)[1:-1]
    return torch.stack((1 + torch.sin(2 * math.pi * x), torch.full_like(x, 3.0)), -1)


@pytest.mark.parametrize("cls", [ic.Kvaerno3, ic.RadauIIA5, ic.TRBDF2])
def test_without_a_jacobian_formed_it_is_the_same_solution(cls):
    options = {"rtol": 1e-5, "atol": 1e-7}
    want = ic.solve(brusselator, start(12), [0.0, 0.5], solver=cls(), **options)
    got = ic.solve(brusselator, start(12), [0.0, 0.5], solver=cls(linear="gmres"), **options)
    assert torch.allclose(got.ys, want.ys, rtol=1e-4)
    assert abs(got.stats.accepted - want.stats.accepted) <= 0.2 * want.stats.accepted


def test_gradients_without_a_jacobian_agree_with_finite_differences_and_second_ones_too():
    def loss(spread, **kw):
        f = lambda t, y: brusselator(t, y, spread)
        ys = ic.solve(f, start(5), [0.0, 0.2], solver=ic.Kvaerno3(linear="gmres"), step=0.1, **kw).ys
        return (ys[-1] ** 2).sum()

    spread = torch.tensor(0.02, dtype=F64, requires_grad=True)
    (first,) = torch.autograd.grad(loss(spread), spread, create_graph=True)
    (second,) = torch.autograd.grad(first, spread)
    with torch.no_grad():
        ends = [loss(spread + d).item() for d in (1e-5, 0.0, -1e-5)]
    assert first.item() == pytest.approx((ends[0] - ends[2]) / 2e-5, rel=1e-6)
    assert second.item() == pytest.approx((ends[0] - 2 * ends[1] + ends[2]) / 1e-10, rel=1e-3)


def test_a_large_state_needs_no_memory_for_its_jacobian():
    """2,000 numbers: (D, D) would be 32 MB. No tensor larger than the vectors GMRES keeps is ever made."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(x, torch.Tensor):
                    largest[0] = max(largest[0], x.untyped_storage().nbytes())
            return out

    y0 = start(1000)
    with torch.no_grad(), Watch():
        sol = ic.solve(brusselator, y0, [0.0, 2e-4], solver=ic.TRBDF2(linear="gmres"), rtol=1e-3, atol=1e-5)
    assert sol.stats.accepted > 0 and largest[0] < 2e6
    # Explicit steps resolve the diffusion here: h < 2.8 / (4 · 0.02 · 1001²) = 3.5e-5.
    want = ic.solve(brusselator, y0, [0.0, 2e-4], solver="dopri5", rtol=1e-6, atol=1e-8).ys[-1]
    assert torch.allclose(sol.ys[-1], want, rtol=1e-2)


def test_a_sample_that_is_not_finite_leaves_open_whether_samples_are_alone():
    from isocline.field import Layout, VectorField
    from isocline.solvers.jacobian import Jacobians

    y = torch.tensor([[1.0, 2.0], [math.nan, 1.0], [0.5, 0.3]], dtype=F64)
    for f, rows in ((lambda t, y: -(y**3), 3), (lambda t, y: -y * y[2:].sum(), 1)):
        layout = Layout.of(y)
        jacobians = Jacobians(VectorField(f, layout, ()), layout.flatten(y))
        jacobians.at(torch.tensor(0.0, dtype=F64), layout.flatten(y))
        assert not jacobians.probed
        jacobians.at(torch.tensor(0.0, dtype=F64), layout.flatten(y.nan_to_num(0.7)))
        assert jacobians.probed and jacobians.grid[0] == rows


def reaction(t, y, k):
    a, b, c = y.unbind(-1)
    return torch.stack((-k[0] * a + k[2] * b * c, k[0] * a - k[1] * b * b - k[2] * b * c, k[1] * b * b), -1)


def reaction_gradient(tol, **options):
    k = torch.tensor([0.04, 3e7, 1e4], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
    ys = ic.solve(reaction, y0, [0.0, 1.0, 40.0], args=(k,), rtol=tol, atol=1e-4 * tol, **options).ys
    return torch.autograd.grad(ys[-1, 0, 0], k)[0]


@functools.cache
def nearly_exact():
    return reaction_gradient(1e-7, solver="radau_iia5", gradient="backprop")


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("name", [n for n in ADAPTIVE if ic.Solver.named(n).order > 2])
def test_a_long_stiff_step_is_found_again_on_the_way_back(name, batching):
    """A step accepted at its tolerance may be too long for one Jacobian to lead down to rounding."""
    grad = reaction_gradient(1e-4, solver=name, gradient=ic.Checkpointed(graphs=0), batching=batching)
    assert torch.allclose(grad, nearly_exact(), rtol=1e-2)
