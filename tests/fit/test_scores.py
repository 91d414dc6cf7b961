"""Scores against what they are by hand: seasons, errors by horizon, bands, and the words about them."""

import math
import warnings

import numpy as np
import pytest
import torch
from series import rotation, table_of

from isocline.fit.bands import Bands
from isocline.fit.baselines import autocorrelations, period_of, season_ago
from isocline.fit.judge import EQUATIONS, NEURAL, judge
from isocline.fit.reading.table import Series
from isocline.fit.rivals import AUTO, LAST, LINEAR, MEAN, SEASON
from isocline.fit.scale import Scales, StateScale
from isocline.fit.scores import by_horizon, horizons, interval_scores, mase, of_bands, origins, rmse
from isocline.fit.split import Split
from isocline.fit.verdict import reach, verdict

PLAIN = Scales((StateScale("linear", 0.0, 1.0),), 1.0)


def record(y):
    y = np.asarray(y, dtype=float).reshape(len(y), -1)
    return Series("", np.arange(len(y), dtype=float), y)


def test_errors_whose_squares_are_no_numbers_are_infinite_and_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rmse(np.array([[1e200]]), np.array([[0.0]])).tolist() == [math.inf]
        assert StateScale("linear", 0.0, 1e200).unscaled(np.array([1e150])).tolist() == [math.inf]


# ---- seasons ----------------------------------------------------------------------------------------------------------
def test_the_autocorrelation_is_the_one_of_the_definition():
    y = np.random.default_rng(0).standard_normal((50, 1))
    x = y[:, 0] - y.mean()
    want = [x[: 50 - k] @ x[k:] / (x @ x) for k in range(6)]
    np.testing.assert_allclose(autocorrelations([y], 5)[:, 0], want, atol=1e-12)


def test_a_noisy_gappy_season_has_its_period_and_noise_has_none():
    rng = np.random.default_rng(0)
    t = np.arange(120)
    y = np.cos(2 * np.pi * t / 12) + 0.5 * rng.standard_normal(120)
    y[rng.random(120) < 0.2] = np.nan
    assert period_of([record(y)], PLAIN) == 12
    noise = [period_of([record(np.random.default_rng(seed).standard_normal(120))], PLAIN) for seed in range(40)]
    assert sum(period is not None for period in noise) <= 4  # one in twenty by chance
    assert period_of([record(np.cumsum(np.ones(40)))], PLAIN) is None  # a trend is no season
    assert period_of([record(np.cos(2 * np.pi * t[:20] / 12))], PLAIN) is None  # not yet seen twice


def test_series_of_different_lengths_share_one_period():
    waves = [record(np.cos(2 * np.pi * np.arange(n) / 7 + n)) for n in (40, 25, 33)]
    assert period_of(waves, PLAIN) == 7


def test_the_season_is_repeated_with_its_gaps_filled_from_earlier_ones():
    y = np.array([[1.0], [2.0], [3.0], [4.0], [np.nan], [6.0]])
    assert season_ago(y, 3, 5).ravel().tolist() == [4.0, 2.0, 6.0, 4.0, 2.0]
    assert season_ago(y[:2], 3, 2).ravel().tolist() == [2.0, 2.0]  # shorter than a period: the last value


# ---- errors -----------------------------------------------------------------------------------------------------------
def test_the_scaled_error_of_predicting_each_row_by_the_one_before_is_one():
    y = np.random.default_rng(0).standard_normal((40, 2)).cumsum(0)
    assert mase(y[:-1], y[1:], [Series("", np.arange(40.0), y)]) == pytest.approx(1.0)
    y[5, 0] = np.nan
    assert math.isfinite(mase(y[:-1] + 1, y[1:], [Series("", np.arange(40.0), y)])) is False  # a prediction is missing
    constant = [record(np.ones(5))]
    assert math.isnan(mase(np.ones((2, 1)), np.zeros((2, 1)), constant))


def test_errors_by_horizon_are_of_exactly_so_many_rows():
    ahead = [np.arange(1.0, 1 + n)[:, None] for n in (4, 3, 2, 1)]
    assert horizons(ahead) == [1, 2]
    paths = [np.zeros((2, 1)) for _ in ahead]
    assert by_horizon(paths, ahead, [1, 2]) == [1.0, 2.0]
    paths[0][1] = np.nan
    assert by_horizon(paths, ahead, [1, 2]) == [1.0, math.inf]
    ahead[0][0] = np.nan
    assert horizons(ahead) == [1, 2]
    assert horizons([np.full((3, 1), np.nan)] * 9) == []


def test_origins_are_spread_over_long_records_and_all_of_short_ones():
    assert origins([(5, 2), (3, 1)]) == [(0, 5), (0, 6), (1, 3)]
    some = origins([(100, 500), (50, 500)])
    assert len(some) == 60 and some[0] == (0, 100) and some[-1] == (1, 549)
    assert origins([(5, 0)]) == []


# ---- bands ------------------------------------------------------------------------------------------------------------
def test_the_interval_score_is_lowest_for_the_true_quantiles():
    y = np.random.default_rng(0).standard_normal(40_000)
    z = 1.2816
    edge = np.full_like(y, z)
    true, narrow, wide = (interval_scores(-k * edge, k * edge, y, 0.8).mean() for k in (1.0, 0.7, 1.4))
    assert true < min(narrow, wide)
    assert true == pytest.approx(2 * 0.1755 / 0.1, rel=0.01)  # 2 phi(z) / (alpha / 2), in closed form


def test_bands_are_judged_by_what_they_cover_and_how_wide_they_are():
    rng = np.random.default_rng(1)
    seen, past = rng.standard_normal((2, 5000, 2))
    seen[:100, 1] = np.nan
    found = of_bands(Bands.normal([1.0, 1.0]), np.zeros((5000, 2)), np.zeros((5000, 2)), seen, past)
    for level, z in (("80", 1.2816), ("95", 1.96)):
        assert found[level]["coverage"] == pytest.approx(int(level) / 100, abs=0.012)
        assert found[level]["width"] == pytest.approx(2 * z, rel=1e-3)
        assert found[level]["score"] == pytest.approx(found[level]["score_of_quantiles"], rel=0.02)
    lost = of_bands(Bands.normal([1.0]), np.full((3, 1), np.nan), np.zeros((3, 1)), np.zeros((3, 1)), past[:, :1])
    assert lost["80"]["coverage"] == 0 and lost["80"]["score"] == math.inf


# ---- judging by horizon -----------------------------------------------------------------------------------------------
class Still(torch.nn.Module):
    def forward(self, t, y):
        return 0 * y


def test_errors_by_horizon_are_of_forecasts_from_every_held_out_row():
    t = np.arange(60) * 0.3
    table = table_of((t, rotation(t)))
    split = Split.of(table, 0.2)
    told = judge(Still(), table, split, Scales.of(table, split.taught, "linear"), 10).horizons
    assert told["rows"] == [1, 2, 5, 10] and told["forecasts"] == [12, 11, 8, 3]
    assert told["time"] == pytest.approx([0.3, 0.6, 1.5, 3.0])
    y = rotation(t)
    by_hand = np.array([y[k] - y[k - 1] for k in range(48, 60)]) / y[:48].std(0)
    assert told["nrmse"][LAST][0] == pytest.approx(np.sqrt(np.mean(by_hand**2)))
    assert told["skill"][LAST] == [0.0] * 4
    assert told["skill"][LINEAR][0] > 0.95 and told["skill"][AUTO][0] > 0.95
    assert told["skill"][NEURAL][0] < -1  # it is the mean of the last rows, and the circle has moved on


def test_irregular_steps_have_no_season_and_no_autoregression():
    t = np.cumsum(np.random.default_rng(0).uniform(0.1, 0.5, 60))
    table = table_of((t, rotation(t)))
    split = Split.of(table, 0.2)
    scores = judge(Still(), table, split, Scales.of(table, split.taught, "linear"), 10).scores
    assert [s["model"] for s in scores] == [NEURAL, LAST, MEAN, LINEAR]


# ---- words ------------------------------------------------------------------------------------------------------------
def row(model, nrmse, parameters, **more):
    return {"model": model, "nrmse": nrmse, "parameters": parameters, "observations": 36, **more}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [row(EQUATIONS, 1.0, 4), row(LINEAR, 0.95, 6)],
            "prefer the simpler model, which is the equation model (4 fitted numbers against 6).",
        ),
        (
            [row(NEURAL, 1.0, 166), row(LINEAR, 0.95, 6)],
            "the simpler model, the linear ODE (6 fitted numbers against 166)",
        ),
        ([row(NEURAL, 1.0, 166), row(LAST, 0.95, 0)], "(the last observed value) (no fitted number against 166)"),
        ([row(EQUATIONS, 1.0, 6), row(LINEAR, 0.95, 6)], "both have 6 fitted numbers"),
        (
            [row(EQUATIONS, 2.0, 4), row(LINEAR, 0.95, 6)],
            "The equation model is the simpler one (4 fitted numbers against 6), but something is missing in it",
        ),
        ([row(NEURAL, 2.0, 166), row(LINEAR, 0.95, 6)], "Prefer the simpler model (6 fitted numbers against 166)"),
        ([row(NEURAL, 2.0, 166), row(SEASON, 1.0, 1, period=12)], "the value 12 rows ago (seasonal naive)"),
    ],
)
def test_simpler_means_fewer_fitted_numbers(rows, sentence):
    assert sentence in verdict(rows)[0]


@pytest.mark.parametrize(
    ("skills", "sentence"),
    [
        (
            [0.1, 0.2, 0.3],
            "From one row to 5 rows ahead (2.5 d) its forecasts are better than the last value, held: by 10 %",
        ),
        ([-0.1, 0.0, None], "At no horizon up to 5 rows ahead (2.5 d)"),
        ([0.2, 0.1, -0.3], "up to 2 rows ahead (1 d), and not beyond."),
        ([-0.2, 0.1, 0.3], "from 2 rows ahead (1 d) on; nearer, the last value is the better guess."),
        ([0.2, None, 0.3], "1 and 5 rows ahead; elsewhere they are not."),
    ],
)
def test_how_far_ahead_the_model_is_of_use_is_a_sentence(skills, sentence):
    told = {"rows": [1, 2, 5], "time": [0.5, 1.0, 2.5], "skill": {NEURAL: skills}}
    assert sentence in reach(told, NEURAL, "d")
    assert "(" not in reach(told, NEURAL, "")
    assert reach(None, NEURAL, "d") is None


def test_one_horizon_alone_is_a_sentence_too():
    told = {"rows": [1], "time": [1.0], "skill": {NEURAL: [0.31]}}
    assert reach(told, NEURAL, "") == "1 row ahead its forecasts are better than the last value, held: by 31 %."


def test_a_column_nobody_observed_has_an_error_that_is_not_a_number():
    assert np.isnan(rmse(np.zeros((3, 2)), np.array([[1.0, np.nan]] * 3))).tolist() == [False, True]
