"""Layers and fields that depend on time."""

import copy
import math
import pickle

import pytest
import torch

from isocline import solve
from isocline.nn import Concat, ConcatSquash, Galerkin, HyperLinear, TimeMLP
from isocline.nn.tangents import SIGMAS
from isocline.nn.time_dependent import LAYERS

D = torch.float64
KINDS = [("concat", {}), ("concatsquash", {}), ("hyper", {"width": 4})]
KINDS += [("galerkin", {"basis": basis}) for basis in ("chebyshev", "fourier", "hat")]


def shaken(module):
    """Weights that are all different: initial ones hide what does not depend on time yet."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


@pytest.mark.parametrize(("layer", "options"), KINDS)
@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_samples_at_their_own_times_get_what_each_gets_alone(layer, options, shape):
    field = shaken(TimeMLP((2, 7, 2), layer=layer, dtype=D, **options))
    y, t = torch.randn(*shape, 2, dtype=D), torch.rand(5, dtype=D)
    together = field(t.view(5, *[1] * len(shape)), y)
    alone = torch.stack([field(t[i], y[i]) for i in range(5)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, field(torch.tensor(0.9, dtype=D), y))


@pytest.mark.parametrize(("layer", "options"), KINDS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_tangents_are_those_of_forward_mode(layer, options, per_sample):
    field = shaken(TimeMLP((3, 6, 6, 3), layer=layer, dtype=D, **options))
    y, v = torch.randn(4, 3, dtype=D), torch.randn(5, 4, 3, dtype=D)
    t = torch.rand(4, 1, dtype=D) if per_sample else torch.tensor(0.4, dtype=D)
    f, jv = field.jvp(t, y, v)
    torch.testing.assert_close(f, field(t, y))
    for k in range(5):
        torch.testing.assert_close(jv[k], torch.func.jvp(lambda y: field(t, y), (y,), (v[k],))[1])


@pytest.mark.parametrize("activation", SIGMAS)
def test_the_slope_of_every_activation_is_its_derivative(activation):
    a = torch.linspace(-3, 3, 16, dtype=D).requires_grad_()  # without 0, where relu has a kink
    h, slope = SIGMAS[activation](a)
    torch.testing.assert_close(slope, torch.autograd.grad(h.sum(), a)[0])


def test_concatsquash_is_its_formula():
    layer, t, x = ConcatSquash(2, 3, dtype=D), torch.tensor(0.7, dtype=D), torch.randn(4, 2, dtype=D)
    gate = torch.sigmoid(layer.gate_slope * t + layer.gate_bias)
    torch.testing.assert_close(layer(t, x), (x @ layer.weight.T + layer.bias) * gate + layer.slope * t)


def test_concat_is_a_linear_layer_of_x_and_t():
    layer, t, x = Concat(2, 3, dtype=D), torch.tensor(0.7, dtype=D), torch.randn(4, 2, dtype=D)
    weight = torch.cat([layer.weight, layer.slope[:, None]], 1)
    torch.testing.assert_close(layer(t, x), torch.cat([x, t.expand(4, 1)], 1) @ weight.T + layer.bias)


def test_the_bases_are_what_they_are_called():
    t = torch.linspace(1, 3, 9, dtype=D)[:, None]
    s = ((t - 1) / 2)[:, 0]
    made = {b: Galerkin(1, 1, span=(1.0, 3.0), terms=4, basis=b, dtype=D) for b in ("chebyshev", "fourier", "hat")}
    found = {b: layer.functions(t) for b, layer in made.items()}
    for k in range(4):
        torch.testing.assert_close(found["chebyshev"][:, k], torch.cos(k * torch.acos(2 * s - 1)))
    tau = 2 * math.pi * s
    expected = torch.stack([torch.ones_like(s), tau.sin(), tau.cos(), (2 * tau).sin()], 1)
    torch.testing.assert_close(found["fourier"], expected)
    torch.testing.assert_close(found["hat"].sum(1), torch.ones_like(s))
    torch.testing.assert_close(found["hat"] @ torch.tensor([0.0, 1, 2, 3], dtype=D), 3 * s)


def test_an_expansion_starts_as_a_layer_that_does_not_change():
    for basis in ("chebyshev", "fourier", "hat"):
        layer, x = Galerkin(2, 3, basis=basis), torch.randn(4, 2)
        torch.testing.assert_close(layer(torch.tensor(0.1), x), layer(torch.tensor(0.8), x))


def test_hypernetwork_weights_change_with_time():
    layer, x = HyperLinear(2, 3), torch.randn(4, 2)
    assert not torch.allclose(layer(torch.tensor(0.1), x), layer(torch.tensor(0.8), x))


def test_a_pure_function_of_time_is_integrated_by_quadrature():
    field = TimeMLP((1, 1), layer="concat", dtype=D)
    with torch.no_grad():
        field.layers[0].weight.zero_()
        field.layers[0].slope.fill_(3.0)
        field.layers[0].bias.fill_(1.0)
    end = solve(field, torch.zeros(2, 1, dtype=D), [0.0, 2.0], batching="per_sample").ys[-1]
    torch.testing.assert_close(end, torch.full((2, 1), 3 * 2 + 2.0, dtype=D))  # ∫ 3 t + 1 over [0, 2]


@pytest.mark.parametrize("layer", LAYERS)
def test_equal_seeds_give_equal_fields_and_copies_agree(layer):
    field = TimeMLP((2, 4, 2), layer=layer, seed=5)
    torch.manual_seed(99)
    other = TimeMLP((2, 4, 2), layer=layer, seed=5)
    t, y = torch.tensor(0.3), torch.randn(3, 2)
    for same in (other, copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        assert torch.equal(same(t, y), field(t, y))
    doubled = copy.deepcopy(field).double()
    torch.testing.assert_close(doubled(t.double(), y.double()).float(), field(t, y))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TimeMLP((2,)), r"sizes=\(2,\)"),
        (lambda: TimeMLP((2, 2), layer="film"), "layer='film', expected one of concat, "),
        (lambda: TimeMLP((2, 2), activation="cos"), "activation='cos'"),
        (lambda: Galerkin(2, 2, basis="sinc"), "basis='sinc'"),
        (lambda: Galerkin(2, 2, basis="hat", terms=1), "terms=1, expected at least 2"),
        (lambda: Galerkin(2, 2, span=(1.0, 1.0)), "two different times"),
    ],
)
def test_wrong_arguments_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()
