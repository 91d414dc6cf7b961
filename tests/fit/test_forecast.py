"""Settled starting states, forecasts, the linear ODE, scores and the sentence about who wins."""

import warnings

import numpy as np
import pytest
import torch
from series import rotation, table_of

from isocline.fit import UserError
from isocline.fit import flow as flow_module
from isocline.fit.autoregression import Autoregression, equal_steps
from isocline.fit.baselines import LinearODE
from isocline.fit.flow import flow_of, settle
from isocline.fit.forecast import anchor, forecast, settled
from isocline.fit.judge import NEURAL, judge
from isocline.fit.reading.table import Series
from isocline.fit.rivals import AUTO, LAST, LINEAR, MEAN, SEASON
from isocline.fit.scale import Scales, StateScale
from isocline.fit.split import Split
from isocline.fit.verdict import verdict
from isocline.fit.windows import GAP, Record

PLAIN = Scales((StateScale("linear", 0.0, 1.0),), 1.0)


class Rotation(torch.nn.Module):
    def forward(self, t, y):
        return torch.stack([-y[..., 1], y[..., 0]], -1)


def circle(t):
    return torch.stack([torch.cos(t), torch.sin(t)], -1)


# ---- settle -----------------------------------------------------------------------------------------------------------
def test_settling_finds_the_state_behind_noise_gaps_and_ragged_times():
    generator = torch.Generator().manual_seed(0)
    ts = torch.arange(12, dtype=torch.float64).expand(2, 12) * 0.4
    ts = ts.clone()
    ts[1, 9:] = torch.nan
    y = circle(ts.T) + 0.05 * torch.randn(12, 2, 2, generator=generator, dtype=torch.float64)
    y[0, :, 1] = torch.nan  # never both at first
    y[3:6, 0] = torch.nan
    found = settle(flow_of(Rotation()), ts, y, torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=torch.float64))
    # Noise 0.05 over about 8 observations of each state, and a pull of 1 % to the guess.
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64), atol=0.05, rtol=0)


def test_settling_on_a_flow_that_cannot_be_followed_returns_the_guess():
    guess = torch.ones(1, 2, dtype=torch.float64)
    ts = torch.arange(3, dtype=torch.float64)[None]
    found = settle(
        lambda states, ts, drive: torch.full((3, len(states), 2), torch.nan),
        ts,
        torch.zeros(3, 1, 2, dtype=torch.float64),
        guess,
    )
    torch.testing.assert_close(found, guess)


def test_a_record_that_stands_there_for_every_member_is_settled_as_alone():
    t = np.arange(12) * 0.3
    a, b = table_of((t, rotation(t)), (t, rotation(t, phase=1.0))).series
    flow, scales = flow_of(Rotation()), Scales.of(table_of((t, rotation(t))), [a], "linear")
    together = settled(flow, [a, b, a, b], scales)
    alone = torch.cat([settled(flow, [s], scales) for s in (a, b)])
    assert torch.equal(together[:2], together[2:])
    assert torch.allclose(together[:2], alone, rtol=1e-5, atol=1e-6)  # of the solver; steps end when all have arrived


def test_an_anchor_does_not_reach_across_a_long_gap():
    t = np.concatenate([np.arange(20.0), 19 + 2 * GAP + np.arange(4.0)])
    table = table_of((t, rotation(t)))
    scales = Scales.of(table, table.series, "linear")
    scales = Scales(scales.states, 1.0)
    assert len(anchor(table.series[0], scales).t) == 4


def test_a_forecast_of_the_true_field_is_the_truth():
    t = np.arange(30) * 0.3
    table = table_of((t, rotation(t, 0.0)), (t[:20] + 0.1, rotation(t[:20] + 0.1, 0.0, 1.0)))
    scales = Scales(tuple(s for s in Scales.of(table, table.series, "linear").states), 1.0)
    sd = [s.sd for s in scales.states]

    class Field(torch.nn.Module):
        def forward(self, t, x):
            y = [x[..., i] * s.sd + s.mean for i, s in enumerate(scales.states)]
            return torch.stack([-(y[1] + 1) / sd[0], (y[0] - 3) / sd[1]], -1)

    later = [np.array([10.0, 12.5]), np.array([7.0])]
    first, second = forecast(flow_of(Field()), table.series, later, scales)
    np.testing.assert_allclose(scales.unscaled(first), rotation(later[0], 0.0), atol=2e-3)
    np.testing.assert_allclose(scales.unscaled(second), rotation(later[1], 0.0, 1.0), atol=2e-3)


def test_a_path_that_runs_away_within_the_numbers_is_lost_and_warns_of_nothing():
    class Grows(torch.nn.Module):
        def forward(self, t, x):
            return 40 * x

    t = np.arange(30) * 0.3
    table = table_of((t, rotation(t, 0.0)))
    scales = Scales(Scales.of(table, table.series, "linear").states, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (path,) = forecast(flow_of(Grows()), table.series, [9.0 + np.arange(10.0)], scales)  # up to e^360
        told = judge(Grows(), table, Split.of(table, 0.5), scales, 5)
    assert np.isfinite(path[2]).all() and np.isinf(path[-1]).all()
    assert told.scores[0]["nrmse"] is None and "is finite only up to" in told.warnings[0]


# ---- linear ODE -------------------------------------------------------------------------------------------------------
def test_the_linear_ode_finds_a_linear_system_from_irregular_gappy_noisy_rows():
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.uniform(0.1, 0.5, 150))
    y = rotation(t) + 0.02 * rng.standard_normal((150, 2))
    y[rng.random((150, 2)) < 0.2] = np.nan
    table = table_of((t, y))
    scales = Scales.of(table, table.series, "linear")
    linear = LinearODE(Record.of(table.series, scales, 10))
    eigenvalues = torch.linalg.eigvals(linear.rows[:, :2]) / scales.tau
    assert sorted(eigenvalues.imag.tolist()) == pytest.approx([-1, 1], abs=0.01)
    assert eigenvalues.real.tolist() == pytest.approx([-0.05, -0.05], abs=0.01)
    (ahead,) = forecast(linear.flow, table.series, [t[-1] + np.array([1.0, 5.0])], scales)
    np.testing.assert_allclose(scales.unscaled(ahead), rotation(t[-1] + np.array([1.0, 5.0])), atol=0.03)


# ---- autoregression --------------------------------------------------------------------------------------------------
def test_the_autoregression_finds_the_recurrence_behind_gaps_and_its_order():
    rng = np.random.default_rng(0)
    y = np.zeros(400)
    for i in range(2, 400):
        y[i] = 1.6 * y[i - 1] - 0.8 * y[i - 2] + rng.standard_normal()
    y[[50, 51, 200]] = np.nan
    t = np.arange(400.0)
    table = table_of((t, np.stack([y, rng.standard_normal(400)], 1)))
    scales = Scales.of(table, table.series, "linear")
    model = Autoregression(table.series, scales)
    assert 2 <= model.orders[0] <= 5 and model.orders[1] <= 2
    # The standard error of a coefficient of 400 rows is at most 5 %, more where the order is too large by one.
    assert model.coefficients[0][1] == pytest.approx(1.6, abs=0.12)
    far = model.forecast(table.series[0], 400 + np.arange(300.0))
    assert np.abs(scales.unscaled(far[-1:])[0] - [np.nanmean(y), 0.0]).max() < 0.6  # it ends at the mean


def test_an_autoregression_that_runs_away_is_lost():
    t = np.arange(40.0)
    y = 1e-9 * 1.8**t  # from the beginning of what goes on to 1e300
    record = Series("", t, y[:, None])
    model = Autoregression([record], PLAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = model.forecast(record, 40 + np.arange(1500.0))
    assert path[0, 0] == pytest.approx(1.8 * y[-1], rel=1e-3)
    assert np.isinf(path[-1, 0])


def test_steps_are_equal_or_not():
    months = np.cumsum([0, 31, 28, 31, 30, 31, 30.0])
    assert equal_steps([Series("", months, np.zeros((7, 1)))])
    assert not equal_steps([Series("", np.array([0.0, 1, 2, 4]), np.zeros((4, 1)))])


# ---- judge ------------------------------------------------------------------------------------------------------------
def judged(model, hold_out=0.2):
    t = np.arange(100) * 0.3
    table = table_of((t, rotation(t)))
    split = Split.of(table, hold_out)
    scales = Scales.of(table, split.taught, "linear")
    return judge(model, table, split, scales, 10)


def test_scores_are_in_the_user_s_unit_and_beside_baselines():
    told = judged(Rotation())
    by = {s["model"]: s for s in told.scores}
    assert list(by) == [NEURAL, LAST, MEAN, LINEAR, AUTO, SEASON]
    assert by[SEASON]["period"] == 21  # 2 pi / 0.3
    assert by[LAST]["skill"] == 0
    assert by[LINEAR]["nrmse"] < 1e-2  # the data are linear
    assert by[AUTO]["nrmse"] < 1e-2  # and so is their recurrence
    t = np.arange(100) * 0.3
    y = rotation(t)
    assert by[LAST]["rmse"]["x0"] == pytest.approx(np.sqrt(np.mean((y[80:, 0] - y[79, 0]) ** 2)))
    naive = np.abs(np.diff(y[:80], axis=0)).mean(0)
    assert by[LAST]["mase"] == pytest.approx((np.abs(y[80:] - y[79]).mean(0) / naive).mean())
    assert not told.warnings


def test_a_forecast_that_is_lost_is_a_sentence():
    class Explodes(torch.nn.Module):
        def forward(self, t, y):
            return y**3 + 1

    told = judged(Explodes())
    scores = told.scores
    assert scores[0]["nrmse"] is None and scores[0]["mase"] is None
    assert told.horizons["nrmse"][NEURAL][-1] is None and told.horizons["skill"][NEURAL][-1] is None
    assert scores[0]["rmse"] == {"x0": None, "x1": None}
    assert "the forecast of the neural ODE is finite only up to t" in told.warnings[0]
    assert "does not stay finite" in verdict(scores)[0]


def test_nothing_held_out_is_nothing_judged():
    scores = judged(Rotation(), hold_out=0.0).scores
    assert scores == []
    assert verdict(scores)[0].startswith("Nothing was held out")


def test_only_the_beginning_of_a_long_held_out_part_is_scored():
    t = np.arange(6000) * 0.3
    table = table_of((t, rotation(t, 0.0)))
    split = Split.of(table, 0.5)
    scales = Scales.of(table, split.taught, "linear")
    warnings = judge(Rotation(), table, split, scales, 10).warnings
    assert warnings == ["scored on the first 1000 held-out rows of each series"]


@pytest.mark.parametrize(
    ("neural", "last", "linear", "count", "sentence"),
    [
        (
            0.5,
            1.0,
            0.8,
            100,
            "wins on the held-out part: its error (0.5) is 38% lower than that of the linear ODE (0.8).",
        ),
        (0.5, 0.6, 0.8, 100, "lower than that of persistence"),
        (
            0.81,
            1.0,
            0.8,
            10**6,
            "cannot be told apart by 1000000 observations: prefer the simpler model, the linear ODE (6 fitted numbers",
        ),
        (
            0.7,
            1.0,
            0.8,
            36,
            "the neural ODE (error 0.7) and the linear ODE (0.8) cannot be told apart by 36 observations",
        ),
        (0.7, 1.0, 0.8, 100, "The neural ODE wins"),
        (0.9, 1.0, 0.8, 36, "cannot be told apart"),
        (1.2, 1.0, 0.8, 36, "does not beat the linear ODE on the held-out part: its error is 1.2 against 0.8"),
        (1.2, 1.0, 1.8, 36, "does not beat persistence"),
        (None, 1.0, None, 36, "does not stay finite on the held-out part: persistence"),
        (1.0, None, None, 36, "finite, unlike the baselines'"),
    ],
)
def test_the_verdict_may_say_no(neural, last, linear, count, sentence):
    models = ((NEURAL, neural), (LAST, last), (LINEAR, linear))
    sizes = {NEURAL: 166, LAST: 0, LINEAR: 6}
    text, won = verdict([{"model": m, "nrmse": v, "observations": count, "parameters": sizes[m]} for m, v in models])
    assert sentence in text and won == ("wins" in text)


def test_a_column_that_is_not_observed_in_the_held_out_part_has_no_score():
    t = np.arange(50) * 0.3
    y = rotation(t)
    y[40:, 1] = np.nan
    table = table_of((t, y))
    split = Split.of(table, 0.2)
    scores = judge(Rotation(), table, split, Scales.of(table, split.taught, "linear"), 10).scores
    assert scores[0]["rmse"]["x1"] is None
    assert scores[0]["nrmse"] is not None


def test_of_many_series_of_four_rows_the_last_is_held_out():
    four = (np.arange(4.0), rotation(np.arange(4.0)))
    split = Split.of(table_of(*[four] * 20), 0.2)
    assert [(len(a.t), len(b.t)) for a, b in zip(split.train, split.held, strict=True)] == [(3, 1)] * 20
    with pytest.raises(UserError, match="every series has fewer than 5 rows, so no tail can be held out"):
        Split.of(table_of(*[four] * 19), 0.2)


def test_a_series_of_one_row_can_be_a_start():
    table = table_of((np.arange(20.0), rotation(np.arange(20.0))))
    scales = Scales.of(table, table.series, "linear")
    one = Series("", np.array([3.0]), rotation(np.array([3.0])))
    (ahead,) = forecast(flow_of(Rotation()), [one], [np.array([3.0 + 1e-9])], scales)
    np.testing.assert_allclose(scales.unscaled(ahead)[0], one.y[0], atol=1e-2)


def test_a_long_record_may_take_as_many_steps_as_it_has_rows_to_reach(monkeypatch):
    """The first runs along the Silverbox's records were lost at 20,000 steps, half-way."""
    monkeypatch.setattr(flow_module, "MAX_STEPS", 10)
    ts = torch.linspace(0, 8, 41, dtype=torch.float64)[None]
    path = flow_module.paths(lambda t, y: torch.stack([y[..., 1], -25 * y[..., 0]], -1), torch.eye(2).double()[:1], ts)
    torch.testing.assert_close(path[:, 0, 0], torch.cos(5 * ts[0]), atol=1e-4, rtol=0)
