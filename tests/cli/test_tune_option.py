"""`isocline fit --tune`: trials on the screen, and what `isocline show` and the report say of them."""

import json

import pages
import pytest
from test_bad_input import call, rows


def test_a_tuned_run_tells_that_it_was_and_over_what(tmp_path, capsys):
    pytest.importorskip("optuna")
    table, run = tmp_path / "table.csv", tmp_path / "run"
    table.write_text(rows(30))
    small = {"hidden": [4], "penalty": [0.01], "matching": 10, "iterations": 1, "polish": 4, "starts": 1, "members": 0}
    (tmp_path / "small.json").write_text(json.dumps({**small, "blocks": 2}))
    code, out, err = call(capsys, "fit", table, "--out", run, "--config", tmp_path / "small.json", "--tune", 2)
    assert (code, err) == (0, "")
    assert "trial 1 of 2: error" in out and "(as given)" in out and "trial 2 of 2: error" in out
    (said,) = [line for line in out.splitlines() if line.startswith("tuned by 2 trials over window, continuity")]
    _, shown, _ = call(capsys, "show", run)
    assert said in shown.splitlines()
    assert "Tuned by 2 trials over window, continuity" in pages.page(run / "report.html")
    assert json.loads((run / "report.json").read_text())["tuning"]["trials"] == 2
