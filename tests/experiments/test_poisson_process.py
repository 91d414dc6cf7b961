"""The Poisson process, a tenth of it."""

import torch

from isocline.experiments import poisson_process as experiment


def test_the_rate_learned_is_nearer_to_the_true_one_than_a_constant(quick):
    record = quick("poisson-process")
    rows = {row["what"]: row for row in record["rows"]}
    fit = rows["log-likelihood of an unseen series"]
    constant = float(fit["note"].rsplit(" ", 1)[1])
    assert constant < fit["ours"]
    # Unseen series are 400, so chance moves the difference from the bound by less than its mean, a divergence.
    assert fit["ours"] < fit["bound"] + record["ours"]["divergence from the true process, a series"]
    assert record["ours"]["L2 error of the rate, relative"] < float(
        rows["L2 error of the rate, relative"]["note"].rsplit(" ", 1)[1]
    )
    assert record["ours"]["∫ λ dt as a state, against Simpson's rule"] < 1e-6


def test_thinning_draws_the_rate():
    """Numbers of events are Poisson: within five standard deviations of ∫ λ, in either half of the window."""
    series = experiment.draw(2000, torch.Generator().manual_seed(0))
    events = torch.cat(series)
    for a, b in ((0.0, 3.5), (3.5, 7.0)):
        grid = torch.linspace(a, b, 2001, dtype=torch.float64)
        expected = 2000 * float(experiment.simpson(2001, b - a) @ experiment.true_rate(grid))
        assert abs(int(((events >= a) & (events < b)).sum()) - expected) < 5 * expected**0.5


def test_the_likelihood_of_a_constant_rate_is_poissons():
    model = experiment.Process(0.0).double()
    torch.nn.init.zeros_(model.intensity.net.weight)
    torch.nn.init.constant_(model.intensity.net.bias, 2.0)
    rate = torch.nn.functional.softplus(torch.tensor(2.0, dtype=torch.float64))
    events = torch.tensor([0.5, 3.0, 6.5], dtype=torch.float64)
    want = 3 * rate.log() - rate * experiment.END
    assert torch.allclose(model.log_likelihood(events, 1, **experiment.TIGHT), want)
