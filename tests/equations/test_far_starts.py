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
