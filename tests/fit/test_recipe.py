"""The recipe as a whole: what it chooses, and how well it does where others fail."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from series import rotation, table_of

from isocline.fit import Config
from isocline.fit.forecast import forecast
from isocline.fit.recipe import Recipe
from isocline.fit.scale import Scales
from isocline.fit.windows import MAX_RECORD, OVER

PERIOD = 7.6298744778  # of van der Pol's oscillator with mu = 2


def recipe_of(t, y, **settings):
    table = table_of((t, y))
    scales = Scales.of(table, table.series, "linear")
    recipe = Recipe(Config.make(**settings), table.series, scales)
    assert recipe.run(lambda r: None) == "done"
    return recipe, table.series, scales


def test_on_linear_data_the_blocks_choose_the_network_that_is_held_back():
    t = np.arange(48) * 0.4
    y = rotation(t, 0.02) + 0.05 * np.random.default_rng(0).standard_normal((48, 2))
    few = {"hidden": (8,), "matching": 60, "iterations": 8, "polish": 24, "starts": 1, "members": 0, "blocks": 3}
    recipe, _, _ = recipe_of(t, y, penalty=(1e-4, 1.0), **few)
    assert recipe.choice.penalty == 1.0
    assert recipe.trainer.objective.penalty.tolist() == [1.0]
    assert max(recipe.choice.errors) < 1.5


@pytest.mark.parametrize(("misfits", "why"), [([1.0, 1.1, 9.0], True), ([1.0, 1.1, 1.2, 9.0], False)])
def test_starts_and_members_that_end_badly_are_told(misfits, why):
    """The fourth start begins with the same smoothing as the first."""
    t, starts = np.arange(30) * 0.4, len(misfits)
    quick = {"hidden": (4,), "matching": 20, "iterations": 2, "polish": 4, "starts": starts, "members": 4, "blocks": 0}
    recipe, _, _ = recipe_of(t, rotation(t) + 0.05 * np.random.default_rng(0).standard_normal((30, 2)), **quick)
    recipe.trainer.misfit = recipe.trainer.loss = torch.tensor([*misfits, 1.2, 1.3, 9.0, 9.0], dtype=torch.float64)
    first, second, *_ = recipe.warnings()
    other = ", all of them from other smoothings of the record than the best" if why else ""
    assert first == f"1 of {starts} starts ended in a much worse fit{other}; the model is one of the others"
    assert second == "no bands: 2 of 4 networks fitted to noisier data ended well, 3 are needed"
    assert recipe.ensemble().bands is None


def test_few_rows_that_are_followed_too_closely_do_not_make_the_bands_narrow():
    t = np.arange(10) * 0.7
    y = rotation(t) + 0.1 * np.random.default_rng(0).standard_normal((10, 2))
    quick = {"hidden": (16,), "matching": 200, "iterations": 20, "polish": 100, "starts": 1, "members": 4}
    recipe, _, _ = recipe_of(t, y, penalty=(1e-6,), **quick)
    left, noise = recipe.trainer.objective.noise(recipe.trainer.theta)[0], recipe.record.noise()
    assert recipe.choice is None and bool((left < noise).any())
    assert recipe.ensemble().bands.noise == pytest.approx(torch.maximum(left, noise).tolist())


def test_a_state_that_something_unseen_moves_is_told():
    """A triangle wave forced from outside: no field of the state alone has it rise and fall at the same values."""
    t = np.arange(60) * 0.25
    y = np.abs((t % 4.0) - 2.0)[:, None] + 0.01 * np.random.default_rng(0).standard_normal((60, 1))
    quick = {"hidden": (8,), "matching": 50, "iterations": 8, "polish": 24, "starts": 1, "members": 0, "blocks": 0}
    recipe, _, _ = recipe_of(t, y, **quick)
    assert any("something moves it" in warning for warning in recipe.warnings())


def test_of_many_series_some_are_trained_on_and_that_is_told():
    t = np.arange(81) * 0.4
    table = table_of(*((t, rotation(t, phase=0.01 * i)) for i in range(400)))
    scales = Scales.of(table, table.series, "linear")
    quick = {"hidden": (4,), "starts": 1, "members": 0, "blocks": 0}
    recipe = Recipe(Config.make(**quick), table.series, scales)
    (told,) = recipe.warnings()
    assert told.startswith("trained on 246 of 400 stretches of the record (19926 rows)")  # 20,000 rows at most
    assert recipe.record.series[0] == 0 and recipe.record.series[-1] == 399


def test_what_is_skipped_is_not_done():
    t = np.arange(30) * 0.4
    recipe, _, _ = recipe_of(t, rotation(t), matching=0, iterations=0, polish=4, blocks=0, members=0, starts=2)
    assert [s["name"] for s in recipe.told()] == ["whole record"]
    assert recipe.choice is None and recipe.ensemble().bands is None


def van_der_pol(seed, mu=2.0, periods=6, per=20, noise=0.1):
    """Times, states and the noisy record: 10 % of the standard deviation, from a random phase of the cycle."""
    rng = np.random.default_rng(seed)
    t = np.arange(periods * per) * PERIOD / per

    def slope(_, y):
        return [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]

    start = solve_ivp(slope, (0, 30 + rng.uniform(0, PERIOD)), [1.0, 0.0], rtol=1e-9, atol=1e-9).y[:, -1]
    y = solve_ivp(slope, (0, t[-1] + 1e-9), start, t_eval=t, rtol=1e-9, atol=1e-9).y.T
    return t, y, y + noise * y.std(0) * rng.standard_normal(y.shape)


@pytest.mark.slow
def test_noisy_van_der_pol_is_forecast_without_a_failure():
    """Six periods, 70 % to learn from; errors against the truth in standard deviations. Single shooting fails 3 to 8 times."""
    errors = []
    for seed in range(10):
        t, y, noisy = van_der_pol(seed)
        n = int(0.7 * len(t))
        recipe, series, scales = recipe_of(t[:n], noisy[:n], seed=seed)
        (path,) = forecast(recipe.ensemble().flow, series, [t[n:]], scales)
        errors.append(float(np.sqrt(np.mean(((scales.unscaled(path) - y[n:]) / y.std(0)) ** 2))))
    assert max(errors) < 0.5, errors
    assert np.median(errors) <= 0.17, errors


def test_van_der_pol_once_and_quickly():
    t, y, noisy = van_der_pol(3)
    n = int(0.7 * len(t))
    quick = {"matching": 200, "polish": 100, "starts": 1, "members": 0, "blocks": 0, "penalty": (1e-3,)}
    recipe, series, scales = recipe_of(t[:n], noisy[:n], **quick)
    (path,) = forecast(recipe.ensemble().flow, series, [t[n:]], scales)
    assert np.sqrt(np.mean(((scales.unscaled(path) - y[n:]) / y.std(0)) ** 2)) < 0.3
    learned = recipe.trainer.objective.noise(recipe.trainer.theta)[recipe.trainer.best]
    assert bool((learned < 0.25).all()) and isinstance(learned, torch.Tensor)


def test_a_relaxation_oscillation_is_found_in_fourteen_rows_a_period():
    """The spline takes its turns for noise; starts that begin with less of it find back, and all begin with one noise."""
    t, _, noisy = van_der_pol(0, per=14)
    config = {"polish": 100, "starts": 3, "members": 0, "blocks": 0, "penalty": (1e-3,)}
    recipe, _, _ = recipe_of(t, noisy, **config)
    smooth, *others = recipe.records
    assert all(torch.equal(smooth.noise(), other.noise()) for other in others)
    left = [float(record.followed().square().mean()) for record in recipe.records]
    assert left[0] > 0.1 and left[0] > 3 * left[1] > 9 * left[2]
    assert float(recipe.trainer.misfit.min()) < 0.03 < left[0]
    assert recipe.trainer.best > 0


def test_l_bfgs_polishes_the_longest_record_also_where_its_series_differ():
    """So many whole series are taken that their rows are about as many as may be, a few more here."""
    # What is spread evenly over them meets the long ones alone.
    sizes = [320 if i % 2 == 0 else 240 for i in range(141)]
    table = table_of(*((np.arange(n) * 0.3, rotation(np.arange(n) * 0.3)) for n in sizes))
    scales = Scales.of(table, table.series, "linear")
    recipe = Recipe(Config(), table.series, scales)
    for trainer in (recipe.trainer, recipe._final()):
        assert not any(stage.adam for stage in trainer.stages if stage.kind == "polish")
    assert MAX_RECORD / 2 < recipe.record.rows <= OVER * MAX_RECORD
