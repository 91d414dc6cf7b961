"""Groups of outputs: each is what a solve with those times alone gives."""

import pytest
import torch

import isocline as ic

F64 = torch.float64
Y0 = torch.tensor([[1.0, 0.0], [0.3, 0.5]], dtype=F64)


def field(t, y):
    return torch.stack((y[..., 1], -torch.sin(y[..., 0])), -1)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_group_is_a_solve_at_its_times(sign, batching):
    options = {"batching": batching, "rtol": 1e-9, "atol": 1e-11}
    own, other = torch.tensor([0.0, 0.5, 2.0]) * sign, torch.tensor([1.7, 0.0, 0.5, 0.3]) * sign
    sol = ic.solve(field, Y0, own, save=ic.Save(ts=other), **options)
    assert torch.equal(sol.ts, own) and torch.equal(sol.saved.ts, other)
    torch.testing.assert_close(sol.ys, ic.solve(field, Y0, own, **options).ys, rtol=1e-12, atol=1e-12)
    alone = ic.solve(field, Y0, torch.tensor([0.0, 0.3, 0.5, 1.7, 2.0]) * sign, **options).ys
    torch.testing.assert_close(sol.saved.values, alone[[3, 0, 2, 1]], rtol=1e-12, atol=1e-12)
    assert sol.accepted_ts is None and sol._dense is None


def test_functions_of_the_state_in_any_structure():
    def kept(t, y):
        return {"energy": (y["v"] ** 2).sum() / 2, "when": t, "pair": (y["x"], -y["v"])}

    y0 = {"x": torch.ones(3, dtype=F64), "v": torch.zeros(3, dtype=F64)}
    save = {"a": ic.Save(ts=[0.5, 1.0], fn=kept), "b": ic.Save(ts=[0.25])}
    sol = ic.solve(lambda t, y: {"x": y["v"], "v": -y["x"]}, y0, [0.0, 1.0], save=save)
    assert sol.saved["a"].values["energy"].shape == (2,) and sol.saved["a"].values["pair"][1].shape == (2, 3)
    assert sol.saved["a"].values["when"].tolist() == [0.5, 1.0]
    assert torch.equal(sol.saved["a"].values["pair"][0][-1], sol.ys["x"][-1])
    assert sol.saved["b"].values["x"].shape == (1, 3)


def test_after_steps():
    sol = ic.solve(field, Y0, [0.0, 3.0], save={"all": ic.Save(every=1), "some": ic.Save(every=4)}, dense=True)
    every, some = sol.saved["all"], sol.saved["some"]
    assert torch.equal(every.ts, sol.accepted_ts) and len(every.ts) == sol.stats.accepted + 1
    torch.testing.assert_close(every.values[-1], sol.ys[-1], rtol=1e-13, atol=1e-14)
    index = sorted({*range(0, len(every.ts), 4), len(every.ts) - 1})
    assert torch.equal(some.ts, every.ts[index]) and torch.equal(some.values, every.values[index])


def test_gradients_pass_through_values_and_times():
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    ts = torch.tensor([0.5, 1.5], dtype=F64, requires_grad=True)
    save = {"at": ic.Save(ts=ts, fn=lambda t, y: y.sum()), "steps": ic.Save(every=2)}
    sol = ic.solve(lambda t, y: -k * y, torch.ones(1, dtype=F64), [0.0, 2.0], save=save, rtol=1e-10, atol=1e-12)
    by_k, by_ts = torch.autograd.grad(sol.saved["at"].values.sum(), (k, ts), retain_graph=True)
    exact = torch.exp(-k * ts)
    want_k, want_ts = torch.autograd.grad(exact.sum(), (k, ts))
    torch.testing.assert_close((by_k, by_ts), (want_k, want_ts), rtol=1e-8, atol=1e-10)
    (steps,) = torch.autograd.grad(sol.saved["steps"].values.sum(), k)
    when = sol.saved["steps"].ts
    (want,) = torch.autograd.grad(torch.exp(-k * when).sum(), k)
    torch.testing.assert_close(steps, want, rtol=1e-8, atol=1e-10)


def test_a_failed_solve_saves_what_there_is():
    sol = ic.solve(lambda t, y: y * y, torch.ones(1), [0.0, 2.0], save=ic.Save(ts=[0.5, 1.5]), throw=False)
    assert not sol.success and sol.saved.values[0].item() == pytest.approx(2.0, rel=1e-3)
    assert sol.saved.values[1].isnan().all()


@pytest.mark.parametrize(
    ("save", "says"),
    [
        (lambda: ic.Save(), "give exactly one of ts and every"),
        (lambda: ic.Save(ts=[0.5], every=2), "give exactly one of ts and every"),
        (lambda: ic.Save(every=0), "every=0, expected a positive number"),
        (lambda: ic.Save(ts=[0.5, 7.0]), r"save: ts: 7 is outside the interval of the solve, \[0, 2\]"),
        (lambda: {"late": ic.Save(ts=[float("nan")])}, r"save\['late'\]: ts: nan is outside"),
        (lambda: ic.Save(ts=[[0.5]]), r"save: ts: shape \(1, 1\)"),
    ],
)
def test_bad_input_is_named(save, says):
    with pytest.raises(ValueError, match=says):
        ic.solve(field, Y0, [0.0, 2.0], save=save())


@pytest.mark.parametrize(
    ("ts", "says"),
    [
        ([1.0, 0.0, 2.0], r"ts: must be strictly monotone, but ts\[0\] = 1 is followed by ts\[1\] = 0"),
        ([0.0, 1.0, 1.0, 2.0], "drop repeats"),
        ([0.0, float("nan")], r"ts\[1\] = nan: expected a finite number"),
        ([[0.0, 1.0]], r"ts: shape \(1, 2\), expected \(M,\)"),
    ],
)
def test_the_times_of_the_solve_are_checked_as_without_it(ts, says):
    with pytest.raises(ValueError, match=says):
        ic.solve(field, Y0, ts, save=ic.Save(ts=[0.5]))


def test_wrong_types_are_named(unchecked):
    with pytest.raises(TypeError, match="save: expected a Save, got list"):
        ic.solve(field, Y0, [0.0, 2.0], save=[0.5])
    with pytest.raises(TypeError, match=r"fn: expected a callable"):
        ic.Save(ts=[0.5], fn=3)
    with pytest.raises(ValueError, match="samples step on their own"):
        ic.solve(field, Y0, [0.0, 2.0], save=ic.Save(every=1), batching="per_sample")
