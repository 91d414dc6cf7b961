"""The demo, a fiftieth of it."""

import torch

from isocline.experiments import latent_ode_demo as experiment


def test_the_bound_rises_and_stays_below_that_of_the_true_curves(quick):
    record = quick("latent-ode-demo")
    # What a model comes to that knows no more than where each series is: a standing point in its middle.
    x, _, _ = experiment.draw(torch.Generator().manual_seed(0))
    standing = -(x - x.mean(0)).square().sum((0, 2)).mean() / 2 / experiment.NOISE**2
    for row in record["rows"][:2]:
        assert float(standing) < row["ours"] < row["bound"]
        assert abs(row["bound"] + 43.0) < 1.5  # 200 numbers: a standard error of 10 / sqrt(1000), five of them


def test_the_curves_are_the_demos():
    curves = experiment.curves()
    assert torch.allclose(curves[0, 1], torch.tensor([5.0, 0.0]), atol=1e-5)
    radius = (curves - torch.tensor([[-5.0, 0.0], [5.0, 0.0]])).norm(dim=-1)
    assert torch.allclose(radius[:, 1], 0.3 * experiment.ALL_TS, atol=1e-4)
    assert torch.allclose(radius[:, 0], 15 / (experiment.ALL_TS[-1] + 1 - experiment.ALL_TS), rtol=1e-4)
