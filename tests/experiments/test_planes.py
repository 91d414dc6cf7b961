"""The distributions in the plane: samples and density belong together."""

import math

import pytest
import torch

from isocline.experiments.lab.planes import SETS, TWO_CIRCLES

ALL = {**SETS, "two circles": TWO_CIRCLES}
# Entropies computed elsewhere (Monte Carlo, standard errors 0.002 to 0.02).
KNOWN = {
    "8gaussians": 2.830,
    "checkerboard": math.log(32),
    "circles": 3.266,
    "rings": 2.622,
    "moons": 2.404,
    "swissroll": 2.672,
    "2spirals": 2.642,
    "pinwheel": 2.327,
    "two circles": 0.787,
}


@pytest.mark.parametrize("name", ALL)
def test_the_density_is_that_of_the_samples(name):
    """Mean density over a cell of a coarse grid against the share of the samples in it."""
    plane, n, cells, fine = ALL[name], 40_000, 12, 8
    x = plane.sample(n).double()
    low, high = x.amin(0).floor(), x.amax(0).ceil()  # whole numbers: the checkerboard's edges fall between points
    side = (high - low) / cells
    place = ((x - low) / side).long()
    counts = torch.zeros(cells * cells, dtype=torch.float64)
    counts.index_add_(0, place[:, 0] * cells + place[:, 1], torch.ones(n, dtype=torch.float64))
    step = (torch.arange(cells * fine, dtype=torch.float64) + 0.5) / (cells * fine)
    grid = torch.stack(torch.meshgrid(step, step, indexing="ij"), -1) * (high - low) + low
    p = plane.log_prob(grid).exp().reshape(cells, fine, cells, fine).mean((1, 3)).flatten() * side.prod()
    assert p.sum().item() == pytest.approx(1.0, abs=0.02)  # the midpoint rule, narrow noise
    error = (counts / n - p).abs()
    # Five standard errors, and what the midpoint rule on 8 x 8 points misses where the noise is narrow.
    assert bool((error < 5 * (p / n).sqrt() + 0.05 * p + 1e-4).all())


@pytest.mark.parametrize("name", ALL)
def test_the_entropy_is_the_one_found_elsewhere(name):
    assert ALL[name].entropy(4000) == pytest.approx(KNOWN[name], abs=0.04)
