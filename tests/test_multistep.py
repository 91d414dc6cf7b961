"""Methods that use several steps of the past: orders, unequal steps, what is remembered and forgotten."""

import math

import pytest
import torch

import isocline as ic
from isocline.solvers import BDF, AdamsBashforth, AdamsMoulton

F64 = torch.float64
ADAMS = [AdamsBashforth, AdamsMoulton]
BATCHINGS = ["shared", "per_sample"]
ORDERS = range(1, 13)


def fast(t, y):
    """y = e^{5t}, loosely coupled: where the error shows, twelve steps of history are still stable."""
    return 0.1 * (y - torch.exp(5 * t)) + 5 * torch.exp(5 * t)


def one(batching, rows=2):
    return torch.ones(1, dtype=F64) if batching == "shared" else torch.ones(rows, 1, dtype=F64)


def order_seen(errors, steps):
    """The slope of three errors, extrapolated to h = 0: of order 12 the next term is half as large as the first."""
    a, b = (math.log(errors[i] / errors[i + 1]) / math.log(steps[i + 1] / steps[i]) for i in (0, 1))
    h, h1 = ((steps[i] * steps[i + 1]) ** -0.5 for i in (0, 1))
    return b + (b - a) * h1 / (h - h1)


# ---- orders -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", ADAMS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_adams(cls, order):
    steps = {(AdamsBashforth, 12): (40, 48, 58), (AdamsMoulton, 12): (28, 34, 42)}.get((cls, order), (44, 54, 66))
    errors = []
    for n in steps:
        y = ic.solve(fast, one("shared"), [0.0, 2.0], solver=cls(order=order), step=2 / n).ys[-1]
        errors.append(abs(y.item() / math.exp(10) - 1))
    assert abs(order_seen(errors, steps) - order) < 0.2


@pytest.mark.parametrize("cls", ADAMS)
@pytest.mark.parametrize("order", ORDERS)
def test_the_error_constants_are_those_of_the_books(cls, order):
    """y' = (k + 1) tᵏ: a step of order k misses y by exactly γ_k (k + 1)! h^{k+1}, by γ*_k with Moulton.

    γ_k = 1 − Σ_{j<k} γ_j/(k + 1 − j), γ*_k = −Σ_{j<k} γ*_j/(k + 1 − j) (Hairer, Nørsett & Wanner I, III.1.5 and 1.9).
    """
    moulton = cls is AdamsMoulton
    gamma = [1.0]
    for k in range(1, order + 1):
        gamma.append((0.0 if moulton else 1.0) - sum(g / (k + 1 - j) for j, g in enumerate(gamma)))
    h, n = 0.1, order + 4
    ts = [k * h for k in range(n + 1)]
    ys = ic.solve(
        lambda t, y: (order + 1) * t**order + 0 * y, torch.zeros(1, dtype=F64), ts, solver=cls(order=order), step=h
    ).ys[:, 0]
    missing = torch.tensor(ts, dtype=F64) ** (order + 1) - ys
    want = gamma[order] * math.factorial(order + 1) * h ** (order + 1)
    rounding = 3e-16 * 4**order * float(ys.abs().max())  # Σ |weights| of order k is below 4ᵏ
    assert float((missing.diff()[order:] - want).abs().max()) < 1e-9 * abs(want) + rounding
    assert abs(want) > rounding or order > 8


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("cls", ADAMS)
@pytest.mark.parametrize("order", ORDERS)
def test_polynomials_are_exact_on_uneven_steps_and_between_them(cls, order, batching):
    """y = tᵏ of order k: no weight of whatever step may be wrong; order 12 multiplies rounding by some thousands."""
    generator = torch.Generator().manual_seed(order)
    ends = torch.cat((torch.zeros(1), (0.05 + 0.1 * torch.rand(order + 9, generator=generator)).cumsum(0))).double()
    between = (ends[:-1] + 0.3 * ends.diff()).tolist()
    sol = ic.solve(
        lambda t, y: order * t ** (order - 1) + 0 * y,
        0 * one(batching),
        [0.0, *between, float(ends[-1])],
        solver=cls(order=order),
        step_ts=ends[1:-1],
        step=100.0,
        batching=batching,
        dense=True,
    )
    want = sol.ts**order
    scale = float(want.max())
    assert float((sol.ys.flatten(1) - want[:, None]).abs().max()) < 1e-15 * 2**order * 8 * scale
    inside = torch.linspace(0.01, float(ends[-1]), 37, dtype=F64)
    assert float((sol.at(inside).flatten(1) - inside[:, None] ** order).abs().max()) < 1e-15 * 2**order * 8 * scale


@pytest.mark.parametrize("cls", ADAMS)
@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_the_interpolant_has_the_order_in_the_middle_of_a_solve(cls, order):
    """The worst error in a step past the start, beyond that of its ends, falls like h^{k+1}."""
    errors, steps = [], (20, 25, 31)
    for n in steps:
        h = 1 / n
        sol = ic.solve(fast, one("shared"), [0.0, 12 * h], solver=cls(order=order), step=h, dense=True)
        t = (10 + torch.linspace(0, 1, 11, dtype=F64)) * h
        error = (sol.at(t)[:, 0] - torch.exp(5 * t)) / torch.exp(5 * t[0])
        errors.append(float((error - error[0]).abs().max()))
    assert abs(order_seen(errors, steps) - (order + 1)) < 0.4


def test_a_lower_start_saves_evaluations_and_keeps_its_order():
    calls = {}
    for start in (None, 4):
        solver = AdamsBashforth(order=8, start=start)
        sol = ic.solve(fast, one("shared"), [0.0, 1.0], solver=solver, step=0.02)
        calls[start] = sol.stats.evaluations
    assert AdamsBashforth(order=8, start=4).order == 8 and AdamsBashforth(order=8, start=4).tableau.order == 5
    # k(k − 1)/2 evaluations for a start beside the one every step takes; the first slope.
    assert calls == {None: 1 + 50 + 7 * 28, 4: 1 + 50 + 3 * 6}
    steps, errors = (44, 54, 66), []
    for n in steps:
        y = ic.solve(fast, one("shared"), [0.0, 2.0], solver=AdamsMoulton(order=6, start=5), step=2 / n).ys[-1]
        errors.append(abs(y.item() / math.exp(10) - 1))
    assert order_seen(errors, steps) > 5.8


def test_one_evaluation_a_step_and_two_with_a_correction():
    for solver, each in (
        (AdamsBashforth(order=1), 1),
        (AdamsMoulton(order=1), 2),
        (AdamsMoulton(order=1, corrections=3), 4),
    ):
        sol = ic.solve(fast, one("shared"), [0.0, 1.0], solver=solver, step=0.1)
        assert sol.stats.evaluations == 1 + 10 * each


def test_many_corrections_are_the_implicit_method():
    """Order 1 is then backward Euler, order 2 the trapezoidal rule."""
    f = lambda t, y: -2.0 * y + torch.sin(t)
    y0 = torch.tensor([1.0, -0.5], dtype=F64)
    ts = torch.linspace(0, 1, 11, dtype=F64)
    for order, other in ((1, "implicit_euler"), (2, "trapezoid")):
        got = ic.solve(f, y0, ts, solver=AdamsMoulton(order=order, corrections=40), step=0.1).ys
        want = ic.solve(f, y0, ts, solver=other, step=0.1).ys
        if order == 2:  # the first step makes the past, by another method of order 2: from then on the same
            want = ic.solve(f, got[1], ts[1:], solver=other, step=0.1).ys
            got = got[1:]
        assert torch.allclose(got, want, rtol=1e-12)


# ---- steps of an error estimate ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize(
    "solver", [AdamsBashforth(), AdamsMoulton(), AdamsBashforth(6), AdamsMoulton(7), AdamsMoulton(10, start=4)]
)
def test_the_error_follows_the_tolerance(solver, batching):
    """n steps of error tol each leave at most 2√2 n tol, the factor for scales of up to two and norms of two numbers."""
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    y0 = y0 if batching == "shared" else torch.stack((y0, -y0))
    for tol in (1e-4, 1e-7):
        sol = ic.solve(
            lambda t, y: torch.stack((y[..., 1], -y[..., 0]), -1),
            y0,
            [0.0, 5.0],
            solver=solver,
            rtol=tol,
            atol=tol,
            batching=batching,
        )
        error = (sol.ys[-1].reshape(-1, 2)[0] - torch.tensor([math.cos(5), -math.sin(5)], dtype=F64)).abs().max()
        accepted = int(torch.as_tensor(sol.stats.accepted).max())
        assert float(error) < 2.83 * accepted * tol
    assert accepted < {4: 200, 6: 120, 7: 80, 10: 80}[solver.order]


@pytest.mark.parametrize("cls", ADAMS)
def test_samples_step_as_they_would_alone(cls):
    """Ragged times, one of them backwards, each with its own history; the whole batch as every sample by itself."""
    f = lambda t, y: torch.cos(3 * t) * y - 0.3 * y**2
    y0 = torch.tensor([[0.5], [1.0], [2.0]], dtype=F64)
    ts = torch.tensor([[0.0, 0.4, 2.0], [1.0, 0.3, math.nan], [-1.0, 0.1, 0.2]], dtype=F64)
    options = {"solver": cls(), "rtol": 1e-6, "atol": 1e-8}
    sol = ic.solve(f, y0, ts, batching="per_sample", **options)
    for i in range(3):
        own = ts[i][~ts[i].isnan()]
        alone = ic.solve(f, y0[i], own, **options)
        assert torch.allclose(sol.ys[: len(own), i], alone.ys, rtol=1e-9)
        assert int(sol.stats.accepted[i]) == alone.stats.accepted


# ---- what is forgotten --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("solver", [AdamsBashforth(), AdamsMoulton(6), AdamsBashforth(5, start=2)])
def test_a_jump_of_the_field_is_forgotten(solver, batching):
    """y' = −y, from t = 1 on 5 − y: with the slopes before the jump in the sum, the error would be of the size of h."""
    y0 = one(batching)
    want = 5 + (math.exp(-1) - 5) * math.exp(-1)
    sol = ic.solve(
        lambda t, y: torch.where(t < 1, 0.0, 5.0) - y,
        y0,
        [0.0, 2.0],
        solver=solver,
        step=0.05,
        jump_ts=[1.0],
        batching=batching,
    )
    assert float((sol.ys[-1] - want).abs().max()) < (
        5e-4 if solver.start else 5e-6
    )  # two starts of order 2 leave h³ y‴/6 each


@pytest.mark.parametrize("cls", ADAMS)
def test_samples_forget_at_their_own_jumps(cls):
    """The force of each sample is switched on at a time of its own, by a signal with a step there."""
    at = torch.tensor([[0.37], [0.81], [1.44]], dtype=F64)
    table = torch.cat((torch.zeros(3, 1, dtype=F64), at), 1)
    values = torch.tensor([[0.0], [5.0]], dtype=F64).expand(3, 2, 1)
    force = ic.ZeroOrderHold(table, values)
    y0 = torch.ones(3, 1, dtype=F64)
    sol = ic.solve(
        lambda t, y, u: u - y,
        y0,
        [0.0, 2.0],
        solver=cls(),
        rtol=1e-8,
        atol=1e-8,
        batching="per_sample",
        inputs=force,
    )
    want = 5 + (torch.exp(-at) - 5) * torch.exp(at - 2)
    assert torch.allclose(sol.ys[-1], want, rtol=1e-5)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("cls", ADAMS)
def test_a_bouncing_ball(cls, batching):
    """Events end one memory and begin another: three bounces of y″ = −1 from height ½, at t = 1, 3, 5."""
    y0 = torch.tensor([0.5, 0.0], dtype=F64)
    y0 = y0 if batching == "shared" else y0.expand(2, 2).contiguous()
    bounce = ic.Event(lambda t, y: y[..., 0], direction=-1, reset=lambda t, y: y * y.new_tensor([0.0, -1.0]))
    sol = ic.solve(
        lambda t, y: torch.stack((y[..., 1], -torch.ones_like(y[..., 1])), -1),
        y0,
        [0.0, 6.0],
        solver=cls(),
        rtol=1e-8,
        atol=1e-8,
        batching=batching,
        events=bounce,
    )
    assert torch.allclose(sol.event_ts.reshape(3, -1)[:, 0], torch.tensor([1.0, 3.0, 5.0], dtype=F64), atol=1e-6)
    assert torch.allclose(sol.ys[-1].reshape(-1, 2)[0], y0.reshape(-1, 2)[0], atol=1e-6)


@pytest.mark.parametrize("cls", ADAMS)
def test_f_is_never_asked_outside_its_interval(cls):
    asked = []

    def f(t, y):
        asked.append(float(t))
        return -y

    with torch.no_grad():
        ic.solve(f, torch.ones(1), [0.5, 2.0], solver=cls(order=9), step=0.13)
        ic.solve(f, torch.ones(1), [0.5, 2.0], solver=cls(order=9), rtol=1e-4, atol=1e-6)
    assert min(asked) >= 0.5 and max(asked) <= 2.0


# ---- gradients ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("solver", [AdamsBashforth(5, start=2), AdamsMoulton(3, corrections=2)])
def test_gradients_through_the_history_of_adaptive_steps_and_a_jump(solver, batching):
    """Checkpointed with and without a budget, Backprop, and differences where steps do not matter."""
    k = torch.tensor(1.3, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2]], dtype=F64, requires_grad=True)

    def loss(gradient, tol=1e-4, k=k):
        ys = ic.solve(
            lambda t, y: torch.sin(k * y.flip(-1)) + torch.where(t < 0.7, 0.3, -0.2) * y,
            y0,
            [0.0, 0.31, 1.2],
            solver=solver,
            rtol=tol,
            atol=tol,
            jump_ts=[0.7],
            batching=batching,
            gradient=gradient,
        ).ys
        return (ys**2).sum() + ys[1].sum()

    grads = [
        torch.autograd.grad(loss(g), (k, y0))
        for g in (ic.Backprop(), ic.Checkpointed(), ic.Checkpointed(memory=1), ic.Checkpointed(memory=1000))
    ]
    for got in grads[1:]:
        assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-13) for a, b in zip(got, grads[0], strict=True))
    (fine,) = torch.autograd.grad(loss(ic.Checkpointed(), 1e-10), k)
    with torch.no_grad():
        a, b, c, d = (float(loss(ic.Checkpointed(), 1e-10, k + i * 1e-2)) for i in (-2, -1, 1, 2))
    # Truncated at the fourth power of 10⁻²; some 10² steps of error 10⁻¹⁰ over 10⁻².
    assert float(fine) == pytest.approx((a - 8 * b + 8 * c - d) / 12e-2, abs=2e-6)


def test_second_derivatives_of_a_closed_form():
    """y = e^{kt}: d²y/dk² = t² y."""
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    for solver in (AdamsBashforth(6), AdamsMoulton(6)):
        y = ic.solve(lambda t, y: k * y, one("shared"), [0.0, 1.5], solver=solver, step=0.01).ys[-1]
        (first,) = torch.autograd.grad(y.sum(), k, create_graph=True)
        (second,) = torch.autograd.grad(first, k)
        assert second.item() == pytest.approx(1.5**2 * math.exp(1.05), rel=1e-8)


# ---- kinds of states ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", ADAMS)
@pytest.mark.parametrize("batching", BATCHINGS)
def test_complex_states_single_precision_and_pytrees(cls, batching):
    z0 = torch.ones(2, 1, dtype=torch.complex128)
    z = ic.solve(lambda t, z: 1j * z, z0, [0.0, 1.0], solver=cls(), batching=batching, rtol=1e-8, atol=1e-9).ys[-1]
    assert torch.allclose(z, torch.full_like(z0, complex(math.cos(1), math.sin(1))), atol=1e-6)
    y0 = {"a": torch.ones(2, 3), "b": torch.zeros(2)}
    ys = ic.solve(
        lambda t, y: {"a": -y["a"], "b": torch.ones_like(y["b"])}, y0, [2.0, 1.0], solver=cls(), batching=batching
    ).ys
    assert ys["a"].dtype == torch.float32
    assert torch.allclose(ys["a"][-1], torch.full((2, 3), math.e), rtol=1e-4)
    assert torch.allclose(ys["b"][-1], torch.full((2,), -1.0), rtol=1e-5)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_out_of_steps_is_said(batching):
    with pytest.raises(ic.SolveError, match="max_steps = 7 used up"):
        ic.solve(fast, one(batching), [0.0, 2.0], solver="adams_moulton", max_steps=7, batching=batching)


@pytest.mark.parametrize("cls", ADAMS)
def test_settings_out_of_range_are_named(cls):
    with pytest.raises(ValueError, match=r"order=13, expected a whole number from 1 to 12"):
        cls(order=13)
    with pytest.raises(ValueError, match=r"start=5, expected a whole number from 1 to order=4"):
        cls(start=5)
    with pytest.raises(ValueError, match=r"corrections=0"):
        AdamsMoulton(corrections=0)


# ---- BDF ----------------------------------------------------------------------------------------------------------------
# SciPy's Radau at rtol 1e-12, atol 1e-14, as in test_implicit.
VAN_DER_POL = (1.7061677321704876, -0.0008928097010247924)  # µ = 1000, from (2, 0), t = 2000
ROBERTSON = (0.6172348823963015, 6.153591274644204e-06, 0.3827589640124226)  # from (1, 0, 0), t = 100


def van_der_pol(t, y, mu=1000.0):
    x, v = y.unbind(-1)
    return torch.stack((v, mu * (1 - x * x) * v - x), -1)


def robertson(t, y):
    a, b, c = y.unbind(-1)
    slow, fast, fastest = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack((fast - slow, slow - fast - fastest, fastest), -1)


# The last: accepted steps and error of SciPy 1.17's BDF at rtol and atol = rtol/1000.
STIFF = [
    (van_der_pol, (2.0, 0.0), 2000.0, VAN_DER_POL, 1e-4, 550, 9.5e-4),
    (robertson, (1.0, 0.0, 0.0), 100.0, ROBERTSON, 1e-4, 74, 3.1e-5),
    (robertson, (1.0, 0.0, 0.0), 100.0, ROBERTSON, 1e-6, 147, 1.0e-6),
]


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("order", range(1, 6))
def test_every_order_of_bdf_with_fixed_steps(order, batching):
    """y' = −y², y = 1/(1 + t)."""
    steps, errors = (64, 96, 144), []
    for n in steps:
        sol = ic.solve(
            lambda t, y: -(y**2), one(batching), [0.0, 4.0], solver=BDF(order), step=4 / n, batching=batching
        )
        errors.append(float((sol.ys[-1] - 0.2).abs().max()))
    assert abs(order_seen(errors, steps) - order) < 0.2


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("order", range(1, 6))
def test_bdf_is_exact_for_polynomials_on_uneven_steps_and_between_them(order, batching):
    generator = torch.Generator().manual_seed(order)
    ends = torch.cat((torch.zeros(1), (0.05 + 0.1 * torch.rand(14, generator=generator)).cumsum(0))).double()
    sol = ic.solve(
        lambda t, y: order * t ** (order - 1) + 0 * y,
        0 * one(batching),
        [0.0, float(ends[-1])],
        solver=BDF(order),
        step_ts=ends[1:-1],
        step=100.0,
        batching=batching,
        dense=True,
    )
    # The first steps are Radau IIA's, whose interpolant is of order 4.
    inside = torch.linspace(0.01 if order < 5 else float(ends[4]), float(ends[-1]), 37, dtype=F64)
    assert float((sol.at(inside).flatten(1) - inside[:, None] ** order).abs().max()) < 1e-13


@pytest.mark.parametrize(("f", "y0", "end", "want", "rtol", "steps", "error"), STIFF)
def test_bdf_takes_about_as_many_steps_as_scipys(f, y0, end, want, rtol, steps, error):
    sol = ic.solve(f, torch.tensor(y0, dtype=F64), [0.0, end], solver="bdf", rtol=rtol, atol=rtol * 1e-3)
    assert sol.stats.accepted < 1.5 * steps and sol.stats.jacobians < sol.stats.accepted
    assert float((sol.ys[-1] - torch.tensor(want, dtype=F64)).abs().max()) < 5 * error


def test_the_order_rises_where_the_solution_is_smooth(unchecked):
    f = lambda t, y: -50 * (y - torch.cos(t)) - torch.sin(t)
    steps = {
        q: ic.solve(f, one("shared"), [0.0, 2.0], solver=BDF(q), rtol=1e-7, atol=1e-9).stats.accepted for q in (1, 2, 5)
    }
    assert steps[5] < steps[2] / 4 and steps[2] < steps[1] / 5


def test_samples_of_bdf_have_orders_and_steps_of_their_own():
    """Stiffness, direction and times differ; the whole batch as every sample by itself, to Newton's tolerance."""
    rate = torch.tensor([[1.0], [100.0], [1e4], [-1.0]], dtype=F64)
    y0 = torch.tensor([[0.5], [1.0], [2.0], [0.3]], dtype=F64)
    ts = torch.tensor([[0.0, 0.4, 2.0], [0.0, 0.3, 1.0], [-1.0, 0.1, math.nan], [1.0, 0.5, 0.0]], dtype=F64)
    options = {"solver": BDF(), "rtol": 1e-5, "atol": 1e-8}
    f = lambda t, y, k: -k * (y**3 - torch.cos(t))
    sol = ic.solve(f, y0, ts, batching="per_sample", args=(rate,), **options)
    for i in range(4):
        own = ts[i][~ts[i].isnan()]
        alone = ic.solve(f, y0[i], own, args=(rate[i],), **options)
        assert torch.allclose(sol.ys[: len(own), i], alone.ys, rtol=1e-4)
        assert abs(int(sol.stats.accepted[i]) - alone.stats.accepted) <= 0.1 * alone.stats.accepted


@pytest.mark.parametrize("batching", BATCHINGS)
def test_bdf_forgets_at_jumps_and_events(batching):
    y0 = one(batching)
    want = 5 + (math.exp(-1) - 5) * math.exp(-1)
    options = {"batching": batching, "solver": "bdf"}
    f = lambda t, y: torch.where(t < 1, 0.0, 5.0) - y
    adaptive = ic.solve(f, y0, [0.0, 2.0], rtol=1e-7, atol=1e-9, jump_ts=[1.0], **options).ys[-1]
    fixed = ic.solve(f, y0, [0.0, 2.0], step=0.05, jump_ts=[1.0], **options).ys[-1]
    assert float((adaptive - want).abs().max()) < 3e-6 and float((fixed - want).abs().max()) < 1e-6
    kick = ic.Event(lambda t, y: y[..., 0] - 0.5, direction=-1, reset=lambda t, y: y + 1)
    sol = ic.solve(lambda t, y: -y, y0, [0.0, 1.5], rtol=1e-7, atol=1e-9, events=kick, **options)
    assert torch.allclose(sol.event_ts.flatten(), torch.full_like(sol.event_ts.flatten(), math.log(2)), atol=1e-6)
    assert float((sol.ys[-1] - 1.5 * math.exp(math.log(2) - 1.5)).abs().max()) < 1e-6


@pytest.mark.parametrize("batching", BATCHINGS)
def test_gradients_of_adaptive_bdf(batching):
    """Through changing orders, a jump, and stiffness; Newton's tolerance is what tells a replay from the way forward."""
    k = torch.tensor(1.3, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2]], dtype=F64, requires_grad=True)

    def loss(gradient, tol=1e-4, k=k):
        ys = ic.solve(
            lambda t, y: 30 * (torch.sin(k * y.flip(-1)) - y) + torch.where(t < 0.7, 0.3, -0.2),
            y0,
            [0.0, 0.31, 1.2],
            solver="bdf",
            rtol=tol,
            atol=tol,
            jump_ts=[0.7],
            batching=batching,
            gradient=gradient,
        ).ys
        return (ys**2).sum() + ys[1].sum()

    grads = [
        torch.autograd.grad(loss(g), (k, y0)) for g in (ic.Backprop(), ic.Checkpointed(), ic.Checkpointed(memory=2000))
    ]
    for got in grads[1:]:
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(got, grads[0], strict=True))
    (fine,) = torch.autograd.grad(loss(ic.Checkpointed(), 1e-7), k)
    with torch.no_grad():
        a, b, c, d = (float(loss(ic.Checkpointed(), 1e-8, k + i * 1e-2)) for i in (-2, -1, 1, 2))
    assert float(fine) == pytest.approx((a - 8 * b + 8 * c - d) / 12e-2, rel=1e-4)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_complex_single_precision_pytrees_in_bdf(batching):
    z0 = torch.ones(2, 1, dtype=torch.complex128)
    z = ic.solve(lambda t, z: (1j - 2) * z, z0, [0.0, 1.0], solver="bdf", batching=batching, rtol=1e-7, atol=1e-9).ys[
        -1
    ]
    assert torch.allclose(z, torch.full_like(z0, math.exp(-2) * complex(math.cos(1), math.sin(1))), atol=1e-6)
    y0 = {"a": torch.ones(2, 3), "b": torch.zeros(2)}
    f = lambda t, y: {"a": -200 * y["a"], "b": torch.ones_like(y["b"])}
    ys = ic.solve(f, y0, [0.0, 1.0], solver="bdf", batching=batching).ys
    assert ys["a"].dtype == torch.float32 and float(ys["a"][-1].abs().max()) < 1e-4
    assert torch.allclose(ys["b"][-1], torch.ones(2), rtol=1e-4)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_bdf_says_what_failed(batching):
    y0, options = one(batching), {"solver": "bdf", "batching": batching}
    with pytest.raises(ic.SolveError, match="blows up"):
        ic.solve(lambda t, y: y**2, y0, [0.0, 2.0], max_steps=200, rtol=1e-3, atol=1e-4, **options)
    with pytest.raises(ic.SolveError, match="max_steps = 5 used up"):
        ic.solve(lambda t, y: -y, y0, [0.0, 2.0], max_steps=5, **options)
    with pytest.raises(ValueError, match="max_order=6, expected a whole number from 1 to 5"):
        BDF(6)
    with pytest.raises(ic.GradientError, match="is implicit"):
        ic.solve(lambda t, y: -y, y0.requires_grad_(), [0.0, 2.0], solver="bdf", gradient="backsolve")
