"""Seasons: a clock beside the states, found where a record repeats itself and held-out blocks are forecast better with it."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from series import csv_of

from isocline.cli.show import show_command
from isocline.fit import Config, UserError, fit, predict, resume
from isocline.fit.baselines import period_of
from isocline.fit.batch import Batch
from isocline.fit.bifurcation import bifurcation
from isocline.fit.blocks import Fold
from isocline.fit.equation_rows import layout_of, networks_of
from isocline.fit.export import source
from isocline.fit.fitted import Fitted
from isocline.fit.flow import flow_of_rows
from isocline.fit.forecast import forecast
from isocline.fit.networks import Field, Networks
from isocline.fit.objective import Objective
from isocline.fit.reach import CLOCKED, refuge
from isocline.fit.reading.table import Series
from isocline.fit.repeats import period_to_try, refined, repeated
from isocline.fit.rollout import program_of, step_of
from isocline.fit.scale import Scales, StateScale
from isocline.fit.season import Season, named_or_period, of_calendar, read_season, seconds_in
from isocline.fit.sparse import sparse_equations
from isocline.fit.windows import Record
from isocline.report import write_report
from isocline.solvers import Solver

QUICK = {
    "hidden": (8,),
    "matching": 100,
    "iterations": 10,
    "polish": 40,
    "starts": 2,
    "members": 3,
    "blocks": 3,
    "penalty": (1e-2, 1.0),
}
T = np.arange(120) * 1.0
PLAIN = Scales((StateScale("linear", 0.0, 1.0),), 1.0)


def forced(t, period=12.0, rate=0.4, seed=0):
    """dx/dt = −rate x + cos(2πt/P) once its start is forgotten, measured with noise: no state tells what comes."""
    w = 2 * math.pi / period
    path = (rate * np.cos(w * t) + w * np.sin(w * t)) / (rate**2 + w**2)
    return (path + 0.02 * np.random.default_rng(seed).standard_normal(len(t)))[:, None]


@pytest.fixture(scope="module")
def seasonal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("season")
    (folder / "forced.csv").write_text(csv_of(T, forced(T)))
    fit(folder / "forced.csv", Config(**QUICK), folder / "run")
    return folder


def told(folder):
    return json.loads((folder / "report.json").read_text())


# ---- fields -----------------------------------------------------------------------------------------------------------
def test_networks_of_many_and_the_module_of_one_are_the_same_field():
    torch.manual_seed(0)
    networks = Networks(2, (8,), inputs=1, season=Season(7.0, tau=2.0))
    theta = networks.begin([0, 1]) + 0.3 * torch.randn(2, networks.size, dtype=torch.float64)
    y, u = torch.randn(2, 5, 2, dtype=torch.float64), torch.randn(2, 5, 1, dtype=torch.float64)
    time = torch.rand(2, 5, 1, dtype=torch.float64) * 10
    slopes = networks.slopes(theta, y, {"u": u, "begin": time})
    for row in range(2):
        module = networks.module(theta[row])
        now = torch.tensor(0.4, dtype=torch.float64)
        given = {"u": u[row], "begin": time[row] - 0.4 * 2.0}
        assert torch.allclose(module(now, y[row], given), slopes[row])
        each = networks.field(now, y[row], given, *networks.handed(theta[row].expand(5, -1)))
        assert torch.allclose(each, slopes[row])
        later = {**given, "begin": given["begin"] + 3 * 7.0}
        assert torch.allclose(module(now, y[row], later), slopes[row])  # whole periods later it is the same
        assert not torch.allclose(module(now + 1, y[row], given), slopes[row])


def test_the_period_is_kept_with_the_weights():
    field = Field(1, (4,), season=Season(12.0, 1.0))
    assert float(field.state_dict()["period"]) == 12.0
    assert "period" not in Field(1, (4,)).state_dict()
    assert layout_of(field, Config(states=("x",))).season == Season(12.0, 1.0)


def test_slopes_are_matched_at_the_time_of_their_rows():
    record = Record.of([Series("", T, forced(T))], PLAIN, 5)
    networks = networks_of(Config(states=("x",)), PLAIN, record, 12.0)
    assert networks.takes == ("begin",)
    assert np.allclose(record.given()["begin"][:, 0], T)


def test_what_takes_the_place_of_networks_has_their_clock():
    series = [Series("", T, forced(T))]
    record = Record.of(series, PLAIN, 5)
    networks = networks_of(Config(states=("x",)), PLAIN, record, 12.0)
    row, name = refuge(networks, Config(**QUICK), record, series, PLAIN)
    assert name == CLOCKED
    later = T[-1] + np.arange(1.0, 25.0)
    (path,) = forecast(flow_of_rows(networks, row[None]), series, [later], PLAIN)
    assert np.abs(path - forced(np.concatenate([T, later]))[len(T) :]).max() < 0.2
    module = networks.module(row)
    given, y = {"begin": torch.zeros(1, dtype=torch.float64)}, torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    slopes = module(torch.tensor(0.0), y, given)
    assert torch.allclose(slopes.diff(dim=0), slopes.diff(dim=0)[0])  # a linear field


# ---- which --------------------------------------------------------------------------------------------------------------
def test_a_forced_record_gets_a_clock_and_is_forecast_by_it(seasonal):
    report = told(seasonal / "run")
    found = report["chosen"]["season"]
    assert found["taken"] and abs(found["period"] - 12) < 0.05
    assert found["error"] < 0.5 * found["without"]
    phases = list(dict.fromkeys(stage["phase"] for stage in report["stages"]))
    assert phases == ["choosing", "trying a season", "fitting"]
    model, *others = report["scores"]
    assert model["nrmse"] < 0.1 and all(
        model["nrmse"] < s["nrmse"] for s in others if s["model"] in ("mean", "persistence")
    )
    assert report["equilibria"] == [] and report["bifurcation"] is None


def test_the_run_goes_on_with_its_clock(seasonal):
    _, rows, lost = predict(seasonal / "run", until=150.0, bands=True)
    t, x = np.array([row[:2] for row in rows], dtype=float).T
    assert not lost
    assert np.abs(x - forced(t, seed=1)[:, 0]).max() < 0.25
    assert Fitted.read(seasonal / "run").config.season == "auto"  # a fold of `validate` looks for one of its own


def test_a_rollout_has_the_clock(seasonal):
    fitted = Fitted.read(seasonal / "run")
    step, _, _ = step_of(fitted, told(seasonal / "run"), Solver.named("tsit5").tableau)
    t = torch.arange(119.0, 125.0, dtype=torch.float64)
    program = program_of(step, fitted).module()
    start = json.loads((seasonal / "run" / "states.json").read_text())[""]["state"]
    y0 = torch.tensor(fitted.scales.unscaled(np.array([start])))
    path = program(y0, t)[:, 0, 0].numpy()
    _, rows, _ = predict(seasonal / "run", until=124.0)
    asked = {float(row[0]): float(row[1]) for row in rows}
    assert np.allclose(path[1:], [asked[float(v)] for v in t[1:]], atol=1e-4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda run: source(Fitted.read(run), "c"), "the clock of its season"),
        (lambda run: bifurcation(run, "x0", 0, 1), "no"),
        (lambda run: sparse_equations(run), "--season none"),
    ],
    ids=["c", "bifurcation", "sparse"],
)
def test_what_a_clock_cannot_be_written_as_says_so(seasonal, call, says):
    if says == "--season none":
        pytest.importorskip("pysindy", reason="PySINDy is not installed")
    with pytest.raises(ValueError, match=says):
        call(seasonal / "run")


def test_the_screen_and_the_page_tell_of_it(seasonal, capsys, tmp_path):
    assert show_command(seasonal / "run", figures=False) == 0
    assert "season of 12 t: a clock that the networks are given" in capsys.readouterr().out
    report = told(seasonal / "run")
    for taken, says in ((True, "The model has it"), (False, "so the model has no clock.")):
        report["chosen"]["season"]["taken"] = taken
        write_report(report, tmp_path / "page.html")
        assert says in (tmp_path / "page.html").read_text()


def test_an_oscillator_keeps_its_own_time(tmp_path):
    """A cycle that the states tell is no season: networks forecast it better than the record repeats itself."""
    y = np.stack([np.cos(T), np.sin(T)], 1) + 0.02 * np.random.default_rng(0).standard_normal((120, 2))
    (tmp_path / "circle.csv").write_text(csv_of(T, y))
    report = fit(tmp_path / "circle.csv", Config(**QUICK), tmp_path / "run")
    found = report["chosen"]["season"]
    assert found is None or not found["taken"]
    assert not hasattr(Fitted.read(tmp_path / "run").field, "period")


def test_none_is_none_and_a_given_one_is_taken(seasonal, tmp_path):
    table = seasonal / "forced.csv"
    none = fit(table, Config(**QUICK, season="none"), tmp_path / "none")
    given = fit(table, Config(**QUICK, season=12.0), tmp_path / "given")
    for report in (none, given):
        assert report["chosen"]["season"] is None
        assert "trying a season" not in [stage["phase"] for stage in report["stages"]]
    assert given["scores"][0]["nrmse"] < 0.1 < 0.5 < none["scores"][0]["nrmse"]


def test_years_of_dates_are_years(tmp_path):
    dates = np.datetime64("2001-01-01") + (T * 30.4368).round().astype("timedelta64[D]")
    days = (dates - dates[0]).astype(float)
    rows = [f"{d},{v:.9g}" for d, v in zip(dates, forced(days / 365.2425 * 12)[:, 0], strict=True)]
    (tmp_path / "dated.csv").write_text("\n".join(["date,x", *rows]))
    settings = {**QUICK, "penalty": (1e-2,), "members": 0, "blocks": 0, "season": "year"}
    report = fit(tmp_path / "dated.csv", Config(**settings), tmp_path / "run")
    assert report["config"]["season"] == pytest.approx(365.25)
    assert report["scores"][0]["nrmse"] < 0.2


@pytest.mark.parametrize("steps", [200, 400], ids=["while it is tried", "while everything is fitted"])
def test_a_broken_run_goes_on_with_what_was_found(seasonal, tmp_path, steps):
    asked = itertools.count(1)

    def stop():
        return next(asked) > steps

    begun = fit(seasonal / "forced.csv", Config(**QUICK), tmp_path / "run", stop=stop)
    assert begun["stopped"] == "interrupted"
    resume(tmp_path / "run")
    for name in ("model.safetensors", "members.safetensors", "states.json"):
        assert (tmp_path / "run" / name).read_bytes() == (seasonal / "run" / name).read_bytes()
    assert told(tmp_path / "run")["chosen"] == told(seasonal / "run")["chosen"]


# ---- periods ------------------------------------------------------------------------------------------------------------
def test_uneven_steps_have_no_rows_to_repeat_after():
    t = np.delete(T, [7, 30, 31])
    assert period_to_try([Series("", t, forced(t))], [], PLAIN, math.inf, None) is None


@pytest.mark.parametrize("period", [11.6, 12.0, 12.37])
def test_periods_between_rows_are_found(period):
    t = np.arange(400.0)
    gaps = forced(t, period)
    gaps[50:60] = np.nan
    assert refined([Series("", t, gaps)], 12, PLAIN) == pytest.approx(period, abs=0.03)


@pytest.mark.parametrize("trend", [lambda t: 0.3 * t, lambda t: np.exp(t / 40)], ids=["line", "growth"])
def test_a_trend_does_not_hide_a_season(trend):
    y = forced(T) + trend(T)[:, None]
    assert period_of([Series("", T, y)], PLAIN) == 12
    before, block = Series("", T[:90], y[:90]), Series("", T[90:], y[90:])
    assert repeated([Fold([before], [before], [block])], 12, PLAIN) < 0.5 * np.std(y)


def test_changes_of_a_random_walk_have_no_season():
    walks = np.cumsum(np.random.default_rng(0).standard_normal((40, 120)), 1)
    found = [period_of([Series("", T, walk[:, None])], PLAIN) for walk in walks]
    assert sum(rows is not None for rows in found) <= 4  # by chance


def test_a_period_of_rows_is_kept_where_a_finer_one_explains_no_more():
    t = np.arange(60) / 4
    y = np.tile([2.0, 0.5, 0.2, 1.0], 15) * (1 + 0.05 * np.arange(60))
    assert refined([Series("", t, y[:, None])], 4, PLAIN) == 1.0


@pytest.mark.parametrize(
    ("t", "years"),
    [
        (1949 + np.arange(24) / 12, True),
        (np.round(1949 + np.arange(24) / 12, 3), True),
        (1960 + np.arange(9) / 4, True),
        (2001 + np.arange(60) / 52, True),
        (1990.0 + np.arange(30), False),
        (np.arange(24) / 12, False),
        (1700 + np.arange(24) / 10, False),
        (np.array([2000.5]), False),
    ],
    ids=["months", "rounded months", "quarters", "weeks", "years", "from 0", "tenths", "one"],
)
def test_times_that_are_years_in_parts_are_known(t, years):
    assert (seconds_in("", "time", t) == seconds_in("y", "time")) is years
    assert seconds_in("d", "time", t) == 86400.0


def test_of_two_fields_with_the_same_path_the_one_that_returns_to_it_costs_less():
    """dx/dt = ∓a x + what makes x = sin(2πt/P) a path: from a free start no observation tells the signs apart."""
    season, a, w = Season(12.0, tau=1.0), 0.1, 2 * math.pi / 12
    record = Record.of([Series("", T[:40], np.sin(w * T[:40])[:, None])], PLAIN, 5)
    networks = Networks(1, (), season=season)
    batch = Batch([record] * 2)
    objective = Objective(networks, batch, torch.zeros(2, dtype=torch.float64), 1.0, learn_noise=False)
    rows = torch.tensor([[0.0] * 4 + [rate, w, -rate] for rate in (-a, a)], dtype=torch.float64)
    theta = objective.begin(rows)
    objective.starts(theta)[:, 0] = 0.0
    losses, misfit = objective.losses(theta, torch.arange(2), batch.windows(record.levels - 1))
    assert misfit.max() < 1e-3
    assert losses[1] > losses[0] + 10


def test_the_gradient_of_networks_with_a_clock_is_that_of_their_loss():
    y = np.stack([np.sin(T[:40] / 2), np.cos(T[:40] / 2)], 1) + 0.1 * np.random.default_rng(0).standard_normal((40, 2))
    record = Record.of([Series("", T[:40], y)], Scales((StateScale("linear", 0.0, 1.0),) * 2, 2.0), 5)
    batch = Batch([record, record.perturbed(record.noise(), 1)])
    networks = Networks(2, (4,), season=Season(12.0, tau=2.0))
    objective = Objective(networks, batch, torch.tensor([1e-3, 1e-2], dtype=torch.float64), 1.0)
    theta = objective.begin(networks.begin([0, 1]))
    theta += 0.05 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    windows, members, step = batch.windows(1), torch.arange(2), 1e-5
    _, gradient, _ = objective.value(theta, members, windows)
    noise = range(networks.size, networks.size + 2)  # held where starts are moved by it
    for i in (i for i in range(0, theta.shape[1], 5) if i not in noise):
        moved = torch.zeros_like(theta)
        moved[:, i] = step
        up, down = (objective.losses(theta + sign * moved, members, windows)[0] for sign in (1, -1))
        assert torch.allclose((up - down) / (2 * step), gradient[:, i], rtol=1e-6, atol=1e-6)
    alone, part, _ = objective.value(theta[1:], members[1:], windows)
    assert torch.equal(part[0], gradient[1])
    assert torch.allclose(alone[0], objective.losses(theta, members, windows)[0][1])


def test_periods_of_the_calendar_are_exact():
    week, day = seconds_in("w", "x"), seconds_in("", "Days")
    assert of_calendar(104.9, week) == pytest.approx(2 * 365.25 / 7)
    assert of_calendar(366.0, day) == 365.25 and of_calendar(20.0, day) == 20.0 and of_calendar(366.0, None) == 366.0
    assert read_season("year", seconds_in("", "month")) == pytest.approx(12.0)


@pytest.mark.parametrize("given", [0, -3.0, math.inf, "monthly", "nan"])
def test_what_is_no_period_is_refused(given):
    with pytest.raises(UserError, match=r"season=.*expected auto, none, day, week, year, or a period above 0"):
        Config.make(season=given)


def test_refusals_name_what_is_missing(tmp_path):
    assert named_or_period("7.5") == 7.5
    (tmp_path / "plain.csv").write_text(csv_of(T, forced(T)))
    with pytest.raises(UserError, match="season='year': the time column holds numbers and says no unit"):
        fit(tmp_path / "plain.csv", Config(**QUICK, season="year"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"season=12.0: beside equations.*sin\(2\*pi\*t/12\)"):
        Config.make(season=12.0, equations=("dx0 = -k*x0",))
