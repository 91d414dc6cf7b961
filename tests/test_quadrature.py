"""∫ ℓ dt inside the solve, against closed forms."""

import copy
import math

import pytest
import torch

import isocline as ic
from isocline.gradients import Gradient

F64 = torch.float64
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("gradient", sorted(set(Gradient.registry) - {"reversible_adjoint"}))
def test_the_energy_of_a_decay_and_its_gradient(gradient, batching):
    """y' = −ky: ∫₀ᵀ (y')² dt = k y₀² (1 − e^(−2kT)) / 2."""
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.5], [-0.5]], dtype=F64, requires_grad=True)
    field = ic.integral(lambda t, y: -k * y, lambda t, y, slope: slope.square().sum(-1))
    start = (y0, torch.zeros(2, dtype=F64))
    y, q = ic.solve(field, start, [0.0, 0.4, 2.0], gradient=gradient, batching=batching, **TIGHT).ys
    want = k * y0[:, 0] ** 2 * (1 - torch.exp(-4 * k)) / 2
    assert q.shape == (3, 2) and torch.allclose(q[-1], want, rtol=1e-8)
    got = torch.autograd.grad(q[-1].sum() + y[1].sum(), (k, y0))
    expected = torch.autograd.grad(want.sum() + (y0 * torch.exp(-0.4 * k)).sum(), (k, y0))
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-7)


@pytest.mark.parametrize("solver", ["kvaerno5", "rodas5_p", "dopri8"])
@pytest.mark.parametrize("gradient", ["checkpointed", "gauss_adjoint"])
def test_a_loss_with_parameters_and_time_of_its_own(solver, gradient):
    """∫₀ᵀ w t y dt of y = e^(−t)."""
    w = torch.tensor(2.0, dtype=F64, requires_grad=True)
    field = ic.integral(lambda t, y, a: -a * y, lambda t, y, slope, a: (w * t * y).sum())
    a = torch.tensor(1.0, dtype=F64, requires_grad=True)
    start = (torch.ones(1, dtype=F64), torch.zeros((), dtype=F64))
    _, q = ic.solve(field, start, [0.0, 1.0], args=(a,), solver=solver, gradient=gradient, **TIGHT).ys
    e = math.exp(-1.0)
    assert q[-1].item() == pytest.approx(2 * (1 - 2 * e), rel=1e-8)
    by_w, by_a = torch.autograd.grad(q[-1], (w, a))
    assert by_w.item() == pytest.approx(1 - 2 * e, rel=1e-7)
    assert by_a.item() == pytest.approx(-2 * (2 - 5 * e), rel=1e-6)  # −w ∫ t² e^(−t)


def test_inputs_reach_the_loss():
    u = ic.LinearInterpolation(torch.tensor([0.0, 1.0], dtype=F64), torch.tensor([0.0, 3.0], dtype=F64))
    field = ic.integral(lambda t, y, u: u * y, lambda t, y, slope, u: u.square())
    start = (torch.ones((), dtype=F64), torch.zeros((), dtype=F64))
    assert ic.solve(field, start, [0.0, 1.0], inputs=u).ys[1][-1].item() == pytest.approx(3.0, rel=1e-7)


def test_it_is_a_module_with_the_fields_parameters():
    net = ic.nn.MLP((2, 4, 2))
    field = copy.deepcopy(ic.integral(net, lambda t, y, slope: slope.square().sum()))
    assert len(list(field.parameters())) == len(list(net.parameters()))


def test_what_cannot_be_called_is_named(unchecked):
    with pytest.raises(TypeError, match="loss: expected a callable ℓ"):
        ic.integral(lambda t, y: y, 0.1)
