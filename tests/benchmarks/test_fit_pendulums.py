"""The pendulums' benchmark: its energies are those of pendulums, and plain single shooting learns."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fit_pendulums as bench

from isocline.fit.flow import flow_of
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales, StateScale

PLAIN = Scales((StateScale("linear", 0.0, 1.0),) * 2, 1.0)


def swing(n=400, step=0.01, k=40.0, damping=0.0):
    """Degrees and degrees a second of one arm."""
    y, out = np.array([1.5, 0.0]), []
    slope = lambda y: np.array([y[1], -k * np.sin(y[0]) - damping * y[1]])
    for _ in range(n):
        out.append(y)
        half = y + step / 2 * slope(y)
        y = y + step * slope(half)
    return Series("", np.arange(n) * step, np.degrees(np.array(out)))


def test_an_arm_keeps_its_energy_and_a_damped_one_loses_it():
    s = swing()
    energy = bench.swing_energy(40.0)(s.t, s.y)
    assert np.ptp(energy[1:-1]) < 0.02 * energy[0]  # of a central difference, 0.01 s wide, and the steps
    damped = swing(damping=0.5)
    assert bench.swing_energy(40.0)(damped.t, damped.y)[-2] < 0.3 * energy[0]
    assert bench.stiffness_of([damped]) == pytest.approx(40.0, rel=0.02)


def test_two_arms_at_rest_have_none_and_upright_the_most():
    hanging, upright = np.array([[np.pi, np.pi, 0.0, 0.0]]), np.zeros((1, 4))
    none, most = (bench.double_energy(np.zeros(1), y)[0] for y in (hanging, upright))
    assert none == pytest.approx(0.0, abs=1e-12)
    assert most == pytest.approx(2 * 0.490644, rel=1e-4)  # 2 g times the sum of masses by their heights
    against, along = (np.array([[np.pi, np.pi, 1.0, rate]]) for rate in (-1.0, 1.0))
    assert 0 < bench.double_energy(np.zeros(1), against)[0] < bench.double_energy(np.zeros(1), along)[0]


def test_plain_single_shooting_learns_a_rotation_from_one_seed():
    t = np.arange(20) * 0.2
    taught = [Series(str(a), t, np.stack([np.cos(t + a), np.sin(t + a)], 1)) for a in (0.0, 2.0)]
    field = bench.single_shooting(taught, PLAIN, (8,), 150)
    start, ts = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor(t)[None]
    assert np.abs(flow_of(field)(start, ts, None)[:, 0].numpy() - taught[0].y).max() < 0.1


def test_errors_are_of_angles_and_shares_of_energy():
    later = [(np.arange(5.0), np.full((5, 2), 1.0))]
    task = bench.Task("", pd.DataFrame(), [], later)
    energy = lambda t, y: 2.0 * y[:, 0]
    told = bench.scored([np.full((5, 2), 1.5)], task, 1, [later[0][1]], energy)
    assert told == {"angle": 0.5, "energy_end": 0.5, "energy": 0.5}
    lost = bench.scored([np.full((5, 2), np.inf)], task, 1, [later[0][1]], energy)
    assert lost["angle"] == lost["energy"] == float("inf")
