"""Runs with known physics: equations in the table's units, parameters with errors, everything a run does."""

import json
import math

import numpy as np
import pages
import pytest
import torch
from series import rotation
from test_run import After

from isocline import Equations, solve
from isocline.fit import Config, UserError, export, fit, predict, resume
from isocline.fit.equation_rows import EquationRows, layout_of, networks_of
from isocline.fit.fitted import Fitted
from isocline.fit.networks import Networks
from isocline.fit.physics import Physics, settings_of
from isocline.fit.reading.table import Series
from isocline.fit.recipe import Recipe
from isocline.fit.scale import Scales, StateScale
from isocline.fit.windows import Record

F64 = torch.float64
T = np.arange(50) * 0.3
TRUE = {"w": 1.0, "d": 0.05, "cx": 3.0, "cy": -1.0}
CIRCLE = ("da = -d*(a - cx) - w*(b - cy); db = w*(a - cx) - d*(b - cy)",)
QUICK = Config(
    equations=CIRCLE,
    parameters=("d = 0.1 in [0, 2] unit 1/s", "w > 0"),
    iterations=10,
    polish=40,
    starts=2,
    members=4,
    blocks=2,
)


def write_circle(path):
    y = rotation(T) + 0.02 * np.random.default_rng(0).standard_normal((50, 2))
    path.write_text(
        "t [s],a [m],b [m]\n" + "".join(f"{t:.6g},{p:.6f},{q:.6f}\n" for t, (p, q) in zip(T, y, strict=True))
    )
    return path


@pytest.fixture
def table(tmp_path):
    return write_circle(tmp_path / "circle.csv")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run: its folder and its report."""
    folder = tmp_path_factory.mktemp("physics")
    return folder / "run", fit(write_circle(folder / "circle.csv"), QUICK, folder / "run")


# ---- the field --------------------------------------------------------------------------------------------------------
def test_the_field_in_scaled_coordinates_has_the_path_of_the_equations():
    equations = Equations("dx = -k*x; dy = k*x - y", parameters="k = 0.7")
    scales = Scales((StateScale("log", 0.3, 0.5), StateScale("linear", 2.0, 3.0)), tau=2.5)
    y0 = torch.tensor([[2.0, 1.0], [0.5, 4.0]], dtype=F64)
    ts = torch.tensor([0.0, 1.0, 2.0], dtype=F64)
    options = {"batching": "per_sample", "engine": "auto", "rtol": 1e-10, "atol": 1e-12}
    want = solve(equations, y0, ts, **options).ys
    field = Physics(equations, scales)
    path = solve(field, torch.tensor(scales.scaled(y0.numpy())), ts / scales.tau, **options).ys
    torch.testing.assert_close(field.unscaled(path.detach()), want.detach(), rtol=1e-8, atol=1e-8)


def test_rows_of_a_batch_are_the_field_with_their_own_numbers():
    equations = Equations(
        "dx = -k*x + net(x, y, width=3, depth=2); dy = c + k*sqrt(x^2 + 1)", parameters="k > 0; c = 2 fixed"
    )
    scales = Scales((StateScale("log", 0.3, 0.5), StateScale("linear", 2.0, 3.0)), tau=2.5)
    rows = EquationRows(Physics(equations, scales))
    theta = rows.begin([4, 5, 6])
    assert theta.shape == (3, rows.size) and len({tuple(r.tolist()) for r in theta}) == 3
    x = torch.randn(3, 7, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    slopes = rows.slopes(theta, x)
    now = torch.tensor(0.0)
    for i in range(3):
        torch.testing.assert_close(slopes[i], rows.module(theta[i])(now, x[i]))
    torch.testing.assert_close(rows.field(now, x[:, 2], *rows.handed(theta)), slopes[:, 2])
    step = 1e-5 * torch.randn(theta.shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    change = rows.slopes(theta + step, x) - rows.slopes(theta - step, x)
    by_theta = rows.slopes_and_back(theta, x)[1](torch.ones_like(x))
    torch.testing.assert_close(2 * (by_theta * step).sum(1), change.sum((1, 2)), rtol=1e-6, atol=1e-12)
    layout, plain = rows.plain(theta)
    torch.testing.assert_close(layout.slopes(plain, x), slopes)


def test_only_networks_are_held_small():
    scales = Scales((StateScale("linear", 0.0, 1.0),), 1.0)
    assert EquationRows(Physics(Equations("dx = -k*x"), scales)).shrunk.tolist() == [0.0]
    assert EquationRows(Physics(Equations("dx = -k*x + net(x, width=2)"), scales)).shrunk.tolist() == [0.0] + [1.0] * 7
    assert type(layout_of(torch.nn.Identity(), Config(states=("a",)))) is Networks


def test_the_first_guess_meets_the_slopes_and_tells_how_far_they_reach():
    t = np.arange(40) * 0.2
    scales = Scales((StateScale("linear", 0.0, 1.0),), 1.0)
    record = Record.of([Series("", t, 200 * np.exp(-0.3 * t)[:, None])], scales, 5)
    config = Config(equations=("dx = -k*x",), states=("x",))
    rows = networks_of(config, scales, record)
    assert rows.first.item() == pytest.approx(0.3, abs=0.01)
    assert rows.unit.item() == pytest.approx(1 / np.sqrt(np.mean((200 * np.exp(-0.3 * t)) ** 2)), rel=0.02)


# ---- a run ------------------------------------------------------------------------------------------------------------
def test_a_run_without_a_network_has_no_penalty_to_choose(done):
    states = ("a [m]", "b [m]")
    short = settings_of(Config(equations=CIRCLE, states=states))
    assert (short.penalty, short.matching) == ((0.0,), 50)
    assert settings_of(Config(equations=CIRCLE, states=states, matching=7)).matching == 7
    mixed = Config(equations=("da = net1(a); db = net2(b)",), states=states)
    assert settings_of(mixed) == mixed
    assert json.loads((done[0] / "config.json").read_text())["config"]["penalty"] == [0.0]


def test_a_run_finds_the_parameters_and_tells_them_with_their_errors(done):
    folder, report = done
    told = report["parameters"]
    assert json.loads((folder / "report.json").read_text()) == report
    rows = {row["name"]: row for row in told["rows"]}
    assert list(rows) == ["d", "w", "cx", "cy"] and rows["d"]["unit"] == "1/s"
    for name, value in TRUE.items():
        row = rows[name]
        assert abs(row["value"] - value) < 4 * row["error"] < 0.1
        assert row["low"] < row["value"] < row["high"]
    assert 0.01 < told["noise"]["a"] < 0.03 and told["observations"] == 80
    assert told["equations"][0] == "da/dt = -d*(a - cx) - w*(b - cy)"
    page = pages.page(folder / "report.html")
    assert "The equations and their parameters" in page and "95 % interval" in page and "1/s" in page
    by = {row["model"]: row["nrmse"] for row in report["scores"]}
    assert by["equation model"] < 0.2 and "the equation model (error" in report["verdict"]


def test_a_run_without_a_network_speaks_of_none(done):
    folder, report = done
    assert "network" not in json.dumps([report["warnings"], report["verdict"], report["stages"]])
    assert "network" not in pages.page(folder / "report.html").lower()
    assert {stage["phase"] for stage in report["stages"]} == {"calibrating", "fitting"}


def test_what_does_not_end_well_are_fits_where_equations_are_fitted():
    series = [Series("", T, rotation(T))]
    config = settings_of(QUICK.model_copy(update={"states": ("a", "b"), "blocks": 0, "iterations": 1, "polish": 2}))
    recipe = Recipe(config, series, Scales((StateScale("linear", 3.0, 1.0), StateScale("linear", -1.0, 1.0)), 1.0))
    recipe.run(lambda r: None)
    recipe.trainer.misfit = torch.tensor([1.0, 1.1, 9.0, 9.0, 9.0, 1.2], dtype=F64)
    recipe.holds = torch.tensor([True, False, True, True, True, True])
    told = " ".join(recipe.warnings())
    assert "1 of 2 fits left the data by more than their range" in told and "one of the others" in told
    assert "no bands: 1 of 4 fits to noisier data ended well" in told and "network" not in told


def test_what_a_run_leaves_is_the_model_with_its_values(done):
    folder, report = done
    fitted = Fitted.read(folder)
    values = fitted.field.equations.values
    assert values == {row["name"]: row["value"] for row in report["parameters"]["rows"]}
    header, rows, lost = predict(folder, until=16.0)
    assert header == ["t [s]", "a [m]", "b [m]"] and not lost
    end = json.loads((folder / "states.json").read_text())[""]
    y0 = torch.tensor(fitted.scales.unscaled(np.array([end["state"]])))
    ts = torch.tensor([end["t"], 16.0], dtype=F64)
    want = solve(fitted.field.equations, y0, ts, batching="per_sample", engine="auto", rtol=1e-9, atol=1e-9).ys[-1, 0]
    assert rows[-1][1:] == pytest.approx(want.tolist(), abs=1e-4)
    assert "model_solve" in export(folder, "c")


def test_the_bands_of_a_run_are_those_of_equations_fitted_to_noisier_data(done):
    folder, report = done
    assert report["bands"]["members"] >= 3 and report["bands"]["coverage"]["95"] > 0.7
    header, rows, _ = predict(folder, until=16.0, bands=True)
    low, high, value = header.index("a [m] low95"), header.index("a [m] high95"), header.index("a [m]")
    assert all(row[low] < row[value] < row[high] for row in rows)
    assert rows[-1][high] - rows[-1][low] < 0.5


def test_a_broken_run_goes_on_to_the_same_bits(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("t,x\n" + "".join(f"{i},{2 * math.exp(-i / 9) + 0.01 * math.sin(7 * i):.6f}\n" for i in range(30)))
    config = Config(
        equations=("dx = -k*x",), parameters=("k > 0",), iterations=4, polish=8, starts=2, members=3, blocks=2
    )
    fit(table, config, tmp_path / "straight")
    assert fit(table, config, tmp_path / "broken", stop=After(61))["stopped"] == "interrupted"
    notes = json.loads((tmp_path / "broken" / "report.json").read_text())["parameters"]["notes"]
    assert notes == ["the training was broken off: no standard errors yet"]
    assert resume(tmp_path / "broken")["stopped"] == "done"
    for name in ("model.safetensors", "members.safetensors", "bands.json", "states.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    tables = [json.loads((tmp_path / run / "report.json").read_text())["parameters"] for run in ("broken", "straight")]
    assert tables[0] == tables[1]


def test_a_network_beside_known_physics_learns_the_rest(tmp_path):
    """x' = −0.4 x + sin-shaped remainder that nobody wrote down."""
    t = np.arange(60) * 0.2
    path = solve(lambda t, x: -0.4 * x + 0.8 * torch.cos(x), torch.tensor([3.0], dtype=F64), torch.tensor(t)).ys[:, 0]
    x = path.numpy() + 0.01 * np.random.default_rng(1).standard_normal(60)
    (tmp_path / "t.csv").write_text("t,x\n" + "".join(f"{a:.4g},{b:.6f}\n" for a, b in zip(t, x, strict=True)))
    config = Config(
        equations=("dx = -k*x + net(x, width=4)",),
        parameters=("k > 0",),
        penalty=(1e-4,),
        starts=1,
        members=0,
        blocks=0,
    )
    report = fit(tmp_path / "t.csv", config, tmp_path / "run")
    (row,) = report["parameters"]["rows"]
    assert row["error"] > 0 and "low" not in row
    by = {s["model"]: s["nrmse"] for s in report["scores"]}
    assert by["equation model"] is not None and by["equation model"] < 1.0
    field = Fitted.read(tmp_path / "run").field.equations
    slope = field(torch.tensor(0.0), torch.tensor([[2.0]], dtype=F64)).item()
    assert slope == pytest.approx(-0.8 + 0.8 * math.cos(2.0), abs=0.1)


def test_equations_with_networks_alone_have_no_parameters_to_tell(table, tmp_path):
    config = Config(
        equations=("speed = net(a, b, width=2); da = speed; db = g*a",),
        parameters=("g = 1 fixed",),
        matching=20,
        iterations=1,
        polish=4,
        penalty=(1e-3,),
        starts=1,
        members=0,
    )
    report = fit(table, config, tmp_path / "run")
    assert [(row["name"], row["fixed"]) for row in report["parameters"]["rows"]] == [("g", True)]
    assert report["parameters"]["observations"] == 0
    page = pages.page(tmp_path / "run" / "report.html")
    assert "<td>fixed</td>" in page and "Standard errors" not in page


def test_columns_are_called_by_their_names_or_headers(tmp_path):
    (tmp_path / "t.csv").write_text(
        "t,body mass [kg],<b>x</b>\n" + "".join(f"{i},{math.exp(-i / 9):.6f},{i / 9:.4f}\n" for i in range(30))
    )
    config = Config(
        equations=("d`body mass` = -k*`body mass`; d`<b>x</b>` = c",), iterations=5, polish=20, starts=1, members=0
    )
    report = fit(tmp_path / "t.csv", config, tmp_path / "run")
    values = {row["name"]: row["value"] for row in report["parameters"]["rows"]}
    assert values["k"] == pytest.approx(1 / 9, rel=0.05) and values["c"] == pytest.approx(1 / 9, rel=0.05)
    page = pages.page(tmp_path / "run" / "report.html")
    assert "<b>x</b>" not in page and "&lt;b&gt;x" in page


# ---- what cannot be ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"equations": ("da = -k*a; db = -k*b",), "parameters": ("q = 1",)}, "parameter q: no equation uses it"),
        ({"equations": ("da = -k*a",)}, "no equation for the state b"),
        (
            {"equations": ("da = -k*a; db/dt = a; dc/dt = b",)},
            "c is no state.*what was not measured say --hidden-states NAME",
        ),
        ({"equations": ("da = -k*a; db = a; lag(a) = 1",)}, r"lag\(a\) = …: beside net"),
        ({"equations": ("da = -k*(a; db = b",)}, r"\n  da = -k\*\(a; db = b\n +\^"),
        ({"equations": ("da = -k*a; db = a; a(0) = 2",)}, r"a\(0\) = …: a run fits where each series starts"),
        ({"equations": ("da = 2*a; db = a",)}, "nothing to fit"),
        ({"parameters": ("k > 0",)}, "parameter: of which equations"),
        ({"equations": ("da = -k*a; db = a",), "hidden": (8,)}, "hidden: the equations say how wide"),
        ({"equations": ("da = -k*a; db = a",), "penalty": (0.1,)}, "penalty: there is no net"),
        ({"equations": ("da = -k*a; db = a",), "parameters": ("k = 9 in [0, 2]",)}, "parameter: starts at 9"),
    ],
)
def test_equations_that_cannot_be_are_refused_before_anything_is_written(table, tmp_path, settings, says):
    with pytest.raises(UserError, match=says):
        fit(table, Config(**settings), tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["circle.csv"]
