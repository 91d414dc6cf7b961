"""The spirals: a fortieth of the training, at 30 points."""

import torch

from isocline.experiments import latent_spirals as experiment


def test_a_short_training_finds_the_window_from_thirty_points(quick):
    """Nothing that has learned less than where a series is, and how it turns, comes below the spread about its own mean."""
    ours = quick("latent-spirals")["ours"]
    data = experiment.spirals(0, 30).of(slice(experiment.TRAIN, experiment.SERIES))
    window = data.true[: experiment.LENGTH]
    spread = (window - window.mean(0)).square().mean().sqrt()
    assert ours["latent ODE, 30 of 100 points seen: RMSE within the window"] < spread


def test_a_series_shows_some_of_its_first_hundred_points_in_order():
    data = experiment.spirals(0, 30)
    assert data.seen.shape == (1000, 30) and bool((data.seen.diff(dim=1) > 0).all()) and int(data.seen.max()) < 100
    assert torch.equal(data.x[3, 7], data.noisy[data.seen[7, 3], 7])
    assert abs(float((data.noisy - data.true).std()) - experiment.NOISE) < 1e-3
    assert int(data.clockwise.sum()) == 500
    assert torch.equal(experiment.spirals(0, 50).noisy, data.noisy)


def test_spirals_wind_the_way_they_are_said_to():
    data = experiment.spirals(0, 30).of(slice(experiment.TRAIN, experiment.SERIES))
    centre = torch.where(data.clockwise[:, None], torch.tensor([-5.0, 0.0]), torch.tensor([5.0, 0.0]))
    a, b = data.true[0] - centre, data.true[1] - centre
    turns_left = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] > 0
    assert torch.equal(turns_left, ~data.clockwise)


def test_an_rnn_forecasts_from_its_own_predictions():
    torch.manual_seed(0)
    model = experiment.Forecaster(gaps=True)
    data = experiment.spirals(0, 30).of([0, 1])
    first = model.forecast(data)
    changed = data._replace(noisy=torch.cat([data.noisy[:100], torch.full_like(data.noisy[100:], torch.nan)]))
    assert first.shape == (100, 2, 2) and torch.equal(model.forecast(changed), first)
