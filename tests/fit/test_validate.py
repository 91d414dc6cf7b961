"""Cross-validation: which rows each fold learns from, how folds are put together, and breaks in the middle."""

import importlib
import json

import numpy as np
import pandas as pd
import pytest
from series import table_of

from isocline.fit import Result, UserError, fit, validate
from isocline.fit.rivals import LAST, LINEAR
from isocline.fit.split import Split
from isocline.fit.validate import pooled

module = importlib.import_module("isocline.fit.validate")
QUICK = {"hidden": (4,), "matching": 20, "iterations": 1, "polish": 4, "starts": 1, "penalty": (1e-2,)}
QUICK |= {"members": 0, "blocks": 0}


def ramp(*lengths):
    """Series of rows that tell their number."""
    return table_of(*((np.arange(n) * 1.0, np.arange(n)[:, None] * 1.0) for n in lengths))


def ends(split):
    """(rows that teach, rows held out to) of every series."""
    return [(len(a.t), len(a.t) + len(b.t)) for a, b in zip(split.train, split.held, strict=True)]


def decays(count=1, n=30):
    t = np.arange(n) * 0.3
    parts = [pd.DataFrame({"run": f"r{k}", "t": t, "x": (1 + k) * np.exp(-0.1 * t)}) for k in range(count)]
    frame = pd.concat(parts)
    return frame if count > 1 else frame.drop(columns="run")


# ---- which rows -------------------------------------------------------------------------------------------------------
def test_rolling_origins_grow_and_what_comes_after_a_block_plays_no_part():
    table = ramp(40, 20)
    folds = [Split.of(table, f"future:{k}/4") for k in (1, 2, 3, 4)]
    assert [ends(s)[0] for s in folds] == [(20, 25), (25, 30), (30, 35), (35, 40)]
    assert [ends(s)[1] for s in folds][::3] == [(10, 12), (18, 20)]
    assert all(s.learned == [True, True] for s in folds)
    for s in folds:
        assert s.held[0].t[0] == s.train[0].t[-1] + 1


def test_a_horizon_is_kept_from_the_first_origin_in_the_middle_to_the_last_before_the_end():
    table = ramp(91)
    assert [ends(Split.of(table, f"future:{k}/3:18"))[0] for k in (1, 2, 3)] == [(46, 64), (59, 77), (73, 91)]
    assert ends(Split.of(table, "future:1/1:18")) == [(73, 91)]
    assert ends(Split.of(ramp(30), "future:1/2:20")) == [(10, 30)]  # longer than half of the record
    assert ends(Split.of(ramp(40, 6), "future:2/2:10")) == [(30, 40), (6, 6)]  # too short to hold out: it teaches


def test_groups_of_series_hold_out_every_series_once():
    table = ramp(*[20] * 7)
    held = [[not yes for yes in Split.of(table, f"fold:{k}/3").learned] for k in (1, 2, 3)]
    assert np.sum(held, 0).tolist() == [1] * 7 and sorted(map(sum, held)) == [2, 2, 3]
    assert Split.of(table, "fold:2/7").learned == [k != 1 for k in range(7)]
    assert ends(Split.of(table, "fold:2/7"))[1] == (5, 20)  # its first rows are seen, to start from


@pytest.mark.parametrize(
    ("hold_out", "says"),
    [
        ("future:3/2", "expected a fold from 1 to 2"),
        ("future:x", "expected a fold and their number"),
        ("future:1/2:0", "a horizon of at least one row"),
        ("future:1/2:38", "horizon of at most 35 rows"),
        ("fold:1/3", "3 folds of 1 series"),
    ],
)
def test_folds_that_there_are_not_are_refused(hold_out, says):
    with pytest.raises(UserError, match=says):
        Split.of(ramp(40), hold_out)


# ---- putting together -------------------------------------------------------------------------------------------------
def score(model, own, n, skipped=0):
    counts = {"x": n, "y": n - skipped}
    rmse = {"x": own, "y": None if n == skipped else 2 * own} if own is not None else {"x": None, "y": None}
    return {
        "model": model,
        "parameters": 3,
        "observations": sum(counts.values()),
        "counts": counts,
        "rmse": rmse,
        "nrmse": own,
    }


def test_errors_of_folds_are_pooled_as_squares_over_all_observations():
    rows = pooled([[score("net", 1.0, 10), score(LAST, 2.0, 10)], [score("net", 3.0, 30), score(LAST, 2.0, 30)]])
    assert [row["model"] for row in rows] == ["net", LAST]
    assert rows[0]["rmse"]["x"] == pytest.approx(np.sqrt((10 * 1 + 30 * 9) / 40))
    assert rows[0]["nrmse"] == pytest.approx(np.sqrt(7)) and rows[0]["skill"] == pytest.approx(1 - np.sqrt(7) / 2)
    assert rows[0]["observations"] == 80


def test_a_column_a_fold_has_not_counts_for_nothing_and_a_lost_forecast_for_all():
    rows = pooled(
        [[score("net", 1.0, 10, skipped=10), score(LAST, 2.0, 10)], [score("net", 3.0, 30), score(LAST, 2.0, 30)]]
    )
    assert rows[0]["rmse"]["y"] == pytest.approx(6.0)
    lost = pooled([[score("net", None, 10), score(LAST, 2.0, 10)], [score("net", 3.0, 30), score(LAST, 2.0, 30)]])
    assert lost[0]["nrmse"] is None and lost[0]["rmse"]["x"] is None and lost[0]["skill"] is None
    only = pooled([[score("net", 1.0, 9), score(LINEAR, 1.0, 9)], [score("net", 1.0, 9)]])
    assert [row["model"] for row in only] == ["net"]  # who is not in every fold is not compared


# ---- whole validations ------------------------------------------------------------------------------------------------
def test_a_fold_is_the_run_that_fit_makes_of_it_and_sees_nothing_later(tmp_path):
    frame = decays()
    found = validate(frame, out=tmp_path / "v", future=2, horizon=5, **QUICK)
    assert [(line["name"], line["trained"], line["held"]) for line in found["folds"]] == [
        ("from 4.5", 15, 5), ("from 7.5", 25, 5),
    ]  # fmt: skip
    changed = frame.copy()
    changed.loc[20:, "x"] *= 3  # after all that the first fold forecasts
    alone = fit(changed, hold_out="future:1/2:5", **QUICK)
    assert alone["scores"] == found["folds"][0]["scores"]
    assert json.loads((tmp_path / "v" / "validation.json").read_text()) == found
    assert Result.read(tmp_path / "v" / "fold-02")["scores"] == found["folds"][1]["scores"]
    assert "over 2 rolling origins" in found["verdict"] and "of 2, compared with" in found["verdict"]
    assert found["skill"][LAST] == pytest.approx(1 - found["scores"][0]["nrmse"] / found["scores"][1]["nrmse"])


def test_a_break_costs_nothing_and_a_fold_that_fails_is_counted(tmp_path, monkeypatch):
    frame, began, out = decays(3, 12), [], tmp_path / "v"

    def notify(what, value):
        if what == "fold":
            began.append(value["name"])

    broken = validate(frame, out=out, series=True, notify=notify, stop=lambda: len(began) > 1, **QUICK)
    assert broken["stopped"] == "interrupted" and len(broken["folds"]) == 1 and began == ["r0", "r1"]
    before = (out / "fold-01" / "report.json").stat().st_mtime_ns
    fit_ = module.fit

    def failing(paths, config, folder, **kwargs):
        if config.hold_out == "series:r2":
            raise ArithmeticError("lost")
        return fit_(paths, config, folder, **kwargs)

    monkeypatch.setattr(module, "fit", failing)
    found = validate(frame, out=out, series=True, **QUICK)
    assert (out / "fold-01" / "report.json").stat().st_mtime_ns == before
    assert [line["failed"] for line in found["folds"]] == [None, None, "ArithmeticError: lost"]
    assert found["failed"] == 1 and "1 of 3 folds failed and counts in none of this" in found["verdict"]
    with pytest.raises(UserError, match="holds a validation with other settings"):
        validate(frame, out=out, series=True, **{**QUICK, "seed": 1})
    with pytest.raises(UserError, match="holds a validation with other folds"):
        validate(frame, out=out, series=True, folds=2, **QUICK)
    with pytest.raises(UserError, match="at most as many"):
        validate(frame, out=out, series=True, folds=4, overwrite=True, **QUICK)
    assert len(list(out.glob("fold-*"))) == 2  # what is refused replaces nothing


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path):
    for options, says in (
        ({"series": True}, "holds one series"),
        ({"series": True, "future": 2}, "without future and horizon"),
        ({"folds": 2}, "expected it with series"),
        ({"future": 0}, "future=0: expected 1 or more"),
        ({"horizon": 100}, "at most 25 rows"),
        ({"hold_out": 0.3}, "validation holds out by itself"),
    ):
        with pytest.raises(UserError, match=says):
            validate(decays(), out=tmp_path / "v", **options, **QUICK)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"every fold failed, the first with: .*--equation"):
        validate(decays(), out=tmp_path / "v", future=2, parameters=("k = 1",), **QUICK)
    assert not (tmp_path / "v" / "validation.json").exists()  # with better settings it can begin
