"""Series that were not learned from: left out as wholes, so that bands tell how far off a new one may be."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from series import rotation, table_of

from isocline.fit import Config, fit, predict, recipe
from isocline.fit.bands import LEVELS, spread_of
from isocline.fit.blocks import without_series
from isocline.fit.choose import LOST, choose
from isocline.fit.fitted import Fitted
from isocline.fit.reading.table import Series
from isocline.fit.recipe import Recipe
from isocline.fit.run import resume
from isocline.fit.scale import Scales
from isocline.fit.unseen import distance, learned_rows, unseen_ratios

T = np.arange(30) * 0.4
QUICK = Config(
    hidden=(4,), matching=40, iterations=4, polish=8, starts=1, members=3, blocks=2, penalty=(1e-2,), hold_out=0.0
)


def of_length(*lengths):
    return table_of(*((np.arange(n) * 0.4, rotation(np.arange(n) * 0.4, phase=n)) for n in lengths)).series


# ---- what is left out -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("count", "groups", "size"), [(1, 0, 0), (2, 2, 1), (3, 3, 1), (4, 3, 1), (12, 3, 3)])
def test_up_to_three_groups_of_series_are_left_out_each_once(count, groups, size):
    series = of_length(*[30] * count)
    folds = without_series(series)
    assert [len(f.blocks) for f in folds] == [size] * groups
    out = [b.id for f in folds for b in f.blocks]
    assert len(set(out)) == len(out)
    for fold in folds:
        assert {s.id for s in fold.taught} == {s.id for s in series} - {b.id for b in fold.blocks}
        for before, block in zip(fold.before, fold.blocks, strict=True):
            assert (len(before.t), len(block.t)) == (7, 23)  # a quarter, as of a series held out by name
            assert before.t[-1] < block.t[0]


def test_a_series_too_short_to_judge_is_learned_from_and_not_left_out():
    series = of_length(30, 6, 30)
    for fold in without_series(series):
        assert "b" in {s.id for s in fold.taught} and "b" not in {b.id for b in fold.blocks}
    assert without_series(of_length(30, 6)) == []


# ---- how far ----------------------------------------------------------------------------------------------------------
def test_a_distance_is_that_of_the_farthest_row_from_its_nearest():
    learned = np.array([[0.0, 0.0], [10.0, 0.0]])
    assert distance(np.array([[1.0, 0.0], [10.0, 2.0]]), learned) == 2.0
    assert distance(learned, learned) == 0.0
    # One of two states is missing: the other counts twice.
    assert distance(np.array([[np.nan, 3.0]]), learned) == pytest.approx(3 * np.sqrt(2))
    assert distance(np.array([[np.nan, np.nan]]), learned) == 0.0
    assert distance(np.empty((0, 2)), learned) == distance(learned, np.empty((0, 2))) == 0.0


def test_a_state_that_is_hidden_has_no_part_in_a_distance():
    learned = np.array([[0.0, np.nan], [10.0, np.nan]])
    assert distance(np.array([[4.0, np.nan]]), learned) == 4.0


def test_of_many_rows_some_stand_for_all():
    t = np.arange(4000) * 0.01
    table = table_of((t, rotation(t)))
    scales = Scales.of(table, table.series, "linear")
    rows = scales.unscaled(learned_rows(table.series, scales))
    assert len(rows) == 2000
    assert rows[0] == pytest.approx(rotation(t)[0]) and rows[-1] == pytest.approx(rotation(t)[-1])


def test_a_path_that_runs_away_counts_as_lost_and_not_as_infinitely_far_off():
    table = table_of((T, rotation(T)), (T, rotation(T, phase=1.0)))
    scales = Scales.of(table, table.series, "linear")
    recipe_ = Recipe(QUICK, table.series, scales)
    networks = recipe_.trainer.objective.network(recipe_.trainer.theta)
    networks.zero_()
    networks[:, -4:] = 400.0 * torch.eye(2, dtype=torch.float64).flatten()
    choice = choose(QUICK, recipe_.folds, scales, recipe_.trainer)
    assert choice.errors == pytest.approx([LOST])
    most = LOST / np.array(choice.noise)
    assert choice.ratios == pytest.approx(np.broadcast_to(most, choice.ratios.shape))
    for ratios in unseen_ratios(choice, recipe_.without, scales, recipe_.trainer):
        assert (ratios < most).all()  # the distance is in the denominator, too


# ---- a run ------------------------------------------------------------------------------------------------------------
def text_of(phases, rows=30):
    rng = np.random.default_rng(0)
    lines = [
        f"{name},{t:.6g},{a:.6g},{b:.6g}"
        for name, phase in phases.items()
        for t, (a, b) in zip(T[:rows], rotation(T, phase=phase) + 0.02 * rng.standard_normal((30, 2)), strict=False)
    ]
    return "\n".join(["id,t,x0,x1", *lines]) + "\n"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    (folder / "t.csv").write_text(text_of({"a": 0.0, "b": 1.5, "c": 3.0}))
    fit(folder / "t.csv", QUICK, folder / "run")
    return folder


def test_a_run_of_several_series_leaves_each_out_in_its_turn_and_says_so(three):
    report = json.loads((three / "run" / "report.json").read_text())
    assert report["bands"]["series"] == 3 and np.shape(report["bands"]["unseen"]) == (2, 2)
    names = [(s["phase"], s["name"]) for s in report["stages"]]
    assert ("leaving out", "whole record") in names
    begun = names.index(("leaving out", "gradient matching"))
    assert names.index(("calibrating", "whole record")) < begun


def test_leaving_series_out_changes_no_model(three, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "without_series", lambda series: [])
    fit(three / "t.csv", QUICK, tmp_path / "run")
    for name in ("model.safetensors", "members.safetensors"):
        one, other = (load_file(folder / name) for folder in (three / "run", tmp_path / "run"))
        assert all(torch.equal(one[k], other[k]) for k in one)
    assert json.loads((tmp_path / "run" / "report.json").read_text())["bands"]["unseen"] is None


def test_a_run_broken_while_series_are_left_out_goes_on_to_the_same_bits(three, tmp_path):
    told = list[str]()

    def stop():
        return told.count("series left out") > 12

    def tell(recipe):
        told.append("series left out" if recipe.choosing and recipe.choice else "other")

    report = fit(three / "t.csv", QUICK, tmp_path / "run", tell=tell, stop=stop)
    assert report["stopped"] == "interrupted"
    assert [s["name"] for s in report["stages"] if s["phase"] == "fitting"] == ["gradient matching"]
    resume(tmp_path / "run")
    for name in ("bands.json", "states.json"):
        assert (tmp_path / "run" / name).read_text() == (three / "run" / name).read_text()


def test_the_bands_of_a_given_state_are_those_of_a_new_series_by_its_distance(three, tmp_path):
    bands = Fitted.read(three / "run").ensemble.bands
    learned = load_file(three / "run" / "members.safetensors")["learned"].numpy()
    scale = json.loads((three / "run" / "config.json").read_text())["scales"]["states"]
    for at in ((4.0, -1.0), (9.0, 5.0)):
        (tmp_path / "start.csv").write_text(f"id,t,x0,x1\nnew,0,{at[0]},{at[1]}\n")
        (tmp_path / "times.csv").write_text("id,t\nnew,0\n")
        _, (row,), _ = predict(three / "run", times=tmp_path / "times.csv", start=tmp_path / "start.csv", bands=True)
        away = distance(np.array([[(v - s["mean"]) / s["sd"] for v, s in zip(at, scale, strict=True)]]), learned)
        low, high = (np.array(row[k : k + 2], dtype=float) for k in (4, 6))
        apart = spread_of(np.array([[[(v - s["mean"]) / s["sd"] for v, s in zip(at, scale, strict=True)]]]), learned)[0]
        half = bands.half_widths(apart, LEVELS[0], away) * [s["sd"] for s in scale]
        assert (high - low) / 2 == pytest.approx(half, rel=1e-6)
    assert away > 2


def test_only_a_series_that_was_held_out_has_a_distance(three, tmp_path):
    fit(three / "t.csv", QUICK.model_copy(update={"hold_out": "series:c"}), tmp_path / "run")
    states = json.loads((tmp_path / "run" / "states.json").read_text())
    assert states["a"]["distance"] is None and states["b"]["distance"] is None
    assert states["c"]["distance"] >= 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    (shown,) = (p for p in report["model_path"] if p["part"] == "forecast")
    run = Fitted.read(tmp_path / "run")
    ensemble, bands, scales = run.ensemble, run.ensemble.bands, run.scales
    assert bands.series == 2 and bands.unseen != bands.factors
    record = Series("c", T[:7], np.genfromtxt(three / "t.csv", delimiter=",", skip_header=61, usecols=(2, 3))[:7])
    away = ensemble.distance(record, scales)
    least = bands.half_widths(np.zeros(2), 0.8, away) * [s.sd for s in scales.states]
    half = (np.array(shown["high80"]) - np.array(shown["low80"])) / 2
    assert (half >= least * (1 - 1e-9)).all()  # as wide as the noise and the distance alone make them, or wider
    assert half.min(0) == pytest.approx(least, rel=0.5)
    assert report["bands"]["held_out"]["80"]["width"] >= 2 * np.mean(least / [s.sd for s in scales.states])
