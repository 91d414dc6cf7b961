"""Work and precision: what is read off a curve, who takes part, and the page."""

import math
import sys
from xml.etree import ElementTree

import pytest
from test_benchmarks import BENCHMARKS, run, tables

from isocline.solvers import Solver

sys.path.insert(0, str(BENCHMARKS))

import work_precision
from work_precision import Curve, best, ours


def test_a_cost_is_read_off_between_two_rungs_as_a_power_law():
    curve = Curve([1e-2, 1e-4], [1e-2, 1e-6], [100.0, 10000.0], [1.0, 4.0])
    assert curve.at(1e-4, "evaluations") == pytest.approx(1000.0)
    assert curve.at(1e-4, "seconds") == pytest.approx(2.0)
    assert curve.at(1e-2, "evaluations") == 100.0  # already the first rung is good enough
    assert curve.at(1e-7, "evaluations") is None  # no rung is


def test_a_lucky_hit_does_not_count():
    curve = Curve([1e-2, 1e-3, 1e-4], [1e-9, 1e-3, 1e-5], [10.0, 20.0, 40.0], [1.0, 2.0, 4.0])
    assert curve.at(1e-4, "evaluations") == pytest.approx(20.0 * math.sqrt(2))
    assert Curve([1e-2, 1e-3], [math.inf, 1e-6], [10.0, 20.0], []).at(1e-4, "evaluations") == 20.0


def test_the_best_is_the_cheapest_that_reaches_the_goal():
    good, dear = Curve([1e-4], [1e-5], [50.0], [1.0]), Curve([1e-4], [1e-5], [70.0], [0.5])
    missed = Curve([1e-2], [1e-1], [1.0], [0.1])
    curves = {"isocline a": good, "isocline b": dear, "isocline c": missed, "SciPy d": missed}
    assert best(curves, 1e-4, "evaluations", ("isocline",)) == ("isocline a", 50.0)
    assert best(curves, 1e-4, "seconds", ("isocline",)) == ("isocline b", 0.5)
    assert best(curves, 1e-4, "evaluations", ("SciPy", "torchdiffeq")) is None


def test_every_adaptive_solver_of_third_order_takes_part_where_it_fits():
    explicit, implicit = set(ours(False, None)), set(ours(True, None))
    assert {"tsit5", "dopri5", "dopri8", "vern7", "vern9", "bosh3"} <= explicit
    assert {"kvaerno3", "kvaerno5", "rodas5_p", "radau_iia5", "ken_carp4"} <= implicit
    assert explicit & implicit <= work_precision.EVERYWHERE
    for name in set(Solver.registry) - explicit - implicit - work_precision.LEFT_OUT:
        solver = Solver.named(name)
        assert not solver.error_order or max(solver.tableau.order, solver.error_order) < 3


def test_the_page_compares_at_equal_error_and_shows_it(tmp_path):
    evaluations, seconds, detail = run("work_precision.py", tmp_path / "work_precision.md")
    for _, rows in (evaluations, seconds):
        assert [(row[0], row[1]) for row in rows] == [
            (problem, goal)
            for problem, goals in (
                ("Brusselator", ("1e-04", "1e-07", "1e-10")),
                ("HIRES", ("1e-03", "1e-05", "1e-07")),
                ("B1", ("1e-04", "1e-07", "1e-10")),
            )
            for goal in goals
        ]
        for row in rows:
            for peer, ratio in ((5, 6), (8, 9)):
                if row[ratio] != "—":
                    # Evaluations are shown whole, milliseconds to three digits, the ratio to two places.
                    want, got = float(row[3]) / float(row[peer]), float(row[ratio].strip("*"))
                    assert got == pytest.approx(want, rel=0.02, abs=0.006)
                    assert (got > 1.0) is row[ratio].startswith("**") or row[ratio].strip("*") == "1.00"
    _, rows = evaluations
    # A problem of two smooth equations: every goal is reached by both sides.
    assert all(row[6] != "—" for row in rows if row[0] in ("Brusselator", "B1"))
    assert {row[1].split()[0] for row in detail[1]} == {"isocline", "SciPy", "torchdiffeq"}
    for name in ("brusselator", "hires", "detest"):
        picture = tmp_path / f"work_precision-{name}.svg"
        assert picture.stat().st_size < 300_000 and ElementTree.parse(picture).getroot().tag.endswith("svg")
        assert picture.name in (tmp_path / "work_precision.md").read_text()
    assert not (tmp_path / "work_precision.json").exists()


def test_the_committed_page_names_the_command_that_made_it_and_has_its_pictures():
    page = (BENCHMARKS / "work_precision.md").read_text()
    assert "`python benchmarks/work_precision.py" in page and len(tables(page)) == 3
    named = [part.split(")")[0] for part in page.split("](")[1:]]
    assert named and all((BENCHMARKS / name).exists() for name in named)
