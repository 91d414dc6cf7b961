"""Two of FFJORD's toy densities, shortly trained."""

import math

import torch

from isocline.experiments.lab.planes import SETS


def test_short_flows_are_densities_nearer_to_the_truth_than_any_normal(quick):
    record = quick("ffjord-toys")
    bound = {row["what"]: row.get("bound") for row in record["rows"]}
    for name in ("8gaussians", "moons"):
        # The best normal distribution has the covariance C of the data and the NLL (1/2) ln det(2πe C).
        c = torch.cov(SETS[name].sample(20_000).T.double())
        assert record["ours"][f"{name}: NLL"] < 0.5 * torch.logdet(2 * math.pi * math.e * c).item()
        kl = record["ours"][f"{name}: KL divergence"]
        assert kl > -0.1  # it is positive, up to the noise of 1,000 points: about 0.03
        assert abs(record["ours"][f"{name}: NLL"] - bound[f"{name}: NLL"] - kl) < 1e-6
        assert abs(record["ours"][f"{name}: integral over the plane"] - 1) < 0.01
