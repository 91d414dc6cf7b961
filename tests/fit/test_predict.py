"""Forecasts of a run: from the end of its record or from a given state, in the table's units, names and dates."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from series import csv_of, rotation

from isocline.cli.predict import predict_command
from isocline.fit import Config, UserError, fit, predict
from isocline.fit.reading.clock import Clock

T = np.arange(60) * 0.3


@pytest.fixture(scope="module")
def circle(tmp_path_factory):
    """A run that has learned a damped circle."""
    folder = tmp_path_factory.mktemp("circle")
    (folder / "circle.csv").write_text(
        csv_of(T, rotation(T) + 0.02 * np.random.default_rng(0).standard_normal((60, 2)))
    )
    fit(
        folder / "circle.csv",
        Config(hidden=(8,), matching=100, iterations=10, polish=40, starts=1, blocks=2, members=4, penalty=(1e-2,)),
        folder / "run",
    )
    return folder / "run"


@pytest.fixture(scope="module")
def dated(tmp_path_factory):
    """Two positive series with dates."""
    folder = tmp_path_factory.mktemp("dated")
    days = [f"2024-03-{d:02d}" for d in range(1, 31)]
    rows = [
        f"{name},{day},{k * np.exp(-i / 8):.6f}" for name, k in (("a", 40), ("b", 25)) for i, day in enumerate(days)
    ]
    (folder / "t.csv").write_text("\n".join(["id,date,x", *rows]) + "\n")
    fit(folder / "t.csv", Config(iterations=10, polish=20, starts=1, blocks=0, members=0), folder / "run")
    return folder / "run"


def write(path, text):
    path.write_text(text)
    return path


def test_until_goes_on_from_the_end_of_the_record_at_its_spacing(circle):
    header, rows, lost = predict(circle, until=float(T[-1]) + 3.1)
    assert (header, lost) == (["t", "x0", "x1"], [])
    ts = np.array([float(r[0]) for r in rows])
    np.testing.assert_allclose(ts, [*(T[-1] + 0.3 * np.arange(1, 11)), T[-1] + 3.1], rtol=1e-9)
    np.testing.assert_allclose([r[1:] for r in rows], rotation(ts), atol=0.25)


def test_bands_lie_about_the_forecast_and_widen_with_the_members(circle, dated):
    header, rows, _ = predict(circle, until=float(T[-1]) + 6.0, bands=True)
    assert header[3:] == [f"x{k} {bound}" for bound in ("low80", "high80", "low95", "high95") for k in (0, 1)]
    values = np.array([r[1:] for r in rows])
    middle, low80, high80, low95, high95 = np.split(values, 5, axis=1)
    assert (low95 < low80).all() and (low80 < middle).all() and (middle < high80).all() and (high80 < high95).all()
    # Noise of 0.02 alone makes a 95 % band 0.08 wide.
    assert (high95 - low95).min() > 0.05 and (high95 - low95).mean() < 2.0
    truth = rotation(np.array([float(r[0]) for r in rows]))
    assert np.mean((low95 <= truth) & (truth <= high95)) > 0.8
    with pytest.raises(UserError, match=r"no bands \(members=0\)"):
        predict(dated, until="2024-04-05", bands=True)


def test_from_a_given_state_members_start_alike(circle, tmp_path):
    start = write(tmp_path / "from.csv", csv_of(np.array([1.0]), rotation(np.array([1.0]))))
    times = write(tmp_path / "times.csv", "t\n1\n9\n")
    _, rows, _ = predict(circle, times=times, start=start, bands=True)
    kept = json.loads((circle / "bands.json").read_text())
    scales = json.loads((circle / "config.json").read_text())["scales"]["states"]
    width = [2 * f * n * s["sd"] for f, n, s in zip(kept["factors"][0], kept["noise"], scales, strict=True)]
    np.testing.assert_allclose(np.array(rows[0][5:7]) - np.array(rows[0][3:5]), width, rtol=1e-6)
    assert (np.array(rows[1][5:7]) - np.array(rows[1][3:5]) > width).all()


def test_a_given_state_at_given_times(circle, tmp_path):
    times = write(tmp_path / "times.csv", "when\n2.5\n1\n1\n4\n".replace("when", "t"))
    start = write(tmp_path / "from.csv", csv_of(np.array([1.0]), rotation(np.array([1.0]))))
    _, rows, _ = predict(circle, times=times, start=start)
    assert [r[0] for r in rows] == ["1", "2.5", "4"]
    np.testing.assert_allclose(rows[0][1:], rotation(np.array([1.0]))[0], rtol=1e-6)  # the start itself, as given
    np.testing.assert_allclose(rows[2][1:], rotation(np.array([4.0]))[0], atol=0.25)


def test_a_forecast_that_leaves_what_was_measured_says_so(circle, tmp_path, capsys):
    """A start ten times as far out is nothing that the record knows of."""
    start = write(tmp_path / "from.csv", csv_of(np.array([1.0]), 10 * rotation(np.array([1.0]))))
    far = r"the forecast of 'x0' leaves what was measured \(.* to .*\) by more than its range, from t 1 on"
    with pytest.warns(UserWarning, match=far):
        predict(circle, until=5.0, start=start)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(circle, until=float(T[-1]) + 3.0)
    out = tmp_path / "out.csv"
    assert predict_command(circle, "5", None, start, False, out) == 0  # told, and written all the same
    assert "isocline: the forecast of 'x" in capsys.readouterr().err and len(out.read_text().splitlines()) > 5
    # A run of an earlier version does not know.
    run = tmp_path / "run"
    shutil.copytree(circle, run)
    kept = json.loads((run / "config.json").read_text())
    values = np.loadtxt(circle.parent / "circle.csv", delimiter=",", skiprows=1)[:, 1:]
    assert kept.pop("measured") == {f"x{k}": [values[:, k].min(), values[:, k].max()] for k in (0, 1)}
    (run / "config.json").write_text(json.dumps(kept))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(run, until=5.0, start=start)


def test_dates_come_back_as_dates_and_every_series_goes_on(dated, tmp_path):
    header, rows, _ = predict(dated, until="2024-04-02")
    assert header == ["id", "date", "x"]
    assert [r[:2] for r in rows] == [[n, d] for n in "ab" for d in ("2024-03-31", "2024-04-01", "2024-04-02")]
    times = write(tmp_path / "times.csv", "id,date\nb,2024-03-30T12:00\nb,2024-04-05\n")
    assert [r[:2] for r in predict(dated, times=times)[1]] == [["b", "2024-03-30T12:00:00"], ["b", "2024-04-05"]]


def test_a_forecast_that_is_lost_is_a_sentence_and_the_rows_before(dated, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(dated, run)
    weights = load_file(run / "model.safetensors")
    last = [k for k in weights if k.endswith("bias")][-1]
    save_file({**weights, last: torch.full_like(weights[last], 600.0)}, run / "model.safetensors")
    _, rows, lost = predict(run, until="2024-04-20")
    assert "series 'a': the forecast is finite only up to date 2024-04-0" in lost[0]
    assert len(lost) == 2
    assert rows
    assert all(np.isfinite(r[2]) for r in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one of --until T and --times FILE"),
        ({"until": 1.0}, "--until 1.0: expected a time after the start of the forecast, 17.7"),
        ({"until": "soon"}, "time 'soon': expected a finite number"),
        ({"until": "inf"}, "time 'inf': expected a finite number"),
        ({"until": 1e9}, "more than 1,000,000 rows"),
        ({"times": "t\n1\n"}, "line 2, column 't': 1 lies before the start of the forecast, 17.7"),
        ({"times": "t\n18\nx\n19\n"}, "line 3, column 't': 'x'; expected a time"),
        ({"times": "s,x0\n18,1\n"}, "no column 't'"),
        ({"until": 9.0, "start": "t,x0\n1,3\n"}, "no column 'x1'; did you mean 'x0'"),
        (
            {"until": 9.0, "start": "t,x0,x1\n1,3,\n"},
            "line 2, column 'x1': 'empty'; expected a finite number in every state",
        ),
        ({"until": 9.0, "start": "t,x0,x1\n1,3,2\n2,3,2\n"}, "line 3: a second starting row; expected one"),
    ],
)
def test_a_fault_is_named(circle, tmp_path, options, message):
    options = {k: write(tmp_path / f"{k}.csv", v) if k != "until" else v for k, v in options.items()}
    with pytest.raises(UserError, match=message):
        predict(circle, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": "3/4/2024"}, "expected a date such as 2024-05-31"),
        (
            {"until": "2024-04-02", "start": "id,date,x\na,2024-03-01,-1\n"},
            "line 2, column 'x': '-1'; expected a positive number",
        ),
        ({"times": "id,date\nc,2024-04-02\n"}, "line 2, column 'id': no start for series 'c'; there are 'a', 'b'"),
    ],
)
def test_a_fault_among_dates_and_series_is_named(dated, tmp_path, options, message):
    options = {k: write(tmp_path / f"{k}.csv", v) if k != "until" else v for k, v in options.items()}
    with pytest.raises(UserError, match=message):
        predict(dated, **options)


def test_a_run_without_a_model_yet(circle, tmp_path):
    write(tmp_path / "config.json", json.dumps(json.loads((circle / "config.json").read_text())))
    with pytest.raises(UserError, match="the run has no model yet; finish it with: isocline fit --resume"):
        predict(tmp_path, until=20.0)


@pytest.mark.parametrize("text", ["2024-02-29", "2024-02-29T12:30:00", "1969-12-31", "2024-02-29T12:30:00.250"])
def test_a_date_survives_its_number(text):
    clock = Clock("2000-01-01", "h")
    assert clock.text(clock.number(text)) == text


def test_an_offset_from_utc_is_understood():
    assert Clock("2024-01-01", "h").number("2024-01-01T02:00+02:00") == 0
