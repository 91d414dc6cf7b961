"""The Lagrangian neural ODE."""

import copy
import pickle

import pytest
import torch
from slopes import check_gradient
from torch import nn

from isocline import ZeroOrderHold
from isocline.nn import MLP, LagrangianODE, Mechanical
from isocline.nn.lagrangian_ode import EulerLagrange

DOUBLE = {"dtype": torch.float64}
TS = torch.linspace(0, 1, 3, **DOUBLE)
NOW = torch.tensor(0.3, **DOUBLE)
G, M1, M2, L1, L2 = 9.81, 1.3, 0.7, 0.9, 1.4


def pendulum(t, y):
    """m = 1, length L1; zero hangs down."""
    q, v = y.chunk(2, -1)
    return L1**2 * v**2 / 2 + G * L1 * torch.cos(q)


def double_pendulum(t, y):
    q1, q2, v1, v2 = y.unbind(-1)
    kinetic = (M1 + M2) * (L1 * v1) ** 2 / 2 + M2 * (L2 * v2) ** 2 / 2 + M2 * L1 * L2 * v1 * v2 * torch.cos(q1 - q2)
    return kinetic + (M1 + M2) * G * L1 * torch.cos(q1) + M2 * G * L2 * torch.cos(q2)


def network():
    return Mechanical(MLP((2, 16, 3), seed=1, **DOUBLE), MLP((2, 16, 1), seed=2, **DOUBLE))


def test_a_pendulum_accelerates_as_it_should():
    y = torch.randn(10, 2, **DOUBLE)
    slope = EulerLagrange(pendulum)(NOW, y)
    torch.testing.assert_close(slope, torch.stack([y[:, 1], -G / L1 * torch.sin(y[:, 0])], -1))


def test_a_double_pendulum_accelerates_as_its_explicit_equations_say():
    y = 2 * torch.randn(50, 4, **DOUBLE)
    q1, q2, v1, v2 = y.unbind(-1)
    d = q1 - q2
    # Newton's equations of the two masses with the rods' tensions eliminated (the usual textbook form).
    below = 2 * M1 + M2 - M2 * torch.cos(2 * d)
    a1 = -G * (2 * M1 + M2) * torch.sin(q1) - M2 * G * torch.sin(q1 - 2 * q2)
    a1 = (a1 - 2 * torch.sin(d) * M2 * (v2**2 * L2 + v1**2 * L1 * torch.cos(d))) / (L1 * below)
    a2 = v1**2 * L1 * (M1 + M2) + G * (M1 + M2) * torch.cos(q1) + v2**2 * L2 * M2 * torch.cos(d)
    a2 = 2 * torch.sin(d) * a2 / (L2 * below)
    slope = EulerLagrange(double_pendulum)(NOW, y)
    torch.testing.assert_close(slope, torch.stack([v1, v2, a1, a2], -1))


def test_a_lagrangian_that_depends_on_time_moves_the_momentum():
    # L = m(t) v²/2 with m = eᵗ: (m v)′ = 0, so v′ = −v.
    slope = EulerLagrange(lambda t, y: torch.exp(t) * y[..., 1:] ** 2 / 2)(
        NOW, torch.tensor([[1.0, 2.0], [0.0, 3.0]]).double()
    )
    torch.testing.assert_close(slope[:, 1], torch.tensor([-2.0, -3.0], **DOUBLE))


def test_coordinates_do_not_matter():
    """A free particle in polar coordinates goes straight."""

    def free(t, y):
        r, _, vr, vangle = y.unbind(-1)
        return (vr**2 + (r * vangle) ** 2) / 2

    path = LagrangianODE(free)(torch.tensor([1.0, 0.0, 0.5, 1.0], **DOUBLE), TS)
    x, y = path[:, 0] * path[:, 1].cos(), path[:, 0] * path[:, 1].sin()
    torch.testing.assert_close(torch.stack([x, y], -1), torch.stack([1 + 0.5 * TS, TS], -1), rtol=0, atol=1e-6)


def test_any_network_conserves_its_energy():
    model = network()
    with torch.no_grad():
        path = LagrangianODE(model, rtol=1e-8, atol=1e-9)(
            torch.randn(6, 4, **DOUBLE), torch.linspace(0, 1, 4, **DOUBLE)
        )
    v = path[..., 2:].detach().requires_grad_()
    lagrangian = model(NOW, torch.cat([path[..., :2], v], -1))
    (momentum,) = torch.autograd.grad(lagrangian.sum(), v)
    energy = (momentum * v).sum(-1) - lagrangian
    torch.testing.assert_close(energy, energy[0].expand_as(energy), rtol=0, atol=1e-6)


def test_a_plain_network_is_a_lagrangian_too():
    lagrangian = MLP((4, 16, 1), "softplus", seed=1, **DOUBLE)
    y = torch.randn(5, 4, **DOUBLE)
    slope = EulerLagrange(lagrangian)(NOW, y)
    for each, found in zip(y, slope, strict=True):  # the equation with derivatives taken another way
        hessian = torch.autograd.functional.hessian(lambda y: lagrangian(NOW, y).sum(), each)
        by_q = torch.autograd.functional.jacobian(lambda y: lagrangian(NOW, y).sum(), each)[:2]
        torch.testing.assert_close(hessian[2:, 2:] @ found[2:] + hessian[2:, :2] @ each[2:], by_q)


def test_friction_and_an_input_act_on_the_velocity():
    knots = torch.tensor([0.0, 1.0], **DOUBLE)
    push = ZeroOrderHold(knots, torch.tensor([[3.0], [3.0]], **DOUBLE))
    free = LagrangianODE(lambda t, y: y[..., 1:] ** 2, damping=4.0, force=lambda t, y, u: u, inputs=push)
    path = free(torch.zeros(2, **DOUBLE), TS)  # 2 v′ = 3 − 4 v
    torch.testing.assert_close(path[:, 1], 0.75 * (1 - torch.exp(-2 * TS)), rtol=0, atol=1e-6)


def test_a_pair_and_a_tensor_are_the_same_state():
    model = LagrangianODE(network(), damping=lambda t, q: 0.1 + q**2, solver="rk4", step=0.5)
    y = torch.randn(6, 4, **DOUBLE)
    q, v = model((y[:, :2], y[:, 2:]), TS)
    torch.testing.assert_close(torch.cat([q, v], -1), model(y, TS), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "gradient", ["backprop", "checkpointed", "backsolve", "gauss_adjoint", "interpolating", "forward"]
)
def test_gradients_agree_with_finite_differences(gradient):
    damping = nn.Parameter(torch.tensor([0.1, 0.2], **DOUBLE))
    model = LagrangianODE(network(), damping=damping, rtol=1e-8, atol=1e-9, gradient=gradient)
    y0 = torch.randn(3, 4, **DOUBLE, requires_grad=True)

    def loss():
        return model(y0, [0.0, 0.2, 0.4])[1:].sin().sum()

    check_gradient(loss, [y0, *(w for n, w in model.named_parameters() if not n.endswith("potential.layers.2.bias"))])


def test_it_works_without_gradients_and_in_inference_mode():
    model = LagrangianODE(network())
    y0 = torch.randn(3, 4, **DOUBLE)
    with torch.no_grad():
        plain = model(y0, TS)
    with torch.inference_mode():
        inferred = model(y0.clone(), TS)
    assert torch.equal(plain, inferred)
    torch.testing.assert_close(plain, model(y0, TS))


def test_samples_are_independent_and_step_alone():
    model = LagrangianODE(network(), batching="per_sample")
    y0 = torch.randn(3, 4, **DOUBLE)
    together = model(y0, TS)
    torch.testing.assert_close(together[:, 1:2], model(y0[1:2], TS), rtol=0, atol=1e-12)


def test_it_can_be_mapped_and_differentiated_by_torch_func():
    model = LagrangianODE(network(), solver="rk4", step=0.25)
    y0 = torch.randn(3, 4, **DOUBLE)
    mapped = torch.func.vmap(lambda y: model(y, (0.0, 1.0))[-1])(y0)
    torch.testing.assert_close(mapped, model(y0, (0.0, 1.0))[-1])
    slope = torch.func.grad(lambda y: model(y, (0.0, 1.0))[-1].sum())(y0)
    y0.requires_grad_()
    (expected,) = torch.autograd.grad(model(y0, (0.0, 1.0))[-1].sum(), y0)
    torch.testing.assert_close(slope, expected)


def test_a_model_copies_pickles_and_moves():
    model = LagrangianODE(Mechanical(MLP((2, 16, 3)), MLP((2, 16, 1))), damping=torch.tensor([0.1, 0.2]))
    y0 = torch.randn(3, 4)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(y0), model(y0))
    assert model.double()(y0.double()).dtype == torch.float64


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="singular"):
        LagrangianODE(MLP((2, 8, 1), "relu"))(torch.ones(3, 2))
    with pytest.raises(ValueError, match="singular"):
        LagrangianODE(lambda t, y: y[..., 1])(torch.ones(3, 2))
    with pytest.raises(ValueError, match="2 entries, expected 3 for 2"):
        LagrangianODE(Mechanical(MLP((2, 8, 2)), MLP((2, 8, 1))))(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"LagrangianODE: a state of shape \(3, 3\)"):
        LagrangianODE(MLP((3, 8, 1)))(torch.zeros(3, 3))
