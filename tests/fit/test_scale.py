"""The smoothing spline, and the units in which a network learns."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from series import rotation, table_of

from isocline.fit import UserError
from isocline.fit.scale import Scales, StateScale
from isocline.fit.smooth import hermite, smoothed, smoothing_spline


def noisy_sine(seed, spacing=1.0):
    t = np.arange(100) * spacing
    w = 2 * np.pi / (20 * spacing)
    y = np.sin(w * t)
    return t, y + 0.1 * np.random.default_rng(seed).standard_normal(100), y, w * np.cos(w * t)


@pytest.mark.parametrize("spacing", [1e-3, 0.34, 1.0, 3400.0])
def test_smoothing_halves_the_noise_whatever_the_unit_of_time(spacing):
    errors, slopes = [], []
    for seed in range(10):
        t, noisy, y, dy = noisy_sine(seed, spacing)
        values, slope = smoothing_spline(t, noisy)
        errors.append(np.sqrt(np.mean((values - y) ** 2)))
        slopes.append(np.sqrt(np.mean((slope - dy) ** 2) / np.mean(dy**2)))
    assert np.mean(errors) < 0.06
    assert np.mean(slopes) < 0.2


def test_less_of_the_penalty_follows_more_closely():
    t, noisy, *_ = noisy_sine(0)
    left = [np.abs(smoothing_spline(t, noisy, ease)[0] - noisy).max() for ease in (1.0, 1e-2, 1e-4, 0.0)]
    assert left[0] > 3 * left[1] > 9 * left[2] and left[3] < 1e-9


def test_the_slopes_are_those_of_the_natural_cubic_through_the_values():
    t = np.sort(np.random.default_rng(1).random(60)) * 10
    values, slopes = smoothing_spline(t, np.sin(t))
    spline = CubicSpline(t, values, bc_type="natural")
    np.testing.assert_allclose(slopes, spline(t, 1), atol=1e-9)
    at = np.linspace(t[0], t[-1], 500)
    inside, slope = hermite(t, values, slopes, at)
    np.testing.assert_allclose(inside, spline(at), atol=1e-9)
    np.testing.assert_allclose(slope, spline(at, 1), atol=1e-8)


def test_a_straight_line_comes_through_unchanged():
    t = np.array([0.0, 0.1, 0.5, 2.0, 2.1, 5.0])
    values, slopes = smoothing_spline(t, 3 - 2 * t)
    np.testing.assert_allclose(values, 3 - 2 * t, atol=1e-10)
    np.testing.assert_allclose(slopes, -2, atol=1e-9)


def test_empty_cells_are_bridged_and_empty_columns_are_nothing():
    t = np.arange(300.0)
    y = np.stack([np.sin(t / 5), np.full(300, np.nan)], 1)
    y[40:44, 0] = np.nan
    values, slopes = smoothed(t, y)
    np.testing.assert_allclose(values[:, 0], np.sin(t / 5), atol=0.02)
    assert (values[:, 1] == 0).all()
    assert (slopes[:, 1] == 0).all()


def test_scaled_slopes_have_size_one():
    t = np.arange(200) * 0.25
    table = table_of((t, rotation(t, damping=0.0)))
    scales = Scales.of(table, table.series, "auto")
    x = scales.scaled(table.series[0].y)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-12)
    slope = np.gradient(x, t / scales.tau, axis=0)[1:-1]
    assert np.sqrt(np.mean(slope**2)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_the_unit_of_time_follows_the_table_s(factor):
    t = np.arange(100) * 0.3
    table = table_of((t * factor, rotation(t)))
    reference = table_of((t, rotation(t)))
    expected = Scales.of(reference, reference.series, "auto").tau * factor
    assert Scales.of(table, table.series, "auto").tau == pytest.approx(expected, rel=1e-6)


def test_positive_and_skewed_over_a_decade_means_logarithms():
    t = np.arange(60.0)
    populations = np.exp(2 * np.sin(t / 3))
    table = table_of((t, np.stack([populations, np.sin(t / 3), populations - populations.min()], 1)))
    assert [s.kind for s in Scales.of(table, table.series, "auto").states] == ["log", "linear", "linear"]
    assert [s.kind for s in Scales.of(table, table.series, "linear").states] == ["linear"] * 3
    with pytest.raises(UserError, match=r"column 'x1' goes down to -0.99.*--scale log"):
        Scales.of(table, table.series, "log")


@pytest.mark.parametrize("kind", ["linear", "log"])
def test_scaling_can_be_undone(kind):
    y = np.array([0.5, 3.0, 40.0])
    scale = StateScale(kind, 1.2, 0.7)
    x = scale.scaled(y)
    np.testing.assert_allclose(scale.unscaled(x), y, rtol=1e-12)
    np.testing.assert_allclose((scale.unscaled(x + 1e-6) - y) / 1e-6, scale.rate(y), rtol=1e-5)


def test_noise_alone_still_gives_a_unit_of_time():
    t = np.arange(50.0)
    table = table_of((t, np.random.default_rng(0).standard_normal((50, 1))))
    assert 0 < Scales.of(table, table.series, "auto").tau <= 49
