"""Fits from values that nobody has thought about, and parameters that come to lie at a bound."""

import math

import pytest
import torch

from isocline import Equations, solve
from isocline.equations import Measured, estimate, population

F64 = torch.float64
# A dose, and what it inhibits the production of: at the default starts all of it is over before most times, and what it
# hardly moves is two sizes too small. The volume is known: else ka and cl/v could change places, with the same curve.
TURNOVER = """
dgut = -ka*gut; dcentral = ka*gut - cl/v*central; cp = central/v
dpca = kin*(1 - imax*cp/(cp + ic50)) - kout*pca
gut(0) = 100; central(0) = 0; pca(0) = kin/kout
"""
TRUE = {"ka": 0.6, "cl": 0.14, "v": 8.0, "kin": 5.0, "imax": 0.97, "ic50": 1.2, "kout": 0.05}
TS = torch.tensor([1.0, 3, 6, 12, 24, 36, 48, 72, 96, 120], dtype=F64)
DECLARED = "ka > 0; cl > 0; v = 8 fixed; kin > 0; imax > 0; ic50 > 0; kout > 0"


@pytest.fixture(scope="module")
def subjects():
    """Four, of clearances and potencies of their own, with some noise."""
    draw, found = torch.Generator().manual_seed(0), []
    for i, (clearance, potency) in enumerate([(0.8, 1.3), (1.0, 0.8), (1.25, 1.0), (1.1, 0.7)]):
        values = TRUE | {"cl": TRUE["cl"] * clearance, "ic50": TRUE["ic50"] * potency}
        field = Equations(TURNOVER, parameters=[f"{k} = {x}" for k, x in values.items()])
        start = torch.tensor([100.0, 0.0, values["kin"] / values["kout"]], dtype=F64)
        ys = solve(field.double(), start, torch.cat([torch.zeros(1, dtype=F64), TS]), rtol=1e-8).ys[1:].detach()
        cp = ys[:, 1] / values["v"] + 0.1 * torch.randn(len(TS), generator=draw, dtype=F64)
        pca = ys[:, 2] + 1.0 * torch.randn(len(TS), generator=draw, dtype=F64)
        found.append(Measured(TS, {"cp": cp, "pca": pca}, id=str(i)))
    return found


def test_a_parameter_that_hardly_matters_at_the_start_does_not_hold_up_the_others(subjects):
    fit = estimate(Equations(TURNOVER, parameters=DECLARED.replace("v = 8 fixed", "v > 0")), subjects)
    for name in ("cl", "kin", "kout"):
        assert fit[name].value == pytest.approx(TRUE[name], rel=0.3), name
    assert fit.noise["pca"] < 10  # 50 where it begins


def test_a_population_is_found_from_far_away(subjects):
    declared = DECLARED.replace("cl > 0", "cl > 0 per series").replace("ic50 > 0", "ic50 > 0 per series")
    fit = population(Equations(TURNOVER, parameters=declared), subjects)
    assert fit.converged
    for name in ("cl", "kin", "kout"):
        assert abs(fit[name].value - TRUE[name]) < 4 * fit[name].error, name
    assert fit.noise["cp"]["additive"] < 0.2 and fit.noise["pca"]["additive"] < 2


def test_a_parameter_of_a_population_at_its_bound_has_no_interval_and_is_named():
    """Growth by half a unit that is declared to be no growth."""
    t = torch.linspace(0.5, 4, 6, dtype=F64)
    data = [Measured(t, {"x": a * torch.exp(0.05 * t) + 0.01 * (-1.0) ** t.argsort()}, id=str(a)) for a in (1, 2, 1.5)]
    field = Equations("dx = -k*x; x(0) = a", parameters="k = 0.5 in [0, 1]; a > 0 per series")
    fit = population(field, data)
    assert fit["k"].bound == 0 and math.isnan(fit["k"].error) and math.isnan(fit["k"].low)
    assert fit["a"].error > 0 and any("k lies at its bound 0" in m for m in fit.messages)
    rows = {row["name"]: row for row in fit.rows()}
    assert rows["k"]["bound"] == 0 and "level" not in rows["k"] and rows["a"]["low"] < rows["a"]["value"]
    assert torch.isfinite(fit.simulate(data[0], [5.0], count=20)["x"]).all()


# ---- of two optima the likelier ---------------------------------------------------------------------------------------
def given_orally(count=12, seed=1):
    """Series of one compartment, absorbed at 0.6 and eliminated at 0.05, each with rates and a volume of its own."""
    draw = torch.Generator().manual_seed(seed)
    t = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 48.0], dtype=F64)
    ka, k, v = (
        mid * torch.exp(sd * torch.randn(count, 1, generator=draw, dtype=F64))
        for mid, sd in ((0.6, 0.4), (0.05, 0.2), (8.0, 0.1))
    )
    c = 100 / v * ka / (ka - k) * (torch.exp(-k * t) - torch.exp(-ka * t))
    c = c * (1 + 0.1 * torch.randn(c.shape, generator=draw, dtype=F64))
    return [Measured(t, {"c": row}, id=str(i)) for i, row in enumerate(c)]


ORAL = "dgut = -ka*gut; dx = ka*gut - k*x; c = x/v; gut(0) = 100; x(0) = 0"


def test_absorption_and_elimination_are_not_taken_for_each_other_where_nobody_says_where_they_start():
    """Every curve has two sets of rates, ka and k in each other's place; only how far the series differ tells them apart."""
    pytest.importorskip("scipy")
    data = given_orally()
    names = ("ka", "k", "v")
    said = [f"{n} = {x} > 0 per series" for n, x in zip(names, (0.6, 0.05, 8.0), strict=True)]
    want = population(Equations(ORAL, parameters=said), data, noise="proportional")
    found = population(Equations(ORAL, parameters=[f"{n} > 0 per series" for n in names]), data, noise="proportional")
    wrong = [f"{n} = {x} > 0 per series" for n, x in zip(names, (0.05, 0.6, 0.7), strict=True)]
    swapped = population(Equations(ORAL, parameters=wrong), data, noise="proportional")
    assert swapped["ka"].value < 0.1 and swapped.log_likelihood < want.log_likelihood - 2
    assert found.log_likelihood == pytest.approx(want.log_likelihood, abs=1e-2)
    assert found["ka"].value == pytest.approx(want["ka"].value, rel=1e-2)
    assert found["k"].value == pytest.approx(want["k"].value, rel=1e-2)


def test_another_optimum_that_is_as_likely_is_told_of():
    draw = torch.Generator().manual_seed(0)
    t = torch.linspace(0.2, 4, 12, dtype=F64)
    data = []
    for i in range(8):
        a, b = (mid * math.exp(0.1 * float(torch.randn((), generator=draw))) for mid in (0.3, 3.0))
        x = torch.exp(-a * t) + torch.exp(-b * t) + 0.01 * torch.randn(len(t), generator=draw, dtype=F64)
        data.append(Measured(t, {"both": x}, id=str(i)))
    text = "dx = -a*x; dy = -b*y; x(0) = 1; y(0) = 1; both = x + y"
    fit = population(Equations(text, parameters=["a > 0 per series", "b > 0 per series"]), data)
    (message,) = [m for m in fit.messages if "about as likely" in m]
    a, b = fit["a"].value, fit["b"].value
    assert max(a, b) / min(a, b) > 5 and message.startswith(f"a = {b:.3g}"[:6])


@pytest.mark.slow
def test_without_starts_an_effect_model_is_found_that_has_none_at_the_default_ones(warfarin):
    """Warfarin, concentration and effect together (published: clearance 0.13, volume 8.1, turnover 0.055, level 96.5)."""
    pytest.importorskip("scipy")
    text = """
    dgut = -ka*gut; dcentral = ka*gut - cl*(wt/70)^0.75*cp; dpca = kout*(e0*(1 - emax*cp/(ec50 + cp)) - pca)
    cp = central/(v*wt/70); gut(0) = amt; central(0) = 0; pca(0) = e0
    """
    parameters = [
        "ka > 0 per series", "cl > 0 per series", "v > 0 per series", "emax in [0, 1]", "ec50 > 0", "kout > 0",
        "e0 = 100 > 0 per series",
    ]  # fmt: skip
    noise = {"cp": "combined", "pca": "additive"}
    fit = population(Equations(text, covariates=["amt", "wt"], parameters=parameters), warfarin, noise=noise, rtol=1e-6)
    assert fit["ka"].value > 0.3
    for name, published in {"cl": 0.131, "v": 8.06, "e0": 96.5}.items():
        assert fit[name].low < published < fit[name].high, name
    assert fit["kout"].value == pytest.approx(0.055, rel=0.15)
