"""Networks that run away when they run freely, and what takes their place."""

import numpy as np
import pytest
import torch
from series import rotation, table_of

from isocline.fit import Config
from isocline.fit.flow import flow_of_rows
from isocline.fit.forecast import forecast
from isocline.fit.networks import Networks
from isocline.fit.reach import LINEAR, REST, FreeRuns, refuge
from isocline.fit.recipe import Recipe
from isocline.fit.scale import Scales
from isocline.fit.windows import Record


def made(t, y):
    table = table_of((t, y))
    return table.series, Scales.of(table, table.series, "linear")


def growing(networks, rates):
    """Rows of networks dy/dt = rate · y."""
    theta = torch.zeros(len(rates), networks.size, dtype=torch.float64)
    eye = torch.eye(networks.dim, dtype=torch.float64).flatten()
    theta[:, -len(eye) :] = torch.tensor(rates, dtype=torch.float64)[:, None] * eye
    return theta


def flow(networks, row):
    return flow_of_rows(networks, row[None])


T = np.arange(60) * 0.4


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_what_grows_beyond_the_range_of_the_data_does_not_hold(scale):
    series, scales = made(T, scale * rotation(T, 0.0))
    networks = Networks(2, (4,))
    assert FreeRuns(networks, growing(networks, [-1.0, 0.0, 1.0, 5.0]), series, scales).holds.tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_the_network_that_runs_as_most_do_is_typical():
    series, scales = made(T, rotation(T, 0.0))
    networks = Networks(2, (4,))
    runs = FreeRuns(networks, growing(networks, [-0.5, -0.05, -0.06, -0.055, -0.07]), series, scales)
    everyone, leads = torch.ones(5, dtype=torch.bool), torch.tensor([True, True, False, False, False])
    assert runs.holds.all()
    assert runs.typical(leads, everyone) == 1
    assert runs.typical(torch.tensor([True, False, False, False, False]), everyone) == 0  # nobody else was asked for
    short, scales = made(T[:3], rotation(T[:3], 0.0))
    assert FreeRuns(networks, growing(networks, [-0.5, -0.05]), short, scales).typical(leads[:2], everyone[:2]) is None


def test_of_starts_that_fit_alike_the_typical_one_is_the_model():
    recipe, *_ = recipe_of_rotation()
    trainer, leads = recipe.trainer, recipe.config.starts
    misfit, theta = trainer.misfit.clone(), trainer.theta.clone()
    trainer.misfit[:] = misfit.min()
    trainer.loss[:leads] = torch.arange(leads).to(misfit)  # the first is the best, but alone with what it says
    matrix = slice(trainer.networks.size - 4, trainer.networks.size)
    trainer.theta[0, matrix] = theta[0, matrix] - 0.4 * torch.eye(2, dtype=torch.float64).flatten()
    recipe._look_ahead()
    assert recipe.holds.all() and trainer.best != 0
    trainer.misfit[0] /= 1.5**2  # where the others fit worse, it is
    recipe._look_ahead()
    assert trainer.best == 0


def test_growth_that_the_record_shows_may_go_on():
    y = np.exp(0.08 * T)[:, None]  # by a factor of seven, and of eleven a quarter later
    series, scales = made(T, y)
    networks = Networks(1, (4,))
    row, name = refuge(networks, Config(), Record.of(series, scales, 5), series, scales)
    assert name == LINEAR
    (path,) = forecast(flow(networks, row), series, [T[-1] + np.array([3.0])], scales)
    assert scales.unscaled(path)[0, 0] == pytest.approx(np.exp(0.08 * (T[-1] + 3.0)), rel=0.02)


def test_where_the_linear_ode_runs_away_too_the_mean_is_left(monkeypatch):
    series, scales = made(T, rotation(T, 0.0))
    networks = Networks(2, (4,))
    monkeypatch.setattr(
        "isocline.fit.reach.LinearODE",
        lambda record: type("Away", (), {"rows": torch.tensor([[2.0, 0, 0], [0, 2.0, 0]], dtype=torch.float64)}),
    )
    row, name = refuge(networks, Config(), Record.of(series, scales, 5), series, scales)
    assert name == REST
    (path,) = forecast(flow(networks, row), series, [T[-1] + np.array([1.0, 40.0])], scales)
    assert np.abs(path[-1]).max() < 1e-6 < np.abs(path[0]).max()


def run_away(recipe, *members):
    """Puts networks that grow in the place of some members, and looks again."""
    networks = recipe.trainer.networks
    recipe.trainer.objective.network(recipe.trainer.theta)[list(members)] = growing(networks, [1.0] * len(members))
    recipe._look_ahead()


def recipe_of_rotation():
    series, scales = made(T, rotation(T, 0.02) + 0.05 * np.random.default_rng(0).standard_normal((60, 2)))
    few = {"hidden": (4,), "matching": 60, "iterations": 8, "polish": 16, "starts": 2, "members": 3, "blocks": 0}
    recipe = Recipe(Config.make(**few), series, scales)
    assert recipe.run(lambda r: None) == "done"
    return recipe, series, scales


def test_a_start_that_runs_away_does_not_lead_and_a_member_makes_no_bands():
    recipe, _, _ = recipe_of_rotation()
    assert recipe.holds.all() and recipe.ensemble().bands is not None
    best = recipe.trainer.best
    run_away(recipe, best, 2)
    assert recipe.trainer.best == 1 - best
    assert recipe.refuge is None
    assert any("1 of 2 networks left the data" in w for w in recipe.warnings())
    assert recipe.ensemble().bands is None  # two members are left


def test_where_all_run_away_the_linear_ode_goes_on_and_that_is_told():
    recipe, series, scales = recipe_of_rotation()
    run_away(recipe, 0, 1)
    assert any("all 2 networks left the data" in w and LINEAR in w for w in recipe.warnings())
    later = T[-1] + np.array([1.0, 4.0])
    (path,) = forecast(recipe.ensemble().flow, series, [later], scales)
    assert np.abs(scales.unscaled(path) - rotation(later, 0.02)).max() < 0.1
    assert recipe.ensemble().bands is None


def test_a_free_run_is_not_lost_for_being_long():
    """Ten thousand turns in 50 looks: no limit of steps by the number of looks may end it."""
    t = np.arange(80_000) * 0.8
    series, scales = made(t, rotation(t, 0.0))
    networks = Networks(2, (4,))
    theta = torch.zeros(1, networks.size, dtype=torch.float64)
    theta[0, -4:] = scales.tau * torch.tensor([0.0, -1.0, 1.0, 0.0], dtype=torch.float64)
    assert FreeRuns(networks, theta, series, scales).holds.tolist() == [True]
