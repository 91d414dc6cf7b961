"""Doses: the state jumps at known times; amounts and times have gradients; each sample has its own."""

import math

import pytest
import torch

import isocline as ic

F64 = torch.float64
NAN = math.nan
WAYS_BACK = ["checkpointed", "backprop", ic.Backsolve(rtol=1e-11, atol=1e-13)]
TIGHT = {"rtol": 1e-11, "atol": 1e-13}


def decay(t, y, k=1.0):
    return -k * y


def swing(t, y, k):
    return -k * y + torch.sin(t)


def vector(*numbers):
    return torch.tensor(numbers, dtype=F64)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_doses_of_a_linear_drug_add_up(batching):
    ts, amounts = [0.0, 1.0, 1.5, 4.0], vector(1, 2, 3, 4)  # the last one at the end: not given
    out = torch.linspace(0, 4, 9, dtype=F64)
    sol = ic.solve(decay, torch.zeros(2, 1, dtype=F64), out, doses=ic.Dose(ts, amounts), batching=batching, **TIGHT)
    # An observation at the time of a dose shows the state before it, so "earlier" is strict.
    want = [sum(a * math.exp(s - t) for s, a in zip(ts, amounts.tolist(), strict=True) if s < t) for t in out.tolist()]
    assert torch.allclose(sol.ys[:, 0, 0], vector(*want), atol=1e-10)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_doses_outside_of_the_interval_change_nothing(batching):
    y0, ts = torch.ones(2, 1, dtype=F64), [0.0, 1.0]
    plain = ic.solve(decay, y0, ts, batching=batching)
    dosed = ic.solve(decay, y0, ts, doses=ic.Dose([-1.0, 1.0, 7.0], torch.ones(3)), batching=batching)
    assert torch.equal(dosed.ys, plain.ys)


def test_a_dose_costs_two_evaluations_beside_those_of_its_steps():
    y0, out = torch.zeros(1, dtype=F64), [0.0, 8.0]
    given = ic.solve(decay, y0, out, doses=ic.Dose([0.0, 2.0, 4.0, 6.0], torch.ones(4, dtype=F64)))
    steps = given.stats.accepted + given.stats.rejected
    # Tsit5: six evaluations a step; every piece asks for its first slope, and probes for its first step.
    assert given.stats.evaluations == 6 * steps + 4 * 2


def test_jump_may_do_anything_to_the_state():
    swap = ic.Dose([1.0], vector(3.0), jump=lambda y, amount: {"a": y["b"] * amount, "b": y["a"]})
    y0 = {"a": vector(1.0), "b": vector(2.0)}
    sol = ic.solve(lambda t, y: {"a": 0 * y["a"], "b": 0 * y["b"]}, y0, [0.0, 1.0, 2.0], doses=swap)
    assert sol.ys["a"].flatten().tolist() == [1, 1, 6] and sol.ys["b"].flatten().tolist() == [2, 2, 1]
    both = ic.Dose([1.0], {"a": vector(5.0), "b": vector(0.0)})
    sol = ic.solve(lambda t, y: {"a": 0 * y["a"], "b": 0 * y["b"]}, y0, [0.0, 1.0, 2.0], doses=both)
    assert sol.ys["a"].flatten().tolist() == [1, 1, 6] and sol.ys["b"].flatten().tolist() == [2, 2, 2]


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_gradients_agree_with_finite_differences(batching):
    leaves = {
        "times": vector(0.25, 1.2, 1.21, 2.5),
        "amounts": torch.randn(4, 2, dtype=F64),
        "y0": torch.randn(2, 2, dtype=F64),
        "k": vector(0.7),
        "ts": vector(0, 0.5, 1, 1.7, 3),
        "drop": vector(0.9),
    }

    def loss(gradient="checkpointed", **changed):
        x = {**leaves, **changed}
        doses = ic.Dose(x["times"], x["amounts"], jump=lambda y, amount: x["drop"] * y + amount)
        options = {"batching": batching, "gradient": gradient, **TIGHT}
        return ic.solve(swing, x["y0"], x["ts"], doses=doses, args=(x["k"],), **options).ys.square().sum()

    for x in leaves.values():
        x.requires_grad_()
    slopes = [torch.autograd.grad(loss(gradient), list(leaves.values())) for gradient in WAYS_BACK]
    for (name, x), *found in zip(leaves.items(), *slopes, strict=True):
        for i in range(x.numel()):
            shift = torch.zeros_like(x)
            shift.view(-1)[i] = 1e-5
            with torch.no_grad():
                want = (loss(**{name: x + shift}) - loss(**{name: x - shift})) / 2e-5
            for gradient, slope in zip(WAYS_BACK, found, strict=True):
                assert slope.view(-1)[i].item() == pytest.approx(want.item(), rel=1e-5, abs=1e-5), (gradient, name)


@pytest.mark.parametrize("gradient", WAYS_BACK, ids=["checkpointed", "backprop", "backsolve"])
def test_a_batch_with_doses_of_its_own_is_what_its_samples_are_alone(gradient):
    times = torch.tensor([[0, 1.2, NAN], [0.3, 0.5, 2], [5, NAN, NAN]], dtype=F64, requires_grad=True)
    amounts = torch.randn(3, 3, 2, dtype=F64, requires_grad=True)
    y0, k = torch.randn(3, 2, dtype=F64, requires_grad=True), torch.tensor(0.7, dtype=F64, requires_grad=True)
    ts = torch.tensor([[0, 0.5, 1, 1.7, 3], [0, 0.3, 0.4, 2, NAN], [1, 2, NAN, NAN, NAN]], dtype=F64)
    options = {"args": (k,), "dense": True, **TIGHT}
    sol = ic.solve(swing, y0, ts, doses=ic.Dose(times, amounts), batching="per_sample", gradient=gradient, **options)
    total = 0
    for i in range(3):
        out, real = ts[i][~ts[i].isnan()], ~times[i].isnan()
        one = ic.solve(swing, y0[i], out, doses=ic.Dose(times[i][real], amounts[i][real]), **options)
        assert torch.allclose(sol.ys[: len(out), i], one.ys, rtol=1e-12, atol=1e-13)
        assert sol.ys[len(out) :, i].isnan().all()
        assert int(sol.stats.accepted[i]) == one.stats.accepted
        with torch.no_grad():
            assert torch.allclose(sol.at(1.9)[i], one.at(1.9), rtol=1e-12) or i == 1
        total = total + one.ys.square().sum()
    leaves = (times, amounts, y0, k)
    for got, want in zip(
        torch.autograd.grad(sol.ys.nan_to_num(0.0).square().sum(), leaves),
        torch.autograd.grad(total, leaves),
        strict=True,
    ):
        assert torch.allclose(got, want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_a_solve_that_fails_after_a_dose_keeps_what_came_before(batching):
    field, ts = lambda t, y: y * y, [0.0, 0.5, 1.0, 3.0]
    big = torch.tensor([[0.0, 0.0], [9.0, 0.0]], dtype=F64) if batching == "per_sample" else vector(9, 0)
    doses = ic.Dose([0.6, 2.0], big, per_sample=batching == "per_sample")
    sol = ic.solve(field, torch.full((2, 1), 0.1, dtype=F64), ts, doses=doses, batching=batching, throw=False)
    assert not sol.success
    assert sol.ys[1].isfinite().all() and sol.ys[2:, 1].isnan().all()
    if batching == "per_sample":
        assert sol.status.tolist() == [0, int(ic.Status.BLOW_UP)]
        assert sol.ys[:, 0, 0].tolist() == pytest.approx([1 / (10 - t) for t in ts], rel=1e-6)


def test_progress_runs_once_from_start_to_end():
    seen = []
    doses = ic.Dose([1.0, 2.0], torch.ones(2))
    ic.solve(decay, torch.ones(1), [0.0, 3.0], doses=doses, progress=lambda *x: seen.append(x))
    assert [x[0] for x in seen] == sorted(x[0] for x in seen) and seen[-1][0] == 1.0
    assert [x[2] for x in seen] == list(range(1, len(seen) + 1))


def test_doses_and_inputs_work_together():
    u = ic.ZeroOrderHold([0.0, 1.0], vector(1, 0))
    f = lambda t, y, u: u.expand_as(y)
    sol = ic.solve(f, torch.zeros(1, dtype=F64), [0.0, 1.0, 3.0], inputs=u, doses=ic.Dose([1.0], vector(5)))
    assert sol.ys.flatten().tolist() == pytest.approx([0, 1, 6], abs=1e-12)


def test_mistakes_are_named(unchecked):
    y0, two = torch.zeros(2, 1), {"a": torch.zeros(1), "b": torch.zeros(1)}
    per_sample = {"batching": "per_sample"}
    for kind, says, start, dose, options in [
        (TypeError, "doses: expected a Dose, got tuple", y0, ([0.0], [1.0]), {}),
        (ValueError, "a row a sample needs batching='per_sample'", y0, ic.Dose([[0.0], [1.0]], torch.ones(2, 1)), {}),
        (ValueError, "ts for 3 samples, expected the 2", y0, ic.Dose([[0.0]] * 3, torch.ones(3, 1)), per_sample),
        (ValueError, "one row a dose or one a sample", y0, ic.Dose([0.0, 1.0], torch.ones(2, 2)), per_sample),
        (ValueError, "amounts for 1 tensors, but the state has 2", two, ic.Dose([0.0], torch.ones(1)), {}),
        (ValueError, "doses: y . amount: returned shape", y0, ic.Dose([0.0], torch.ones(1, 3)), {}),
    ]:
        with pytest.raises(kind, match=says):
            ic.solve(lambda t, y: y, start, [0.0, 2.0], doses=dose, **options)
    with pytest.raises(ValueError, match="solve forwards"):
        ic.solve(decay, y0, [1.0, 0.0], doses=ic.Dose([0.5], torch.ones(1)))
    with pytest.raises(ValueError, match="ts: must be strictly increasing"):
        ic.Dose([1.0, 0.0], torch.ones(2))
    with pytest.raises(TypeError, match="jump: expected a callable"):
        ic.Dose([1.0], torch.ones(1), jump=3)
