"""Signals u(t), and solves driven by them: the right side of every knot, gradients, knots of all samples or of each."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from scipy.interpolate import CubicHermiteSpline

import isocline as ic
from isocline import CubicHermite, LinearInterpolation, ZeroOrderHold

F64 = torch.float64
NAN = math.nan
KINDS = [ZeroOrderHold, LinearInterpolation, CubicHermite]
WAYS_BACK = ["checkpointed", "backprop", ic.Backsolve(rtol=1e-10, atol=1e-12)]
TIGHT = {"rtol": 1e-10, "atol": 1e-12}
RAGGED = torch.tensor([[0, 0.7, 1.3, 2], [0, 0.5, NAN, NAN], [0.2, 0.4, 0.6, NAN]], dtype=F64)


def vector(*numbers):
    return torch.tensor(numbers, dtype=F64)


def central_difference(loss, x, step=1e-5):
    slope = torch.zeros_like(x)
    for i in range(x.numel()):
        shift = torch.zeros_like(x)
        shift.view(-1)[i] = step
        with torch.no_grad():
            slope.view(-1)[i] = (loss(x + shift) - loss(x - shift)) / (2 * step)
    return slope


# ---- signals alone ------------------------------------------------------------------------------------------------
def test_a_hold_is_continuous_from_the_right():
    u = ZeroOrderHold([0.0, 1.0, 3.0], vector(5, 7, 9))
    assert u(vector(-4, 0, 0.999, 1, 2.9, 3, 99)).tolist() == [5, 5, 5, 7, 7, 9, 9]


def test_straight_lines_and_cubics_pass_through_what_they_are_given():
    ts, values, slopes = vector(0, 1, 3, 4.5), torch.randn(4, 2, dtype=F64), torch.randn(4, 2, dtype=F64)
    t = torch.linspace(0, 4.499, 50, dtype=F64)
    spline = torch.as_tensor(CubicHermiteSpline(ts, values, slopes)(t))
    assert torch.allclose(CubicHermite(ts, values, slopes)(t), spline, atol=1e-14)
    line = LinearInterpolation(ts, values)
    assert torch.allclose(line(torch.tensor(2.0)), (values[1] + values[2]) / 2)
    for u in (line, CubicHermite(ts, values, slopes)):
        assert torch.equal(u(ts), values)
        assert torch.equal(u(vector(-1, 7)), values[[0, 3]])  # held outside


def test_slopes_of_parabolas_are_exact_for_parabolas_also_at_the_ends_and_in_short_rows():
    t = torch.linspace(0, 2, 33, dtype=F64)
    assert torch.allclose(CubicHermite(RAGGED[0], 1 - RAGGED[0] + RAGGED[0] ** 2)(t), 1 - t + t**2)
    u = CubicHermite(RAGGED, RAGGED**2)
    assert torch.allclose(u(vector(1.5, 0.25, 0.5)), vector(2.25, 0.125, 0.25))  # two knots: a line


def test_backward_slopes_depend_on_nothing_later_than_the_next_knot():
    ts, values = torch.arange(5.0, dtype=F64), torch.randn(5, dtype=F64, requires_grad=True)
    (grad,) = torch.autograd.grad(CubicHermite(ts, values, "backward")(torch.tensor(1.5, dtype=F64)), values)
    assert (grad[:3] != 0).all() and (grad[3:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_follow_the_field_contract(kind):
    common, rows = kind([0.0, 1.0, 2.0], torch.randn(3, 4)), kind(RAGGED, torch.randn(3, 4, 5))
    assert common(0.3).shape == (4,)
    assert common(torch.rand(7)).shape == (7, 4)
    assert common(torch.rand(7, 1)).shape == (7, 4)
    assert common(torch.rand(7, 1, 1)).shape == (7, 1, 4)
    assert kind([0.0, 1.0], torch.randn(2))(torch.rand(7, 1)).shape == (7, 1)
    assert rows(0.3).shape == (3, 5)
    assert rows(torch.rand(3)).shape == (3, 5)
    assert rows(torch.rand(3, 1, 1)).shape == (3, 1, 5)
    with pytest.raises(ValueError, match="one time a sample"):
        rows(torch.rand(7))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    values = torch.randn(3, 4, 2, dtype=F64)
    values[RAGGED.isnan()] = NAN
    rows = kind(RAGGED, values)
    for t in torch.linspace(-0.5, 2.5, 31, dtype=F64):
        for i in range(3):
            real = ~RAGGED[i].isnan()
            assert torch.allclose(rows(t)[i], kind(RAGGED[i][real], values[i][real])(t), atol=1e-15)


@pytest.mark.parametrize("kind", [LinearInterpolation, CubicHermite])
def test_signals_are_differentiable_in_values_knots_and_time(kind):
    ts = RAGGED.nan_to_num(9.0).cummax(1).values + torch.tensor([0, 0, 0.5, 1.0], dtype=F64)
    values = torch.randn(3, 4, 2, dtype=F64)
    t = vector(1.0, 0.2, 0.55)
    leaves = [x.requires_grad_() for x in (ts, values, t)]
    assert torch.autograd.gradcheck(lambda ts, values, t: kind(ts, values)(t), leaves)


@pytest.mark.parametrize(
    ("ts", "values", "says"),
    [
        ([0.0, 2.0, 1.0], torch.rand(3), r"ts: must be strictly increasing, but 2 is followed by 1 at position 2"),
        ([0.0, NAN, 1.0], torch.rand(3), r"ts\[1\] = nan: expected a finite number"),
        ([[0.0, NAN, 1.0]], torch.rand(1, 3), r"ts\[0\]: NaN is padding"),
        ([[0.0, 1.0]], torch.rand(2, 2), r"values: shape \(2, 2\) with ts of shape \(1, 2\), expected \(1, 2, …\)"),
        ([0.0, 1.0], torch.rand(3), r"expected \(2, …\) or \(B, 2, …\)"),
        ([0.0, 1.0], torch.tensor([1.0, NAN]), r"values\[1\] is not finite"),
    ],
)
def test_what_is_wrong_with_a_signal_is_said(ts, values, says):
    with pytest.raises(ValueError, match=says):
        LinearInterpolation(ts, values)


def test_kinds_of_mistakes_are_named(unchecked):
    with pytest.raises(TypeError, match=r"dtype torch\.int64, expected floating point"):
        ZeroOrderHold([0.0, 1.0], torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"no gradient; use ts\.detach"):
        ZeroOrderHold(torch.tensor([0.0, 1.0], requires_grad=True), torch.rand(2))
    with pytest.raises(ValueError, match="'forward', expected None, 'backward' or a tensor"):
        CubicHermite([0.0, 1.0], torch.rand(2), "forward")
    with pytest.raises(ValueError, match="slopes: shape"):
        CubicHermite([0.0, 1.0], torch.rand(2), torch.rand(3))
    solve = {"field": lambda t, y, u: y, "y0": torch.ones(2, 1), "ts": [0.0, 1.0]}
    with pytest.raises(TypeError, match="inputs: expected a ZeroOrderHold"):
        ic.solve(**solve, inputs=lambda t: t)
    with pytest.raises(ValueError, match="inputs, signal 1: 3 samples, expected the 2 of y0"):
        signals = (ZeroOrderHold([0.0], torch.rand(1)), ZeroOrderHold([0.0], torch.rand(3, 1)))
        ic.solve(**solve, inputs=signals, batching="per_sample")
    with pytest.raises(ValueError, match="one row a knot or one a sample"):
        ic.solve(**solve, inputs=ZeroOrderHold([0.0, 1.0], torch.rand(2, 2)), batching="per_sample")


# ---- the right side of every knot ---------------------------------------------------------------------------------
def integral(u, a, b):
    """Of a hold between two times, from its definition."""
    if b < a:
        return -integral(u, b, a)
    times = [a, *(t for t in u.ts.tolist() if a < t < b), b]
    return sum(u(t).item() * (t1 - t) for t, t1 in itertools.pairwise(times))


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("way", [[0.0, 2.5], [2.5, -0.5], [0.0, 0.7, 1.3, 2.5], [2.0, 1.0, 0.7]])
def test_a_piecewise_constant_forcing_is_integrated_exactly_in_few_steps(way, batching):
    u = ZeroOrderHold([0.0, 0.7, 1.3, 2.0], vector(1, -2, 3, 0.5))
    sol = ic.solve(lambda t, y, u: u.expand_as(y), torch.zeros(2, 1, dtype=F64), way, inputs=u, batching=batching)
    for t, y in zip(way, sol.ys[:, 0, 0].tolist(), strict=True):
        assert abs(y - integral(u, way[0], t)) < 1e-12
    # No error, so steps grow tenfold: at most 5 from the first one to the end of the first piece, one a piece after it.
    assert torch.as_tensor(sol.stats.accepted).max() <= 8
    assert torch.as_tensor(sol.stats.rejected).max() == 0


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("solver", ["tsit5", "euler", "rk4", "bosh3"])
def test_knots_that_float32_cannot_represent_are_passed_on_the_right_side(solver, batching):
    ts = torch.arange(1, 20, dtype=F64) / 10
    values = torch.where(torch.arange(19) % 2 == 0, 1000.0, -1000.0)
    steps = {} if solver in ("tsit5", "bosh3") else {"step": 0.1}
    for way in ([0.1, 2.0], [2.0, 0.1]):
        sol = ic.solve(
            lambda t, y, u: u.expand_as(y),
            torch.zeros(2, 1),
            torch.tensor(way, dtype=F64),
            inputs=ZeroOrderHold(ts, values),
            solver=solver,
            batching=batching,
            **steps,
        )
        # One stage on the wrong side of one knot would be off by a tenth of 200.
        assert sol.ys[-1].abs().sub(100.0).abs().max() < 1e-3


def test_stepping_to_the_knots_saves_evaluations():
    u = ZeroOrderHold(torch.arange(10.0, dtype=F64), torch.randn(10, dtype=F64))
    ts, y0 = [0.0, 10.0], torch.zeros(1, dtype=F64)
    told = ic.solve(lambda t, y, u: u - y, y0, ts, inputs=u)
    untold = ic.solve(lambda t, y: u(t) - y, y0, ts)
    assert told.stats.evaluations < untold.stats.evaluations / 2
    assert (told.ys - ic.solve(lambda t, y, u: u - y, y0, ts, inputs=u, **TIGHT).ys).abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [[0.0, 2.5], [2.5, -0.5], [0.5, 0.6, 2.0]])
def test_a_batch_with_knots_of_its_own_is_what_its_samples_are_alone(kind, way):
    k, values = torch.tensor(0.5, dtype=F64, requires_grad=True), torch.randn(3, 4, dtype=F64, requires_grad=True)
    y0 = torch.ones(3, 1, dtype=F64, requires_grad=True)
    leaves = (y0, values, k)

    def f(t, y, u, k):
        return u - k * y

    alone = []
    for i in range(3):
        real = ~RAGGED[i].isnan()
        signal = kind(RAGGED[i][real], values[i][real])
        alone.append(ic.solve(f, y0[i], way, inputs=signal, args=(k,), **TIGHT))
    want = torch.stack([sol.ys for sol in alone], 1)
    slopes = torch.autograd.grad(want.square().sum(), leaves)
    for gradient in WAYS_BACK:
        sol = ic.solve(
            f, y0, way, inputs=kind(RAGGED, values), args=(k,), batching="per_sample", gradient=gradient, **TIGHT
        )
        assert torch.allclose(sol.ys, want, rtol=1e-12)
        assert sol.stats.accepted.tolist() == [s.stats.accepted for s in alone]
        for got, slope in zip(torch.autograd.grad(sol.ys.square().sum(), leaves), slopes, strict=True):
            assert torch.allclose(got, slope, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_steps_stop_at_the_knots_of_each_sample(kind):
    values = torch.randn(3, 4, dtype=F64)
    rows = ic.solve(
        lambda t, y, u: u - y,
        torch.ones(3, 1, dtype=F64),
        [0.0, 2.5],
        inputs=kind(RAGGED, values),
        batching="per_sample",
        solver="rk4",
        step=0.25,
    )
    for i in range(3):
        real = ~RAGGED[i].isnan()
        one = ic.solve(
            lambda t, y, u: u - y,
            torch.ones(1, dtype=F64),
            [0.0, 2.5],
            inputs=kind(RAGGED[i][real], values[i][real]),
            solver="rk4",
            step=0.25,
        )
        assert torch.allclose(rows.ys[:, i], one.ys, rtol=1e-13)


def test_samples_that_finish_take_their_signals_along(caplog):
    """As many samples as knots, so that shapes alone do not say which tensor belongs to the samples."""
    ts = torch.tensor([[0, 0.1], [0, 0.2], [0, 9.0], [0, 9.0]], dtype=F64)
    values = torch.randn(4, 4, dtype=F64)
    common = ZeroOrderHold([0.0, 1.0, 2.0, 3.0], vector(1, 2, 3, 4))
    own = ZeroOrderHold(torch.arange(4.0, dtype=F64).expand(4, -1) + torch.arange(4.0)[:, None] / 8, values)
    shared = torch.ones(4, 4, dtype=F64)  # an argument of the batch's size that does not belong to the samples

    def f(t, y, u, weights):
        return u["common"] * u["own"] + 0 * (y @ weights)

    y0 = torch.zeros(4, 4, dtype=F64)
    sol = ic.solve(f, y0, ts, inputs={"common": common, "own": own}, args=(shared,), batching="per_sample")
    assert not caplog.records  # no warning that the field couples its samples
    for i in range(4):
        alone = ZeroOrderHold(own.ts[i], values[i])
        one = ic.solve(f, y0[i], ts[i], inputs={"common": common, "own": alone}, args=(shared,))
        assert torch.allclose(sol.ys[-1, i], one.ys[-1], atol=1e-12)


# ---- gradients ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(kind, batching):
    knots, ts = vector(0, 0.7, 1.3, 2), vector(0.1, 0.9, 2.4)
    leaves = {
        "values": torch.randn(4, 1, dtype=F64),
        "y0": torch.ones(2, 1, dtype=F64),
        "k": vector(0.6),
        "weight": vector(0.3),
        "ts": ts,
    }
    if kind is not ZeroOrderHold:
        leaves["knots"] = knots

    def loss(gradient="checkpointed", **changed):
        x = {"knots": knots, **leaves, **changed}
        weight = x["weight"]
        ys = ic.solve(
            lambda t, y, u, k: weight * torch.tanh(u * y) - k * y + u,
            x["y0"],
            x["ts"],
            inputs=kind(x["knots"], x["values"]),
            args=(x["k"],),
            batching=batching,
            gradient=gradient,
            **TIGHT,
        ).ys
        return (ys.square() * (1 + torch.arange(3.0)[:, None, None])).sum()

    for x in leaves.values():
        x.requires_grad_()
    wants = [
        central_difference(lambda value, name=name: loss(**{name: value}), x.detach()) for name, x in leaves.items()
    ]
    for gradient in WAYS_BACK:
        slopes = torch.autograd.grad(loss(gradient), list(leaves.values()))
        for name, slope, want in zip(leaves, slopes, wants, strict=True):
            # Central differences: 1e-10 from the step squared, 1e-6 from the solver's 1e-10 over the step's 1e-5, twice.
            assert torch.allclose(slope, want, rtol=1e-5, atol=3e-5), (gradient, name)


def test_second_derivatives_reach_the_values():
    values = torch.randn(3, dtype=F64, requires_grad=True)

    def loss(values, gradient):
        u = LinearInterpolation([0.0, 0.5, 1.0], values)
        f = lambda t, y, u: torch.sin(u) * y
        return ic.solve(f, torch.ones(1, dtype=F64), [0.0, 1.2], inputs=u, gradient=gradient, **TIGHT).ys[-1].sum()

    first, second = (torch.autograd.functional.hessian(lambda v, g=g: loss(v, g), values) for g in WAYS_BACK[:2])
    assert torch.allclose(first, second, rtol=1e-9)
    assert first.abs().max() > 0.01


@pytest.mark.parametrize("gradient", WAYS_BACK, ids=str)
def test_a_field_may_reach_parameters_and_signals_at_once(gradient):

    class Driven(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(2, 2).double()

        def forward(self, t, y, u):
            return torch.tanh(self.inner(y)) + u

    field = Driven()
    u = ZeroOrderHold([0.0, 0.5], torch.randn(2, 2, dtype=F64))
    ys = ic.solve(field, torch.ones(3, 2, dtype=F64), [0.0, 1.0], inputs=u, gradient=gradient, **TIGHT).ys
    got = torch.autograd.grad(ys[-1].sum(), list(field.parameters()))
    ys = ic.solve(field, torch.ones(3, 2, dtype=F64), [0.0, 1.0], inputs=u, gradient="backprop", **TIGHT).ys
    for a, b in zip(got, torch.autograd.grad(ys[-1].sum(), list(field.parameters())), strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)


def test_backsolve_sees_the_right_side_of_common_jumps_with_samples_of_their_own():
    """Far from zero, where a step of one spacing on the way back's clock does not move time at all."""
    jump, k = 1000.3, torch.tensor(1.0, dtype=F64, requires_grad=True)
    ts = torch.tensor([[1000.0, jump, 1001.0], [1000.1, jump, 1000.9]], dtype=F64)

    def f(t, y, k):
        return torch.where(t >= jump, 3 * k, -k).expand_as(y)

    slopes = []
    for gradient in ("checkpointed", ic.Backsolve(controller=ic.FixedStep(step=0.5), solver="rk4")):
        y0 = torch.zeros(2, 1, dtype=F64)
        ys = ic.solve(f, y0, ts, jump_ts=[jump], args=(k,), batching="per_sample", gradient=gradient).ys
        slopes.append(torch.autograd.grad(ys[-1].sum(), k)[0].item())
    want = (-0.3 + 3 * 0.7) + (-0.2 + 3 * 0.6)
    assert slopes == pytest.approx([want, want], abs=1e-11)  # times near 1000 are known to 1e-13


# ---- kinds of states and signals ----------------------------------------------------------------------------------
def test_inputs_come_in_the_structure_they_were_given():
    a, b = ZeroOrderHold([0.0], torch.ones(1, dtype=F64)), LinearInterpolation([0.0, 1.0], vector(0, 2))
    seen = []

    def f(t, y, u):
        seen.append(u)
        return u["pair"][0] + u["single"] + 0 * y

    sol = ic.solve(f, torch.zeros(1, dtype=F64), [0.0, 1.0], inputs={"pair": (a, a), "single": b})
    assert sol.ys[-1].item() == pytest.approx(2.0, abs=1e-12)
    assert set(seen[0]) == {"pair", "single"} and isinstance(seen[0]["pair"], tuple)


def test_complex_signals_drive_complex_states():
    u = LinearInterpolation([0.0, 1.0], torch.tensor([0, 2j], dtype=torch.complex128, requires_grad=True))
    sol = ic.solve(lambda t, y, u: u.expand(1), torch.zeros(1, dtype=torch.complex128), [0.0, 1.0], inputs=u)
    assert sol.ys[-1].item() == pytest.approx(1j, abs=1e-12)
    sol.ys[-1].imag.sum().backward()
    assert torch.allclose(u.values.grad, torch.tensor([0.5j, 0.5j], dtype=torch.complex128))


def test_dense_output_and_no_grad():
    u = LinearInterpolation([0.0, 1.0, 2.0], vector(0, 1, 0))
    with torch.no_grad():
        sol = ic.solve(lambda t, y, u: u.expand(1), torch.zeros(1, dtype=F64), [0.0, 2.0], inputs=u, dense=True)
    assert sol.at(1.5).item() == pytest.approx(0.5 + 0.375, abs=1e-12)


def test_one_signal_of_the_whole_batch_has_one_value_a_sample_with_shared_steps():
    u = ZeroOrderHold(RAGGED, torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], dtype=F64)[..., None])
    sol = ic.solve(lambda t, y, u: u + 0 * y, torch.zeros(3, 1, dtype=F64), [0.0, 2.5], inputs=u)
    assert torch.allclose(sol.ys[-1, :, 0], vector(0.7 + 1.2 + 2.1 + 2, 2.5 + 12, 9 * 0.4 + 2 + 11 * 1.9), atol=1e-12)


def test_the_python_of_the_page_on_inputs_runs():
    text = (Path(__file__).parents[1] / "docs" / "inputs.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert (names["heater"].values.grad != 0).all() and (names["times"].grad != 0).all()
