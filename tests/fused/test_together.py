"""Samples that take the same fixed steps: one clock for all, and the numbers they have with clocks of their own."""

import pytest
import torch
from fused_fields import Net, random
from torch import nn

import isocline as ic
from isocline.engines.fused.plan import Plan

pytestmark = pytest.mark.machine

F64 = torch.float64
COUNT = 21
TS = torch.tensor([0.0, 0.013, 0.5, 0.55, 0.58, 1.0], dtype=F64)


def solved(field, y0, ts, engine="fused", sources=(), **options):
    """The solution, and the gradients by y0, the parameters and `sources`."""
    y0 = y0.clone().requires_grad_()
    sol = ic.solve(field, y0, ts, batching="per_sample", engine=engine, **options)
    loss = (sol.ys.nan_to_num() * torch.linspace(-1, 1, sol.ys.numel(), dtype=F64).view(sol.ys.shape)).sum()
    return sol, torch.autograd.grad(loss, [y0, *field.parameters(), *sources])


@pytest.mark.parametrize("width", [1, 2, 8, 16])
@pytest.mark.parametrize("solver", ["euler", "rk4", "tsit5", "dopri8", "bosh3"])
def test_as_with_clocks_of_their_own(solver, width, monkeypatch):
    """Times that are a row for each sample, the last row another, are not common: everyone has a clock."""
    monkeypatch.setattr(Plan, "_width", lambda self, samples, together: width)
    field, extra = Net(), torch.linspace(0, 1, COUNT + 1, dtype=F64)[:, None].requires_grad_()
    y0 = random(COUNT + 1, 2)
    for ts in (TS, 1.1 - TS):
        rows = ts.repeat(COUNT + 1, 1)
        rows[-1] = rows[-1] * 0.9
        options = {"solver": solver, "step": 0.05}
        (a, want), (b, got) = (
            solved(field, y0, x, args=(extra,), sources=(extra,), **options) for x in (rows, ts.repeat(COUNT + 1, 1))
        )
        torch.testing.assert_close(b.ys[:, :-1], a.ys[:, :-1], rtol=1e-13, atol=1e-13)
        for name in ("accepted", "rejected", "evaluations"):
            assert torch.equal(getattr(a.stats, name)[:-1], getattr(b.stats, name)[:-1])
        for i in (0, -1):  # of each sample
            torch.testing.assert_close(got[i][:-1], want[i][:-1], rtol=1e-11, atol=1e-12)
        _, eager = solved(field, y0, ts, "eager", args=(extra,), sources=(extra,), **options)
        for x, y in zip(got, eager, strict=True):
            assert float((x - y).norm()) <= 1e-10 * float(y.norm())


@pytest.mark.parametrize("kind", [ic.ZeroOrderHold, ic.LinearInterpolation])
def test_with_inputs(kind):
    values = random(6, 2, seed=1).requires_grad_()
    signal = kind(torch.linspace(0, 1, 6, dtype=F64), values)
    options = {"solver": "rk4", "step": 0.05, "inputs": signal, "sources": (values,)}
    (a, want), (b, got) = (solved(Net(), random(COUNT, 2), TS, engine, **options) for engine in ("eager", "fused"))
    torch.testing.assert_close(b.ys, a.ys, rtol=1e-12, atol=1e-12)
    for x, y in zip(got, want, strict=True):
        assert float((x - y).norm()) <= 1e-10 * float(y.norm())


class Clocks(nn.Module):
    """Slopes that are the time, read it in a product, or have nothing to do with it."""

    def forward(self, t, y):
        return torch.stack((t.reshape(-1).expand(len(y)), y[:, 0] * (1 + t.reshape(-1)), -y[:, 2]), -1)


class Fading(nn.Module):
    """1 − t² behind a product of a matrix, as the derivative of tanh is."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1).to(F64)

    def forward(self, t, y):
        return self.linear(y) * (1 - t * t)


@pytest.mark.parametrize(("field", "size"), [(Clocks, 3), (Fading, 1)])
def test_the_time_is_looked_at_where_it_is_read(field, size):
    field, y0 = field(), random(COUNT, size)
    for solver in ("euler", "rk4", "tsit5"):
        (a, want), (b, got) = (solved(field, y0, TS, x, solver=solver, step=0.05) for x in ("eager", "fused"))
        torch.testing.assert_close(b.ys, a.ys, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


class Explosive(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.0, dtype=F64))

    def forward(self, t, y):
        return self.a * y**3


def test_one_that_fails_leaves_the_others_as_they_are():
    y0 = 0.1 * random(COUNT, 2)
    wild = torch.cat([y0[:9], torch.full((1, 2), 1e3, dtype=F64), y0[9:]])
    options = {"solver": "euler", "step": 0.05, "throw": False}
    (a, want), (b, got) = (solved(Explosive(), x, TS, **options) for x in (y0, wild))
    assert b.status[9] != ic.Status.SUCCESS and b.stats.accepted[9] < a.stats.accepted[0]
    assert bool(b.ys[-1, 9].isnan().all())
    others = [i for i in range(COUNT + 1) if i != 9]
    torch.testing.assert_close(b.ys[:, others], a.ys, rtol=1e-13, atol=0)
    assert torch.equal(b.status[others], a.status) and torch.equal(b.stats.evaluations[others], a.stats.evaluations)
    assert want[0].isfinite().all() and got[0][others].isfinite().all()


def test_no_more_steps_than_allowed():
    with torch.no_grad():
        y0 = random(COUNT, 2)
        options = {"solver": "rk4", "step": 0.1, "batching": "per_sample", "engine": "fused", "throw": False}
        enough, few = (ic.solve(Net(), y0, [0.0, 1.0], max_steps=k, **options) for k in (10, 9))
    assert bool((enough.status == ic.Status.SUCCESS).all()) and bool((few.status == ic.Status.MAX_STEPS).all())


@pytest.mark.parametrize("engine", ["fused", ic.Fused("wait")], ids=["interpreted", "compiled"])
def test_a_record_larger_than_caches(engine):
    """Written past them, into memory that is handed from solve to solve: as in parts that a cache holds."""
    field, y0 = Explosive(), random(1200, 2)  # 1,000 steps · 2 · 8 bytes for each
    field.a.data.neg_()
    weights = torch.linspace(-1, 1, 2 * y0.numel(), dtype=F64).view(2, *y0.shape)

    def found(rows):
        leaf = y0[rows].clone().requires_grad_()
        sol = ic.solve(field, leaf, [0.0, 1.0], solver="rk4", step=1e-3, batching="per_sample", engine=engine)
        return sol.ys.detach(), *torch.autograd.grad(sol.ys, [leaf, field.a], weights[:, rows])

    parts = [found(slice(i, i + 400)) for i in (0, 400, 800)]
    for _ in range(2):
        ys, by_y0, by_a = found(slice(1200))
        found(slice(700))  # blocks of another size between
        assert torch.equal(ys, torch.cat([part[0] for part in parts], 1))
        assert torch.equal(by_y0, torch.cat([part[1] for part in parts]))
        torch.testing.assert_close(by_a, sum(part[2] for part in parts), rtol=1e-10, atol=0)
