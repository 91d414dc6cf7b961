"""Many networks in one batch: each is what it would be alone, and none touches another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from series import rotation, table_of

from isocline import solve
from isocline.fit import Config
from isocline.fit import objective as module
from isocline.fit.batch import Batch
from isocline.fit.blocks import folds
from isocline.fit.loop import Trainer
from isocline.fit.networks import Field, Networks
from isocline.fit.objective import Objective
from isocline.fit.reading.table import Series
from isocline.fit.rows import LBFGS, Adam
from isocline.fit.scale import Scales
from isocline.fit.windows import Record

T = np.arange(40) * 0.3


def record_of(y, t=T, window=5):
    table = table_of((t, y))
    return Record.of(table.series, Scales.of(table, table.series, "linear"), window)


# ---- networks ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hidden", [(), (8,), (5, 7)], ids=str)
def test_rows_of_a_matrix_are_the_fields_they_came_from(hidden):
    nets = Networks(3, hidden)
    theta = nets.begin([4, 5])
    theta += 0.1 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=theta.dtype)
    y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1), dtype=theta.dtype)
    slopes, now = nets.slopes(theta, y), torch.tensor(0.0)
    for m in range(2):
        torch.testing.assert_close(nets.module(theta[m])(now, y[m]), slopes[m])
        torch.testing.assert_close(nets.field(now, y[m], *nets.handed(theta[m].expand(6, -1))), slopes[m])
    cotangent = torch.randn(slopes.shape, generator=torch.Generator().manual_seed(2), dtype=theta.dtype)
    sources = theta.clone().requires_grad_()
    want = torch.autograd.grad((nets.slopes(sources, y) * cotangent).sum(), sources)[0]
    torch.testing.assert_close(nets.slopes_and_back(theta, y)[1](cotangent), want)
    fresh = torch.cat([p.detach().flatten() for p in Field(3, hidden, 4).parameters()])
    torch.testing.assert_close(nets.begin([4])[0], fresh)


# ---- minimizers -------------------------------------------------------------------------------------------------------
def rosenbrock(theta, members):
    x = theta.detach().requires_grad_()
    value = (1 - x[:, 0]) ** 2 + 100 * (x[:, 1] - x[:, 0] ** 2) ** 2
    value.sum().backward()
    return value.detach(), x.grad


def test_every_row_reaches_its_minimum_and_is_what_it_would_be_alone():
    start = torch.tensor([[-1.2, 1.0], [2.0, -1.0], [0.0, 3.0]], dtype=torch.float64)
    together = start.clone()
    optimizer = LBFGS(together, rosenbrock)
    for _ in range(60):
        optimizer.step()
    torch.testing.assert_close(together, torch.ones_like(together), atol=1e-3, rtol=0)
    for m in range(3):
        alone = start[m : m + 1].clone()
        optimizer = LBFGS(alone, rosenbrock)
        for _ in range(60):
            optimizer.step()
        torch.testing.assert_close(alone[0], together[m])


def test_a_row_without_a_finite_gradient_stands_still_and_stops_no_other():
    def value(theta, members):
        loss, gradient = rosenbrock(theta, members)
        lost = members == 0
        return torch.where(lost, torch.nan, loss), torch.where(lost[:, None], torch.nan, gradient)

    start = torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
    for kind in (LBFGS, Adam):
        theta = start.clone()
        optimizer = kind(theta, value) if kind is LBFGS else kind(theta)
        for _ in range(30):
            if isinstance(optimizer, LBFGS):
                optimizer.step()
            else:
                optimizer.step(value(theta, torch.arange(2))[1], 0.05)
        torch.testing.assert_close(theta[0], start[0])
        assert rosenbrock(theta, None)[0][1] < rosenbrock(start, None)[0][1]


# ---- the loss ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def objective():
    """Two members, the second with gaps and noise of its own, on windows of ten rows."""
    record = record_of(rotation(T))
    other = record.perturbed(torch.tensor([0.1, 0.2], dtype=torch.float64), 3)
    other.y[0][7, 1] = np.nan
    batch = Batch([record, other])
    objective = Objective(Networks(2, (4,)), batch, torch.tensor([1e-3, 1e-1], dtype=torch.float64), 1.0)
    theta = objective.begin(objective.networks.begin([0, 1]))
    theta += 0.1 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=theta.dtype)
    return objective, theta, batch.windows(1)


def test_a_gradient_is_that_of_its_member(objective):
    loss, theta, windows = objective
    everyone = torch.arange(2)
    value, gradient, _ = loss.value(theta, everyone, windows)
    for place in (0, 9, loss.networks.size, loss.networks.size + 2, theta.shape[1] - 5):
        step = torch.zeros_like(theta)
        step[1, place] = 1e-5
        high, low = (loss.value(theta + sign * step, everyone, windows)[0] for sign in (1, -1))
        # Gaps are measured by the noise, which is held there: the derivative by the noise leaves them out.
        if not loss.networks.size <= place < loss.networks.size + 2:
            assert float((high - low)[1] / 2e-5) == pytest.approx(float(gradient[1, place]), rel=1e-6, abs=1e-8)
        assert float((high - low)[0]) == 0
    assert bool(value.isfinite().all())


def test_many_windows_that_no_longer_step_together_have_the_same_loss(objective, monkeypatch):
    loss, theta, windows = objective
    assert windows.common is not None
    together = loss.value(theta, torch.arange(2), windows)
    monkeypatch.setattr(module, "TOGETHER", 0)
    for one, other in zip(loss.value(theta, torch.arange(2), windows), together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("learned", [True, False])
def test_the_derivative_by_the_noise_is_that_of_the_loss(objective, learned):
    """Without gaps, which hold it."""
    loss, theta, windows = objective
    loss, everyone = replace(loss, continuity=0.0, learn_noise=learned), torch.arange(2)
    gradient = loss.value(theta, everyone, windows)[1]
    for place in (loss.networks.size, loss.networks.size + 1):
        step = torch.zeros_like(theta)
        step[:, place] = 1e-5
        high, low = (loss.value(theta + sign * step, everyone, windows)[0] for sign in (1, -1))
        torch.testing.assert_close(gradient[:, place], (high - low) / 2e-5, rtol=1e-6, atol=1e-9)
        assert bool((gradient[:, place] != 0).all()) is learned


def test_some_members_have_the_values_they_have_among_all(objective):
    loss, theta, windows = objective
    value, gradient, misfit = loss.value(theta, torch.arange(2), windows)
    plain = loss.losses(theta, torch.arange(2), windows)
    assert all(torch.equal(a, b) for a, b in zip(plain, (value, misfit), strict=True))
    for m in range(2):
        alone = loss.value(theta[m : m + 1], torch.tensor([m]), windows)
        for a, b in zip(alone, (value, gradient, misfit), strict=True):
            torch.testing.assert_close(a[0], b[m])


@pytest.mark.parametrize("stretch", [0.0, 0.01], ids=["common times", "times of their own"])
def test_without_the_machine_the_losses_are_the_same(objective, monkeypatch, stretch):
    loss, theta, windows = objective
    everyone = torch.arange(2)
    windows = replace(windows, ts=windows.ts * (1 + stretch * windows.member)[:, None])
    assert (windows.common is None) == (stretch > 0)
    auto = loss.value(theta, everyone, windows)
    monkeypatch.setattr(module, "solve", lambda *a, **k: solve(*a, **{**k, "engine": "eager"}))
    for a, b in zip(auto, loss.value(theta, everyone, windows), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_the_noise_that_is_learned_is_the_noise_there_is():
    sd = np.array([0.03, 0.15])
    y = rotation(T, 0.02) + sd * np.random.default_rng(0).standard_normal((40, 2))
    table = table_of((T, y))
    scales = Scales.of(table, table.series, "linear")
    config = Config(hidden=(), matching=50, iterations=10, polish=40)
    record = Record.of(table.series, scales, 5)
    trainer = Trainer(config, Batch([record]), torch.zeros(1, dtype=torch.float64), [0], lead=1)
    while not trainer.done:
        trainer.advance()
    learned = trainer.objective.noise(trainer.theta)[0].numpy() * [s.sd for s in scales.states]
    # The standard error of a standard deviation from 40 values is 11 %, and 4 parameters a column take some of it.
    np.testing.assert_allclose(learned, sd, rtol=0.3)


# ---- held-out blocks --------------------------------------------------------------------------------------------------
def test_blocks_lie_apart_and_are_not_taught():
    s = Series("a", T, rotation(T))
    made = folds([s], 4)
    assert len(made) == 4 and made[-1].blocks[0].t[-1] == T[-1]
    seen = [set(f.blocks[0].t) for f in made]
    assert all(not (a & b) for i, a in enumerate(seen) for b in seen[:i])
    for fold in made:
        taught = {t for piece in fold.taught for t in piece.t}
        assert not taught & set(fold.blocks[0].t) and len(taught) >= 30
        assert fold.before[0].t[-1] < fold.blocks[0].t[0]


def test_short_series_take_turns_and_a_single_short_one_has_no_blocks():
    short = [Series(str(k), T[:12], rotation(T[:12])) for k in range(6)]
    made = folds(short, 3)
    assert [len(f.blocks) for f in made] == [2, 2, 2]
    assert folds(short[:1], 3) == []


@pytest.mark.parametrize(("rows", "known"), [(3, 2), (4, 2), (9, 4)])
def test_of_many_series_even_very_short_ones_are_forecast_by_the_others(rows, known):
    many = [Series(str(k), T[:rows], rotation(T[:rows], phase=0.1 * k)) for k in range(20)]
    made = folds(many, 4)
    assert [[b.id for b in fold.blocks] for fold in made] == [[str(k) for k in range(i, 20, 4)] for i in range(4)]
    for fold in made:
        assert all((len(a.t), len(b.t)) == (known, rows - known) for a, b in zip(fold.before, fold.blocks, strict=True))
        assert not {s.id for s in fold.taught} & {b.id for b in fold.blocks}
    assert folds(many[:19], 4) == []
    assert folds([s.rows(slice(2)) for s in many], 4) == []
