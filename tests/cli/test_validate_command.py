"""`isocline validate`: the options of fit, folds on the screen, the tables at the end."""

import html
import json

import pytest
from test_bad_input import QUICK, call, rows


def test_a_validation_takes_the_options_of_fit_and_shows_its_folds(tmp_path, capsys):
    table, out = tmp_path / "table.csv", tmp_path / "v"
    table.write_text(rows(40))
    asked = ["validate", table, "--future", 2, "--out", out, *QUICK, "--state", "x", "--seed", 3]
    code, text, err = call(capsys, *asked)
    assert (code, err) == (0, "")
    found = json.loads((out / "validation.json").read_text())
    assert found["config"]["states"] == ["x"] and found["config"]["seed"] == 3
    assert "fold 1 of 2, from 5: 20 rows teach, 10 judge" in text and text.count("role") == 1
    assert found["verdict"] in text.splitlines() and "autoregression" in text and "in 95 %" in text
    page = (out / "validation.html").read_text()
    assert found["verdict"] in html.unescape(page) and "the future left out, from 2 rolling origins" in page
    assert all(line["name"] in page for line in found["folds"]) and "in 95 % band" in page
    code, again, _ = call(capsys, "show", out)
    assert code == 0 and again == text[text.index("fold by fold") :]


def test_bad_options_are_refused_in_one_line(tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text(rows(40))
    for options, says in (
        (["--hold-out", "0.3"], "holds out by itself"),
        (["--resume", tmp_path], "the same command goes on"),
        (["--sed", "3"], "--sed"),
        (["--series"], "holds one series"),
    ):
        code, _, err = call(capsys, "validate", table, "--out", tmp_path / "v", *options)
        assert code == 2 and says in err and len(err.splitlines()) == 1
    code, _, err = call(capsys, "validate")
    assert code == 2 and "give a table to validate" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv"]


@pytest.mark.parametrize("command", ["validate", "demo", "bench", "reproduce"])
@pytest.mark.parametrize("rank", [0, 1])
def test_several_processes_do_not_write_the_same_files(tmp_path, capsys, monkeypatch, command, rank):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    code, out, err = call(capsys, command, "table.csv")
    assert code == 2 and not out and not list(tmp_path.iterdir())
    says = f"isocline: {command}: expected one process, torchrun started 2; of the commands fit shares its work among several"
    assert err.splitlines() == ([says] if rank == 0 else [])
