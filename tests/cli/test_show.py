"""`isocline show` and `isocline compare`: what runs have found, and runs that can and cannot stand side by side."""

import json
import shutil

import numpy as np
import pages
import pytest
from test_bad_input import call

from isocline.cli.show import columns
from isocline.fit import Config, UserError, compare, fit

QUICK = {"hidden": (8,), "matching": 30, "iterations": 4, "polish": 8, "starts": 1, "penalty": (1e-2,)}
QUICK |= {"members": 0, "blocks": 0}
BANDS = {"members": 3, "blocks": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders: two seeds, equations, another scale, another held-out part, one state alone, nothing held out."""
    folder = tmp_path_factory.mktemp("runs")
    t = np.arange(50) * 0.3
    y = np.stack([3 + np.exp(-0.05 * t) * np.cos(t), np.exp(-0.05 * t) * np.sin(t)], 1)
    y += 0.02 * np.random.default_rng(0).standard_normal(y.shape)
    text = "\n".join(["t [s],a [m],b", *(f"{s:.3f},{a:.6f},{b + 2:.6f}" for s, (a, b) in zip(t, y, strict=True))])
    (folder / "t.csv").write_text(text + "\n")
    settings = {
        "first": BANDS,
        "second": {"seed": 1},
        "equations": {"equations": ("da = -k*(a - 3) - w*(b - 2); db = w*(a - 3) - k*(b - 2)",), "penalty": (0.0,)},
        "log": {"scale": "log"},
        "longer": {"hold_out": 0.3},
        "one": {"states": ("b",), "ignore": ("a [m]",)},
        "none": {"hold_out": 0.0},
    }
    for name, own in settings.items():
        config = {k: v for k, v in {**QUICK, **own}.items() if not (name == "equations" and k in ("hidden", "penalty"))}
        fit(folder / "t.csv", Config.make(**config), folder / name)
    return folder


# ---- show -------------------------------------------------------------------------------------------------------------
def test_show_prints_what_the_report_says(runs, capsys):
    code, out, err = call(capsys, "show", runs / "first")
    report = json.loads((runs / "first" / "report.json").read_text())
    assert (code, err) == (0, "")
    assert "a neural ODE fitted on" in out and "linear ODE" in out and "MASE" in out
    assert all(f"│ {name}" in out for name in ("a", "b", "t"))
    skill = report["horizons"]["skill"]["linear ODE"][0]
    assert f"{100 * skill:.0f} %" in out
    assert f"{report['bands']['held_out']['80']['score']:.3g}" in out
    lines = out.splitlines()
    assert report["verdict"] in lines and report["reach"] in lines
    assert lines[-1] == f"report: {runs / 'first' / 'report.html'}"


def test_show_has_the_equations_with_the_intervals_of_their_parameters(runs, capsys):
    code, out, _ = call(capsys, "show", runs / "equations")
    assert code == 0 and "da/dt = -k*(a - 3) - w*(b - 2)" in out and "95 % interval" in out


def test_figures_are_files_when_they_are_asked_for(runs, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(runs / "one", run)
    assert "isocline show RUN --figures" in pages.page(runs / "one" / "report.html") and not (run / "figures").exists()
    code, out, _ = call(capsys, "show", run, "--figures")
    names = sorted(p.name for p in (run / "figures").iterdir())
    assert code == 0 and out.splitlines()[-1] == f"figures: {len(names)} files in {run / 'figures'}"
    assert {"trajectories.pdf", "trajectories.svg", "training.svg"} <= set(names)


def test_show_tells_inputs_and_hidden_states():
    one = {"unit": "V", "scale": {"kind": "linear"}}
    table = {"time": {"name": "t", "unit": ""}, "id": None, "inputs": [{"name": "pump", "unit": "V"}]}
    table["states"] = [{"name": "level", **one}, {"name": "hidden 1", **one}]
    names, roles, *_ = (list(map(str, column.cells)) for column in columns(table, ["hidden 1"]).columns)
    assert dict(zip(names, roles, strict=True)) == {
        "t": "time", "level": "state", "hidden 1": "hidden state", "pump": "input",
    }  # fmt: skip


def test_show_works_where_nothing_was_held_out(runs, capsys):
    code, out, _ = call(capsys, "show", runs / "none")
    assert code == 0 and "Nothing was held out" in out and "skill" not in out


def test_what_is_no_finished_run_is_said_in_one_line(runs, tmp_path, capsys):
    for break_, says in (
        (lambda run: (run / "config.json").unlink(), "not a run"),
        (lambda run: (run / "report.json").unlink(), "no report yet; finish it with: isocline fit --resume"),
        (lambda run: (run / "report.json").write_text("{"), "not the report of a run"),
        (lambda run: (run / "report.json").write_text('{"isocline": "0.1"}'), "of an earlier isocline (0.1)"),
    ):
        shutil.copytree(runs / "first", tmp_path / "run", dirs_exist_ok=True)
        break_(tmp_path / "run")
        code, _, err = call(capsys, "show", tmp_path / "run")
        assert code == 2 and says in err and len(err.splitlines()) == 1


# ---- compare ----------------------------------------------------------------------------------------------------------
def test_runs_with_the_same_held_out_part_stand_side_by_side(runs, tmp_path, capsys):
    page = tmp_path / "both.html"
    code, out, err = call(capsys, "compare", runs / "first", runs / "equations", "--out", page)
    assert (code, err) == (0, "")
    compared = compare([runs / "first", runs / "equations"])
    assert compared["measure"] == "nrmse" and compared["best"] == "equations"
    assert compared["sentence"] in out.splitlines()
    assert "first" in out and "persistence" in out and "autoregression" in out
    text = page.read_text()
    assert text.count("<svg") == 3 and "http" not in text.replace("http://www.w3.org", "") and "What differs" in text
    assert "equations" in text and compared["sentence"] in text
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.html", "both.png"]


def test_scores_side_by_side_are_those_of_the_reports(runs):
    compared = compare([runs / "first", runs / "second"])
    for row, name in zip(compared["rows"], ("first", "second"), strict=False):
        report = json.loads((runs / name / "report.json").read_text())
        assert row["run"] == name and row["nrmse"] == report["scores"][0]["nrmse"]
        assert (row["coverage"] or {}).get("80") == (report["bands"] or {}).get("coverage", {}).get("80")
    assert compared["rows"][0]["coverage"]["95"] > 0.5
    assert [row["model"] for row in compared["rows"][2:4]] == ["persistence", "mean"]
    assert [row["run"] for row in compared["rows"][2:]] == [None] * (len(compared["rows"]) - 2)


def test_runs_in_different_coordinates_are_compared_by_what_units_do_not_change(runs, capsys, tmp_path):
    compared = compare([runs / "first", runs / "log"])
    assert not compared["scaled"] and compared["measure"] == "mase" and "nrmse" not in compared["rows"][0]
    code, out, _ = call(capsys, "compare", runs / "first", runs / "log", "--out", tmp_path / "c.html")
    assert code == 0 and "scale their states differently" in out and "NRMSE" not in out.replace("their NRMSE", "")
    assert "scale their states differently" in (tmp_path / "c.html").read_text()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["first", "longer"], "hold_out is 0.3, not 0.2"),
        (["first", "one"], "the states are b, not a [m], b"),
        (["first", "none"], "the run held nothing out"),
        (["first"], "give two runs or more"),
        (["first", "first"], "given twice"),
        (["first", "nowhere"], "not a run"),
    ],
)
def test_runs_that_cannot_be_compared_say_why_in_one_line(runs, capsys, tmp_path, names, says):
    code, _, err = call(capsys, "compare", *(runs / n for n in names), "--out", tmp_path / "c.html")
    assert code == 2 and says in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_another_table_with_other_held_out_rows_is_named(runs, tmp_path):
    other = tmp_path / "other.csv"
    lines = (runs / "t.csv").read_text().splitlines()
    other.write_text("\n".join([*lines[:-1], lines[-1][:-1] + "9"]) + "\n")
    fit(other, Config.make(**QUICK), tmp_path / "run")
    with pytest.raises(UserError, match=r"the tables are .*other\.csv and .*t\.csv, and their held-out rows differ"):
        compare([runs / "first", tmp_path / "run"])
