"""Theophylline and warfarin: against numbers that others have published."""

import math

import pytest

from isocline import Equations
from isocline.equations import Measured, estimate

THEOPHYLLINE = """
dgut = -exp(lKa)*gut
dcentral = exp(lKa)*gut - exp(lKe)*central
gut(0) = dose; central(0) = 0
conc = central*exp(lKe)/exp(lCl)
"""
WARFARIN = """
dgut = -ka*gut
dcentral = ka*gut - cl*(wt/70)^0.75*cp
dpca = kout*(e0*(1 - emax*cp/(ec50 + cp)) - pca)
cp = central/(v*wt/70)
gut(0) = amt; central(0) = 0; pca(0) = e0
"""


def subjects(rows, chosen=None):
    by = {}
    for row in rows("pk_theophylline", "theophylline.csv"):
        by.setdefault(row["subject"], []).append(row)
    return [
        Measured(
            [float(r["time"]) for r in group],
            {"conc": [float(r["conc"]) for r in group]},
            covariates={"dose": float(group[0]["dose"])},
            id=name,
        )
        for name, group in by.items()
        if chosen is None or name == chosen
    ]


def test_theophylline_of_subject_4_is_what_r_prints(rows):
    """R's datasets::Theoph, its example: nls(conc ~ SSfol(Dose, Time, lKe, lKa, lCl)), summary."""
    field = Equations(THEOPHYLLINE, covariates=["dose"], parameters=["lKe = -2.5", "lKa = 0.5", "lCl = -3"])
    fit = estimate(field, subjects(rows, "4"))
    published = {"lKe": (-2.4365, 0.2257), "lKa": (0.1583, 0.2297), "lCl": (-3.2861, 0.1448)}
    for name, (value, error) in published.items():
        assert fit[name].value == pytest.approx(value, abs=6e-5)
        assert fit[name].error == pytest.approx(error, abs=6e-5)
    assert fit.noise["conc"] == pytest.approx(0.8465, abs=5e-5) and fit.freedom == 8


def test_theophylline_of_all_subjects_foretells_one_that_was_left_out(rows):
    everyone = subjects(rows)
    field = Equations(THEOPHYLLINE, covariates=["dose"], parameters=["lKe = -2.5", "lKa = 0.5", "lCl = -3"])
    fit = estimate(field, everyone[:-1])
    ka, ke, cl = (math.exp(fit[name].value) for name in ("lKa", "lKe", "lCl"))
    # A population fit of these data: ka 1.5-1.6 1/h, ke 0.08-0.09 1/h, clearance 0.040 L/h/kg (Pinheiro & Bates 2000, 8.2).
    assert 1.2 < ka < 2.0 and 0.07 < ke < 0.1 and 0.035 < cl < 0.045
    left_out = everyone[-1]
    dose = left_out.covariates["dose"]
    error = [
        float(c) - dose * ke * ka / cl / (ka - ke) * (math.exp(-ke * t) - math.exp(-ka * t))
        for t, c in zip(left_out.ts.tolist(), left_out.columns["conc"].tolist(), strict=True)
    ]
    inside = [abs(e) < 2 * fit.noise["conc"] for e in error]
    assert sum(inside) >= 9


def test_warfarin_has_the_published_clearance_volume_and_turnover(warfarin):
    """nlmixr2's multiple-endpoints article and Holford's NONMEM models of the same data (population fits)."""
    field = Equations(
        WARFARIN,
        covariates=["amt", "wt"],
        parameters=[
            "ka > 0 unit 1/h", "cl = 0.1 in [0, inf] unit L/h", "v = 10 in [0, inf] unit L", "emax = 0.8 in [0, 1]",
            "ec50 = 0.5 in [0, inf] unit mg/L", "kout = 0.05 in [0, inf] unit 1/h", "e0 = 100 in [0, inf] unit %",
        ],
    )  # fmt: skip
    fit = estimate(field, warfarin, noise={"cp": "log"})
    published = {"cl": 0.131, "v": 8.06, "kout": 0.055, "e0": 96.5}
    for name, value in published.items():
        assert fit[name].value == pytest.approx(value, abs=2.5 * fit[name].error), name
    assert fit["ec50"].value == pytest.approx(1.0, rel=0.5)
    # All subjects as one: maximal inhibition comes out complete, which the population fits put at 0.97.
    assert fit["emax"].bound == 1 and math.isnan(fit["emax"].error)
