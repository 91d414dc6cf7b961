"""Bands: calibrated on what was held out, as wide as the members part and the noise."""

import math

import numpy as np
import pytest
import torch

from isocline.fit.bands import LEVELS, Bands, kept, spread_of, student

NORMAL = (1.2816, 1.9600)


def test_factors_are_the_quantiles_of_the_held_out_ratios():
    rng = np.random.default_rng(0)
    ratios = np.abs(2.0 * rng.standard_normal((20_000, 1)))  # twice as far off as the bands without a factor say
    bands = Bands.calibrated(ratios, [1.0])
    assert np.ravel(bands.factors) == pytest.approx([2 * z for z in NORMAL], rel=0.03)
    assert bands.points == 20_000
    half = bands.half_widths(np.zeros(1), 0.8)
    fresh = np.abs(2.0 * rng.standard_normal(20_000))
    assert np.mean(fresh <= half) == pytest.approx(0.8, abs=0.02)


def test_a_state_whose_noise_is_not_what_it_seems_leaves_the_bands_of_others_as_they_are():
    rng = np.random.default_rng(1)
    ratios = np.abs(rng.standard_normal((4000, 2))) * [1.0, 30.0]
    bands = Bands.calibrated(ratios, [1.0, 1.0])
    fresh = np.abs(rng.standard_normal((4000, 2))) * [1.0, 30.0]
    for level in LEVELS:
        inside = (fresh <= bands.half_widths(np.zeros((1, 2)), level)).mean(0)
        assert inside == pytest.approx([level, level], abs=0.02)


def test_a_state_that_no_block_has_seen_takes_the_factor_of_the_others():
    ratios = np.stack([np.linspace(0.1, 10.0, 99), np.full(99, np.nan)], 1)
    assert Bands.calibrated(ratios, [1.0, 1.0]).factors[0] == pytest.approx((8.0, 8.0), abs=0.2)


def test_factors_are_never_below_those_of_a_normal_distribution():
    assert np.ravel(Bands.calibrated(np.full((50, 1), 0.01), [1.0]).factors) == pytest.approx(NORMAL, abs=1e-3)
    assert Bands.calibrated(np.array([[np.inf], [np.nan]]), [1.0]).points == 0


def test_few_points_are_enough_for_their_largest_only():
    assert Bands.calibrated(np.array([[5.0], [1.0], [9.0]]), [1.0]).factors == ((9.0,), (9.0,))


@pytest.mark.parametrize("members", [3, 4, 8])
def test_without_calibration_the_spread_of_few_members_holds_what_is_like_them(members):
    paths = np.random.default_rng(members).standard_normal((members + 1, 40_000, 1))
    bands = Bands.of_few([0.0], members)
    assert bands.points == 0
    spread, off = spread_of(paths[1:]), np.abs(paths[0])
    for level in LEVELS:
        # About a known middle, as the model's path is: a share of 40,000 has a standard deviation of at most 0.002.
        assert np.mean(off <= bands.half_widths(spread, level)) == pytest.approx(level, abs=0.01)


def test_spread_and_noise_add_as_variances():
    bands = Bands(((1.0,), (2.0,)), (3.0,))
    assert float(bands.half_widths(np.array([[4.0]]), 0.95)[0, 0]) == pytest.approx(10.0)


def test_the_spread_of_members_leaves_lost_paths_out():
    paths = np.array([[[1.0]], [[3.0]], [[math.inf]]])
    assert float(spread_of(paths)[0, 0]) == pytest.approx(math.sqrt(2))
    assert float(spread_of(paths[:1])[0, 0]) == 0


def test_paths_that_leave_what_was_learned_are_doubted_however_much_they_agree():
    learned = np.array([[0.0, math.nan], [2.0, math.nan], [math.nan, math.nan]])
    paths = np.tile([[1.0, 9.0], [2.6, 9.0], [-1.2, 9.0], [math.inf, 9.0]], (3, 1, 1))
    assert spread_of(paths, learned)[:3] == pytest.approx(np.array([[0.0, 0.0], [0.2, 0.0], [0.4, 0.0]]))
    assert np.isfinite(spread_of(paths, learned)).all()
    assert (spread_of(paths, learned[:0]) == 0).all()
    apart = np.array([[[4.0]], [[6.0]]])  # standard deviation √2, and 3 outside
    assert float(spread_of(apart, np.array([[0.0], [2.0]]))[0, 0]) == pytest.approx(math.sqrt(3))


def test_members_much_worse_than_the_best_are_left_out():
    assert kept(torch.tensor([1.0, 2.2, 2.3, math.nan])).tolist() == [True, True, False, False]


# ---- series that were not learned from --------------------------------------------------------------------------------
@pytest.mark.parametrize("degrees", [1, 2, 5, 30])
def test_quantiles_of_student_s_t_hold_their_share(degrees):
    t = np.random.default_rng(0).standard_t(degrees, 100_000)
    for level in LEVELS:  # a share of 100,000 draws has a standard deviation of at most 0.0013
        assert np.mean(np.abs(t) <= student(level, degrees)) == pytest.approx(level, abs=0.005)


def errors(rng, scales):
    """(n, 1) of series by scale: one error at each time, which goes slowly and grows on the way."""
    for scale in scales:
        steps = rng.standard_normal(60) * math.sqrt(1 - math.exp(-0.1))
        e = np.zeros(60)
        e[0] = rng.standard_normal()
        for i in range(1, 60):
            e[i] = math.exp(-0.05) * e[i - 1] + steps[i]
        yield np.abs(scale * e * np.linspace(0.1, 1, 60))[:, None]


@pytest.mark.parametrize("series", [2, 4, 12])
def test_bands_of_new_series_hold_what_they_say_however_few_were_left_out(series):
    rng, inside = np.random.default_rng(series), []
    for _ in range(200):
        *known, new = errors(rng, np.exp(0.5 * rng.standard_normal(series + 1)))
        bands = Bands.calibrated(np.ones((9, 1)), [1.0], known)
        assert bands.series == series
        inside.append([np.mean(new <= bands.half_widths(np.zeros((1, 1)), level, 0.0)) for level in LEVELS])
    # Series differ by half a logarithm and their errors go slowly: one covers 0.8 ± 0.3, two hundred ± 0.02.
    first, second = np.mean(inside, 0)
    assert 0.76 <= first <= 0.90 and 0.92 <= second <= 0.99


def test_a_new_series_has_bands_by_how_far_from_all_others_it_begins():
    rng = np.random.default_rng(3)
    far = np.exp(rng.standard_normal(13))
    total = [math.sqrt(0.1**2 + d**2) for d in far]
    known = [e / t for e, t in zip(errors(rng, total), total, strict=True)]
    bands = Bands.calibrated(np.full((9, 1), 0.5), [0.1], known)
    near, away = (float(bands.half_widths(np.zeros((1, 1)), 0.8, d)[0, 0]) for d in (0.0, 3.0))
    assert away / near == pytest.approx(math.hypot(0.1, 3.0) / 0.1)
    assert float(bands.half_widths(np.zeros((1, 1)), 0.8)[0, 0]) == pytest.approx(0.1 * NORMAL[0], rel=1e-3)


def test_one_series_that_was_left_out_tells_nothing_of_others():
    bands = Bands.calibrated(np.ones((9, 1)), [1.0], [np.ones((5, 1)), np.full((5, 1), np.nan)])
    assert bands.unseen is None
    assert bands.half_widths(np.zeros((1, 1)), 0.8, 5.0) == bands.half_widths(np.zeros((1, 1)), 0.8)
