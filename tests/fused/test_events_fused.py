"""Events of fused solves: found where the eager engine finds them, with its statuses, counts and gradients."""

import gc
import math

import pytest
import torch
from fused_fields import Net, random

import isocline as ic
from isocline import Event, Status
from isocline.engines.fused import events as looked
from isocline.engines.fused.solve import Tape

pytestmark = pytest.mark.machine

F32, F64 = torch.float32, torch.float64
COUNT = 7
SPANS = {
    "forwards": torch.tensor([0.0, 0.4, 1.0, 2.0], dtype=F64),
    "backwards": torch.tensor([1.9, 1.1, 0.4, 0.0], dtype=F64),
    "ragged": torch.tensor([0.0, 0.4, 1.0, 2.0], dtype=F64) * torch.linspace(0.5, 1.2, COUNT, dtype=F64)[:, None],
    "padded": torch.where(
        torch.arange(COUNT)[:, None] % 3 + 2 > torch.arange(4), torch.tensor([0.0, 0.4, 1.0, 2.0], dtype=F64), torch.nan
    ),
}
STEPPING = {
    "tsit5": {"rtol": 1e-6, "atol": 1e-7},
    "pi": {"controller": ic.PID.pi(1e-5, 1e-6), "solver": "bosh3"},
    "dopri8": {"solver": "dopri8", "rtol": 1e-7, "atol": 1e-8},
    "vern9": {"solver": "vern9", "rtol": 1e-9, "atol": 1e-10},
    "step": {"solver": "rk4", "step": 0.13},
    "max_step": {"solver": "rk4", "max_step": 0.17},
}


class Events:
    """Of a rotation with a drive: conditions and resets of each sample, with parameters, an argument and the time in them."""

    def __init__(self, dtype):
        self.level = torch.linspace(-0.3, 0.6, COUNT, dtype=dtype).requires_grad_()
        self.kick = torch.tensor([0.1, -0.2], dtype=dtype, requires_grad=True)
        self.parameters = [self.level, self.kick]

    def crossed(self, t, y, extra):
        return y[:, 0] - self.level - 0.05 * t[:, 0] + 0.1 * extra[:, 0]

    def kinds(self, kind):
        kicked = lambda t, y, extra: 0.7 * y + self.kick * (1 + t) + 0.1 * extra
        return {
            "terminal": [Event(self.crossed)],
            "down": [Event(self.crossed, direction=-1)],
            "noted": [Event(self.crossed, terminal=False)],
            "reset": [Event(self.crossed, reset=kicked, direction=1)],
            "several": [
                Event(self.crossed, terminal=False, direction=1),
                Event(lambda t, y, extra: y[:, 1] - self.level, reset=kicked),
                Event(lambda t, y, extra: y.square().sum(1) - 3.0),
            ],
            "none": [Event(lambda t, y, extra: y[:, 0] - 99.0)],
        }[kind]


def solved(engine, kind, ts, stepping=None, dtype=F64, **options):
    """The solution, and the gradients by y0, the times, an argument and all parameters."""
    net, events = Net().to(dtype), Events(dtype)
    y0 = random(COUNT, 2, seed=1).to(dtype).requires_grad_()
    extra = torch.linspace(0, 1, COUNT, dtype=dtype)[:, None].requires_grad_()
    ts = ts.clone().requires_grad_()

    def field(t, y, extra):
        return 3 * torch.stack([y[:, 1], -y[:, 0]], 1) + net(t, y, extra)

    sol = ic.solve(
        field, y0, ts, args=(extra,), events=events.kinds(kind), batching="per_sample", engine=engine, throw=False,
        **(stepping or {}), **options,
    )  # fmt: skip
    found = [x.nan_to_num() for x in (sol.ys, sol.event_ts, sol.event_ys)]
    loss = sum((x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in found)
    sources = [y0, ts, extra, *net.parameters(), *events.parameters]
    return sol, torch.autograd.grad(loss, sources, materialize_grads=True)


def agree(ours, reference, loose, counts=True):
    (fused, grads), (eager, exact) = ours, reference
    assert torch.equal(fused.status, eager.status) and torch.equal(fused.event_index, eager.event_index)
    for x, y in ((fused.ys, eager.ys), (fused.event_ts, eager.event_ts), (fused.event_ys, eager.event_ys)):
        torch.testing.assert_close(x, y, rtol=loose, atol=loose, equal_nan=True)
    for x, y in zip(grads, exact, strict=True):
        assert float((x - y).norm()) <= 100 * loose * float(y.norm()) + 1e-12
    if counts:
        assert torch.equal(fused.stats.accepted, eager.stats.accepted)


@pytest.mark.parametrize("kind", ["terminal", "down", "noted", "reset", "several", "none"])
@pytest.mark.parametrize("span", ["ragged", "backwards"])
def test_they_are_the_eager_ones_and_so_are_the_gradients(kind, span):
    fused, eager = (solved(engine, kind, SPANS[span], STEPPING["tsit5"]) for engine in ("fused", "eager"))
    agree(fused, eager, 1e-9)
    assert (kind == "none") == (len(fused[0].event_ts) == 0)


@pytest.mark.parametrize("span", ["forwards", "padded"])
@pytest.mark.parametrize("stepping", STEPPING)
def test_with_every_kind_of_steps(stepping, span):
    agree(*(solved(engine, "reset", SPANS[span], STEPPING[stepping]) for engine in ("fused", "eager")), 1e-9)


@pytest.mark.parametrize(
    ("kind", "span", "stepping", "loose"),
    [
        ("terminal", "ragged", {"rtol": 1e-9, "atol": 1e-11}, 1e-7),
        ("reset", "backwards", {"rtol": 1e-9, "atol": 1e-11}, 1e-7),
        ("reset", "ragged", {"solver": "dopri8", "step": 0.1}, 1e-7),
        ("terminal", "backwards", {"solver": "dopri8", "max_step": 0.1}, 1e-7),
    ],
)
def test_by_the_continuous_adjoint(kind, span, stepping, loose):
    """Whose gradients are as right as its solve backwards."""
    fused = solved("fused", kind, SPANS[span], stepping, gradient="backsolve")
    agree(fused, solved("eager", kind, SPANS[span], stepping), loose)


@pytest.mark.parametrize("kind", ["terminal", "reset"])
def test_in_single_precision(kind):
    fused, eager = (solved(engine, kind, SPANS["forwards"], {"step": 0.1}, F32) for engine in ("fused", "eager"))
    agree(fused, eager, 2e-5)
    assert fused[0].ys.dtype is F32 and fused[0].event_ts.dtype is F64


@pytest.mark.parametrize("ahead", [1, 3])
def test_those_far_ahead_are_looked_for_again(ahead, monkeypatch):
    """What is found does not hang on how many steps are looked at together."""
    want = solved("fused", "several", SPANS["ragged"], STEPPING["tsit5"])
    monkeypatch.setattr(looked, "AHEAD", ahead)
    monkeypatch.setattr(looked, "FURTHER", 2)
    agree(solved("fused", "several", SPANS["ragged"], STEPPING["tsit5"]), want, 1e-13)


def turning(t, y):
    """cos t, −sin t, from (1, 0)."""
    return torch.stack([y[:, 1], -y[:, 0]], 1)


FUSED = {"batching": "per_sample", "engine": "fused"}
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def test_an_event_far_before_the_end_costs_no_steps_to_the_end():
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64).expand(3, 2)
    sol = ic.solve(turning, y0, [0.0, 1e5], events=Event(lambda t, y: y[:, 0]), **FUSED, **TIGHT)
    torch.testing.assert_close(sol.event_ts[0], torch.full((3,), math.pi / 2, dtype=F64), rtol=1e-9, atol=0)
    assert int(sol.stats.evaluations.max()) < 3000


def test_a_condition_may_branch_on_numbers():
    y0 = torch.tensor([[1.0, 0.0], [0.9, 0.1]], dtype=F64)

    def condition(t, y):
        return y[:, 0] if t[0, 0] < 100 else y[:, 1]

    found = [
        ic.solve(turning, y0, [0.0, 4.0], events=Event(c), **FUSED, **TIGHT).event_ts
        for c in (condition, lambda t, y: y[:, 0])
    ]
    assert torch.equal(*found)


def test_only_the_condition_learns():
    y0, level = torch.tensor([[1.0, 0.0]] * 2, dtype=F64), torch.tensor([0.5, 0.0], dtype=F64, requires_grad=True)
    sol = ic.solve(turning, y0, [0.0, 4.0], events=Event(lambda t, y: y[:, 0] - level), **FUSED, **TIGHT)
    (g,) = torch.autograd.grad(sol.event_ts.sum(), level)
    torch.testing.assert_close(g, -1 / torch.sqrt(1 - level.detach() ** 2), rtol=1e-8, atol=0)


def test_after_failures_what_was_reached_stays_and_learns():
    """y' = y²: 1 / (1/y0 − t), over at 1/y0; an event at 2 for those that start below it."""
    y0 = torch.tensor([[0.5], [3.0], [0.1]], dtype=F64, requires_grad=True)
    event = Event(lambda t, y: y[:, 0] - 2.0)
    sol = ic.solve(lambda t, y: y * y, y0, [0.0, 0.25, 1.0, 1.6, 2.0], events=event, throw=False, **FUSED, **TIGHT)
    assert sol.status.tolist() == [int(Status.EVENT), int(Status.BLOW_UP), int(Status.SUCCESS)]
    reached = sol.ys.isfinite()[..., 0].t().tolist()
    assert reached == [[True, True, True, False, False], [True, True, False, False, False], [True] * 5]
    (g,) = torch.autograd.grad(sol.ys[1].sum(), y0)
    torch.testing.assert_close(g, 1 / (1 - 0.25 * y0.detach()) ** 2, rtol=1e-7, atol=0)
    torch.testing.assert_close(sol.event_ts[0, :1], torch.tensor([1.5], dtype=F64), rtol=1e-8, atol=0)


def test_with_inputs_that_jump_and_doses():
    values = random(COUNT, 3, 1, seed=1)
    knots = torch.tensor([0.2, 0.3, 0.6], dtype=F64) + 0.01 * torch.arange(COUNT, dtype=F64)[:, None]
    dose = ic.Dose(torch.tensor([0.25, 0.5], dtype=F64), torch.ones(2, 2, dtype=F64))
    event = Event(lambda t, y: y[:, 0] - 1.0, reset=lambda t, y: y - 1.5, direction=1)
    found = []
    for engine in ("fused", "eager"):
        net, y0 = Net(), random(COUNT, 2, seed=1).requires_grad_()
        signal = ic.ZeroOrderHold(knots, values.clone().requires_grad_())
        sol = ic.solve(
            net,
            y0,
            SPANS["ragged"],
            inputs=signal,
            doses=dose,
            events=event,
            batching="per_sample",
            engine=engine,
            **TIGHT,
        )
        loss = sol.ys.square().mean() + sol.event_ts.nan_to_num().sum()
        found.append((sol, torch.autograd.grad(loss, [y0, signal.values, *net.parameters()])))
    assert int((found[0][0].event_index >= 0).sum()) > 3
    agree(*found, 1e-9)


def test_dense_output_ends_at_the_events():
    at = torch.tensor([0.31, 0.05, 0.88], dtype=F64)
    found = []
    for engine in ("fused", "eager"):
        y0 = random(COUNT, 2, seed=1).requires_grad_()
        event = Event(lambda t, y: y[:, 0] - 0.1)
        sol = ic.solve(turning, y0, [0.0, 2.0], events=event, batching="per_sample", engine=engine, dense=True, **TIGHT)
        states = sol.at(at)
        found.append((states, *torch.autograd.grad(states.nan_to_num().square().sum(), y0)))
    assert bool(found[0][0].isnan().any())
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("most", [3, 20])
def test_the_most_steps_are_those_of_all_flights(most):
    """Bounces: five steps a flight or so."""
    fall = lambda t, y: torch.stack([y[:, 1], -9.8 + 0 * y[:, 1]], 1)
    bounce = Event(lambda t, y: y[:, 0], direction=-1, reset=lambda t, y: torch.stack([y[:, 0], -0.8 * y[:, 1]], 1))
    y0 = torch.tensor([[10.0, 0.0]], dtype=F64)
    sol = ic.solve(fall, y0, [0.0, 11.3], events=bounce, max_steps=most, throw=False, **FUSED)
    assert sol.status.tolist() == [int(Status.MAX_STEPS)]


def test_what_has_no_gradient_is_refused_by_name():
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64, requires_grad=True)
    sol = ic.solve(turning, y0, [0.0, 4.0], events=Event(lambda t, y: y[:, 0]), **FUSED)
    with pytest.raises(ic.GradientError, match="second derivatives"):
        torch.autograd.grad(sol.event_ts.sum(), y0, create_graph=True)


def test_its_graph_is_freed_with_the_solution():
    y0 = random(COUNT, 2, seed=1).requires_grad_()

    def tapes():
        return sum(type(x) is Tape for x in gc.get_objects())

    before = tapes()
    gc.disable()
    try:
        sol = ic.solve(turning, y0, [0.0, 9.0], events=Event(lambda t, y: y[:, 0], terminal=False), **FUSED)
        assert tapes() == before + len(sol.event_ts) + 1
        del sol
        assert tapes() == before
    finally:
        gc.enable()


def test_auto_takes_those_of_samples_and_leaves_those_of_the_whole_state():
    y0, event = torch.tensor([[1.0, 0.0], [0.9, 0.1]], dtype=F64), Event(lambda t, y: y[:, 0])
    alone = ic.solve(turning, y0, [0.0, 4.0], events=event, batching="per_sample", engine="auto")
    assert torch.equal(alone.event_ts, ic.solve(turning, y0, [0.0, 4.0], events=event, **FUSED).event_ts)
    whole = Event(lambda t, y: y[:, 0].sum())
    shared = ic.solve(turning, y0, [0.0, 4.0], events=whole, batching=None, engine="auto")
    assert shared.event_ts.shape == (1,) and shared.status is Status.EVENT


def test_a_step_that_is_too_long_once_it_ends_at_the_event_is_several():
    """The stages of a first step to 1 all see zero; those of one to the event at 0.6 do not."""

    def field(t, y):
        return 50 * t * (t - 0.5) * (t - 0.75) * (t - 1) + 0 * y

    y0, event = torch.zeros(2, 1, dtype=F64, requires_grad=True), Event(lambda t, y: t[:, 0] - 0.6 - 0.1 * y[:, 0])
    long = {"solver": "bosh3", "controller": ic.PID(1e-6, 1e-6, first_step=1.0)}
    fused, exact = (ic.solve(field, y0, [0.0, 1.0], events=event, **FUSED, **options) for options in (long, TIGHT))
    assert int(fused.stats.accepted.min()) > 1
    found = [(s.event_ts, s.event_ys, *torch.autograd.grad(s.event_ts.sum(), y0)) for s in (fused, exact)]
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=0)
