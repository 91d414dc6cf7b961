"""isocline fit --input … --hold … --hidden-states …, isocline predict --inputs …: what is shown and what is refused."""

import json
import math

import pytest
from test_bad_input import call

QUICK = {"hidden": [4], "matching": 20, "iterations": 2, "polish": 4, "starts": 1, "members": 0, "blocks": 0}


@pytest.fixture
def table(tmp_path):
    """A level that follows a pump, slowly."""
    level, rows = 1.0, []
    for i in range(40):
        pump = 1.0 if i // 5 % 2 else 0.2
        rows.append(f"{i},{level + 0.01 * math.sin(7 * i):.6f},{pump}\n")
        level += 0.3 * (2 * pump - level)
    (tmp_path / "quick.json").write_text(json.dumps(QUICK))
    path = tmp_path / "tank.csv"
    path.write_text("t,level [V],pump\n" + "".join(rows))
    return path


def test_roles_are_shown_and_a_forecast_asks_for_the_inputs_it_needs(table, tmp_path, capsys):
    options = ("--input", "pump", "--hold", "linear", "--hidden-states", "1", "--config", tmp_path / "quick.json")
    code, out, _ = call(capsys, "fit", table, *options, "--out", tmp_path / "run")
    assert code == 0
    assert any("pump" in line and "input" in line for line in out.splitlines())
    assert any("hidden 1" in line and "hidden state" in line for line in out.splitlines())
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (kept["states"], kept["inputs"], kept["hidden_states"]) == (["level [V]"], ["pump"], ["hidden 1"])
    assert kept["hold"] == "linear"
    code, _, err = call(capsys, "predict", tmp_path / "run", "--until", 45)
    assert code == 2 and "the inputs 'pump' are known up to 39 and needed up to 45" in err and "--inputs FILE" in err
    (tmp_path / "later.csv").write_text("t,pump\n40,1\n45,1\n")
    code, _, _ = call(capsys, "predict", tmp_path / "run", "--until", 45, "--inputs", tmp_path / "later.csv")
    assert code == 0
    lines = (tmp_path / "run" / "prediction.csv").read_text().splitlines()
    assert lines[0] == "t,level [V],hidden 1" and len(lines) == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--input", "pumps"), "no column 'pumps'; did you mean 'pump'?"),
        (("--input", "pump", "--state", "pump"), "column 'pump' was given two roles"),
        (("--input", "pump", "--hold", "steps"), "hold='steps'"),
        (("--hidden-states", "pump"), "--hidden-states pump: 'pump' is a column"),
        (("--input", "pump", "--equation", "d`level` = -k*levl + pump"), "did you mean level"),
    ],
)
def test_what_cannot_be_is_one_message(table, tmp_path, capsys, options, says):
    code, _, err = call(capsys, "fit", table, *options, "--out", tmp_path / "run")
    assert code == 2 and says in err and not (tmp_path / "run").exists()
