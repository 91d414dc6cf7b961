"""Bad input gets one message that names the argument, what came, what was expected; failure has a status and a cause."""

import math

import pytest
import torch

import isocline as ic

F64 = torch.float64
ONE = torch.ones(1)
pytestmark = pytest.mark.usefixtures("unchecked")


def decay(t, y):
    return -y


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"solver": "tsit"}, r"solver: unknown 'tsit', expected one of .*; did you mean 'tsit5'\?"),
        ({"solver": 5}, "solver: expected a solver or its name, got 5"),
        ({"gradient": "back_solve"}, r"gradient: unknown 'back_solve'.*did you mean 'backsolve'\?"),
        ({"gradient": 3}, "gradient: expected"),
        ({"engine": "native"}, "engine: unknown 'native', expected one of auto, eager"),
        ({"batching": "persample"}, r"did you mean 'per_sample'\?"),
        ({"rtol": -1e-3}, "rtol=-0.001: a tolerance must not be negative"),
        ({"atol": float("nan")}, "atol=nan"),
        ({"rtol": 0, "atol": 0}, "rtol=0 and atol=0"),
        ({"step": 0.0}, r"step=0.0, expected a positive finite number"),
        ({"step": -0.1}, "step=-0.1"),
        ({"max_step": 0}, "max_step=0, expected a positive number"),
        ({"step": 0.1, "rtol": 1e-3}, "fixed steps have no tolerance"),
        ({"step": 0.1, "max_step": 0.1}, "exactly one of"),
        ({"controller": ic.PID(), "rtol": 1e-3}, "controller and rtol were given"),
        ({"controller": "pid"}, "controller: expected FixedStep or PID"),
        ({"solver": "rk4"}, "solver='rk4' has no error estimate .* give step"),
        ({"args": torch.ones(1)}, r"args: expected a tuple, got Tensor; write args=\(x,\)"),
        ({"max_steps": 0}, "max_steps=0, expected a positive integer"),
        ({"step_ts": [float("nan")]}, "step_ts: expected a vector of finite times"),
        ({"jump_ts": [[1.0]]}, "jump_ts: expected a vector"),
        ({"rtol": torch.ones(7)}, r"rtol: shape \(7,\) does not broadcast to the state's \(1,\)"),
    ],
)
def test_a_bad_option_is_named(options, says):
    with pytest.raises((ValueError, TypeError), match=says):
        ic.solve(decay, ONE, [0.0, 1.0], **options)


@pytest.mark.parametrize(
    ("ts", "says"),
    [
        ([0.0, 1.0, 1.0], r"ts: must be strictly monotone, but ts\[1\] = 1 is followed by ts\[2\] = 1"),
        ([0.0, 2.0, 1.0], r"ts\[1\] = 2 is followed by ts\[2\] = 1 where times increase"),
        ([1.0, 1.0], "strictly monotone"),
        ([0.0, float("nan")], r"ts\[1\] = nan: expected a finite number"),
        ([0.0, math.inf], r"ts\[1\] = inf"),
        ([], "ts: no time in it"),
        ([[0.0, 1.0]], r"ts: shape \(1, 2\), expected \(T,\)"),
        ("soon", "ts: expected a tensor or a sequence of numbers, got str"),
        (torch.tensor([True]), "ts: dtype torch.bool"),
    ],
)
def test_bad_times_are_named(ts, says):
    with pytest.raises((ValueError, TypeError), match=says):
        ic.solve(decay, ONE, ts)


@pytest.mark.parametrize(
    ("ts", "says"),
    [
        (torch.zeros(3, 2), r"ts: shape \(3, 2\), expected \(T,\) or \(2, T\)"),
        (torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]]), r"ts\[1\]: must be strictly monotone"),
        (torch.tensor([[0.0, 1.0], [math.nan, 1.0]]), r"ts\[1\]"),
        (torch.tensor([[0.0, 1.0], [math.nan, math.nan]]), r"ts\[1\]: no time in it"),
        (torch.tensor([[0.0, 1.0, 2.0], [0.0, math.nan, 1.0]]), r"ts\[1\]"),
        ([torch.zeros(1), torch.zeros(1, 1)], "a list of vectors expected"),
    ],
)
def test_bad_times_of_a_sample_are_named(ts, says):
    with pytest.raises(ValueError, match=says):
        ic.solve(decay, torch.ones(2, 1), ts, batching="per_sample")


@pytest.mark.parametrize(
    ("y0", "says"),
    [
        (torch.ones(2, dtype=torch.int64), "y0: dtype torch.int64 .* use y0.float()"),
        (1.0, "y0: expected a tensor or a pytree of tensors, found float"),
        ((), "y0: no tensor in it"),
        ({"a": [1.0]}, "found float"),
    ],
)
def test_a_bad_state_is_named(y0, says):
    with pytest.raises((ValueError, TypeError), match=says):
        ic.solve(decay, y0, [0.0, 1.0])


def test_per_sample_batching_wants_a_batch():
    with pytest.raises(ValueError, match="batch as first dimension"):
        ic.solve(decay, (torch.ones(2, 3), torch.ones(3, 3)), [0.0, 1.0], batching="per_sample")


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (lambda t, y: y[:, :1], r"field: returned shape \(2, 1\), expected the state's shape \(2, 3\)"),
        (lambda t, y: y.double(), "field: returned dtype torch.float64, expected the state's dtype torch.float32"),
        (lambda t, y: 1.0, "field: returned float, expected a tensor"),
        (lambda t, y: None, "field: returned NoneType"),
        (lambda t, y: y.relu_(), "changed its argument y in place"),
        ("net", "field: expected a callable"),
    ],
)
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_a_bad_field_is_named(field, says, batching):
    y0 = torch.full((2, 3), -0.7)
    with pytest.raises((ValueError, TypeError), match=says):
        ic.solve(field, y0, [0.0, 1.0], batching=batching)
    assert float(y0.max()) == pytest.approx(-0.7)


def test_a_field_of_the_wrong_structure_is_named():
    with pytest.raises(ValueError, match=r"field: returned the structure .*, expected the state's"):
        ic.solve(lambda t, y: [-y["a"]], {"a": ONE}, [0.0, 1.0])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ic.PID(safety=1.5), "safety=1.5, expected between 0 and 1"),
        (lambda: ic.PID(min_factor=2.0), "min_factor=2.0"),
        (lambda: ic.PID(min_step=2.0, max_step=1.0), "min_step=2.0, max_step=1.0"),
        (lambda: ic.PID(first_step=0.0), "first_step=0.0"),
        (lambda: ic.FixedStep(), "exactly one of"),
        (lambda: ic.Checkpointed(memory=0), "memory=0, expected a positive number of bytes"),
        (lambda: ic.Backsolve(check="no"), "check='no'"),
        (lambda: ic.Backsolve(solver="nope"), "solver='nope'"),
        (lambda: ic.Backsolve(controller=ic.PID(), rtol=1.0), "either controller or rtol and atol"),
        (lambda: ic.nn.MLP((2,)), r"sizes=\(2,\)"),
        (lambda: ic.nn.MLP((2, 2), "tan"), "activation='tan'"),
        (lambda: ic.nn.NeuralODE(decay, returns="all"), "returns='all'"),
    ],
)
def test_a_bad_setting_is_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# ---- failure ----------------------------------------------------------------------------------------------------------
def test_a_nan_field_ends_at_once_and_says_so():
    count = [0]

    def f(t, y):
        count[0] += 1
        return torch.stack((y[0], y[1] * math.nan))

    for options in ({}, {"solver": "bosh3"}, {"solver": "rk4", "step": 0.1}):
        count[0] = 0
        with pytest.raises(ic.SolveError, match=r"field returned NaN or inf at t = 0: component \[1\] of y") as caught:
            ic.solve(f, torch.ones(2), [0.0, 1.0], **options)
        assert caught.value.status is ic.Status.NON_FINITE and count[0] < 60
        assert caught.value.solution.ys[1].isnan().all()


def test_a_nan_that_comes_later_is_located():
    with pytest.raises(ic.SolveError) as caught:
        ic.solve(lambda t, y: torch.where(t > 0.5, math.nan, -1.0) * y, torch.ones(1, dtype=F64), [0.0, 0.4, 1.0])
    solution = caught.value.solution
    assert solution.ys[1].item() == pytest.approx(math.exp(-0.4), rel=1e-6) and solution.ys[2].isnan().all()
    assert "t = 0.5" in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"solver": "dopri8"}, {"solver": "rk4", "step": 0.01}])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_pole_is_a_blow_up(options, dtype):
    with pytest.raises(ic.SolveError, match="blows up at t = ") as caught:
        ic.solve(lambda t, y: y * y, torch.ones(1, dtype=dtype), [0.0, 0.5, 4.0], **options)
    assert caught.value.status is ic.Status.BLOW_UP
    assert caught.value.solution.ys[1].item() == pytest.approx(2.0, rel=1e-4)


def test_an_initial_state_that_is_not_finite_is_named():
    for options in ({}, {"solver": "rk4", "step": 0.1}):
        with pytest.raises(ic.SolveError, match=r"initial state is not finite: component \[1\] of y"):
            ic.solve(decay, torch.tensor([1.0, math.inf]), [0.0, 1.0], **options)


def test_stiffness_is_recognised():
    def robertson(t, y):
        a, b, c = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
        return torch.stack((b - a, a - b - c, c))

    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    with pytest.raises(ic.SolveError, match=r"max_steps = 2000 used up .* looks stiff") as caught:
        ic.solve(robertson, y0, [0.0, 1e4], max_steps=2000)
    assert caught.value.status is ic.Status.MAX_STEPS


def test_a_tolerance_below_the_dtype_is_named():
    with pytest.raises(ic.SolveError, match=r"below what torch\.float32 can reach"):
        ic.solve(lambda t, y: torch.sin(50 * t) * y, torch.ones(3), [0.0, 20.0], rtol=1e-9, atol=1e-12, max_steps=500)


def test_a_jump_nobody_declared_is_suggested():
    def f(t, y):
        return 1.0 / (t - 0.5).abs().sqrt() * torch.ones_like(y)

    with pytest.raises(ic.SolveError) as caught:
        ic.solve(f, torch.zeros(1, dtype=F64), [0.0, 1.0], controller=ic.PID(1e-12, 1e-14, min_step=1e-6))
    assert caught.value.status is ic.Status.STEP_TOO_SMALL and "jump_ts" in str(caught.value)


def test_a_step_budget_returns_what_was_reached():
    """N09."""

    def f(t, y):
        return -y + torch.cos(30 * t)

    ts = torch.linspace(0, 10, 11, dtype=F64)
    whole = ic.solve(f, torch.zeros(1, dtype=F64), ts)
    budget = (whole.stats.accepted + whole.stats.rejected) // 2
    for batching in ("shared", "per_sample"):
        sol = ic.solve(f, torch.zeros(1, 1, dtype=F64), ts, max_steps=budget, throw=False, batching=batching)
        assert int(sol.status) == ic.Status.MAX_STEPS and "max_steps" in sol.message and not sol.success
        reached = ~sol.ys[:, 0, 0].isnan()
        assert 3 <= int(reached.sum()) <= 8 and bool(reached[: int(reached.sum())].all())
        assert torch.allclose(sol.ys[reached][:, 0], whole.ys[reached], rtol=1e-5, atol=1e-8)
        with pytest.raises(ic.SolveError):
            ic.solve(f, torch.zeros(1, 1, dtype=F64), ts, max_steps=budget, batching=batching)


def test_overflow_without_an_error_estimate_is_found():
    sol = ic.solve(
        lambda t, y: 3e38 * torch.ones_like(y), torch.zeros(1), [0.0, 1.0, 2.0], solver="euler", step=0.5, throw=False
    )
    assert sol.status is not ic.Status.SUCCESS and sol.ys[2].isnan().all() and sol.ys[1].isfinite().all()


def test_a_failed_solve_still_has_a_gradient_of_what_it_reached():
    for batching in ("shared", "per_sample"):
        for gradient in ("backprop", "checkpointed", "backsolve"):
            y0 = torch.ones(1, 1, dtype=F64, requires_grad=True)
            sol = ic.solve(lambda t, y: y * y, y0, [0.0, 0.5, 2.0], throw=False, gradient=gradient, batching=batching)
            sol.ys[1].sum().backward()
            assert y0.grad.item() == pytest.approx(4.0, rel=1e-4)  # y = 1/(1/y0 - t)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("size", [1.0, 2.0, 3.0, 7.0, 100.0])
def test_a_blow_up_is_found_before_the_steps_are_used_up(size, batching):
    """Where nine tenths of a few spacings of time round to as many, the same step would be tried for ever."""
    y0 = size * torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    sol = ic.solve(lambda t, y: y**2, y0, [0.0, 10.0], batching=batching, throw=False)
    assert int(sol.status) == ic.Status.BLOW_UP
    assert int(sol.stats.accepted) + int(sol.stats.rejected) < 1500
