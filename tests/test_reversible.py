"""Steps that can be undone, and the gradient that needs nothing else."""

import pytest
import torch

import isocline as ic
from isocline.gradients.reversible_adjoint import Undone

F64 = torch.float64
SOLVERS = {
    "reversible heun": (ic.ReversibleHeun(), {"step": 0.05}),
    "reversible heun, adaptive": (ic.ReversibleHeun(), {"rtol": 1e-3, "atol": 1e-4}),
    "asynchronous leapfrog": (ic.AsynchronousLeapfrog(), {"step": 0.02}),
    "asynchronous leapfrog, adaptive": (ic.AsynchronousLeapfrog(), {"rtol": 1e-3, "atol": 1e-4}),
    "rk4": (ic.Reversible("rk4"), {"step": 0.1}),
    "vern7": (ic.Reversible("vern7"), {"rtol": 1e-5, "atol": 1e-6}),
    "tsit5": (ic.Reversible(coupling=0.9), {"rtol": 1e-5, "atol": 1e-6}),
}


def van_der_pol(t, y, mu):
    return torch.stack((y[..., 1], mu * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0] + torch.cos(t).reshape(-1)), -1)


def gradient(solver, options, way, batching="shared", jump_ts=(), ts=(0.0, 0.33, 1.0, 2.0)):
    y0 = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.5, -1.0]], dtype=F64, requires_grad=True)
    mu = torch.tensor(1.0, dtype=F64, requires_grad=True)
    ts = torch.tensor(ts, dtype=F64, requires_grad=True)
    sol = ic.solve(
        van_der_pol, y0, ts, args=(mu,), solver=solver, gradient=way, batching=batching, jump_ts=jump_ts, **options
    )
    loss = (sol.ys * torch.arange(sol.ys.numel(), dtype=F64).view(sol.ys.shape).sin()).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, (y0, mu, ts))])


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("name", SOLVERS)
def test_it_is_backprop_to_rounding(name, batching):
    """A step undone is a step undone to rounding, times what twenty to sixty of them amplify; jumps lose nothing."""
    for jump_ts in ((), (0.5, 1.2)):
        want, got = (
            gradient(*SOLVERS[name], way, batching, jump_ts) for way in ("backprop", ic.gradients.ReversibleAdjoint())
        )
        assert float((got - want).abs().max()) <= 1e-12 * float(want.abs().max())


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("way", ["checkpointed", ic.Checkpointed(memory=300)])
def test_the_memory_of_a_method_is_checkpointed_with_the_state(way, batching):
    want, got = (gradient(*SOLVERS["vern7"], method, batching, (0.7,)) for method in ("backprop", way))
    assert torch.allclose(got, want, rtol=1e-12, atol=1e-13)


def test_no_state_is_kept_but_at_jumps(monkeypatch):
    kept = []

    def end(self, trajectory, was=Undone.end):
        was(self, trajectory)
        kept.append(sum(step.y is not None for step in self.steps))
        assert len(self.steps) > 15

    monkeypatch.setattr(Undone, "end", end)
    for jump_ts in ((), (0.5,)):
        gradient(*SOLVERS["rk4"], "reversible_adjoint", "shared", jump_ts)
    # The first step begins a memory, and so does the one after the jump.
    assert kept == [0, 2]


@pytest.mark.parametrize("solver", ["symplectic_euler", "leapfrog", "yoshida4"])
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_kicks_and_drifts_are_undone_too(solver, batching):
    grads = []
    for way in ("backprop", "reversible_adjoint"):
        k = torch.tensor(2.0, dtype=F64, requires_grad=True)
        x = torch.tensor([1.0, 0.5], dtype=F64, requires_grad=True)
        field = ic.second_order(lambda t, x, v, k=k: -k * torch.sin(x) + torch.cos(t))
        options = {"solver": solver, "batching": batching, "gradient": way, "step": 0.05}
        xs, vs = ic.solve(field, (x, torch.tensor([0.0, 0.3], dtype=F64)), [0.0, 1.0, 3.0], **options).ys
        grads.append(torch.stack([g.sum() for g in torch.autograd.grad(xs[1].sum() + vs[-1].square().sum(), (x, k))]))
    assert torch.allclose(grads[0], grads[1], rtol=1e-12)


def test_a_start_that_does_not_come_back_is_refused():
    """y falls by e⁻⁵⁰: what comes back is rounding, e⁵⁰ times as large."""
    k = torch.tensor(5.0, dtype=F64, requires_grad=True)
    ys = ic.solve(
        lambda t, y: -k * y,
        torch.ones(1, dtype=F64),
        [0.0, 10.0],
        solver=ic.Reversible("rk4"),
        step=0.05,
        gradient="reversible_adjoint",
    ).ys
    with pytest.raises(ic.GradientError, match=r"undoing the steps misses y0 by .* use gradient='checkpointed'"):
        ys.sum().backward()


def test_a_solver_whose_steps_stay_is_refused_by_name():
    y0 = torch.ones(1, requires_grad=True)
    with pytest.raises(ic.GradientError, match=r"steps of 'tsit5' cannot be undone; use solver=Reversible\('tsit5'\)"):
        ic.solve(lambda t, y: -y, y0, [0.0, 1.0], gradient="reversible_adjoint")


def test_second_derivatives_are_those_of_backprop():
    seconds = []
    for way in ("backprop", "reversible_adjoint"):
        k = torch.tensor(0.7, dtype=F64, requires_grad=True)
        y = ic.solve(
            lambda t, y, k=k: torch.sin(k * y), torch.ones(2, dtype=F64), [0.0, 1.0], solver="reversible", gradient=way
        ).ys[-1]
        (first,) = torch.autograd.grad(y.square().sum(), k, create_graph=True)
        seconds.append(torch.autograd.grad(first, k)[0])
    assert torch.allclose(seconds[0], seconds[1], rtol=1e-12)


def test_what_reversible_is_given_is_checked():
    with pytest.raises(ValueError, match="base='radau_iia5' is no explicit Runge–Kutta method"):
        ic.Reversible("radau_iia5")
    with pytest.raises(ValueError, match="Reversible: coupling=0, expected a number in"):
        ic.Reversible("rk4", coupling=0)


def test_y_and_its_partner_stay_together_between_observations():
    """The interpolant is that of the base method: of its order, where the cubic of Hermite would miss by 1e-5."""
    t = torch.linspace(0, 5, 40, dtype=F64)
    ys = ic.solve(
        lambda t, y: torch.stack((y[1], -y[0])),
        torch.tensor([1.0, 0.0], dtype=F64),
        t,
        solver=ic.Reversible("vern7"),
        rtol=1e-8,
        atol=1e-8,
    ).ys
    assert float((ys - torch.stack((t.cos(), -t.sin()), 1)).abs().max()) < 1e-8
