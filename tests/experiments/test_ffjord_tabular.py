"""Densities of tables, shortly trained."""

import torch

from isocline.experiments.lab.mixture import fit_mixture


def test_a_short_flow_beats_the_normal_distribution(quick):
    record = quick("ffjord-tabular")
    ours = record["ours"]
    assert ours["parkinsons: CNF: NLL"] < ours["parkinsons: normal distribution: NLL"]
    assert ours["parkinsons: mixture: NLL"] < ours["parkinsons: normal distribution: NLL"]
    (normal,) = (row for row in record["rows"] if row["what"] == "normal in 10 dimensions: NLL")
    # No density scores less than the entropy on average; the noise of the difference is below the difference itself.
    assert normal["bound"] - 0.05 < normal["ours"] < normal["bound"] + 1.5


def test_one_component_is_the_normal_distribution_of_the_sample():
    x = torch.randn(400, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    found = fit_mixture(x, 1).component_distribution
    torch.testing.assert_close(found.mean[0], x.mean(0))
    expected = torch.cov(x.T, correction=0) + 1e-3 * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found.covariance_matrix[0], expected)


def test_more_components_fit_better():
    x = torch.cat([torch.randn(300, 2) @ torch.diag(torch.rand(2)) + 4 * torch.randn(2) for _ in range(4)]).double()
    scores = [fit_mixture(x, k).log_prob(x).mean().item() for k in (1, 2, 4)]
    assert scores == sorted(scores)
