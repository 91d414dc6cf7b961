"""What Forward promises beyond the grid and the contracts of all methods."""

import pytest
import torch

import isocline as ic
from isocline.gradients import forward
from isocline.solvers import Solver

F64 = torch.float64
PLAIN = sorted(n for n, cls in Solver.registry.items() if not cls.wants_pair)
PAIRS = sorted(n for n, cls in Solver.registry.items() if cls.wants_pair)


def grads(gradient, solver="tsit5", batching="shared", **options):
    """Of a small network with arguments of each sample, observed at and between the ends of its steps."""
    field = ic.nn.MLP((2, 4, 2), seed=4, dtype=F64)
    y0 = torch.tensor([[0.5, -0.3], [1.0, 0.2], [0.1, 0.9]], dtype=F64, requires_grad=True)
    a = torch.tensor([[0.7], [1.1], [0.9]], dtype=F64, requires_grad=True)
    options = {"solver": solver, "batching": batching, "gradient": gradient, **options}
    if Solver.registry[solver].wants_pair:
        f = ic.second_order(lambda t, x, v, a: field(t, x) * a + torch.sin(t))
        ys = ic.solve(f, (y0, 0.4 * y0.detach()), [0.1, 0.5, 1.1], args=(a,), **options).ys[0]
    else:
        ys = ic.solve(lambda t, y, a: field(t, y) * a + torch.sin(t), y0, [0.1, 0.5, 1.1], args=(a,), **options).ys
    weights = torch.linspace(-1, 1, ys.numel(), dtype=F64).view(ys.shape)
    return torch.autograd.grad((weights * ys).sum() + (ys[1] ** 2).sum(), [y0, a, *field.parameters()])


def assert_same(got, want):
    for x, y in zip(got, want, strict=True):
        assert torch.allclose(x, y, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("solver", [*PLAIN, *PAIRS])
def test_it_is_backprop_to_rounding_with_every_solver(solver, batching):
    # As many steps as the solver looks back on, and more; three of one that looks at none.
    options = {"solver": solver, "batching": batching, "step": 0.15 if Solver.registry[solver]().remembers else 0.35}
    assert_same(grads("forward", **options), grads("backprop", **options))


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("options", [{}, {"max_step": 0.1, "solver": "rk4"}, {"jump_ts": [0.4]}, {"solver": "vern7"}])
def test_and_with_adaptive_steps_steps_to_the_observations_and_jumps(options, batching):
    assert_same(grads("forward", batching=batching, **options), grads("backprop", batching=batching, **options))


def test_samples_with_times_of_their_own_in_both_directions():
    ts = torch.tensor([[0.2, 0.5, 1.1], [1.0, 0.4, torch.nan], [0.3, 0.9, 0.9]], dtype=F64)
    y0 = torch.tensor([[1.0], [2.0], [0.5]], dtype=F64, requires_grad=True)
    k = torch.tensor([[0.5], [1.5], [0.9]], dtype=F64, requires_grad=True)
    results = []
    for gradient in ("forward", "backprop"):
        options = {"args": (k,), "batching": "per_sample", "gradient": gradient}
        ys = ic.solve(lambda t, y, k: torch.sin(k * y) + t, y0, ts, **options).ys
        results.append(torch.autograd.grad(ys.nan_to_num(0.0).square().sum(), (y0, k)))
    assert_same(*results)


def test_directions_in_chunks_give_the_same(monkeypatch):
    want = grads("forward")
    monkeypatch.setattr(forward, "AT_ONCE", 1)  # one at a time
    assert_same(grads("forward"), want)


class NoBatches(torch.autograd.Function):
    """tanh, with derivatives of any order, but no rule for a batch of cotangents."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return Scaled.apply(g, 1 - y * y)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, by):
        ctx.save_for_backward(x, by)
        return x * by

    @staticmethod
    def backward(ctx, g):
        x, by = ctx.saved_tensors
        if type(g).__name__ != "Tensor" or torch._C._functorch.is_batchedtensor(g):
            raise RuntimeError("no batching rule")
        return g * by, g * x


def test_an_operation_that_knows_no_batches_is_gone_through_one_direction_at_a_time():
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y0 = torch.tensor([0.5, -0.2], dtype=F64, requires_grad=True)
    results = []
    for gradient, f in (("forward", NoBatches.apply), ("backprop", torch.tanh)):
        ys = ic.solve(lambda t, y, f=f: f(k * y) + y.flip(0), y0, [0.0, 1.0], gradient=gradient).ys
        results.append(torch.autograd.grad(ys[-1].sum(), (y0, k)))
    assert_same(*results)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g


def test_a_field_that_autograd_differentiates_only_once_is_refused_by_name():
    k = torch.tensor(0.7, dtype=F64, requires_grad=True)
    for f in (lambda t, y: -k * Once.apply(y), lambda t, y: -Once.apply(k) * y):
        with pytest.raises(ic.GradientError, match="Forward: f cannot be differentiated twice"):
            ic.solve(f, torch.ones(1, dtype=F64), [0.0, 1.0], gradient="forward")
        with pytest.raises(ic.GradientError, match="Forward: f cannot be differentiated twice"):
            ic.solve(f, torch.ones(1, dtype=F64), [0.0, 1e-3], step=1e-4, gradient="forward")  # however short the steps


def test_too_many_numbers_are_refused_with_the_count_and_what_to_use():
    field = ic.nn.MLP((2, 2500, 2))
    y0 = torch.ones(3, 2, requires_grad=True)
    with pytest.raises(ic.GradientError, match=r"12,508 numbers .*6 of y0, 12,502 of 4 args.*gradient='checkpointed'"):
        ic.solve(field, y0, [0.0, 1.0], gradient="forward")
    small = ic.nn.MLP((2, 4, 2), dtype=F64)  # 22 parameters
    with pytest.raises(ic.GradientError, match=r"22 numbers .*1,056 bytes of sensitivities at 3 observations"):
        ic.solve(small, torch.ones(2, dtype=F64), [0.0, 1.0, 2.0], gradient=ic.Forward(memory=1055))
    ic.solve(small, torch.ones(2, dtype=F64), [0.0, 1.0, 2.0], gradient=ic.Forward(memory=1056, directions=22))
    for setting in ({"directions": 0}, {"memory": -1}):
        with pytest.raises(ValueError, match="expected a positive integer"):
            ic.Forward(**setting)


def test_backward_asks_no_field_and_may_be_repeated():
    k = torch.tensor([0.5, 0.2], dtype=F64, requires_grad=True)
    calls = [0]

    def f(t, y):
        calls[0] += 1
        return -k * y

    sol = ic.solve(f, torch.ones(2, dtype=F64), [0.0, 0.5, 1.0], gradient="forward")
    made = calls[0]
    rows = [torch.autograd.grad(y, k, retain_graph=True)[0] for y in sol.ys.flatten()]
    assert calls[0] == made == sol.stats.evaluations and sol.stats.evaluations_backward == 0
    t = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    want = torch.diag_embed(-t[:, None] * torch.exp(-k.detach() * t[:, None])).view(6, 2)
    assert torch.allclose(torch.stack(rows), want, rtol=1e-5, atol=1e-7)


def test_what_is_kept_does_not_grow_with_the_number_of_steps():
    kept = []
    for step in (0.1, 0.01):
        k = torch.tensor(0.5, dtype=F64, requires_grad=True)
        sol = ic.solve(lambda t, y, k=k: -k * y, torch.ones(4, dtype=F64), [0.0, 1.0], step=step, gradient="forward")
        node = sol.ys.grad_fn
        while not hasattr(node, "plan"):
            node = node.next_functions[0][0]
        tensors = [x for x in vars(node.plan).values() if isinstance(x, torch.Tensor)]
        kept.append(sum(x.numel() for x in tensors))
        assert sol.stats.accepted == round(1 / step)
    assert kept[0] == kept[1] == 2 * 2 * 4  # T · P · N sensitivities, and T · N marks of what was reached


def test_a_solve_that_stops_early_has_the_gradient_of_what_it_reached():
    y0 = torch.tensor([1.0], dtype=F64, requires_grad=True)
    sol = ic.solve(lambda t, y: y * y, y0, [0.0, 0.5, 2.0], gradient="forward", throw=False)
    assert sol.ys[2].isnan().all()
    (grad,) = torch.autograd.grad(sol.ys.nan_to_num(0.0)[1].sum(), y0)
    assert grad.item() == pytest.approx(4.0, rel=1e-5)  # of y0 / (1 − y0 t) at t = ½


def test_sensitivities_that_are_not_finite_are_no_gradient():
    k = torch.tensor(0.0, dtype=F64, requires_grad=True)
    y = ic.solve(lambda t, y: -y * (1 + k.sqrt()), torch.ones(1, dtype=F64), [0.0, 1.0], gradient="forward").ys[-1]
    with pytest.raises(ic.GradientError, match="Forward: the sensitivities are not finite"):
        torch.autograd.grad(y.sum(), k)


def test_what_it_does_not_have_is_refused_by_name():
    a = torch.tensor(0.3, dtype=F64, requires_grad=True)
    sol = ic.solve(lambda t, y: a * y, torch.ones(1, dtype=F64), [0.0, 1.0], gradient="forward", dense=True)
    with pytest.raises(ic.GradientError, match=r"Forward has no gradient through Solution\.at"):
        torch.autograd.grad(sol.at(0.5).sum(), a)


def test_under_a_transform_it_is_the_transforms_own_derivative():
    def end(k):
        return ic.solve(lambda t, y: -k * y, torch.ones(1, dtype=F64), [0.0, 1.0], gradient="forward").ys[-1].sum()

    k = torch.tensor(0.7, dtype=F64)
    _, tangent = torch.func.jvp(end, (k,), (torch.ones_like(k),))
    assert tangent.item() == pytest.approx(torch.func.grad(end)(k).item(), rel=1e-12)
