"""Runs with inputs: columns that drive the system, known and not predicted."""

import math

import numpy as np
import pages
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_run import After

from isocline.fit import Config, UserError, export, fit, predict, resume
from isocline.fit.autoregression import Autoregression
from isocline.fit.baselines import LinearODE
from isocline.fit.drive import Drive, Inputs
from isocline.fit.forecast import forecast
from isocline.fit.networks import Field, Networks
from isocline.fit.reading.table import Series, Table, read_table
from isocline.fit.scale import Scales, StateScale
from isocline.fit.windows import Record

F64 = torch.float64
K, C, B = 1.0, 0.3, 2.0  # of the oscillator d²x = −K x − C dx + B force
STEP = 0.4


def oscillator(force, noise=0.0, seed=1):
    """(n, 2) of x and dx, the force (n,) held between the rows: exact, by the matrix exponential."""
    generator = torch.tensor([[0.0, 1.0, 0.0], [-K, -C, B], [0.0, 0.0, 0.0]], dtype=F64)
    step = torch.linalg.matrix_exp(STEP * generator)[:2].numpy()
    y = [np.array([0.5, 0.0])]
    for value in force[:-1]:
        y.append(step @ [*y[-1], value])
    return np.array(y) + noise * np.random.default_rng(seed).standard_normal((len(force), 2))


def force_of(n, seed=0):
    """Steps of three rows."""
    return np.repeat(np.random.default_rng(seed).standard_normal(n // 3 + 1), 3)[:n]


def write(path, n=90, known=90, noise=0.02):
    """A table of n rows, of which the first `known` were measured."""
    force = force_of(n)
    y = oscillator(force, noise)
    rows = [
        f"{i * STEP:.6g},{f'{a:.6f},{b:.6f}' if i < known else ','},{u:.6f}\n"
        for i, ((a, b), u) in enumerate(zip(y, force, strict=True))
    ]
    path.write_text("t [s],x [m],v [m/s],force [N]\n" + "".join(rows))
    return path


def made(n=120, noise=0.0):
    """A series, and its scales."""
    t = np.arange(n) * STEP
    series = Series("", t, oscillator(force_of(n), noise), Inputs(t, force_of(n)[:, None]))
    states = tuple(StateScale("linear", float(c.mean()), float(c.std())) for c in series.y.T)
    return series, Scales(states, 1.3, (StateScale("linear", 0.1, 0.8),))


# ---- signals ----------------------------------------------------------------------------------------------------------
@given(st.sampled_from(["zoh", "linear", "cubic"]), st.floats(0, 9.5), st.floats(0, 3), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_stretch_of_inputs_is_the_whole_between_its_ends(hold, begin, length, seed):
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.uniform(0.1, 1, 20))
    whole = Inputs(t, rng.standard_normal((20, 2)), hold)
    at = np.linspace(begin, begin + length, 9)
    np.testing.assert_allclose(whole.stretch(begin, begin + length).at(at), whole.at(at), atol=1e-12)


def test_inputs_known_later_follow_those_known_before():
    first = Inputs(np.array([0.0, 1.0, 2.0]), np.array([[0.0], [1.0], [2.0]]))
    both = first.then(Inputs(np.array([1.5, 3.0]), np.array([[7.0], [8.0]])))
    assert both.t.tolist() == [0.0, 1.0, 1.5, 3.0] and both.u[:, 0].tolist() == [0.0, 1.0, 7.0, 8.0]


@pytest.mark.parametrize("hold", ["zoh", "linear", "cubic"])
def test_every_window_is_driven_by_the_inputs_of_its_time(hold):
    series, scales = made()
    # Rows without a measurement drive too: every third of the inputs has none.
    rows = np.arange(120) % 3 > 0
    s = Series("", series.t[rows], series.y[rows], Inputs(series.t, series.u.u, hold))
    record = Record.of([s], scales, 5)
    windows = record.windows(1)
    u = windows.drive.signals["u"]
    for share in (0.0, 0.4, 0.9):
        inside = share * windows.ts[:, 1]
        at = windows.drive.begin + scales.tau * inside
        got = u(inside[:, None])
        np.testing.assert_allclose(got, scales.scaled_inputs(s.u.at(at.numpy())), atol=1e-9)
    picked = windows.pick(torch.tensor([3, 1]))
    torch.testing.assert_close(picked.drive.signals["u"](0.2), u(0.2)[[3, 1]])
    torch.testing.assert_close(Drive.joined([windows.drive, picked.drive]).signals["u"](0.2)[-1], u(0.2)[1])
    torch.testing.assert_close(windows.drive.repeat(2).signals["u"](0.2)[-1], u(0.2)[-1])


def test_rows_of_a_batch_are_driven_as_their_field_is():
    nets = Networks(2, (5,), inputs=3)
    theta = nets.begin([0, 1])
    y, u = torch.randn(2, 7, 2, dtype=F64), torch.randn(2, 7, 3, dtype=F64)
    slopes, now = nets.slopes(theta, y, {"u": u}), torch.tensor(0.0)
    for i in range(2):
        field = nets.module(theta[i])
        assert isinstance(field, Field) and field.takes == ("u",)
        torch.testing.assert_close(field(now, y[i], {"u": u[i]}), slopes[i])
    torch.testing.assert_close(nets.field(now, y[:, 2], {"u": u[:, 2]}, *nets.handed(theta)), slopes[:, 2])


# ---- baselines --------------------------------------------------------------------------------------------------------
def test_the_linear_ode_finds_a_driven_linear_system():
    series, scales = made()
    linear = LinearODE(Record.of([series.rows(slice(80))], scales, 10))
    (ahead,) = forecast(linear.flow, [series.rows(slice(80))], [series.t[80:]], scales)
    # RK4 at steps of 0.4/1.3 errs by about h⁵/120 a step, 2e-5, on a path of size one.
    assert np.abs(ahead - scales.scaled(series.y[80:])).max() < 1e-3


def test_the_autoregression_with_inputs_finds_the_recurrence():
    series, scales = made()
    model = Autoregression([series.rows(slice(80))], scales)
    assert model.orders == [2, 2]  # of a linear system with two states
    ahead = model.forecast(series.rows(slice(80)), series.t[80:])
    assert np.abs(ahead - scales.scaled(series.y[80:])).max() < 1e-6


# ---- tables -----------------------------------------------------------------------------------------------------------
def test_an_input_keeps_its_value_in_empty_cells_and_goes_on_after_the_last_measurement(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("t,x,pump\n0,1,5\n1,2,\n2,,7\n3,4,\n4,,9\n")
    table = read_table(path, inputs=["pump"], hold="linear")
    assert isinstance(table, Table) and [c.header for c in table.states] == ["x"]
    (series,) = table.series
    assert series.t.tolist() == [0.0, 1.0, 3.0]
    assert series.u.t.tolist() == [0, 1, 2, 3, 4] and series.u.u[:, 0].tolist() == [5, 5, 7, 7, 9]
    assert series.u.hold == "linear"


@pytest.mark.parametrize(
    ("rows", "asked", "says"),
    [
        ("0,1,\n1,2,3\n2,1,4", ["pump"], "line 2, column 'pump': empty; expected the input's value in the first row"),
        ("0,1,5\n1,2,x3\n2,1,4", ["pump"], "line 3, column 'pump': 'x3'; expected a finite number, or an empty cell"),
        ("0,1,5\n1,2,inf\n2,1,4", ["pump"], "line 3, column 'pump'"),
        ("0,1,5\n1,2,3\n2,1,4", ["pumps"], "no column 'pumps'; did you mean 'pump'"),
        ("0,1,5\n1,2,3\n2,1,4", ["pump", "pump"], "'pump' was given two roles; expected one of .*--input"),
    ],
)
def test_inputs_that_cannot_be_are_refused(tmp_path, rows, asked, says):
    path = tmp_path / "a.csv"
    path.write_text(f"t,x,pump\n{rows}\n")
    with pytest.raises(UserError, match=says):
        read_table(path, inputs=asked)


def test_series_have_inputs_of_their_own(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("t,id,x,pump\n0,a,1,5\n1,a,2,6\n0,b,3,7\n1,b,5,8\n")
    assert [s.u.u[:, 0].tolist() for s in read_table(path, inputs=["pump"]).series] == [[5, 6], [7, 8]]
    path.write_text("t,id,x,pump\n0,a,1,5\n1,a,2,6\n0,b,3,\n1,b,5,8\n")
    with pytest.raises(UserError, match="line 4, column 'pump': empty"):
        read_table(path, inputs=["pump"])


# ---- runs -------------------------------------------------------------------------------------------------------------
QUICK = Config(
    inputs=("force [N]",), hidden=(8,), iterations=15, polish=40, starts=1, members=3, blocks=2, penalty=(1e-2,)
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run on a table whose inputs go on for 10 rows after the last measurement."""
    folder = tmp_path_factory.mktemp("driven")
    return folder / "run", fit(write(folder / "table.csv", 90, 80), QUICK, folder / "run")


def test_a_driven_oscillator_is_learned_and_forecast(done):
    _, report = done
    scores = {s["model"]: s["nrmse"] for s in report["scores"]}
    assert list(scores)[:5] == ["neural ODE", "persistence", "mean", "linear ODE", "autoregression"]
    # Noise is 0.02 of states whose sizes are 1.4 and 1.3; persistence does not know the force.
    assert scores["neural ODE"] < 0.15 and scores["linear ODE"] < 0.05 and scores["persistence"] > 0.8
    assert report["table"]["inputs"] == [{"name": "force", "unit": "N"}]
    assert report["series"][0]["u"]["hold"] == "zoh" and len(report["series"][0]["u"]["y"]) == 80


def test_the_report_shows_what_drives(done):
    page = pages.page(done[0] / "report.html")
    assert "force [N]" in page and "of x, v, force" in page


def test_a_broken_driven_run_goes_on_to_the_same_numbers(done, tmp_path):
    folder, report = done
    table = folder.parent / "table.csv"
    assert fit(table, QUICK, tmp_path / "run", stop=After(40))["stopped"] == "interrupted"
    again = resume(tmp_path / "run")
    assert again["stopped"] == "done" and again["scores"] == report["scores"]
    assert (tmp_path / "run" / "states.json").read_bytes() == (folder / "states.json").read_bytes()


def test_a_forecast_goes_as_far_as_the_inputs_are_known(done, tmp_path):
    folder, _ = done
    truth = oscillator(force_of(90))
    header, rows, lost = predict(folder, until=89 * STEP, bands=True)
    assert header[:3] == ["t [s]", "x [m]", "v [m/s]"] and not lost
    path = np.array([[float(v) for v in row] for row in rows])
    assert np.abs(path[:, 1:3] - truth[80:]).max() < 0.4 and (path[:, 3] < path[:, 1]).all()
    with pytest.raises(
        UserError, match=r"inputs 'force \[N\]' are known up to 35.6 and needed up to 40; give them with"
    ):
        predict(folder, until=40)
    later = tmp_path / "later.csv"
    later.write_text("t [s],force [N]\n36,0\n40,0\n")
    assert float(predict(folder, until=40, inputs=later)[1][-1][0]) == 40
    with pytest.raises(UserError, match=r"needed up to 60; .*later.csv does not have them"):
        predict(folder, until=60, inputs=later)


def test_a_forecast_from_a_given_state_needs_the_inputs_from_there_on(done, tmp_path):
    folder, _ = done
    start, inputs = tmp_path / "start.csv", tmp_path / "inputs.csv"
    start.write_text("t [s],x [m],v [m/s]\n4,1,0\n")
    with pytest.raises(UserError, match="are needed from 4 on; give them with --inputs FILE"):
        predict(folder, until=8, start=start)
    paths = []
    for force in (0.0, 1.0):
        inputs.write_text("t [s],force [N]\n" + "".join(f"{4 + k * STEP:g},{force}\n" for k in range(12)))
        paths.append(float(predict(folder, until=8, start=start, inputs=inputs)[1][-1][1]))
    # A constant force moves the rest position by B/K = 2, and the swing about it halves in 1/0.15 time units.
    assert paths[1] - paths[0] == pytest.approx(
        B * (1 - math.exp(-0.6) * (math.cos(3.955) + 0.152 * math.sin(3.955))), abs=0.4
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "t [s],force [N]\n36,0\n37,\n",
            r"line 3, column 'force \[N\]': 'empty'; expected a finite number in every row",
        ),
        ("t [s],forces\n36,0\n", r"no column 'force \[N\]'"),
        ("t [s],force [N]\n36,0\n35,1\n", "line 3, column 't .s.': expected times that increase"),
    ],
)
def test_tables_of_inputs_that_cannot_be_are_refused(done, tmp_path, text, says):
    (tmp_path / "later.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        predict(done[0], until=37, inputs=tmp_path / "later.csv")


def test_a_driven_model_is_not_exported(done):
    with pytest.raises(UserError, match=r"its inputs 'force \[N\]': the solver of an exported file has no signals"):
        export(done[0], "c")


def test_equations_have_inputs_and_the_time_by_name(tmp_path):
    config = Config(
        inputs=("force [N]",),
        equations=("dx = v; dv = -k*x - c*v + b*force + w*sin(t)",),
        iterations=10,
        polish=40,
        starts=1,
        members=0,
        blocks=0,
    )
    report = fit(write(tmp_path / "table.csv", 60, 60), config, tmp_path / "run")
    rows = {row["name"]: row for row in report["parameters"]["rows"]}
    for name, true in {"k": K, "c": C, "b": B, "w": 0.0}.items():
        # Three standard errors, and what they are themselves uncertain by.
        assert abs(rows[name]["value"] - true) < 4 * rows[name]["error"] and rows[name]["error"] < 0.1
    assert report["scores"][0]["nrmse"] < 0.05
