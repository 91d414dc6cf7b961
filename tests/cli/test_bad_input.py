"""Bad tables and options: exit code 2, one message, no traceback, nothing left behind. And what must simply work."""

import json
import math
from pathlib import Path

import pages
import pytest

from isocline.cli import main

QUICK = ("--config", Path(__file__).with_name("quick.json"))  # seconds, not a good fit


def call(capsys, *tokens):
    """(exit code, stdout, stderr) of a command."""
    with pytest.raises(SystemExit) as done:
        main([str(t) for t in tokens])
    out = capsys.readouterr()
    return done.value.code, out.out, out.err


def rows(n=30, header="time,x,y", separator=",", decimal=".", newline="\n", columns=2):
    def cell(v):
        return f"{v:.4f}".replace(".", decimal)

    lines = [header]
    for i in range(n):
        values = [i * 0.25] + [math.sin(0.25 * i + k) + 0.1 * k for k in range(columns)]
        lines.append(separator.join(cell(v) for v in values))
    return newline.join(lines) + newline


def with_cell(line, column, text, **kw):
    lines = rows(**kw).splitlines()
    cells = lines[line - 1].split(",")
    cells[column] = text
    lines[line - 1] = ",".join(cells)
    return "\n".join(lines) + "\n"


BAD = {
    "empty": ("", "empty"),
    "only spaces": ("  \n \n", "empty"),
    "binary": (b"\x00\x01\x02\xff" * 50, "not a table"),
    "no separator": ("just a line of text\nand another\n", "not a table"),
    "single row": (rows(1), "1 row"),
    "header only": ("time,x\n", "0 rows"),
    "no numeric column": ("time,name\n" + "".join(f"{i},a{i}\n" for i in range(10)), "no numeric column"),
    "text in a number": (with_cell(7, 1, "high"), "line 7, column 'x': 'high'"),
    "inf in a number": (with_cell(9, 2, "inf"), "line 9, column 'y': 'inf'"),
    "minus infinity": (with_cell(9, 2, "-Infinity"), "line 9, column 'y'"),
    "repeated time": (with_cell(6, 0, "0.7500"), "line 6, column 'time'"),
    "unsorted time": (with_cell(6, 0, "0.1000"), "line 6, column 'time'"),
    "missing time": (with_cell(6, 0, ""), "line 6, column 'time'"),
    "constant": ("time,x\n" + "".join(f"{i},5.0\n" for i in range(20)), "column 'x' is 5 in every row"),
    "no time": ("a,b\n" + "".join(f"{(-1) ** i},{i % 3}\n" for i in range(20)), "--time"),
    "same name twice": ("time,x,x\n" + "".join(f"{i},{i % 3},{i % 5}\n" for i in range(20)), "'x'"),
    "nothing measured": ("time,x\n" + "".join(f"{i},\n" for i in range(20)), "'x'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_refused_in_one_message(name, tmp_path, capsys):
    content, says = BAD[name]
    table = tmp_path / "table.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = call(capsys, "fit", table, "--out", tmp_path / "run")
    assert code == 2 and says in err and "table.csv" in err
    assert "Traceback" not in out + err and len(err.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv"]


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["fit", "nowhere.csv"], "no such file"),
        (["fit"], "give a table"),
        (["fit", "{table}", "--state", "z"], "no column 'z'"),
        (["fit", "{table}", "--state", "xx"], "did you mean 'x'?"),
        (["fit", "{table}", "--time", "tme"], "did you mean 'time'?"),
        (["fit", "{table}", "--scale", "cubic"], "scale"),
        (["fit", "{table}", "--hold-out", "2"], "hold"),
        (["fit", "{table}", "--hold-out", "soon"], "hold"),
        (["fit", "{table}", "--hold-out", "series:b"], "series:b"),
        (["fit", "{table}", "--iterations", "-1"], "iterations"),
        (["fit", "{table}", "--iterations", "many"], "iterations"),
        (["fit", "{table}", "--no-such-option", "1"], "no-such-option"),
        (["fit", "--resume", "{folder}"], "not a run"),
        (["fit", "{table}", "--config", "nowhere.json"], "nowhere.json"),
        (["predict", "{folder}", "--until", "9"], "not a run"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_bad_option_is_named(tokens, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text(rows())
    (tmp_path / "folder").mkdir()
    code, out, err = call(capsys, *[t.format(table="table.csv", folder="folder") for t in tokens])
    assert code == 2 and says in err and "Traceback" not in out + err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "table.csv"]


GOOD = {
    "byte-order mark": ("﻿" + rows()).encode("utf-8"),
    "carriage returns": rows(newline="\r\n").encode(),
    "decimal commas": rows(separator=";", decimal=",").encode(),
    "tabs": rows(separator="\t", header="time\tx\ty").encode(),
    "UTF-16": rows().encode("utf-16"),
    "Latin-1 header": rows(header="time,Höhe [µm],y").encode("cp1252"),
    "markup in a name": rows(header='time,<b>x</b><script>alert(1)</script>,"y & z"').encode(),
    "empty cells": with_cell(8, 1, "").encode(),
    "dates": ("date,x\n" + "".join(f"2024-01-{i + 1:02d},{math.sin(i / 3):.3f}\n" for i in range(28))).encode(),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_table_written_otherwise_is_read(name, tmp_path, capsys):
    table = tmp_path / "table.csv"
    content = GOOD[name]
    if name == "decimal commas":
        content = content.replace(b"time,x,y", b"time;x;y")
    table.write_bytes(content)
    run = tmp_path / "run"
    code, _, err = call(capsys, "fit", table, "--out", run, *QUICK)
    assert code == 0, err
    report = json.loads((run / "report.json").read_text())
    assert {s["model"] for s in report["scores"]} >= {
        "neural ODE",
        "persistence",
        "mean",
        "linear ODE",
        "autoregression",
    }
    assert report["table"]["rows"] in (28, 30)
    if name == "markup in a name":
        assert "<script>alert" not in pages.page(run / "report.html")
    values = [v for row in report["series"][0]["y"] for v in row if v is not None]
    assert max(map(abs, values)) < 1.3
