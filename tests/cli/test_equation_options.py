"""isocline fit --equation … --parameter …: what is shown, what is refused, and the configuration file."""

import json
import math

import pytest
from test_bad_input import call

DECAY = "t,x\n" + "".join(f"{i},{2 * math.exp(-i / 9) + 0.01 * math.sin(7 * i):.6f}\n" for i in range(30))
QUICK = {"iterations": 5, "polish": 20, "starts": 2, "members": 3, "blocks": 2}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "decay.csv"
    path.write_text(DECAY)
    return path


def test_the_parameters_are_shown_with_their_errors_and_in_the_report(table, tmp_path, capsys):
    (tmp_path / "quick.json").write_text(json.dumps(QUICK))
    options = (
        "--equation",
        "dx = -k*x",
        "--parameter",
        "k = 0.3 in [0, 5] unit 1/h",
        "--config",
        tmp_path / "quick.json",
        "--out",
        tmp_path / "run",
    )
    code, out, _ = call(capsys, "fit", table, *options)
    assert code == 0
    assert "parameters" in out and "± error" in out and "95 % interval" in out and "1/h" in out
    (row,) = json.loads((tmp_path / "run" / "report.json").read_text())["parameters"]["rows"]
    assert f"{row['value']:.4g}" in out
    assert row["value"] == pytest.approx(1 / 9, abs=4 * row["error"])
    code, out, _ = call(capsys, "predict", tmp_path / "run", "--until", 40, "--bands")
    assert code == 0 and (tmp_path / "run" / "prediction.csv").exists()


def test_a_configuration_file_says_the_same(table, tmp_path, capsys):
    settings = {"equations": ["r = k*x; dx = -r"], "parameters": ["k > 0"], **QUICK}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    code, _, _ = call(capsys, "fit", table, "--config", tmp_path / "config.json", "--out", tmp_path / "run")
    assert code == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["parameters"]["equations"] == ["r = k*x", "dx/dt = -r"]


@pytest.mark.parametrize(
    ("equation", "parameter", "says"),
    [
        ("dx = -k*(x", "k", "  dx = -k*(x\n            ^"),
        ("dx = -k*x", "k = 9 in [0, 5]", "starts at 9, expected a number between its bounds 0 and 5"),
        ("dy = -k*x", "k", "did you mean"),
    ],
)
def test_what_cannot_be_is_one_message_with_the_character(table, tmp_path, capsys, equation, parameter, says):
    code, _, err = call(
        capsys, "fit", table, "--equation", equation, "--parameter", parameter, "--out", tmp_path / "run"
    )
    assert code == 2 and not (tmp_path / "run").exists()
    assert says in err or "no equation for the state x" in err
    assert "Traceback" not in err
