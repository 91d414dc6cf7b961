"""A cheap method with a correction that may be learned."""

import math

import pytest
import torch
from torch import nn

import isocline as ic

F64 = torch.float64
START = torch.tensor([[1.0, 0.0], [0.2, -0.7]], dtype=F64)


def pendulum(t, y):
    return torch.stack((y[..., 1], -torch.sin(y[..., 0])), -1)


class Correction(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = ic.nn.MLP((4, 8, 2), seed=1).to(F64)

    def forward(self, t, y, dy):
        return self.net(t, torch.cat((y, dy), -1))


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("base", ["euler", "midpoint", "rk4"])
def test_the_exact_leading_term_raises_the_order(base, batching):
    """Of dy/dt = y the increment misses h^(p+1) y/(p+1)!: with that as correction the order is p + 1, backwards too."""
    order = ic.Solver.named(base).order
    solver = ic.Hyper(base, lambda t, y, dy: dy / math.factorial(order + 1))
    for end in (1.0, -1.0):
        errors = []
        for n in (16, 32):
            ys = ic.solve(
                lambda t, y: y, torch.ones(2, 1, dtype=F64), [0.0, end], solver=solver, step=1 / n, batching=batching
            ).ys
            errors.append(float((ys[-1] - math.exp(end)).abs().max()))
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.2)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("base", ["euler", "dopri5"])
def test_gradients_reach_the_correction(base, batching):
    net = Correction()

    def loss(**options):
        solver = ic.Hyper(base, net)
        ys = ic.solve(pendulum, START, [0.0, 0.33, 1.0], solver=solver, step=0.1, batching=batching, **options).ys
        return ys.square().sum()

    grads = {}
    for way in ("backprop", "checkpointed", "forward"):
        grads[way] = torch.autograd.grad(loss(gradient=way), list(net.parameters()))
        for got, want in zip(grads[way], grads["backprop"], strict=True):
            assert torch.allclose(got, want, rtol=1e-10, atol=1e-14)
    weight, step = next(net.parameters()), 1e-6
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * step
            values.append(float(loss()))
            weight -= sign * step
    assert float(grads["backprop"][0].sum()) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_a_correction_learns_what_a_step_misses():
    """Trained on single steps of 0.2 against a good solver, it takes Euler's error over twenty of them down by far."""
    net = Correction()
    solver, step = ic.Hyper("euler", net), 0.2
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(300):
        y = torch.rand(64, 2, generator=generator, dtype=F64) * 3 - 1.5
        with torch.no_grad():
            want = ic.solve(pendulum, y, [0.0, step], solver="rk4", step=step / 2).ys[-1]
        got = ic.solve(pendulum, y, [0.0, step], solver=solver, step=step).ys[-1]
        optimizer.zero_grad()
        ((got - want) / step**2).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        want = ic.solve(pendulum, START, [0.0, 4.0], rtol=1e-9, atol=1e-9).ys[-1]
        misses = [
            float((ic.solve(pendulum, START, [0.0, 4.0], solver=s, step=step).ys[-1] - want).norm())
            for s in ("euler", solver)
        ]
    assert misses[1] < 0.2 * misses[0]


def test_states_of_any_structure_and_dense_output():
    solver = ic.Hyper("rk4", lambda t, y, dy: {"x": 0 * y["x"], "v": 0 * dy["v"]})
    y0 = {"x": torch.tensor([1.0], dtype=F64), "v": torch.tensor([0.0], dtype=F64)}
    sol = ic.solve(lambda t, y: {"x": y["v"], "v": -y["x"]}, y0, [0.0, 1.0], solver=solver, step=0.05, dense=True)
    assert float(sol.at(0.52)["x"]) == pytest.approx(math.cos(0.52), abs=1e-6)


def test_what_it_is_given_is_checked():
    with pytest.raises(ValueError, match="base='kvaerno3' is no explicit Runge–Kutta method"):
        ic.Hyper("kvaerno3")
    with pytest.raises(ic.GradientError, match="Backsolve: 'hyper' steps by a learned correction"):
        ic.solve(
            pendulum,
            START.clone().requires_grad_(),
            [0.0, 1.0],
            solver=ic.Hyper("euler", Correction()),
            step=0.1,
            gradient="backsolve",
        ).ys.sum().backward()
