"""`tune`: what is searched, by what it is judged, and a search that is broken off."""

import importlib.util
import json

import numpy as np
import pytest
from series import csv_of, rotation

from isocline.fit import Config, UserError
from isocline.fit import tune as tuning
from isocline.fit.reading.table import Series
from isocline.fit.run import fit, resume
from isocline.fit.scale import Scales

QUICK = {"matching": 10, "iterations": 1, "polish": 4, "starts": 1, "members": 0, "blocks": 2}
NARROW = {**QUICK, "hidden": (4,), "penalty": (1e-2,), "tune": 3}
installed = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")
T = np.arange(40) * 0.3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(table, folder of a run, its report, what it told of its trials)."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "table.csv").write_text(csv_of(T, rotation(T)))
    seen = []

    def notify(what, value):
        if what == "trial":
            seen.append(value)

    report = fit(folder / "table.csv", Config.make(**NARROW), folder / "run", notify=notify, page=False)
    return folder / "table.csv", folder / "run", report, seen


@installed
def test_what_was_given_is_not_searched_nor_what_means_nothing():
    series = [Series("", T, rotation(T))]
    assert tuning.searched(Config(tune=2), series) == ["hidden", "penalty", "window", "continuity"]
    assert tuning.searched(Config(tune=2, window=7, hidden=(8,)), series) == ["penalty", "continuity"]
    long = [Series("", np.arange(9000) * 0.3, rotation(np.arange(9000) * 0.3))]
    assert "learning_rate" in tuning.searched(Config(tune=2), long)
    law = ("dx0 = -k*x0; dx1 = -k*x1",)
    assert tuning.searched(Config(tune=2, states=("x0", "x1"), equations=law), series) == ["window", "continuity"]
    for settings, says in (
        ({"tune": 1}, "expected 2 trials or more"),
        ({"tune": 2, "blocks": 0}, "expected blocks above 0"),
        (
            {"tune": 2, "hidden": (8,), "penalty": (1.0,), "window": 5, "continuity": 1.0},
            "every setting it could search",
        ),
    ):
        with pytest.raises(UserError, match=says):
            tuning.searched(Config.make(**settings), series)
    with pytest.raises(UserError, match="too short for held-out blocks"):
        tuning.searched(Config(tune=2), [Series("", T[:4], rotation(T)[:4])])


@installed
def test_the_best_settings_are_those_of_the_run(whole):
    _, folder, report, seen = whole
    kept = json.loads((folder / "config.json").read_text())
    found = report["tuning"]
    assert found == kept["tuning"] and found["trials"] == 3 and found["over"] == ["window", "continuity"]
    assert [t["settings"] == {} for t in seen] == [True, False, False] and found["given"] == seen[0]["error"]
    least = min(t["error"] for t in seen)
    if least * 1.03 < found["given"]:
        best = next(t for t in seen if t["error"] == least)
        assert found["settings"] == best["settings"] and found["best"] == least
    else:
        assert found["settings"] == {} and found["best"] == found["given"]
    assert all(kept["config"][name] == value for name, value in found["settings"].items())
    assert report["config"] == kept["config"]


@installed
def test_a_clearly_better_trial_gives_its_settings_and_a_slightly_better_one_none(tmp_path, monkeypatch):
    for better, settings in ((0.5, True), (0.99, False)):
        errors = iter([(1.0, 1e-2), (better, 1e-2), (2.0, 1e-2)])
        monkeypatch.setattr(tuning, "_judged", lambda *args: next(errors))
        (tmp_path / str(better)).mkdir()
        config = Config(**NARROW)
        found = tuning.tune(config, ["window", "penalty"], [], Scales((), 1.0), tmp_path / str(better))
        assert (
            bool(found["settings"]) is settings
            and found["given"] == 1.0
            and found["best"] == (0.5 if settings else 1.0)
        )
        after = tuning.tuned(config, found)
        assert (after == config) is not settings and len(after.penalty) == 1


@installed
def test_the_held_out_end_is_not_looked_at_and_a_broken_search_ends_as_the_unbroken_one(whole, tmp_path):
    _, _, report, seen = whole
    table, run, told = tmp_path / "table.csv", tmp_path / "run", []
    other = rotation(T)
    other[32:] += 5.0  # the fifth that is held out
    table.write_text(csv_of(T, other))

    def notify(what, value):
        if what == "trial":
            told.append(value)

    broken = fit(table, Config.make(**NARROW), run, notify=notify, stop=lambda: len(told) > 1, page=False)
    assert broken["stopped"] == "interrupted" and broken["tuning"] is None and told == seen[:2]
    again = resume(run, notify=notify, page=False)
    assert again["stopped"] == "done" and told == seen
    assert {**again["tuning"], "seconds": 0} == {**report["tuning"], "seconds": 0}
    assert again["scores"] != report["scores"]


def test_without_optuna_one_message_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_text(csv_of(T, rotation(T)))
    monkeypatch.setattr(tuning.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'isocline\[tune\]'"):
        fit(tmp_path / "table.csv", Config.make(**NARROW), tmp_path / "run")
    assert not (tmp_path / "run").exists()
