"""The visual predictive check: where the model is right its bands hold what was measured, where it is wrong they do not."""

import itertools

import numpy as np
import torch

from isocline.equations import Equations, Measured, population
from isocline.fit.population_check import BINS, PER_BIN, _stretches, checked

F64 = torch.float64
T = torch.tensor([0.5, 1.0, 2.0, 4.0, 6.0, 8.0], dtype=F64)


def fall(count=40, seed=0, bent=0.0):
    """Series that fall at rates of their own, from a level that rises in the middle by `bent`."""
    draw = torch.Generator().manual_seed(seed)
    k = 0.3 * torch.exp(0.3 * torch.randn(count, 1, generator=draw, dtype=F64))
    noise = 0.1 * torch.randn(count, len(T), generator=draw, dtype=F64)
    y = 5.0 * torch.exp(-k * T) + bent * torch.exp(-((T - 4.0) ** 2)) + noise
    data = [Measured(T, {"x": row}, id=str(i)) for i, row in enumerate(y)]
    return population(Equations("dx = -k*x; x(0) = a", parameters=["k > 0 per series", "a = 4 > 0"]), data, rtol=1e-6)


def inside(check):
    rows = check["columns"][0]["predictive"]
    return [low <= y <= high for r in rows for y, low, high in zip(r["observed"], r["low"], r["high"], strict=True)]


def test_bands_hold_what_the_model_makes_and_not_what_it_cannot():
    right, wrong = checked(fall(), 0), checked(fall(bent=1.5), 0)
    column = right["columns"][0]
    assert column["name"] == "x" and column["count"] == 240 and len(column["observed"]) == 240
    assert len(inside(right)) == 18 and sum(inside(right)) >= 15 > sum(inside(wrong))
    assert [row["t"] for row in column["predictive"]] == T.tolist()  # a stretch for each time, none parted
    assert abs(np.std(column["conditional"]) - 1.0) < 0.05


def test_stretches_hold_enough_rows_and_never_part_a_time():
    draw = np.random.default_rng(0)
    for t in (np.repeat([0.0, 1.0, 5.0], [30, 1, 40]), draw.uniform(0, 9, 300), np.zeros(5), np.arange(20.0)):
        parts = _stretches(t)
        assert len(parts) <= BINS and sorted(np.concatenate(parts).tolist()) == list(range(len(t)))
        ends = [(t[p].min(), t[p].max()) for p in parts]
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ends))
        assert len(parts) <= max(1, len(t) // PER_BIN)
