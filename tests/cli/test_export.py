"""`isocline export`: the files forecast what `isocline predict` does, in the table's units."""

import ctypes
import json
import math
import shutil
import subprocess
import sys

import pages
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_bad_input import call

from isocline.fit import Config, fit, predict
from isocline.fit.fitted import Fitted

CC, NODE = shutil.which("cc") or shutil.which("gcc"), shutil.which("node")
EVIL = 'gro*/wth <script> $b "'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a table with a column that is fitted as logarithm, and a name nobody should have to escape."""
    folder = tmp_path_factory.mktemp("export")
    lines = [f"time [h],{EVIL},y [mV]"]
    for i in range(60):
        t = 100 + 0.25 * i
        lines.append(f"{t},{math.exp(1.5 * math.sin(t) - 0.5 * math.cos(3 * t)):.6f},{-40 + 9 * math.cos(t):.5f}")
    (folder / "table.csv").write_text("\n".join(lines))
    fit(
        folder / "table.csv",
        Config(iterations=5, polish=10, starts=1, blocks=0, members=0, scale="auto"),
        folder / "run",
    )
    return folder / "run"


def forecast(run):
    """Times and rows of `predict`, with the start."""
    _, rows, _ = predict(run, until="118")
    (start,) = json.loads((run / "states.json").read_text()).values()
    kept = json.loads((run / "config.json").read_text())["scales"]
    kinds = [s["kind"] for s in kept["states"]]
    assert kinds == ["log", "linear"]
    x = [v * s["sd"] + s["mean"] for v, s in zip(start["state"], kept["states"], strict=True)]
    y0 = [math.exp(v) if kind == "log" else v for v, kind in zip(x, kinds, strict=True)]
    return y0, [start["t"], *(float(row[0]) for row in rows)], [row[1:] for row in rows]


@pytest.mark.skipif(CC is None, reason="no C compiler found (cc or gcc)")
def test_the_c_file_forecasts_what_predict_does(run, tmp_path, capsys):
    code, out, err = call(capsys, "export", run, "--target", "c", "--out", tmp_path / "m.c")
    assert code == 0 and str(tmp_path / "m.c") in out, err
    assert [p.name for p in tmp_path.iterdir()] == ["m.c"]
    source = (tmp_path / "m.c").read_text()
    assert "y [mV]" in source and "time [h]" in source
    command = [CC, "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run([*command, tmp_path / "m.c", "-o", tmp_path / "m.so", "-lm"], check=True)
    y0, ts, want = forecast(run)
    ys = (ctypes.c_double * (2 * len(ts)))()
    solve = ctypes.CDLL(str(tmp_path / "m.so")).model_solve
    status = solve((ctypes.c_double * 2)(*y0), (ctypes.c_double * len(ts))(*ts), len(ts), ys, None, None)
    assert status == 0 and len(want) > 10
    torch.testing.assert_close(torch.tensor(list(ys)).view(-1, 2)[1:], torch.tensor(want), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(NODE is None, reason="no node found to run JavaScript")
def test_the_module_forecasts_what_predict_does(run, tmp_path, capsys):
    code, _, err = call(capsys, "export", run, "--target", "js", "--solver", "dopri5")
    assert code == 0, err
    assert "dopri5" in (run / "model.mjs").read_text() and not list(run.glob("*.tmp"))
    y0, ts, want = forecast(run)
    (tmp_path / "go.mjs").write_text(
        f'import {{ solve }} from "{run / "model.mjs"}";\nconsole.log(JSON.stringify(solve({y0}, {ts})));'
    )
    found = json.loads(subprocess.run([NODE, tmp_path / "go.mjs"], check=True, capture_output=True).stdout)
    assert found["status"] == 0
    torch.testing.assert_close(torch.tensor(found["ys"][1:]), torch.tensor(want), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_exported_is_refused_in_one_message(run, tmp_path, capsys):
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text((run / "config.json").read_text())
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    weights = load_file(broken / "model.safetensors")
    save_file({k: v * torch.nan for k, v in weights.items()}, broken / "model.safetensors")
    for tokens, says in (
        ([run], "target"),
        ([run, "--target", "fortran"], "--target fortran: expected c, js, onnx, torch, equations or safetensors"),
        ([tmp_path / "nowhere", "--target", "c"], "not a run"),
        ([half, "--target", "c"], "--resume"),
        ([run, "--target", "c", "--out", tmp_path / "no" / "m.c"], "folder that exists"),
        ([run, "--target", "c", "--solver", "rk5"], "is no solver"),
        ([run, "--target", "c", "--solver", "rk4"], "cannot choose its steps"),
        ([run, "--target", "js", "--solver", "kvaerno3"], "'kvaerno3' cannot be exported"),
        ([broken, "--target", "js"], "is nan"),
        (
            [run, "--target", "onnx", "--solver", "kvaerno3"],
            "is no explicit Runge–Kutta method; expected one such as rk4",
        ),
        ([run, "--target", "torch", "--solver", "rk5"], "is no solver"),
        ([run, "--target", "safetensors", "--solver", "rk4"], "--target safetensors solves nothing"),
        ([run, "--target", "equations"], "its field is a network, not equations"),
    ):
        code, out, err = call(capsys, "export", *tokens)
        assert code == 2 and says in err, (tokens, err)
        assert "Traceback" not in out + err and len(err.strip().splitlines()) == 1
    assert not (half / "model.c").exists() and not (run / "model.c").exists()


def test_the_report_carries_the_model(run):
    page = pages.page(run / "report.html")
    assert page.count('<script type="module">') == 1 and page.count("</script") == 1 and "export function solve" in page
    assert "$b" in page and "data-frame" in page


def test_both_graphs_forecast_what_predict_does(run, tmp_path, capsys):
    y0, ts, want = forecast(run)
    starts = torch.tensor([y0, [1.3, -36.0], y0], dtype=torch.float64)
    times = torch.tensor(ts, dtype=torch.float64)
    code, out, err = call(capsys, "export", run, "--target", "torch", "--out", tmp_path / "m.pt2")
    assert code == 0 and "equal steps between two times: within" in out, err
    program = torch.export.load(tmp_path / "m.pt2").module()
    ys = program(starts, times)
    # Steps are chosen to miss by 1e-6 standard deviations each, and predict's errors are as large.
    torch.testing.assert_close(ys[1:, 0], torch.tensor(want, dtype=torch.float64), rtol=2e-5, atol=2e-5)
    assert torch.equal(ys[:, 0], ys[:, 2]) and torch.allclose(ys[0], starts, rtol=1e-12)
    torch.testing.assert_close(
        program(starts[:1], times[[0, 5]])[1, 0], ys[5, 0], rtol=1e-2, atol=1e-2
    )  # one long interval

    session_of = pytest.importorskip("onnxruntime", reason="no onnxruntime to run the graph").InferenceSession
    pytest.importorskip("onnxscript", reason="no onnxscript to write the graph")
    code, out, err = call(capsys, "export", run, "--target", "onnx")
    assert code == 0 and str(run / "model.onnx") in out, err
    session = session_of(str(run / "model.onnx"))
    assert b"isocline/" not in (run / "model.onnx").read_bytes()  # no path of this computer is told
    assert [(x.name, x.shape) for x in session.get_inputs()] == [("y0", ["batch", 2]), ("ts", ["times"])]
    told = session.get_modelmeta().custom_metadata_map
    assert (
        json.loads(told["states"])[1] == "y [mV]" and told["time"] == "time [h]" and told["solver"].startswith("rk4, ")
    )
    (got,) = session.run(["ys"], {"y0": starts.numpy(), "ts": times.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), ys, rtol=1e-9, atol=1e-9)


def test_what_a_graph_needs_is_said(run, monkeypatch, capsys):
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    code, _, err = call(capsys, "export", run, "--target", "torch")
    assert code == 2 and "needs PyTorch 2.13 or newer, found 2.6.0" in err
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, err = call(capsys, "export", run, "--target", "onnx")
    assert code == 2 and "pip install 'isocline[onnx]'" in err and len(err.strip().splitlines()) == 1


def test_the_weights_tell_what_they_are(run, capsys):
    code, out, _ = call(capsys, "export", run, "--target", "safetensors")
    assert code == 0 and "bytes" in out
    with safe_open(run / "weights.safetensors", "pt") as file:
        told, names = file.metadata(), list(file.keys())
        wanted = Fitted.read(run).field.state_dict()
        assert sorted(names) == sorted(wanted) and all(torch.equal(file.get_tensor(k), v) for k, v in wanted.items())
    scales = json.loads(told["scales"])
    assert (
        scales == json.loads((run / "config.json").read_text())["scales"] and json.loads(told["states"])[1] == "y [mV]"
    )
    assert json.loads(told["config"])["hidden"] == [32] and "linear.weight z" in told["model"]
