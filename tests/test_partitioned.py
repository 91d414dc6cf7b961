"""Solvers of pairs (x, v): order, energy over many steps, reversibility, gradients, and what they refuse."""

import functools
import math

import pytest
import torch
from torch import nn

import isocline as ic
from isocline.gradients import Gradient
from isocline.solvers import Solver
from isocline.solvers.partitioned import Splitting

F64 = torch.float64
PAIRS = sorted(n for n, cls in Solver.registry.items() if cls.wants_pair)
# Numbers of steps by order, as in the grid of all other solvers.
STEPS = {1: (512, 1024), 2: (256, 512), 4: (128, 256)}


def pair(x, v, dtype=F64):
    return torch.tensor(x, dtype=dtype), torch.tensor(v, dtype=dtype)


def slope(errors, steps):
    return math.log(errors[0] / errors[-1]) / math.log(steps[0] / steps[-1])


def driven_pendulum(t, y):
    x, v = y
    return v, -torch.sin(x) + 0.3 * torch.cos(t)


def kepler(t, y):
    x, v = y
    return v, -x / x.norm(dim=-1, keepdim=True) ** 3


def breathing(t, y):
    """Both halves change with time."""
    x, v = y
    return v * (1 + 0.5 * torch.sin(2 * t)), -x * torch.exp(-0.3 * t) + torch.cos(3 * t)


CASES = {
    "harmonic": (lambda t, y: (y[1], -y[0]), pair([1.0], [0.0])),
    "driven pendulum": (driven_pendulum, pair([1.0], [0.2])),
    "driven pendulum, second order": (
        ic.second_order(lambda t, x, v: driven_pendulum(t, (x, v))[1]),
        pair([1.0], [0.2]),
    ),
    "kepler": (kepler, pair([1.0, 0.0], [0.0, 0.9])),
    "breathing": (breathing, pair([1.0], [-0.3])),
}


def exact(f, y0, t0, ts):
    return torch.stack(
        [torch.cat(y) for y in zip(*ic.solve(f, y0, [t0, *ts], solver="vern9", rtol=1e-14, atol=1e-15).ys, strict=True)]
    )[1:]


# ---- order --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", PAIRS)
def test_a_solver_has_its_stated_order(name, case):
    f, y0 = CASES[case]
    order = Solver.registry[name].order
    (want,) = exact(f, y0, 0.0, [3.0])
    errors = []
    for n in STEPS[order]:
        x, v = ic.solve(f, y0, [0.0, 3.0], solver=name, step=3.0 / n).ys
        errors.append(float((torch.cat((x[-1], v[-1])) - want).norm()))
    assert slope(errors, [1 / n for n in STEPS[order]]) == pytest.approx(order, abs=0.2)
    assert errors[-1] < 1e-2


@pytest.mark.parametrize("case", ["driven pendulum", "driven pendulum, second order", "kepler", "breathing"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_interpolant_has_its_stated_order(name, case):
    """One step of length h: the worst error inside it falls like h^(order + 1), over several starts."""
    f, y0 = CASES[case]
    order = Solver.registry[name].dense_order
    theta = torch.linspace(0.1, 1.0, 10, dtype=F64)
    errors, steps = [], (0.04, 0.02)
    for h in steps:
        worst = 0.0
        for start in (0.0, 0.5, 1.5, 2.5):
            sol = ic.solve(f, y0, [start, start + h], solver=name, step=h, dense=True)
            ts = start + theta * h
            found = torch.cat(sol.at(ts), -1)
            worst = max(worst, float((found - exact(f, y0, start, ts.tolist())).abs().max()))
        errors.append(worst)
    assert slope(errors, steps) > order + 1 - 0.25


def test_the_slope_of_the_interpolant_is_the_field_at_the_ends_of_a_step():
    sol = ic.solve(breathing, pair([1.0], [-0.3]), [0.0, 0.1, 0.2], solver="leapfrog", step=0.1, dense=True)
    t = torch.tensor([0.0, 0.2], dtype=F64)
    want = breathing(t[:, None], tuple(y[[0, 2]] for y in sol.ys))
    for got, slope_ in zip(sol.derivative(t), want, strict=True):
        assert torch.allclose(got, slope_, rtol=1e-12)


def test_coefficients_that_miss_an_order_condition_are_refused():
    assert Solver.registry["leapfrog"].tableau.c == (0.0, 0.5, 1.0, 1.0)
    with pytest.raises(ValueError, match="order-2 condition"):
        Splitting(kicks=(1.0,), drifts=(1.0,), order=2)
    with pytest.raises(ValueError, match="order-1 condition"):
        Splitting(kicks=(0.5, 0.4), drifts=(1.0,), order=1)
    with pytest.raises(ValueError, match="order-3 condition"):
        Splitting(kicks=(0.5, 0.5), drifts=(1.0,), order=3)
    with pytest.raises(ValueError, match="take turns"):
        Splitting(kicks=(1.0,), drifts=(0.5, 0.5), order=1)


# ---- what they are for --------------------------------------------------------------------------------------------
@ic.second_order
def pendulum_and_kepler(t, x, v):
    angle, q = x.split([1, 2])
    return torch.cat((-torch.sin(angle), -q / q.norm() ** 3))


def energies(x, v):
    kinetic = v.square() / 2
    return {
        "pendulum": kinetic[..., 0] - torch.cos(x[..., 0]),
        "kepler": kinetic[..., 1:].sum(-1) - 1 / x[..., 1:].norm(dim=-1),
    }


@functools.cache
def energy_errors(name):
    """Of each system: the largest error of the energy over the first and over the last tenth of 10⁴ steps."""
    y0 = pair([2.0, 1.0, 0.0], [0.0, 0.0, 0.8])  # 72 swings, and 151 turns of eccentricity 0.36
    x, v = ic.solve(pendulum_and_kepler, y0, 0.06 * torch.arange(10_001, dtype=F64), solver=name, step=0.06).ys
    errors = {system: (energy - energy[0]).abs() for system, energy in energies(x, v).items()}
    return {system: (float(e[:1000].max()), float(e[-1000:].max())) for system, e in errors.items()}


@pytest.mark.parametrize("system", ["pendulum", "kepler"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_energy_error_stays_where_it_was_over_ten_thousand_steps(name, system):
    first, last = energy_errors(name)[system]
    assert last < 1.05 * first


@pytest.mark.parametrize("system", ["pendulum", "kepler"])
def test_that_of_rk4_drifts(system):
    """In proportion to the time: ten times as much at the end as after the first tenth."""
    first, last = energy_errors("rk4")[system]
    assert last > 8 * first


@pytest.mark.parametrize("name", ["leapfrog", "yoshida4"])
@pytest.mark.parametrize("back", ["velocity", "time"])
def test_a_symmetric_method_comes_back(name, back):
    """1000 steps there and back: 2000 roundings, each carried on over a time of 50 at most linearly."""
    f, y0 = ic.second_order(lambda t, x, v: -torch.sin(x)), pair([2.0], [0.0])
    x, v = (y[-1] for y in ic.solve(f, y0, [0.0, 50.0], solver=name, step=0.05).ys)
    if back == "velocity":
        x, v = (y[-1] for y in ic.solve(f, (x, -v), [0.0, 50.0], solver=name, step=0.05).ys)
        v = -v
    else:
        x, v = (y[-1] for y in ic.solve(f, (x, v), [50.0, 0.0], solver=name, step=0.05).ys)
    slack = 2000 * torch.finfo(F64).eps * 50
    assert float((x - y0[0]).abs()) < slack and float((v - y0[1]).abs()) < slack


@pytest.mark.parametrize("name", PAIRS)
def test_a_step_is_symplectic(name):
    """MᵀJM = J for the Jacobian M of a step."""

    def step(z):
        return torch.cat([y[-1] for y in ic.solve(kepler, tuple(z.chunk(2)), [0.0, 0.3], solver=name, step=0.3).ys])

    m = torch.autograd.functional.jacobian(step, torch.tensor([1.0, 0.2, -0.1, 0.9], dtype=F64))
    j = torch.zeros(4, 4, dtype=F64)
    j[:2, 2:], j[2:, :2] = torch.eye(2), -torch.eye(2)
    assert torch.allclose(m.T @ j @ m, j, atol=1e-13)


# ---- states, batches, evaluations ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PAIRS)
def test_samples_on_their_own_take_the_steps_of_one_alone(name):
    y0 = pair([[1.0], [2.0], [0.3]], [[0.0], [-0.5], [0.1]])
    ts = torch.tensor([[0.0, 0.33, 2.0], [0.5, 1.0, math.nan], [1.0, 0.2, -0.4]], dtype=F64)
    options = {"solver": name, "step": 0.05}
    xs, vs = ic.solve(driven_pendulum, y0, ts, batching="per_sample", **options).ys
    for i, row in enumerate(ts):
        row = row[~row.isnan()]
        x, v = ic.solve(driven_pendulum, (y0[0][i], y0[1][i]), row, **options).ys
        assert torch.allclose(xs[: len(row), i], x, rtol=1e-13) and torch.allclose(vs[: len(row), i], v, rtol=1e-13)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize(
    ("name", "fast", "general"), [("symplectic_euler", 1, 2), ("leapfrog", 1, 3), ("yoshida4", 3, 7)]
)
def test_a_known_velocity_saves_evaluations_and_changes_nothing(name, fast, general, batching):
    y0 = pair([[1.0], [2.0]], [[0.0], [-0.5]])
    found = []
    for f, each in (
        (ic.second_order(lambda t, x, v: -torch.sin(x)), fast),
        (lambda t, y: (y[1], -y[0].sin()), general),
    ):
        sol = ic.solve(f, y0, [0.0, 1.0], solver=name, step=0.1, batching=batching)
        assert bool((torch.as_tensor(sol.stats.evaluations) == 10 * each + 1).all())
        found.append(torch.cat(sol.ys, -1))
    assert torch.equal(*found)


def test_a_pair_may_be_of_pytrees_complex_and_in_half_precision():
    z0 = torch.tensor([1.0 + 0.5j], dtype=torch.complex128)
    y0 = ({"a": z0, "b": torch.ones(2, dtype=F64)}, {"a": 0 * z0, "b": torch.zeros(2, dtype=F64)})
    f = ic.second_order(lambda t, x, v: {"a": -x["a"], "b": -4 * x["b"]})
    x, v = ic.solve(f, y0, [0.0, 1.0], solver="yoshida4", step=0.05).ys
    assert torch.allclose(x["a"][-1], z0 * math.cos(1), atol=1e-5)
    assert torch.allclose(v["b"][-1], torch.full((2,), -2 * math.sin(2), dtype=F64), atol=1e-4)
    x, _ = ic.solve(
        lambda t, y: (y[1], -y[0]), pair([1.0], [0.0], torch.bfloat16), [0.0, 1.0], solver="leapfrog", step=0.1
    ).ys
    assert x.dtype == torch.bfloat16 and float(x[-1]) == pytest.approx(math.cos(1), abs=0.02)


def test_an_input_drives_a_second_order_field():
    u = ic.LinearInterpolation(torch.tensor([0.0, 1.0, 2.0], dtype=F64), torch.tensor([[0.0], [1.0], [0.0]], dtype=F64))
    f = ic.second_order(lambda t, x, v, u, k: u - k * x)
    options = {"inputs": u, "args": (torch.tensor(2.0, dtype=F64),)}
    found = ic.solve(f, pair([0.0], [0.0]), [0.0, 2.0], solver="leapfrog", step=1e-3, **options).ys
    want = ic.solve(f, pair([0.0], [0.0]), [0.0, 2.0], rtol=1e-10, atol=1e-12, **options).ys
    for got, y in zip(found, want, strict=True):
        assert torch.allclose(got, y, atol=1e-6)


def test_an_event_ends_a_step_early():
    """A ball lands: x = h − g t²/2, which the formula has without error."""
    f = ic.second_order(lambda t, x, v: torch.full_like(x, -9.81))
    event = ic.Event(lambda t, y: y[0][0])
    sol = ic.solve(f, pair([2.0], [0.0]), [0.0, 5.0], solver="leapfrog", step=0.1, events=event)
    assert float(sol.event_ts.flatten()[0]) == pytest.approx(math.sqrt(4 / 9.81), abs=1e-12)


# ---- refusals -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "y0",
    [
        torch.ones(4),
        (torch.ones(2, 2), torch.ones(2, 3)),
        (torch.ones(2), torch.ones(2, dtype=F64)),
        (torch.ones(2),) * 3,
        [torch.ones(2), torch.ones(2)],
        {"x": torch.ones(2), "v": torch.ones(2)},
        ({"x": torch.ones(2)}, {"v": torch.ones(2)}),
    ],
)
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("name", PAIRS)
def test_a_state_that_is_no_pair_is_refused(name, batching, y0):
    with pytest.raises(ValueError, match=rf"y0: solver='{name}' steps pairs.*tuple \(x, v\).*found"):
        ic.solve(lambda t, y: y, y0, [0.0, 1.0], solver=name, step=0.1, batching=batching)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda t, y: (y[1], -y[0] - 1e-3 * y[1]), "dv/dt changes with v"),
        (lambda t, y: (y[1] * y[0], -y[0]), "dx/dt changes with x"),
    ],
)
def test_a_field_that_is_not_separable_is_refused(f, says, batching):
    y0 = torch.ones(3, 1), torch.zeros(3, 1)
    with pytest.raises(ValueError, match=f"field: {says}"):
        ic.solve(f, y0, [0.0, 1.0], solver="leapfrog", step=0.1, batching=batching)


def test_steps_chosen_by_tolerance_are_refused():
    with pytest.raises(ValueError, match="solver='leapfrog' has no error estimate"):
        ic.solve(kepler, pair([1.0, 0.0], [0.0, 0.9]), [0.0, 1.0], solver="leapfrog", rtol=1e-3)


def test_second_order_wants_a_callable(unchecked):
    with pytest.raises(TypeError, match=r"g: expected a callable g\(t, x, v"):
        ic.second_order(torch.ones(2))


def test_a_second_order_field_is_for_every_solver():
    """Friction too, where the solver allows it."""
    f = ic.second_order(lambda t, x, v: -x - 0.2 * v)
    x, _ = ic.solve(f, pair([1.0], [0.0]), [0.0, 3.0], rtol=1e-10, atol=1e-12).ys
    w = math.sqrt(0.99)
    assert x[-1].item() == pytest.approx(math.exp(-0.3) * (math.cos(3 * w) + 0.1 / w * math.sin(3 * w)), rel=1e-8)


# ---- gradients ----------------------------------------------------------------------------------------------------
class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.force = ic.nn.MLP((2, 6, 2), seed=4)
        self.velocity = ic.nn.MLP((2, 5, 2), seed=5)
        self.w = nn.Parameter(torch.tensor([0.3, -0.4]))
        self.to(F64)

    def forward(self, t, y, a):
        x, v = y
        return v + 0.3 * self.velocity(t, v) * a, self.force(t, x) + torch.sin(t) * self.w * a


class Force(nn.Module):
    def __init__(self):
        super().__init__()
        self.force = ic.nn.MLP((2, 6, 2), seed=4)
        self.to(F64)

    def forward(self, t, x, v, a):
        return self.force(t, x) * a - x * torch.cos(t)


FIELDS = {"separable": Separable, "second order": Force}
EXACT = [
    ic.Backprop(),
    ic.Checkpointed(),
    ic.Checkpointed(graphs=0),
    ic.Checkpointed(memory=400),
    ic.Checkpointed(memory=1),
]


def made(kind):
    """A field, and its inputs: x, v, a, then parameters."""
    net = FIELDS[kind]()
    x = torch.tensor([[0.5, -0.3], [1.0, 0.2], [0.1, 0.9]], dtype=F64, requires_grad=True)
    v = torch.tensor([[0.1, 0.3], [-0.4, 0.6], [0.2, 0.0]], dtype=F64, requires_grad=True)
    a = torch.tensor([[0.7], [1.1], [0.9]], dtype=F64, requires_grad=True)
    return (ic.second_order(net) if kind == "second order" else net), [x, v, a, *net.parameters()]


def loss(field, inputs, ts, **options):
    x, v, a, *_ = inputs
    ys = torch.cat(ic.solve(field, (x, v), ts, args=(a,), step=0.05, **options).ys, -1)
    weights = torch.linspace(-1, 1, ys.numel(), dtype=F64).reshape(ys.shape)
    return (ys * weights).sum() + (ys[1] ** 2).sum()


def differs(field, inputs, ts, x, v, **options):
    """The central difference along `v` of step 1e-4: 1e-8 by truncation."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            x += sign * 1e-4 * v
            values.append(float(loss(field, inputs, ts, **options)))
            x -= sign * 1e-4 * v
    return (values[0] - values[1]) / 2e-4


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("name", PAIRS)
def test_gradients_agree_with_finite_differences(name, kind, batching):
    field, inputs = made(kind)
    ts = torch.tensor([0.1, 0.53, 1.1], dtype=F64, requires_grad=True)
    options = {"solver": name, "batching": batching}
    directions = [torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=F64) for x in (*inputs, ts)]
    wants = [differs(field, inputs, ts, x, v, **options) for x, v in zip((*inputs, ts), directions, strict=True)]
    # The derivative by a time is f at the solution: off by the error of the discretisation.
    by_time = max(2e-7, 8 * 0.05 ** Solver.registry[name].dense_order)
    for gradient in (ic.Backprop(), ic.Checkpointed()):
        grads = torch.autograd.grad(loss(field, inputs, ts, gradient=gradient, **options), (*inputs, ts))
        for x, g, v, want in zip((*inputs, ts), grads, directions, wants, strict=True):
            slack = by_time if x is ts else 2e-7
            assert abs(float((g * v).sum()) - want) <= slack * max(1.0, abs(want), float(g.norm()))


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("name", PAIRS)
def test_checkpointed_is_backprop_to_rounding(name, kind, batching):
    field, inputs = made(kind)
    grads = [
        torch.autograd.grad(loss(field, inputs, [0.1, 0.5, 1.13], solver=name, batching=batching, gradient=g), inputs)
        for g in EXACT
    ]
    for got in grads[1:]:
        for x, y in zip(got, grads[0], strict=True):
            assert torch.allclose(x, y, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("name", PAIRS)
def test_second_derivatives_and_the_dense_output_have_gradients(name, batching):
    field, inputs = made("second order")
    found = []
    for gradient in (ic.Backprop(), ic.Checkpointed()):
        x, v, a, *_ = inputs
        options = {"solver": name, "batching": batching, "gradient": gradient, "step": 0.1, "dense": True}
        sol = ic.solve(field, (x, v), [0.0, 1.0], args=(a,), **options)
        value = (torch.cat(sol.at(torch.tensor([0.33, 0.71], dtype=F64)), -1) ** 2).sum()
        first = torch.autograd.grad(value, inputs, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), inputs)
        found.append((*first, *second))
    for x, y in zip(*found, strict=True):
        assert torch.allclose(x, y, rtol=1e-10, atol=1e-12)


class Hamiltonian(nn.Module):
    """Calls autograd itself."""

    def __init__(self):
        super().__init__()
        self.potential = ic.nn.MLP((2, 8, 1), seed=0).to(F64)

    def forward(self, t, y):
        x, p = y
        energy = (p**2).sum() / 2 + self.potential(t, x).sum()
        dx, dp = torch.autograd.grad(energy, (x, p), create_graph=True)
        return dp, -dx


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_a_hamiltonian_network_learns_through_its_own_derivatives(batching):
    field = Hamiltonian()
    y0 = pair([[1.0, 0.2], [0.3, -0.5], [0.1, 0.9]], [[0.0, 0.1], [0.4, 0.2], [-0.3, 0.0]])
    grads = []
    for gradient in ("backprop", "checkpointed"):
        x, _ = ic.solve(field, y0, [0.0, 1.0], solver="leapfrog", step=0.1, batching=batching, gradient=gradient).ys
        grads.append(torch.autograd.grad((x[-1] ** 2).sum(), list(field.parameters()), allow_unused=True))
    for got, want in zip(*grads, strict=True):
        assert (got is None and want is None) or torch.allclose(got, want, rtol=1e-11, atol=1e-14)
    assert float(grads[0][0].norm()) > 1e-3


def test_a_dose_kicks_the_velocity():
    dose = ic.Dose([0.5], pair([[[0.0], [0.0]]], [[[1.0], [-2.0]]]))
    f, y0 = ic.second_order(lambda t, x, v: -x), pair([[1.0], [2.0]], [[0.0], [0.0]])
    x, _ = ic.solve(f, y0, [0.0, 1.5], solver="yoshida4", step=0.05, doses=dose).ys
    want = y0[0] * math.cos(1.5) + torch.tensor([[1.0], [-2.0]], dtype=F64) * math.sin(1.0)
    assert torch.allclose(x[-1], want, atol=1e-5)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("name", ["backsolve", "gauss_adjoint"])
def test_a_continuous_adjoint_goes_back_by_another_solver_or_not_at_all(name, batching):
    """The state of the way back is no pair."""
    field, inputs = made("separable")
    method = Gradient.registry[name]
    options = {"solver": "leapfrog", "batching": batching}
    with pytest.raises(ic.GradientError, match=rf"'leapfrog' steps pairs.*{method.__name__}\(solver="):
        loss(field, inputs, [0.1, 0.53, 1.1], gradient=name, **options)
    got = torch.autograd.grad(loss(field, inputs, [0.1, 0.53, 1.1], gradient=method(solver="rk4"), **options), inputs)
    want = torch.autograd.grad(loss(field, inputs, [0.1, 0.53, 1.1], **options), inputs)
    for x, y in zip(got, want, strict=True):  # each differs from the derivative of the solution by an error of order 2
        assert float((x - y).norm()) <= 8 * 0.05**2 * max(1.0, float(y.norm()))
