"""Flows by maximum likelihood, shortly trained."""

import torch

from isocline.experiments.lab.planar_flow import PlanarFlow


def test_short_flows_beat_their_base_and_not_the_entropy(quick):
    record = quick("cnf-likelihood")
    for row in record["rows"]:
        # The entropy is the least a density can score: what is below it by more than the noise of 2,000 points is none.
        assert row["ours"] > row["bound"] - 0.1, row
    ours = record["ours"]
    assert ours["moons: CNF, 64 units: NLL"] < 3.2  # the best normal distribution: 3.29
    assert ours["cnf.py's circles, 5,000 steps: NLL"] < 2.0  # N(0, 0.1 I) itself: ln 0.2π + E|x|²/0.2 = 2.70


def test_the_volume_a_planar_flow_reports_is_its_jacobian():
    layers, x = PlanarFlow(5).double(), torch.randn(4, 2, dtype=torch.float64)
    for first in (0, 2):
        jacobian = torch.func.vmap(torch.func.jacrev(lambda one: layers(one[None], first)[0][0]))(x)
        log_det = layers(x, first)[1]
        torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)
    assert torch.equal(layers(x, 5)[0], x)
