"""A solve back in time is the solve of the mirrored field: f(t, y) from 1.1 to 0.1 is -f(-s, y) from -1.1 to -0.1.

The two do the same arithmetic but for signs, so values, gradients, events and refusals must agree to rounding whatever the
solver, the gradient and the batching: a sign of time that is forgotten anywhere shows.
"""

import pytest
import torch
from torch import nn

import isocline as ic
from isocline.gradients import Gradient
from isocline.solvers import Solver

F64 = torch.float64
SOLVERS = sorted(name for name, cls in Solver.registry.items() if not cls.wants_pair)
# One of every kind of step: explicit, implicit, Rosenbrock, multistep, switching.
KINDS = ["tsit5", "radau_iia5", "rodas5_p", "bdf", "adams_moulton", "auto_switch"]
GRADIENTS = {name: name for name in sorted(Gradient.registry) if name != "reversible_adjoint"}
# Implicit solvers have none of their own for the way back of these.
GRADIENTS |= {"backsolve": ic.Backsolve(solver=ic.Tsit5()), "interpolating": ic.Interpolating(solver=ic.Tsit5())}


class Net(nn.Module):
    def __init__(self, sign):
        super().__init__()
        self.sign = sign
        self.mlp = ic.nn.MLP((2, 6, 2), seed=4, dtype=F64)
        self.w = nn.Parameter(torch.tensor([0.3, -0.4], dtype=F64))

    def forward(self, t, y, a, u=None):
        t = self.sign * t
        signal = 0.0 if u is None else u
        return self.sign * (self.mlp(t, y) + torch.sin(3 * t) * self.w * a + signal)


def solved(sign, batching="shared", signal=False, **options):
    """ys, and the gradients of a loss by y0, args, times, parameters (and values of a signal)."""
    field = Net(sign)
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2], [0.1, 0.9]], dtype=F64, requires_grad=True)
    a = torch.tensor([[0.7], [1.1], [0.9]], dtype=F64, requires_grad=True)
    ts = torch.tensor([1.1, 0.53, 0.1], dtype=F64).mul(sign).requires_grad_()
    wanted = [y0, a, ts, *field.parameters()]
    if signal:
        values = torch.tensor([[0.5, 0.1], [-0.2, 0.4], [0.3, 0.0]], dtype=F64, requires_grad=True)
        knots = torch.tensor([0.0, 0.7, 1.5], dtype=F64)
        table = (knots, values) if sign > 0 else (-knots.flip(0), values.flip(0))
        options["inputs"] = ic.LinearInterpolation(*table)
        field_ = lambda t, y, u, a: field(t, y, a, u)
        wanted.append(values)
    else:
        field_ = field
    ys = ic.solve(field_, y0, ts, args=(a,), batching=batching, **options).ys
    weights = torch.linspace(-1, 1, ys.numel(), dtype=F64).reshape(ys.shape)
    found = list(torch.autograd.grad((ys * weights).sum() + ys[1].square().sum(), wanted))
    found[2] = sign * found[2]
    return ys.detach(), found


def same(back, mirrored, tolerance=1e-11):
    for one, other in zip([back[0], *back[1]], [mirrored[0], *mirrored[1]], strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_goes_back(solver, batching):
    options = {"solver": solver, "batching": batching, "step": 0.1}
    same(solved(1.0, **options), solved(-1.0, **options))


# Every solver with every gradient, in the two batchings by turns; the other half is slow.
GRID = [
    pytest.param(solver, batching, gradient, marks=[pytest.mark.slow] if (i + j + k) % 2 else [])
    for i, solver in enumerate(KINDS)
    for j, batching in enumerate(("shared", "per_sample"))
    for k, gradient in enumerate(GRADIENTS)
]


@pytest.mark.filterwarnings("ignore:Backsolve. y integrated backwards")
@pytest.mark.parametrize(("solver", "batching", "gradient"), GRID)
def test_every_gradient_goes_back(solver, batching, gradient):
    # Newton's iterations end at rounding, not at the same bits: what is left of them is divided by the steps.
    options = {"solver": solver, "batching": batching, "gradient": GRADIENTS[gradient], "rtol": 1e-6, "atol": 1e-8}
    same(solved(1.0, **options), solved(-1.0, **options), tolerance=1e-8)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_undone_steps_go_back(batching):
    options = {"solver": "reversible_heun", "batching": batching, "gradient": "reversible_adjoint", "step": 0.05}
    same(solved(1.0, **options), solved(-1.0, **options))


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_signals_are_read_back(gradient, batching):
    options = {"signal": True, "batching": batching, "gradient": GRADIENTS[gradient], "rtol": 1e-7, "atol": 1e-9}
    # Steps between knots may be chosen in another way where rounding decides: the solves agree to their tolerance.
    same(solved(1.0, **options), solved(-1.0, **options), tolerance=1e-7)


@pytest.mark.parametrize("solver", ["symplectic_euler", "leapfrog", "yoshida4"])
def test_pairs_go_back(solver):
    def found(sign):
        k = torch.tensor(1.3, dtype=F64, requires_grad=True)
        x, v = (torch.tensor(number, dtype=F64, requires_grad=True) for number in ([0.4], [-0.2]))
        field = ic.second_order(lambda t, x, v: -k * x + torch.sin(sign * t))
        ts = torch.tensor([1.0, 0.0], dtype=F64) * sign
        xs, vs = ic.solve(field, (x, sign * v), ts, solver=solver, step=0.05).ys
        gradients = torch.autograd.grad(xs[-1].sum() + sign * vs[-1].sum(), [x, v, k])
        return torch.stack([xs[-1], sign * vs[-1], *(g.reshape(1) for g in gradients)])

    torch.testing.assert_close(found(1.0), found(-1.0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("gradient", ["checkpointed", "backsolve", "gauss_adjoint", "interpolating"])
def test_events_are_found_back(gradient, batching):
    """The first crossing of y = 1 going back, and its derivatives by the rate, the level and the start."""

    def found(sign):
        k, level = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.8, 1.0))
        y0 = torch.tensor([[0.4]], dtype=F64, requires_grad=True)
        event = ic.Event(lambda t, y: (y[..., 0] - level) if batching == "per_sample" else (y[0, 0] - level))
        options = {"batching": batching, "gradient": gradient, "rtol": 1e-8, "atol": 1e-10}
        ts = torch.tensor([2.0, 0.0], dtype=F64) * sign
        sol = ic.solve(lambda t, y: -sign * k * y * (1 + 0.1 * torch.sin(sign * t)), y0, ts, events=event, **options)
        when = sign * sol.event_ts.sum()
        return torch.stack([when, *(g.sum() for g in torch.autograd.grad(when, [k, level, y0]))])

    torch.testing.assert_close(found(1.0), found(-1.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("gradient", ["checkpointed", "backsolve", "gauss_adjoint", "interpolating", "forward"])
def test_a_running_loss_is_integrated_back(gradient, batching):
    def found(sign):
        k = torch.tensor(0.8, dtype=F64, requires_grad=True)
        y0 = torch.tensor([[0.4, 0.1]], dtype=F64, requires_grad=True)
        field = ic.integral(
            lambda t, y: -sign * k * y + torch.sin(t * sign) * sign, lambda t, y, slope: sign * y.square().sum(-1)
        )
        options = {"batching": batching, "gradient": gradient, "rtol": 1e-8, "atol": 1e-10}
        ts = torch.tensor([1.0, 0.3, 0.0], dtype=F64) * sign
        _, q = ic.solve(field, (y0, torch.zeros(1, dtype=F64)), ts, **options).ys
        return torch.stack([q[-1].sum(), *(g.sum() for g in torch.autograd.grad(q.sum(), [k, y0]))])

    torch.testing.assert_close(found(1.0), found(-1.0), rtol=1e-9, atol=1e-9)
