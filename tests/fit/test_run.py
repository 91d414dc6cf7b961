"""Runs: the same numbers after a break, nothing half-written, nothing learned from what is held out."""

import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from series import csv_of, rotation

from isocline.fit import Config, UserError, fit, resume
from isocline.fit.files import place, write

QUICK = Config(iterations=40, starts=2, window=5)
T = np.arange(60) * 0.3


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "circle.csv"
    path.write_text(csv_of(T, rotation(T) + 0.02 * np.random.default_rng(0).standard_normal((60, 2))))
    return path


def numbers(folder):
    report = json.loads((folder / "report.json").read_text())
    history = {k: v for k, v in report["history"].items() if k != "seconds"}
    return (folder / "model.safetensors").read_bytes(), history, report["scores"], (folder / "states.json").read_bytes()


class After:
    """Stops a run after so many iterations, those of all starts counted."""

    def __init__(self, count):
        self.left = count

    def __call__(self):
        self.left -= 1
        return self.left < 0


# ---- the same numbers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("breaks", [[5], [4, 9, 20]], ids=str)
def test_a_broken_run_goes_on_to_the_same_bits(table, tmp_path, breaks):
    fit(table, QUICK, tmp_path / "straight")
    report = fit(table, QUICK, tmp_path / "broken", stop=After(breaks[0]))
    assert report["stopped"] == "interrupted"
    for count in breaks[1:]:
        resume(tmp_path / "broken", stop=After(count))
    assert resume(tmp_path / "broken")["stopped"] == "iterations"
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "straight")


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_bits(table, tmp_path):
    config = QUICK.model_copy(update={"iterations": 200})
    fit(table, config, tmp_path / "straight")
    code = (
        "import sys, torch; from isocline.fit import Config, fit, loop; loop.SAVE_EVERY = 0.05; torch.set_num_threads(1);"
        "fit(sys.argv[1], Config(iterations=200, starts=2, window=5), sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(table), str(tmp_path / "killed")])
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "report.json").exists()
    assert torch.load(checkpoint, weights_only=True)["iteration"] < 200
    resume(tmp_path / "killed")
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "straight")


def test_a_run_killed_before_its_first_checkpoint_starts_over(table, tmp_path):
    fit(table, QUICK, tmp_path / "run")
    before = numbers(tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").unlink()
    resume(tmp_path / "run")
    assert numbers(tmp_path / "run") == before


def test_a_finished_run_can_be_resumed_and_stays_what_it_is(table, tmp_path):
    config = QUICK.model_copy(update={"patience": 1, "iterations": 200})
    assert fit(table, config, tmp_path / "run")["stopped"] == "early stopping"
    before = numbers(tmp_path / "run")
    resume(tmp_path / "run")
    assert numbers(tmp_path / "run") == before


def test_the_seed_decides(table, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(table, QUICK.model_copy(update={"seed": seed}), tmp_path / name)
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert numbers(tmp_path / "a") != numbers(tmp_path / "c")


def test_what_is_held_out_teaches_nothing(table, tmp_path):
    other = tmp_path / "other.csv"
    y = rotation(T) + 0.02 * np.random.default_rng(0).standard_normal((60, 2))
    y[48:] *= -7
    other.write_text(csv_of(T, y))
    fit(table, QUICK, tmp_path / "a")
    fit(other, QUICK, tmp_path / "b")
    assert numbers(tmp_path / "a")[:2] == numbers(tmp_path / "b")[:2]
    assert numbers(tmp_path / "a")[2] != numbers(tmp_path / "b")[2]


# ---- all kinds of tables ----------------------------------------------------------------------------------------------
def text_of_series(*records):
    rows = [f"{name},{t:.6g},{a:.6g},{b:.6g}" for name, ts, y in records for t, (a, b) in zip(ts, y, strict=True)]
    return "\n".join(["id,t,x0,x1", *rows]).replace("nan", "") + "\n"


def test_irregular_gappy_series_are_fitted_and_one_of_them_held_out(tmp_path):
    rng = np.random.default_rng(1)
    records = []
    for name, n in (("a", 40), ("b", 25), ("c", 31)):
        t = np.cumsum(rng.uniform(0.1, 0.5, n))
        y = rotation(t, phase=n)
        y[rng.random(y.shape) < 0.2] = np.nan
        records.append((name, t, y))
    (tmp_path / "t.csv").write_text(text_of_series(*records))
    report = fit(tmp_path / "t.csv", Config(iterations=150, starts=1, window=5, hold_out="series:b"), tmp_path / "run")
    assert [s["held_out"] for s in report["series"]] == [False, True, False]
    assert {p["id"] for p in report["model_path"]} == {"a", "b", "c"}
    assert "empty cells: masked" in " ".join(report["table"]["notes"])
    by = {s["model"]: s["nrmse"] for s in report["scores"]}
    assert by["neural ODE"] < 0.5 * by["persistence"]
    assert by["linear ODE"] < 0.1


def test_a_single_state_and_a_name_with_html(tmp_path):
    (tmp_path / "t.csv").write_text(
        "t,<script>x</script> [<b>V</b>]\n" + "".join(f"{i},{math.exp(-i / 9):.6f}\n" for i in range(30))
    )
    report = fit(tmp_path / "t.csv", QUICK, tmp_path / "run")
    assert report["phase"] is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script>x" not in page
    assert "&lt;script&gt;x" in page
    assert "<b>V" not in page


def test_the_shortest_table_there_is(tmp_path):
    (tmp_path / "t.csv").write_text("t,x\n0,1\n1,2\n2,4\n3,7\n4,9\n5,12\n6,14\n")
    report = fit(tmp_path / "t.csv", QUICK, tmp_path / "run")
    assert report["scores"][0]["nrmse"] is not None


def test_nothing_held_out(table, tmp_path):
    report = fit(table, QUICK.model_copy(update={"hold_out": 0.0}), tmp_path / "run")
    assert report["scores"] == []
    assert report["verdict"].startswith("Nothing was held out")


def test_a_long_table_is_fitted_on_a_part_of_it(tmp_path):
    t = np.arange(60_000) * 0.1
    (tmp_path / "long.csv").write_text(csv_of(t, rotation(t, 0.0)))
    report = fit(tmp_path / "long.csv", Config(iterations=6, starts=1), tmp_path / "run")
    assert (tmp_path / "run" / "report.json").stat().st_size < 1_000_000
    assert len(report["series"][0]["t"]) <= 2000


# ---- report -----------------------------------------------------------------------------------------------------------
def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def test_the_run_folder_tells_everything(table, tmp_path):
    told = []
    report = fit(
        table, QUICK, tmp_path / "run", notify=lambda what, value: told.append(what), command="isocline fit circle.csv"
    )
    assert told == ["table", "scales", "judging", "report"]
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "checkpoint.pt", "model.safetensors", "states.json", "report.json", "report.html"}
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report
    assert finite(report)
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["sha256"] == report["table"]["sha256"]
    assert kept["config"]["states"] == ["x0", "x1"]
    assert {"isocline", "torch", "python", "created", "command"} <= set(kept)
    history = report["history"]
    assert history["iteration"] == list(range(1, 41))
    assert [i for i, v in zip(history["iteration"], history["valid"], strict=True) if v is not None] == [20, 40]
    (series,) = report["series"]
    assert series["split"] == pytest.approx((T[47] + T[48]) / 2)
    fitted = [p for p in report["model_path"] if p["part"] == "fit"]
    ahead = [p for p in report["model_path"] if p["part"] == "forecast"]
    assert fitted[0]["t"][0] == 0
    assert fitted[-1]["t"][-1] == pytest.approx(T[47])
    assert (ahead[0]["t"][0], ahead[0]["t"][-1]) == (pytest.approx(T[47]), pytest.approx(T[-1]))


# ---- faults -----------------------------------------------------------------------------------------------------------
def test_a_refused_table_leaves_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("t,x\n0,1\n1,abc\n2,3\n3,4\n4,4\n5,4\n")
    with pytest.raises(UserError):
        fit(tmp_path / "t.csv", QUICK, tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_an_earlier_run_is_not_overwritten_unasked(table, tmp_path):
    fit(table, QUICK, tmp_path / "run")
    before = numbers(tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run"):
        fit(table, QUICK, tmp_path / "run")
    assert numbers(tmp_path / "run") == before
    fit(table, QUICK.model_copy(update={"seed": 3}), tmp_path / "run", overwrite=True)
    assert numbers(tmp_path / "run") != before


def test_a_file_in_the_place_of_the_folder(table, tmp_path):
    with pytest.raises(UserError, match="is a file, expected a folder"):
        fit(table, QUICK, table)


def test_changed_data_are_not_resumed_on_and_moved_data_are(table, tmp_path):
    fit(table, QUICK, tmp_path / "run", stop=After(10))
    moved = table.rename(tmp_path / "moved.csv")
    with pytest.raises(UserError, match="no such file"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", moved, stop=After(5))["stopped"] == "interrupted"
    moved.write_text(moved.read_text().replace("\n0.3,", "\n0.31,"))
    with pytest.raises(UserError, match="the table has changed since the run began"):
        resume(tmp_path / "run", moved)


def test_what_is_no_run_cannot_be_resumed(tmp_path):
    with pytest.raises(UserError, match="not a run"):
        resume(tmp_path)


def test_a_file_is_whole_or_not_there(tmp_path):
    write(tmp_path / "a.txt", "before")

    def fails(aside):
        aside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        place(tmp_path / "a.txt", fails)
    assert (tmp_path / "a.txt").read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


# ---- configuration ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iteration": 5}, "no setting 'iteration'; did you mean 'iterations'"),
        ({"iterations": 0}, "iterations=0: .*greater than or equal to 1"),
        ({"scale": "cubic"}, "scale='cubic': .*'auto', 'linear' or 'log'"),
        ({"hold_out": 0.95}, "hold_out=0.95: expected a share"),
        ({"hold_out": "b"}, "hold_out='b': expected a share such as 0.2, or series:NAME"),
        ({"hidden": (0,)}, "hidden"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        Config.make(**settings)


def test_a_configuration_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3
