"""Runs that are interrupted, killed, resumed and asked for forecasts."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pages
import pytest
import torch
from test_bad_input import QUICK, call, rows

from isocline.fit import Config, fit, resume


def quiet(**more):
    return {"tell": lambda trainer: None, "notify": lambda what, value: None, **more}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(rows(60))
    return path


def state(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def command(*tokens):
    return [sys.executable, "-c", "from isocline.cli import main; main()", *map(str, tokens)]


def started(table, run, *more):
    """A long run in a process of its own, once it has saved a checkpoint."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command("fit", table, "--out", run, *QUICK, "--iterations", 200000, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
    )
    until = time.monotonic() + 120
    while not (run / "checkpoint.pt").exists():
        assert process.poll() is None and time.monotonic() < until, process.stdout.read().decode()
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("more", [(), ("--lags", "2")], ids=["states", "lags"])
def test_a_killed_run_resumes_from_its_last_checkpoint(table, tmp_path, more):
    run = tmp_path / "run"
    process = started(table, run, *more)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = len(state(run)["trainer"]["history"]["misfit"])
    assert reached > 0 and not (run / "report.json").exists()
    kept = json.loads((run / "config.json").read_text())
    kept["config"]["iterations"] = 1
    (run / "config.json").write_text(json.dumps(kept))
    report = resume(run, **quiet())
    assert report["stopped"] == "done"
    assert report["stages"][0] == {**report["stages"][0], "phase": "choosing", "name": "gradient matching", "steps": 40}


def test_ctrl_c_saves_and_says_how_to_go_on(table, tmp_path):
    run = tmp_path / "run"
    process = started(table, run)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 130, out
    assert "--resume" in out and "Traceback" not in out
    assert (run / "report.html").exists() and (run / "model.safetensors").exists()


def test_a_changed_table_is_not_resumed(table, tmp_path, capsys):
    fit(table, Config.make(**Config.read(QUICK[1])), tmp_path / "run", **quiet(stop=lambda: False))
    table.write_text(rows(61))
    code, _, err = call(capsys, "fit", "--resume", tmp_path / "run")
    assert code == 2 and "changed" in err


def test_a_run_is_not_overwritten_without_being_asked(table, tmp_path, capsys):
    run = tmp_path / "run"
    assert call(capsys, "fit", table, "--out", run, *QUICK)[0] == 0
    code, _, err = call(capsys, "fit", table, "--out", run, *QUICK)
    assert code == 2 and "--resume" in err
    assert call(capsys, "fit", table, "--out", run, *QUICK, "--overwrite")[0] == 0


def test_forecasts(table, tmp_path, capsys):
    run = tmp_path / "run"
    assert call(capsys, "fit", table, "--out", run, *QUICK)[0] == 0
    assert call(capsys, "predict", run, "--until", 18)[0] == 0
    with (run / "prediction.csv").open() as file:
        lines = list(csv.reader(file))
    times = [float(line[0]) for line in lines[1:]]
    assert lines[0] == ["time", "x", "y"] and times[0] == pytest.approx(15.0) and times[-1] == pytest.approx(18.0)
    (tmp_path / "times.csv").write_text("time\n15.1\n16.05\n17.3\n")
    (tmp_path / "from.csv").write_text("time,x,y\n15.0,0.5,0.2\n")
    out = tmp_path / "p.csv"
    tokens = ["predict", run, "--times", tmp_path / "times.csv", "--from", tmp_path / "from.csv", "--out", out]
    assert call(capsys, *tokens)[0] == 0
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["time", "15.1", "16.05", "17.3"]
    for bad, says in (
        (["--until", "1"], "after"),
        ([], "--until"),
        (["--until", "18", "--times", tmp_path / "times.csv"], "--until"),
        (["--times", tmp_path / "nowhere.csv"], "no such file"),
        (["--times", table], "before"),
    ):
        code, _, err = call(capsys, "predict", run, *bad)
        assert code == 2 and says in err, err


def test_several_series_and_a_held_out_one(tmp_path, capsys):
    lines = ["run,time [s],level [V]"]
    for name in "abc":
        lines += [f"{name},{0.3 * i:.2f},{(2 + 0.1 * ord(name)) * 0.95**i:.5f}" for i in range(25)]
    table = tmp_path / "runs.csv"
    table.write_text("\n".join(lines))
    run = tmp_path / "out"
    code, _, err = call(capsys, "fit", table, "--out", run, *QUICK, "--hold-out", "series:c")
    assert code == 0, err
    report = json.loads((run / "report.json").read_text())
    assert report["table"]["id"] == "run" and report["table"]["states"][0]["unit"] == "V"
    assert [s["held_out"] for s in report["series"]] == [False, False, True]
    assert {row["model"] for row in report["scores"]} == {
        "neural ODE", "persistence", "mean", "linear ODE", "autoregression",
    }  # fmt: skip
    assert report["verdict"] in pages.page(run / "report.html") or "&" in pages.page(run / "report.html")


@pytest.mark.slow
def test_a_million_rows(tmp_path, capsys):
    import numpy as np

    t = np.arange(1_000_000) * 0.01
    np.savetxt(
        tmp_path / "long.csv",
        np.stack([t, np.sin(t), np.cos(t)], 1),
        delimiter=",",
        header="t,x,y",
        comments="",
        fmt="%.6g",
    )
    began = time.monotonic()
    code, _, err = call(capsys, "fit", tmp_path / "long.csv", "--out", tmp_path / "run", *QUICK)
    assert code == 0, err
    assert len(pages.page(tmp_path / "run" / "report.html")) < 3_000_000
    assert time.monotonic() - began < 300
