"""What can honestly be said of parameters beside networks: a standard error, and the spread over fits to noisier data."""

import re

import numpy as np
import pages
import pytest

from isocline.cli.fit import parameters
from isocline.fit import fit

OWN = {"matching": 30, "iterations": 4, "polish": 12, "starts": 1, "blocks": 0, "penalty": (1e-2,), "hold_out": 0.0}


def table(noise):
    """x decays, which settles k; y is driven by it in a way that a network is to find."""
    t, rng = np.arange(40) * 0.15, np.random.default_rng(0)
    x, y = 3 * np.exp(-0.5 * t), np.sin(t)
    return {"t": t, "x": x + noise * rng.standard_normal(40), "y": y + noise * rng.standard_normal(40)}


def told(members):
    equations = ("dx = -k*x", "dy = net(x, y, width=3)")
    return fit(table(0.03), equations=equations, parameters=("k > 0 unit 1/s",), members=members, **OWN)


def test_beside_networks_the_members_tell_how_far_a_parameter_spreads():
    run = told(6)
    (row,) = run["parameters"]["rows"]
    assert row["value"] == pytest.approx(0.5, abs=4 * row["error"]) and "low" not in row
    # Six members know a standard deviation to a factor of about two: the quantiles of χ² with 5 degrees of freedom.
    assert 0.3 < row["by_members"] / row["error"] < 3
    assert any(re.search("jagged.* over [3-6] fits", note) for note in run["parameters"]["notes"])
    assert "± by members" in [str(column.header) for column in parameters(run["parameters"]["rows"]).columns]
    assert "<th>by members</th>" in pages.page(run.report)
