"""A fused solve as an operator of PyTorch: what graphs hold, and what `torch.library` asks of it."""

from pathlib import Path

import pytest
import torch
from apart import passes

import isocline as ic
from isocline.engines.fused.described import TAPES, Described, described
from isocline.engines.fused.lanes import LANES, CannotFuseError
from isocline.engines.fused.operators import tile_pull_back, tile_solve
from isocline.engines.fused.trace import trace
from isocline.in_graph import HOLDS
from isocline.nn import MLP

pytestmark = pytest.mark.machine

F64 = torch.float64
TS = torch.linspace(0, 1, 4, dtype=F64)


def rated(field):
    return lambda t, y, k: field(t, y) * k


@pytest.fixture
def given():
    """A field, its operator's arguments: y0, ts, a rate of each sample, the parameters, the text."""
    field = MLP((2, 8, 2), seed=0, dtype=F64)
    example = torch.randn(LANES, 2, dtype=F64)
    program = trace(rated(field), torch.rand(LANES, 1, dtype=F64), example, [torch.ones(LANES, 1, dtype=F64)]).program
    y0 = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64).requires_grad_()
    rate = torch.linspace(0.5, 1.5, 5, dtype=F64)[:, None].requires_grad_()
    told = Described(program, 1, ic.Tsit5(), ic.PID(1e-6, 1e-8), [0.3], 1000, True)
    return field, y0, rate, list(field.parameters()), told.text()


def test_an_operator_is_the_engine(given):
    field, y0, rate, leaves, what = given
    ys, counts, _ = tile_solve(y0, TS, [rate], leaves, what, True)
    want = ic.solve(
        rated(field), y0, TS, args=(rate,), rtol=1e-6, atol=1e-8, step_ts=[0.3], engine="fused", batching="per_sample"
    )
    assert torch.equal(ys, want.ys)
    stats = want.stats
    assert torch.equal(counts, torch.stack([want.status, stats.accepted, stats.rejected, stats.evaluations]))
    weights = torch.linspace(-1, 1, ys.numel(), dtype=F64).view_as(ys)
    grads = [torch.autograd.grad((x * weights).sum(), [y0, rate, *leaves]) for x in (ys, want.ys)]
    assert all(map(torch.equal, *grads))


def test_what_torch_library_asks(given):
    _, y0, rate, leaves, what = given
    for tape in (True, False):
        torch.library.opcheck(tile_solve, (y0, TS, [rate], leaves, what, tape))
    free = [x.detach() for x in (y0, rate, *leaves)]
    cotangent, token = torch.randn(4, 5, 2, dtype=F64), torch.zeros(1, dtype=torch.int64)
    torch.library.opcheck(tile_pull_back, (cotangent, free[0], TS, free[1:2], free[2:], token, what))


def test_a_tape_lives_as_long_as_its_token_and_is_made_again_where_it_is_gone(given):
    _, y0, rate, leaves, what = given
    ys, _, token = tile_solve(y0, TS, [rate], leaves, what, True)
    cotangent = torch.ones_like(ys)
    free = ([rate.detach()], [x.detach() for x in leaves])
    with_tape, without = (tile_pull_back(cotangent, y0.detach(), TS, *free, t, what) for t in (token, token.clone()))
    assert all(map(torch.equal, with_tape, without)) and len(TAPES) == 1
    del ys, token
    assert len(TAPES) == 0
    with torch.no_grad():
        tile_solve(y0, TS, [rate], leaves, what, False)
    assert len(TAPES) == 0


def test_failures_and_second_derivatives(given):
    _, y0, rate, leaves, what = given
    lines = what.replace('"max_steps": 1000', '"max_steps": 2')
    with pytest.raises(ic.SolveError, match=r"5 of 5 samples.*max_steps = 2"):
        tile_solve(y0, TS, [rate], leaves, lines, False)
    ys, counts, _ = tile_solve(y0, TS, [rate], leaves, lines.replace('"throw": true', '"throw": false'), False)
    assert counts[0].tolist() == [int(ic.Status.MAX_STEPS)] * 5 and bool(ys[-1].isnan().all())
    ys, _, _ = tile_solve(y0, TS, [rate], leaves, what, True)
    (g,) = torch.autograd.grad(ys.sum(), y0, create_graph=True)
    with pytest.raises(ic.GradientError, match="second derivatives"):
        torch.autograd.grad(g.sum(), y0)
    with pytest.raises(ValueError, match="strictly monotone"):
        tile_solve(y0, TS.flip(0)[[0, 2, 1]], [rate], leaves, what, False)


def test_a_text_is_the_program_again(given):
    *_, what = given
    told, _ = described(what)
    assert told.text() == what and isinstance(told.solver, ic.Tsit5) and told.controller == ic.PID(1e-6, 1e-8)
    with pytest.raises(CannotFuseError, match="no number"):
        Described(told.program, 1, ic.Tsit5(), ic.PID(torch.ones(2)), [], 10, True).text()


@pytest.mark.skipif(not HOLDS, reason="a solve as an operator of a graph needs PyTorch 2.13")
def test_graphs_hold_it_whole():
    passes(Path(__file__).with_name("graphs.py"))
