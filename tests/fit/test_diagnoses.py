"""Equilibria of fields whose equilibria are known, and what fits leave."""

import numpy as np
import pytest
import torch
from series import rotation, table_of

from isocline import problems
from isocline.fit import Config
from isocline.fit.equilibria import classify, equilibria, jacobian
from isocline.fit.reading.table import Series
from isocline.fit.recipe import Recipe
from isocline.fit.residuals import residuals
from isocline.fit.scale import Scales, StateScale

F64 = torch.float64


def box(low, high, n=15):
    """A series whose rows fill a square."""
    axis = np.linspace(low, high, n)
    rows = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    return [Series("", np.arange(float(len(rows))), rows)]


def plain(dim=2, tau=1.0):
    return Scales((StateScale("linear", 0.0, 1.0),) * dim, tau)


def duffing(t, y):
    return torch.stack([y[..., 1], y[..., 0] - y[..., 0] ** 3 - 0.3 * y[..., 1]], -1)


def test_all_equilibria_of_a_double_well_are_found_and_told_apart():
    found = equilibria(duffing, box(-1.6, 1.6), plain())
    assert [e["kind"] for e in found] == ["stable focus", "saddle", "stable focus"]
    np.testing.assert_allclose([e["state"] for e in found], [[-1, 0], [0, 0], [1, 0]], atol=1e-6)
    assert [e["stable"] for e in found] == [True, False, True]
    # At the wells λ² + 0.3 λ + 2 = 0, at the top λ² + 0.3 λ − 1 = 0.
    assert found[0]["eigenvalues"][0] == pytest.approx([-0.15, np.sqrt(2 - 0.15**2)], abs=1e-6)
    assert found[1]["eigenvalues"][0] == pytest.approx([-0.15 + np.sqrt(1.0225), 0.0], abs=1e-6)
    assert found[0]["period"] == pytest.approx(2 * np.pi / np.sqrt(2 - 0.15**2)) and found[1]["period"] is None


def test_coordinates_and_units_change_neither_place_nor_stability():
    """Lotka-Volterra in logarithms, its time in units of 2."""
    a, b, c, d = 0.55, 0.028, 0.84, 0.026
    scales = Scales((StateScale("log", 3.0, 0.7), StateScale("log", 2.5, 0.9)), 2.0)

    def field(t, x):
        u, v = torch.exp(3.0 + 0.7 * x[..., 0]), torch.exp(2.5 + 0.9 * x[..., 1])
        return 2.0 * torch.stack([(a - b * v) / 0.7, (d * u - c) / 0.9], -1)

    (found,) = equilibria(field, box(5.0, 60.0), scales)
    assert found["kind"] == "centre" and found["stable"] is None
    assert found["state"] == pytest.approx([c / d, a / b])
    assert found["period"] == pytest.approx(2 * np.pi / np.sqrt(a * c), rel=1e-6)


def test_the_limit_cycle_of_van_der_pol_has_an_unstable_middle():
    (found,) = equilibria(problems.van_der_pol(mu=0.5).field, box(-2.0, 2.0), plain())
    assert found["kind"] == "unstable focus" and found["state"] == pytest.approx([0, 0], abs=1e-6)


def test_what_has_no_equilibrium_or_has_it_elsewhere_gives_none():
    assert equilibria(lambda t, y: torch.ones_like(y), box(-1, 1), plain()) == []
    assert equilibria(lambda t, y: y - 5.0, box(-1, 1), plain()) == []
    assert equilibria(lambda t, y: torch.full_like(y, torch.nan), box(-1, 1), plain()) == []
    gaps = [Series("", np.arange(2.0), np.array([[1.0, np.nan], [np.nan, 1.0]]))]
    assert equilibria(duffing, gaps, plain()) == []


@pytest.mark.parametrize(
    ("values", "kind", "stable"),
    [
        ([-1, -2], "stable node", True),
        ([1 + 2j, 1 - 2j], "unstable focus", False),
        ([2, -1, -3], "saddle", False),
        ([0.5, -1 + 2j, -1 - 2j], "saddle-focus", False),
        ([0.0, -1.0], "neutral", None),
        ([2j, -2j], "centre", None),
        ([3.0], "unstable", False),
    ],
)
def test_equilibria_are_named_by_their_eigenvalues(values, kind, stable):
    assert classify(np.array(values)) == (kind, stable)


def test_the_jacobian_by_differences_is_the_one_by_derivatives():
    x = torch.randn(4, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    want = torch.stack([torch.func.jacrev(lambda y: duffing(None, y))(row) for row in x])
    torch.testing.assert_close(jacobian(duffing, x), want, atol=1e-8, rtol=1e-8)


def test_residuals_of_a_good_fit_are_like_its_noise_and_of_a_rigid_one_are_not():
    rng = np.random.default_rng(0)
    t = np.arange(80) * 0.3
    table = table_of((t, rotation(t) + 0.05 * rng.standard_normal((80, 2))))
    scales = Scales.of(table, table.series, "linear")
    config = Config(hidden=(4,), matching=100, iterations=10, polish=40, starts=1, members=0, blocks=0, penalty=(1e-2,))
    recipe = Recipe(config, table.series, scales)
    recipe.run(lambda r: None)
    told = residuals(recipe.ensemble().flow, recipe, table.series, scales)
    noise = [0.05 / s.sd for s in scales.states]
    assert told["sd"] == pytest.approx(noise, rel=0.3)
    assert told["like_noise"] == [True, True] and told["t"] == pytest.approx(t.tolist())
    np.testing.assert_allclose(
        scales.scaled(np.array(told["fitted"])) + np.array(told["residual"]),
        scales.scaled(table.series[0].y),
        atol=1e-9,
    )
    still = residuals(lambda y, ts, drive: y.expand(ts.shape[1], *y.shape), recipe, table.series, scales)
    assert still["like_noise"] == [False, False] and still["autocorrelation"][0][1] > 0.5
    assert (
        residuals(lambda y, ts, drive: torch.nan * y.expand(ts.shape[1], *y.shape), recipe, table.series, scales)
        is None
    )
