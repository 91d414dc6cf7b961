"""The second-order neural ODE."""

import copy
import math
import pickle

import pytest
import torch
from slopes import check_gradient
from torch import nn

from isocline.nn import MLP, Force, SecondOrderODE

DOUBLE = {"dtype": torch.float64}


class Spring(nn.Module):
    """x″ = −ω² x − 2γ x′."""

    def __init__(self, omega=2.0, gamma=0.0):
        super().__init__()
        self.omega = nn.Parameter(torch.tensor(omega, **DOUBLE))
        self.gamma = nn.Parameter(torch.tensor(gamma, **DOUBLE))

    def forward(self, t, x, v):
        return -(self.omega**2) * x - 2 * self.gamma * v


def test_a_damped_oscillator_follows_its_closed_form():
    model = SecondOrderODE(Spring(1.5, 0.2))
    ts = torch.linspace(0, 8, 20, **DOUBLE)
    x, v = model((torch.ones(1, **DOUBLE), torch.zeros(1, **DOUBLE)), ts)
    w = math.sqrt(1.5**2 - 0.2**2)
    decay = torch.exp(-0.2 * ts)
    torch.testing.assert_close(x[:, 0], decay * (torch.cos(w * ts) + 0.2 / w * torch.sin(w * ts)), rtol=0, atol=1e-5)
    torch.testing.assert_close(v[:, 0], -decay * 1.5**2 / w * torch.sin(w * ts), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("solver", "order"), [("symplectic_euler", 1), ("leapfrog", 2), ("yoshida4", 4)])
def test_symplectic_solvers_have_their_order_and_keep_the_energy(solver, order):
    start = torch.ones(1, **DOUBLE), torch.zeros(1, **DOUBLE)

    def miss(step):
        x, _ = SecondOrderODE(Force(lambda t, x: -x, velocity=False), solver=solver, step=step, returns="end")(
            start, (0.0, 1.6)
        )
        return abs(x.item() - math.cos(1.6))

    assert math.log2(miss(0.05) / miss(0.025)) == pytest.approx(order, abs=0.2)
    model = SecondOrderODE(Force(lambda t, x: -x.sin(), velocity=False), solver=solver, step=0.1)
    with torch.no_grad():
        x, v = model(start, torch.linspace(0, 60, 100, **DOUBLE))
    energy = v.square() / 2 - x.cos()
    # Bounded, and not larger later than sooner: the error of a step, C·h^order, does not add up.
    early, late = ((part - energy[0]).abs().max() for part in (energy[:50], energy[50:]))
    assert late < 1.2 * early < 1.2 * 0.1**order


def test_a_network_gives_the_velocity_where_none_is_given():
    start = nn.Linear(2, 2)
    model = SecondOrderODE(Force(MLP((4, 16, 2))), velocity=start)
    x0 = torch.randn(5, 2)
    x, v = model(x0, torch.linspace(0, 1, 4))
    assert torch.equal(x[0], x0) and torch.equal(v[0], start(x0))
    given = model((x0, start(x0)), torch.linspace(0, 1, 4))
    assert torch.equal(given[0], x)
    x[-1].sum().backward()
    assert start.weight.grad.norm() > 0


@pytest.mark.parametrize(
    ("gradient", "solver"),
    [
        ("backprop", {"rtol": 1e-9}),
        ("checkpointed", {"rtol": 1e-9}),
        ("backsolve", {"rtol": 1e-9}),
        ("gauss_adjoint", {"rtol": 1e-9}),
        ("checkpointed", {"solver": "leapfrog", "step": 0.1}),
        ("reversible_adjoint", {"solver": "leapfrog", "step": 0.1}),
    ],
)
def test_gradients_agree_with_finite_differences(gradient, solver):
    model = SecondOrderODE(Spring(2.0, 0.0), velocity=nn.Linear(1, 1, **DOUBLE), gradient=gradient, **solver)
    if solver.get("solver"):
        model.acceleration.gamma.requires_grad_(False)
        model.acceleration.forward = lambda t, x, v: -(model.acceleration.omega**2) * x
    x0 = torch.randn(3, 1, **DOUBLE)

    def loss():
        x, v = model(x0, (0.0, 0.5, 1.0))
        return (x[1:].sin() + v[1:] ** 2).sum()

    check_gradient(loss, [w for w in model.parameters() if w.requires_grad])


def test_a_model_copies_pickles_and_moves():
    model = SecondOrderODE(Force(MLP((4, 8, 2))), velocity=nn.Linear(2, 2))
    x0 = torch.randn(4, 2)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x0)[0], model(x0)[0])
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert torch.equal(other(x0)[0][-1], x0)  # the copy solves its own weights
    assert set(model.state_dict()) == {
        f"acceleration.net.layers.{i}.{w}" for i in (0, 2) for w in ("weight", "bias")
    } | {
        "velocity.weight",
        "velocity.bias",
    }
    assert model.double()(x0.double())[0].dtype == torch.float64


def test_starts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="velocity=network"):
        SecondOrderODE(Force(MLP((2, 8, 1))))(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"\(3, 2\), expected that of x0, \(3, 1\)"):
        SecondOrderODE(Force(MLP((2, 8, 1))), velocity=nn.Linear(1, 2))(torch.zeros(3, 1))
    with pytest.raises(TypeError, match="acceleration"):
        SecondOrderODE(3)


def test_a_symplectic_solver_refuses_friction():
    with pytest.raises(ValueError, match="separable"):
        SecondOrderODE(Spring(2.0, 0.1), solver="leapfrog", step=0.1)(
            (torch.ones(1, **DOUBLE), torch.zeros(1, **DOUBLE))
        )
