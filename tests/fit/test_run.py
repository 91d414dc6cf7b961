"""Runs: the same numbers after a break, nothing half-written, nothing learned from what is held out."""

import json
import math
import signal
import subprocess
import sys

import numpy as np
import pages
import pytest
import torch
from series import csv_of, rotation

from isocline.fit import Config, UserError, fit, resume
from isocline.fit.files import place, write

QUICK = Config(hidden=(8,), matching=30, iterations=4, polish=8, starts=2, members=3, blocks=2, penalty=(1e-4, 1e-2))
T = np.arange(60) * 0.3


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "circle.csv"
    path.write_text(csv_of(T, rotation(T) + 0.02 * np.random.default_rng(0).standard_normal((60, 2))))
    return path


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What the unbroken run says."""
    folder = tmp_path_factory.mktemp("straight")
    path = folder / "circle.csv"
    path.write_text(csv_of(T, rotation(T) + 0.02 * np.random.default_rng(0).standard_normal((60, 2))))
    fit(path, QUICK, folder / "run")
    return numbers(folder / "run")


def numbers(folder):
    report = json.loads((folder / "report.json").read_text())
    history = {k: v for k, v in report["history"].items() if k != "seconds"}
    files = [(folder / name).read_bytes() for name in ("model.safetensors", "members.safetensors", "bands.json")]
    return files, (history, report["chosen"]), report["scores"], (folder / "states.json").read_bytes()


class After:
    """Stops a run after so many iterations, those of all starts counted."""

    def __init__(self, count):
        self.left = count

    def __call__(self):
        self.left -= 1
        return self.left < 0


# ---- the same numbers -------------------------------------------------------------------------------------------------
# The candidates take 40 steps or so and the final training 58: breaks in the first and in the last stages of both.
@pytest.mark.parametrize("breaks", [[5], [35, 25, 30], [94]], ids=str)
def test_a_broken_run_goes_on_to_the_same_bits(table, straight, tmp_path, breaks):
    report = fit(table, QUICK, tmp_path / "broken", stop=After(breaks[0]))
    assert report["stopped"] == "interrupted"
    for count in breaks[1:]:
        assert resume(tmp_path / "broken", stop=After(count))["stopped"] == "interrupted"
    assert resume(tmp_path / "broken")["stopped"] == "done"
    assert numbers(tmp_path / "broken") == straight


KILLS_ITSELF = """
import os, signal, sys
import torch
from isocline.fit import Config, fit, recipe

save = recipe.Recipe.save

def last(self, seconds):
    save(self, seconds)
    os.kill(os.getpid(), signal.SIGKILL)

recipe.SAVE_EVERY, recipe.Recipe.save = 0.05, last
torch.set_num_threads(1)
fit(sys.argv[1], Config.make(**eval(sys.argv[2])), sys.argv[3])
"""


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_bits(table, tmp_path):
    fit(table, QUICK.model_copy(update={"iterations": 30}), tmp_path / "straight")
    settings = repr(QUICK.model_dump() | {"iterations": 30})
    command = [sys.executable, "-c", KILLS_ITSELF, str(table), settings, str(tmp_path / "killed")]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "report.json").exists()
    checkpoint = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)
    assert checkpoint["choice"] is None  # still choosing
    resume(tmp_path / "killed")
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "straight")


def test_a_run_killed_before_its_first_checkpoint_starts_over(table, straight, tmp_path):
    fit(table, QUICK, tmp_path / "run", stop=After(3))
    (tmp_path / "run" / "checkpoint.pt").unlink()
    resume(tmp_path / "run")
    assert numbers(tmp_path / "run") == straight


def test_a_finished_run_can_be_resumed_and_stays_what_it_is(table, tmp_path):
    assert fit(table, QUICK, tmp_path / "run")["stopped"] == "done"
    before = numbers(tmp_path / "run")
    resume(tmp_path / "run")
    assert numbers(tmp_path / "run") == before


def test_the_seed_decides(table, straight, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        fit(table, QUICK.model_copy(update={"seed": seed}), tmp_path / name)
    assert numbers(tmp_path / "a") == straight
    assert numbers(tmp_path / "b") != straight


def test_what_is_held_out_teaches_nothing(straight, tmp_path):
    other = tmp_path / "other.csv"
    y = rotation(T) + 0.02 * np.random.default_rng(0).standard_normal((60, 2))
    y[48:] *= -7
    other.write_text(csv_of(T, y))
    fit(other, QUICK, tmp_path / "b")
    assert numbers(tmp_path / "b")[:2] == straight[:2]
    assert numbers(tmp_path / "b")[2] != straight[2]


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
    report = fit(
        tmp_path / "t.csv",
        Config(matching=100, iterations=20, polish=30, starts=1, members=0, blocks=0, hold_out="series:b"),
        tmp_path / "run",
    )
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
    page = pages.page(tmp_path / "run" / "report.html")
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
    report = fit(
        tmp_path / "long.csv",
        Config(matching=10, iterations=1, polish=1, starts=1, members=0, blocks=0),
        tmp_path / "run",
    )
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
    assert names == {
        "config.json", "checkpoint.pt", "model.safetensors", "members.safetensors", "bands.json", "states.json",
        "report.json", "report.html",
    }  # fmt: skip
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report
    assert finite(report)
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["sha256"] == report["table"]["sha256"]
    assert kept["config"]["states"] == ["x0", "x1"]
    assert {"isocline", "torch", "python", "created", "command"} <= set(kept)
    history = report["history"]
    assert history["iteration"] == list(range(31, 31 + len(history["train"])))
    assert list(dict.fromkeys(history["stage"])) == [f"windows of {5 * 2**k}" for k in range(5)] + ["whole record"]
    stages = [(s["phase"], s["name"]) for s in report["stages"]]
    assert stages[0] == ("choosing", "gradient matching") and stages[-1] == ("fitting", "whole record")
    assert sum(s["seconds"] for s in report["stages"]) <= report["seconds"]
    assert report["chosen"]["blocks"] == 2
    assert report["chosen"]["penalty"] in [e["penalty"] for e in report["chosen"]["errors"]] == [1e-4, 1e-2]
    assert report["bands"]["members"] == 3 and set(report["bands"]["coverage"]) == {"80", "95"}
    (series,) = report["series"]
    assert series["split"] == pytest.approx((T[47] + T[48]) / 2)
    fitted = [p for p in report["model_path"] if p["part"] == "fit"]
    ahead = [p for p in report["model_path"] if p["part"] == "forecast"]
    assert fitted[0]["t"][0] == 0
    assert fitted[-1]["t"][-1] == pytest.approx(T[47])
    assert all(
        low <= middle <= high
        for bounds in (("low80", "high80"), ("low95", "high95"))
        for low, middle, high in zip(ahead[0][bounds[0]][9], ahead[0]["y"][9], ahead[0][bounds[1]][9], strict=True)
    )
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
        ({"iterations": -1}, "iterations=-1: .*greater than or equal to 0"),
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
