"""Digits: two epochs of 5,000 images, and the pieces of the networks."""

import torch

from isocline.experiments.lab.image_nets import ODENet, TimeConv, crop, mlp, res_net, size


def test_the_networks_have_the_published_sizes():
    """`odenet_mnist` with its convolutional stem, counted from its architecture; 0.24 million for LeCun's network."""
    assert [size(net) for net in (ODENet(), res_net(6), res_net(1), mlp())] == [208266, 576778, 206858, 238510]


def test_the_time_channel_is_the_convolution_of_both():
    torch.manual_seed(0)
    conv, y, t = TimeConv(4).double(), torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.tensor(0.7).double()
    weight = torch.cat([conv.time.weight, conv.space.weight], 1)
    both = torch.cat([t.expand(2, 1, 6, 6), y], 1)
    torch.testing.assert_close(conv(t, y), torch.nn.functional.conv2d(both, weight, conv.space.bias, padding=1))


def test_a_crop_is_a_shift_of_each_image_by_itself():
    torch.manual_seed(0)
    x = torch.full((400, 1, 28, 28), -1.0)
    x[:, :, 14, 14] = 2.0
    out = crop(x)
    assert (out == 2.0).sum((1, 2, 3)).eq(1).all() and ((out == 2.0) | (out == -1.0)).all()
    rows, columns = (out == 2.0).nonzero()[:, 2], (out == 2.0).nonzero()[:, 3]
    # A value of nine is missing from 400 draws once in 10^19 times.
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == list(range(10, 19))


def test_the_ode_net_learns_to_read_and_its_memory_does_not_grow(quick):
    ours = quick("mnist")["ours"]
    assert ours["ODE-Net: parameters"] == 0.208266
    # Nine in ten are wrong before; 5,000 images are too few for the block without an ODE to come as far.
    assert ours["ODE-Net: test error"] < 12.0 and ours["ResNet-1: test error"] < 40.0 and ours["MLP: test error"] < 15.0
    # One state of 32 images has 0.3 MB: a method that kept one for each evaluation would need more than that.
    state = 32 * 64 * 36 * 4 / 1e6
    assert ours["ODE-Net: memory for one more evaluation"] < 0.05 * state
    assert ours["RK-Net: memory for one more evaluation"] > state
