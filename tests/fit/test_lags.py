"""Delay coordinates: earlier values as states, nothing of what is held back among them, and only the states themselves scored."""

import importlib.util
import json

import numpy as np
import pages
import pytest
from series import csv_of, table_of

from isocline.fit import Config, UserError, compare, export, fit, predict
from isocline.fit.blocks import folds
from isocline.fit.forecast import anchor
from isocline.fit.reading.lags import Lags, delayed, past
from isocline.fit.reading.table import Series
from isocline.fit.run import fit as begin
from isocline.fit.run import resume
from isocline.fit.scale import Scales
from isocline.fit.split import Split
from isocline.fit.windows import Record

QUICK = {
    "hidden": (8,), "matching": 60, "iterations": 4, "polish": 10, "starts": 1, "members": 3, "blocks": 2, "penalty": (1e-2,),
}  # fmt: skip


def swings(n=120, step=0.15, start=2.0):
    """(n, 1) angles of a pendulum that nobody has measured the velocity of."""
    y, out = np.array([start, 0.0]), []
    slope = lambda y: np.array([y[1], -np.sin(y[0]) - 0.05 * y[1]])
    for _ in range(n):
        out.append(y[0])
        a = slope(y)
        b = slope(y + step / 2 * a)
        c = slope(y + step / 2 * b)
        y = y + step / 6 * (a + 2 * b + 2 * c + slope(y + step * c))
    return np.array(out)[:, None]


def pendulum(n=120, step=0.15):
    return table_of((np.arange(n) * step, swings(n, step)))


# ---- columns ----------------------------------------------------------------------------------------------------------
def test_earlier_values_are_the_column_moved_down():
    t, y = np.arange(8.0) / 2, np.arange(16.0).reshape(8, 2)
    table = delayed(table_of((t, y)), Lags.of("2:2"))
    (s,) = table.series
    assert [c.header for c in table.states] == ["x0", "x1", "x0 (t - 1)", "x1 (t - 1)", "x0 (t - 2)", "x1 (t - 2)"]
    assert [c.header for c in table.own] == ["x0", "x1"]
    assert s.lags == (1.0, 2.0) and s.width == 2 and s.first == 4
    np.testing.assert_array_equal(s.y[4:], np.concatenate([y[4:], y[2:6], y[:4]], 1))
    np.testing.assert_array_equal(np.isnan(s.y[:, 2:4]).all(1), [True] * 2 + [False] * 6)
    np.testing.assert_array_equal(s.own.y, y)
    assert "every state also 1 and 2 before" in table.notes[-1]


def test_rows_and_time_say_the_same():
    t = np.arange(9.0) * 0.02
    by_rows, by_time = (delayed(table_of((t, swings(9))), Lags.of(text)).series[0] for text in ("1:4", "1:0.08"))
    assert by_rows.lags == by_time.lags == (0.08,)
    np.testing.assert_array_equal(by_rows.y, by_time.y)


def test_an_empty_cell_or_a_missing_row_leaves_the_earlier_value_empty():
    t, y = np.arange(40.0), swings(40)
    y[10] = np.nan
    keep = np.arange(40) != 20
    (s,) = delayed(table_of((t[keep], y[keep])), Lags.of("1:3")).series
    empty = s.t[np.isnan(s.y[:, 1])]
    assert empty.tolist() == [0.0, 1.0, 2.0, 13.0, 23.0]


def test_months_are_equal_enough():
    days = np.cumsum(np.tile([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], 4)).astype(float)
    (s,) = delayed(table_of((days, swings(48))), Lags.of("2:1")).series
    np.testing.assert_array_equal(s.y[2:, 1:], np.concatenate([swings(48)[1:-1], swings(48)[:-2]], 1))


def test_a_short_series_is_left_out_and_said_to_be():
    table = table_of((np.arange(30.0), swings(30)), (np.arange(5.0), swings(5)))
    found = delayed(table, Lags.of("2:3"))
    assert [s.id for s in found.series] == ["a"]
    assert any("left out: 1 series too short" in note for note in found.notes)


@pytest.mark.parametrize("text", ["", "0", "2:", "2:0", "2:0.0", "2:-1", "x", "1.5", "2:nan", "2:1e999", "2:x"])
def test_other_words_are_refused(text):
    with pytest.raises(UserError, match="expected K or K:SPACING"):
        Config.make(lags=text)


@pytest.mark.parametrize(
    ("t", "text", "words"),
    [
        (
            np.arange(30.0) ** 1.5,
            "2:1",
            "expects equally spaced rows, and here steps go from 1 to 8.0.*--hidden-states",
        ),
        (np.arange(30.0), "2:0.1", "shorter than the usual step of 1"),
        (np.arange(30.0), "2:20", "too short for values 40 before"),
    ],
)
def test_a_table_without_earlier_values_is_refused(t, text, words):
    with pytest.raises(UserError, match=words):
        delayed(table_of((t, swings(30))), Lags.of(text))


def test_columns_that_are_never_measured_together_are_refused():
    y = np.concatenate([swings(30), swings(30)], 1)
    y[::2, 0] = y[1::2, 1] = np.nan
    with pytest.raises(UserError, match="no two rows have all of their earlier values, as cells are empty"):
        delayed(table_of((np.arange(30.0), y)), Lags.of("1:1"))


def test_a_training_part_without_earlier_values_is_refused(tmp_path):
    (tmp_path / "swing.csv").write_text(csv_of(np.arange(20.0), swings(20)))
    with pytest.raises(UserError, match="fewer than 5 rows to learn from have values 14 before them"):
        fit(tmp_path / "swing.csv", Config.make(**QUICK, lags="2:7"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_series_too_short_for_its_earlier_values_teaches_nothing():
    table = delayed(pendulum(40), Lags.of("2:4"))
    scales = Scales.of(table, table.series, "linear")
    record = Record.of([table.series[0].rows(slice(7)), table.series[0]], scales, 5)
    assert set(record.series) == {1}


def test_what_a_setting_excludes():
    with pytest.raises(UserError, match="beside hidden_states; expected one of them"):
        Config.make(lags="2", hidden_states=1)
    with pytest.raises(UserError, match="beside doses"):
        Config.make(lags="2", doses=("amt",))
    with pytest.raises(UserError, match="beside equations; expected one of them"):
        Config.make(lags="2", equations=("dx = -x",))


# ---- nothing held back is seen ----------------------------------------------------------------------------------------
def test_the_pieces_around_a_block_hold_nothing_of_it():
    """Every value is its time, so that each cell tells where it is from."""
    t = np.arange(60.0)
    (s,) = delayed(table_of((t, t[:, None])), Lags.of("2:3")).series
    for fold in folds([s], 4):
        held = set(fold.blocks[0].t.tolist())
        assert held and not np.isnan(fold.blocks[0].y).any()
        for piece in fold.taught:
            assert not held & set(piece.y[~np.isnan(piece.y)].tolist())


def test_training_begins_where_earlier_values_are_known():
    table = delayed(pendulum(), Lags.of("2:4"))
    scales = Scales.of(table, table.series, "linear")
    record = Record.of(table.series, scales, 5)
    assert record.begin[0] == pytest.approx(8 * 0.15) and not np.isnan(record.y[0]).any()
    assert not record.hidden.any()
    assert len(set(scales.states)) == 1  # an earlier value has the scale of what it is a value of


def test_a_forecast_starts_from_rows_with_earlier_values():
    table = delayed(pendulum(20), Lags.of("2:4"))
    scales = Scales.of(table, table.series, "linear")
    assert anchor(table.series[0], scales).t[0] == pytest.approx(8 * 0.15)
    split = Split.of(delayed(table_of(*[(np.arange(50.0), swings(50))] * 3), Lags.of("2:4")), "series:b")
    assert len(split.train[1].t) == 12  # of which the last are complete
    assert split.train[1].complete


# ---- a run ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lags")
    (folder / "swing.csv").write_text(csv_of(np.arange(120) * 0.15, swings()))
    result = fit(folder / "swing.csv", Config.make(**QUICK, lags="2:4"), folder / "run")
    return folder, result


def test_only_the_states_themselves_are_scored_and_told(run):
    folder, report = run
    assert report["config"]["lags"] == "2:0.6" and report["config"]["states"] == ["x0"]
    assert [s["name"] for s in report["table"]["states"]] == ["x0"]
    assert all(list(row["rmse"]) == ["x0"] and row["observations"] == 24 for row in report["scores"])
    assert [len(v) for v in (report["residuals"]["sd"], report["residuals"]["like_noise"])] == [3, 3]
    assert report["residuals"]["sd"][1:] == [None, None]
    assert report["phase"]["axes"] == [0, 1] and report["phase"]["y"] == "x0 (t - 0.6)"
    assert any("delay coordinates" in note for note in report["table"]["notes"])
    # One angle alone does not tell where it goes.
    assert report["scores"][0]["nrmse"] < 0.2 * report["scores"][1]["nrmse"]
    assert "x0 (t - 0.6)" in pages.page(folder / "run" / "report.html")


def test_a_run_with_lags_and_one_without_compare(run):
    folder, _ = run
    fit(folder / "swing.csv", Config.make(**QUICK), folder / "plain")
    told = compare([folder / "run", folder / "plain"])
    assert told["measure"] == "nrmse" and told["best"] == "run"


def test_predict_tells_the_states_alone_and_starts_from_a_record(run):
    folder, _ = run
    header, rows, lost = predict(folder / "run", until="21", bands=True)
    assert header == ["t", "x0", "x0 low80", "x0 high80", "x0 low95", "x0 high95"] and not lost
    truth = swings(141)[120:, 0]
    assert np.abs([row[1] for row in rows] - truth).max() < 0.5
    later = np.arange(40) * 0.15
    (folder / "more.csv").write_text(csv_of(later, swings(40, start=1.5)))
    header, rows, _ = predict(folder / "run", until="7.5", start=folder / "more.csv")
    assert header == ["t", "x0"]
    assert np.abs([row[1] for row in rows] - swings(51, start=1.5)[40:, 0]).max() < 0.5
    (folder / "few.csv").write_text(csv_of(later[:6], swings(6)))
    with pytest.raises(UserError, match=r"no row has values 0.6, 1.2 before it; .*reaches back 1.2 in t"):
        predict(folder / "run", until="2", start=folder / "few.csv")


def test_an_exported_model_names_its_earlier_values(run):
    folder, _ = run
    assert "x0 (t - 0.6)" in export(folder / "run", "c")
    weights = export(folder / "run", "safetensors")
    size = int.from_bytes(weights[:8], "little")
    told = json.loads(weights[8 : 8 + size])["__metadata__"]
    assert json.loads(told["states"]) == ["x0", "x0 (t - 0.6)", "x0 (t - 1.2)"]


def test_without_a_spacing_all_of_them_span_a_sixth_of_an_oscillation(tmp_path):
    (tmp_path / "swing.csv").write_text(csv_of(np.arange(120) * 0.15, swings()))
    settings = {**QUICK, "iterations": 1, "polish": 0, "blocks": 0, "members": 0, "lags": "2"}
    report = fit(tmp_path / "swing.csv", Config.make(**settings), tmp_path / "run")
    lags = Lags.of(report["config"]["lags"])
    assert lags.count == 2
    # A swing of 2 rad takes 2 pi times 1.2 or so.
    assert 0.3 <= lags.time <= 0.75


def test_a_record_in_parts_has_its_own_earlier_values():
    s = Series("", np.arange(10.0), np.arange(10.0)[:, None])
    whole = past(s, (2.0,), 1.0)
    assert whole.rows(slice(5, None)).y[0, 1] == 3.0
    np.testing.assert_array_equal(whole.rows(slice(5, None)).cut_off.y[:, 1], [np.nan, np.nan, 5.0, 6.0, 7.0])


# ---- a run that is broken off, and a search ---------------------------------------------------------------------------
BRIEF = {**QUICK, "matching": 10, "iterations": 1, "polish": 4, "members": 0}


def dated(tmp_path):
    """Days of two pendulums that are pushed, and how long each is: an id, dates, an input, a covariate."""
    lines = ["pendulum,date,angle,push,length"]
    for name, start in (("a", 2.0), ("b", 1.5)):
        days = np.datetime64("2024-01-01") + np.arange(60)
        lines += [
            f"{name},{day},{angle:.6f},{np.sin(k / 9):.4f},{start}"
            for k, (day, angle) in enumerate(zip(days, swings(60, start=start)[:, 0], strict=True))
        ]
    (tmp_path / "dated.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "dated.csv", {"inputs": ("push",), "covariates": ("length",)}


def single(tmp_path):
    (tmp_path / "swing.csv").write_text(csv_of(np.arange(120) * 0.15, swings()))
    return tmp_path / "swing.csv", {}


@pytest.mark.parametrize(("table", "lags"), [(single, "2:4"), (dated, "2")])
def test_a_broken_run_ends_as_the_unbroken_one(tmp_path, table, lags):
    path, more = table(tmp_path)
    config, steps = Config.make(**BRIEF, **more, lags=lags), [0]

    def count(recipe):
        steps[0] += 1

    whole = begin(path, config, tmp_path / "whole", tell=count, page=False)
    half, steps[0] = steps[0] // 2, 0
    broken = begin(path, config, tmp_path / "broken", tell=count, stop=lambda: steps[0] >= half, page=False)
    assert broken["stopped"] == "interrupted" and steps[0] == half
    again = resume(tmp_path / "broken", tell=count, page=False)
    assert again["stopped"] == "done" and again["config"] == whole["config"]
    for name in ("scores", "bands", "residuals", "fit"):
        assert json.dumps(again.get(name)) == json.dumps(whole.get(name))


@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")
def test_a_search_with_earlier_values_goes_on_too(tmp_path):
    path, _ = single(tmp_path)
    config, told = Config.make(**BRIEF, lags="2", tune=2), []

    def notify(what, value):
        if what == "trial":
            told.append(value["error"])

    whole = begin(path, config, tmp_path / "whole", notify=notify, page=False)
    errors, told[:] = list(told), []
    begin(path, config, tmp_path / "broken", notify=notify, stop=lambda: len(told) > 0, page=False)
    again = resume(tmp_path / "broken", notify=notify, page=False)
    assert told == errors and len(told) == 2 and again["scores"] == whole["scores"]


def test_where_what_looks_back_is_better_earlier_values_are_advised(tmp_path):
    (tmp_path / "swing.csv").write_text(csv_of(np.arange(120) * 0.15, swings()))
    advice = "What went before seems to tell more than what is: --lags 2 gives the network earlier values, too."
    now = begin(tmp_path / "swing.csv", Config.make(**QUICK, season="none"), tmp_path / "now")
    assert now["verdict"].endswith(advice)
    before = begin(tmp_path / "swing.csv", Config.make(**QUICK, season="none", lags="2"), tmp_path / "before")
    assert advice not in before["verdict"]
