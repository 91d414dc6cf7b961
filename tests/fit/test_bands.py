"""Bands: calibrated on what was held out, as wide as the members part and the noise."""

import math

import numpy as np
import pytest
import torch

from isocline.fit.bands import Bands, kept, spread_of


def test_factors_are_the_quantiles_of_the_held_out_ratios():
    rng = np.random.default_rng(0)
    ratios = np.abs(2.0 * rng.standard_normal(20_000))  # twice as far off as the bands without a factor say
    bands = Bands.calibrated(ratios, [1.0])
    assert bands.factors == pytest.approx((2 * 1.2816, 2 * 1.96), rel=0.03)
    assert bands.points == 20_000
    half = bands.half_widths(np.zeros(1), 0.8)
    fresh = np.abs(2.0 * rng.standard_normal(20_000))
    assert np.mean(fresh <= half) == pytest.approx(0.8, abs=0.02)


def test_factors_are_never_below_those_of_a_normal_distribution():
    assert Bands.calibrated(np.full(50, 0.01), [1.0]).factors == pytest.approx((1.2816, 1.96), abs=1e-3)
    assert Bands.calibrated(np.array([np.inf, np.nan]), [1.0]).points == 0


def test_few_points_are_enough_for_their_largest_only():
    assert Bands.calibrated(np.array([5.0, 1.0, 9.0]), [1.0]).factors == (9.0, 9.0)


def test_spread_and_noise_add_as_variances():
    bands = Bands((1.0, 2.0), (3.0,))
    assert float(bands.half_widths(np.array([[4.0]]), 0.95)[0, 0]) == pytest.approx(10.0)


def test_the_spread_of_members_leaves_lost_paths_out():
    paths = np.array([[[1.0]], [[3.0]], [[math.inf]]])
    assert float(spread_of(paths)[0, 0]) == pytest.approx(math.sqrt(2))
    assert float(spread_of(paths[:1])[0, 0]) == 0


def test_members_much_worse_than_the_best_are_left_out():
    assert kept(torch.tensor([1.0, 2.2, 2.3, math.nan])).tolist() == [True, True, False, False]
