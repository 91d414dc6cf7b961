"""`isocline bench fit`: lines that a break cannot spoil, tables that count what failed, sets in which nothing leaks."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isocline.bench import fitting, table
from isocline.bench.fitting import append, read, run
from isocline.bench.sets import SETS, DataSet, Task, error, located, named, spread
from isocline.fit import UserError
from isocline.fit.judge import NEURAL
from isocline.fit.reading.table import Series
from isocline.fit.rivals import AUTO, LAST, LINEAR, MEAN, SEASON

QUICK = {"hidden": (4,), "matching": 20, "iterations": 0, "polish": 4, "starts": 1, "penalty": (1e-2,), "blocks": 0}
T = np.arange(40) * 0.25


def decay(path):
    y = np.exp(-0.2 * T)[:, None]
    frame = pd.DataFrame({"time": T[:30], "x": y[:30, 0]})
    yield Task("", frame, [Series("", T[:30], y[:30])], [(T[30:], y[30:])], {"members": 0})


DECAY = DataSet("decay", "a curve", "", decay)


# ---- running ----------------------------------------------------------------------------------------------------------
def test_a_run_goes_on_where_it_was_broken_off_and_misses_no_seed(tmp_path):
    out, told = tmp_path / "deep" / "fit.jsonl", []
    lines = run([DECAY], 1, out, tell=told.append, settings=QUICK)
    assert len(lines) == 1 and told[0].startswith("decay, seed 0: error")
    (line,) = read(out)
    assert line == lines[0] and line["compared"] == 10 and not line["failed"]
    y = np.exp(-0.2 * T)
    by_hand = np.sqrt(np.mean((y[30:] - y[29]) ** 2)) / y[:30].std()
    assert line["error"][LAST] == pytest.approx(by_hand) and line["error"][AUTO] < 1e-6
    with out.open("a") as file:
        file.write('{"set": "decay", "pa')  # a break in the middle of a line
    lines = run([DECAY], 2, out, tell=told.append, settings=QUICK)
    assert [line["seed"] for line in lines] == [0, 1] and len(told) == 2
    assert [line["seed"] for line in map(json.loads, out.read_text().splitlines())] == [0, 1]


def test_a_fit_that_is_refused_is_a_failure_and_not_the_end(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise UserError("no")

    monkeypatch.setattr(fitting, "fit", refuse)
    (line,) = run([DECAY], 1, tmp_path / "fit.jsonl", tell=lambda text: None)
    assert line["failed"] and line["why"] == "no"
    (row,) = _summary(monkeypatch, [line])
    assert row["failed"] == 1 and row["error"] == [None] * 3


def test_parts_with_one_table_share_a_fit(tmp_path, monkeypatch):
    calls, fit = [], fitting.fit

    def counted(*args, **kwargs):
        calls.append(args)
        return fit(*args, **kwargs)

    def two(path):
        (task,) = decay(path)
        yield task
        yield replace(task, part="again", later=[(t[:4], y[:4]) for t, y in task.later])

    monkeypatch.setattr(fitting, "fit", counted)
    lines = run([replace(DECAY, tasks=two)], 1, tmp_path / "fit.jsonl", tell=lambda text: None, settings=QUICK)
    assert [(line["part"], line["compared"]) for line in lines] == [("", 10), ("again", 4)] and len(calls) == 1
    run([DECAY], 2, tmp_path / "fit.jsonl", tell=lambda text: None, settings=QUICK)
    assert len(calls) == 2  # of the second seed alone


def test_bands_are_judged_by_what_is_measured_and_errors_by_the_truth(tmp_path):
    def both(path):
        (task,) = decay(path)
        noisy = task.train.assign(x=task.train["x"] + 0.1 * np.random.default_rng(0).standard_normal(30))
        task = replace(task, train=noisy, settings={"members": 3})
        yield task
        yield replace(task, part="far off", measured=[y + 100.0 for _, y in task.later])

    settings = {**QUICK, "matching": 100, "polish": 40}
    truth, far = run([replace(DECAY, tasks=both)], 1, tmp_path / "f", tell=lambda text: None, settings=settings)
    assert far["error"] == truth["error"]
    assert far["inside"] == {"80": 0.0, "95": 0.0} and truth["inside"]["95"] > 0.5


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "fit.jsonl"
    append(path, {"a": 1})
    path.write_text("{\n" + path.read_text())
    with pytest.raises(UserError, match="line 1: not a line of this benchmark"):
        read(path)


def test_sets_that_are_not_there_are_left_out_with_a_line(tmp_path):
    told = []
    lines = run([DataSet("gone", "", "gone.csv", decay), DECAY], 1, tmp_path / "f", tmp_path, told.append, QUICK)
    assert len(lines) == 1 and "left out: gone: gone.csv: not at" in told[0] and "--data" in told[0]
    with pytest.raises(UserError, match="no data set is there"):
        run([DataSet("gone", "", "gone.csv", decay)], 1, tmp_path / "g", tmp_path, told.append)
    with pytest.raises(UserError, match="no data set 'moon'; there are lynx and hare"):
        named(["moon"])
    assert [s.name for s in named(["PENDULUM"])] == ["double pendulum", "free-swing pendulum"]


# ---- the table --------------------------------------------------------------------------------------------------------
def _summary(monkeypatch, lines):
    monkeypatch.setattr(table, "SETS", (DECAY,))
    return table.summarized(lines)


def made(part, seed, own, inside=0.8):
    errors = {NEURAL: own, LAST: 1.0, MEAN: 0.5, LINEAR: None}
    return {
        "set": "decay", "part": part, "seed": seed, "error": errors, "failed": own is None, "seconds": 10.0 + seed,
        "inside": {"80": inside, "95": 1.0},
    }  # fmt: skip


def test_the_table_has_medians_over_seeds_of_means_over_parts(monkeypatch, tmp_path):
    lines = [made(p, s, 0.1 * (s + 1) + (0.2 if p == "b" else 0.0)) for s in range(3) for p in "ab"]
    lines.append(made("a", 3, 9.0))  # a seed that was broken off
    (row,) = _summary(monkeypatch, lines)
    assert (row["parts"], row["seeds"], row["failed"]) == (2, 3, 0)
    assert row["error"] == pytest.approx([0.2, 0.3, 0.3], abs=0.11) and row["error"][1] == pytest.approx(0.3)
    assert row["rivals"][LAST] == 1.0 and row["rivals"][LINEAR] is None and row["rivals"][SEASON] is None
    table.write_tables(lines, tmp_path, "isocline bench fit", "2026-11-26")
    text = (tmp_path / "fit.md").read_text()
    assert "| decay | 2 × 3 | **0.3** [" in text and "| – |" in text and "## Decay, part by part" in text
    assert json.loads((tmp_path / "fit.json").read_text())["sets"][0]["seeds"] == 3


def test_a_seed_with_a_lost_forecast_counts_as_infinite(monkeypatch):
    (row,) = _summary(monkeypatch, [made("", 0, 0.1), made("", 1, None), made("", 2, None)])
    assert row["failed"] == 2 and row["error"][1] is None and row["error"][0] is not None


# ---- the sets ---------------------------------------------------------------------------------------------------------
def test_errors_are_over_the_deviation_of_the_training_part_or_of_logarithms():
    task = next(decay(None))
    assert spread(task, DECAY) == pytest.approx([np.exp(-0.2 * T[:30]).std()])
    assert error(np.array([[2.0]]), np.array([[2 * np.e]]), np.ones(1), True) == pytest.approx(1.0)
    assert error(np.array([[-2.0]]), np.array([[1.0]]), np.ones(1), True) == np.inf
    assert spread(task, replace(DECAY, unit=1e-3)).tolist() == [1e-3]


def test_the_oscillator_s_truth_is_on_its_limit_cycle_and_the_noise_is_ten_percent():
    for task in islice(SETS[-1].tasks(Path()), 2):
        (t, truth), record = task.later[0], task.records[0]
        assert np.abs(truth[:, 0]).max() == pytest.approx(2.0, abs=0.03)
        assert t[0] == pytest.approx(record.t[-1] + record.t[1]) and len(task.train) == 84
        (measured,) = task.measured
        assert (measured - truth).std() / truth.std() == pytest.approx(0.1, rel=0.35)  # of 28 rows, two states
        period = truth[:14] - truth[14:]
        assert np.abs(period).max() < 1e-3  # it repeats after what is called its period


@pytest.mark.parametrize("one", SETS[:-1], ids=lambda one: one.name)
def test_nothing_that_is_forecast_is_in_a_table(one):
    try:
        path = located(one.file, None)
    except UserError:
        pytest.skip(f"{one.file} is not there: set ISOCLINE_DATA to the folder of data sets")
    for task in one.tasks(path):
        states = task.train.drop(columns="id", errors="ignore").to_numpy(dtype=float)
        taught = {tuple(row) for row in np.round(states, 9).tolist()}
        assert len(task.records) == len(task.later)
        for record, (t, y) in zip(task.records, task.later, strict=True):
            assert record.y.shape[1] == y.shape[1] == states.shape[1] - 1 and record.t[-1] < t[0]
            assert (np.diff(t) > 0).all() and np.isfinite(y).any()
            rows = np.round(np.concatenate([t[:, None], y], 1), 9)
            assert not taught & {tuple(row) for row in rows.tolist()}
