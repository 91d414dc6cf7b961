"""The augmented neural ODE."""

import copy
import pickle

import pytest
import torch
from slopes import check_gradient
from torch import nn

from isocline import audit
from isocline.nn import MLP, AugmentedODE, NeuralODE

DOUBLE = {"dtype": torch.float64}
TS = torch.tensor([0.0, 0.4, 1.0])


class Turn(nn.Module):
    """Half a turn of the plane in unit time."""

    def forward(self, t, y):
        return torch.pi * torch.stack([-y[..., 1], y[..., 0]], -1)


def test_points_of_a_line_pass_each_other_through_the_second_dimension():
    x = torch.tensor([[-1.0], [0.3], [1.0]], **DOUBLE)
    end = AugmentedODE(Turn(), 1, keep="original", returns="end")(x)
    torch.testing.assert_close(
        end, -x, rtol=0, atol=1e-6
    )  # the default tolerances of float64: 1e-7 a step, a few steps


@pytest.mark.parametrize("seed", range(5))
def test_without_more_dimensions_points_of_a_line_keep_their_order(seed):
    field = MLP((1, 16, 1), seed=seed, time=True, last_gain=10.0, **DOUBLE)
    x = torch.linspace(-2, 2, 50, **DOUBLE).unsqueeze(1)
    ends = AugmentedODE(field, returns="end")(x)
    assert torch.equal(ends, NeuralODE(field, returns="end")(x))
    assert (ends.diff(dim=0) > 0).all()


def test_zeros_are_appended_and_the_original_coordinates_are_the_first():
    x = torch.randn(4, 2)
    model = AugmentedODE(MLP((5, 8, 5)), 3)
    path = model(x, TS)
    assert path.shape == (3, 4, 5)
    assert torch.equal(path[0], torch.cat([x, torch.zeros(4, 3)], 1))
    first = AugmentedODE(model.field, 3, keep="original")(x, TS)
    assert torch.equal(first, path[..., :2])


def test_a_network_gives_the_start_of_the_new_coordinates_and_learns():
    start = nn.Linear(2, 3)
    model = AugmentedODE(MLP((5, 8, 5)), 3, initial=start)
    x = torch.randn(4, 2)
    path = model(x, TS)
    assert torch.equal(path[0], torch.cat([x, start(x)], 1))
    path[-1].square().mean().backward()
    assert start.weight.grad.norm() > 0


def test_an_input_layer_makes_the_whole_state():
    layer = nn.Linear(2, 5)
    x = torch.randn(4, 2)
    path = AugmentedODE(MLP((5, 8, 5)), input_layer=layer)(x, TS)
    assert torch.equal(path[0], layer(x))


@pytest.mark.parametrize("dim", [1, -3])
def test_images_get_channels(dim):
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, t, y):
            return self.conv(y)

    x = torch.randn(2, 1, 5, 5)
    model = AugmentedODE(Field(), 3, dim=dim)
    assert model(x, TS).shape == (3, 2, 4, 5, 5)
    model.keep = "original"
    path = model(x, TS)
    assert path.shape == (3, 2, 1, 5, 5)
    assert torch.equal(path[0], x)
    model.returns = "end"
    assert torch.equal(model(x, TS), path[-1])


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "backsolve", "gauss_adjoint", "interpolating"])
def test_gradients_agree_with_finite_differences(gradient):
    model = AugmentedODE(MLP((3, 8, 3), **DOUBLE), 1, initial=nn.Linear(2, 1, **DOUBLE), gradient=gradient, rtol=1e-9)
    x = torch.randn(3, 2, **DOUBLE, requires_grad=True)

    def loss():
        return model(x, TS)[1:].sin().sum()

    check_gradient(loss, [x, *model.parameters()])


def test_reconstruction_looks_at_the_augmented_state():
    model = AugmentedODE(MLP((3, 8, 3), **DOUBLE), 1)
    assert audit.reconstruction(model, model.augment(torch.randn(3, 2, **DOUBLE)), [0.0, 1.0]) < 1e-5


def test_every_sample_may_have_its_own_times():
    model = AugmentedODE(MLP((3, 8, 3)), 1, batching="per_sample", keep="original")
    x = torch.randn(2, 2)
    path = model(x, torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    assert path.shape == (2, 2, 2)
    torch.testing.assert_close(path[-1, 1], model(x, [0.0, 2.0])[-1, 1], rtol=1e-4, atol=1e-5)


def test_a_model_copies_pickles_and_moves():
    model = AugmentedODE(MLP((3, 8, 3)), 1, initial=nn.Linear(2, 1))
    x = torch.randn(4, 2)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
    other = AugmentedODE(MLP((3, 8, 3), seed=1), 1, initial=nn.Linear(2, 1))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    assert copy.deepcopy(model).double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"extra": -1}, "extra=-1"),
        ({"extra": 1, "keep": "some"}, "keep='some'"),
        ({"extra": 1, "input_layer": nn.Identity()}, "leave extra"),
        ({"input_layer": nn.Identity(), "keep": "original"}, "no original"),
        ({"initial": nn.Identity()}, "how many"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        AugmentedODE(MLP((3, 8, 3)), **settings)


def test_inputs_that_do_not_fit_are_refused(unchecked):
    with pytest.raises(ValueError, match="no dim=1"):
        AugmentedODE(MLP((3, 8, 3)), 1, dim=1)(torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(4, 2\), expected \(4, 1\)"):
        AugmentedODE(MLP((3, 8, 3)), 1, initial=nn.Linear(2, 2))(torch.zeros(4, 2))
    with pytest.raises(TypeError, match="expected a tensor"):
        AugmentedODE(MLP((3, 8, 3)), 1)((torch.zeros(2), torch.zeros(2)))
