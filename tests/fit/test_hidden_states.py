"""Runs with states that nobody measured: guessed from a linear ODE, then learned as every other state is."""

import numpy as np
import pages
import pytest
from series import table_of
from test_fitted_inputs import STEP, B, C, K, force_of, oscillator

from isocline.fit import Config, UserError, fit, predict
from isocline.fit.baselines import LinearODE
from isocline.fit.drive import Inputs
from isocline.fit.equation_rows import networks_of
from isocline.fit.forecast import anchor, forecast
from isocline.fit.hidden import unexplained
from isocline.fit.physics import scales_of
from isocline.fit.reading.table import Series, read_table
from isocline.fit.scale import Scales, StateScale
from isocline.fit.split import Split
from isocline.fit.summary import _phase
from isocline.fit.windows import Record


def half_seen(n=120, noise=0.0, seed=0):
    """The position of the driven oscillator, its velocity hidden."""
    t, force = np.arange(n) * STEP, force_of(n, seed)
    y = oscillator(force, noise)
    y[:, 1] = np.nan
    return Series("", t, y, Inputs(t, force[:, None]))


def scales_for(series, tau=1.3):
    x = series.y[:, 0]
    states = (StateScale("linear", float(x.mean()), float(x.std())), StateScale("linear", 0.0, 1.0))
    return Scales(states, tau, (StateScale("linear", 0.0, 1.0),))


def write(path, n=100, noise=0.02, force=None):
    force = force_of(n) if force is None else force
    rows = zip(oscillator(force, noise), force, strict=True)
    rows = [f"{i * STEP:.6g},{x:.6f},{u:.6f}\n" for i, ((x, _), u) in enumerate(rows)]
    path.write_text("t [s],x [m],force [N]\n" + "".join(rows))
    return path


# ---- first guesses ----------------------------------------------------------------------------------------------------
def test_a_hidden_state_is_guessed_as_the_velocity_up_to_what_cannot_be_known():
    series = half_seen(noise=0.01)
    scales = scales_for(series)
    record = Record.of([series], scales, 5)
    assert record.hidden.tolist() == [False, True] and not np.concatenate([v for v, _ in record.smooth])[:, 1].any()
    guessed = LinearODE(record).followed(record)
    values, slopes = (np.concatenate(part) for part in zip(*guessed.smooth, strict=True))
    assert values[:, 1].mean() == pytest.approx(0, abs=1e-9) and values[:, 1].std() == pytest.approx(1)
    # Any h with h = a x + b v + c is as good: of such combinations it is one, and its slope is one of dx, dv.
    truth = np.column_stack([oscillator(force_of(120)), np.ones(120), force_of(120)])
    for column, design in ((values[:, 1], truth[:, :3]), (slopes[:, 1], truth)):
        left = column - design @ np.linalg.lstsq(design, column, rcond=None)[0]
        assert left.std() < 0.05 * column.std()


def test_what_was_measured_keeps_its_smooth_values():
    series = half_seen(60, 0.05)
    record = Record.of([series], scales_for(series), 5)
    for other in (unexplained(record), LinearODE(record).followed(record)):
        for (a, b), (c, d) in zip(record.smooth, other.smooth, strict=True):
            np.testing.assert_array_equal(a[:, 0], c[:, 0])
            np.testing.assert_array_equal(b[:, 0], d[:, 0])
    assert unexplained(Record.of([half_seen(60)], scales_for(series), 5)).hidden.tolist() == [False, True]


def test_the_noise_of_a_hidden_state_is_that_of_the_others():
    series = half_seen(100, 0.1)
    noise = Record.of([series], scales_for(series), 5).noise()
    assert noise[0] == noise[1] > 0.02


def test_the_linear_ode_forecasts_with_a_hidden_state():
    series, scales = half_seen(), scales_for(half_seen())
    known = series.rows(slice(90))
    linear = LinearODE(Record.of([known], scales, 10))
    (ahead,) = forecast(linear.flow, [known], [series.t[90:]], scales)
    assert np.abs(ahead[:, 0] - scales.scaled(series.y[90:])[:, 0]).max() < 5e-3


def test_equations_find_their_parameters_and_the_hidden_path_before_anything_is_trained():
    series = half_seen(noise=0.01)
    config = Config(
        states=("x",), hidden_states=("v",), inputs=("u",), equations=("dx = v; dv = -k*x - c*v + b*u",),
        parameters=("k = 0.4 in [0, 9]", "c = 1 in [0, 9]"),
    )  # fmt: skip
    scales = scales_of(scales_for(series), config)
    assert scales.states[1] == scales.states[0]
    record = Record.of([series], scales, 5)
    rows = networks_of(config, scales, record)
    found = rows.model.equations.values
    assert {k: found[k] for k in "kcb"} == pytest.approx({"k": K, "c": C, "b": B}, rel=0.05)
    guess = scales.unscaled(np.concatenate([v for v, _ in rows.followed(record).smooth]))[:, 1]
    assert np.abs(guess - oscillator(force_of(120))[:, 1]).max() < 0.1


# ---- where forecasts start --------------------------------------------------------------------------------------------
def test_a_hidden_state_is_settled_on_more_rows(tmp_path):
    series, scales = half_seen(), scales_for(half_seen())
    assert len(anchor(series, scales).t) == 50
    seen = Series("", series.t, oscillator(force_of(120)), series.u)
    assert len(anchor(seen, scales).t) == 12
    text = "\n".join(f"{name},{i},{np.sin(i + k)}" for k, name in enumerate("ab") for i in range(300))
    (tmp_path / "two.csv").write_text(f"id,t,x\n{text}\n")
    table = read_table(tmp_path / "two.csv")
    assert len(Split.of(table, "series:b").train[1].t) == 12
    assert len(Split.of(table.with_hidden(["h"]), "series:b").train[1].t) == 50


def test_names_of_hidden_states_are_new_names(tmp_path):
    (tmp_path / "a.csv").write_text("t,x\n0,1\n1,2\n2,4\n")
    table = read_table(tmp_path / "a.csv")
    assert table.hidden == [False] and table.with_hidden(["a", "b"]).hidden == [False, True, True]
    for names in (["x"], ["t"], ["a", "a"]):
        with pytest.raises(UserError, match=r"--hidden-states .: .* is a column of .*, or stands twice"):
            table.with_hidden(names)
    assert Config.make(hidden_states=2).hidden_states == ("hidden 1", "hidden 2")


# ---- runs -------------------------------------------------------------------------------------------------------------
QUICK = {"inputs": ("force [N]",), "iterations": 15, "polish": 40, "starts": 1, "blocks": 0}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hidden")
    config = Config.make(**QUICK, hidden_states=1, hidden=(8,), penalty=(1e-2,), members=3)
    return folder / "run", fit(write(folder / "table.csv"), config, folder / "run")


def test_a_network_with_a_hidden_state_forecasts_the_measured_one(done):
    _, report = done
    assert [s["name"] for s in report["table"]["states"]] == ["x", "hidden 1"]
    scores = {s["model"]: s for s in report["scores"]}
    assert all(list(s["rmse"]) == ["x [m]"] for s in report["scores"])  # nobody knows what the hidden one should be
    # The noise is 0.02, and 0.013 of the state's size: forecasts are hardly worse; without a velocity there is none.
    assert scores["neural ODE"]["nrmse"] < 0.1 and scores["linear ODE"]["nrmse"] < 0.05
    assert scores["persistence"]["nrmse"] > 0.8


def test_the_portrait_is_of_the_measured_state_and_the_hidden_one(done):
    run, report = done
    phase, path = report["phase"], np.array(next(p["y"] for p in report["model_path"] if p["part"] == "fit"))
    assert (phase["axes"], phase["x"], phase["y"]) == ([0, 1], "x [m]", "hidden 1")
    assert (
        phase["gy"][0] < path[:, 1].min()
        and phase["gy"][-1] > path[:, 1].max()
        and phase["path_y"] == path[:, 1].tolist()
    )
    assert "hidden 1 was not measured, so there are no dots" in pages.page(run / "report.html")


def test_a_portrait_shows_measured_states_before_hidden_ones():
    t = np.arange(30.0)
    y = np.stack([np.full(30, np.nan), np.sin(t), np.full(30, np.nan), 5 + np.cos(t)], 1)
    scales = Scales(tuple(StateScale("linear", 1.0, 2.0) for _ in range(4)), 1.0)
    path = {"part": "fit", "y": np.stack([t, np.sin(t), t**2, 5 + np.cos(t)], 1).tolist()}
    phase = _phase(lambda t, x: x, [Series("", t, y)], scales, table_of((t, y)), [path])
    assert phase["axes"] == [1, 3] and phase["held"] == pytest.approx(np.median(np.nan_to_num(path["y"]), 0), abs=1e-9)
    grid = np.array(phase["gy"])
    assert grid[[0, -1]] == pytest.approx([np.min(y[:, 3]) - 0.6, np.max(y[:, 3]) + 0.6])
    np.testing.assert_allclose(np.array(phase["dy"])[:, 0], grid - 1)  # of dx/dt = x, back in the table's units
    assert _phase(lambda t, x: x, [Series("", t, y)], scales, table_of((t, y)), []) is None


def test_a_forecast_goes_on_with_a_record_of_the_measured_states(done, tmp_path):
    folder, _ = done
    force = 0.5 * force_of(70, 5)  # which moves it less far than what it was trained on
    other = write(tmp_path / "other.csv", 70, 0.0, force)
    text = other.read_text().splitlines(keepends=True)
    (tmp_path / "first.csv").write_text("".join(text[:51]))
    header, rows, lost = predict(folder, until=69 * STEP, start=tmp_path / "first.csv", inputs=other, bands=True)
    assert header[:4] == ["t [s]", "x [m]", "hidden 1", "x [m] low80"] and not lost and len(rows) == 20
    path = np.array([[float(v) for v in row] for row in rows])
    truth = oscillator(force)[50:, 0]
    assert np.abs(path[:, 1] - truth).max() < 0.15 * truth.std()
    with pytest.raises(UserError, match=r"inputs 'force \[N\]' are known up to 19.6 and needed up to"):
        predict(folder, until=69 * STEP, start=tmp_path / "first.csv")


@pytest.mark.slow  # profiles of three parameters
def test_equations_with_a_hidden_state_have_parameters_with_errors(tmp_path):
    config = Config.make(
        **QUICK, hidden_states=("v",), equations=("dx = v; dv = -k*x - c*v + b*force",), members=0,
        parameters=("k = 0.5 in [0, 9]",),
    )  # fmt: skip
    report = fit(write(tmp_path / "table.csv", 60), config, tmp_path / "run")
    rows = {row["name"]: row for row in report["parameters"]["rows"]}
    for name, true in {"k": K, "c": C, "b": B}.items():
        assert abs(rows[name]["value"] - true) < 4 * rows[name]["error"] and rows[name]["error"] < 0.1 * true
    assert report["scores"][0]["nrmse"] < 0.05


def test_a_hidden_state_of_equations_beside_logarithms_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("t,x\n" + "".join(f"{i},{np.exp(i % 7)}\n" for i in range(40)))
    config = Config.make(hidden_states=("h",), equations=("dx = h; dh = -k*x",), scale="log")
    with pytest.raises(UserError, match="hidden_states: beside states on a logarithmic scale"):
        fit(tmp_path / "a.csv", config, tmp_path / "run")
