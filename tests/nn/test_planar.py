"""The planar field's closed-form divergence."""

import pytest
import torch

from isocline.nn import PlanarField

D = torch.float64
KINDS = [{}, {"mean": True}, {"gate": True}, {"hyper": 8}, {"hyper": 8, "mean": True}]


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_closed_forms_are_the_derivatives(options, per_sample):
    field = PlanarField(3, 5, dtype=D, **options)
    z, v = torch.randn(4, 3, dtype=D), torch.randn(2, 4, 3, dtype=D)
    t = torch.rand(4, 1, dtype=D) if per_sample else torch.tensor(0.4, dtype=D)
    f, divergence = field.value_and_divergence(t, z)
    torch.testing.assert_close(f, field(t, z))
    jacobian = torch.autograd.functional.jacobian(lambda z: field(t, z), z)
    full = torch.stack([jacobian[i, :, i] for i in range(4)])
    torch.testing.assert_close(divergence, full.diagonal(dim1=1, dim2=2).sum(-1))
    f, jv = field.jvp(t, z, v)
    torch.testing.assert_close(f, field(t, z))
    torch.testing.assert_close(jv, torch.einsum("bij,kbj->kbi", full, v))


def test_it_is_the_sum_of_its_units():
    field, z, t = PlanarField(2, 3, dtype=D), torch.randn(4, 2, dtype=D), torch.tensor(0.0, dtype=D)
    by_hand = sum(field.u[n] * torch.tanh(z @ field.w[n] + field.b[n])[:, None] for n in range(3))
    torch.testing.assert_close(field(t, z), by_hand)
    mean = PlanarField(2, 3, mean=True, dtype=D)
    torch.testing.assert_close(mean(t, z), by_hand / 3)


def test_a_shut_gate_stops_the_flow():
    field, z = PlanarField(2, 3, gate=True, dtype=D), torch.randn(4, 2, dtype=D)
    with torch.no_grad():
        field.gate[-1].bias.fill_(-800.0)
    assert field(torch.tensor(0.5, dtype=D), z).abs().max() == 0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="units=0"):
        PlanarField(2, 0)
    with pytest.raises(ValueError, match="gate of its own"):
        PlanarField(2, 3, hyper=8, gate=True)
