"""Doses and events in one solve: jumps at known times, and at times the solution finds."""

import math

import pytest
import torch

import isocline as ic

F64 = torch.float64
NAN = math.nan
WAYS_BACK = ["checkpointed", "backprop", ic.Backsolve(rtol=1e-11, atol=1e-13)]
IDS = ["checkpointed", "backprop", "backsolve"]
TIGHT = {"rtol": 1e-11, "atol": 1e-13}
BATCHINGS = pytest.mark.parametrize("batching", ["shared", "per_sample"])


def vector(*numbers, **kw):
    return torch.tensor(numbers, dtype=F64, **kw)


def refill(threshold, amount):
    """A drug that falls to `threshold` is topped up."""
    return ic.Event(lambda t, y, *_: (y - threshold).sum(-1), direction=-1, reset=lambda t, y, *_: y + amount)


def exact(out, y, k, threshold, amount, times, amounts):
    """States at `out` and event times of y′ = −ky with doses and `refill`, as formulas that autograd differentiates."""
    t, rows, events, doses = out[0], [y], [], list(zip(times, amounts, strict=True))
    for stop in out[1:]:
        while True:
            dose = doses[0] if doses and doses[0][0] < stop else (stop, None)
            event = t + torch.log(y / threshold) / k
            if event <= dose[0]:
                events.append(event)
                t, y = event, threshold + amount
                continue
            t, y = dose[0], y * torch.exp(-k * (dose[0] - t))
            if dose[1] is None:
                break
            y = y + dose[1]
            doses.pop(0)
        rows.append(y)
    return torch.stack(rows), torch.stack(events)


@BATCHINGS
@pytest.mark.parametrize("gradient", WAYS_BACK, ids=IDS)
def test_a_topped_up_drug_and_all_its_gradients_are_the_closed_form(gradient, batching):
    leaves = {
        "out": vector(0, 0.9, 1.6, 2.7, 4, 5),
        "y": vector(0.8),
        "k": vector(1.0),
        "threshold": vector(0.5),
        "amount": vector(0.3),
        "times": vector(1, 2, 3),
        "amounts": vector(0.4, 1, 1.5),
    }
    for x in leaves.values():
        x.requires_grad_()
    scalars = {name: x[0] if len(x) == 1 else x for name, x in leaves.items()}
    want, when = exact(**scalars)
    assert len(when) == 5  # two before the first dose, one after it, two after the last
    y0 = leaves["y"] if batching == "shared" else leaves["y"].expand(1, 1)
    sol = ic.solve(
        lambda t, y, k: -k * y,
        y0,
        leaves["out"],
        args=(leaves["k"],),
        doses=ic.Dose(leaves["times"], leaves["amounts"]),
        events=refill(leaves["threshold"], leaves["amount"]),
        batching=batching,
        gradient=gradient,
        **TIGHT,
    )
    assert torch.allclose(sol.ys.flatten(), want, atol=1e-9)
    assert torch.allclose(sol.event_ts.flatten(), when, atol=1e-9)
    weights = torch.linspace(1, 2, len(want), dtype=F64)
    for got, formula in ((sol.ys.flatten() @ weights, want @ weights), (sol.event_ts.sum(), when.sum())):
        slopes = torch.autograd.grad(got, list(leaves.values()), retain_graph=True, allow_unused=True)
        right = torch.autograd.grad(formula, list(leaves.values()), retain_graph=True, allow_unused=True)
        for name, a, b in zip(leaves, slopes, right, strict=True):
            a, b = (torch.zeros_like(leaves[name]) if x is None else x for x in (a, b))
            assert torch.allclose(a, b, rtol=1e-7, atol=1e-7), name


@BATCHINGS
def test_gradients_agree_with_finite_differences_where_there_is_no_closed_form(batching):
    leaves = {
        "times": vector(0.25, 1.2, 2.5),
        "amounts": vector(0.5, 0.7, 0.4)[:, None].repeat(1, 2),
        "y0": vector(0.3, -0.2).repeat(2, 1),
        "k": vector(0.7),
        "level": vector(0.6),
        "keep": vector(0.4),
        "drop": vector(0.9),
    }

    def loss(**changed):
        x = {**leaves, **changed}
        doses = ic.Dose(x["times"], x["amounts"], jump=lambda y, amount: x["drop"] * y + amount)
        # Of the whole state, or of each sample's own.
        event = ic.Event(
            lambda t, y, k: (y[0] if batching == "shared" else y)[..., 0] - x["level"],
            reset=lambda t, y, k: x["keep"] * y,
            direction=-1,
        )
        f = lambda t, y, k: -k * y + 0.5 * torch.sin(3 * t)
        ts = vector(0, 0.5, 1, 1.7, 3)
        sol = ic.solve(f, x["y0"], ts, args=(x["k"],), doses=doses, events=event, batching=batching, **TIGHT)
        count = sol.event_ts.isfinite().sum()
        assert count == (2 if batching == "shared" else 4)
        return sol.ys.square().sum() + sol.event_ts.nan_to_num(0.0).sum()

    for x in leaves.values():
        x.requires_grad_()
    slopes = torch.autograd.grad(loss(), list(leaves.values()))
    for (name, x), slope in zip(leaves.items(), slopes, strict=True):
        for i in range(x.numel()):
            shift = torch.zeros_like(x)
            shift.view(-1)[i] = 1e-5
            with torch.no_grad():
                want = (loss(**{name: x + shift}) - loss(**{name: x - shift})) / 2e-5
            assert slope.view(-1)[i].item() == pytest.approx(want.item(), rel=1e-5, abs=1e-5), name


def test_a_batch_with_doses_and_events_of_its_own_is_what_its_samples_are_alone():
    times = torch.tensor([[0, 1.2, NAN], [0.3, 0.5, 2], [5, NAN, NAN], [0.1, 1, NAN]], dtype=F64, requires_grad=True)
    amounts = torch.linspace(0.2, 1, 12, dtype=F64).view(4, 3, 1).requires_grad_()
    y0 = torch.tensor([[1.0], [0.7], [2.0], [0.6]], dtype=F64, requires_grad=True)
    level, k = vector(0.5, requires_grad=True), vector(1.1, requires_grad=True)
    ts = torch.tensor([[0, 0.5, 1, 1.7, 3], [0, 0.3, 0.4, 2, NAN], [1, 2, NAN, NAN, NAN], [0, 0.5, 1, 2, 3]], dtype=F64)
    events = [refill(level, 0.3), ic.Event(lambda t, y, k: y.sum(-1) - 1.25, direction=1)]  # the second ends it
    f = lambda t, y, k: -k * y + (t > 1.5) * (t - 1.5)
    options = {"args": (k,), "dense": True, "jump_ts": [1.5], **TIGHT}
    sol = ic.solve(f, y0, ts, doses=ic.Dose(times, amounts), events=events, batching="per_sample", **options)
    total = 0
    seen = 0
    for i in range(4):
        out, real = ts[i][~ts[i].isnan()], ~times[i].isnan()
        one = ic.solve(f, y0[i], out, doses=ic.Dose(times[i][real], amounts[i][real]), events=events, **options)
        mine = ~sol.event_ts[:, i].isnan()
        assert mine.sum() == len(one.event_ts) and int(sol.status[i]) == int(one.status)
        assert torch.allclose(sol.event_ts[mine, i], one.event_ts, rtol=1e-11)
        assert torch.equal(sol.event_index[mine, i], one.event_index)
        assert torch.allclose(sol.event_ys[mine, i], one.event_ys, rtol=1e-11)
        assert torch.allclose(sol.ys[: len(out), i], one.ys, rtol=1e-11, equal_nan=True)
        with torch.no_grad():
            assert torch.allclose(sol.at(1.3)[i], one.at(1.3), rtol=1e-11)
        total = total + one.ys.nan_to_num(0.0).square().sum() + one.event_ts.sum()
        seen += len(one.event_ts)
    assert seen >= 4
    leaves = (times, amounts, y0, level, k)
    loss = sol.ys.nan_to_num(0.0).square().sum() + sol.event_ts.nan_to_num(0.0).sum()
    got, want = torch.autograd.grad(loss, leaves), torch.autograd.grad(total, leaves)
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-8)


def rising(dose, level=1.0, batching="shared", stepping=TIGHT, **kw):
    """y = t until it reaches `level`."""
    event = ic.Event(lambda t, y: y.sum(-1) - level, direction=1, **kw)
    y0 = torch.zeros((1,) if batching == "shared" else (1, 1), dtype=F64)
    f = lambda t, y: torch.ones_like(y)
    return ic.solve(f, y0, [0.0, 1.0, 3.0], doses=dose, events=event, batching=batching, **stepping)


@BATCHINGS
def test_an_event_at_the_time_of_a_dose_comes_first(batching):
    exactly = {"solver": "euler", "step": 0.25}  # so that y(1) is 1 and not a rounding error below it
    sol = rising(ic.Dose([1.0], vector(0.25)), batching=batching, stepping=exactly, reset=lambda t, y: 0 * y)
    assert sol.event_ts.flatten().tolist() == pytest.approx([1.0, 1.75, 2.75], abs=1e-12)
    assert sol.ys.flatten().tolist() == pytest.approx([0.0, 1.0, 0.25], abs=1e-12)


@BATCHINGS
def test_a_condition_carried_across_zero_by_a_dose_is_no_event(batching):
    sol = rising(ic.Dose([0.5], vector(4.0)), batching=batching, reset=lambda t, y: 0 * y)
    assert sol.event_ts.numel() == 0 and sol.ys.flatten().tolist() == pytest.approx([0.0, 5.0, 7.0], abs=1e-12)


@BATCHINGS
def test_after_a_terminal_event_no_dose_is_given(batching):
    sol = rising(ic.Dose([0.5, 2.0], vector(0.1, 1.0)), level=1.4, batching=batching)
    assert sol.success and sol.event_ts.flatten().tolist() == pytest.approx([1.3], abs=1e-12)
    assert sol.ys.flatten()[:2].tolist() == pytest.approx([0.0, 1.1], abs=1e-12) and bool(sol.ys[2].isnan().all())


@BATCHINGS
def test_a_dose_at_the_start_is_given_before_anything_happens(batching):
    sol = rising(ic.Dose([0.0], vector(0.75)), batching=batching, reset=lambda t, y: 0 * y)
    assert sol.event_ts.flatten().tolist() == pytest.approx([0.25, 1.25, 2.25], abs=1e-12)
    assert sol.ys.flatten().tolist() == pytest.approx([0.0, 0.75, 0.75], abs=1e-12)


@BATCHINGS
def test_progress_and_counts_are_those_of_the_whole_solve(batching):
    shown = []
    event = refill(vector(0.5), 0.3)
    y0 = torch.full((1, 1), 0.8, dtype=F64)
    doses = ic.Dose([1.0, 2.0], vector(1, 1))
    options = {"doses": doses, "events": event, "batching": batching, "progress": lambda *x: shown.append(x)}
    with torch.no_grad():
        sol = ic.solve(lambda t, y: -y, y0, [0.0, 5.0], **options)
    assert [x[0] for x in shown] == sorted(x[0] for x in shown) and shown[-1][0] == 1.0
    assert shown[-1][2] == int(torch.as_tensor(sol.stats.accepted).max())
    left = ic.solve(lambda t, y: -y, y0, [0.0, 5.0], max_steps=5, throw=False, **options)
    assert not left.success


@BATCHINGS
@pytest.mark.parametrize("events", [None, ic.Event(lambda t, y: y.sum(-1) - 1e9)], ids=["plain", "watched"])
def test_at_a_declared_jump_the_first_and_last_times_gradients_ask_f_inside(events, batching):
    """What f says at exactly a jump belongs to neither side: here it says something else altogether."""

    def f(t, y):
        rate = torch.where(t < 0.0, -1.0, torch.where(t > 1.0, 3.0, 2.0))
        return torch.where((t == 0.0) | (t == 1.0), 1e3, rate) * y

    ts = vector(0.0, 1.0, requires_grad=True)
    y0 = torch.ones((1,) if batching == "shared" else (1, 1), dtype=F64)
    sol = ic.solve(f, y0, ts, jump_ts=[0.0, 1.0], batching=batching, events=events, **TIGHT)
    (slopes,) = torch.autograd.grad(sol.ys[-1].sum(), ts)
    want = 2 * math.exp(2)  # of exp(2(t₁ − t₀))
    assert slopes.tolist() == pytest.approx([-want, want], rel=1e-9)


@BATCHINGS
def test_a_dose_at_a_declared_jump_asks_f_on_its_own_side(batching):
    def f(t, y):
        return torch.where(t == 1.0, 1e3, torch.where(t < 1.0, -1.0, -2.0)) * y

    when, amount = vector(1.0, requires_grad=True), vector(0.5)
    y0 = torch.ones((1,) if batching == "shared" else (1, 1), dtype=F64)
    sol = ic.solve(f, y0, [0.0, 2.0], jump_ts=[1.0], doses=ic.Dose(when, amount), batching=batching, **TIGHT)
    (slope,) = torch.autograd.grad(sol.ys[-1].sum(), when)
    # ⟨a, f(y⁻)⟩ − ⟨a, f(y⁺)⟩ with a = e⁻² the cotangent after the dose.
    before, after = math.exp(-1), math.exp(-1) + 0.5
    assert slope.item() == pytest.approx(math.exp(-2) * (-before + 2 * after), rel=1e-9)
