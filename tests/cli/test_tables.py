"""Runs from the tables people have: several files, long tables, replicates, data frames; fitted, resumed, forecast."""

import csv
import json
import math

import pandas as pd
import pytest
from rich.console import Console
from test_bad_input import call, rows

from isocline.cli import fit as screen
from isocline.fit import Config, UserError, fit, predict, resume

SETTINGS = {
    "hidden": [4], "matching": 10, "iterations": 1, "polish": 0, "starts": 1, "members": 0, "blocks": 0, "penalty": [0.01],
}  # fmt: skip


@pytest.fixture
def quick(tmp_path):
    (tmp_path / "quick.json").write_text(json.dumps(SETTINGS))
    return ("--config", tmp_path / "quick.json")


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "runs").mkdir()
    for i, name in enumerate("abc"):
        lines = rows(10).splitlines()
        (tmp_path / "runs" / f"{name}.csv").write_text("\n".join([lines[0], *lines[1 + i :], ""]))
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def wide_screen(monkeypatch):
    monkeypatch.setattr(screen, "console", Console(highlight=False, width=200))


def shown(out):
    """Cells of the rows in which the roles are printed."""
    return [[c.strip() for c in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")][
        : out.split("└")[0].count("\n│")
    ]


def kept(run):
    return json.loads((run / "config.json").read_text())


def test_several_files_are_fitted_resumed_and_forecast(runs, tmp_path, capsys, quick, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "fit", "runs/*.csv", *quick)
    assert code == 0, err
    run = tmp_path / "runs-fit"
    assert "runs/a.csv and 2 more: 27 rows, 3 series" in out
    assert [row[:2] for row in shown(out)] == [["time", "time"], ["file", "id"], ["x", "state"], ["y", "state"]]
    assert kept(run)["table"] == [str(runs / f"{n}.csv") for n in "abc"]
    assert kept(run)["config"]["id"] == "file"
    before = (run / "model.safetensors").read_bytes()
    assert call(capsys, "fit", "--resume", run, *sorted(runs.glob("*.csv")))[0] == 0
    assert (run / "model.safetensors").read_bytes() == before
    assert call(capsys, "predict", run, "--until", 3)[0] == 0
    with (run / "prediction.csv").open() as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["file", "time", "x", "y"]
    assert {line[0] for line in lines[1:]} == {"a", "b", "c"}
    (runs / "b.csv").write_text((runs / "b.csv").read_text() + "9.0,1,1\n")
    code, _, err = call(capsys, "fit", "--resume", run)
    assert code == 2
    assert "the table has changed since the run began" in err
    (runs / "b.csv").unlink()
    code, _, err = call(capsys, "fit", "--resume", run)
    assert code == 2
    assert "b.csv: no such file" in err


def test_a_long_table_with_replicates_and_parts_of_a_date(tmp_path, capsys, quick):
    lines = ["subject,replicate,year,month,analyte,unit,conc,comment"]
    for subject in "pq":
        for replicate in (1, 2):
            for name in ("glucose", "insulin"):
                for k in range(14):
                    value = 5 + math.sin(k / 3 + (name == "insulin")) + 0.1 * replicate
                    lines.append(f"{subject},{replicate},{2020 + k // 12},{k % 12 + 1},{name},mM,{value:.3f},fine")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    run = tmp_path / "run"
    code, out, err = call(
        capsys, "fit", tmp_path / "t.csv", "--out", run, *quick, "--log", "insulin", "--time-unit", "w"
    )
    assert code == 0, err
    assert [row[:2] for row in shown(out)] == [
        ["year+month", "time"],
        ["subject+replicate", "id"],
        ["analyte", "names of the states"],
        ["conc", "values of the states"],
        ["unit", "units of the states"],
        ["year", "part of the time"],
        ["month", "part of the time"],
        ["subject", "part of the series' name"],
        ["replicate", "part of the series' name"],
        ["glucose [mM]", "state"],
        ["insulin [mM]", "state"],
        ["comment", "ignored: not part of a long table: neither time, series, variable nor value"],
    ]
    assert [row[3] for row in shown(out) if row[1] == "state"] == ["linear", "log"]
    config = kept(run)["config"]
    assert (config["time"], config["id"]) == ("year+month", "subject+replicate")
    assert (config["variable"], config["value"], config["log"]) == ("analyte", "conc", ["insulin [mM]"])
    before = (run / "model.safetensors").read_bytes()
    assert call(capsys, "fit", "--resume", run)[0] == 0
    assert (run / "model.safetensors").read_bytes() == before
    (tmp_path / "times.csv").write_text("subject,replicate,year,month\np,2,2021,6\nq,1,2021,5\n")
    header, rows_, _ = predict(run, times=tmp_path / "times.csv")
    assert header == ["subject+replicate", "year+month", "glucose [mM]", "insulin [mM]"]
    assert [row[:2] for row in rows_] == [["p/2", "2021-06-01"], ["q/1", "2021-05-01"]]


def test_a_data_frame_is_fitted_and_resumed(tmp_path):
    frame = pd.DataFrame({"time": range(20), "x": [math.sin(i / 3) for i in range(20)]})
    run = tmp_path / "run"
    report = fit(frame, Config.make(**SETTINGS), run)
    assert report["table"]["path"] == "the table"
    before = (run / "model.safetensors").read_bytes()
    resume(run, frame)
    assert (run / "model.safetensors").read_bytes() == before
    resume(run)  # from the copy it keeps
    assert (run / "model.safetensors").read_bytes() == before
    with pytest.raises(UserError, match="the table: the table has changed since the run began"):
        resume(run, frame.assign(x=frame.x + 1))


def test_repeated_rows_that_are_numbered_are_resumed_and_forecast(tmp_path, capsys, quick):
    text = "time,x\n" + "".join(f"{t},{math.sin(t / 3) + k:.3f}\n" for t in range(12) for k in (0, 0.1))
    (tmp_path / "t.csv").write_text(text)
    run = tmp_path / "run"
    code, _, err = call(capsys, "fit", tmp_path / "t.csv", "--out", run, *quick)
    assert code == 2
    assert "line 3, column 'time': time 0 is repeated (first in line 2)" in err
    assert call(capsys, "fit", tmp_path / "t.csv", "--out", run, *quick, "--replicates", "series")[0] == 0
    assert kept(run)["config"]["id"] == "replicate"
    assert call(capsys, "fit", "--resume", run)[0] == 0
    header, rows_, _ = predict(run, until=12)
    assert header == ["replicate", "time", "x"]
    assert [row[:2] for row in rows_[-1:]] == [["2", "12"]]


def test_a_run_of_before_these_options_goes_on(runs, tmp_path):
    run = tmp_path / "run"
    fit(runs / "a.csv", Config.make(**SETTINGS), run)
    before, old = (run / "model.safetensors").read_bytes(), kept(run)
    for name in ("variable", "value", "replicates", "time_unit", "sheet", "log"):
        del old["config"][name]
    del old["clock"]["zone"]
    (run / "config.json").write_text(json.dumps(old))
    resume(run)
    assert (run / "model.safetensors").read_bytes() == before
    assert predict(run, until=3.0)[0] == ["time", "x", "y"]
