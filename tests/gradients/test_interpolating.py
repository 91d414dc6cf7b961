"""What Interpolating promises beyond the grid and the contracts of all methods."""

import math
import warnings

import pytest
import torch
from test_gauss_adjoint import contracting

import isocline as ic

F64 = torch.float64


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_it_is_right_where_y_cannot_be_integrated_backwards(batching):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = contracting("interpolating", batching=batching)
    for a, b in zip(got, contracting(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)


def test_an_implicit_way_forward_with_an_explicit_way_back():
    got = contracting(ic.Interpolating(solver="tsit5"), solver="kvaerno5")
    for a, b in zip(got, contracting(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("theta", [0.5, 0.0])
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_the_step_control_sees_the_parameters_share(batching, theta):
    """y' = θ sin(20 t): a(t) is constant, and at θ = 0 so is y; only ∂f/∂θ says that steps must be short."""
    theta = torch.tensor(theta, dtype=F64, requires_grad=True)
    y0 = torch.zeros(2, 1, dtype=F64)

    def grad(gradient):
        options = {"gradient": gradient, "batching": batching}
        y = ic.solve(lambda t, y: theta * torch.sin(20 * t) + 0 * y, y0, [0.0, 3.0], **options).ys[-1]
        return torch.autograd.grad(y.sum(), theta)[0].item()

    want = 2 * (1 - math.cos(60.0)) / 20
    assert grad("interpolating") == pytest.approx(want, rel=1e-6)
    # The seminorm looks at a(t) alone: what its documentation warns of.
    assert abs(grad(ic.Interpolating(seminorm=True)) - want) > 1e-2 * abs(want)


def test_its_norm_is_the_larger_of_the_two_parts():
    """Thousands of parameters with no share must not hide the error of a(t): the same steps as without them."""
    field = ic.nn.MLP((2, 8, 2), dtype=F64, seed=1).requires_grad_(False)
    idle = torch.zeros(5000, dtype=F64, requires_grad=True)
    counts = []
    for args in ((), (idle,)):
        y0 = torch.ones(1, 2, dtype=F64, requires_grad=True)
        f = (lambda t, y, x: field(t, y) + 0 * x.sum()) if args else field
        sol = ic.solve(f, y0, [0.0, 2.0], args=args, gradient="interpolating")
        sol.ys[-1].square().sum().backward()
        counts.append(sol.stats.evaluations_backward)
    assert counts[0] == counts[1]


def test_its_own_solver_and_looser_tolerances_save_evaluations():
    field = ic.nn.MLP((2, 30, 2), dtype=F64)
    y0 = torch.ones(4, 2, dtype=F64)

    def run(gradient):
        sol = ic.solve(field, y0, [0.0, 1.0], gradient=gradient, rtol=1e-8, atol=1e-10)
        grad = torch.autograd.grad(sol.ys[-1].square().sum(), next(iter(field.parameters())))[0]
        return grad, sol.stats.evaluations_backward

    exact, _ = run("checkpointed")
    tight, many = run("interpolating")
    loose, few = run(ic.Interpolating(solver="bosh3", rtol=1e-3, atol=1e-5))
    assert few < many
    assert torch.allclose(tight, exact, rtol=1e-6, atol=1e-9) and torch.allclose(loose, exact, rtol=1e-2, atol=1e-4)
    fixed, count = run(ic.Interpolating(solver="rk4", controller=ic.FixedStep(max_step=0.1)))
    assert count == 40 and torch.allclose(fixed, exact, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("gradient", ["gauss_adjoint", "interpolating", "forward"])
def test_a_solve_ends_at_an_event_and_the_gradient_with_it(gradient, batching):
    """y' = −ky falls to ½ at t = ln 2 / k."""
    k = torch.tensor(0.9, dtype=F64, requires_grad=True)
    sol = ic.solve(
        lambda t, y: -k * y,
        torch.tensor([[1.0]], dtype=F64),
        [0.0, 0.2, 5.0],
        events=ic.Event(lambda t, y: y[..., 0] - 0.5 if batching == "per_sample" else y[0, 0] - 0.5),
        gradient=gradient,
        batching=batching,
        rtol=1e-10,
        atol=1e-12,
    )
    (grad,) = torch.autograd.grad(sol.event_ts.sum() + sol.ys[1].sum(), k)
    assert grad.item() == pytest.approx(-math.log(2) / 0.81 - 0.2 * math.exp(-0.18), rel=1e-7)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("gradient", ["interpolating", "forward"])
def test_inputs_and_doses_have_their_gradients(gradient, batching):
    """y' = −ky + u(t), u held, and a dose: the gradients of every value, knotted and dosed, are backpropagation's."""
    values = torch.tensor([1.0, -0.5, 2.0], dtype=F64, requires_grad=True)
    amounts = torch.tensor([[0.7], [0.3]], dtype=F64, requires_grad=True)
    when = torch.tensor([0.4, 0.8], dtype=F64, requires_grad=True)
    k = torch.tensor(1.3, dtype=F64, requires_grad=True)
    u = ic.ZeroOrderHold(torch.tensor([0.0, 0.3, 0.7], dtype=F64), values)
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True)

    def grads(gradient):
        ys = ic.solve(
            lambda t, y, u: -k * y + u,
            y0,
            [0.0, 0.55, 1.2],
            inputs=u,
            doses=ic.Dose(when, amounts, per_sample=False),
            gradient=gradient,
            batching=batching,
            rtol=1e-10,
            atol=1e-12,
        ).ys
        return torch.autograd.grad((ys**2).sum(), (values, amounts, when, k, y0))

    for got, want in zip(grads(gradient), grads("backprop"), strict=True):
        assert torch.allclose(got, want, rtol=1e-7, atol=1e-9)


def test_what_it_does_not_have_is_refused_by_name():
    a = torch.tensor(0.3, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64)
    sol = ic.solve(lambda t, y: a * y, y0, [0.0, 1.0], gradient="interpolating", dense=True)
    with pytest.raises(ic.GradientError, match=r"Interpolating has no gradient through Solution\.at"):
        torch.autograd.grad(sol.at(0.5).sum(), a)
    with pytest.raises(ValueError, match="give either controller or rtol and atol"):
        ic.Interpolating(controller=ic.FixedStep(0.1), rtol=1e-3)
    with pytest.raises(ValueError, match="'euler' has no error estimate"):
        ic.solve(lambda t, y: a * y, y0, [0.0, 1.0], gradient=ic.Interpolating(solver="euler"))
    with pytest.raises(ic.GradientError, match=r"'kvaerno5' is implicit, .* use gradient='gauss_adjoint'"):
        ic.solve(lambda t, y: a * y, y0, [0.0, 1.0], solver="kvaerno5", gradient="interpolating")
