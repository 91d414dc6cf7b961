"""`isocline fit` and what follows it, of equations whose series differ."""

import json
import math
import re
import shutil
import subprocess

import pandas as pd
import pytest
import torch
from test_bad_input import call

from isocline import Equations
from isocline.cli import main
from isocline.fit import Config, resume
from isocline.fit.run import fit

MODEL = ("--equation", "dcentral = -k*central; conc = central/v; central(0) = 0", "--dose", "amt->central")
PARAMETERS = ("--parameter", "k = 0.3 > 0 per series unit 1/h", "--parameter", "v = 20 > 0 unit L")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a fit of five subjects, the last held out."""
    folder = tmp_path_factory.mktemp("people")
    lines = ["id,time,amt,conc"]
    for i, k in enumerate((0.15, 0.2, 0.22, 0.28, 0.18)):
        lines.append(f"{i},0,100,")
        lines += [f"{i},{t},0,{4 * math.exp(-k * t) + 0.05 * (-1) ** (i + t):.4f}" for t in (1, 2, 4, 8, 11)]
    (folder / "pk.csv").write_text("\n".join(lines))
    options = (*MODEL, *PARAMETERS, "--hold-out", "series:4", "--out", str(folder / "run"))
    with pytest.raises(SystemExit) as done:
        main(["fit", str(folder / "pk.csv"), *options])
    assert done.value.code == 0
    return folder / "run"


def test_a_fit_ends_with_scores_parameters_and_a_sentence(run, capsys):
    code, shown, _ = call(capsys, "show", run)
    assert code == 0
    for part in ("dose into central", "population model", "typical", "shrinkage", "held-out part"):
        assert part in shown


def test_a_forecast_has_bands_wider_where_less_is_known(run, capsys):
    """Of a series of the run, of one with two rows, and of a new one without any."""
    (run.parent / "new.csv").write_text("id,time,amt\nnew,0,100\n")
    (run.parent / "times.csv").write_text("id,time\n0,6\n4,6\nnew,6\n")
    code, _, _ = call(
        capsys, "predict", run, "--times", run.parent / "times.csv", "--inputs", run.parent / "new.csv", "--bands"
    )
    assert code == 0
    rows = pd.read_csv(run / "prediction.csv").set_index("id")
    width = (rows["conc high95"] - rows["conc low95"]).to_dict()
    assert width["0"] < 0.75 * width["4"] < 0.9 * width["new"]
    for low, high in (("low95", "low80"), ("low80", "high80"), ("high80", "high95")):
        assert (rows[f"conc {low}"] < rows[f"conc {high}"]).all()
    assert rows["conc"].between(rows["conc low80"], rows["conc high80"]).all()


def test_the_typical_series_is_exported(run, capsys, tmp_path):
    code, told, _ = call(capsys, "export", run, "--target", "js")
    assert code == 0 and "conc = central/" in told and "a dose is added" in told
    code, _, _ = call(capsys, "export", run, "--target", "equations", "--out", tmp_path / "typical.txt")
    text = (tmp_path / "typical.txt").read_text()
    values = {k: float(v) for k, v in re.findall(r"--parameter '(\w) = ([\d.e-]+)", text)}
    known = json.loads((run / "population.json").read_text())["values"]
    assert code == 0 and values == pytest.approx(known)
    field = Equations(text)  # comments and all
    assert field(torch.tensor(0.0), torch.tensor([2.0], dtype=torch.float64)).item() == pytest.approx(-2 * known["k"])
    code, _, error = call(capsys, "export", run, "--target", "onnx")
    assert code == 2 and "expected equations, c or js, of the typical series" in error
    page = "import {solve} from './model.mjs'; console.log(JSON.stringify(solve([100], [0, 5])))"
    if shutil.which("node"):
        done = subprocess.run(
            ["node", "--input-type=module", "-e", page], cwd=run, capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout)["ys"][-1][0] == pytest.approx(100 * math.exp(-5 * known["k"]), rel=1e-5)


def test_a_broken_fit_is_gone_on_with_to_the_numbers_of_an_unbroken_one(run, tmp_path):
    known, asked = json.loads((run / "report.json").read_text()), []
    out = tmp_path / "run"
    settings = {k: v for k, v in known["config"].items() if k in ("equations", "parameters", "doses", "hold_out")}
    broken = fit(run.parent / "pk.csv", Config(**settings), out, stop=lambda: asked.append(True) or len(asked) > 1)
    assert broken["stopped"] == "interrupted" and "the search did not end" in " ".join(broken["parameters"]["notes"])
    whole = resume(out)
    assert whole["stopped"] == "done"
    assert whole["parameters"] == known["parameters"] and whole["scores"] == known["scores"]


def test_a_population_is_cross_validated_series_by_series(run, capsys, tmp_path):
    table, out = run.parent / "pk.csv", tmp_path / "v"
    code, told, _ = call(
        capsys, "validate", table, "--series", "--folds", "2", *MODEL, *PARAMETERS, "--error", "additive", "--out", out
    )
    assert code == 0 and "Without the series' own rows" in told
    found = json.loads((out / "validation.json").read_text())
    assert [row["model"] for row in found["scores"]] == ["population model", "typical series", "persistence", "mean"]
    assert "compared with the typical series" not in found["verdict"] and set(found["coverage"]) == {"80", "95"}
    assert "series left out in 2 groups" in (out / "validation.html").read_text()
