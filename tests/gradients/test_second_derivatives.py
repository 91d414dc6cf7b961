"""Double backward through every gradient: right, or refused by name."""

import pytest
import torch

import isocline as ic
from isocline.gradients import Gradient
from isocline.solvers import Solver

F64 = torch.float64
RIGHT = {"backprop", "checkpointed", "reversible_adjoint"}


def first(gradient, solver, batching, y0, a, w, create_graph):
    """dL/d(y0, a, w) of L, which is nonlinear in every state that is observed, one of them inside a step."""
    options = {"gradient": gradient, "solver": solver, "batching": batching, "step": 0.2}
    ys = ic.solve(lambda t, y, a: torch.tanh(y @ w) * a + torch.sin(t), y0, [0.0, 0.5, 1.0], args=(a,), **options).ys
    loss = (ys[1] ** 2).sum() + torch.linspace(1, 2, ys[2].numel(), dtype=F64).view_as(ys[2]).mul(ys[2] ** 3).sum()
    return torch.autograd.grad(loss, (y0, a, w), create_graph=create_graph)


def second(gradient, solver, batching):
    """The derivative of ½ Σ ‖dL/dx‖² by autograd, and by central differences of the first one (1e-5: error 1e-9)."""
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2]], dtype=F64, requires_grad=True)
    a = torch.tensor([[0.7], [1.1]], dtype=F64, requires_grad=True)
    w = torch.tensor([[0.4, -0.9], [0.8, 0.3]], dtype=F64, requires_grad=True)
    inputs = (y0, a, w)

    def penalty(create_graph):
        return sum((g**2).sum() for g in first(gradient, solver, batching, *inputs, create_graph)) / 2

    got = torch.autograd.grad(penalty(True), inputs)
    generator = torch.Generator().manual_seed(0)
    for x, g in zip(inputs, got, strict=True):
        v = torch.randn(x.shape, generator=generator, dtype=F64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                x += sign * 1e-5 * v
            values.append(float(penalty(False).detach()))
            with torch.no_grad():
                x -= sign * 1e-5 * v
        yield float((g * v).sum()), (values[0] - values[1]) / 2e-5


def suited(gradient):
    """Solvers the gradient is for: an explicit one, and where it takes them an implicit one and a Rosenbrock method."""
    if gradient == "reversible_adjoint":
        return ["reversible"]
    return ["tsit5"] if gradient in ("backsolve", "interpolating") else ["tsit5", "kvaerno3", "rosenbrock23"]


CASES = [(gradient, solver) for gradient in sorted(Gradient.registry) for solver in suited(gradient)]


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize(("gradient", "solver"), CASES)
def test_second_derivatives_are_right_or_refused_by_name(gradient, solver, batching):
    assert solver in Solver.registry
    if gradient not in RIGHT:
        name = Gradient.registry[gradient].__name__
        with pytest.raises(ic.GradientError, match=f"{name} has no second derivatives; use gradient='checkpointed'"):
            list(second(gradient, solver, batching))
        return
    for got, want in second(gradient, solver, batching):
        assert got == pytest.approx(want, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("gradient", sorted(RIGHT - {"backprop"}))
def test_third_derivatives_are_refused_by_name(gradient):
    y0 = torch.tensor([[0.5, -0.3]], dtype=F64, requires_grad=True)
    a = torch.tensor([[0.7]], dtype=F64, requires_grad=True)
    w = torch.eye(2, dtype=F64, requires_grad=True)
    grads = first(gradient, suited(gradient)[0], "shared", y0, a, w, create_graph=True)
    with pytest.raises(ic.GradientError, match="third"):
        (more,) = torch.autograd.grad((grads[0] ** 2).sum(), a, create_graph=True)
        torch.autograd.grad(more.sum(), a)
