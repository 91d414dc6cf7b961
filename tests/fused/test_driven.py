"""What comes from outside of a field, natively as eagerly: inputs, jumps, doses; and the continuous adjoint."""

import itertools

import pytest
import torch
from fused_fields import Net, random
from torch import nn

import isocline as ic
from isocline.nn import MLP

pytestmark = pytest.mark.machine

F64 = torch.float64
COUNT = 21


def both(net, sources, solved, **options):
    """(eager, fused), each its path and the gradients by y0, the parameters and `sources`."""
    found = []
    for engine in ("eager", "fused"):
        y0 = random(COUNT, 2).requires_grad_()
        sol = solved(net, y0, batching="per_sample", engine=engine, **options)
        loss = (sol.ys.nan_to_num() * torch.linspace(-1, 1, sol.ys.numel(), dtype=F64).view(sol.ys.shape)).sum()
        found.append((sol, torch.autograd.grad(loss, [y0, *net.parameters(), *sources])))
    return found


def agree(found, loose, steps=True):
    (eager, want), (fused, got) = found
    torch.testing.assert_close(fused.ys, eager.ys, rtol=loose, atol=loose, equal_nan=True)
    for x, y in zip(got, want, strict=True):
        assert float((x - y).norm()) <= loose * float(y.norm()) + 1e-14
    if steps:
        assert torch.equal(fused.stats.accepted, eager.stats.accepted)


KNOTS = torch.tensor([0.1, 0.5, 0.52, 0.9, 1.4, 2.0], dtype=F64)
SIGNALS = {
    "hold": lambda ts, x: ic.ZeroOrderHold(ts, x),
    "lines": lambda ts, x: ic.LinearInterpolation(ts, x),
    "cubics": lambda ts, x: ic.CubicHermite(ts, x),
}
SPANS = {
    "forwards": torch.linspace(0, 2, 5, dtype=F64),
    "backwards": torch.linspace(2.2, 0, 4, dtype=F64),
    "ragged": torch.linspace(0, 2, 5, dtype=F64) * torch.linspace(-0.2, 1, COUNT, dtype=F64)[:, None],
}


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(("kind", "gradient"), list(itertools.product(SIGNALS, ("checkpointed", "backsolve"))))
def test_inputs(kind, gradient, span, rows):
    values = random(*((COUNT, 6, 2) if rows else (6, 2)), seed=1).requires_grad_()
    knots = KNOTS + 0.01 * torch.arange(COUNT, dtype=F64)[:, None] if rows else KNOTS
    signal, extra = SIGNALS[kind](knots, values), torch.linspace(0, 1, COUNT, dtype=F64)[:, None].requires_grad_()
    options = {"inputs": signal, "args": (extra,), "gradient": gradient, "rtol": 1e-9, "atol": 1e-11}
    found = both(Net(), [values, extra], lambda f, y0, **o: ic.solve(f, y0, SPANS[span], **o), **options)
    agree(found, 1e-7 if gradient == "checkpointed" else 1e-5)


def test_several_inputs_and_numbers_in_them():
    a, b = random(6, seed=1).requires_grad_(), random(6, 2, 2, seed=2).requires_grad_()
    inputs = {"a": ic.CubicHermite(KNOTS, a), "b": ic.LinearInterpolation(KNOTS, b)}

    def field(t, y, u, k):
        return -k * y * u["a"] + (u["b"] @ y.unsqueeze(2)).squeeze(2)

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.k = nn.Parameter(torch.tensor(0.7, dtype=F64))

        def forward(self, t, y, u):
            return field(t, y, u, self.k)

    options = {"inputs": inputs, "rtol": 1e-9, "atol": 1e-11}
    agree(both(Field(), [a, b], lambda f, y0, **o: ic.solve(f, y0, [0.0, 0.7, 1.9], **o), **options), 1e-7)


@pytest.mark.parametrize("gradient", ["checkpointed", "backsolve"])
@pytest.mark.parametrize("times", [[0.0, 0.4, 1.0], [1.0, 0.4, 0.0]])
def test_jumps_and_stops(times, gradient):
    class Stepped(Net):
        def forward(self, t, y):
            return super().forward(t, y) + torch.where(t < 0.4, 2.0, torch.where(t < 0.7, -1.0, 0.5))

    options = {"jump_ts": [0.4, 0.7], "step_ts": [0.2, 0.9], "gradient": gradient, "rtol": 1e-9, "atol": 1e-11}
    found = both(Stepped(), [], lambda f, y0, **o: ic.solve(f, y0, times, **o), **options)
    agree(found, 1e-7 if gradient == "checkpointed" else 1e-5)


@pytest.mark.parametrize("gradient", ["checkpointed", "backsolve"])
def test_doses(gradient):
    amounts = random(2, 2, seed=4).requires_grad_()
    options = {"doses": ic.Dose([0.3, 0.6], amounts), "gradient": gradient, "rtol": 1e-9, "atol": 1e-11}
    found = both(Net(), [amounts], lambda f, y0, **o: ic.solve(f, y0, [0.0, 0.3, 0.5, 1.0], **o), **options)
    agree(found, 1e-7 if gradient == "checkpointed" else 1e-5)


# ---- the continuous adjoint ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("solver", ["tsit5", "dopri8", "vern7", "rk4", "midpoint"])
def test_the_adjoint_is_the_eager_one(solver):
    """To the error of the method: the eager one takes the samples back together, with other steps."""
    extra = torch.linspace(0.5, 1.5, COUNT, dtype=F64)[:, None].requires_grad_()
    options = {"args": (extra,), "gradient": ic.Backsolve(check="off"), "solver": solver}
    options |= {"rtol": 1e-9, "atol": 1e-11} if solver in ("tsit5", "dopri8", "vern7") else {"step": 0.01}
    for span in SPANS.values():
        found = both(Net(), [extra], lambda f, y0, ts=span, **o: ic.solve(f, y0, ts, **o), **options)
        agree(found, 1e-3 if solver == "midpoint" else 1e-5, steps=False)


def test_the_adjoints_own_solver_and_tolerances():
    way_back = ic.Backsolve(solver="dopri5", rtol=1e-6, atol=1e-8)
    options = {"gradient": way_back, "rtol": 1e-9, "atol": 1e-11}
    agree(both(Net(), [], lambda f, y0, **o: ic.solve(f, y0, [0.0, 0.5, 1.0], **o), **options), 1e-4)


def test_the_adjoint_does_not_depend_on_the_size_of_the_loss():
    found = []
    for size in (1.0, 1e-8):
        y0 = random(COUNT, 2).requires_grad_()
        ys = ic.solve(Net(), y0, [0.0, 1.0], gradient="backsolve", engine="fused", batching="per_sample").ys
        found.append(torch.autograd.grad(size * ys.square().sum(), y0)[0] / size)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_what_cannot_go_back_is_said():
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True)
    options = {"gradient": "backsolve", "batching": "per_sample", "engine": "fused", "rtol": 1e-4, "atol": 1e-4}
    ys = ic.solve(lambda t, y: -15 * y + torch.sin(y), y0, [0.0, 1.0], **options).ys
    with pytest.raises(ic.GradientError, match=r"misses the stored y at t = 0 by|failed"):
        ys[-1].sum().backward()


def test_the_adjoint_leaves_what_no_observation_reaches():
    """A loss of the first observation alone; samples without any weight."""
    weight = torch.zeros(3, COUNT, 2, dtype=F64)
    weight[0], weight[1, 3] = 1.0, 2.0
    found = []
    for engine in ("eager", "fused"):
        net, y0 = Net(), random(COUNT, 2).requires_grad_()
        ys = ic.solve(net, y0, [0.0, 0.5, 1.0], gradient="backsolve", batching="per_sample", engine=engine).ys
        found.append(torch.autograd.grad((ys * weight).sum(), [y0, *net.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gradient", ["checkpointed", "backsolve"])
@pytest.mark.parametrize("count", [1, 5, 300])
def test_widths_of_the_tile(count, gradient, monkeypatch):
    """Whatever the width; small programs and small batches have another."""
    from isocline.engines.fused.plan import Plan

    found = []
    for width in (0, 1, 2, 8):
        monkeypatch.setattr(Plan, "_width", lambda self, samples, together, width=width: width)
        net, y0 = Net(), random(count, 2).requires_grad_()
        options = {"gradient": gradient, "batching": "per_sample", "engine": "fused", "rtol": 1e-8, "atol": 1e-8}
        ys = ic.solve(net, y0, [0.0, 0.3, 1.0], **options).ys
        found.append((ys, *torch.autograd.grad(ys.square().sum(), [y0, *net.parameters()])))
    assert all(torch.equal(found[0][0], other[0]) for other in found)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_widths_of_the_tile_of_few_rows(size, monkeypatch):
    """Products of few rows are summed in parts, the same ones whatever the width."""
    from isocline.engines.fused.plan import Plan

    found = []
    for width in (0, 1, 2, 8):
        monkeypatch.setattr(Plan, "_width", lambda self, samples, together, width=width: width)
        net, y0 = MLP((size, 7, size), seed=3, dtype=F64), random(5, size)
        with torch.no_grad():
            found.append(ic.solve(net, y0, [0.0, 1.0], rtol=1e-8, atol=1e-8, batching="per_sample", engine="fused").ys)
    assert all(torch.equal(found[0], other) for other in found)


def test_second_derivatives_by_inputs_of_each_sample_where_they_end_at_times_of_their_own():
    net, knots = Net(), KNOTS + 0.01 * torch.arange(COUNT, dtype=F64)[:, None]

    def found(engine):
        values, y0 = random(COUNT, 6, 2, seed=1).requires_grad_(), random(COUNT, 2).requires_grad_()
        options = {"inputs": ic.LinearInterpolation(knots, values), "rtol": 1e-6, "atol": 1e-7}
        sol = ic.solve(net, y0, SPANS["ragged"], batching="per_sample", engine=engine, **options)
        (g,) = torch.autograd.grad(sol.ys.nan_to_num().square().sum(), values, create_graph=True)
        return torch.autograd.grad(g.square().sum(), y0)[0]

    torch.testing.assert_close(found("auto"), found("eager"), rtol=1e-6, atol=1e-6)
