"""Perceptrons with the trace of their Jacobian in closed form."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from isocline import solve
from isocline.nn import CNF, MLP, PlanarField, TimeMLP
from isocline.nn.cnf import Carried, derivative_of
from isocline.nn.fields import ACTIVATIONS

D = torch.float64
HIDDEN = [(), (6,), (6, 5), (6, 5, 4)]


def perceptrons(hidden=(6, 5), dim=3):
    sizes = (dim, *hidden, dim)
    yield MLP(sizes, seed=1, dtype=D)
    yield MLP(sizes, time=True, seed=2, dtype=D)
    for layer in ("concat", "concatsquash", "hyper"):
        yield TimeMLP(sizes, layer=layer, seed=3, dtype=D)


def by_autograd(field, t, z):
    """tr ∂f/∂z, one sample after the other."""
    times = t.expand(len(z), 1)[:, 0] if t.dim() else t.expand(len(z))
    rows = [torch.func.jacrev(lambda x, s=s: field(s, x))(x).trace() for x, s in zip(z, times, strict=True)]
    return torch.stack(rows)


@pytest.mark.parametrize("hidden", HIDDEN, ids=len)
@pytest.mark.parametrize("own_times", [False, True])
def test_the_divergence_and_its_gradients_are_those_of_autograd(hidden, own_times):
    z = torch.randn(4, 3, dtype=D)
    t = torch.rand(4, 1, dtype=D) if own_times else torch.tensor(0.3, dtype=D)
    for field in perceptrons(hidden):
        f, divergence = field.value_and_divergence(t, z)
        expected = by_autograd(field, t, z)
        torch.testing.assert_close(f, field(t, z))
        torch.testing.assert_close(divergence, expected)
        weights = list(field.parameters())
        ours = torch.autograd.grad(divergence.square().sum(), weights, allow_unused=True, materialize_grads=True)
        theirs = torch.autograd.grad(expected.square().sum(), weights, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_its_tangents(activation):
    field, z, t = MLP((2, 7, 7, 2), activation, seed=4, dtype=D), torch.randn(5, 2, dtype=D), torch.tensor(0.0, dtype=D)
    v = torch.randn(3, 5, 2, dtype=D)
    f, jv = field.jvp(t, z, v)
    torch.testing.assert_close(f, field(t, z))
    for k in range(3):
        torch.testing.assert_close(jv[k], torch.func.jvp(lambda z: field(t, z), (z,), (v[k],))[1])
    torch.testing.assert_close(field.value_and_divergence(t, z)[1], by_autograd(field, t, z))


@pytest.mark.parametrize("dim", [2, 16])
def test_an_exact_trace_takes_one_more_product_whatever_the_dimension(dim):
    field, z = MLP((dim, 64, 64, dim), seed=0), torch.randn(500, dim)

    def work(f):
        with FlopCounterMode(display=False) as counter:
            f(torch.tensor(0.0), z)
        return counter.get_total_flops()

    assert work(field.value_and_divergence) < 2.1 * work(field)


class Cubed(MLP):
    """The field of the demonstration: its forward is not its parent's."""

    def forward(self, t, y):
        return super().forward(t, y**3)


class Told(Cubed):
    """With derivatives of its own."""

    def jvp(self, t, y, v):
        return super().jvp(t, y**3, 3 * y**2 * v)

    def value_and_divergence(self, t, z):
        return NotImplemented


def replaced():
    field = MLP((2, 8, 8, 2), dtype=D)
    field.layers[1] = nn.Softsign()
    return field


def sharper():
    field = MLP((2, 8, 8, 2), "softplus", dtype=D)
    field.layers[1] = field.layers[3] = nn.Softplus(beta=3.0)
    return field


def mixed():
    field = MLP((2, 8, 8, 2), dtype=D)
    field.layers[3] = nn.Sigmoid()
    return field


def hooked():
    field = MLP((2, 8, 8, 2), dtype=D)
    field.layers[2].register_forward_hook(lambda module, args, out: out * 2)
    return field


def normed():
    field = MLP((2, 8, 8, 2), dtype=D).eval()
    parametrizations.weight_norm(field.layers[2])
    return field


def without_a_layer():
    field = MLP((2, 8, 8, 2), dtype=D)
    field.layers[2] = nn.Identity()
    return field


CHANGED = [replaced, sharper, mixed, hooked, normed, without_a_layer]
CHANGED += [lambda kind=kind: kind((2, 8, 8, 2), dtype=D) for kind in (Cubed, Told)]


@pytest.mark.parametrize("made", CHANGED)
def test_a_field_that_was_changed_gets_the_trace_of_what_it_returns(made):
    field, z = made(), torch.randn(4, 2, dtype=D)
    t = torch.tensor(0.0, dtype=D)
    carried = Carried(field, 2)(t, torch.cat([z, torch.zeros(4, 1, dtype=D)], 1))
    torch.testing.assert_close(carried[:, :2], field(t, z))
    torch.testing.assert_close(carried[:, 2], by_autograd(field, t, z))


def test_which_methods_count():
    assert derivative_of(MLP((2, 2)), "jvp") and derivative_of(PlanarField(2, 4), "value_and_divergence")
    assert derivative_of(Cubed((2, 2)), "jvp") is None and derivative_of(Told((2, 2)), "jvp")
    assert derivative_of(lambda t, z: z, "jvp") is None

    def plain(t, z):
        return z

    plain.value_and_divergence = lambda t, z: (z, z.sum(-1))
    assert derivative_of(plain, "value_and_divergence") is plain.value_and_divergence


@pytest.mark.parametrize("field", list(perceptrons(dim=2)))
def test_densities_by_the_fused_engine_are_those_of_autograd(field):
    z = torch.cat([torch.randn(6, 2, dtype=D), torch.zeros(6, 1, dtype=D)], 1)
    options = {"rtol": 1e-9, "atol": 1e-9, "batching": "per_sample"}

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = field

        def forward(self, t, z):
            return self.inner(t, z)

    def solved(carried, engine):
        ys = solve(carried, z, [0.0, 1.0], engine=engine, **options).ys
        return ys, torch.autograd.grad(ys.square().sum(), list(field.parameters()))

    theirs = solved(Carried(Hidden(), 2), "eager")
    for engine in ("eager", "fused"):
        torch.testing.assert_close(solved(Carried(field, 2), engine), theirs, rtol=1e-6, atol=1e-7)


def test_the_log_likelihood_of_a_flow_of_a_perceptron():
    flow = CNF(MLP((3, 8, 8, 3), seed=5, dtype=D), 3, rtol=1e-8, atol=1e-10).double()
    x = torch.randn(5, 3, dtype=D)
    hidden = CNF(lambda t, z: flow.field(t, z), 3, rtol=1e-8, atol=1e-10).double()
    torch.testing.assert_close(flow.log_prob(x), hidden.log_prob(x), rtol=0, atol=1e-7)
