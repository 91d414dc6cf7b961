"""Autocast is the field's: its calls are cast, on the way back too, and the solver's sums keep their precision."""

import pytest
import torch

import isocline as ic
from isocline.nn import MLP

F64 = torch.float64
BF16, F16 = torch.bfloat16, torch.float16
TS = [0.0, 0.35, 1.0]  # the second inside a step
GRADIENTS = [
    "backprop",
    ic.Checkpointed(),
    ic.Checkpointed(graphs=0),
    ic.Checkpointed(memory=200),
    ic.Backsolve(check="off"),
    "gauss_adjoint",
]
Y0 = torch.linspace(-1, 1, 16).view(8, 2)


def gradient_of(field, y0, inside=False, around=None, **options):
    """ys, and the gradient of a loss in y0 and the parameters; `around` the solve, and `inside` it backward() too."""
    y0 = y0.clone().requires_grad_()
    wanted = [y0, *field.parameters()]
    with torch.autocast("cpu", around or BF16, enabled=around is not None):
        ys = ic.solve(field, y0, TS, **options).ys
        if inside:
            return ys, torch.autograd.grad((ys.float() ** 2).mean(), wanted)
    return ys, torch.autograd.grad((ys.float() ** 2).mean(), wanted)


class Cast(torch.nn.Module):
    """What autocast around a solve is to mean, written out in the field."""

    def __init__(self, f, dtype):
        super().__init__()
        self.f, self.dtype = f, dtype

    def forward(self, t, y):
        with torch.autocast("cpu", self.dtype, cache_enabled=False):
            k = self.f(t, y)
        assert k.dtype == self.dtype
        return k.to(y.dtype)


@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("inside", [False, True])
def test_autocast_around_a_solve_casts_the_field_alone_forwards_and_backwards(gradient, batching, inside):
    field = MLP((2, 16, 2), seed=1)
    options = {"gradient": gradient, "batching": batching, "step": 0.25, "solver": "rk4"}
    ys, grads = gradient_of(field, Y0, around=BF16, inside=inside, **options)
    want_ys, want = gradient_of(Cast(field, BF16), Y0, **options)
    assert ys.dtype == torch.float32 and torch.equal(ys, want_ys)
    if inside and gradient == "backprop":
        return  # autograd's own products of the solver's operations are then cast, as anywhere else
    for g, w in zip(grads, want, strict=True):
        assert torch.equal(g, w)
    plain_ys, plain = gradient_of(field, Y0, **options)
    assert not torch.equal(ys, plain_ys)
    for g, w in zip(grads, plain, strict=True):
        # Two layers, there and back: some four roundings of 2⁻⁸ each.
        assert g.isfinite().all() and (g - w).norm() < 2**-6 * w.norm()


def test_a_solve_without_gradients_before_does_not_cut_them_off():
    """PyTorch keeps the weights that it has cast, and might hand out some cast without a graph."""
    field = MLP((2, 16, 2), seed=1)
    with torch.autocast("cpu", BF16):
        with torch.no_grad():
            ic.solve(field, Y0, TS)
        ic.solve(field, Y0, TS).ys.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())


def test_the_solvers_products_are_not_cast():
    """Interpolation is a product of matrices, which autocast would round to 8 bits."""
    with torch.autocast("cpu", BF16):
        ys = ic.solve(lambda t, y: y.square() - y, Y0, TS, gradient="backprop").ys
    want = ic.solve(lambda t, y: y.square() - y, Y0, TS, gradient="backprop").ys
    assert torch.equal(ys, want)


def test_without_gradients_and_in_inference_mode():
    field = MLP((2, 16, 2), seed=1)
    with torch.no_grad():
        want = ic.solve(Cast(field, BF16), Y0, TS).ys
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), torch.autocast("cpu", BF16):
            ys = ic.solve(field, Y0, TS).ys
            assert torch.equal(ys, want) and torch.is_autocast_enabled("cpu")


def test_trees_times_and_complex_states_under_autocast():
    layer = torch.nn.Linear(2, 2)

    def field(t, y, k):
        return {"x": k * layer(y["x"]), "z": 1j * y["z"]}

    y0 = {"x": torch.ones(3, 2), "z": torch.ones(2, dtype=torch.complex64)}
    ts = torch.tensor(TS, requires_grad=True)
    k = torch.tensor(0.5, requires_grad=True)
    with torch.autocast("cpu", BF16):
        ys = ic.solve(field, y0, ts, args=(k,)).ys
    ys["x"].sum().backward()
    assert ys["x"].dtype == torch.float32 and ys["z"].dtype == torch.complex64
    # One more second at the end is worth the slope there.
    slope = field(None, {name: y[-1] for name, y in ys.items()}, k)["x"].sum()
    assert torch.allclose(ts.grad[-1], slope, rtol=2**-6) and k.grad.isfinite() and k.grad != 0


def test_a_lower_precision_without_autocast_is_still_a_mistake():
    with pytest.raises(ValueError, match=r"returned dtype torch\.bfloat16, expected the state's dtype torch\.float32"):
        ic.solve(lambda t, y: y.bfloat16(), Y0, TS)
    with torch.autocast("cpu", BF16), pytest.raises(ValueError, match=r"returned dtype torch\.float64"):
        ic.solve(lambda t, y: y.double(), Y0, TS)


# ---- states in half precision -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_a_thousand_steps_do_not_stagnate(solver, batching, dtype):
    """y′ = 1 with steps of 10⁻³: to a state kept in bfloat16 nothing could be added at all."""
    ys = ic.solve(
        lambda t, y: torch.ones_like(y),
        torch.ones(3, 2, dtype=dtype),
        [0.0, 1.0],
        solver=solver,
        step=1e-3,
        batching=batching,
    ).ys
    assert ys.dtype == dtype and bool((ys[-1] == 2.0).all())
    assert torch.ones((), dtype=BF16) + 1e-3 == 1.0


@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize("grad", [True, False])
def test_a_thousand_steps_in_half_precision_follow_the_single_precision_solution(dtype, grad):
    """A rotation: what is added is accurate to the roundings of its argument and of f, one of eps/2 each a component."""
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])

    def field(t, y):
        return (y.float() @ turn.to(y.device)).to(y.dtype)

    y0, ts = torch.tensor([[1.0, 0.25]]), torch.linspace(0, 5, 6)
    with torch.set_grad_enabled(grad):
        ys = ic.solve(field, y0.to(dtype), ts, solver="heun", step=5e-3).ys
    want = ic.solve(field, y0, ts, solver="heun", step=5e-3).ys
    eps = torch.finfo(dtype).eps
    # Errors of relative size eps in f add up along the path of length |ω| T = 5 at worst, without growing.
    assert ys.dtype == dtype and (ys.float() - want).norm(dim=-1).max() < 5 * eps * y0.norm() + eps


@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
def test_gradients_of_half_precision_models_are_right_to_their_precision(gradient, dtype):
    single, half = MLP((2, 16, 2), seed=1), MLP((2, 16, 2), seed=1).to(dtype)
    options = {"gradient": gradient, "solver": "rk4", "step": 0.05}
    ys, grads = gradient_of(half, Y0.to(dtype), **options)
    _, want = gradient_of(single, Y0, **options)
    assert ys.dtype == dtype
    for g, w in zip(grads, want, strict=True):
        assert g.dtype == dtype and (g.float() - w).norm() < 8 * torch.finfo(dtype).eps * w.norm()
