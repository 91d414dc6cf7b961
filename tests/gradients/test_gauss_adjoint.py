"""What GaussAdjoint, and the adjoints along the stored solution together, promise beyond the grid and the contracts."""

import math
import warnings

import pytest
import torch

import isocline as ic
from isocline.gradients.gauss_adjoint import gauss_legendre

F64 = torch.float64


def contracting(gradient=None, **options):
    """y' = −k(y − c cos t) over [0, 1], what Backsolve refuses: solved, or without `gradient` in closed form."""
    k = torch.tensor(50.0, dtype=F64, requires_grad=True)
    c = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.5], [0.5]], dtype=F64, requires_grad=True)
    ts = torch.tensor([0.0, 0.05, 1.0], dtype=F64)
    if gradient is None:
        t = ts[:, None, None]
        drawn = lambda t: c * (k * k * torch.cos(t) + k * torch.sin(t)) / (1 + k * k)
        ys = drawn(t) + (y0 - drawn(ts[0])) * torch.exp(-k * t)
    else:
        options = {"rtol": 1e-8, "atol": 1e-10, **options}
        ys = ic.solve(lambda t, y: -k * (y - c * torch.cos(t)), y0, ts, gradient=gradient, **options).ys
    return torch.autograd.grad((ys**2).sum(), (k, c, y0))


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("solver", ["tsit5", "dopri8", "kvaerno5", "radau_iia5", "rodas5_p"])
def test_it_is_right_where_y_cannot_be_integrated_backwards(solver, batching):
    options = {"solver": solver, "batching": batching}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = contracting("gauss_adjoint", **options)
    for a, b in zip(got, contracting(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)
    if solver == "tsit5":
        with pytest.raises(ic.GradientError, match=r"not to be trusted|cannot be run backwards"):
            contracting("backsolve", max_steps=1000, **options)


@pytest.mark.parametrize("gradient", ["gauss_adjoint", "interpolating"])
def test_it_converges_as_tolerances_tighten(gradient):
    field = ic.nn.MLP((2, 16, 2), dtype=F64, seed=2)
    y0 = torch.tensor([[1.0, -0.5]], dtype=F64)

    def grads(method, **options):
        loss = ic.solve(field, y0, [0.0, 0.7, 2.0], gradient=method, **options).ys.square().sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(field.parameters()))])

    reference = grads("backprop", rtol=1e-12, atol=1e-13)
    errors = []
    for tol in (1e-4, 1e-6, 1e-8):
        errors.append(float((grads(gradient, rtol=tol, atol=tol) - reference).norm() / reference.norm()))
        assert errors[-1] < 3 * tol
    assert errors[2] < 1e-2 * errors[0]


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_the_quadrature_sees_what_the_way_back_alone_would_step_over(batching):
    """y' = θ sin(20 t): a(t) is constant, and one step of the way back would take in everything."""
    theta = torch.tensor(0.5, dtype=F64, requires_grad=True)
    y0 = torch.zeros(2, 1, dtype=F64)
    y = ic.solve(
        lambda t, y: theta * torch.sin(20 * t) + 0 * y, y0, [0.0, 3.0], gradient="gauss_adjoint", batching=batching
    ).ys[-1]
    (grad,) = torch.autograd.grad(y.sum(), theta)
    assert grad.item() == pytest.approx(2 * (1 - math.cos(60.0)) / 20, rel=1e-6)


@pytest.mark.parametrize("gradient", ["gauss_adjoint", "interpolating"])
def test_jumps_of_the_field_and_of_the_cotangent(gradient):
    """y' = θ_i y with θ changing at 0.5, and an observation on either side: closed form."""
    a = torch.tensor([0.3, -0.8], dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64, requires_grad=True)

    def f(t, y):
        return (a[0] if t < 0.5 else a[1]) * y

    ys = ic.solve(f, y0, [0.0, 0.4, 1.0], gradient=gradient, jump_ts=[0.5], rtol=1e-10, atol=1e-12).ys
    by_a, by_y0 = torch.autograd.grad(ys[1, 0] + 2 * ys[2, 0], (a, y0))
    first, second = math.exp(0.12), math.exp(0.15 - 0.4)
    assert by_a.tolist() == pytest.approx([0.4 * first + 2 * 0.5 * second, 2 * 0.5 * second], rel=1e-8)
    assert by_y0.item() == pytest.approx(first + 2 * second, rel=1e-8)


def test_its_own_solver_and_looser_tolerances_save_evaluations():
    field = ic.nn.MLP((2, 30, 2), dtype=F64)
    y0 = torch.ones(4, 2, dtype=F64)

    def run(gradient):
        sol = ic.solve(field, y0, [0.0, 1.0], gradient=gradient, rtol=1e-8, atol=1e-10)
        grad = torch.autograd.grad(sol.ys[-1].square().sum(), next(iter(field.parameters())))[0]
        return grad, sol.stats.evaluations_backward

    exact, _ = run("checkpointed")
    tight, many = run("gauss_adjoint")
    loose, few = run(ic.GaussAdjoint(solver="bosh3", rtol=1e-3, atol=1e-5))
    assert few < many
    assert torch.allclose(tight, exact, rtol=1e-6, atol=1e-9) and torch.allclose(loose, exact, rtol=1e-2, atol=1e-4)


def test_what_it_does_not_have_is_refused_by_name():
    a = torch.tensor(0.3, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64)
    sol = ic.solve(lambda t, y: a * y, y0, [0.0, 1.0], gradient="gauss_adjoint", dense=True)
    with pytest.raises(ic.GradientError, match="GaussAdjoint has no second derivatives; use gradient='checkpointed'"):
        torch.autograd.grad(sol.ys[-1].sum(), a, create_graph=True)
    with pytest.raises(ic.GradientError, match=r"GaussAdjoint has no gradient through Solution\.at"):
        torch.autograd.grad(sol.at(0.5).sum(), a)
    with pytest.raises(ValueError, match="give either controller or rtol and atol"):
        ic.GaussAdjoint(controller=ic.FixedStep(0.1), rtol=1e-3)
    with pytest.raises(ValueError, match="'euler' has no error estimate"):
        ic.solve(lambda t, y: a * y, y0, [0.0, 1.0], gradient=ic.GaussAdjoint(solver="euler"))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_quadrature_is_exact_up_to_its_degree(count):
    nodes, weights = gauss_legendre(count)
    for degree in range(2 * count):
        assert sum(w * x**degree for x, w in zip(nodes, weights, strict=True)) == pytest.approx(1 / (degree + 1))


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("gradient", ["gauss_adjoint", "interpolating", "backsolve", "checkpointed"])
def test_times_may_go_back(gradient, batching):
    """y' = −k y from y(1) = 1 to y(0) = eᵏ, whose derivative by k is eᵏ."""
    k = torch.tensor(0.5, dtype=F64, requires_grad=True)
    y1 = torch.ones(1, 1, dtype=F64)
    options = {"gradient": gradient, "batching": batching, "rtol": 1e-8, "atol": 1e-10}
    ic.solve(lambda t, y: -k * y, y1, [1.0, 0.6, 0.0], **options).ys[-1].sum().backward()
    assert k.grad.item() == pytest.approx(math.exp(0.5), rel=1e-6)
