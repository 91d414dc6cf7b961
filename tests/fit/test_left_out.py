"""Networks beside known laws that do not help are left out: chosen by held-out blocks, on screen, on the page and in the run."""

import json
import math

import numpy as np
import pages
import pytest
import torch
from scipy.integrate import solve_ivp
from series import table_of

from isocline.cli.fit import show
from isocline.fit import Config, fit
from isocline.fit.choose import beyond_chance, penalties_of
from isocline.fit.equation_rows import networks_of
from isocline.fit.fitted import Fitted
from isocline.fit.networks import Networks
from isocline.fit.recipe import Recipe
from isocline.fit.scale import Scales
from isocline.fit.windows import Record

T = np.arange(80) * 0.25
FEW = {"matching": 60, "iterations": 6, "polish": 20, "starts": 2, "members": 0, "penalty": (1e-3, 1.0)}
LAW = {"equations": ("dx = -k*(x - c) + a*cos(t) + net(x, width=3)",), "parameters": ("k > 0",)}


def measured(cubic):
    """x' = −0.5 (x − 1) + cos t − cubic · x³, with noise."""
    path = solve_ivp(lambda t, x: -0.5 * (x - 1) + np.cos(t) - cubic * x**3, (0, T[-1]), [3.0], t_eval=T, rtol=1e-8)
    return path.y.T + 0.03 * np.random.default_rng(0).standard_normal((len(T), 1))


def recipe_of(y, **settings):
    table = table_of((T, y))
    scales = Scales.of(table, table.series, "linear")
    recipe = Recipe(Config.make(states=("x",), **FEW, **settings), table.series, scales)
    assert recipe.run(lambda r: None) == "done"
    return recipe


def test_a_network_beside_the_whole_law_is_left_out_and_gives_nothing(tmp_path, capsys):
    rows = "".join(f"{t:.6g},{x:.6f}\n" for t, x in zip(T, measured(0.0)[:, 0], strict=True))
    (tmp_path / "x.csv").write_text("t,x\n" + rows)
    report = fit(tmp_path / "x.csv", Config(**FEW, **LAW), tmp_path / "run")
    assert report["chosen"]["penalty"] is None
    assert [row["penalty"] for row in report["chosen"]["errors"]] == [1e-3, 1.0, None]
    assert any("left out" in warning for warning in report["warnings"])
    kept = json.loads((tmp_path / "run" / "report.json").read_text(), parse_constant=pytest.fail)
    assert kept["chosen"] == report["chosen"]
    values = {row["name"]: row for row in report["parameters"]["rows"]}
    assert values["k"]["value"] == pytest.approx(0.5, abs=0.05) and 0 < values["k"]["error"] < 0.05
    field = Fitted.read(tmp_path / "run").field.equations
    (net,) = field.remainders.values()
    assert net(torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]).abs().max() < 1e-4
    assert "without networks (chosen)" in pages.page(tmp_path / "run" / "report.html")
    show(report, tmp_path / "run")
    assert "penalty without networks, by 4 held-out blocks" in capsys.readouterr().out


def test_a_network_that_the_law_needs_is_kept():
    recipe = recipe_of(measured(0.3), **LAW)
    assert math.isfinite(recipe.choice.penalty)
    assert recipe.choice.error < 0.75 * recipe.choice.errors[-1]
    assert recipe.choice.penalties[-1] == math.inf
    assert not any("left out" in warning for warning in recipe.warnings())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (LAW, (1e-3, 1.0, math.inf)),
        (LAW | {"penalty": (0.1,)}, (0.1,)),  # asked for
        ({"equations": ("dx = net(x)",)}, (1e-3, 1.0)),  # without it nothing is left
        ({"equations": ("dx = -k*x",)}, (1e-3, 1.0)),
        ({}, (1e-3, 1.0)),
    ],
)
def test_only_laws_with_numbers_of_their_own_can_do_without_networks(settings, expected):
    config = Config.make(**(FEW | {"states": ("x",)} | settings))
    table = table_of((T, measured(0.0)))
    scales = Scales.of(table, table.series, "linear")
    networks = networks_of(config, scales, Record.of(table.series, scales, config.window))
    assert penalties_of(config, networks) == expected


def test_under_an_infinite_penalty_only_the_linear_field_learns():
    nets = Networks(2, (3,))
    moving = nets.moving(torch.tensor([1.0, math.inf]))
    assert moving[0].all()
    assert (moving[1] == 1 - nets.shrunk).all()


def test_a_choice_of_two_blocks_needs_both():
    assert beyond_chance([1.0, 1.0], [0.5, 0.6])
    assert not beyond_chance([1.0, 1.0], [0.1, 1.2])
    assert beyond_chance([1.0], [0.9]) and not beyond_chance([1.0], [1.0])
