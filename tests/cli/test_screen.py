"""What a user sees: roles before anything is fitted, plain lines without a terminal, the verdict at the end."""

import json

import pytest
from test_bad_input import QUICK, call, rows

from isocline.cli import fit as screen


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(rows(40, header="time [s],level [V],[bold]y[/bold]"))
    return path


def test_roles_units_and_scales_come_before_the_training_and_the_verdict_last(table, tmp_path, capsys):
    code, out, err = call(capsys, "fit", table, "--out", tmp_path / "run", *QUICK)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{table}: 40 rows, 1 series"
    first = next(i for i, line in enumerate(lines) if line.startswith("choosing by"))
    head = "\n".join(lines[:first])
    assert [word in head for word in ("level [V]", "state", "linear", "1 unit = ")] == [True] * 4
    assert "[bold]y[/bold]" in head  # markup in a name stays what it is
    for phase in ("choosing by held-out blocks", "fitting the record"):
        told = [line.removeprefix(f"{phase}: ").split("  ")[0] for line in lines if line.startswith(phase)]
        assert told == ["gradient matching", *(f"windows of {5 * 2**k}" for k in range(len(told) - 2)), "whole record"]
        assert len(told) > 4
    assert any(line.startswith("penalty ") and "held-out blocks" in line for line in lines)
    assert any("inside the bands" in line for line in lines)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert lines[-3:] == [report["verdict"], report["reach"], f"report: {tmp_path / 'run' / 'report.html'}"]
    assert "\x1b" not in out


def test_that_whole_series_are_left_out_is_told(tmp_path, capsys):
    lines = rows(30).splitlines()
    series = [f"{line},{name}" for name in ("a", "b") for line in lines[1:]]
    table = tmp_path / "two.csv"
    table.write_text("\n".join([f"{lines[0]},id", *series]) + "\n")
    for penalty, first in ((("--config", QUICK[1]), "choosing"), (("--config", one_penalty(tmp_path)), "calibrating")):
        code, out, _ = call(capsys, "fit", table, "--out", tmp_path / "run", *penalty, "--overwrite")
        phases = [line.split(":")[0] for line in out.splitlines() if "  step " in line]
        order = [first, "leaving out", "fitting"]
        assert code == 0
        assert list(dict.fromkeys(phases)) == [screen.PHASES[phase] for phase in order]
        stages = json.loads((tmp_path / "run" / "report.json").read_text())["stages"]
        assert list(dict.fromkeys(stage["phase"] for stage in stages)) == order


def one_penalty(folder):
    """Settings that leave nothing to choose."""
    path = folder / "one.json"
    path.write_text(json.dumps({**json.loads(QUICK[1].read_text()), "penalty": [0.01]}))
    return path


def test_a_bar_with_loss_and_time_left_on_a_terminal(table, tmp_path, capsys, monkeypatch):
    terminal = screen.Console(highlight=False, force_terminal=True, width=100)
    monkeypatch.setattr(screen, "console", terminal)
    code, out, _ = call(capsys, "fit", table, "--out", tmp_path / "run", *QUICK)
    assert code == 0
    assert "\x1b[" in out
    assert "misfit" in out and "0:00:0" in out
    assert "step 1/" not in out


def test_many_states_are_shown_a_row_each(capsys):
    names = [f"sensor {i}" for i in range(9)]
    made = [
        {"model": m, "rmse": dict.fromkeys(names, 1.5), "nrmse": None, "mase": 2.0, "skill": 0.1}
        for m in ("one", "two")
    ]
    screen.Console(width=60).print(screen.scores(made))
    out = capsys.readouterr().out
    assert all(f"RMSE {n}" in out for n in names)
    assert "–" in out


def test_settings_come_from_a_file_and_options_go_over_them(table, tmp_path, capsys):
    config = tmp_path / "settings.json"
    config.write_text(
        json.dumps({"iterations": 2, "polish": 2, "members": 0, "blocks": 0, "seed": 5, "hidden": [8], "hold_out": 0.3})
    )
    tokens = ["fit", table, "--out", tmp_path / "run", "--config", config, "--seed", 7, "--ignore", "[bold]y[/bold]"]
    assert call(capsys, *tokens)[0] == 0
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (kept["iterations"], kept["seed"], kept["hidden"], kept["hold_out"]) == (2, 7, [8], 0.3)
    assert kept["states"] == ["level [V]"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "expected a JSON object"),
        ('{"iteration": 5}', "no setting 'iteration'; did you mean 'iterations'?"),
        ('{"hidden": "wide"}', "hidden='wide'"),
    ],
)
def test_a_bad_settings_file_is_named(table, tmp_path, capsys, content, says):
    (tmp_path / "settings.json").write_text(content)
    code, _, err = call(capsys, "fit", table, "--out", tmp_path / "run", "--config", tmp_path / "settings.json")
    assert code == 2 and says in err and len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_resume_takes_its_settings_from_the_run(table, tmp_path, capsys):
    call(capsys, "fit", table, "--out", tmp_path / "run", *QUICK)
    code, _, err = call(capsys, "fit", "--resume", tmp_path / "run", "--seed", 3)
    assert code == 2 and "--resume takes all settings from the run" in err
    moved = table.rename(tmp_path / "moved.csv")
    assert call(capsys, "fit", moved, "--resume", tmp_path / "run")[0] == 0


def test_a_prediction_goes_where_it_is_asked_to_and_nowhere_else(table, tmp_path, capsys):
    call(capsys, "fit", table, "--out", tmp_path / "run", *QUICK)
    code, _, err = call(capsys, "predict", tmp_path / "run", "--until", 12, "--out", tmp_path / "no" / "p.csv")
    assert code == 2 and "expected a file in a folder that exists" in err
    code, out, _ = call(capsys, "predict", tmp_path / "run", "--until", 12)
    assert code == 0 and out == f"9 rows: {tmp_path / 'run' / 'prediction.csv'}\n"
