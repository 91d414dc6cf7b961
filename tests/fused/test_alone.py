"""Tiles of one lane, with vectors of rows: to the last bit the states of a wider tile, and its gradients by each sample."""

import pytest
import torch
from fused_fields import FIELDS, Field, Net, random

import isocline as ic
from isocline.engines.fused.build import vector_bytes
from isocline.engines.fused.plan import Plan
from isocline.nn import MLP

pytestmark = pytest.mark.machine
F32, F64 = torch.float32, torch.float64
COUNT = 3
TS = torch.tensor([0.0, 0.013, 0.4, 0.41, 0.8], dtype=F64)


def solved(made, width, size, dtype=F64, ts=TS, sources=(), **options):
    """The solution; gradients by y0 and `sources` of each sample, then by the parameters. Nothing is kept from before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "_width", lambda self, samples, together: width)
        field, y0 = made().to(dtype), (0.5 * random(COUNT, size, seed=4)).to(dtype).requires_grad_()
        sol = ic.solve(field, y0, ts, batching="per_sample", engine="fused", **options)
        weights = torch.linspace(-1, 1, sol.ys.numel(), dtype=dtype).view(sol.ys.shape)
        own = [y0, *sources]
        grads = torch.autograd.grad((sol.ys * weights).sum(), [*own, *field.parameters()], allow_unused=True)
    return sol, grads[: len(own)], [g for g in grads[len(own) :] if g is not None]


def same(made, size, dtype=F64, **options):
    (a, own_a, shared_a), (b, own_b, shared_b) = (solved(made, width, size, dtype, **options) for width in (0, 1))
    assert torch.equal(a.ys, b.ys)
    for name in ("accepted", "rejected", "evaluations"):
        assert torch.equal(getattr(a.stats, name), getattr(b.stats, name))
    loose = 1e-12 if dtype == F64 else 1e-5
    for x, y in zip(own_a, own_b, strict=True):
        assert torch.equal(x, y)
    for x, y in zip(shared_a, shared_b, strict=True):  # summed over samples in another order
        assert float((x - y).norm()) <= loose * (1 + float(y.norm()))


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "powers"])
def test_fields(name):
    same(lambda: Field(FIELDS[name]), 3, solver="dopri5", rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", ["checkpointed", "backsolve"])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("layers", [(3, 17, 9, 3), (1, 7, 1), (2, 50, 2), (5, 16, 64, 33, 5), (20, 20)])
def test_networks(layers, dtype, gradient):
    """Layers that do and do not fill vectors, with one and two rows left over, which are summed in parts."""
    made = lambda: MLP(layers, "tanh", seed=1, time=True, dtype=dtype)
    same(made, layers[0], dtype, solver="tsit5", rtol=1e-4, atol=1e-5, gradient=gradient)


@pytest.mark.parametrize("solver", ["rk4", "vern7", "bosh3"])
@pytest.mark.parametrize("case", ["inputs", "jumps", "backwards", "ragged", "doses"])
def test_what_comes_from_outside(case, solver):
    values, extra = random(COUNT, 6, 2, seed=1).requires_grad_(), random(COUNT, 1, seed=2).requires_grad_()
    knots = torch.linspace(0, 1, 6, dtype=F64)
    more = {"args": (extra,), "sources": (extra,), "solver": solver}
    more |= {"step": 0.05} if solver == "rk4" else {"rtol": 1e-5, "atol": 1e-6}
    if case == "inputs":
        more |= {"inputs": ic.LinearInterpolation(knots, values), "sources": (extra, values)}
    elif case == "jumps":
        more |= {"inputs": ic.ZeroOrderHold(knots, values), "sources": (extra, values)}
    elif case == "backwards":
        more |= {"ts": TS.flip(0)}
    elif case == "ragged":
        more |= {"ts": TS * torch.tensor([[1.0], [0.3], [-0.5]], dtype=F64)}
    else:
        more |= {"doses": ic.Dose(torch.tensor([0.1, 0.5], dtype=F64), torch.ones(2, 2, dtype=F64))}
    same(Net, 2, **more)


def test_dense_output():
    values = []
    for width in (0, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Plan, "_width", lambda self, samples, together, width=width: width)
            y0 = random(COUNT, 2).requires_grad_()
            sol = ic.solve(
                Net(), y0, (0.0, 1.0), batching="per_sample", engine="fused", dense=True, rtol=1e-5, atol=1e-6
            )
            inner = sol.at(torch.tensor([0.2, 0.77, 1.0], dtype=F64))
            values.append((inner.detach(), *torch.autograd.grad(inner.square().sum(), y0)))
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))


def test_one_sample_of_a_network_is_solved_by_rows():
    """And so few of a wide one, but neither many nor those of a field of single numbers."""

    def width(made, size, count):
        found = []
        with pytest.MonkeyPatch.context() as patch:
            real = Plan._width
            patch.setattr(Plan, "_width", lambda self, *how: found.append(real(self, *how)) or found[0])
            with torch.no_grad():
                ic.solve(made(), random(count, size).to(F32), TS, batching="per_sample", engine="fused", rtol=1e-3)
        return found[0]

    net = lambda: MLP((2, 50, 2), dtype=F32)
    assert width(net, 2, 1) == 0 and width(net, 2, 20) > 0
    if vector_bytes() >= 32:
        assert width(lambda: MLP((8, 64, 64, 8), dtype=F32), 8, 2) == 0
    assert width(lambda: Field(FIELDS["Lorenz"]).to(F32), 3, 1) > 0


@pytest.mark.parametrize("count", [20, 64])
def test_half_as_many_lanes_for_few_samples(count):
    """With steps of their own: the tiles of both ways need not be alike, and their results are."""
    y0 = random(count, 2).to(F32)

    def solved(width):
        net, plans = MLP((2, 50, 2), dtype=F32), []  # what was laid out for another is not taken again
        with pytest.MonkeyPatch.context() as patch:
            real = Plan._narrowed

            def chosen(self, *arguments):
                plans.append(self)
                return width or real(self, *arguments)

            patch.setattr(Plan, "_width", lambda self, *how: 2)
            patch.setattr(Plan, "_narrowed", chosen)
            y = y0.clone().requires_grad_()
            ys = ic.solve(net, y, TS, batching="per_sample", engine="fused", rtol=1e-4).ys
            grads = torch.autograd.grad(ys.square().sum(), (y, *net.parameters()))
        return (plans[0].width, plans[0].width_back), ys, *grads

    few, many = solved(0), solved(2)
    lanes = vector_bytes() // 4
    assert few[0] == tuple(1 if lanes < count <= most * lanes else 2 for most in (4, 2))
    assert many[0] == (2, 2)
    assert torch.equal(few[1], many[1]) and torch.equal(few[2], many[2])
    for a, b in zip(few[3:], many[3:], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_samples_are_solved_alike_whoever_begins():
    """Those with the longest solves begin first: neither their order nor what they share a tile with shows in the results."""
    y0 = random(300, 2).to(F32) * torch.logspace(-2, 0.3, 300).unsqueeze(1)
    torch.manual_seed(0)
    net = MLP((2, 50, 2), dtype=F32)
    with torch.no_grad():
        for p in net.parameters():
            p *= 3

    def solved(y0):
        y = y0.clone().requires_grad_()
        solution = ic.solve(net, y, TS, batching="per_sample", engine="fused", rtol=1e-6)
        by_y0, *others = torch.autograd.grad(solution.ys.square().sum(), (y, *net.parameters()))
        return solution, by_y0, others

    solution, by_y0, others = solved(y0)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    mixed, mixed_by_y0, mixed_others = solved(y0[order])
    assert solution.stats.accepted.unique().numel() > 3  # there is an order to choose
    assert torch.equal(mixed.ys, solution.ys[:, order]) and torch.equal(mixed_by_y0, by_y0[order])
    assert torch.equal(mixed.stats.accepted, solution.stats.accepted[order])
    for a, b in zip(others, mixed_others, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
