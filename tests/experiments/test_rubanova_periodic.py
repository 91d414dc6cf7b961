"""The periodic series: a short training of one model, and what the others are fed."""

import math

import pytest
import torch

from isocline.experiments import rubanova_periodic as experiment


def test_a_short_training_tells_one_series_from_another(quick):
    """On a quarter of the time: nearer than the mean of all series at each time, all that is known without looking."""
    ours = quick("rubanova-periodic")["ours"]
    data = experiment.draw(0, experiment.END / 4).x
    spread = float((data - data.mean(1, keepdim=True)).square().mean())
    for count in (30, 50):
        assert ours[f"latent ODE, interpolation from {count} points: MSE"] < spread


def test_a_series_is_a_sine_of_a_frequency_linear_in_time():
    data = experiment.draw(0)
    fine = torch.linspace(0, experiment.END, 5001, dtype=torch.float64)
    frequency = data.first.double().T + (data.last - data.first).double().T * fine[:, None] / experiment.END
    phase = 2 * math.pi * torch.cumulative_trapezoid(frequency, fine, dim=0)
    found = data._replace(first=data.first.double(), last=data.last.double(), offset=data.offset.double()).curve(fine)
    # The trapezoidal rule is exact for a frequency that is linear.
    assert torch.allclose(found[1:, :, 0], phase.sin() + data.offset.double().T, atol=1e-9)
    noise = data.x - data.curve(data.ts)
    assert float(noise.min()) > -1e-6 and float(noise.max()) < experiment.DEVIATION + 1e-6
    assert float(data.first.min()) >= 0.4 and float(data.last.max()) <= 0.8


@pytest.mark.parametrize(("task", "count"), [("interpolation", 30), ("extrapolation", 20)])
def test_so_many_points_are_seen_and_none_that_is_to_be_told_later(task, count):
    ts = experiment.draw(0).ts
    mask = experiment.some(ts, task, count, 7)
    assert mask.shape == (100, 7, 1) and mask.sum(0).flatten().tolist() == [count] * 7
    if task == "extrapolation":
        assert not mask[experiment.asked(ts, task)].any()


@pytest.mark.parametrize("name", experiment.MODELS)
def test_no_model_sees_what_is_masked(name):
    torch.manual_seed(0)
    model = experiment.MODELS[name]()
    data = experiment.draw(0)
    mask = experiment.some(data.ts, "extrapolation", 20, 5)
    x = data.x[:, :5]
    changed = torch.where(mask, x, 7.0)
    at = torch.linspace(0, 5, 11)
    assert torch.equal(model.predict(x, data.ts, at, mask=mask), model.predict(changed, data.ts, at, mask=mask))


def test_the_recurrent_model_tells_a_point_before_it_sees_it():
    torch.manual_seed(0)
    model = experiment.Recurrent()
    x, ts = torch.randn(4, 3, 1), torch.tensor([0.0, 1.0, 2.0, 3.0])
    mask = torch.ones(4, 3, 1, dtype=torch.bool)
    changed = x.clone()
    changed[2] += 5
    first, second = (model.predict(values, ts, ts, mask=mask) for values in (x, changed))
    assert torch.equal(first[:3], second[:3]) and not torch.equal(first[3], second[3])
    assert torch.allclose(first, model.read(model.rnn(x, ts, mask).before), atol=1e-6)
