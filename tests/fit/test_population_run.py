"""`isocline fit` of equations whose series differ: from a table with doses and covariates to a report."""

import json

import numpy as np
import pages
import pandas as pd
import pytest

from isocline.cli.show import show_command
from isocline.fit import Config, UserError, fit
from isocline.fit.population import of_population
from isocline.report.files import write_figures

EQUATIONS = ("dcentral = -cl*(wt/70)^0.75*conc; conc = central/v; central(0) = 0",)
PARAMETERS = ("cl = 3 > 0 per series unit L/h", "v = 20 > 0 unit L")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A bolus into one compartment, six subjects with weights of their own."""
    draw = np.random.default_rng(0)
    lines = ["id,time,amt,conc,wt"]
    for i in range(6):
        weight = 50 + 8 * i
        k = 4 * np.exp(0.25 * draw.standard_normal()) * (weight / 70) ** 0.75 / 25
        lines.append(f"{i + 1},0,100,,{weight}")
        lines += [
            f"{i + 1},{t},0,{100 / 25 * np.exp(-k * t) * (1 + 0.05 * draw.standard_normal()):.4f},{weight}"
            for t in (1, 2, 4, 8, 12)
        ]
    path = tmp_path_factory.mktemp("pk") / "pk.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_population_is_fitted_from_a_table_and_told_in_report_and_screen(rows, tmp_path, capsys):
    out = tmp_path / "run"
    result = fit(
        rows, out=out, equations=EQUATIONS, parameters=PARAMETERS, error="proportional", hold_out="series:6",
    )  # fmt: skip
    assert set(fit(decays(), **SMALL)) <= set(result)  # whoever reads one can read the other
    by_name = {row["name"]: row for row in result["parameters"]["rows"]}
    assert by_name["cl"]["low"] < 4 < by_name["cl"]["high"] and by_name["v"]["low"] < 25 < by_name["v"]["high"]
    assert 0.1 < by_name["cl"]["sd"] < 0.5 and by_name["v"]["sd"] is None
    assert 0.03 < result["parameters"]["noise"]["conc"]["proportional"] < 0.08
    models = {s["model"]: s["nrmse"] for s in result["scores"]}
    assert list(models) == ["population model", "typical series", "persistence", "mean"]
    assert models["population model"] < models["mean"] and result["won"]
    kept = json.loads((out / "population.json").read_text())
    assert set(kept["series"]) == set("123456") and kept["series"]["6"]["parameters"]["v"] == kept["values"]["v"]
    page = pages.page(out / "report.html")
    assert "between series" in page and "of the population" in page and "amt: dose into central" in page
    assert "How it learned" not in page and "There and back" not in page
    assert "How well it fits its own rows" in page and "quantiles lie in their bands" in page
    names = {path.name for path in write_figures(result, tmp_path / "figures")}
    assert {f"{kind}-1-conc.svg" for kind in ("predictions", "weighted-residuals", "predictive-check")} <= names
    capsys.readouterr()
    forecasts(result, kept, tmp_path)
    show_command(out)
    shown = capsys.readouterr().out
    assert "shrinkage" in shown and "central(0) = 0" in shown and "dose into central" in shown


def forecasts(result, kept, folder):
    """Of a series of the run, the same with another dose, a new one by its dose, and one by its rows."""

    def at(values, dose, weight, t):
        return dose / values["v"] * np.exp(-values["cl"] * (weight / 70) ** 0.75 / values["v"] * t)

    times = pd.DataFrame({"id": ["1"], "time": [20.0]})
    own = kept["series"]["1"]["parameters"]
    assert result.predict(times)["conc"].item() == pytest.approx(at(own, 100, 50, 20), rel=1e-5)
    doubled = pd.DataFrame({"id": ["1"], "time": [0.0], "amt": [200.0]})
    assert result.predict(times, inputs=doubled)["conc"].item() == pytest.approx(at(own, 200, 50, 20), rel=1e-5)
    steady = doubled.assign(amt=100.0, ss=1, ii=6.0)
    whole = sum(at(own, 100, 50, 20 + 6 * i) for i in range(200))
    assert result.predict(times, inputs=steady)["conc"].item() == pytest.approx(whole, rel=1e-5)
    new = pd.DataFrame({"id": ["new"], "time": [0.0], "amt": [300.0], "wt": [60.0]})
    later = pd.DataFrame({"id": ["new"], "time": [5.0]})
    assert result.predict(later, inputs=new)["conc"].item() == pytest.approx(at(kept["values"], 300, 60, 5), rel=1e-5)
    rows = pd.DataFrame(
        {"id": "new", "time": [0.0, 4.0, 8.0], "amt": [300.0, 0, 0], "conc": [np.nan, 4.0, 1.2], "wt": 60.0}
    )
    informed = result.predict(later, start=rows)["conc"].item()
    assert informed < at(kept["values"], 300, 60, 5)  # it falls faster than that of the typical series
    with pytest.raises(UserError, match="no series 'new'; there are '1'"):
        result.predict(later)
    with pytest.raises(UserError, match="series 'new' needs a number in column 'wt'"):
        result.predict(later, inputs=new.drop(columns="wt"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"doses": ("amt->gut",)}, "doses: gut is no state"),
        ({"states": ("wt",)}, "column 'wt': the equations have neither a state nor a definition of this name"),
        ({"parameters": ("cl = 3 > 0 per day",)}, "behind per, expected series"),
        ({"equations": ("dcentral = -cl*conc; conc = central/v",)}, "central: no equation says where it starts"),
        ({"equations": ("dcentral = -cl*level; level = central/v; central(0) = 0",)}, "define what was measured"),
    ],
)
def test_what_does_not_fit_is_one_message(rows, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        fit(rows, out=tmp_path / "run", **{"equations": EQUATIONS, "parameters": PARAMETERS, **settings})


SMALL = {"hidden": (4,), "matching": 20, "iterations": 2, "polish": 5, "starts": 1, "members": 0, "blocks": 0}


def decays(weights=(1.0, 2.0)):
    """Two series that fall at a rate that is their weight."""
    t = np.linspace(0, 2, 12)
    return pd.concat([pd.DataFrame({"id": str(i), "t": t, "x": np.exp(-w * t), "w": w}) for i, w in enumerate(weights)])


def test_a_covariate_of_a_network_is_an_input_that_is_known_for_ever():
    result = fit(decays(), covariates=("w",), **SMALL)
    assert result["config"]["inputs"] == ["w"] and [c["name"] for c in result["table"]["inputs"]] == ["w"]
    assert "'w' is a covariate" in " ".join(result["table"]["notes"])
    assert len(result.predict(times=[5.0])) == 2  # far beyond the record, without a table of inputs


def test_a_covariate_of_a_network_that_changes_is_refused():
    rows = decays()
    rows.loc[rows["t"] > 1.5, "w"] = 3.0
    with pytest.raises(UserError, match=r"column 'w' changes within series '0' at 1\.6.*give the column with --input"):
        fit(rows, covariates=("w",), **SMALL)


def test_equations_without_doses_covariates_and_series_of_their_own_go_by_the_recipe():
    assert not of_population(Config(equations=("dx = -k*x",), parameters=("k > 0",)))
    assert of_population(Config(equations=("dx = -k*x",), parameters=("k > 0 per subject",)))
    assert of_population(Config(equations=("dx = -k*x; x(0) = 0",), doses=("amt",)))
    assert not of_population(Config(equations=("dx = -net(x)",), doses=("amt",), covariates=("w",)))
