"""PySINDy as a rival: polynomials as they are written, and its place among the models a run is compared with."""

import time

import numpy as np
import pytest
import torch
from series import rotation, table_of

from isocline.equations import Equations
from isocline.fit import sindy
from isocline.fit.forecast import forecast
from isocline.fit.judge import judge
from isocline.fit.networks import Field
from isocline.fit.physics import Physics
from isocline.fit.polynomials import Polynomials, term
from isocline.fit.reading.table import Series
from isocline.fit.rivals import SPARSE
from isocline.fit.scale import Scales, StateScale
from isocline.fit.split import Split

SCALES = Scales((StateScale("log", 0.3, 0.5), StateScale("linear", 2.0, 0.7)), 1.5)
POWERS = np.array([[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2]])
FOUND = np.array([[0.3, -0.2], [-0.5, 0.0], [0.0, 0.4], [0.25, 0.0], [-0.1, 0.6], [0.0, -0.7]])


def test_polynomials_solve_the_equations_they_are_written_as():
    model = Polynomials(POWERS, np.array([1.7, 2.2]), SCALES)
    table = model.in_table_units(FOUND)
    terms = [term(p, ("x", "y")) for p in POWERS]
    parts = [[f"({c!r})*{name or 1}" for c, name in zip(column.tolist(), terms, strict=True)] for column in table.T]
    text = "\n".join(f"d{s} = {' + '.join(row)}" for s, row in zip("xy", parts, strict=True))
    x = torch.randn(7, 2, dtype=torch.float64)
    coefficients = torch.tensor(FOUND).expand(7, -1, -1)
    want = Physics(Equations(text), SCALES)(torch.tensor(0.0), x)
    torch.testing.assert_close(model.field(torch.tensor(0.0), x, coefficients), want, rtol=1e-12, atol=1e-12)


def test_a_polynomial_that_runs_away_is_lost_and_keeps_nobody_waiting():
    model = Polynomials(POWERS, np.array([1.0, 1.0]), SCALES)
    wild = np.zeros((1, 6, 2))
    wild[0, 3, 0] = wild[0, 5, 1] = 50.0
    t = np.arange(40.0)
    record = Series("", t, np.stack([1.3 + 0.3 * np.sin(t), 2 + np.cos(t)], 1))
    began = time.process_time()
    path = forecast(model.flow(wild), [record], [np.arange(40.0, 240.0)], SCALES)[0]
    assert np.isnan(path[5:]).all() and time.process_time() - began < 10


def test_without_pysindy_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr(sindy, "installed", lambda: False)
    t = np.arange(60) * 0.3
    table = table_of((t, rotation(t)))
    split = Split.of(table, 0.2)
    judged = judge(Field(2, (4,)), table, split, Scales.of(table, split.taught, "linear"), 5)
    assert judged.absent == [sindy.MISSING] and "pip install" in sindy.MISSING
    assert SPARSE not in [row["model"] for row in judged.scores]


def test_hidden_states_and_few_rows_are_told():
    t = np.arange(30.0)
    hidden = Series("", t, np.stack([np.sin(t), np.full(30, np.nan)], 1))
    assert "hidden" in str(sindy.rival([hidden], SCALES))


# ---- with PySINDy -----------------------------------------------------------------------------------------------------
needs = pytest.mark.skipif(not sindy.installed(), reason="PySINDy is not installed")


@needs
@pytest.mark.slow
def test_pysindy_is_scored_and_learns_from_the_training_part_alone():
    t = np.arange(120) * 0.2
    y = rotation(t)
    scores = []
    for tail in (y[96:], y[96:] + 1.0):  # another held-out part: the same forecasts
        table = table_of((t, np.concatenate([y[:96], tail])))
        split = Split.of(table, 0.2)
        scales = Scales.of(table, split.taught, "linear")
        judged = judge(Field(2, (4,)), table, split, scales, 5)
        assert judged.absent == [] and SPARSE in judged.horizons["nrmse"]
        scores.append({row["model"]: row for row in judged.scores}[SPARSE])
        found = sindy.rival(split.taught, scales)
        assert found.parameters == scores[-1]["parameters"] <= 12
    assert scores[0]["nrmse"] < 0.05  # a damped rotation is linear
    assert scores[1]["nrmse"] > 1.0


@needs
def test_pysindy_has_inputs_and_passes_over_empty_cells():
    from isocline.fit.drive import Inputs

    t = np.arange(200) * 0.1
    u = np.sign(np.sin(0.7 * t))
    y = np.zeros((200, 1))
    for i in range(199):
        y[i + 1] = u[i] + (y[i] - u[i]) * np.exp(-0.1)
    seen = y + 3.0
    seen[::9] = np.nan
    series = Series("", t, seen, Inputs(t, u[:, None]))
    scales = Scales((StateScale("linear", 3.0, 0.5),), 1.0, (StateScale("linear", 0.0, 1.0),))
    found = sindy.rival([series.rows(slice(150))], scales)
    path = forecast(found.model.flow(found.coefficients), [series.rows(slice(150))], [t[150:]], scales)[0]
    assert np.sqrt(np.mean((scales.unscaled(path) - y[150:] - 3.0) ** 2)) < 0.1


@needs
def test_too_few_rows_for_the_library_are_told():
    t = np.arange(6.0)
    found = sindy.rival(
        [Series("", t, np.stack([np.sin(t), np.cos(t), t], 1))], Scales((StateScale("linear", 0, 1),) * 3, 1.0)
    )
    assert isinstance(found, str) and "10 terms" in found
