"""Steady states and their gradients, against closed forms and finite differences."""

import math

import pytest
import torch
from torch import nn

import isocline as ic

F64 = torch.float64
METHODS = ["solve", "newton"]
# How near the solve comes; Newton's last step is short of it by its square.
LOOSE = {"rtol": 1e-6, "atol": 1e-7}


def number(value, **change):
    return torch.tensor(value, dtype=F64, **change)


@pytest.mark.parametrize("method", METHODS)
def test_a_root_its_gradient_and_its_second_derivative(method):
    """y' = k − y²: √k, 1/(2√k), −1/(4 k^(3/2)); it attracts at the rate 2√k, and does not depend on y0."""
    k, y0 = number(9.0, requires_grad=True), number([1.0], requires_grad=True)
    found = ic.steady_state(lambda t, y, k: k - y**2, y0, args=(k,), method=method)
    assert found.y.item() == pytest.approx(3.0, rel=1e-12) and found.success
    assert found.growth.shape == () and found.growth.item() == pytest.approx(-6.0, rel=1e-12)
    first, by_y0 = torch.autograd.grad(found.y.sum(), (k, y0), create_graph=True)
    assert first.item() == pytest.approx(1 / 6, rel=1e-12) and by_y0.abs().max() == 0
    (second,) = torch.autograd.grad(first, k)
    assert second.item() == pytest.approx(-1 / 108, rel=1e-12)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_a_network_agrees_with_finite_differences(method, batching):
    """y' = tanh(W y + b) + u − y contracts, as ‖W‖ < 1. Central differences of 1e-5: error 1e-10 by truncation."""
    w = nn.Linear(3, 3, dtype=F64)
    with torch.no_grad():
        w.weight.mul_(0.9 / torch.linalg.matrix_norm(w.weight, 2))
    u = torch.randn(4, 3, dtype=F64, requires_grad=True)
    y0 = torch.zeros(4, 3, dtype=F64)

    def loss():
        options = {"args": (u,), "method": method, "batching": batching, **LOOSE}
        y = ic.steady_state(lambda t, y, u: torch.tanh(w(y)) + u - y, y0, **options).y
        return (torch.linspace(-1, 1, 12, dtype=F64) * y.flatten()).sum() + (y**2).sum()

    inputs = [u, *w.parameters()]
    for x, g in zip(inputs, torch.autograd.grad(loss(), inputs), strict=True):
        v = torch.randn(x.shape, dtype=F64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                x += sign * 1e-5 * v
                values.append(float(loss().detach()))
                x -= sign * 1e-5 * v
        assert float((g * v).sum()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_second_derivatives_of_a_network_agree_with_differences_of_the_first():
    w = nn.Linear(2, 2, dtype=F64)
    with torch.no_grad():
        w.weight.mul_(0.5)
    inputs = [number([0.3, -0.2], requires_grad=True), *w.parameters()]

    def penalty(create_graph):
        u = inputs[0]
        y = ic.steady_state(lambda t, y, u: torch.tanh(w(y)) + u - y, torch.zeros(2, dtype=F64), args=(u,), **LOOSE).y
        grads = torch.autograd.grad((y**2).sum() + y[0], inputs, create_graph=create_graph)
        return sum((g**2).sum() for g in grads) + y.sum()

    for x, g in zip(inputs, torch.autograd.grad(penalty(True), inputs), strict=True):
        v = torch.randn(x.shape, dtype=F64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                x += sign * 1e-5 * v
            values.append(float(penalty(False).detach()))
            with torch.no_grad():
                x -= sign * 1e-5 * v
        assert float((g * v).sum()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_third_derivatives_are_refused_by_name():
    k = number(4.0, requires_grad=True)
    y = ic.steady_state(lambda t, y: k - y**2, number([1.0])).y.sum()
    (first,) = torch.autograd.grad(y, k, create_graph=True)
    with pytest.raises(ic.GradientError, match="first and second derivatives; third"):
        (second,) = torch.autograd.grad(first, k, create_graph=True)
        torch.autograd.grad(second, k)


def test_parameters_unused_frozen_tied_captured_and_arguments_that_depend_on_each_other():
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(number(2.0))
            self.again = self.a
            self.unused = nn.Parameter(number([1.0, 1.0]))
            self.frozen = nn.Parameter(number(3.0), requires_grad=False)

        def forward(self, t, y, x, square):
            return self.frozen * captured * x * square - self.a * self.again * y

    source = number(0.5, requires_grad=True)
    captured = source**2
    x = number(1.5, requires_grad=True)
    field = Field()
    y = ic.steady_state(field, number([1.0]), args=(x, x**2)).y
    value = 3 * 0.25 * 1.5**3 / 4
    assert y.item() == pytest.approx(value, rel=1e-10)
    y.sum().backward()
    assert field.a.grad.item() == pytest.approx(-value, rel=1e-10)  # ∝ a⁻²: −2 y / a
    assert field.unused.grad is None or field.unused.grad.abs().max() == 0
    assert field.frozen.grad is None
    assert source.grad.item() == pytest.approx(4 * value, rel=1e-10)
    assert x.grad.item() == pytest.approx(2 * value, rel=1e-10)


def test_samples_fail_and_succeed_alone():
    """y' = k − y²: no root for k < 0, and the solution blows up; the others have theirs."""
    k = number([[4.0], [-1.0], [1.0]], requires_grad=True)
    y0 = number([[1.0], [1.0], [1.0]])  # the third is there already
    options = {"args": (k,), "batching": "per_sample", "max_steps": 100, **LOOSE}
    found = ic.steady_state(lambda t, y, k: k - y**2, y0, throw=False, **options)
    assert found.status[::2].tolist() == [0, 0] and not found.success
    assert int(found.status[1]) in (ic.Status.BLOW_UP, ic.Status.MAX_STEPS)  # on its way to the pole
    assert found.y[1].isnan().all() and torch.allclose(found.y[::2, 0].detach(), number([2.0, 1.0]), rtol=1e-12)
    assert "in sample 1" in found.message and "in sample 0" not in found.message
    (grad,) = torch.autograd.grad(found.y.nan_to_num(0.0).sum(), k)
    assert grad.flatten().tolist() == pytest.approx([0.25, 0.0, 0.5], rel=1e-10)
    with pytest.raises(ic.SolveError, match="in sample 1") as error:
        ic.steady_state(lambda t, y, k: k - y**2, y0, **options)
    assert error.value.status.tolist() == found.status.tolist()
    assert error.value.solution.ys.shape == (1, 3, 1)


def test_states_that_are_trees_and_complex():
    a = number(0.5, requires_grad=True)

    def f(t, y):
        return {"x": a - y["x"] * y["z"].abs() ** 2, "z": (1j - 1) * y["z"] + 2.0}

    y0 = {"x": torch.ones(2, dtype=F64), "z": torch.zeros(1, dtype=torch.complex128)}
    found = ic.steady_state(f, y0)
    assert complex(found.y["z"].detach()) == pytest.approx(1 + 1j, rel=1e-10)  # 2 / (1 − i)
    assert found.y["x"].tolist() == pytest.approx([0.25, 0.25], rel=1e-10)
    assert torch.autograd.grad(found.y["x"].sum(), a)[0].item() == pytest.approx(1.0, rel=1e-10)


def test_a_stiff_system_takes_few_steps_and_the_time_it_is_asked_at_is_the_one_given():
    found = ic.steady_state(lambda t, y: torch.stack([1e6 * (t - y[0]), y[0] - 1e-3 * y[1]]), number([0.0, 0.0]), t=2.0)
    assert found.y.tolist() == pytest.approx([2.0, 2000.0], rel=1e-10)
    assert found.stats.accepted < 150
    assert found.growth.item() == pytest.approx(-1e-3, rel=1e-6)


# ---- what it cannot find ------------------------------------------------------------------------------------------
def test_an_unstable_fixed_point_is_newtons_alone():
    """y' = y (1 − y): from below the solve goes to 1; from 0 itself it says why not."""

    def f(t, y):
        return y * (1 - y)

    assert ic.steady_state(f, number([1e-3])).y.item() == pytest.approx(1.0, rel=1e-9)
    with pytest.raises(ic.SolveError, match=r"unstable \(it grows at the rate 1 per unit of time\).*method='newton'"):
        ic.steady_state(f, number([0.0]))
    found = ic.steady_state(f, number([0.1]), method="newton")
    assert abs(found.y.item()) < 1e-12 and found.growth.item() == pytest.approx(1.0)


def test_an_oscillation_and_a_drift_have_none():
    with pytest.raises(ic.SolveError, match=r"max_steps = 60 used up .* may oscillate, drift or grow.*method='newton'"):
        ic.steady_state(lambda t, y: torch.stack([y[1], -y[0]]), number([1.0, 0.0]), max_steps=60)
    for speed in (1.0, 1e-7):  # beside y it becomes small at last, or is from the start
        with pytest.raises(ic.SolveError, match=r"moves on, .* it drifts, or is slow"):
            ic.steady_state(lambda t, y, speed=speed: speed * torch.ones_like(y), number([1.0]))


def test_newton_says_why_it_did_not_converge():
    with pytest.raises(ic.SolveError, match=r"found no fixed point.*There may be none"):
        ic.steady_state(lambda t, y: 1 + y**2, number([0.3]), method="newton")
    with pytest.raises(ic.SolveError, match=r"NaN or infinite"):
        ic.steady_state(lambda t, y: torch.log(y), number([-1.0]), method="newton")
    with pytest.raises(ic.SolveError, match=r"∂f/∂y is singular .*a conserved quantity"):
        ic.steady_state(lambda t, y: torch.stack([y[1] - y[0], y[0] - y[1]]), number([1.0, 0.0]), method="newton")


def test_a_conserved_quantity_leaves_the_value_and_refuses_the_gradient():
    """A ⇌ B: the sum stays what it was, so the steady state depends on y0, which the theorem cannot see."""
    k = number([2.0, 1.0], requires_grad=True)

    def f(t, y):
        flow = k[0] * y[0] - k[1] * y[1]
        return torch.stack([-flow, flow])

    found = ic.steady_state(f, number([3.0, 0.0]))
    assert found.y.tolist() == pytest.approx([1.0, 2.0], rel=1e-6)
    with pytest.raises(ic.GradientError, match=r"∂f/∂y is singular at the steady state.*a conserved quantity"):
        found.y.sum().backward()


def test_what_is_wrong_with_the_arguments_is_named(unchecked):
    f, y0 = lambda t, y: -y, number([1.0])
    for change, message in (
        ({"method": "secant"}, "method: unknown 'secant'"),
        ({"batching": "none"}, "batching: unknown 'none'"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"t": number(0.0, requires_grad=True)}, "t: requires grad"),
        ({"solver": "rk4"}, "no error estimate"),
    ):
        with pytest.raises(ValueError, match=message):
            ic.steady_state(f, y0, **change)
    with pytest.raises(TypeError, match="args: expected a tuple"):
        ic.steady_state(f, y0, args=number(1.0))
    with pytest.raises(ValueError, match=r"couples the samples of the batch.*batching='shared'"):
        ic.steady_state(lambda t, y: y.mean(0) - 2 * y + 1, number([[1.0], [0.0]]), batching="per_sample")
    with pytest.raises(ic.GradientError, match=r"steady_state under torch\.func"):
        torch.func.grad(lambda k: ic.steady_state(lambda t, y: k - y, y0).y.sum())(number(1.0))


def test_no_grad_gives_no_graph_and_the_dtype_is_that_of_the_state():
    k = torch.tensor(2.0, requires_grad=True)
    with torch.no_grad():
        found = ic.steady_state(lambda t, y: k - y**2, torch.ones(1))
    assert not found.y.requires_grad and found.y.dtype == torch.float32
    assert found.y.item() == pytest.approx(math.sqrt(2), rel=1e-6)
