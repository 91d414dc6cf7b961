"""Equilibria over a number: normal forms whose folds, Hopf and branch points are known."""

import math

import numpy as np
import pages
import pytest

from isocline.cli import main
from isocline.equations import Equations
from isocline.fit import UserError, bifurcation, fit
from isocline.fit.continuation import Continuation
from isocline.fit.diagram import CHEAP, followed
from isocline.fit.drive import Inputs
from isocline.fit.physics import Physics
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales, StateScale
from isocline.report.bifurcation import draw


def over(text, states, name, low=-1.0, high=1.0, wide=1.2, calls=CHEAP):
    """The diagram of equations, in scaled coordinates that are not theirs."""
    scales = Scales(tuple(StateScale("linear", 0.3 + 0.1 * i, 1.3) for i in range(len(states))), 2.0)
    rows = np.random.default_rng(0).uniform(-wide, wide, (50, len(states)))
    model = Physics(Equations(text, states=states), scales)
    return followed(model, "parameter", name, low, high, [Series("", np.arange(50.0), rows)], scales, calls)


def told(diagram):
    return [(p["kind"], p["value"]) for p in diagram["points"]]


def test_a_saddle_and_a_node_meet_in_a_fold():
    diagram = over("dx = r + x^2", "x", "r")
    assert told(diagram) == [("fold", pytest.approx(0.0, abs=1e-8))]
    (branch,) = diagram["branches"]
    r, x = np.array(branch["value"]), np.array(branch["state"])[:, 0]
    np.testing.assert_allclose(x**2, -r, atol=1e-8)
    assert (np.array(branch["stable"])[abs(x) > 1e-3] == (x < 0)[abs(x) > 1e-3]).all()
    assert sorted([x[0], x[-1]]) == pytest.approx([-1.0, 1.0])  # from end to end of the range, around the fold


def test_a_cycle_is_born_in_a_hopf_point_with_its_period():
    diagram = over("dx = m*x - w*y - x*(x^2+y^2); dy = w*x + m*y - y*(x^2+y^2); w = 3", "xy", "m")
    assert told(diagram) == [("Hopf", pytest.approx(0.0, abs=1e-8))]
    assert diagram["points"][0]["period"] == pytest.approx(2 * math.pi / 3)
    (branch,) = diagram["branches"]
    assert branch["stable"] == [value < 0 for value in branch["value"]]


def test_van_der_pol_and_a_neutral_saddle_are_told_apart():
    assert told(over("dx = y; dy = m*(1 - x^2)*y - x", "xy", "m")) == [("Hopf", pytest.approx(0.0, abs=1e-8))]
    # Eigenvalues 1 and r - 1: their sum passes 0 at r = 0 too, and nothing happens.
    assert told(over("dx = x; dy = (r - 1)*y", "xy", "r", -0.9, 0.9)) == []


def test_the_cusp_has_two_folds_and_where_branches_cross_is_marked():
    edge = 2 / (3 * math.sqrt(3))
    found = told(over("dx = h + x - x^3", "x", "h"))
    assert found == [("fold", pytest.approx(-edge)), ("fold", pytest.approx(edge))]
    crossing = over("dx = r*x - x^2", "x", "r")
    assert told(crossing) == [("branch point", pytest.approx(0.0, abs=1e-6))] and len(crossing["branches"]) == 2


def test_what_would_take_long_is_left_out_and_nothing_is_found_where_nothing_stands_still():
    assert over("dx = r + x^2", "x", "r", calls=20) is None
    assert over("dx = r + 2 + x^2", "x", "r") == {"branches": [], "points": []}


def test_an_input_is_held_at_each_value_with_the_others_at_their_median():
    scales = Scales(
        (StateScale("linear", 1.0, 2.0),), 0.5, (StateScale("linear", 3.0, 0.7), StateScale("linear", 0.0, 2.0))
    )
    model = Physics(Equations("dx = u - 2*x + v", states=["x"], inputs=["u", "v"]), scales)
    t = np.arange(9.0)
    inputs = Inputs(t, np.stack([t, np.where(t > 5, 40.0, 1.0)], 1))
    series = Series("", t, np.linspace(-1, 6, 9)[:, None], inputs)
    diagram = followed(model, "input", "0", 0.0, 8.0, [series], scales)
    (branch,) = diagram["branches"]
    np.testing.assert_allclose(np.array(branch["state"])[:, 0], (np.array(branch["value"]) + 1) / 2, atol=1e-6)
    assert all(branch["stable"]) and [branch["value"][0], branch["value"][-1]] == pytest.approx([0.0, 8.0])


def test_a_closed_curve_is_gone_round_once():
    # A circle of equilibria about (x, q) = (0, 1/2), so small that it never leaves the range.
    circle = Continuation(lambda x, q: x * x + (q[:, None] - 0.5) ** 2 - 0.09, np.array([-1.0]), np.array([1.0]))
    curve = circle.curve(np.array([0.3]), 0.5)
    radius = np.hypot(curve.x[:, 0], curve.q - 0.5)
    np.testing.assert_allclose(radius, 0.3, atol=1e-6)
    assert sorted(p.q for p in curve.points if p.kind == "fold") == pytest.approx([0.2, 0.8], abs=1e-6)
    assert circle.left > 99_000


# ---- of a run ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A level that drains and is filled by a pump: a network with an input."""
    t = np.arange(60) * 0.5
    pump = np.where(np.sin(0.5 * t) > 0, 3.0, 1.0)
    level = np.ones(60)
    for i in range(59):
        level[i + 1] = pump[i] + (level[i] - pump[i]) * math.exp(-0.5)
    own = {"hidden": (4,), "matching": 200, "iterations": 0, "polish": 5, "starts": 1, "members": 0, "blocks": 0}
    own |= {"hold_out": 0.0}
    folder = tmp_path_factory.mktemp("bifurcation") / "run"
    return fit({"t": t, "level": level, "pump": pump}, out=folder, inputs=("pump",), penalty=(1e-4,), **own)


def test_the_report_of_a_run_with_an_input_has_it_over_the_observed_range(run):
    diagram = run["bifurcation"]
    assert (diagram["over"], diagram["low"], diagram["high"]) == ("pump", 1.0, 3.0)
    rows = [(v, s[0]) for b in diagram["branches"] for v, s in zip(b["value"], b["state"], strict=True)]
    assert max(abs(v - s) for v, s in rows) < 0.2 and all(all(b["stable"]) for b in diagram["branches"])
    page = pages.page(run.report)
    assert "How that moves with pump" in page and 'aria-label="Equilibria of level over pump"' in page


def test_show_goes_over_a_range_and_draws_it(run, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["show", str(run.folder), "--over", "pump", "-0.5", "2.5"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and "equilibria for pump" in out and "stable" in out
    assert "<svg" in (run.folder / "bifurcation-pump.svg").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["show", str(run.folder), "--over", "pmp", "0", "2"])
    assert ended.value.code == 2 and "did you mean pump?" in capsys.readouterr().err
    with pytest.raises(UserError, match="the lower one first"):
        bifurcation(run.folder, "pump", 2.0, 1.0)


def test_stable_and_unstable_parts_are_drawn_apart_and_points_have_their_values():
    diagram = {**over("dx = h + x - x^3", "x", "h"), "over": "h", "unit": "m", "low": -1.0, "high": 1.0}
    axes = draw(diagram, [{"name": "x", "unit": ""}]).axes[0]
    labels = [line.get_label() for line in axes.lines]
    assert labels.count("stable") == 2 and labels.count("unstable") == 1 and labels.count("fold") == 2
    assert {t.get_text() for t in axes.texts} == {"0.385", "-0.385"}
    assert axes.get_xlabel() == "h [m]"
