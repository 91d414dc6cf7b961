"""Doses in fits by windows: states that jump, and rates that flow in, at known times."""

import numpy as np
import pages
import pandas as pd
import pytest
import torch

from isocline.fit import Config, UserError, fit
from isocline.fit.dosing import Regimen
from isocline.fit.drive import Drive, Inputs
from isocline.fit.flow import paths
from isocline.fit.reading.table import Series
from isocline.fit.run import read_for
from isocline.fit.scale import Scales, StateScale
from isocline.fit.windows import Record

F64, K = torch.float64, 0.7


def plain(tau=1.0):
    return Scales((StateScale("linear", 0.0, 1.0),), tau)


def fading(t, x0, regimen):
    """x of dx/dt = -K x + what is given, before what is given at t."""
    x = x0 * np.exp(-K * t)
    for begin, amount, over in zip(regimen.t, regimen.amount[:, 0], regimen.duration, strict=True):
        if over == 0:
            x = x + np.where(t > begin, amount * np.exp(-K * np.maximum(t - begin, 0)), 0.0)
            continue
        since, left = np.maximum(t - begin, 0), np.maximum(t - begin - over, 0)
        x = x + amount / over / K * (np.exp(-K * left) - np.exp(-K * since))
    return x


REGIMENS = [
    Regimen(np.array([0.0, 2.0, 2.0, 5.0]), np.array([[1.0], [2.0], [0.5], [1.5]]), np.array([0.0, 0.0, 3.0, 0.0])),
    Regimen(np.array([1.5]), np.array([[2.0]]), np.array([2.0])),
    Regimen(np.zeros(0), np.zeros((0, 1)), np.zeros(0)),
    Regimen(np.array([3.0]), np.array([[1.0]]), np.array([0.0])),
]


def records(t):
    return [Series(str(i), t, fading(t, 1.0 + i, r)[:, None], Inputs.none(t, r)) for i, r in enumerate(REGIMENS)]


def test_paths_with_doses_and_infusions_are_those_of_the_closed_form():
    """Rows at, between and after doses; a dose at the end of all is not shown any more."""
    t = np.array([0.0, 0.5, 2.0, 3.0, 4.2, 5.0])
    series, scales = records(t), plain()
    starts = torch.tensor([[1.0 + i] for i in range(len(series))], dtype=F64)
    ts = torch.tensor(t, dtype=F64).expand(len(series), -1)
    found = paths(lambda t, x: -K * x, starts, ts, Drive.of(series, [t] * len(series), scales))
    for b, s in enumerate(series):
        np.testing.assert_allclose(found[:, b].numpy(), s.y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", [0, 1, 5])
def test_windows_that_begin_at_contain_and_end_at_a_dose_go_through_what_was_observed(level):
    t = np.linspace(0.0, 6.0, 25)  # 2, 3 and 5 are among the rows; windows of four steps begin at 1, 2, 3, …
    record = Record.of(records(t), plain(2.0), 4)
    windows = record.windows(min(level, record.levels - 1))
    truth = torch.tensor(np.concatenate([y[k] for y, k in zip(record.y, record.knots, strict=True)]))
    found = paths(lambda t, x: -2.0 * K * x, truth[windows.start], windows.ts, windows.drive)
    left = (found - windows.y)[~windows.y.isnan()]
    assert float(left.abs().max()) < 1e-5


def test_the_smoothed_record_jumps_with_the_doses_and_has_the_slopes_of_the_field():
    t = np.linspace(0.0, 6.0, 61)
    record = Record.of(records(t), plain(), 5)
    for (values, slopes), y, r in zip(record.smooth, record.y, REGIMENS, strict=True):
        away = np.all(np.abs(t[:, None] - np.concatenate([r.t, r.t + r.duration, [0.0, 6.0]])) > 0.35, 1)
        assert np.abs(values - y)[away].max() < 0.02
        assert np.abs(slopes + K * y)[away].max() < 0.1


SMALL = {"hidden": (8,), "iterations": 20, "polish": 60, "starts": 1, "members": 0, "blocks": 0}


def dosed(over=0.0, count=3):
    """Series that are given something four times, and fade."""
    draw, rows = np.random.default_rng(1), []
    t = np.linspace(0.0, 8.0, 25)
    for i in range(count):
        given = Regimen(np.array([0.0, 2.0, 4.0, 7.0]), draw.uniform(1, 2, (4, 1)), np.full(4, over))
        y = fading(t, 0.5 + 0.2 * i, given) + 0.005 * draw.standard_normal(len(t))
        rows += [(str(i), a, b, over, np.nan) for a, b in zip(given.t, given.amount[:, 0], strict=True)]
        rows += [(str(i), a, 0.0, 0.0, b) for a, b in zip(t, y, strict=True)]
    return pd.DataFrame(rows, columns=["id", "t", "amt", "dur", "x"]).sort_values(["id", "t"], kind="stable")


@pytest.mark.parametrize("over", [0.0, 0.9])
def test_a_network_is_fitted_to_a_dosed_record_and_forecasts_other_doses(over):
    result = fit(dosed(over), doses=("amt->x",), states=("x",), time="t", id="id", **SMALL)
    models = {s["model"]: s["nrmse"] for s in result["scores"]}
    assert models["neural ODE"] < 0.1 < models["autoregression"]  # who does not know of the doses is far off
    assert {"name": "amt", "role": "dose into x"} in result["table"]["given"]
    assert "given the same doses" in pages.page(result.report)
    assert "record that jumps" in " ".join(result["absent"])
    ends = result.predict([8.0])["x"].to_numpy()
    later = pd.DataFrame({"id": ["0", "0"], "t": [10.0, 12.0]})
    given = pd.DataFrame({"id": ["0", "0"], "t": [8.5, 10.0], "amt": [1.5, 1.0], "dur": [over, over]})
    regimen = Regimen(np.array([0.5, 2.0]), np.array([[1.5], [1.0]]), np.full(2, over))
    found = result.predict(later, inputs=given)["x"].to_numpy()
    np.testing.assert_allclose(found, fading(np.array([2.0, 4.0]), ends[0], regimen), atol=0.08)
    without = fading(np.array([2.0, 4.0]), ends[0], REGIMENS[2])
    np.testing.assert_allclose(result.predict(later)["x"].to_numpy(), without, atol=0.04)


def test_equations_with_a_network_take_doses_into_a_state_that_was_not_measured():
    draw, rows, t = np.random.default_rng(2), [], np.linspace(0.0, 8.0, 25)
    ka, ke = 1.5, 0.4
    for i in range(3):
        amounts = draw.uniform(1, 3, 3)
        y = sum(
            a * ka / (ka - ke) * (np.exp(-ke * s) - np.exp(-ka * s))
            for a, b in zip(amounts, (0.0, 2.5, 5.5), strict=True)
            for s in [np.maximum(t - b, 0)]
        )
        rows += [(str(i), b, a, np.nan) for a, b in zip(amounts, (0.0, 2.5, 5.5), strict=True)]
        rows += [(str(i), a, 0.0, b) for a, b in zip(t, y, strict=True)]
    frame = pd.DataFrame(rows, columns=["id", "t", "amt", "x"]).sort_values(["id", "t"], kind="stable")
    equations = ("dgut = -ka*gut; dx = ka*gut - net(x, width=4)",)
    settings = {k: v for k, v in SMALL.items() if k != "hidden"}
    result = fit(
        frame, doses=("amt->gut",), states=("x",), hidden_states=("gut",), time="t", id="id", equations=equations,
        parameters=("ka = 1 > 0",), **settings,
    )  # fmt: skip
    own = {row["name"]: row["value"] for row in result["parameters"]["rows"]}
    assert own["ka"] == pytest.approx(ka, rel=0.1)
    assert result["scores"][0]["nrmse"] < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "log"}, "column 'x' is given doses: expected --scale linear"),
        ({"doses": ("amt->gut",)}, "a dose into 'gut', which is no state; there are x"),
        ({"equations": ("dx = net(x); f(x) = b",)}, r"f\(x\) = …: beside net"),
    ],
)
def test_what_doses_cannot_go_with_is_refused(settings, message):
    frame = dosed(count=2)
    frame["x"] = frame["x"].abs()
    with pytest.raises(UserError, match=message):
        fit(frame, **{"doses": ("amt->x",), "states": ("x",), "time": "t", "id": "id", **settings})


def nonmem(*columns):
    """A table as NONMEM writes it, of which some columns."""
    rows = [(i, 0.0, 100.0 * i, 0.0, 1, 1) for i in (1, 2)]
    rows += [(i, float(t), 0.0, 10.0 * i * np.exp(-0.3 * t), 0, 0) for i in (1, 2) for t in range(1, 9)]
    frame = pd.DataFrame(rows, columns=["id", "time", "amt", "dv", "evid", "mdv"])
    return frame.sort_values(["id", "time"])[["id", "time", *columns]]


@pytest.mark.parametrize(
    ("columns", "settings", "states", "doses", "says"),
    [
        (("amt", "dv", "evid", "mdv"), {}, ["dv"], ("amt",), "'amt' is taken for doses into 'dv', as by --dose 'amt->dv'"),
        (("amt", "dv"), {"states": ("dv",)}, ["dv"], ("amt",), "give --state, --input or --ignore amt where it is none"),
        (("amt", "dv"), {"equations": ("ddv = net(dv)",)}, ["dv"], ("amt",), "'amt' is taken for doses into 'dv'"),
        (("amt", "dv"), {"states": ("amt", "dv")}, ["amt", "dv"], (), ""),
        (("amt", "dv", "evid"), {"inputs": ("amt",)}, ["dv"], (), "evid says how doses are given (--state evid takes it"),
        (("dv", "evid", "mdv"), {}, ["dv"], (), "mdv says how doses are given"),
    ],
)  # fmt: skip
def test_columns_of_doses_are_no_states_of_a_network_unless_it_is_said(columns, settings, states, doses, says):
    config, table = read_for(nonmem(*columns), Config.make(**settings))
    assert [c.header for c in table.states] == states and config.doses == doses
    told = [*table.notes, *(f"{c} {why}" for c, why in table.ignored)]
    assert says in " | ".join(told)
    assert all((s.u is not None and s.u.doses is not None) == bool(doses) for s in table.series)


def test_a_column_of_this_name_with_a_number_in_every_row_is_a_state_and_lags_go_without_doses():
    measured = nonmem("dv").rename(columns={"dv": "amt"}).assign(amt=lambda frame: frame["amt"] + 1.0)
    config, table = read_for(measured, Config())
    assert [c.header for c in table.states] == ["amt"] and not config.doses
    with pytest.raises(UserError, match="'amt' is taken for doses, which --lags cannot go with; give --ignore amt"):
        read_for(nonmem("amt", "dv"), Config.make(lags="2"))
