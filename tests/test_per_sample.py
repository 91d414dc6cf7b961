"""Every sample on its own: times, steps, failures; and no cost for those that are done."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import isocline as ic
from isocline.control.schedule import row_stops

F64 = torch.float64


class Mixed(torch.nn.Module):
    """Sample 0: y' = −y; 1: y' = y², a pole at t = 1; 2: NaN. Which one is what comes with args."""

    def forward(self, t, y, kind):
        return torch.where(kind == 0, -y, torch.where(kind == 1, y * y, y * math.nan))


def test_a_failing_sample_leaves_its_neighbours_alone():
    """N01."""
    alone = None
    for kinds in ([0, 1, 2], [0, 0, 0], [0, 2, 2], [0, 1, 1]):
        kind = torch.tensor(kinds)[:, None]
        sol = ic.solve(
            Mixed(), torch.ones(3, 1, dtype=F64), [0.0, 1.0, 2.0], batching="per_sample", args=(kind,), throw=False
        )
        assert sol.ys[-1, 0].item() == pytest.approx(math.exp(-2), rel=1e-6)
        alone = sol.ys[:, 0] if alone is None else alone
        assert torch.equal(sol.ys[:, 0], alone)  # to the last digit, whatever the others do
        for i, k in enumerate(kinds):
            assert int(sol.status[i]) == {0: ic.Status.SUCCESS, 1: ic.Status.BLOW_UP, 2: ic.Status.NON_FINITE}[k]
            if k:
                assert sol.ys[-1, i].isnan().all() and f"in sample {i}" in sol.message
    with pytest.raises(ic.SolveError, match="2 of 3 samples did not reach their end"):
        ic.solve(
            Mixed(),
            torch.ones(3, 1, dtype=F64),
            [0.0, 2.0],
            batching="per_sample",
            args=(torch.tensor([[0], [1], [2]]),),
        )


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "backsolve"])
def test_the_last_time_repeated_is_padding(gradient):
    """N03."""
    ts = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.5, 1.0]], dtype=F64)
    for column, factor in ((1, 1.0), (2, 1.0), (slice(1, 3), 2.0)):
        y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)
        ys = ic.solve(lambda t, y: -y, y0, ts, batching="per_sample", gradient=gradient).ys
        assert torch.equal(ys[1, 0], ys[2, 0])
        ys[column, 0].sum().backward()
        assert y0.grad[0].item() == pytest.approx(factor * math.exp(-1), rel=1e-6)
        assert y0.grad[1].item() == 0.0


def test_every_sample_has_its_own_times():
    nan = math.nan
    ts = torch.tensor(
        [[0, 0.5, 1.0, nan], [0, -1, -2.0, -2.0], [1, 1.5, 2, 3], [2, nan, nan, nan], [0, 0.1, 0.2, 0.3]], dtype=F64
    )
    ragged = [row[~row.isnan()] for row in ts]
    y0 = torch.arange(1.0, 6.0, dtype=F64)[:, None]
    for times in (ts, ragged):
        ys = ic.solve(lambda t, y: torch.cos(t) * y, y0, times, batching="per_sample").ys
        want = (y0 * torch.exp(torch.sin(ts) - torch.sin(ts[:, :1]))).t()
        assert torch.allclose(ys[..., 0], want, rtol=1e-5, equal_nan=True)
        assert torch.equal(ys[..., 0].isnan(), ts.t().isnan())


def test_hard_samples_take_their_own_steps():
    """In a shared norm one fast sample among a thousand idle ones is solved a hundred times worse than alone."""
    w = torch.zeros(1000, 1, dtype=F64)
    w[0] = 20.0
    y0 = torch.ones(1000, 1, dtype=F64)

    def f(t, y, w):
        return -w * torch.sin(w * t) + 0 * y

    sol = ic.solve(f, y0, [0.0, 2.0], batching="per_sample", args=(w,), rtol=1e-6, atol=1e-6)
    assert abs(sol.ys[-1, 0].item() - math.cos(40)) < 1e-5
    assert int(sol.stats.accepted[0]) > 5 * int(sol.stats.accepted[1])


def test_a_finished_sample_leaves_the_batch():
    rows = []

    def f(t, y):
        rows.append(len(y))
        return -y

    for batch in (2, 4, 100):
        rows.clear()
        ends = torch.ones(batch, dtype=F64)
        ends[batch // 2 :] = 100.0
        ic.solve(f, torch.ones(batch, 1, dtype=F64), torch.stack((0 * ends, ends), 1), batching="per_sample")
        assert rows[0] == batch and rows[-1] == batch - batch // 2
    # A failed one too.
    rows.clear()

    def g(t, y, bad):
        rows.append(len(y))
        return torch.where(bad, y * y, -y)

    bad = torch.tensor([[True], [False]])
    ic.solve(g, torch.ones(2, 1), [0.0, 9.0], batching="per_sample", args=(bad,), throw=False)
    assert rows[-1] == 1


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "backsolve"])
def test_a_field_that_couples_its_samples_is_noticed(gradient, caplog):
    """A tensor of the batch's size in a closure: samples stay together, and the numbers are right."""
    rate = torch.tensor([[1.0], [2.0], [3.0]], dtype=F64, requires_grad=True)
    ts = torch.tensor([[0.0, 0.2], [0.0, 0.5], [0.0, 5.0]], dtype=F64)
    y0 = torch.ones(3, 1, dtype=F64)
    ys = ic.solve(lambda t, y: -rate * y, y0, ts, batching="per_sample", gradient=gradient).ys
    want = torch.exp(-rate * ts[:, 1:])
    assert torch.allclose(ys[-1], want, rtol=1e-5)
    assert "couples the samples" in caplog.text
    (got,) = torch.autograd.grad(ys[-1].sum(), rate)
    assert torch.allclose(got, (-ts[:, 1:] * want).detach(), rtol=1e-4)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "backsolve"])
def test_args_of_the_batch_are_picked_and_others_are_not(gradient):
    """Even where a parameter matrix happens to have the batch's size."""
    a = torch.tensor([[-0.5, 0.2], [0.0, -1.0]], dtype=F64, requires_grad=True)
    rate = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True)
    ts = torch.tensor([[0.0, 0.2], [0.0, 3.0]], dtype=F64)
    y0 = torch.ones(2, 2, dtype=F64)

    def f(t, y, rate, a):
        return rate * (y @ a)

    ys = ic.solve(f, y0, ts, batching="per_sample", args=(rate, a), gradient=gradient).ys[-1]
    want = torch.stack([y0[i] @ torch.linalg.matrix_exp(rate[i] * a * ts[i, 1]) for i in range(2)])
    assert torch.allclose(ys, want, rtol=1e-5)
    got, reference = (torch.autograd.grad(x.square().sum(), (rate, a)) for x in (ys, want))
    for g, w in zip(got, reference, strict=True):
        assert torch.allclose(g, w, rtol=1e-4, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.floats(0.05, 1.5), min_size=0, max_size=5), min_size=1, max_size=6),
    st.sampled_from(["tsit5", "bosh3", "dopri5", "rk4", "heun"]),
    st.booleans(),
)
def test_a_batch_gives_what_each_sample_gives_alone(gaps, solver, backwards):
    sign = -1.0 if backwards else 1.0
    times = [sign * torch.tensor([0.1 * i, *g], dtype=F64).cumsum(0) for i, g in enumerate(gaps)]
    y0 = torch.linspace(0.5, 2, len(times), dtype=F64)[:, None]
    options = {"max_step": 0.1} if solver == "rk4" else {"rtol": 1e-6, "atol": 1e-8}

    def f(t, y):
        return torch.sin(2 * t) * y

    batch = ic.solve(f, y0, times, batching="per_sample", solver=solver, **options)
    for i, t in enumerate(times):
        one = ic.solve(f, y0[i : i + 1], t, solver=solver, **options)
        assert torch.allclose(batch.ys[: len(t), i], one.ys[:, 0], rtol=1e-9, atol=1e-12)
        assert batch.ys[len(t) :, i].isnan().all()
        assert int(batch.stats.accepted[i]) == one.stats.accepted


def test_per_sample_states_may_be_pytrees_and_complex():
    y0 = {"x": torch.ones(4, 2, 3), "z": torch.ones(4, 1, 1, dtype=torch.complex64)}
    ts = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 0.5], [0.0, 3.0]])
    shapes = set()

    def f(t, y):
        shapes.add(tuple(t.shape[1:]))
        return {"x": -y["x"] * t.cos(), "z": 1j * y["z"]}

    ys = ic.solve(f, y0, ts, batching="per_sample").ys
    assert shapes == {(1, 1)}
    assert torch.allclose(ys["x"][-1, :, 0, 0], torch.exp(-torch.sin(ts[:, 1])), rtol=1e-3)
    assert torch.allclose(ys["z"][-1, :, 0, 0], torch.exp(1j * ts[:, 1]), rtol=1e-3)


def test_dense_output_of_samples_of_different_length():
    ts = torch.tensor([[0.0, 1.0], [0.5, 3.0], [0.0, -1.0]], dtype=F64)
    sol = ic.solve(lambda t, y: y * torch.cos(t), torch.ones(3, 1, dtype=F64), ts, batching="per_sample", dense=True)
    at = sol.at([0.75, 2.0, -0.5])[..., 0]
    want = torch.exp(torch.sin(torch.tensor([0.75, 2.0, -0.5], dtype=F64))[:, None] - torch.sin(ts[:, 0]))
    inside = torch.tensor([[True, True, False], [False, True, False], [False, False, True]])
    assert torch.equal(at.isnan(), ~inside)
    assert torch.allclose(at[inside], want[inside], rtol=1e-5)
    assert [len(a) for a in sol.accepted_ts] == [int(n) + 1 for n in sol.stats.accepted]


def test_statistics_are_per_sample():
    stats = ic.solve(
        lambda t, y, w: torch.sin(w * t) * y,
        torch.ones(2, 1, dtype=F64),
        [0.0, 3.0],
        batching="per_sample",
        args=(torch.tensor([[1.0], [30.0]], dtype=F64),),
    ).stats
    assert stats.evaluations.shape == (2,)
    assert torch.equal(stats.evaluations, 2 + 6 * (stats.accepted + stats.rejected))
    assert int(stats.evaluations[1]) > 3 * int(stats.evaluations[0])


def test_a_device_without_float64_keeps_its_clocks_in_float32(monkeypatch):
    """Many small steps far from t = 0: the clock must not drift."""
    monkeypatch.setattr("isocline.field.WITHOUT_FLOAT64", {"cpu"})
    k = torch.tensor([[1.0], [0.5]], requires_grad=True)
    ts = torch.tensor([[10.0, 10.5, 12.0], [10.0, 11.0, 13.0]])
    for options in ({}, {"step": 0.001}, {"max_step": 0.01}):
        sol = ic.solve(
            lambda t, y, k: -k * y, torch.ones(2, 1), ts, args=(k,), batching="per_sample", dense=True, **options
        )
        want = torch.exp(-k.detach() * (ts - 10.0)).t()
        assert torch.allclose(sol.ys[..., 0], want, rtol=2e-5, atol=2e-6)
        assert torch.allclose(
            sol.at([10.7, 11.7])[..., 0], torch.exp(-k.detach() * torch.tensor([0.7, 1.7])).t(), rtol=1e-4
        )
        grad = torch.autograd.grad(sol.ys[-1].sum(), k)[0]
        assert torch.allclose(grad, -(ts[:, 2:] - 10.0) * want[-1:].t(), rtol=1e-4)


def test_a_state_that_is_expanded_is_a_state():
    y0 = torch.tensor([[1.0, 2.0]]).expand(3, 2)
    assert torch.allclose(
        ic.solve(lambda t, y: -y, y0, [0.0, 1.0], batching="per_sample").ys[-1], y0 * 0.36788, rtol=1e-4
    )


@pytest.mark.parametrize("max_step", [0.07, 0.5, math.inf])
@pytest.mark.parametrize("direction", [1, -1])
def test_steps_of_samples_divide_their_gaps_as_those_of_one_sample_do(max_step, direction):
    generator = torch.Generator().manual_seed(0)
    ts = direction * torch.rand(4, 6, generator=generator, dtype=F64).cumsum(1)
    ts[1, 3:], ts[2, 2] = math.nan, ts[2, 1]
    knots = torch.cat([ts, direction * torch.rand(4, 3, generator=generator, dtype=F64)], 1)
    controller = ic.FixedStep(max_step=max_step)
    end = ts.nan_to_num(nan=-math.inf).amax(1, True) if direction > 0 else ts.nan_to_num(nan=math.inf).amin(1, True)
    for extra in (None, knots):
        stops, _ = row_stops(controller, ts, end, [0.4 * direction], [], extra, None, F64)
        for row, i in zip(stops.tolist(), range(4), strict=True):
            own = [t for t in ts[i].tolist() if t == t]
            further = [] if extra is None else [t for t in extra[i].tolist() if t == t]
            want = controller.grid(own, [0.4 * direction, *further])[1:]
            assert row == want + [own[-1]] * (len(row) - len(want))
