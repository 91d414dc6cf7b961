"""The Hamiltonian neural ODE."""

import copy
import math
import pickle

import pytest
import torch
from slopes import check_gradient
from torch import nn

from isocline import ZeroOrderHold
from isocline.nn import MLP, HamiltonianODE, Separable
from isocline.nn.hamiltonian_ode import Hamiltonian

DOUBLE = {"dtype": torch.float64}
TS = torch.linspace(0, 2, 5, **DOUBLE)


class Quadratic(nn.Module):
    """H = ½ (p² + ω² q²)."""

    def __init__(self, omega=1.0):
        super().__init__()
        self.omega = nn.Parameter(torch.tensor(omega, **DOUBLE))

    def forward(self, t, y):
        q, p = y.chunk(2, -1)
        return (p.square() + self.omega**2 * q.square()).sum(-1) / 2


def networks():
    energy = MLP((4, 16, 1), seed=3, **DOUBLE)
    apart = Separable(MLP((2, 16, 1), seed=1, **DOUBLE), MLP((2, 16, 1), seed=2, **DOUBLE))
    return [energy, apart]


def test_the_harmonic_oscillator_moves_on_circles():
    ts = torch.linspace(0, 2 * torch.pi, 30, **DOUBLE)
    path = HamiltonianODE(Quadratic())(torch.tensor([[1.0, 0.0], [0.0, 2.0]], **DOUBLE), ts)
    torch.testing.assert_close(path[:, 0], torch.stack([ts.cos(), -ts.sin()], -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(path.norm(dim=-1), torch.tensor([1.0, 2.0], **DOUBLE).expand(30, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("energy", networks())
def test_any_network_conserves_its_energy(energy):
    model = HamiltonianODE(energy, rtol=1e-9, atol=1e-10)
    path = model(torch.randn(6, 4, **DOUBLE), torch.linspace(0, 2, 5, **DOUBLE))
    values = model.energy(path)
    torch.testing.assert_close(values, values[0].expand_as(values), rtol=0, atol=1e-8)


@pytest.mark.parametrize("energy", networks())
def test_any_network_conserves_volume(energy):
    field = Hamiltonian(energy)
    y = torch.randn(4, **DOUBLE)
    jacobian = torch.autograd.functional.jacobian(lambda y: field(torch.tensor(0.0, **DOUBLE), y), y)
    assert abs(jacobian.trace().item()) < 1e-14
    assert jacobian.abs().max() > 1e-3


@pytest.mark.parametrize(("solver", "order"), [("symplectic_euler", 1), ("leapfrog", 2), ("yoshida4", 4)])
def test_symplectic_solvers_keep_the_energy_of_a_separable_network(solver, order):
    model = HamiltonianODE(networks()[1], solver=solver)
    start = torch.randn(6, 2, **DOUBLE), torch.randn(6, 2, **DOUBLE)

    def drift(step, until=5.0):
        path = model.solution(start, torch.linspace(0, until, 20, **DOUBLE), step=step).ys
        return (model.energy(path) - model.energy(start)).abs().max().item()

    assert math.log2(drift(0.2) / drift(0.1)) == pytest.approx(order, abs=0.2)


def test_a_pair_and_a_tensor_are_the_same_state():
    model = HamiltonianODE(networks()[0], engine="eager")
    y = torch.randn(6, 4, **DOUBLE)
    q, p = model((y[:, :2], y[:, 2:]), TS)
    torch.testing.assert_close(torch.cat([q, p], -1), model(y, TS), rtol=0, atol=1e-9)
    assert torch.equal(model.energy((y[:, :2], y[:, 2:])), model.energy(y))


@pytest.mark.parametrize(
    "gradient", ["backprop", "checkpointed", "backsolve", "gauss_adjoint", "interpolating", "forward"]
)
@pytest.mark.parametrize("which", [0, 1])
def test_gradients_agree_with_finite_differences(gradient, which):
    model = HamiltonianODE(networks()[which], rtol=1e-8, atol=1e-9, gradient=gradient)
    y0 = torch.randn(3, 4, **DOUBLE, requires_grad=True)

    def loss():
        return model(y0, (0.0, 0.5, 1.0))[1:].sin().sum()

    check_gradient(loss, [y0, *(w for n, w in model.named_parameters() if not n.endswith("2.bias"))])  # H + constant


def test_friction_makes_an_oscillator_decay():
    model = HamiltonianODE(Quadratic(), damping=torch.tensor([0.4], **DOUBLE))
    path = model(torch.tensor([1.0, 0.0], **DOUBLE), TS)
    w = math.sqrt(1 - 0.2**2)
    expected = torch.exp(-0.2 * TS) * (torch.cos(w * TS) + 0.2 / w * torch.sin(w * TS))
    torch.testing.assert_close(path[:, 0], expected, rtol=0, atol=1e-6)
    same = HamiltonianODE(Quadratic(), damping=lambda t, q: 0.4 + 0 * q)(path[0], TS)
    torch.testing.assert_close(same, path, rtol=0, atol=1e-12)


def test_an_input_drives_it_through_the_port():
    knots = torch.tensor([0.0, 2.0], **DOUBLE)
    push = ZeroOrderHold(knots, torch.tensor([[3.0], [3.0]], **DOUBLE))
    path = HamiltonianODE(Quadratic(), force=lambda t, y, u: u, inputs=push)(torch.zeros(2, **DOUBLE), TS)
    torch.testing.assert_close(path[:, 0], 3 * (1 - TS.cos()), rtol=0, atol=1e-6)


def test_a_damping_moves_and_is_saved_with_the_model():
    model = HamiltonianODE(MLP((2, 8, 1)), damping=torch.tensor([0.4]))
    assert "field.damping" in model.state_dict()
    assert model.double()(torch.ones(2, **DOUBLE)).dtype == torch.float64
    learned = HamiltonianODE(MLP((2, 8, 1)), damping=nn.Parameter(torch.tensor([0.4])))
    learned(torch.ones(2), (0.0, 1.0))[-1].sum().backward()
    assert learned.field.damping.grad.abs() > 0


def test_it_works_without_gradients_and_in_inference_mode():
    model = HamiltonianODE(networks()[0])
    y0 = torch.randn(3, 4, **DOUBLE)
    with torch.no_grad():
        plain = model(y0, TS)
    with torch.inference_mode():
        inferred = model(y0.clone(), TS)
    assert torch.equal(plain, inferred)
    torch.testing.assert_close(plain, model(y0, TS))


def test_samples_are_independent_and_step_alone():
    model = HamiltonianODE(networks()[0], batching="per_sample")
    y0 = torch.randn(3, 4, **DOUBLE)
    together = model(y0, TS)
    torch.testing.assert_close(together[:, 1:2], model(y0[1:2], TS), rtol=0, atol=1e-12)


def test_it_can_be_mapped_and_differentiated_by_torch_func():
    model = HamiltonianODE(networks()[0], solver="rk4", step=0.1)
    y0 = torch.randn(3, 4, **DOUBLE)
    mapped = torch.func.vmap(lambda y: model(y, (0.0, 1.0))[-1])(y0)
    torch.testing.assert_close(mapped, model(y0, (0.0, 1.0))[-1])
    slope = torch.func.grad(lambda y: model(y, (0.0, 1.0))[-1].sum())(y0)
    y0.requires_grad_()
    (expected,) = torch.autograd.grad(model(y0, (0.0, 1.0))[-1].sum(), y0)
    torch.testing.assert_close(slope, expected)


def test_a_model_copies_and_pickles():
    model = HamiltonianODE(networks()[1], damping=0.1)
    y0 = torch.randn(3, 4, **DOUBLE)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(y0), model(y0))


def test_what_does_not_fit_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"\(3, 3\), expected \(..., 2n\)"):
        HamiltonianODE(MLP((3, 8, 1)))(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="one number a sample"):
        HamiltonianODE(MLP((2, 8, 2)))(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="pair"):
        HamiltonianODE(MLP((2, 8, 1)))({"q": torch.zeros(3, 1), "p": torch.zeros(3, 1)})
    pair = torch.zeros(3, 2, **DOUBLE), torch.zeros(3, 2, **DOUBLE)
    with pytest.raises(ValueError, match="separable"):
        HamiltonianODE(networks()[0], solver="leapfrog", step=0.1)(pair)
