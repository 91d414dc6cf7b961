"""AutoSwitch: explicit to the bit where nothing is stiff, implicit where stability would limit the steps, per sample."""

import copy
import math
import pickle

import pytest
import torch

import isocline as ic
from isocline.solvers import AutoSwitch, Solver
from isocline.solvers.auto_switch import SwitchWorkspace, recentered, spectral_radius, stability_boundary
from isocline.solvers.tableau import dense_weights

F64 = torch.float64
BATCHINGS = ("shared", "per_sample")

# SciPy's Radau at rtol 1e-12, atol 1e-14.
VAN_DER_POL = (1.7061677321704876, -0.0008928097010247924)  # µ = 1000, from (2, 0), t = 2000
ROBERTSON = (0.6172348823963015, 6.153591274644204e-06, 0.3827589640124226)  # from (1, 0, 0), t = 100


def van_der_pol(t, y, mu=1000.0):
    x, v = y.split(1, -1)
    return torch.cat((v, mu * (1 - x * x) * v - x), -1)


def robertson(t, y):
    a, b, c = y.unbind(-1)
    slow, fast, fastest = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack((fast - slow, slow - fast - fastest, fastest), -1)


def relaxing(t, y, k=1.0):
    """Towards cos t, at a rate that grows from k to 200 k and beyond."""
    return -k * (1 + 100 * t) * (y - torch.cos(t))


@pytest.fixture
def divisions(monkeypatch):
    """How many rows were stiff, every time the rows are given to the methods anew."""
    seen, divide = [], SwitchWorkspace._divide
    monkeypatch.setattr(SwitchWorkspace, "_divide", lambda self, stiff: (seen.append(stiff), divide(self, stiff))[1])
    return seen


@pytest.mark.parametrize("nonstiff", ["tsit5", "dopri8", "vern7", "heun"])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_where_nothing_is_stiff_the_steps_are_those_of_the_explicit_method_to_the_bit(nonstiff, batching):
    """With an implicit method of the same order, so that the lengths of the steps are steered by the same exponent."""
    stiff = {"dopri8": "gauss_legendre6", "vern7": "gauss_legendre6", "heun": "trapezoid"}.get(nonstiff, "rodas5_p")
    problem = ic.problems.lotka_volterra()
    y0 = problem.y0 * torch.tensor([[1.0], [1.2], [0.7]], dtype=F64)
    ts = torch.linspace(0, 20, 9, dtype=F64)
    way = {"step": 0.05} if stiff == "gauss_legendre6" else {"rtol": 1e-6, "atol": 1e-6}
    want = ic.solve(problem.field, y0, ts, solver=nonstiff, batching=batching, **way)
    got = ic.solve(problem.field, y0, ts, solver=AutoSwitch(nonstiff, stiff), batching=batching, **way)
    assert torch.equal(got.ys[-1], want.ys[-1])
    # Between the ends of steps the same polynomial is summed in another order.
    assert torch.allclose(got.ys, want.ys, rtol=1e-11)
    assert got.stats.jacobians == 0
    for name in ("accepted", "rejected"):
        assert torch.equal(torch.as_tensor(getattr(got.stats, name)), torch.as_tensor(getattr(want.stats, name)))


@pytest.mark.parametrize(("stiff", "batching"), [("rodas5_p", "per_sample"), ("kvaerno5", "shared")])
def test_a_relaxation_oscillation_costs_no_more_than_with_the_stiff_method_alone(stiff, batching, divisions):
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64)
    options = {"rtol": 1e-4, "atol": 1e-7, "batching": batching}
    alone = ic.solve(van_der_pol, y0, [0.0, 2000.0], solver=stiff, **options)
    sol = ic.solve(van_der_pol, y0, [0.0, 2000.0], solver=AutoSwitch(stiff=stiff), **options)
    assert torch.allclose(sol.ys[-1, 0], torch.tensor(VAN_DER_POL, dtype=F64), rtol=1e-2)
    assert int(torch.as_tensor(sol.stats.evaluations)) < int(torch.as_tensor(alone.stats.evaluations))
    assert sol.stats.jacobians < alone.stats.jacobians
    # Stiff along both slow branches, not at the jump between them.
    assert [a for a, b in zip(divisions, [*divisions[1:], -1], strict=True) if a != b][:4] == [0, 1, 0, 1]
    explicit = ic.solve(van_der_pol, y0, [0.0, 2000.0], max_steps=1000, throw=False, **options)
    assert not bool(torch.isfinite(explicit.ys[-1]).any())


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_reaction_that_stays_stiff_costs_the_steps_to_find_out_more(batching):
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
    options = {"rtol": 1e-6, "atol": 1e-9, "batching": batching}
    alone = ic.solve(robertson, y0, [0.0, 100.0], solver="rodas5_p", **options)
    sol = ic.solve(robertson, y0, [0.0, 100.0], solver="auto_switch", **options)
    assert torch.allclose(sol.ys[-1, 0], torch.tensor(ROBERTSON, dtype=F64), rtol=1e-4)
    # About thirty explicit steps of six evaluations.
    assert int(torch.as_tensor(sol.stats.evaluations)) < int(torch.as_tensor(alone.stats.evaluations)) + 200
    assert sol.stats.jacobians <= alone.stats.jacobians


def test_in_a_batch_every_sample_has_the_method_it_needs(divisions):
    mu = torch.tensor([[1.0], [1000.0], [3.0], [300.0]], dtype=F64)
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64).repeat(4, 1)
    options = {"rtol": 1e-7, "atol": 1e-9, "batching": "per_sample"}
    sol = ic.solve(van_der_pol, y0, [0.0, 5.0, 10.0], args=(mu,), solver="auto_switch", dense=True, **options)
    assert 2 in divisions
    for i, solver in enumerate(("tsit5", "auto_switch", "tsit5", "auto_switch")):
        row = slice(i, i + 1)
        one = ic.solve(van_der_pol, y0[row], [0.0, 5.0, 10.0], args=(mu[row],), solver=solver, dense=True, **options)
        t = torch.linspace(0.1, 9.9, 23, dtype=F64)
        if (
            solver == "auto_switch"
        ):  # the batch looks at all samples at once, in other steps than the sample alone would
            assert torch.allclose(sol.at(t)[:, i], one.at(t)[:, 0], rtol=1e-6, atol=1e-8)
            assert abs(int(sol.stats.accepted[i]) - int(one.stats.accepted)) <= 10
            continue
        assert torch.allclose(sol.at(t)[:, i], one.at(t)[:, 0], rtol=1e-9, atol=1e-10)
        assert int(sol.stats.accepted[i]) == int(one.stats.accepted)
        # Of the calls for other rows none is counted; finding out whether the field treats its rows alone takes up to three.
        assert 0 <= int(sol.stats.evaluations[i]) - int(one.stats.evaluations) <= 3


def test_a_field_that_couples_its_samples_is_stepped_by_one_method(divisions):
    y0 = torch.tensor([[1.0, 0.5], [0.3, -0.2], [2.0, 1.0]], dtype=F64)
    k = torch.tensor([[1.0], [1.0], [3000.0]], dtype=F64)  # only one sample is stiff

    def f(t, y):
        return -k * (y - torch.cos(t)) + 0.1 * (y.mean(0, keepdim=True) - y)

    sol = ic.solve(f, y0, [0.0, 3.0], solver="auto_switch", batching="per_sample", rtol=1e-4, atol=1e-6)
    assert 3 in divisions
    # At different times, samples do not see each other as they should; the stiff one hardly sees the others.
    want = ic.solve(f, y0, [0.0, 3.0], solver="rodas5_p", rtol=1e-8, atol=1e-10).ys[-1]
    assert torch.allclose(sol.ys[-1, 2], want[2], rtol=1e-3) and torch.allclose(sol.ys[-1], want, atol=0.1)
    assert int(sol.stats.accepted[2]) < 100  # explicit steps of 3.5/3000 would be 2500


# ---- gradients -----------------------------------------------------------------------------------------------------
def loss(y0, k, batching, **options):
    """Fixed steps, of which the rates in `relaxing` make the first explicit and the later ones implicit."""
    ts = [0.0, 0.13, 0.52, 0.97, 2.0]  # some inside of steps of either method
    sol = ic.solve(relaxing, y0, ts, args=(k,), batching=batching, solver="auto_switch", step=0.04, **options)
    weights = torch.linspace(-1, 2, sol.ys.numel(), dtype=F64).reshape(sol.ys.shape)
    return (sol.ys * weights).sum() + (sol.ys**2).sum(), sol


@pytest.mark.parametrize(
    "gradient", ["checkpointed", "backprop", ic.Checkpointed(memory=200), ic.Checkpointed(memory=1)]
)
@pytest.mark.parametrize("batching", BATCHINGS)
def test_gradients_are_those_of_the_methods_that_took_the_steps(batching, gradient, divisions):
    """Against central differences of 1e-6 (error 1e-9 by rounding): small enough to change no method."""
    k = torch.tensor([[1.0], [0.3], [0.6]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.2, 0.4], [0.7, -0.3], [1.0, 2.0]], dtype=F64, requires_grad=True)
    value, sol = loss(y0, k, batching, gradient=gradient)
    assert 0 < sol.stats.jacobians < int(torch.as_tensor(sol.stats.accepted).max())
    assert batching == "shared" or any(0 < n < 3 for n in divisions)
    grads = torch.autograd.grad(value, (y0, k))
    generator = torch.Generator().manual_seed(0)
    for x, grad in zip((y0, k), grads, strict=True):
        v = torch.randn(x.shape, generator=generator, dtype=F64)
        values = []
        for sign in (1, -1):
            moved = [(z + sign * 1e-6 * v if z is x else z).detach() for z in (y0, k)]
            values.append(float(loss(*moved, batching)[0]))
        want = (values[0] - values[1]) / 2e-6
        assert abs(float((grad * v).sum()) - want) < 1e-7 * max(1.0, abs(want))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_second_derivatives(batching):
    k = torch.tensor([[1.0], [0.3]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.2, 0.4], [0.7, -0.3]], dtype=F64)

    def first(k):
        return torch.autograd.grad(loss(y0, k, batching)[0], k, create_graph=True)[0]

    v = torch.tensor([[0.4], [-1.0]], dtype=F64)
    (second,) = torch.autograd.grad((first(k) * v).sum(), k)
    ends = [first((k + d * v).detach().requires_grad_()) for d in (1e-5, -1e-5)]
    assert torch.allclose(second, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_the_dense_output_has_gradients():
    k = torch.tensor([[1.0], [0.3]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.2], [0.7]], dtype=F64)
    grads = []
    for gradient in ("checkpointed", "backprop"):
        sol = ic.solve(
            relaxing, y0, [0.0, 2.0], args=(k,), solver="auto_switch", step=0.04, dense=True, gradient=gradient,
            batching="per_sample",
        )  # fmt: skip
        t = torch.tensor([0.11, 0.5, 1.77], dtype=F64)
        grads.append(torch.autograd.grad(sol.at(t).square().sum(), k)[0])
    assert torch.allclose(grads[0], grads[1], rtol=1e-11)
    assert bool((grads[0] != 0).all())


# ---- what a solve may ask of it ------------------------------------------------------------------------------------
@pytest.mark.parametrize("batching", BATCHINGS)
def test_jumps_and_events(batching):
    """At t = 1 the rate jumps from 1 to 3000, and sin 5t is followed; each time y comes up through 0.3 it is set back."""

    def f(t, y):
        return -torch.where(t > 1, 3000.0, 1.0) * (y - torch.sin(5 * t))

    def condition(t, y):
        return y[0, 0] - 0.3 if batching == "shared" else y[:, 0] - 0.3

    y0 = torch.tensor([[-0.5]], dtype=F64)
    event = ic.Event(condition, direction=1, reset=lambda t, y: y - 5.0)
    options = {"jump_ts": [1.0], "rtol": 1e-5, "atol": 1e-7, "batching": batching}
    for extra in (
        {},
        {"events": ic.Event(condition, direction=-1)},
        {"events": event, "max_events": 3, "throw": False},
    ):
        sol, want = (
            ic.solve(f, y0, [0.0, 0.9, 1.1, 4.0], solver=s, **options, **extra) for s in ("auto_switch", "rodas5_p")
        )
        assert torch.allclose(sol.ys, want.ys, rtol=1e-3, atol=1e-5, equal_nan=True)
        if extra:
            assert want.event_ts.numel() > 0 and torch.allclose(sol.event_ts, want.event_ts, rtol=1e-4)
        else:
            assert sol.stats.jacobians > 0 and int(torch.as_tensor(sol.stats.accepted)) < 400  # 2500 explicit ones


def test_every_sample_has_its_own_times_either_way():
    """Forwards dy/dt = −k (y − cos t) is stiff, backwards the same with +k."""
    sign = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=F64)
    k = torch.tensor([[5000.0], [1.0], [8000.0], [2.0]], dtype=F64)
    ts = torch.tensor([[0.0, 1.0, 2.0], [0.5, 1.0, math.nan], [2.0, 1.0, 0.0], [1.0, 0.2, math.nan]], dtype=F64)
    y0 = torch.full((4, 1), 0.3, dtype=F64)

    def f(t, y, k, sign):
        return -sign * k * (y - torch.cos(t))

    options = {"args": (k, sign), "batching": "per_sample", "rtol": 1e-5, "atol": 1e-7}
    sol, want = (ic.solve(f, y0, ts, solver=s, **options) for s in ("auto_switch", "rodas5_p"))
    assert torch.equal(sol.ys.isnan(), want.ys.isnan())
    assert torch.allclose(sol.ys, want.ys, rtol=1e-3, equal_nan=True)
    assert sol.stats.jacobians > 0
    assert int(sol.stats.accepted.max()) < 300  # 2900 explicit steps of 3.5/5000, 4600 of 3.5/8000


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_single_precision_and_complex_states(dtype, batching):
    y0 = torch.ones(2, 2, dtype=dtype)
    k = torch.tensor([[2.0], [4000.0]], dtype=dtype) * (1 + 0.1j if dtype.is_complex else 1)
    options = {"solver": "auto_switch", "batching": batching, "rtol": 1e-5, "atol": 1e-6}
    sol = ic.solve(lambda t, y, k: -k * (y - torch.cos(t)), y0, [0.0, 1.0, 3.0], args=(k,), **options)
    assert sol.ys.dtype == dtype and sol.stats.jacobians > 0
    t = torch.tensor([1.0, 3.0], dtype=F64).view(2, 1, 1)
    k = k.to(torch.complex128)
    # y = (k² cos t + k sin t)/(1 + k²) + c e^(−kt), c from y(0) = 1
    want = (k * k * torch.cos(t) + k * torch.sin(t)) / (1 + k * k) + torch.exp(-k * t) / (1 + k * k)
    got = sol.ys[1:].to(torch.complex128)
    assert torch.allclose(got, want.expand_as(got), rtol=1e-3)


def test_states_may_be_pytrees():
    y0 = {"slow": torch.ones(2, dtype=F64), "fast": torch.ones(1, dtype=torch.complex128)}
    sol = ic.solve(lambda t, y: {"slow": -y["slow"], "fast": -500 * y["fast"]}, y0, [0.0, 5.0], solver="auto_switch")
    assert torch.allclose(sol.ys["slow"][-1], torch.full((2,), math.exp(-5), dtype=F64), rtol=1e-4)
    assert float(sol.ys["fast"][-1].abs()) < 1e-7 and sol.stats.jacobians > 0


@pytest.mark.parametrize("pair", [("vern7", "kvaerno5"), ("heun", "trbdf2"), ("dopri5", "radau_iia5")])
def test_the_dense_output_is_that_of_the_method_that_took_the_step(pair):
    """Interpolants with extra stages, in powers of θ − ½, and of unequal degree: all as one."""
    k = torch.tensor([[50.0], [10.0]], dtype=F64)
    t = torch.linspace(0.01, 1.99, 60, dtype=F64)
    options = {"dense": True, "args": (k,)}
    y0 = torch.tensor([[1.0], [0.2]], dtype=F64)
    want = ic.solve(relaxing, y0, [0.0, 2.0], solver="rodas5_p", rtol=1e-9, atol=1e-11, **options).at(t)
    for batching in BATCHINGS:
        options |= {"rtol": 1e-5, "atol": 1e-7, "batching": batching}
        sol = ic.solve(relaxing, y0, [0.0, 2.0], solver=AutoSwitch(*pair), **options)
        assert 0 < sol.stats.jacobians < int(torch.as_tensor(sol.stats.accepted).max())
        assert torch.allclose(sol.at(t), want, rtol=1e-3, atol=1e-3)
        ends = sol.accepted_ts[0] if batching == "per_sample" else sol.accepted_ts
        jump = sol.at(ends[1:-1] * (1 - 1e-12)) - sol.at(ends[1:-1] * (1 + 1e-12))
        assert (
            float(jump[:, 0].abs().max()) < 1e-6
        )  # the end of a step is the start of the next, whichever method takes it


def test_it_gives_up_after_max_steps_with_what_there_is():
    y0 = torch.tensor([2.0, 0.0], dtype=F64)
    sol = ic.solve(van_der_pol, y0, [0.0, 1.0, 2000.0], solver="auto_switch", max_steps=100, throw=False)
    assert sol.status is ic.Status.MAX_STEPS
    assert bool(sol.ys[1].isfinite().all()) and bool(sol.ys[2].isnan().all())


def test_it_copies_pickles_and_is_equal_by_its_methods():
    solver = AutoSwitch("dopri5", "kvaerno5")
    y0 = torch.ones(1, dtype=F64)
    want = ic.solve(relaxing, y0, [0.0, 2.0], solver=solver).ys
    for other in (copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))):
        assert other == solver and other != AutoSwitch()
        assert torch.equal(ic.solve(relaxing, y0, [0.0, 2.0], solver=other).ys, want)
    assert isinstance(Solver.named("auto_switch"), AutoSwitch) and AutoSwitch() == Solver.named("auto_switch")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"nonstiff": "kvaerno5"}, "nonstiff='kvaerno5', expected an explicit"),
        ({"nonstiff": "leapfrog"}, "nonstiff='leapfrog', expected an explicit"),
        ({"nonstiff": "bosh3"}, "nonstiff='bosh3' has no stage at the end"),
        ({"nonstiff": "tsit"}, "nonstiff='tsit', expected one of"),
        ({"stiff": "tsit5"}, "stiff='tsit5', expected an implicit"),
        ({"stiff": "auto_switch"}, "stiff='auto_switch', expected an implicit"),
        ({"stiff": 3}, "stiff=3, expected an implicit"),
    ],
)
def test_wrong_methods_are_refused_by_name(settings, says, unchecked):
    with pytest.raises(ValueError, match=says):
        AutoSwitch(**settings)


def test_a_pair_without_error_estimates_takes_fixed_steps_only():
    pair = AutoSwitch("rk4", "gauss_legendre4")
    with pytest.raises(ValueError, match="no error estimate"):
        ic.solve(relaxing, torch.ones(1, dtype=F64), [0.0, 2.0], solver=pair)
    sol = ic.solve(relaxing, torch.ones(1, dtype=F64), [0.0, 2.0], solver=pair, step=0.04)
    want = ic.solve(relaxing, torch.ones(1, dtype=F64), [0.0, 2.0], rtol=1e-9).ys[-1]
    assert sol.stats.jacobians > 0 and torch.allclose(sol.ys[-1], want, rtol=1e-3)


# ---- the estimates -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "want"), [("euler", 2.0), ("heun", 2.0), ("bosh3", 2.513), ("rk4", 2.785), ("dopri5", 3.307)]
)
def test_the_stability_boundaries_are_those_of_the_books(name, want):
    """Hairer & Wanner II, IV.2; of order p with p stages the truncated exponential series."""
    assert stability_boundary(Solver.registry[name].tableau) == pytest.approx(want, abs=2e-3)


def test_a_step_within_the_boundary_is_stable_and_one_beyond_is_not():
    for name in ("tsit5", "dopri8", "vern9"):
        boundary = stability_boundary(Solver.registry[name].tableau)
        ends = [
            ic.solve(lambda t, y: -y, torch.ones(1, dtype=F64), [0.0, 200 * h], solver=name, step=h).ys[-1].abs().item()
            for h in (0.99 * boundary, 1.01 * boundary)
        ]
        assert ends[0] < 1 < ends[1]


def test_the_spectral_radius_is_found_of_any_jacobian():
    generator = torch.Generator().manual_seed(1)
    matrices = torch.randn(40, 6, 6, generator=generator, dtype=F64)
    matrices[:, 0] *= 1e5  # one row of another unit
    exact = torch.linalg.eigvals(matrices).abs().amax(1)
    assert bool((spectral_radius(matrices) / exact - 1).abs().le(0.5).all())
    assert torch.equal(spectral_radius(torch.zeros(2, 3, 3)), torch.zeros(2))


def test_a_polynomial_about_another_center_is_the_same():
    dense = Solver.registry["vern7"].tableau.dense
    for theta in (0.2, 0.8):
        there = dense_weights(recentered(dense, 0.5, 0.0), theta)
        assert there == pytest.approx(dense_weights(dense, theta, 0.5), abs=1e-9)
