"""solver × gradient × batching × dtype against finite differences and closed forms."""

import functools
import math

import pytest
import torch
from torch import nn

import isocline as ic
from isocline.gradients import Gradient
from isocline.solvers import Solver

F64 = torch.float64
ADAPTIVE = sorted(n for n, cls in Solver.registry.items() if cls().error_order)
GRADIENTS = sorted(Gradient.registry)
OF_ANY_SOLVER = [name for name in GRADIENTS if name != "reversible_adjoint"]


class Net(nn.Module):
    def __init__(self, dtype=F64):
        super().__init__()
        self.mlp = ic.nn.MLP((2, 6, 2), seed=4)
        self.w = nn.Parameter(torch.tensor([0.3, -0.4]))
        self.to(dtype)

    def forward(self, t, y, a):
        return self.mlp(t, y) + torch.sin(t) * self.w * a


def with_weights_of_its_own(t, y, a, w, w1, b1, w2, b2):
    """Net for samples that each have their own parameters."""
    hidden = torch.tanh((w1 @ y[..., None])[..., 0] + b1)
    return (w2 @ hidden[..., None])[..., 0] + b2 + torch.sin(t) * w * a


def losses(field, y0, ts, a, **options):
    return loss_of(ic.solve(field, y0, ts, args=(a,), **options).ys)


def loss_of(ys):
    weights = torch.linspace(-1, 1, ys.numel(), dtype=F64).reshape(ys.shape).to(ys.dtype)
    return (ys * weights).sum() + (ys[1] ** 2).sum()


SOLVERS = sorted(n for n, cls in Solver.registry.items() if not cls.wants_pair)
CASES = [(name, {"step": 0.05}) for name in SOLVERS]
CASES += [(name, {"rtol": 1e-12, "atol": 1e-13}) for name in ("dopri5", "dopri8", "tsit5")]


def inputs():
    """The field, y0, ts, args, and all of it that has a gradient."""
    field = Net()
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2], [0.1, 0.9]], dtype=F64, requires_grad=True)
    ts = torch.tensor([0.1, 0.33, 0.6], dtype=F64, requires_grad=True)
    a = torch.tensor([[0.7], [1.1], [0.9]], dtype=F64, requires_grad=True)
    return (field, y0, ts, a), [y0, a, ts, *field.parameters()]


@functools.cache
def differences(solver, options):
    """A direction for every input, and the central difference of the loss along it; no gradient takes part.

    All the moved inputs are samples of one solve, each with its own times and parameters.
    """
    _, tensors = inputs()
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(x.shape, generator=generator, dtype=F64) for x in tensors]
    moved = []
    with torch.no_grad():
        for i, v in enumerate(directions):
            for sign in (1, -1):
                moved.append([x + sign * 1e-4 * v if j == i else x.clone() for j, x in enumerate(tensors)])
        y0, a, ts, *weights = (torch.stack(x) for x in zip(*moved, strict=True))
        samples = y0.shape[1]
        rows = [x.repeat_interleave(samples, 0) for x in (ts, *weights)]
        args = (a.flatten(0, 1), *rows[1:])
        settings = {"solver": solver, "batching": "per_sample", **dict(options)}
        ys = ic.solve(with_weights_of_its_own, y0.flatten(0, 1), rows[0], args=args, **settings).ys
        values = [float(loss_of(y)) for y in ys.unflatten(1, (-1, samples)).unbind(1)]
    return [(v, (values[2 * i] - values[2 * i + 1]) / 2e-4) for i, v in enumerate(directions)]


# Every solver with every gradient, in one batching for every change: each with both solvers and gradients of all kinds.
# The other half of the grid is slow. The differences are found once for all of a solver.
GRID = [
    pytest.param(*case, batching, gradient, marks=[pytest.mark.slow] if (i + j + k) % 2 else [])
    for i, case in enumerate(CASES)
    for j, batching in enumerate(("shared", "per_sample"))
    for k, gradient in enumerate(GRADIENTS)
]


# Euler backwards misses the start by its own error, which the check reports.
@pytest.mark.filterwarnings("ignore:Backsolve. y integrated backwards")
@pytest.mark.parametrize(("solver", "options", "batching", "gradient"), GRID)
def test_gradients_agree_with_finite_differences(solver, options, gradient, batching):
    """Central differences of 1e-4 (error 1e-8 by truncation, 1e-8 by the step choice at these tolerances).

    Continuous formulas (times; Backsolve, GaussAdjoint, Interpolating) differ from the derivative of the discretisation by
    its own error, about step^order; interpolated observations by the interpolant's.
    """
    (field, y0, ts, a), tensors = inputs()
    settings = {"solver": solver, "batching": batching, "gradient": gradient, **options}
    if gradient in ("backsolve", "interpolating") and not Solver.named(solver).tableau.explicit:
        with pytest.raises(ic.GradientError, match="is implicit"):
            losses(field, y0, ts, a, **settings)
        return
    if gradient == "reversible_adjoint" and not hasattr(Solver.named(solver), "undone"):
        with pytest.raises(ic.GradientError, match="cannot be undone"):
            losses(field, y0, ts, a, **settings)
        return
    grads = torch.autograd.grad(losses(field, y0, ts, a, **settings), tensors)
    continuous = max(2e-7, 8 * 0.05 ** Solver.named(solver).dense_order) if "step" in options else 2e-7
    found = differences(solver, tuple(options.items()))
    for x, g, (v, want) in zip(tensors, grads, found, strict=True):
        slack = continuous if gradient in ("backsolve", "gauss_adjoint", "interpolating") or x is ts else 2e-7
        assert abs(float((g * v).sum()) - want) <= slack * max(1.0, abs(want), float(g.norm()))


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_checkpointed_is_backprop_to_rounding(solver, batching):
    field = Net()
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2], [0.1, 0.9]], dtype=F64, requires_grad=True)
    a = torch.ones(3, 1, dtype=F64, requires_grad=True)
    options = {"solver": solver, "batching": batching, "step": 0.07}
    grads = {}
    for gradient in (
        ic.Backprop(),
        ic.Checkpointed(),
        ic.Checkpointed(graphs=0),
        ic.Checkpointed(memory=400),
        ic.Checkpointed(memory=1),
    ):
        loss = losses(field, y0, [0.1, 0.5, 1.1], a, gradient=gradient, **options)
        grads[gradient] = torch.autograd.grad(loss, [y0, a, *field.parameters()])
    reference = grads.pop(ic.Backprop())
    for got in grads.values():
        for x, y in zip(got, reference, strict=True):
            assert torch.allclose(x, y, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_in_both_precisions(gradient, batching, dtype):
    k = torch.tensor(0.8, dtype=dtype, requires_grad=True)
    y0 = torch.full((2, 1), 1.5, dtype=dtype, requires_grad=True)
    solver = "reversible" if gradient == "reversible_adjoint" else "tsit5"
    ys = ic.solve(lambda t, y: -k * y, y0, [0.0, 2.0], solver=solver, gradient=gradient, batching=batching).ys
    grads = torch.autograd.grad(ys[-1].sum(), (k, y0))
    tol = 2e-4 if dtype == torch.float32 else 1e-5
    assert grads[0].item() == pytest.approx(-2 * 2 * 1.5 * math.exp(-1.6), rel=tol) and grads[0].dtype == dtype
    assert torch.allclose(grads[1], torch.full_like(y0, math.exp(-1.6)), rtol=tol)


@pytest.mark.parametrize("gradient", OF_ANY_SOLVER)
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_complex_states_with_real_and_complex_parameters(gradient, batching):
    w = torch.tensor(1.3, dtype=F64, requires_grad=True)
    alpha = torch.tensor(-0.2 + 0.4j, dtype=torch.complex128, requires_grad=True)
    z0 = torch.ones(1, 1, dtype=torch.complex128, requires_grad=True)
    options = {"gradient": gradient, "batching": batching, "rtol": 1e-10, "atol": 1e-12}
    z = ic.solve(lambda t, z: (1j * w + alpha) * z, z0, [0.0, 1.0], **options).ys[-1]
    grads = torch.autograd.grad(z.imag.sum(), (w, alpha, z0))
    e = torch.exp(1j * w + alpha).detach()
    assert grads[0].item() == pytest.approx(e.real.item(), rel=1e-7)  # d Im e^(iw+α) / dw
    assert complex(grads[1]) == pytest.approx(complex(e.imag, e.real), rel=1e-7)  # PyTorch: dL/dRe + i dL/dIm
    assert complex(grads[2]) == pytest.approx(complex(e.imag, e.real), rel=1e-7)


@pytest.mark.parametrize("gradient", OF_ANY_SOLVER)
def test_a_parameter_adds_up_over_the_batch_and_the_scalar_closed_form_holds(gradient):
    """z' = θz: dL/dθ = T z_T for L = z_T."""
    theta = torch.tensor(0.3, dtype=F64, requires_grad=True)
    z0 = torch.tensor([[1.0], [2.0], [-1.0]], dtype=F64)
    for batching in ("shared", "per_sample"):
        z = ic.solve(
            lambda t, z: theta * z, z0, [0.0, 1.5], gradient=gradient, batching=batching, rtol=1e-10, atol=1e-12
        ).ys[-1]
        (grad,) = torch.autograd.grad(z.sum(), theta)
        assert grad.item() == pytest.approx(1.5 * 2.0 * math.exp(0.45), rel=1e-8)


@pytest.mark.parametrize("gradient", OF_ANY_SOLVER)
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_the_time_gradient_table(gradient, batching):
    """f = sin(t) z + 0.3 z²; the article's code gets all three wrong, equation 52 of the paper taken literally the first."""
    t = torch.tensor([0.1, 0.9, 1.6], dtype=F64, requires_grad=True)
    z0 = torch.tensor([[0.5]], dtype=F64, requires_grad=True)
    options = {"gradient": gradient, "batching": batching, "rtol": 1e-11, "atol": 1e-13}
    z = ic.solve(lambda t, z: torch.sin(t) * z + 0.3 * z**2, z0, t, **options).ys[:, 0, 0]
    grads = torch.autograd.grad(0.7 * z[0] - 1.1 * z[1] + 0.9 * z[2], (t, z0))
    assert torch.allclose(grads[0], torch.tensor([-0.474745, -0.961708, 3.175000], dtype=F64), atol=1e-6)
    assert grads[1].item() == pytest.approx(4.500495, abs=1e-6)


@pytest.mark.parametrize("gradient", OF_ANY_SOLVER)
def test_times_of_every_sample_have_gradients(gradient):
    ts = torch.tensor([[0.2, 0.5, 1.1], [1.0, 0.4, math.nan]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64)
    ys = ic.solve(
        lambda t, y: y * torch.cos(t), y0, ts, batching="per_sample", gradient=gradient, rtol=1e-10, atol=1e-12
    ).ys
    w = torch.tensor([[0.3, -0.4], [2.0, 0.7], [-1.0, 0.0]], dtype=F64)
    (grad,) = torch.autograd.grad((w * ys[..., 0].nan_to_num(0.0)).sum(), ts)
    clean = ts.detach().nan_to_num(1.0)
    y = y0 * torch.exp(torch.sin(clean) - torch.sin(clean[:, :1]))
    want = w.t() * torch.cos(clean) * y
    want[:, 0] = -(w.t() * y)[:, 1:].sum(1) * torch.cos(clean[:, 0])
    want[1, 2] = 0
    assert torch.allclose(grad, want, rtol=1e-6)
