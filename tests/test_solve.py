"""What a solve does with states, times, controllers and dtypes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import isocline as ic

F64 = torch.float64


def decay(t, y):
    return -y


def test_six_lines_solve_and_differentiate():
    k = torch.tensor(0.5, requires_grad=True)
    sol = ic.solve(lambda t, y: -k * y, torch.ones(3), [0.0, 1.0, 2.0])
    sol.ys[-1].sum().backward()
    assert torch.allclose(sol.ys[:, 0], torch.exp(-0.5 * torch.tensor([0.0, 1.0, 2.0])), atol=1e-4)
    assert k.grad.item() == pytest.approx(-3 * 2 * math.exp(-1), rel=1e-3)


@pytest.mark.parametrize("ts", [(0.0, 0.3, 1.0), (1.0, 0.3, 0.0), (-2.0, -1.0, 5.0)])
@pytest.mark.parametrize("options", [{}, {"step": 0.07, "solver": "rk4"}, {"max_step": 0.05, "solver": "dopri5"}])
def test_time_runs_in_both_directions(ts, options):
    ys = ic.solve(lambda t, y: y * torch.cos(t), torch.ones(1, dtype=F64), ts, **options).ys[:, 0]
    want = torch.exp(torch.sin(torch.tensor(ts, dtype=F64)) - math.sin(ts[0]))
    assert torch.allclose(ys, want, rtol=3e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_observations_do_not_change_the_solution(gaps, backwards, per_sample):
    """Asking for more times neither moves the steps nor costs evaluations."""
    ts = torch.tensor([0.0, *gaps], dtype=F64).cumsum(0) * (-1 if backwards else 1)
    y0 = torch.ones(2, 1, dtype=F64)
    batching = "per_sample" if per_sample else "shared"

    def f(t, y):
        return torch.sin(3 * t) * y

    few = ic.solve(f, y0, ts[[0, -1]], batching=batching)
    many = ic.solve(f, y0, ts, batching=batching)
    assert torch.equal(few.ys[-1], many.ys[-1])
    assert torch.equal(torch.as_tensor(few.stats.evaluations), torch.as_tensor(many.stats.evaluations))
    want = torch.exp((1 - torch.cos(3 * ts)) / 3)
    assert torch.allclose(many.ys[:, 0, 0], want, rtol=1e-5)


def test_a_pytree_keeps_its_structure_shapes_and_dtypes():
    y0 = {"x": torch.ones(2, 3), "z": (torch.ones(4, dtype=torch.complex64), torch.tensor(2.0))}

    def f(t, y):
        return {"x": -y["x"], "z": (1j * y["z"][0], 0.5 * y["z"][1])}

    ys = ic.solve(f, y0, [0.0, 1.0]).ys
    assert ys["x"].shape == (2, 2, 3) and ys["z"][0].dtype == torch.complex64
    assert torch.allclose(ys["x"][-1], torch.full((2, 3), math.exp(-1)), atol=1e-4)
    assert torch.allclose(
        ys["z"][0][-1], torch.full((4,), complex(math.cos(1), math.sin(1)), dtype=torch.complex64), atol=1e-4
    )
    assert ys["z"][1][-1].item() == pytest.approx(2 * math.exp(0.5), rel=1e-4)


def test_leaves_of_different_precision_keep_their_own():
    y0 = (torch.ones(2, dtype=torch.float32), torch.ones(2, dtype=F64))
    seen = []

    def f(t, y):
        seen.append((y[0].dtype, y[1].dtype))
        return -y[0], -y[1]

    ys = ic.solve(f, y0, [0.0, 1.0]).ys
    assert set(seen) == {(torch.float32, F64)} and ys[0].dtype == torch.float32 and ys[1].dtype == F64


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, F64, torch.complex64, torch.complex128]
)
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_every_dtype(dtype, batching):
    times = []

    def f(t, y):
        times.append(t.dtype)
        return -y

    ys = ic.solve(f, torch.ones(3, 2, dtype=dtype), [0.0, 1.0], batching=batching).ys
    assert ys.dtype == dtype
    assert set(times) == {torch.empty(0, dtype=dtype).real.dtype if dtype.is_complex else dtype}
    half = dtype in (torch.float16, torch.bfloat16)
    assert torch.allclose(
        ys[-1].to(torch.complex128).real, torch.full((3, 2), math.exp(-1), dtype=F64), atol=1e-2 if half else 1e-5
    )


def test_the_field_is_never_asked_outside_the_interval():
    asked = []

    def f(t, y):
        asked.append(t.double().flatten())
        return torch.sqrt(1 - t) + 0 * y

    for batching in ("shared", "per_sample"):
        for solver in ("tsit5", "dopri5", "dopri8", "bosh3", "heun"):
            ys = ic.solve(f, torch.zeros(2, 1, dtype=F64), [0.0, 0.5, 1.0], solver=solver, batching=batching).ys
            assert ys[-1, 0, 0].item() == pytest.approx(2 / 3, abs=1e-5)
        ic.solve(f, torch.zeros(2, 1), [0.0, 0.37, 1.0], batching=batching)
    t = torch.cat(asked)
    assert float(t.min()) >= 0.0 and float(t.max()) <= 1.0


def test_fixed_steps_end_where_they_should():
    grid = []

    def f(t, y):
        grid.append(float(t))
        return -y

    ic.solve(f, torch.ones(1, dtype=F64), [0.0, 1.0], solver="euler", step=0.3)
    assert grid == pytest.approx([0.0, 0.3, 0.6, 0.9])
    grid.clear()
    ic.solve(f, torch.ones(1, dtype=F64), [0.0, 0.12, 0.2], solver="euler", max_step=0.05)
    assert grid == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16])  # the seed's rounding: equal steps, none longer


def test_a_step_that_divides_the_interval_is_not_split_by_rounding():
    assert len(ic.FixedStep(0.1).grid([0.0, 0.3])) == 4
    assert len(ic.FixedStep(max_step=0.1).grid([0.0, 0.3])) == 4


def test_step_ts_are_stepped_to_exactly():
    sol = ic.solve(decay, torch.ones(1, dtype=F64), [0.0, 2.0], step_ts=[0.3, 1.1, 9.0], dense=True)
    assert {0.3, 1.1} <= set(sol.accepted_ts.tolist()) and 9.0 not in sol.accepted_ts.tolist()


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("solver", ["tsit5", "dopri5", "bosh3", "dopri8"])
@pytest.mark.parametrize("first", [None, 1.0, 1.5])
def test_a_declared_jump_is_exact(batching, solver, first):
    """Also when a step happens to end on it: the stored slope belongs to the other side (torchdiffeq: 1e-4 off)."""
    count = [0]

    def f(t, y):
        count[0] += 1
        return torch.where(t < 1, torch.ones_like(y), torch.zeros_like(y))

    for ts in ([0.0, 2.0], [2.0, 0.0]):
        count[0] = 0
        controller = ic.PID(1e-6, 1e-8, first_step=first)
        y0 = torch.zeros(1, 1, dtype=F64)
        ys = ic.solve(f, y0, ts, solver=solver, controller=controller, jump_ts=[1.0], batching=batching).ys
        assert ys[-1].item() == pytest.approx(math.copysign(1.0, ts[1] - ts[0]), abs=1e-12)
        assert count[0] < 10 * {"bosh3": 6, "dopri8": 13}.get(solver, 6)


def test_a_jump_with_fixed_steps_in_float32():
    def f(t, y):
        return torch.where(t < 0.7, torch.ones_like(y), torch.zeros_like(y))

    ys = ic.solve(f, torch.zeros(1), [0.0, 1.0], solver="rk4", step=0.25, jump_ts=[0.7]).ys
    assert ys[-1].item() == pytest.approx(0.7, abs=1e-6)


def test_too_long_a_first_step_into_nan_is_taken_back():
    controller = ic.PID(1e-7, 1e-9, first_step=5.0)
    ys = ic.solve(lambda t, y: -2 * torch.sqrt(y), torch.ones(1, dtype=F64), [0.0, 0.5, 0.9], controller=controller).ys
    assert torch.allclose(ys[:, 0], torch.tensor([1.0, 0.25, 0.01], dtype=F64), atol=1e-5)


def test_the_unit_of_time_does_not_matter():
    for tau in (1e-11, 1.0, 1e9):
        sol = ic.solve(lambda t, y, tau=tau: -y / tau, torch.ones(1, dtype=F64), [0.0, tau])
        assert sol.ys[-1].item() == pytest.approx(math.exp(-1), rel=1e-6)
        assert sol.stats.evaluations < 100


def test_time_far_from_zero_in_float32():
    ts = 1e6 + torch.tensor([0.0, 0.005, 0.01], dtype=F64)
    for options in ({}, {"solver": "rk4", "step": 1e-3}, {"batching": "per_sample"}):
        ys = ic.solve(lambda t, y: -100 * y, torch.ones(1, 1), ts, **options).ys
        assert torch.allclose(ys[:, 0, 0], torch.exp(torch.tensor([0.0, -0.5, -1.0])), atol=1e-3)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_very_small_and_very_large_states(size):
    y0 = torch.full((2,), size, dtype=F64)
    ys = ic.solve(decay, y0, [0.0, 1.0], rtol=1e-7, atol=0.0).ys
    assert torch.allclose(ys[-1] / y0, torch.full((2,), math.exp(-1), dtype=F64), rtol=1e-6)


def test_a_state_that_is_zero_with_a_relative_tolerance():
    assert ic.solve(decay, torch.zeros(2), [0.0, 1.0], rtol=1e-3, atol=0.0).ys[-1].abs().max() == 0


def test_pi_control_and_limits_of_the_step():
    for controller in (
        ic.PID.pi(1e-6, 1e-9),
        ic.PID(1e-6, 1e-9, max_step=0.05),
        ic.PID(1e-6, 1e-9, pcoeff=0.3, icoeff=0.3, dcoeff=0.05),
    ):
        for batching in ("shared", "per_sample"):
            sol = ic.solve(
                decay, torch.ones(3, 2, dtype=F64), [0.0, 1.0], controller=controller, batching=batching, dense=True
            )
            assert torch.allclose(sol.ys[-1], torch.full((3, 2), math.exp(-1), dtype=F64), rtol=1e-5)
            ends = sol.accepted_ts if batching == "shared" else sol.accepted_ts[0]
            assert float(ends.diff().max()) <= controller.max_step + 1e-12


def test_tolerances_for_every_part_of_the_state():
    y0 = (torch.ones(2, dtype=F64), torch.ones(3, dtype=F64))
    loose = ic.solve(lambda t, y: (-y[0], torch.cos(20 * t) * y[1]), y0, [0.0, 2.0], rtol=(1e-6, 1e-1), atol=1e-8)
    tight = ic.solve(lambda t, y: (-y[0], torch.cos(20 * t) * y[1]), y0, [0.0, 2.0], rtol=(1e-6, 1e-6), atol=1e-8)
    assert loose.stats.evaluations < tight.stats.evaluations
    assert torch.allclose(
        tight.ys[1][-1], torch.exp(torch.sin(torch.tensor(40.0, dtype=F64)) / 20).expand(3), rtol=1e-5
    )


def test_a_norm_of_the_users_own():
    hard = ic.PID(1e-6, 1e-9, norm=lambda x: x.abs().amax(-1))
    soft = ic.PID(1e-6, 1e-9)
    y0 = torch.zeros(100, dtype=F64)
    y0[0] = 1.0

    def f(t, y):
        return torch.sin(9 * t) * y

    assert (
        ic.solve(f, y0, [0.0, 3.0], controller=hard).stats.evaluations
        > ic.solve(f, y0, [0.0, 3.0], controller=soft).stats.evaluations
    )


def test_one_time_returns_the_state_and_its_gradient():
    y0 = torch.ones(2, 2, dtype=F64, requires_grad=True)
    for batching in ("shared", "per_sample"):
        for gradient in ("backprop", "checkpointed", "backsolve"):
            ys = ic.solve(decay, y0, [3.0], batching=batching, gradient=gradient).ys
            assert torch.equal(ys, y0[None])
            (grad,) = torch.autograd.grad(ys.sum(), y0)
            assert torch.equal(grad, torch.ones_like(y0))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_state_has_an_empty_path(shape):
    for batching in ("shared", "per_sample"):
        sol = ic.solve(decay, torch.zeros(shape), [0.0, 1.0, 2.0], batching=batching)
        assert sol.ys.shape == (3, *shape) and sol.success


def test_no_grad_and_inference_mode_leave_no_graph():
    k = torch.tensor(1.0, requires_grad=True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            ys = ic.solve(lambda t, y: -k * y, torch.ones(1), [0.0, 1.0]).ys
        assert not ys.requires_grad and ys[-1].item() == pytest.approx(math.exp(-1), rel=1e-4)
    ic.solve(
        lambda t, y: -k * y, torch.ones(1), [0.0, 1.0]
    ).ys.sum().backward()  # caches made above are fit for a graph


def test_a_field_may_keep_what_it_was_given():
    kept = []

    def f(t, y):
        kept.append((t, y))
        return -y

    with torch.no_grad():
        ic.solve(f, torch.ones(2), [0.0, 1.0])
    assert len({float(t) for t, _ in kept}) > 5 and len({float(y[0]) for _, y in kept}) > 5


def test_equal_calls_give_equal_bits():
    field = ic.nn.MLP((2, 32, 2), seed=3)
    y0 = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    for batching in ("shared", "per_sample"):
        a, b = (ic.solve(field, y0, [0.0, 1.0, 3.0], batching=batching).ys for _ in range(2))
        assert torch.equal(a, b)


def test_progress_is_reported(capsys):
    seen = []
    ic.solve(decay, torch.ones(1), [0.0, 2.0], progress=lambda done, t, steps: seen.append((done, t, steps)))
    assert seen[-1][0] == 1.0 and seen[-1][1] == 2.0 and [s[2] for s in seen] == list(range(1, len(seen) + 1))
    ic.solve(decay, torch.ones(1), [0.0, 2.0], progress=True)
    assert "100%" in capsys.readouterr().err
    ic.solve(decay, torch.ones(3, 1), [0.0, 2.0], batching="per_sample", progress=lambda *a: seen.append(a))
    assert seen[-1][0] == 1.0


def test_statistics_count_evaluations():
    count = [0]

    def f(t, y):
        count[0] += 1
        return -y

    for solver, stages in (("tsit5", 6), ("dopri5", 6), ("bosh3", 3), ("dopri8", 13)):
        count[0] = 0
        stats = ic.solve(f, torch.ones(1), [0.0, 1.0], solver=solver).stats
        assert stats.evaluations == count[0] == 2 + stages * (stats.accepted + stats.rejected)
    count[0] = 0
    assert ic.solve(f, torch.ones(1), [0.0, 1.0], solver="rk4", step=0.25).stats.evaluations == count[0] == 16


def test_dense_output_at_any_time_in_any_order():
    sol = ic.solve(decay, torch.ones(2, dtype=F64), [0.0, 1.0, 3.0], dense=True)
    t = torch.tensor([2.9, 0.0, 3.0, 1.234], dtype=F64)
    assert torch.allclose(sol.at(t)[:, 0], torch.exp(-t), rtol=1e-5)
    assert torch.equal(sol.at(0.0), torch.ones(2, dtype=F64)) and sol.at(torch.tensor(0.5)).shape == (2,)
    backwards = ic.solve(decay, torch.ones(2, dtype=F64), [0.0, -1.0], dense=True)
    assert backwards.at(-0.5)[0].item() == pytest.approx(math.exp(0.5), rel=1e-6)


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_dense_output_is_differentiable(gradient, batching):
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = torch.full((2, 1), 2.0, dtype=F64, requires_grad=True)
    t = torch.tensor([0.3, 1.7], dtype=F64, requires_grad=True)
    sol = ic.solve(
        lambda t, y: -k * y, y0, [0.0, 2.0], gradient=gradient, batching=batching, dense=True, rtol=1e-9, atol=1e-11
    )
    grads = torch.autograd.grad(sol.at(t).sum() + sol.ys[-1].sum(), (k, y0, t))
    e = torch.exp(-k * t).detach()
    end = math.exp(-1.4)
    assert grads[0].item() == pytest.approx(float((-t.detach() * e).sum() * 4) - 2 * 4 * end, rel=1e-6)
    assert torch.allclose(grads[1], (e.sum() + end).expand(2, 1), rtol=1e-6)
    assert torch.allclose(grads[2], -0.7 * e * 4, rtol=1e-4)


def test_dense_output_of_backsolve_refuses_a_gradient():
    k = torch.tensor(0.7, requires_grad=True)
    sol = ic.solve(lambda t, y: -k * y, torch.ones(1), [0.0, 2.0], gradient="backsolve", dense=True)
    assert sol.at(1.0).item() == pytest.approx(math.exp(-0.7), rel=1e-3)
    with pytest.raises(ic.GradientError, match=r"put those times into ts"):
        sol.at(1.0).sum().backward()
