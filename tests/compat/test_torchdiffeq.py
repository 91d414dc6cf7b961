"""The drop-in beside torchdiffeq itself, option by option, and where it does more."""

import functools
import math
import sys
import warnings

import pytest
import torch
import torchdiffeq as original
from torch import nn

from isocline import GradientError, SolveError
from isocline.compat import torchdiffeq as compat
from isocline.compat.torchdiffeq import events
from isocline.compat.torchdiffeq.methods import METHODS, method_named
from isocline.solvers import AdamsBashforth, RK4ThreeEighths, Solver

F64 = torch.float64
FIXED = ["euler", "midpoint", "heun2", "heun3", "rk4"]
ADAPTIVE = ["dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun"]
HERE = [name for name, method in METHODS.items() if method.solver in Solver.registry]
SCIPY = ["RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA"]


def T(*values, **kwargs):
    return torch.tensor(values, dtype=F64, **kwargs)


class Pendulum(nn.Module):
    """A damped pendulum with a push that depends on time."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.3, dtype=F64))
        self.damping = nn.Parameter(torch.tensor([0.1, 0.2], dtype=F64))

    def forward(self, t, y):
        x, v = y.unbind(-1)
        return torch.stack((v - self.damping[0] * x, -self.k * torch.sin(x) - self.damping[1] * v + torch.cos(t)), -1)


class Pair(Pendulum):
    """The same with a tuple as state."""

    def forward(self, t, s):
        return tuple(super().forward(t, torch.stack(s, -1)).unbind(-1))


def gradients(solve, func, y0, t, weights, **kwargs):
    y0, t = y0.clone().requires_grad_(), t.clone().requires_grad_()
    ys = solve(func, y0, t, **kwargs)
    return torch.autograd.grad((ys * weights).sum(), (y0, t, *func.parameters()))


# ---- names and checks -------------------------------------------------------------------------------------------------
def test_the_names_are_torchdiffeqs():
    from torchdiffeq._impl.odeint import SOLVERS

    assert set(SOLVERS) <= set(METHODS) and len(METHODS) == 24
    assert set(compat.__all__) == {"odeint", "odeint_adjoint", "odeint_dense", "odeint_event"}


def test_an_unknown_method_is_named_with_all_others():
    with pytest.raises(ValueError, match=r"'dopri6'.*'dopri5'"):
        compat.odeint(Pendulum(), T(1.0, 0.0), T(0.0, 1.0), method="dopri6")


def test_every_name_has_a_solver():
    assert all(method.scipy or method.solver in Solver.registry for method in METHODS.values())


ADAMS = ["explicit_adams", "implicit_adams", "fixed_adams"]


@pytest.mark.parametrize("method", ADAMS)
def test_adams_methods_agree_with_torchdiffeqs(method):
    """Both are within their errors of the solution; on a grid as fine as this, of 10⁻⁸."""
    func, y0, t = Pendulum(), T(1.0, 0.3), torch.linspace(0, 2, 11, dtype=F64)
    options = {"step_size": 0.01, "max_order": 5}
    with torch.no_grad():
        ours, theirs = (m.odeint(func, y0, t, method=method, options=options, rtol=1e-12) for m in (compat, original))
        exact = compat.odeint(func, y0, t, method="dopri8", rtol=1e-12, atol=1e-12)
    assert float((theirs - exact).abs().max()) < 1e-7 and float((ours - exact).abs().max()) < 1e-7


@pytest.mark.parametrize("method", ADAMS)
def test_options_of_the_adams_methods(method):
    make = METHODS[method].make
    explicit = method == "explicit_adams"
    assert make({"max_order": 7}).order == (6 if explicit else 7) and make({"max_order": 4}).start <= 4
    with pytest.warns(UserWarning, match="max_order=3 is below 4"):
        assert make({"max_order": 3}) == RK4ThreeEighths()
    with pytest.raises(ValueError, match="max_order=13"):
        make({"max_order": 13})
    if not explicit:
        assert make({"max_iters": 1}).corrections == 1 and make({}).corrections == 2
        assert type(make({"implicit": False})) is AdamsBashforth
        with pytest.raises(ValueError, match="max_iters=0"):
            make({"max_iters": 0})


def test_a_setting_of_the_solver_itself_reaches_it():
    assert type(method_named(None).make({"safety": 0.5})).__name__ == "Dopri5"


@pytest.mark.parametrize("method", HERE)
def test_every_method_solves_forwards_and_backwards(method):
    exact = T(1.0, 0.9, 0.5).exp()
    for t in (T(1.0, 0.9, 0.5), T(0.5, 0.9, 1.0)):
        options = {} if METHODS[method].adaptive else {"step_size": 0.025}
        y = compat.odeint(lambda t, y: y, t[:1].exp(), t, method=method, options=options)
        assert torch.allclose(y[:, 0], exact if t[0] == 1 else exact.flip(0), rtol=1e-2 if "euler" in method else 1e-3)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"y0": [1.0]}, TypeError, "tuple"),
        ({"y0": (1.0,)}, TypeError, r"y0\[0\]"),
        ({"t": [0.0, 1.0]}, TypeError, "torch.Tensor"),
        ({"t": torch.tensor([0, 1])}, TypeError, "floating point"),
        ({"t": T(0.0, 1.0)[None]}, ValueError, "one dimensional"),
        ({"t": T(0.0, 1.0, 0.5)}, ValueError, "monotone"),
        ({"rtol": torch.tensor(1e-3, requires_grad=True)}, ValueError, "rtol"),
        ({"func": None}, TypeError, "func"),
        ({"method": "rk4", "options": {"step_size": 0.1, "grid_constructor": print}}, ValueError, "exclusive"),
        ({"method": "rk4", "options": {"step_size": 0.0}}, ValueError, "step_size"),
        ({"method": "rk4", "options": {"step_size": 0.3, "interp": "quintic"}}, ValueError, "interp"),
        ({"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t[:1]}}, ValueError, "grid_constructor"),
        ({"options": {"step_t": T(0.5), "jump_t": T(0.5)}}, ValueError, "step_t and jump_t"),
        ({"method": "scipy_solver", "options": {"solver": "RK99"}}, ValueError, "RK99"),
        ({"event_fn": lambda t, y: y[0], "t": T(0.0, 1.0, 2.0)}, ValueError, "event_fn"),
        ({"event_fn": lambda t, y: y[0], "method": "rk4"}, ValueError, "step_size"),
        ({"event_fn": lambda t, y: y[0], "method": "scipy_solver"}, ValueError, "scipy_solver"),
    ],
)
def test_a_wrong_argument_is_named(unchecked, arguments, error, says):
    call = {"func": lambda t, y: -y, "y0": T(1.0), "t": T(0.0, 1.0), **arguments}
    with pytest.raises(error, match=says):
        compat.odeint(call.pop("func"), call.pop("y0"), call.pop("t"), **call)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "scipy_solver"])
def test_an_unknown_option_warns_and_names_the_known(method):
    with pytest.warns(UserWarning, match=r"Unexpected arguments.*colour"):
        compat.odeint(lambda t, y: -y, T(1.0), T(0.0, 1.0), method=method, options={"colour": 1})


# ---- the same numbers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize(
    "options", [{}, {"step_size": 0.07}, {"step_size": 0.07, "interp": "cubic"}, {"perturb": True}]
)
@pytest.mark.parametrize("t", [(0.0, 0.1, 0.25, 0.26, 0.5, 1.0), (1.0, 0.4, 0.3, 0.0)])
def test_fixed_steps_give_the_same_numbers(method, options, t):
    func, y0, t = Pendulum(), T(1.0, 0.3), T(*t)
    want = original.odeint(func, y0, t, method=method, options=options)
    assert torch.allclose(compat.odeint(func, y0, t, method=method, options=options), want, rtol=1e-13, atol=1e-13)
    weights = torch.randn(len(t), 2, dtype=F64)
    got = gradients(compat.odeint, func, y0, t, weights, method=method, options=options)
    want = gradients(original.odeint, func, y0, t, weights, method=method, options=options)
    for i in (0, 2, 3):  # that of the times is another one: see the next test
        assert torch.allclose(got[i], want[i], rtol=1e-11)


def test_fixed_steps_of_a_grid_constructor_give_the_same_numbers():
    func, y0, t = Pendulum(), T(1.0, 0.3), T(0.0, 0.5, 1.0)
    options = {"grid_constructor": lambda f, y, t: torch.cat([t[:1], T(0.1, 0.4, 0.9), t[-1:]])}
    for interp in ("linear", "cubic"):
        call = {"method": "rk4", "options": {**options, "interp": interp}}
        want = original.odeint(func, y0, t, **call)
        assert torch.allclose(compat.odeint(func, y0, t, **call), want, rtol=1e-13)


def test_single_precision_times_on_the_grid_are_not_interpolated():
    t = torch.linspace(0, 1, 11)
    y = compat.odeint(lambda t, y: -y, torch.ones(1), t, method="rk4", options={"step_size": 0.05})
    assert torch.allclose(y[:, 0], torch.exp(-t), atol=1e-6)


@functools.cache
def tight_gradients(t):
    """torchdiffeq's, with next to no error."""
    return gradients(
        original.odeint, Pendulum(), T(1.0, 0.3), T(*t), T(1.0, -0.5, 0.3)[:, None], rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("t", [(0.0, 0.4, 3.0), (3.0, 1.0, 0.0)])
def test_adaptive_steps_and_gradients_agree_to_the_tolerance(method, t):
    want = tight_gradients(t)
    func, y0, t, weights = Pendulum(), T(1.0, 0.3), T(*t), T(1.0, -0.5, 0.3)[:, None]
    low = method in ("fehlberg2", "adaptive_heun")  # tens of thousands of steps at 1e-7
    tolerance = {"rtol": 1e-5 if low else 1e-7, "atol": 1e-6 if low else 1e-9, "method": method}
    assert torch.allclose(compat.odeint(func, y0, t, **tolerance), original.odeint(func, y0, t, **tolerance), atol=1e-3)
    for solve in (compat.odeint, compat.odeint_adjoint):
        for a, b in zip(gradients(solve, func, y0, t, weights, **tolerance), want, strict=True):
            assert torch.allclose(a, b, atol=1e-2 if low else 2e-4)


def test_the_gradient_of_a_time_is_that_of_the_solution_not_of_a_coarse_grid():
    """dy(t)/dt is f at (t, y(t)); torchdiffeq differentiates Euler's formula and gives f at the step's start."""
    t = T(0.0, 0.5, requires_grad=True)
    y = compat.odeint(lambda t, y: -y, T(1.0), t, method="euler")
    assert torch.autograd.grad(y[-1].sum(), t)[0][1].item() == pytest.approx(-0.5)


def test_the_state_is_a_tuple_of_any_shapes():
    func, t = Pair(), T(0.0, 0.5, 1.0)
    y0 = (torch.randn(3, 2, dtype=F64), torch.randn(3, 2, dtype=F64))
    got, want = compat.odeint(func, y0, t), original.odeint(func, y0, t)
    assert isinstance(got, tuple) and got[0].shape == (3, 3, 2)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(got, want, strict=True))
    as_list = compat.odeint(lambda t, s: [-s[0], -s[1]], y0, t)
    assert torch.allclose(as_list[0][-1], y0[0] * math.exp(-1), atol=1e-6)


def test_a_slope_is_cast_and_reshaped_like_torchdiffeqs():
    y = compat.odeint(lambda t, y: -y.double().reshape(1, 2), torch.ones(2), torch.tensor([0.0, 1.0]))
    assert y.dtype == torch.float32 and y.shape == (2, 2)


# ---- options ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tuple_state", [False, True])
def test_a_norm_sees_the_state_as_the_user_does(tuple_state):
    seen = []

    def norm(state):
        seen.append(state)
        parts = state if isinstance(state, tuple) else (state,)
        return max(part.abs().max() for part in parts)

    y0 = (T(1.0, 2.0), torch.ones(2, 3)) if tuple_state else torch.ones(4, dtype=torch.complex64)
    func = (lambda t, s: (-s[0], -s[1])) if tuple_state else (lambda t, y: 1j * y)
    compat.odeint(func, y0, T(0.0, 1.0), rtol=1e-3, atol=1e-4, options={"norm": norm})
    assert seen and all(isinstance(state, tuple) == tuple_state for state in seen)
    if tuple_state:
        assert {tuple(part.shape for part in state) for state in seen} == {((2,), (2, 3))}
    else:
        assert {(state.shape, state.dtype) for state in seen} == {((4,), torch.complex64)}


def test_the_norm_of_a_half_precision_state_has_range():
    norm = lambda y: y.square().sum().sqrt()  # overflows where the error is 300 tolerances in float16
    y0 = torch.ones(4, dtype=torch.float16)
    options = {"norm": norm, "first_step": 1.0}
    y = compat.odeint(lambda t, y: -20 * y, y0, T(0.0, 1.0), rtol=1e-3, atol=1e-5, options=options)
    assert y.dtype == torch.float16 and y[-1].abs().max() < 1e-3


def test_the_default_norm_of_a_tuple_is_the_largest_of_its_parts():
    """A small hard part beside a large easy one is solved as well as alone."""
    hard = lambda y: torch.stack((20 * y[1], -20 * y[0]))
    alone, t = T(1.0, 0.0), T(0.0, 3.0)
    crowd = (alone, torch.zeros(10_000, dtype=F64))
    y = compat.odeint(lambda t, s: (hard(s[0]), 0 * s[1]), crowd, t, rtol=1e-6, atol=1e-6)[0][-1]
    assert torch.allclose(y, T(math.cos(60), -math.sin(60)), atol=2e-4)


@pytest.mark.parametrize(
    ("rtol", "atol"),
    [
        (T(1e-6, 1e-5), 1e-7),
        ([1e-6, 1e-5], T(1e-7, 1e-8)),
        (torch.tensor(1e-6), torch.tensor(1e-8)),
    ],
)
def test_tolerances_of_a_tensor(rtol, atol):
    y = compat.odeint(lambda t, y: -y, T(1.0, 2.0), T(0.0, 1.0), rtol=rtol, atol=atol)
    assert torch.allclose(y[-1], T(1.0, 2.0) * math.exp(-1), atol=1e-4)


@pytest.mark.parametrize(
    ("rtol", "atol"),
    [
        ((1e-6, 1e-5), (1e-7, 1e-8)),
        (T(1e-6, 1e-5), 1e-7),
        ((1e-6, torch.full((4,), 1e-6)), (torch.full((2, 2), 1e-8), 1e-8)),
    ],
)
@pytest.mark.parametrize("solve", [compat.odeint, compat.odeint_adjoint])
def test_tolerances_of_a_tuple(solve, rtol, atol):
    k = T(0.5, requires_grad=True)
    y0 = (torch.ones(2, 2, dtype=F64), torch.ones(2, 2, dtype=F64))
    more = {"adjoint_params": (k,)} if solve is compat.odeint_adjoint else {}
    ys = solve(lambda t, s: (-k * s[0], -k * s[1]), y0, T(0.0, 1.0), rtol=rtol, atol=atol, **more)
    (ys[0][-1] + ys[1][-1]).sum().backward()
    assert k.grad.item() == pytest.approx(-8 * math.exp(-0.5), rel=1e-3)
    with pytest.raises(ValueError, match="rtol: 3 entries"):
        solve(lambda t, s: s, y0, T(0.0, 1.0), rtol=(1e-3,) * 3, **more)


def test_steps_obey_their_options():
    def steps(**options):
        func, lengths = Pendulum(), []
        func.callback_accept_step = lambda t, y, h: lengths.append((float(t), float(h)))
        compat.odeint(func, T(1.0, 0.0), T(0.0, 4.0), options=options)
        return lengths

    assert steps(first_step=0.01)[0] == (0.0, 0.01)
    assert max(h for _, h in steps(max_step=0.1)) <= 0.1 + 1e-12
    assert len(steps(min_step=1.0)) <= 4
    assert 2.5 in [t for t, _ in steps(step_t=T(2.5, 9.0))]
    assert 2.5 in [t for t, _ in steps(jump_t=[2.5])]
    slow = steps(first_step=1e-6, ifactor=2.0)
    assert slow[1][1] / slow[0][1] == pytest.approx(2.0)
    assert len(steps(safety=0.3)) > len(steps())
    with pytest.raises(SolveError, match="max_steps"):
        steps(max_num_steps=3)
    assert steps(dtype=torch.float32) == steps()  # time is kept in double precision whatever is asked


def test_a_constant_right_hand_side_is_not_asked_past_the_end():
    times = []

    def func(t, y):
        times.append(t.item())
        return torch.cos(t) * torch.ones_like(y)

    for t in (T(0.0, 0.3, 1.0), T(1.0, 0.3, 0.0)):
        times.clear()
        compat.odeint(func, T(0.0), t)
        assert min(times) >= 0 and max(times) <= 1


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_midpoint"])
def test_callbacks_are_called_with_the_state_and_true_times(method):
    calls = {}
    func = Pair()
    for name in ("step", "accept_step", "reject_step"):
        for end in ("", "_adjoint"):
            record = calls.setdefault(name + end, [])
            setattr(func, f"callback_{name}{end}", lambda t, y, h, record=record: record.append((t, y, h)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fixed steps are neither accepted nor rejected
        options = {} if method == "dopri5" else {"step_size": 0.25}
        y0 = (T(1.0), T(0.0))
        ys = compat.odeint_adjoint(func, y0, T(2.0, 1.0), method=method, options=options)
        forward = len(calls["step"])
        assert forward > 0 and not calls["step_adjoint"]
        ys[0].sum().backward()
    assert len(calls["step"]) == forward and calls["step_adjoint"]
    for key in ("step", "step_adjoint"):
        assert all(isinstance(t, torch.Tensor) and 1 <= t <= 2 and 0 < h <= 1 for t, _, h in calls[key])
    assert {len(y) for _, y, _ in calls["step"]} == {2}
    assert {len(y) for _, y, _ in calls["step_adjoint"]} == {3 + 2}
    assert {y[0].shape for _, y, _ in calls["step"]} == {(1,)}
    if method == "dopri5":
        assert len(calls["accept_step"]) + len(calls["reject_step"]) == forward


# ---- the adjoint ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", HERE)
def test_the_adjoint_agrees_with_the_direct_gradient(method):
    adaptive = METHODS[method].adaptive
    low = method in ("adaptive_heun", "fehlberg2", "bosh3")
    kwargs = {"method": method, "options": {} if adaptive else {"step_size": 0.02}}
    kwargs |= {"rtol": 1e-5, "atol": 1e-6} if low else {}
    func, y0, t = Pendulum(), T(1.0, 0.3), T(0.0, 0.4, 1.0)
    weights = torch.tensor([[0.3, 0.1], [1.0, -1.0], [2.0, 0.5]], dtype=F64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        direct, adjoint = (gradients(f, func, y0, t, weights, **kwargs) for f in (compat.odeint, compat.odeint_adjoint))
    order = Solver.registry[METHODS[method].solver].order
    for a, b in zip(direct, adjoint, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=(1e-3 if low else 1e-4) if adaptive else 4 * 0.02**order)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
@pytest.mark.parametrize("as_tuple", [False, True])
def test_the_adjoint_of_other_dtypes(dtype, as_tuple):
    k = torch.tensor(0.4 + 0.9j if dtype.is_complex else 0.4, dtype=dtype, requires_grad=True)
    y0 = torch.ones(2, dtype=dtype, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    results = []
    for solve, more in ((compat.odeint, {}), (compat.odeint_adjoint, {"adjoint_params": (k,)})):
        if as_tuple:
            ys = solve(lambda t, s: (k * s[0] * t, k * s[1]), (y0, 2 * y0), t, rtol=1e-5, atol=1e-6, **more)
            loss = sum((y.abs() ** 2).sum() + torch.view_as_real(y + 0j)[..., 0].sum() for y in ys)
        else:
            ys = solve(lambda t, y: k * y * t, y0, t, rtol=1e-5, atol=1e-6, **more)
            loss = (ys.abs() ** 2).sum()
        results.append(torch.autograd.grad(loss, (k, y0, t)))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_parts_and_parameters_of_different_precision():
    k = torch.tensor(0.5, dtype=F64, requires_grad=True)
    seen = set()

    def func(t, s):
        seen.add((t.dtype, s[0].dtype, s[1].dtype))
        return -k.float() * s[0], -k * s[1]

    y0 = (torch.ones(2), torch.ones(3, dtype=F64))
    ys = compat.odeint_adjoint(func, y0, T(0.0, 1.0), adjoint_params=(k,))
    (ys[0][-1].sum() + ys[1][-1].sum()).backward()
    assert seen == {(F64, torch.float32, F64)} and (ys[0].dtype, ys[1].dtype) == (torch.float32, F64)
    assert k.grad.item() == pytest.approx(-5 * math.exp(-0.5), rel=1e-4)


def test_tensors_no_module_registers_get_their_gradient():
    class Hidden(nn.Module):
        def __init__(self, w):
            super().__init__()
            self.w, self.table = w, {"b": torch.tensor(0.2, dtype=F64, requires_grad=True)}

        def forward(self, t, y):
            return -self.w * y + self.table["b"]

    seed = torch.tensor(0.3, dtype=F64, requires_grad=True)
    grads = []
    for solve in (compat.odeint, compat.odeint_adjoint):
        func = Hidden(torch.exp(seed))  # not a leaf: made by another network, say
        y = solve(func, T(1.0), T(0.0, 1.0))[-1].sum()
        grads.append(torch.autograd.grad(y, (seed, func.table["b"])))
    for a, b in zip(*grads, strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-5) and a.item() != 0


def test_explicit_parameters_are_all_that_get_a_gradient():
    func = Pendulum()
    compat.odeint_adjoint(func, T(1.0, 0.0), T(0.0, 1.0), adjoint_params=(func.k,))[-1].sum().backward()
    assert func.k.grad is not None and func.damping.grad is None
    y0 = T(1.0, 0.0, requires_grad=True)
    compat.odeint_adjoint(lambda t, y: -y, y0, T(0.0, 1.0), adjoint_params=())[-1].sum().backward()
    assert y0.grad is not None


@pytest.mark.parametrize("tuple_state", [False, True])
def test_the_adjoints_norm_sees_every_part(tuple_state):
    shapes = []

    def norm(parts):
        assert isinstance(parts, tuple)
        shapes.append(tuple(tuple(part.shape) for part in parts))
        return max(part.abs().max() for part in parts)

    y0 = (T(1.0), T(0.0)) if tuple_state else T(1.0, 0.0)
    func = (Pair if tuple_state else Pendulum)()
    ys = compat.odeint_adjoint(func, y0, T(0.0, 1.0), adjoint_options={"norm": norm})
    (ys[0] if tuple_state else ys).sum().backward()
    state = ((1,), (1,)) if tuple_state else ((2,),)
    assert set(shapes) == {((), *state, *state, (), (2,))}


def test_the_way_back_has_its_own_method_options_and_tolerances():
    func = Pendulum()
    lengths = []
    func.callback_step_adjoint = lambda t, y, h: lengths.append(float(h))
    back = {"adjoint_method": "rk4", "adjoint_options": {"step_size": 0.125}}
    compat.odeint_adjoint(func, T(1.0, 0.0), T(0.0, 1.0), **back)[-1].sum().backward()
    assert lengths == [0.125] * 8
    lengths.clear()
    loose = {"adjoint_rtol": 1e-2, "adjoint_atol": 1e-2}
    compat.odeint_adjoint(func, T(1.0, 0.0), T(0.0, 1.0), **loose)[-1].sum().backward()
    assert len(lengths) <= 4
    parts = {"adjoint_rtol": (1e-2,) * 5, "adjoint_atol": (1e-9, 1e-2, 1e-2, 1e-2, 1e-2)}
    compat.odeint_adjoint(func, T(1.0, 0.0), T(0.0, 1.0), **parts)[-1].sum().backward()
    with pytest.raises(ValueError, match="adjoint_options"):
        compat.odeint_adjoint(func, T(1.0, 0.0), T(0.0, 1.0), options={"first_step": 0.1}, adjoint_method="rk4")
    with pytest.raises(ValueError, match="seminorm"):
        compat.odeint_adjoint(func, T(1.0, 0.0), T(0.0, 1.0), adjoint_options={"norm": "semi"})


def test_second_derivatives_of_the_adjoint_are_refused_and_first_ones_are_not():
    y0 = T(1.0, 0.3, requires_grad=True)
    y = compat.odeint_adjoint(Pendulum(), y0, T(0.0, 1.0))[-1].sum()
    (first,) = torch.autograd.grad(y, y0, create_graph=True)
    assert torch.allclose(first, torch.autograd.grad(compat.odeint(Pendulum(), y0, T(0.0, 1.0))[-1].sum(), y0)[0])
    with pytest.raises(GradientError, match="second derivatives"):
        (y + first.square().sum()).backward()


def test_second_derivatives_of_the_direct_solve_are_right():
    y0 = T(0.7, requires_grad=True)
    y = compat.odeint(lambda t, y: y**2, y0, T(0.0, 0.5), rtol=1e-10, atol=1e-12)[-1]  # y0 / (1 - t y0)
    (first,) = torch.autograd.grad(y.sum(), y0, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), y0)
    assert second.item() == pytest.approx(2 * 0.5 / (1 - 0.35) ** 3, rel=1e-6)


def test_a_way_back_that_loses_the_solution_is_warned_of():
    k = torch.tensor(60.0, dtype=F64, requires_grad=True)
    y = compat.odeint_adjoint(lambda t, y: -k * (y - torch.cos(t)), T(2.0), T(0.0, 1.0), adjoint_params=(k,))[-1]
    with pytest.warns(UserWarning, match="not to be trusted"):
        y.sum().backward()


def test_transforms_go_around_the_adjoint():
    func = Pendulum()
    run = lambda y0: compat.odeint_adjoint(func, y0, T(0.0, 1.0), method="rk4", options={"step_size": 0.05})[-1]
    starts = torch.randn(3, 2, dtype=F64)
    assert torch.allclose(torch.vmap(run)(starts), torch.stack([run(y) for y in starts]))
    assert torch.func.jacrev(run)(starts[0]).shape == (2, 2)


def test_a_replica_without_registered_parameters_still_has_them():
    func = Pendulum()
    k = func.k.detach().clone().requires_grad_()
    del func.k
    func.k, func._is_replica = k, True
    del func._parameters["damping"]
    func.damping = T(0.1, 0.2, requires_grad=True)
    compat.odeint_adjoint(func, T(1.0, 0.0), T(0.0, 1.0))[-1].sum().backward()
    assert k.grad is not None and func.damping.grad is not None


# ---- SciPy ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("solver", SCIPY)
@pytest.mark.parametrize("t", [(0.0, 0.5, 1.0), (1.0, 0.5, 0.0)])
def test_scipys_solvers(solver, t):
    y0 = (torch.ones(2), torch.ones(1, dtype=torch.complex64))
    func = lambda t, s: (-s[0], 1j * s[1])
    ys = compat.odeint(func, y0, T(*t), rtol=1e-6, atol=1e-8, method="scipy_solver", options={"solver": solver})
    h = T(*t) - t[0]
    assert torch.allclose(ys[0][:, 0].double(), torch.exp(-h), rtol=1e-3)
    assert torch.allclose(ys[1][:, 0], torch.exp(1j * h).to(torch.complex64), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solve", [compat.odeint, compat.odeint_adjoint])
def test_scipys_solvers_have_gradients(solve):
    func, y0, t, weights = Pendulum(), T(1.0, 0.3), T(0.0, 0.4, 1.0), T(0.2, 1.0, -1.0)[:, None]
    call = {"method": "scipy_solver", "options": {"solver": "DOP853"}, "rtol": 1e-8, "atol": 1e-10}
    want = gradients(compat.odeint, func, y0, t, weights, rtol=1e-9, atol=1e-11)
    for a, b in zip(gradients(solve, func, y0, t, weights, **call), want, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert not solve(func, y0, t, **call).requires_grad
    hidden = [torch.tensor(1.0, dtype=F64, requires_grad=True)]
    y = compat.odeint(lambda t, y: -hidden[0] * y, T(1.0), T(0.0, 1.0), **call)[-1].sum()
    assert torch.autograd.grad(y, hidden)[0].item() == pytest.approx(-math.exp(-1), rel=1e-4)


def test_scipy_that_stops_early_is_an_error_with_what_there_is():
    with pytest.raises(SolveError, match="scipy_solver with RK45") as caught:
        compat.odeint(lambda t, y: y * y, T(1.0), T(0.0, 0.5, 2.0), method="scipy_solver", options={"solver": "RK45"})
    assert caught.value.solution.ys[1].item() == pytest.approx(2.0, rel=1e-4)
    assert caught.value.solution.ys[2].isnan().all()


def test_scipy_is_asked_for_by_name_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.integrate", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        compat.odeint(lambda t, y: -y, T(1.0), T(0.0, 1.0), method="scipy_solver")
    compat.odeint(lambda t, y: -y, T(1.0), T(0.0, 1.0))


# ---- dense output -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "tsit5", "rk4"])
@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, 0.0)])
def test_dense_output(method, ends):
    options = {"step_size": 0.05} if method == "rk4" else {}
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y = compat.odeint_dense(
        lambda t, y: -k * y, T(1.0), torch.tensor(ends[0]), torch.tensor(ends[1]), method=method, options=options
    )
    t = torch.linspace(0, 2, 9, dtype=F64)
    assert torch.allclose(y(t)[:, 0], torch.exp(-0.7 * (t - ends[0])), rtol=1e-5)
    assert torch.allclose(y(torch.tensor(0.3))[0], torch.exp(T(-0.7)[0] * (0.3 - ends[0])), rtol=1e-5)
    assert torch.autograd.grad(y(t[4]).sum(), k)[0].item() == pytest.approx(
        -(1 - ends[0]) * math.exp(-0.7 * (1 - ends[0])), rel=1e-4
    )


def test_dense_output_agrees_with_torchdiffeqs():
    func, ends = Pendulum(), (torch.tensor(0.0, dtype=F64), torch.tensor(2.0, dtype=F64))
    ours, theirs = (f(func, T(1.0, 0.0), *ends) for f in (compat.odeint_dense, original.odeint_dense))
    for t in torch.linspace(0.1, 1.9, 7, dtype=F64):
        assert torch.allclose(ours(t), theirs(t), atol=1e-6)


def test_dense_output_of_a_tuple_and_its_refusals():
    y = compat.odeint_dense(lambda t, s: (-s[0], s[1]), (T(1.0), T(1.0)), 0.0, 1.0)
    assert y(0.5)[1].item() == pytest.approx(math.exp(0.5), rel=1e-6)
    with pytest.raises(ValueError, match="outside"):
        y(2.0)
    with pytest.raises(ValueError, match="scipy_solver"):
        compat.odeint_dense(lambda t, y: -y, T(1.0), 0.0, 1.0, method="scipy_solver")


# ---- events -----------------------------------------------------------------------------------------------------------
def fall(t, s):
    return torch.stack((s[1], torch.full_like(s[1], -9.8)))


@pytest.mark.parametrize("solve", [compat.odeint, compat.odeint_adjoint])
@pytest.mark.parametrize(("method", "options"), [("dopri5", None), ("rk4", {"step_size": 0.05}), ("bosh3", None)])
@pytest.mark.parametrize("height", [0.5, 4.9, 500.0])
def test_a_ball_lands(solve, method, options, height):
    """t* = √(2 h / g): dt*/dh = 1 / √(2 g h), and the speed there is √(2 g h)."""
    more = {"adjoint_params": ()} if solve is compat.odeint_adjoint else {}
    s0, t0 = T(height, 0.0, requires_grad=True), torch.tensor(3.0, dtype=F64, requires_grad=True)
    t, s = compat.odeint_event(
        fall, s0, t0, event_fn=lambda t, s: s[0], odeint_interface=solve, method=method, options=options, **more
    )
    speed = math.sqrt(2 * 9.8 * height)
    assert t.shape == () and s.shape == (2, 2)
    assert t.item() == pytest.approx(3 + speed / 9.8, rel=1e-5) and s[-1, 1].item() == pytest.approx(-speed, rel=1e-4)
    by_s0, by_t0 = torch.autograd.grad(t, (s0, t0), retain_graph=True)
    assert by_s0[0].item() == pytest.approx(1 / speed, rel=1e-4) and by_t0.item() == pytest.approx(1.0, rel=1e-6)
    (by_s0,) = torch.autograd.grad(s[-1, 1], s0)
    assert by_s0[0].item() == pytest.approx(-9.8 / speed, rel=1e-4)


@pytest.mark.parametrize("solve", [compat.odeint, compat.odeint_adjoint])
def test_parameters_of_field_and_event_get_gradients(solve):
    k, level = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.5, 0.25))
    more = {"adjoint_params": (k,)} if solve is compat.odeint_adjoint else {}
    call = {"event_fn": lambda t, s: s[0] - level, "odeint_interface": solve, **more}
    t, s = compat.odeint_event(lambda t, s: (-k * s[0], s[1]), (torch.ones((), dtype=F64), T(1.0)), T(0.0), **call)
    assert t.item() == pytest.approx(math.log(4) / 0.5, rel=1e-6) and s[1].shape == (2, 1)
    by_k, by_level = torch.autograd.grad(t, (k, level))
    assert by_k.item() == pytest.approx(-math.log(4) / 0.25, rel=1e-5)
    assert by_level.item() == pytest.approx(-1 / (0.5 * 0.25), rel=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("levels", [(2.0, 1.0, 3.0), (-2.0, -1.0), (0.0, 1.5), (1.0,)])
def test_the_first_of_several_entries_ends_the_search(reverse, levels):
    """y' = 1 from 0; an entry that starts at zero and leaves it is no event."""
    sign = -1.0 if reverse else 1.0
    call = {"event_fn": lambda t, y: y[0] - sign * T(*levels), "reverse_time": reverse}
    reached = [level for level in levels if level > 0]
    if not reached:
        with pytest.raises(SolveError, match="no event"):
            compat.odeint_event(
                lambda t, y: torch.ones_like(y), T(0.0), T(0.0), options={"max_num_steps": 10**3}, **call
            )
        return
    t, y = compat.odeint_event(lambda t, y: torch.ones_like(y), T(0.0), T(0.0), **call)
    assert t.item() == pytest.approx(sign * min(reached), rel=1e-9)
    assert y[-1].item() == pytest.approx(sign * min(reached), rel=1e-9)


def test_an_event_in_any_window_takes_the_steps_of_one_solve():
    count, starts = [0], []

    def func(t, y):
        count[0] += 1
        return torch.stack((y[1], -y[0]))

    for when in (0.9, 1.0, 3.0, 40.0):
        count[0] = 0
        event = lambda t, y, when=when: t - when + 0 * y[0]
        t, y = compat.odeint_event(func, T(1.0, 0.0), T(0.0), event_fn=event, rtol=1e-6, atol=1e-6)
        assert t.item() == pytest.approx(when, rel=1e-9) and y[-1, 0].item() == pytest.approx(math.cos(when), abs=2e-4)
        found, count[0] = count[0], 0
        compat.odeint(func, T(1.0, 0.0), T(0.0, when), rtol=1e-6, atol=1e-6)
        starts.append(found - count[0])
    assert max(starts) < 100  # a few steps a window, whose lengths double


def test_a_search_without_an_event_ends(unchecked, monkeypatch):
    with pytest.raises(SolveError, match=r"no event|max_steps"):
        compat.odeint_event(
            lambda t, y: -y, T(1.0), T(0.0), event_fn=lambda t, y: y[0] + 1, options={"max_num_steps": 200}
        )
    monkeypatch.setattr(events, "FIXED_LIMIT", 500)
    with pytest.raises(SolveError, match=r"no event|max_steps"):
        compat.odeint_event(
            lambda t, y: -y, T(1.0), T(0.0), event_fn=lambda t, y: y[0] + 1, method="euler", options={"step_size": 0.1}
        )
