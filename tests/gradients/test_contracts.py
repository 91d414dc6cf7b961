"""What a gradient must do whatever the field looks like; and what each method promises."""

import gc
import math
import weakref

import pytest
import torch
from torch import nn

import isocline as ic
from isocline import audit
from isocline.engines.eager import observations
from isocline.gradients import Gradient
from isocline.gradients.checkpointed import Record, split

F64 = torch.float64
# Every gradient, with a solver it is for.
GRADIENTS = [
    *({"gradient": name} for name in sorted(Gradient.registry) if name != "reversible_adjoint"),
    {"gradient": ic.Checkpointed(graphs=0)},
    {"gradient": "reversible_adjoint", "solver": "reversible"},
]
TS = [0.0, 0.4, 1.0]


def one(**change):
    return torch.ones(1, dtype=F64, **change)


@pytest.mark.parametrize("way", GRADIENTS)
def test_unused_frozen_shared_and_buffers(way):
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor(0.5, dtype=F64))
            self.unused = nn.Parameter(torch.ones(3, 2, dtype=F64))
            self.frozen = nn.Parameter(torch.tensor(2.0, dtype=F64), requires_grad=False)
            self.register_buffer("d", torch.tensor(1.5, dtype=F64))
            self.again = self.a  # tied

        def forward(self, t, y):
            return -(self.a + self.again) / 2 * self.frozen * self.d * y

    field = Field()
    ic.solve(field, one(), TS, **way).ys[-1].sum().backward()
    assert field.a.grad.item() == pytest.approx(-3 * math.exp(-1.5), rel=1e-5)
    assert field.unused.grad is None or field.unused.grad.abs().max() == 0
    assert field.frozen.grad is None


@pytest.mark.parametrize("way", GRADIENTS)
def test_everything_the_field_reaches_has_a_gradient(way):
    """A closure's leaf, a closure's non-leaf, a plain attribute, an argument, and y0 captured as well."""
    leaf = torch.tensor(0.3, dtype=F64, requires_grad=True)
    source = torch.tensor(0.5, dtype=F64, requires_grad=True)
    captured = source**2  # not a leaf: its graph must survive all steps
    arg = torch.tensor(0.2, dtype=F64, requires_grad=True)
    y0 = one(requires_grad=True)

    class Holder:
        weight = torch.tensor(0.1, dtype=F64, requires_grad=True)

        def __call__(self, t, y, a):
            return -(leaf + captured + self.weight + a * y0[0]) * y

    holder = Holder()
    y = ic.solve(holder, y0, TS, args=(arg,), **way).ys[-1].sum()
    grads = torch.autograd.grad(y, (leaf, source, holder.weight, arg, y0))
    e = math.exp(-0.85)
    for got, want in zip(grads, (-e, -e, -e, -e, e - 0.2 * e), strict=True):
        assert got.sum().item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("way", GRADIENTS)
def test_args_that_depend_on_each_other_and_on_y0(way):
    x = torch.tensor(0.4, dtype=F64, requires_grad=True)
    y0 = (x * 2).reshape(1)
    ic.solve(lambda t, y, a, b: -a * y + b["c"], y0, TS, args=(x**2, {"c": x}), **way).ys[-1].sum().backward()
    # y(1) = 2x e^{-x²} + (1 - e^{-x²})/x
    v = 0.4
    e = math.exp(-v * v)
    want = 2 * e - 4 * v * v * e + 2 * e - (1 - e) / v**2
    assert x.grad.item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("way", GRADIENTS)
def test_a_branch_not_taken_at_the_start(way):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.early = nn.Parameter(torch.tensor(0.1, dtype=F64))
            self.late = nn.Parameter(torch.tensor(-0.2, dtype=F64))

        def forward(self, t, y):
            return (self.early if t < 0.5 else self.late) * y

    table = Table()
    y = ic.solve(lambda t, y: table(t, y), one(), [0.0, 1.0], **way, jump_ts=[0.5], rtol=1e-8, atol=1e-10).ys[-1]
    y.sum().backward()
    want = 0.5 * math.exp(-0.05)
    assert table.early.grad.item() == pytest.approx(want, rel=1e-6)
    assert table.late.grad.item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("way", GRADIENTS)
@pytest.mark.parametrize("careful", [True, False])
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_a_field_that_differentiates_itself(way, careful, batching):
    """Hamiltonian: with its own enable_grad, and naively (torchdiffeq's adjoint fails there)."""
    k = torch.tensor(1.7, dtype=F64, requires_grad=True)

    def hamiltonian(t, y):
        if careful:
            with torch.enable_grad():
                return gradient_of(y if y.requires_grad else y.detach().requires_grad_())
        return gradient_of(y)

    def gradient_of(y):
        h = y[..., 1] ** 2 / 2 + k * y[..., 0] ** 2 / 2
        (g,) = torch.autograd.grad(h.sum(), y, create_graph=True)
        return torch.stack((g[..., 1], -g[..., 0]), -1)

    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    ys = ic.solve(hamiltonian, y0, [0.0, 1.0], **way, batching=batching, rtol=1e-9, atol=1e-11).ys
    root = math.sqrt(1.7)
    assert ys[-1, 0, 0].item() == pytest.approx(math.cos(root), rel=1e-6)
    (grad,) = torch.autograd.grad(ys[-1, 0, 0], k)
    assert grad.item() == pytest.approx(-math.sin(root) / (2 * root), rel=1e-6)
    assert not y0.requires_grad
    with torch.no_grad():
        assert torch.allclose(ic.solve(hamiltonian, y0, [0.0, 1.0], batching=batching).ys[-1], ys[-1], rtol=1e-4)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("gradient", ["checkpointed", "backprop", "backsolve", "gauss_adjoint", "forward"])
@pytest.mark.parametrize("solver", ["tsit5", "rk4", "radau_iia5", "bdf", "adams_moulton", "reversible_heun"])
def test_autograd_inside_the_field_leaves_no_graph_where_nothing_is_differentiated(solver, gradient, batching):
    """A Hamiltonian without parameters, its derivative taken with a graph as a field for both ways would."""

    def f(t, y):
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            h = (y**2).sum() / 2
            (g,) = torch.autograd.grad(h, y, create_graph=True)
        return torch.stack([g[..., 1], -g[..., 0]], -1)

    y0 = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=F64)
    ts = torch.linspace(0, 1, 4, dtype=F64)
    ys = ic.solve(f, y0, ts, solver=solver, step=0.05, gradient=gradient, batching=batching).ys
    assert ys[-1, 0].tolist() == pytest.approx([math.cos(1.0), -math.sin(1.0)], abs=1e-3)
    assert gradient == "backprop" or not ys.requires_grad  # that one records whatever has a graph


# ---- second derivatives -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize(
    "gradient", ["backprop", "checkpointed", ic.Checkpointed(graphs=0), ic.Checkpointed(memory=64)]
)
def test_second_derivatives_are_right(gradient, batching):
    """y' = a y², y(0) = 1: y(1) = y0/(1 − a y0); a gradient penalty's derivative (torchdiffeq's adjoint drops it silently)."""
    a = torch.tensor(0.3, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.8]], dtype=F64, requires_grad=True)
    options = {"gradient": gradient, "batching": batching, "rtol": 1e-11, "atol": 1e-13}

    def loss(ys):
        first = torch.autograd.grad(ys[1].sum() + ys[2].sum(), (y0, a), create_graph=True)
        return ys[2].sum() + sum((g**2).sum() for g in first)

    got = torch.autograd.grad(
        loss(ic.solve(lambda t, y, a: a * y**2, y0, [0.0, 0.6, 1.0], args=(a,), **options).ys), (a, y0)
    )
    want = torch.autograd.grad(loss(torch.stack([y0 / (1 - a * y0 * t) for t in (0.0, 0.6, 1.0)])), (a, y0))
    for g, w in zip(got, want, strict=True):
        assert torch.allclose(g, w, rtol=1e-7)


def test_second_derivatives_of_checkpointed_equal_backprops_on_a_network():
    field = ic.nn.MLP((2, 8, 2), dtype=F64)
    y0 = torch.tensor([[0.5, -1.0]], dtype=F64, requires_grad=True)
    results = []
    for gradient in ("backprop", "checkpointed"):
        ys = ic.solve(field, y0, [0.0, 0.5, 1.0], gradient=gradient, solver="tsit5", step=0.1).ys
        (g,) = torch.autograd.grad((ys**2).sum(), y0, create_graph=True)
        results.append(torch.autograd.grad((g**2).sum() + ys.sum(), [y0, *field.parameters()]))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_derivatives_a_method_does_not_have_are_refused_by_name():
    a = torch.tensor(0.3, dtype=F64, requires_grad=True)
    y = ic.solve(lambda t, y: a * y, one(), TS, gradient="backsolve").ys[-1].sum()
    with pytest.raises(ic.GradientError, match="Backsolve has no second derivatives; use gradient='checkpointed'"):
        torch.autograd.grad(y, a, create_graph=True)
    y = ic.solve(lambda t, y: a * y**3, 0.5 * one(), TS).ys[-1].sum()
    (g,) = torch.autograd.grad(y, a, create_graph=True)
    t = torch.tensor(TS, dtype=F64, requires_grad=True)
    for way in GRADIENTS:
        y = ic.solve(lambda t, y: a * y, one(), t, **way).ys[-1].sum()
        with pytest.raises(ic.GradientError, match="second derivatives"):
            torch.autograd.grad(y, t, create_graph=True)
    with pytest.raises(ic.GradientError, match="for third ones use gradient='backprop'"):
        (h,) = torch.autograd.grad(g, a, create_graph=True)
        torch.autograd.grad(h, a)


# ---- Backsolve ----------------------------------------------------------------------------------------------------
def test_backsolve_converges_as_tolerances_tighten():
    field = ic.nn.MLP((2, 16, 2), dtype=F64, seed=2)
    y0 = torch.tensor([[1.0, -0.5]], dtype=F64)
    ts = torch.linspace(0, 2, 5, dtype=F64)

    def grads(gradient, **options):
        loss = ic.solve(field, y0, ts, gradient=gradient, **options).ys.square().sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(field.parameters()))])

    reference = grads("backprop", rtol=1e-12, atol=1e-13)
    errors = [
        float((grads("backsolve", rtol=tol, atol=tol) - reference).norm() / reference.norm())
        for tol in (1e-4, 1e-6, 1e-8)
    ]
    assert (
        all(error < tol for error, tol in zip(errors, (1e-4, 1e-6, 1e-8), strict=True)) and errors[2] < 1e-2 * errors[0]
    )


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("rk4", 4), ("dopri5", 5)])
def test_backsolve_differs_from_backprop_by_the_solvers_order(solver, order):
    theta = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def grad(gradient, n):
        y = ic.solve(
            lambda t, y: torch.sin(theta * y) + t, one(), [0.0, 1.0], solver=solver, step=1 / n, gradient=gradient
        ).ys[-1]
        return torch.autograd.grad(y.sum(), theta)[0].item()

    gaps = [abs(grad(ic.Backsolve(check="off"), n) - grad("backprop", n)) for n in (20, 40)]
    assert math.log2(gaps[0] / gaps[1]) > order - 0.3  # the two leading errors may cancel, not more


def test_backsolve_jumps_at_every_observation():
    """a(t⁻) = a(t⁺) + g: with y' = y, dL/dy0 = Σ g_i e^{t_i}, each observation's share on its own."""
    t = torch.tensor([0.0, 0.5, 1.2, 2.0], dtype=F64)
    g = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=F64)
    y0 = one(requires_grad=True)
    ys = ic.solve(lambda t, y: y, y0, t, gradient="backsolve", rtol=1e-10, atol=1e-12).ys
    assert torch.autograd.grad((g * ys[:, 0]).sum(), y0)[0].item() == pytest.approx(
        float((g * t.exp()).sum()), rel=1e-8
    )


def test_backsolve_does_not_depend_on_the_scale_of_the_loss():
    """With an absolute tolerance on a alone a loss of 1e-9 would be integrated in one careless step."""
    field = ic.nn.MLP((2, 16, 2), dtype=F64, seed=2)
    grads = []
    for scale in (1.0, 1e-9, 1e9):
        loss = scale * ic.solve(field, torch.ones(1, 2, dtype=F64), [0.0, 2.0], gradient="backsolve").ys[-1].sum()
        grads.append(torch.autograd.grad(loss, next(iter(field.parameters())))[0] / scale)
    assert torch.allclose(grads[0], grads[1], rtol=1e-9) and torch.allclose(grads[0], grads[2], rtol=1e-9)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_backsolve_refuses_a_gradient_it_cannot_trust(batching):
    k = torch.tensor(50.0, dtype=F64, requires_grad=True)

    def f(t, y):
        return -k * (y - torch.cos(t)) + 0.1 * y**2

    def solve(gradient):
        return ic.solve(f, torch.zeros(1, 1, dtype=F64), [0.0, 1.0], gradient=gradient, batching=batching).ys[-1].sum()

    with pytest.raises(ic.GradientError, match=r"Backsolve: .* use gradient='checkpointed'"):
        solve("backsolve").backward()
    k.grad = None
    solve("checkpointed").backward()
    assert k.grad.isfinite()


def test_backsolve_checks_can_be_softened():
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64, requires_grad=True)
    a = torch.tensor([[-9.0, 1.0], [-1.0, -9.0]], dtype=F64)

    def backward(check):
        ic.solve(lambda t, y: y @ a, y0, [0.0, 1.5], gradient=ic.Backsolve(check=check), rtol=1e-3, atol=1e-5).ys[
            -1
        ].sum().backward()

    with pytest.raises(ic.GradientError, match="misses the stored y at t = 0"):
        backward("raise")
    with pytest.warns(UserWarning, match="not to be trusted"):
        backward("warn")
    backward("off")


@pytest.mark.parametrize("seminorm", [True, False])
def test_backsolve_with_its_own_solver_and_tolerances(seminorm):
    field = ic.nn.MLP((2, 30, 2), dtype=F64)
    y0 = torch.ones(4, 2, dtype=F64)

    def run(gradient):
        sol = ic.solve(field, y0, [0.0, 1.0], gradient=gradient, rtol=1e-8, atol=1e-10)
        grad = torch.autograd.grad(sol.ys[-1].square().sum(), next(iter(field.parameters())))[0]
        return grad, sol.stats.evaluations_backward

    exact, _ = run("checkpointed")
    tight, many = run(ic.Backsolve(seminorm=seminorm))
    loose, few = run(ic.Backsolve(solver="bosh3", rtol=1e-4, atol=1e-6, seminorm=seminorm))
    assert (
        few < many
        and torch.allclose(tight, exact, rtol=1e-6, atol=1e-9)
        and torch.allclose(loose, exact, rtol=1e-2, atol=1e-4)
    )
    fixed, count = run(ic.Backsolve(solver="rk4", controller=ic.FixedStep(max_step=0.1)))
    assert count == 40 and torch.allclose(fixed, exact, rtol=1e-3, atol=1e-6)


def test_the_seminorm_saves_evaluations_and_keeps_the_gradient():
    field = ic.nn.MLP((2, 256, 2), dtype=F64)
    counts = []
    for seminorm in (True, False):
        sol = ic.solve(field, torch.ones(1, 2, dtype=F64), [0.0, 3.0], gradient=ic.Backsolve(seminorm=seminorm))
        sol.ys[-1].sum().backward()
        counts.append(sol.stats.evaluations_backward)
    assert counts[0] <= counts[1]


# ---- Checkpointed -------------------------------------------------------------------------------------------------
def test_checkpointed_counts_one_extra_forward():
    y0 = one(requires_grad=True)
    sol = ic.solve(lambda t, y: -y * t, y0, [0.0, 3.0], gradient=ic.Checkpointed(graphs=0))
    sol.ys[-1].sum().backward()
    assert sol.stats.evaluations_backward == 6 * sol.stats.accepted


@pytest.mark.parametrize("options", [{}, {"solver": "rk4", "step": 0.1}, {"jump_ts": [0.0, 1.3]}, {"dense": True}])
def test_steps_that_kept_their_graph_are_not_taken_again(options):
    """All, some or none of them: the same gradient, and calls of f on the way back for the others only."""
    field = ic.nn.MLP((2, 16, 2), seed=0, dtype=F64)
    y0 = torch.ones(3, 2, dtype=F64, requires_grad=True)

    def run(gradient):
        sol = ic.solve(field, y0, [0.0, 0.4, 1.3, 2.0], gradient=gradient, **options)
        y = sol.at(torch.tensor([0.2, 1.9])) if "dense" in options else sol.ys
        return torch.autograd.grad((y**2).sum(), [y0, *field.parameters()], retain_graph=True), sol

    want, _ = run(ic.Backprop())
    calls = []
    for graphs in (64 * 2**20, 10_000, 1):
        got, sol = run(ic.Checkpointed(graphs=graphs))
        calls.append(sol.stats.evaluations_backward)
        for x, y in zip(got, want, strict=True):
            assert torch.allclose(x, y, rtol=1e-10, atol=1e-12)
    assert calls[0] == 0 < calls[1] < calls[2]


def test_graphs_are_freed_with_the_solution_and_may_be_differentiated_twice():
    y0 = one(requires_grad=True)
    kept = []

    def f(t, y):
        k = torch.tanh(y) * t
        kept.append(weakref.ref(k))
        return k

    gc.collect()
    gc.disable()
    try:
        y = ic.solve(f, y0, TS).ys[-1].sum()
        first = torch.autograd.grad(y, y0, retain_graph=True)[0]
        assert torch.equal(first, torch.autograd.grad(y, y0)[0])
        assert any(ref() is not None for ref in kept)
        del y
        assert all(ref() is None for ref in kept)
    finally:
        gc.enable()


@pytest.mark.parametrize("way", GRADIENTS)
@pytest.mark.parametrize(
    "options", [{}, {"solver": "rk4", "step": 0.1}, {"batching": "per_sample"}, {"solver": "vern7"}]
)
def test_every_call_of_f_is_counted(way, options):
    k = torch.tensor(0.5, dtype=F64, requires_grad=True)
    calls = [0]

    def f(t, y):
        calls[0] += 1
        return -k * y

    sol = ic.solve(f, torch.ones(2, 1, dtype=F64), [0.0, 0.3, 1.0], **{**options, **way})
    forward = calls[0]
    sol.ys.sum().backward()
    assert bool((torch.as_tensor(sol.stats.evaluations) == forward).all())
    assert sol.stats.evaluations_backward == calls[0] - forward


def test_a_parameter_changed_between_the_two_ways_is_noticed():
    k = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y = ic.solve(lambda t, y: -k * y, one(), TS).ys[-1].sum()
    with torch.no_grad():
        k.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_checkpoints_stay_within_the_budget_and_cost_a_logarithm():
    """Binomial: with s places and n steps at most about n · log steps are taken again."""

    class Step:
        def __init__(self, index, y):
            self.index, self.y = index, y

        def _replace(self, y):
            return Step(self.index, y)

    for length, slots in ((1, 1), (7, 1), (100, 1), (100, 4), (257, 8), (1000, 12), (50, 50), (50, 100)):
        record = Record(slots)
        for i in range(length):
            record.add(Step(i, i))
            assert sum(s.y is not None for s in record.steps) <= slots
        taken = [0]

        def advance(step, y, taken=taken):
            assert step.index == y  # a step is only ever taken from its own start
            taken[0] += 1
            return y + 1

        order = [(step.index, y) for step, y in record.backwards(advance)]
        assert order == [(i, i) for i in range(length - 1, -1, -1)]
        if slots >= length:
            assert taken[0] == 0
        elif slots > 1:
            repeats = math.ceil(math.log(length) / math.log(slots)) + slots**0 * 6
            assert taken[0] <= length * repeats


def test_splits_lie_inside_the_run():
    for length in range(2, 60):
        for free in range(12):
            assert 1 <= split(length, free) <= length - 1


def test_nothing_is_kept_alive():
    for way in GRADIENTS:
        field = ic.nn.MLP((2, 8, 2))
        sol = ic.solve(field, torch.ones(3, 2), TS, **way)
        sol.ys.sum().backward()
        field.last = sol.ys  # a model that stores its own trajectory
        ref = weakref.ref(field)
        del field, sol
        gc.collect()
        assert ref() is None, gradient


@pytest.mark.parametrize("way", GRADIENTS)
def test_backward_twice_and_grad_accumulation(way):
    k = torch.tensor(0.5, dtype=F64, requires_grad=True)
    y = ic.solve(lambda t, y: -k * y, one(), TS, **way).ys[-1].sum()
    y.backward(retain_graph=True)
    first = k.grad.clone()
    y.backward()
    assert torch.allclose(k.grad, 2 * first)


# ---- audit --------------------------------------------------------------------------------------------------------
def test_the_audit_trusts_a_right_gradient_and_not_a_wrong_one():
    field = ic.nn.MLP((2, 8, 2), dtype=F64)
    y0 = torch.ones(3, 2, dtype=F64)
    good = audit.gradients(field, y0, [0.0, 0.5, 1.0], gradient="backsolve")
    assert good.trustworthy and {"y0", "ts", "layers.0.weight"} <= set(good.errors)
    assert all(row["spread"] < 1e-4 for row in good.errors.values())
    assert "this gradient agrees" in str(good) and "reconstruction" in str(good)
    model = ic.nn.NeuralODE(field, gradient=ic.Backsolve(solver="euler", controller=ic.FixedStep(0.5), check="off"))
    bad = audit.gradients(model, y0, [0.0, 0.5, 1.0])
    assert not bad.trustworthy and bad.largest > 0.01 and "NOT to be trusted" in str(bad)


def test_the_audit_reports_a_refusal():
    report = audit.gradients(
        lambda t, y: -60 * y + torch.cos(t) + 0.01 * y**2, torch.ones(1, dtype=F64), [0.0, 1.0], gradient="backsolve"
    )
    assert not report.trustworthy and "refused" in str(report) and report.reconstruction > 1e-2


def test_the_reconstruction_error():
    decay = audit.reconstruction(lambda t, y: -30 * y, torch.ones(1, dtype=F64), [0.0, 2.0])
    rotation = audit.reconstruction(
        lambda t, y: y.flip(-1) * torch.tensor([1.0, -1.0]), torch.ones(2, dtype=F64), [0.0, 2.0]
    )
    assert decay > 1.0 and rotation < 1e-5
    ragged = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, math.nan]], dtype=F64)
    assert audit.reconstruction(lambda t, y: -y, torch.ones(2, 1, dtype=F64), ragged, batching="per_sample") < 1e-5


@pytest.mark.parametrize("gradient", ["checkpointed", ic.Checkpointed(graphs=0), ic.Checkpointed(memory=2000)])
@pytest.mark.parametrize("pending", [1, 300, 1500])
def test_large_batches_write_their_observations_early(pending, gradient, monkeypatch):
    """What waits for interpolation is worked off in between, here after few numbers, in solves whose rows reject steps."""
    w = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)

    def grads(gradient):
        y0 = torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(8, 3).requires_grad_()
        ts = torch.linspace(0, 3, 12, dtype=torch.float64)
        options = {"batching": "per_sample", "gradient": gradient, "rtol": 1e-4}
        sol = ic.solve(lambda t, y: torch.sin(5 * y @ w) * (1 + t), y0, ts, **options)
        assert sol.stats.rejected.max() > 0
        weights = torch.linspace(-1, 1, sol.ys.numel(), dtype=torch.float64).reshape(sol.ys.shape)
        return torch.autograd.grad((sol.ys * weights).sum(), (y0, w))

    want = grads("backprop")
    monkeypatch.setattr(observations, "PENDING", pending)
    for got, exact in zip(grads(gradient), want, strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9)
