"""Events: found where they are, once, and differentiable."""

import functools
import gc
import math
import re
from pathlib import Path

import pytest
import torch

import isocline as ic
from isocline import Event, Status

F64 = torch.float64
TIGHT = {"rtol": 1e-10, "atol": 1e-12}
GRADIENTS = ["checkpointed", "backprop", "backsolve"]
FUSED = pytest.param("fused", marks=pytest.mark.machine)  # samples on their own, by the fused engine
BATCHINGS = ["shared", "per_sample", FUSED]
STEPPING = [TIGHT, {"solver": "rk4", "step": 0.1}, {"solver": "dopri5", "max_step": 0.3}]


def solve(*args, batching="shared", **kw):
    if batching == "fused":
        batching, kw["engine"] = "per_sample", "fused"
    return ic.solve(*args, batching=batching, **kw)


def T(*values, **kw):
    return torch.tensor(values, dtype=F64, **kw)


def P(value):
    return torch.tensor(value, dtype=F64, requires_grad=True)


def grads(output, inputs):
    found = torch.autograd.grad(output, inputs, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def close(got, want, **kw):
    torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(want, dtype=F64), check_dtype=False, **kw)


def unit(t, y):
    """y = t."""
    return torch.ones_like(y)


# ---- the bouncing ball -------------------------------------------------------------------------------------------
class Ball:
    """Drop from `height` onto a floor; closed forms.

    Flight to the floor √(2H/g), H the height above it; v₁ = √(2gH), each bounce keeps `e` of the speed. So bounce n is
    at T_n = √(2H/g) (1 + 2 Σ_{k<n} e^k).
    """

    def __init__(self, g=9.8, e=0.8, radius=0.2, height=10.0):
        self.g, self.e, self.log_radius, self.height = P(g), P(e), P(math.log(radius)), P(height)

    @property
    def parameters(self):
        return [self.g, self.e, self.log_radius, self.height]

    def bounce(self, n):
        powers = sum((self.e**k for k in range(1, n)), torch.zeros((), dtype=F64))
        return torch.sqrt(2 * (self.height - self.log_radius.exp()) / self.g) * (1 + 2 * powers)

    def position(self, t, n):
        """After n bounces."""
        v = torch.sqrt(2 * self.g * (self.height - self.log_radius.exp())) * self.e**n
        s = t - self.bounce(n)
        return self.log_radius.exp() + v * s - self.g * s**2 / 2

    def solve(self, ts, batching="shared", **kw):
        i = (...,)
        floor = Event(
            lambda t, y: y[(*i, 0)] - self.log_radius.exp(),
            reset=lambda t, y: torch.stack([y[(*i, 0)], -self.e * y[(*i, 1)]], -1),
            direction=-1,
        )
        y0 = torch.stack([self.height, torch.zeros((), dtype=F64)])
        y0 = y0 if batching == "shared" else torch.stack([y0, y0])
        return solve(
            lambda t, y: torch.stack([y[(*i, 1)], -self.g + 0 * y[(*i, 1)]], -1),
            y0,
            ts,
            events=floor,
            batching=batching,
            **kw,
        )


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("stepping", STEPPING, ids=str)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_bounces_of_a_ball_and_their_gradients_are_exact(gradient, stepping, batching):
    """The tenth bounce and the height after it; all methods integrate a parabola exactly."""
    ball = Ball()
    sol = ball.solve([0.0, 5.0, 11.3], batching, gradient=gradient, **stepping)
    assert sol.event_ts.shape[0] == 10 and bool((sol.event_index == 0).all()) and sol.success
    for n in (1, 4, 10):
        got, want = sol.event_ts[n - 1].reshape(-1)[0], ball.bounce(n)
        close(got, want.item(), rtol=1e-12, atol=0)
        for a, b in zip(grads(got, ball.parameters), grads(want, ball.parameters), strict=True):
            close(a, b, rtol=1e-9, atol=1e-12)
    for row, t, n in ((1, 5.0, 2), (2, 11.3, 10)):
        got, want = sol.ys[row].reshape(-1)[0], ball.position(t, n)
        close(got, want.item(), rtol=1e-10, atol=1e-12)
        for a, b in zip(grads(got, ball.parameters), grads(want, ball.parameters), strict=True):
            close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_bounce_moves_with_the_start_of_time(gradient):
    ball, t0 = Ball(), P(0.0)
    sol = ball.solve(torch.stack([t0, t0.new_tensor(11.3)]), gradient=gradient, **TIGHT)
    close(grads(sol.event_ts[9], [t0])[0], 1.0)
    # Seen from the ball, a later start is an earlier end.
    v = ball.solve([0.0, 11.3], **TIGHT).ys[-1, 1].item()
    close(grads(sol.ys[-1, 0], [t0])[0], -v)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("stepping", [{}, {"solver": "rk4", "step": 0.1}], ids=str)
def test_bounces_without_end_are_noticed(stepping, batching):
    ball = Ball(e=0.5, height=1.0)
    with pytest.raises(ic.SolveError, match=r"events accumulate at t = 1\.2") as caught:
        ball.solve([0.0, 1.0, 3.0], batching, **stepping)
    error = caught.value
    assert set(torch.as_tensor(error.status).reshape(-1).tolist()) == {int(Status.EVENTS_ACCUMULATE)}
    assert error.solution.ys[1].isfinite().all() and error.solution.ys[2].isnan().all()
    end = ball.bounce(1).item() * 3  # 1 + 2 (1/2 + 1/4 + …)
    # A flight of τ rises by gτ²/8, which the ball's position (0.2) resolves down to τ = 1e-8.
    close(error.solution.event_ts[-1].reshape(-1)[0], end, rtol=0, atol=5e-8)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_ball_that_hardly_bounces_does_not_fall_through_the_floor(batching):
    """Its second flight is shorter than any step: e = 1e-5, flights 2 v eⁿ / g."""
    ball = Ball(e=1e-5, radius=1e-9, height=5.0)
    sol = ball.solve([0.0, 1.0, 3.0], batching, throw=False)
    assert Status(int(torch.as_tensor(sol.status).reshape(-1)[0])) is Status.EVENTS_ACCUMULATE
    assert sol.event_ts.shape[0] >= 3
    close(sol.event_ts[1].reshape(-1)[0], ball.bounce(2).item(), rtol=0, atol=1e-9)  # a flight of 2e-5


@pytest.mark.parametrize("batching", BATCHINGS)
def test_max_events_stops_with_its_status(batching):
    with pytest.raises(ic.SolveError, match="max_events"):
        Ball().solve([0.0, 20.0], batching, max_events=5)
    sol = Ball().solve([0.0, 3.0, 20.0], batching, max_events=5, throw=False)
    assert not sol.success and sol.event_ts.shape[0] == 5
    assert sol.ys[1].isfinite().all() and sol.ys[2].isnan().all()


def test_the_example_of_the_documentation_runs():
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(code, names)
    assert f"when: {', '.join(f'{t:.4f}' for t in names['sol'].event_ts)}" in page
    assert names["g"].grad != 0 and names["e"].grad != 0


# ---- where events are found --------------------------------------------------------------------------------------
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize(
    "stepping", [{}, {"solver": "rk4", "step": 0.7}, {"solver": "euler", "max_step": 2.0}], ids=str
)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_an_event_within_an_ulp_of_an_observation(gradient, stepping, batching):
    """N05: to the floor at 5/p and up again; x(6) = 6p − 5 on whichever side of the observation the event is found."""
    for shift in (0.0, 2e-16, -2e-16, 1e-15, -1e-15):
        p = P(1.0 + shift)
        ts = [0.0, math.nextafter(5, 0), 5.0, math.nextafter(5, 6), 6.0]
        turn = Event(lambda t, y: y[..., 0], reset=lambda t, y: torch.stack([y[..., 0], -y[..., 1]], -1))
        y0 = T(5.0, -1.0) if batching == "shared" else T(5.0, -1.0)[None]
        sol = solve(
            lambda t, y: torch.stack([p * y[..., 1], 0 * y[..., 1]], -1),
            y0,
            ts,
            events=turn,
            batching=batching,
            gradient=gradient,
            **stepping,
        )
        assert sol.event_ts.numel() == 1
        close(sol.ys[..., 0].reshape(-1), [5.0, 0.0, 0.0, 0.0, 1.0], rtol=0, atol=2e-12)
        close(grads(sol.ys[-1].reshape(-1)[0], [p])[0], 6.0, rtol=1e-12, atol=0)


def test_an_event_at_the_final_time_counts_and_one_just_beyond_does_not():
    sol = ic.solve(unit, T(0.0), [0.0, 1.0], events=Event(lambda t, y: t - 1.0))
    assert sol.status is Status.EVENT and sol.event_ts.tolist() == [1.0] and sol.ys[-1].item() == pytest.approx(1)
    sol = ic.solve(unit, T(0.0), [0.0, 1.0], events=Event(lambda t, y: t - 1.0000001))
    assert sol.status is Status.SUCCESS and sol.event_ts.numel() == 0


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_condition_that_only_touches_zero_is_no_event(batching):
    y0 = T(0.0) if batching == "shared" else T(0.0)[None]
    for touch in (0.37, 0.5, 0.123456):
        for stepping in ({}, {"controller": ic.PID(first_step=1.0)}, {"solver": "euler", "step": 0.25}):
            graze = Event(lambda t, y: (y[..., 0] - touch) ** 2)
            sol = solve(unit, y0, [0.0, 1.0], events=graze, batching=batching, **stepping)
            assert sol.event_ts.numel() == 0 and sol.ys.isfinite().all()


def test_the_time_of_an_event_without_slope_has_no_gradient_and_says_so():
    y0 = T(0.0, requires_grad=True)
    sol = ic.solve(unit, y0, [0.0, 1.0], events=Event(lambda t, y: (y[0] - 0.5) ** 3, reset=lambda t, y: y))
    # The root of a triple zero is exact to its cube root only: make it so.
    sol = ic.solve(unit, y0, [0.0, 1.0], events=Event(lambda t, y: (y[0] - 0.5).detach() + 0 * y[0]))
    with pytest.raises(ic.GradientError, match=r"event at t = 0\.5 only touches zero"):
        sol.event_ts.sum().backward()


@pytest.mark.parametrize("apart", [1e-1, 1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_two_crossings_within_one_step_are_both_found(batching, apart):
    y0 = T(0.0) if batching == "shared" else T(0.0)[None]
    dip = Event(lambda t, y: (y[..., 0] - 0.37) ** 2 - apart**2, terminal=False)
    sol = solve(unit, y0, [0.0, 1.0], events=dip, batching=batching, controller=ic.PID(first_step=1.0))
    close(sol.event_ts.reshape(-1), [0.37 - apart, 0.37 + apart], rtol=1e-13, atol=1e-13)


def test_crossings_at_opposite_ends_of_one_step_are_both_found():
    """One step over a whole period: sin(2πt) crosses at 1/2 downwards, at 1 (the end) upwards."""
    wave = Event(lambda t, y: torch.sin(2 * math.pi * (t - 0.1)), terminal=False)
    sol = ic.solve(unit, T(0.0), [0.0, 1.0], events=wave, controller=ic.PID(first_step=1.0))
    close(sol.event_ts, [0.1, 0.6], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("direction", [1, -1, 0])
@pytest.mark.parametrize("end", [10.0, -10.0])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_direction_counts_along_the_solve_in_both_directions_of_time(batching, end, direction):
    """cos t falls at π/2, 5π/2 and rises at 3π/2, 7π/2 away from 0, forwards and backwards."""
    y0 = T(1.0, 0.0) if batching == "shared" else T(1.0, 0.0)[None]
    event = Event(lambda t, y: y[..., 0], terminal=False, direction=direction)
    sol = solve(
        lambda t, y: torch.stack([y[..., 1], -y[..., 0]], -1), y0, [0.0, end], events=event, batching=batching, **TIGHT
    )
    sign = math.copysign(1, end)
    falls, rises = [math.pi / 2, 5 * math.pi / 2], [3 * math.pi / 2]
    want = sorted({1: rises, -1: falls, 0: falls + rises}[direction])
    close(sol.event_ts.reshape(-1), [sign * t for t in want], rtol=1e-8, atol=0)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_zero_at_the_start_is_not_an_event_but_the_next_one_is(batching):
    y0 = T(0.0) if batching == "shared" else T(0.0)[None]
    sol = solve(
        lambda t, y: torch.cos(t) + 0 * y,
        y0,
        [0.0, 4.0],
        events=Event(lambda t, y: y[..., 0]),
        batching=batching,
        **TIGHT,
    )
    close(sol.event_ts.reshape(-1), [math.pi], rtol=1e-8, atol=0)


def test_restarting_by_hand_at_an_event_finds_the_next_one():
    """Rounding leaves the ball a little below the floor or above it; each restart begins there."""
    ball, now, state = Ball(), 0.0, T(10.0, 0.0)
    floor = Event(lambda t, y: y[0] - ball.log_radius.exp())
    for n in range(1, 9):
        sol = ic.solve(lambda t, y: torch.stack([y[1], -9.8 + 0 * y[1]]), state, [now, now + 10], events=floor)
        now, state = sol.event_ts[0].item(), sol.event_ys[0].detach() * T(1.0, -0.8)
        assert now == pytest.approx(ball.bounce(n).item(), rel=1e-10)


def test_restarting_without_a_jump_goes_on_through_the_surface():
    sol = ic.solve(unit, T(-1.0), [0.0, 3.0], events=Event(lambda t, y: y[0] - 1 / 3))
    for _ in range(3):
        again = ic.solve(unit, sol.event_ys[0], [sol.event_ts[0].item(), 3.0], events=Event(lambda t, y: y[0] - 1 / 3))
        assert again.status is Status.SUCCESS


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_root_at_a_declared_jump_is_reported_once(batching, gradient):
    """N13: y' = 1 before t = 1, a after; y − 1 crosses at the jump, and the solve goes on from it."""
    a = P(2.0)
    y0 = P([0.0]) if batching == "shared" else P([[0.0]])
    event = Event(lambda t, y: y[..., 0] - 1.0, terminal=False)
    sol = solve(
        lambda t, y: torch.where(t < 1, 1.0, a) + 0 * y,
        y0,
        [0.0, 1.0, 2.0],
        events=event,
        jump_ts=[1.0],
        batching=batching,
        gradient=gradient,
    )
    assert sol.event_ts.numel() == 1
    close(sol.event_ts.reshape(-1), [1.0], rtol=1e-14, atol=0)
    close(sol.ys[-1].reshape(-1), [3.0], rtol=1e-13, atol=0)
    # Rounding decides from which side the root is seen: −1/f of that side.
    assert grads(sol.event_ts.sum(), [y0])[0].item() in (pytest.approx(-1.0), pytest.approx(-0.5))
    close(grads(sol.ys[-1].sum(), [a])[0], 1.0)


@pytest.mark.parametrize("end", [1.0, 1e3])
def test_jumps_at_both_ends(end):
    """N07."""
    sol = ic.solve(
        lambda t, y: -y, T(1.0), [0.0, end], jump_ts=[0.0, end], events=Event(lambda t, y: y[0] + 1), dense=True
    )
    assert sol.ts[-1] == end and sol.accepted_ts[-1] == end and sol.ys.isfinite().all()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_coefficients_by_time_interval_stay_right_with_an_event_watched(gradient):
    """N11: y' = a_i y on [i, i + 1): y(4) = exp Σ a_i, every derivative y(4)."""
    a = P([0.1, -0.2, 0.3, 0.05])
    event = Event(lambda t, y: t - 1.5, terminal=False)
    sol = ic.solve(
        lambda t, y: a[int(t >= 1) + int(t >= 2) + int(t >= 3)] * y,
        T(1.0),
        [0.0, 4.0],
        events=event,
        jump_ts=[1.0, 2.0, 3.0],
        gradient=gradient,
        **TIGHT,
    )
    close(sol.ys[-1], [math.exp(0.25)], rtol=1e-9, atol=0)
    close(grads(sol.ys[-1].sum(), [a])[0], [math.exp(0.25)] * 4, rtol=1e-7, atol=0)


@pytest.mark.parametrize("solver", ["dopri5", "dopri8", "tsit5", "bosh3", "adaptive_heun"])
def test_an_event_is_as_accurate_as_a_step_not_as_its_interpolant(solver):
    """From 1 to −1/2 on a circle: 2π/3, to 20 tolerances; a parabola exactly."""
    swing = ic.solve(
        lambda t, y: torch.stack([y[1], -y[0]]),
        T(1.0, 0.0),
        [0.0, 100.0],
        events=Event(lambda t, y: y[0] + 0.5),
        solver=solver,
        rtol=1e-6,
        atol=1e-6,
    )
    assert swing.event_ts.item() == pytest.approx(2 * math.pi / 3, abs=2e-5)
    assert swing.event_ys[0, 0].item() == pytest.approx(-0.5, abs=1e-14)


@pytest.mark.parametrize("condition", [lambda y: y, lambda y: y**3, lambda y: torch.sinh(y / 5)])
def test_however_flat_or_steep_the_condition_is_the_zero_is_the_same(condition):
    sol = ic.solve(
        lambda t, y: torch.stack([y[1], -9.8 + 0 * y[1]]),
        T(50.0, 0.0),
        [0.0, 100.0],
        events=Event(lambda t, y: condition(y[0])),
    )
    assert sol.event_ts.item() == pytest.approx(math.sqrt(100 / 9.8), rel=1e-13)


# ---- several events ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize(
    "stepping", [{"controller": ic.PID(first_step=2.0)}, {"solver": "euler", "step": 2.0}], ids=str
)
def test_of_two_events_in_one_step_the_first_in_time_ends_the_solve(stepping, batching):
    y0 = T(0.0) if batching == "shared" else T(0.0)[None]
    for times, first in (((1.0, 0.5), 1), ((0.5, 1.0), 0)):
        events = [Event(lambda t, y: t.reshape(y.shape[:-1]) - times[0]), Event(lambda t, y: y[..., 0] - times[1])]
        sol = solve(unit, y0, [0.0, 5.0], events=events, batching=batching, **stepping)
        assert sol.event_index.reshape(-1).tolist() == [first]
        close(sol.event_ts.reshape(-1), [0.5], rtol=1e-14, atol=0)
        close(sol.event_ys.reshape(-1), [0.5], rtol=1e-14, atol=0)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_events_at_the_same_time_all_happen(batching):
    y0 = T(0.0) if batching == "shared" else T(0.0)[None]
    events = [
        Event(lambda t, y: y[..., 0] - 1 / 3, reset=lambda t, y: y + 1),
        Event(lambda t, y: 3 * y[..., 0] - 1, reset=lambda t, y: 2 * y),
        Event(lambda t, y: y[..., 0] - 3.0),
    ]
    sol = solve(unit, y0, [0.0, 5.0], events=events, batching=batching)
    assert sol.event_index.reshape(-1).tolist() == [0, 1, 2]  # 2 (1/3 + 1) = 8/3, then to 3
    close(sol.event_ts.reshape(-1), [1 / 3, 1 / 3, 2 / 3], rtol=1e-13, atol=0)


# ---- what is returned --------------------------------------------------------------------------------------------
def test_after_a_terminal_event_rows_are_nan_and_it_counts_as_success():
    sol = ic.solve(unit, T(0.0), [0.0, 0.5, 1.0, 2.0], events=Event(lambda t, y: y[0] - 1.1, name="goal"))
    assert sol.status is Status.EVENT and sol.success and sol.message == ""
    assert sol.ys[:3].flatten().tolist() == pytest.approx([0, 0.5, 1.0]) and sol.ys[3].isnan().all()
    assert sol.event_index.tolist() == [0] and sol.event_ts.tolist() == pytest.approx([1.1], rel=1e-14)


def test_without_events_the_solution_has_none():
    assert ic.solve(unit, T(0.0), [0.0, 1.0]).event_ts is None
    sol = ic.solve(unit, T(0.0), [0.0, 1.0], events=[Event(lambda t, y: y[0] + 1)])
    assert sol.event_ts.shape == (0,) and sol.event_ys.shape == (0, 1) and sol.status is Status.SUCCESS


@pytest.mark.parametrize("batching", BATCHINGS)
def test_dense_output_passes_through_events(batching):
    ball = Ball()
    sol = ball.solve([0.0, 6.0], batching, dense=True, **TIGHT)
    for t, n in ((2.0, 1), (4.0, 2), (5.6, 3)):
        got = sol.at(t).reshape(-1)[0]
        close(got, ball.position(t, n).item(), rtol=1e-10, atol=0)
        for a, b in zip(grads(got, ball.parameters), grads(ball.position(t, n), ball.parameters), strict=True):
            close(a, b, rtol=1e-7, atol=1e-9)
    at_bounce = sol.at(sol.event_ts[0].reshape(-1)[0].item()).reshape(-1, 2)[0]
    assert at_bounce[1] < 0  # the state before the reset


def test_an_observation_at_exactly_an_event_is_the_state_before_it():
    jump = Event(lambda t, y: t - 1.0, reset=lambda t, y: y + 10)
    sol = ic.solve(unit, T(0.0), [0.0, 1.0, 2.0], events=jump)
    assert sol.ys.flatten().tolist() == pytest.approx([0, 1, 12])


def test_max_steps_counts_all_pieces():
    with pytest.raises(ic.SolveError, match="max_steps"):
        Ball().solve([0.0, 11.3], max_steps=20)
    with pytest.raises(ic.SolveError, match="max_steps"):
        Ball().solve([0.0, 11.3], solver="rk4", step=0.1, max_steps=100)
    with pytest.raises(ic.SolveError, match="max_steps"):
        Ball().solve([0.0, 11.3], "per_sample", max_steps=20)
    assert Ball().solve([0.0, 11.3], max_steps=200).success


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_progress_is_told_of_the_whole_solve(batching):
    told = []
    Ball().solve([0.0, 6.0], batching, progress=lambda done, t, steps: told.append((done, t, steps)))
    fractions = [done for done, _, _ in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and fractions.count(1.0) <= 2
    assert all(0 <= done <= 1 for done in fractions)


def test_f_is_not_evaluated_beyond_the_step_that_holds_the_event():
    seen = []

    def f(t, y):
        seen.append(float(t))
        return torch.ones_like(y)

    ic.solve(f, T(0.0), [0.0, 100.0], solver="rk4", step=0.5, events=Event(lambda t, y: y[0] - 1.2))
    assert max(seen) == 1.5


def test_statistics_are_those_of_all_pieces():
    calls = [0]

    def f(t, y):
        calls[0] += 1
        return torch.stack([y[1], -9.8 + 0 * y[1]])

    floor = Event(lambda t, y: y[0], reset=lambda t, y: torch.stack([y[0], -0.8 * y[1]]))
    y0 = T(10.0, 0.0, requires_grad=True)
    sol = ic.solve(f, y0, [0.0, 6.0], events=floor, gradient="backprop")
    assert sol.stats.evaluations == calls[0] and sol.stats.accepted > 3
    sol = ic.solve(f, y0, [0.0, 6.0], events=floor, gradient=ic.Checkpointed(graphs=0))
    assert sol.stats.evaluations_backward == 0
    sol.ys[-1, 0].backward()
    assert sol.stats.evaluations_backward > sol.stats.accepted


# ---- gradients ---------------------------------------------------------------------------------------------------
EVERYTHING = [2.0, 0.05, 0.1, 0.3, [-0.5, 0.8], [0.0, 2.0, 8.0, 11.0]]


def kicked_pendulum(batching, gradient, k, damping, angle, kick, y0, ts):
    """Damped by args, kicked where it passes an angle that moves with time; one number of all that is returned.

    Fixed steps, so that differences see a smooth function.
    """
    event = Event(
        lambda t, y, damping: y[..., 0] - angle - 0.01 * t.reshape(y.shape[:-1]) - 0.1 * damping,
        reset=lambda t, y, damping: torch.stack([y[..., 0], 0.9 * y[..., 1] + kick], -1),
        direction=1,
    )
    sol = solve(
        lambda t, y, damping: torch.stack([y[..., 1], -k * torch.sin(y[..., 0]) - damping * y[..., 1]], -1),
        y0 if batching == "shared" else torch.stack([y0, y0 + 0.1]),
        ts,
        events=event,
        args=(damping,),
        batching=batching,
        gradient=gradient,
        solver="dopri8",
        step=0.3,
    )
    assert sol.event_ts.shape[0] == 3
    weights = T(1.0, -2.0, 0.5).view(3, *[1] * (sol.event_ts.dim() - 1))
    return (sol.event_ts * weights).sum() + (sol.ys[1:] ** 2).sum() + sol.event_ys[..., 1].sum()


@functools.cache
def differences(batching):
    flat, like = [torch.tensor(x, dtype=F64) for x in EVERYTHING], []
    with torch.no_grad():
        for i, x in enumerate(flat):
            like.append(torch.zeros_like(x))
            for j in range(x.numel()):
                values = []
                for step in (1e-5, -1e-5):
                    moved = [y.clone() for y in flat]
                    moved[i].view(-1)[j] += step
                    values.append(kicked_pendulum(batching, "backprop", *moved))
                like[i].view(-1)[j] = (values[0] - values[1]) / 2e-5
    return like


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_agree_with_differences_in_everything(gradient, batching):
    """y0, all times, args, parameters of field, condition and reset."""
    inputs = [P(x) for x in EVERYTHING]
    got = grads(kicked_pendulum(batching, gradient, *inputs), inputs)
    for a, b in zip(got, differences(batching), strict=True):
        close(a, b, rtol=1e-6, atol=1e-6)


def test_modules_in_field_condition_and_reset_all_learn():
    field, surface, jump = (torch.nn.Linear(2, n).double() for n in (2, 1, 2))
    event = Event(lambda t, y: surface(y)[0] - 0.0 + t - 0.5, reset=lambda t, y: y + jump(y))
    sol = ic.solve(lambda t, y: torch.tanh(field(y)), T(0.3, -0.2), [0.0, 1.0], events=event)
    assert sol.event_ts.numel() >= 1
    sol.ys[-1].sum().backward()
    assert all(bool((p.grad != 0).any()) for m in (field, surface, jump) for p in m.parameters())


def test_second_derivatives_are_refused_by_name():
    y0 = T(-1.0, requires_grad=True)
    sol = ic.solve(lambda t, y: 1 + y * y, y0, [0.0, 3.0], events=Event(lambda t, y: y[0]))
    with pytest.raises(ic.GradientError, match="second derivatives through an event"):
        torch.autograd.grad(sol.event_ts.sum(), y0, create_graph=True)


def test_without_gradients_events_work_in_every_mode():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            sol = Ball().solve([0.0, 6.0])
        assert sol.event_ts.numel() == 3 and not sol.ys.requires_grad


# ---- per-sample batching -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("batching", ["per_sample", FUSED])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_samples_have_their_own_events_resets_and_ends(gradient, batching):
    """Samples with 0, 1 and 3 bounces, one that a second event ends: each as it is alone."""
    heights, ends = [9.0, 5.0, 1.0, 4.0], [1.0, 2.0, 2.2, 3.0]
    e, top = P([0.8, 0.7, 0.9, 0.5]), 0.4

    def events(pick):
        return [
            Event(
                lambda t, y: y[..., 0],
                reset=lambda t, y: torch.stack([y[..., 0], -pick(e) * y[..., 1]], -1),
                direction=-1,
            ),
            Event(lambda t, y: y[..., 0] - pick(T(99.0, 99.0, 99.0, top)), direction=1, name="top"),
        ]

    y0 = torch.stack([T(*heights), torch.zeros(4, dtype=F64)], 1).requires_grad_()
    ts = [T(0.0, end / 3, end) for end in ends]
    f = lambda t, y: torch.stack([y[..., 1], -9.8 + 0 * y[..., 1]], -1)
    both = solve(f, y0, ts, events=events(lambda x: x), batching=batching, gradient=gradient, dense=True, **TIGHT)
    assert both.status.tolist() == [0, 0, 0, int(Status.EVENT)] and both.success
    assert (both.event_index >= 0).sum(0).tolist() == [0, 1, 3, 2] and both.event_index[1, 3] == 1
    assert bool((both.event_ts.isnan() == (both.event_index < 0)).all())
    weights = T(1.0, 0.3)
    total = (both.ys.nan_to_num(0.0) * weights).sum() + both.event_ts.nan_to_num(0.0).sum()
    got, want = grads(total, [y0, e]), [torch.zeros_like(y0), torch.zeros_like(e)]
    for i in range(4):
        alone = ic.solve(
            f, y0[i], ts[i], events=events(lambda x: x[i] if x.shape == (4,) else x), gradient=gradient, **TIGHT
        )
        close(both.ys[:, i].detach(), alone.ys.detach(), rtol=1e-9, atol=1e-11, equal_nan=True)
        close(both.event_ts[: len(alone.event_ts), i].detach(), alone.event_ts.detach(), rtol=1e-11, atol=0)
        loss = (alone.ys.nan_to_num(0.0) * weights).sum() + alone.event_ts.sum()
        want = [a + b for a, b in zip(want, grads(loss, [y0, e]), strict=True)]
    for a, b in zip(got, want, strict=True):
        close(a, b, rtol=1e-7, atol=1e-9)
    stop = both.event_ts[1, 3].item()
    assert both.at(stop - 0.01)[3].isfinite().all() and both.at(stop + 0.01)[3].isnan().all()


@pytest.mark.parametrize("first", [0.55, 9.0])
def test_a_sample_finds_its_events_whatever_another_finds_in_the_same_step(first):
    """One rises at 0.45 and falls at 0.62, in the first quarter of the next step; another may end in the step between."""
    steady = torch.zeros(2, 1, dtype=F64)

    def condition(t, y):
        t = t.reshape(-1)
        return torch.stack([first - t[0], (t[1] - 0.45) * (0.62 - t[1])])

    falls = Event(condition, direction=-1)
    sol = ic.solve(unit, steady, [0.0, 4.0], events=falls, batching="per_sample", solver="rk4", step=0.3)
    close(sol.event_ts[0, 1], 0.62)


def test_a_sample_that_has_stopped_is_not_evaluated_again():
    sizes = []

    def f(t, y, rate):
        sizes.append(len(y))
        return rate[:, None] + 0 * y

    rate = T(*([10.0] * 15 + [1.0]))
    goal = Event(lambda t, y, rate: y[:, 0] - 1.0)
    repeat = Event(lambda t, y, rate: torch.sin(8 * y[:, 0]), terminal=False)
    sol = ic.solve(
        f,
        torch.zeros(16, 1, dtype=F64),
        [0.0, 2.0],
        events=[goal, repeat],
        args=(rate,),
        batching="per_sample",
        max_step=0.05,
        solver="rk4",
    )
    close(sol.event_ts.nan_to_num(0.0).amax(0), [0.1] * 15 + [1.0], rtol=1e-12, atol=0)
    assert sizes.count(16) < 40 and sizes.count(1) > 60


def test_failing_samples_leave_the_others_their_events():
    y0 = T(0.0, 0.9, 0.0)[:, None]

    def f(t, y):
        kind = torch.tensor([0.0, 1.0, 2.0], dtype=F64)[:, None][: len(y)]
        return torch.where(kind == 0, 1.0, torch.where(kind == 1, 1 / (1 - y) ** 3, torch.nan))

    p = P(1.0)
    bump = Event(lambda t, y: y[:, 0] - 0.5 * p, reset=lambda t, y: y + 0.25 * p, direction=1)
    sol = ic.solve(f, y0, [0.0, 1.0], events=bump, batching="per_sample", throw=False)
    assert sol.status[0] == 0 and sol.status[1] != 0 and sol.status[2] == int(Status.NON_FINITE)
    close(sol.ys[-1, 0, 0], 1.25)
    close(grads(sol.ys[-1, 0, 0], [p])[0], 0.25)


# ---- states of every kind ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_states_of_less_precision(dtype, batching):
    y0 = torch.zeros((1,) if batching == "shared" else (3, 1), dtype=dtype)
    event = Event(lambda t, y: y[..., 0] - 0.75, reset=lambda t, y: y - 0.5)
    sol = ic.solve(unit, y0, [0.0, 0.5, 2.0], events=event, batching=batching)
    eps = torch.finfo(dtype).eps
    assert sol.ys.dtype == dtype and sol.event_ts.shape[0] == 3
    times = torch.tensor([0.75, 1.25, 1.75], dtype=F64)
    torch.testing.assert_close(sol.event_ts.reshape(3, -1)[:, 0], times, rtol=0, atol=32 * eps)


def test_pytrees_and_complex_states():
    y0 = {"z": torch.tensor([1.0 + 0j], dtype=torch.complex128), "n": torch.zeros(2, dtype=F64)}
    w = P(1.0)
    count = Event(lambda t, y: y["z"][0].real, reset=lambda t, y: {"z": 2 * y["z"], "n": y["n"] + w})
    sol = ic.solve(lambda t, y: {"z": 1j * w * y["z"], "n": 0 * y["n"]}, y0, [0.0, 5.0], events=count, **TIGHT)
    close(sol.event_ts, [math.pi / 2, 3 * math.pi / 2], rtol=1e-9, atol=0)
    close(sol.ys["n"][-1], [2.0, 2.0])
    assert sol.event_ys["z"].shape == (2, 1) and sol.event_ys["z"].dtype == torch.complex128
    close(sol.ys["z"][-1].abs(), [4.0], rtol=1e-8, atol=0)
    close(grads(sol.event_ts[1], [w])[0], -3 * math.pi / 2, rtol=1e-7, atol=0)


# ---- what is refused ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Event(3), "condition = 3"),
        (lambda: Event(lambda t, y: y, reset=3), "reset = 3"),
        (lambda: Event(lambda t, y: y, direction=2), "direction=2"),
        (lambda: Event(lambda t, y: y, terminal=True, reset=lambda t, y: y), "no next state"),
    ],
)
def test_an_event_that_cannot_be_is_refused(make, says, unchecked):
    with pytest.raises((TypeError, ValueError), match=says):
        make()


@pytest.mark.parametrize(
    ("events", "batching", "says"),
    [
        ([lambda t, y: y[0]], "shared", r"events\[0\]"),
        (Event(lambda t, y: y), "shared", r"events\[0\].*\(2,\)"),
        (Event(lambda t, y: y[0] > 0, name="up"), "shared", "event 'up'.*not x < x_event"),
        (Event(lambda t, y: 1.0), "shared", "float"),
        (Event(lambda t, y: y[0, 0]), "per_sample", "one a sample"),
        (Event(lambda t, y: y[0], reset=lambda t, y: y[:1]), "shared", r"reset of events\[0\].*shape \(1,\)"),
    ],
)
def test_a_condition_or_reset_of_the_wrong_kind_is_named(events, batching, says, unchecked):
    y0 = T(-1.0, 0.0) if batching == "shared" else torch.zeros(3, 2, dtype=F64) - 1
    with pytest.raises((TypeError, ValueError), match=says):
        ic.solve(unit, y0, [0.0, 2.0], events=events, batching=batching)
    with pytest.raises(ValueError, match="max_events"):
        ic.solve(unit, y0, [0.0, 2.0], max_events=0)


def test_a_solve_with_events_leaves_nothing_behind():
    """A graph that leads back to what holds it is never freed; the collector cannot see through it."""

    def once():
        ball = Ball()
        sol = ball.solve([0.0, 5.0, 9.0])
        sol.ys[-1, 0].backward()
        sol = ball.solve([0.0, 5.0], "per_sample")
        sol.ys[-1, 0, 0].backward()

    def alive():
        gc.collect()
        return sum(isinstance(x, torch.Tensor) for x in gc.get_objects())

    once()
    before = alive()
    for _ in range(3):
        once()
    assert alive() <= before + 2
