"""torch.func and forward mode through a solve: the same derivatives as backward(), or a refusal by name."""

import math
import warnings

import pytest
import torch
import torch._dynamo
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import isocline as ic

F64 = torch.float64
Y0 = torch.tensor([1.0, 0.5], dtype=F64)
K = torch.tensor(0.7, dtype=F64)
OPTIONS = [
    {},
    {"solver": "rk4", "step": 0.1},
    {"batching": "per_sample"},
    {"solver": "vern7", "dense": True},
    {"solver": "kvaerno3", "rtol": 1e-4, "atol": 1e-6},
    {"solver": "rodas5_p", "batching": "per_sample"},
]


def end(y, k, **options):
    alone = options.get("batching") == "per_sample"
    y = y[None] if alone else y
    ys = ic.solve(lambda t, y, k: -k * y + torch.sin(t) * y**2, y, [0.0, 0.7, 2.0], args=(k,), **options).ys
    return ys[:, 0] if alone else ys


def loss(y, k, **options):
    return (end(y, k, **options) ** 2).sum()


@pytest.mark.parametrize("options", OPTIONS)
def test_derivatives_agree_with_backward(options):
    y, k = Y0.clone().requires_grad_(), K.clone().requires_grad_()
    want = torch.autograd.grad(loss(y, k, gradient="backprop", **options), [y, k], create_graph=True)
    second = torch.autograd.grad(want[1], k)[0]
    got = grad(loss, argnums=(0, 1))(Y0, K, **options)
    for x, g in zip(want, got, strict=True):
        assert torch.allclose(x, g, rtol=1e-9)
    value, tangent = jvp(lambda k: loss(Y0, k, **options), (K,), (torch.ones_like(K),))
    # Where nothing is recorded Newton’s iteration stops at a share of the tolerance, 1e-5 a step.
    slack = 1e-4 if options.get("solver") == "kvaerno3" else 1e-9
    assert torch.allclose(tangent, want[1], rtol=1e-9) and torch.allclose(value, loss(Y0, K, **options), rtol=slack)
    _, pull = vjp(lambda y: loss(y, K, **options), Y0)
    assert torch.allclose(pull(torch.ones((), dtype=F64))[0], want[0], rtol=1e-9)
    assert torch.allclose(hessian(lambda k: loss(Y0, k, **options))(K), second, rtol=1e-8)


def test_jacobians_forwards_and_backwards():
    y = Y0.clone().requires_grad_()
    want = torch.stack([torch.autograd.grad(end(y, K)[-1, i], y)[0] for i in range(2)])
    assert torch.allclose(jacrev(lambda y: end(y, K)[-1])(Y0), want, rtol=1e-9)
    assert torch.allclose(jacfwd(lambda y: end(y, K)[-1])(Y0), want, rtol=1e-9)


def test_dual_numbers_without_torch_func():
    with forward_ad.dual_level():
        ys = end(Y0, forward_ad.make_dual(K, torch.ones_like(K)))
        tangent = forward_ad.unpack_dual(ys).tangent
    h = 1e-6
    assert torch.allclose(tangent, (end(Y0, K + h) - end(Y0, K - h)) / (2 * h), rtol=1e-5, atol=1e-6)


def test_parameters_of_a_module():
    field = ic.nn.MLP((2, 8, 2), seed=0, dtype=F64)

    def through(parameters):
        return ic.solve(lambda t, y: functional_call(field, parameters, (t, y)), Y0, [0.0, 1.0]).ys[-1].sum()

    got = grad(through)(dict(field.named_parameters()))
    want = torch.autograd.grad(ic.solve(field, Y0, [0.0, 1.0]).ys[-1].sum(), list(field.parameters()))
    assert all(torch.allclose(g, w, rtol=1e-8) for g, w in zip(got.values(), want, strict=True))


def test_vmap_maps_fixed_steps():
    batch = torch.stack([Y0, 2 * Y0])
    got = vmap(lambda y: ic.solve(lambda t, y: -K * y, y, [0.0, 1.0], solver="rk4", step=0.1).ys[-1])(batch)
    assert torch.allclose(got, batch * torch.exp(-K), rtol=1e-5)
    per_sample = vmap(grad(lambda y: loss(y, K, solver="rk4", step=0.1)))(batch)
    assert torch.allclose(per_sample[0], grad(lambda y: loss(y, K, solver="rk4", step=0.1))(Y0), rtol=1e-9)


ADAPTIVE = ["bosh3", "tsit5", "vern7", "rodas5_p"]


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_vmap_maps_adaptive_steps_which_all_samples_share(solver):
    """Chosen by the one with the largest error: every sample keeps the tolerance, over states, parameters, gradients."""
    options = {"solver": solver, "rtol": 1e-7, "atol": 1e-8}
    batch, ks = torch.stack([Y0, Y0 / 2, Y0 / 8]), torch.stack([K, K / 2])
    for got, want in (
        (vmap(lambda y: end(y, K, **options))(batch), [end(y, K, **options) for y in batch]),
        (vmap(lambda k: end(Y0 / 2, k, **options))(ks), [end(Y0 / 2, k, **options) for k in ks]),
        (vmap(grad(lambda y: loss(y, K, **options)))(batch), [grad(lambda y: loss(y, K, **options))(y) for y in batch]),
    ):
        assert torch.allclose(got, torch.stack(want), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", ["adams_bashforth", "reversible"])
def test_a_memory_is_not_mapped_over(solver):
    with pytest.raises(ic.GradientError, match=r"under vmap: .* batching='per_sample'"):
        vmap(lambda y: end(y, K, solver=solver, step=0.1))(torch.stack([Y0, Y0 / 2]))


def test_vmap_over_a_state_the_slope_does_not_depend_on():
    got = vmap(lambda y: ic.solve(lambda t, y: torch.cos(t).repeat(2), y, [0.0, 1.0]).ys[-1])(torch.stack([Y0, 2 * Y0]))
    assert torch.allclose(got, torch.stack([Y0, 2 * Y0]) + math.sin(1.0), rtol=1e-6)


def test_a_failure_under_vmap_says_so():
    with pytest.raises(ic.SolveError, match=r"one of the samples that vmap maps over; batching='per_sample' solves"):
        vmap(lambda y: ic.solve(lambda t, y: y**2, y, [0.0, 10.0]).ys[-1])(torch.stack([Y0, 2 * Y0]))


@pytest.mark.parametrize("solver", ["kvaerno3", "radau_iia5", "rodas5_p"])
def test_implicit_steps_of_fixed_length_are_mapped(solver):
    """Newton's iteration cannot see whether it has converged: it takes all its iterations."""
    batch = torch.stack([Y0 / 2, Y0 / 4])
    options = {"solver": solver, "step": 0.35}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = vmap(lambda y: end(y, K, **options))(batch)
        slopes = vmap(grad(lambda y: loss(y, K, **options)))(batch)
    for y, ys, g in zip(batch, got, slopes, strict=True):
        assert torch.allclose(ys, end(y, K, **options), rtol=1e-9)
        assert torch.allclose(g, grad(lambda y: loss(y, K, **options))(y), rtol=1e-9)


def test_matrix_free_steps_pass_grad_and_jvp_but_not_vmap():
    options = {"solver": ic.Kvaerno3(linear="gmres"), "step": 0.35}
    k = K.clone().requires_grad_()
    (want,) = torch.autograd.grad(loss(Y0, k, **options), k)
    assert torch.allclose(grad(lambda k: loss(Y0, k, **options))(K), want, rtol=1e-9)
    assert torch.allclose(jvp(lambda k: loss(Y0, k, **options), (K,), (torch.ones_like(K),))[1], want, rtol=1e-9)
    with pytest.raises(RuntimeError, match="linear='dense'"):
        vmap(lambda y: end(y, K, **options))(torch.stack([Y0, Y0 / 2]))


@pytest.mark.parametrize("gradient", ["backsolve", "gauss_adjoint"])
def test_what_a_transform_cannot_pass_is_refused_by_name(gradient):
    with pytest.raises(ic.GradientError, match=r"Backsolve|GaussAdjoint"):
        grad(lambda y: loss(y, K, gradient=gradient))(Y0)


def test_a_compiled_model_calls_the_solve_between_two_graphs():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.before = torch.nn.Linear(3, 3)
            self.field = ic.nn.MLP((3, 8, 3), seed=0)

        def forward(self, x):
            return torch.relu(ic.solve(self.field, self.before(x), [0.0, 1.0]).ys[-1])

    torch.manual_seed(0)
    model, x = Model(), torch.randn(5, 3)
    want = model(x)
    grads = torch.autograd.grad(want.sum(), list(model.parameters()))
    torch._dynamo.reset()
    found = torch._dynamo.explain(model)(x)
    assert found.graph_count <= 3
    compiled = torch.compile(model, backend="aot_eager")
    got = compiled(x)
    assert torch.allclose(got, want, atol=1e-6)
    for g, w in zip(torch.autograd.grad(got.sum(), list(model.parameters())), grads, strict=True):
        assert torch.allclose(g, w, atol=1e-5)
