"""Solves on a GPU: the processor's numbers, from every solver, gradient and model, and no more waits than the docs state.

ISOCLINE_TEST_DEVICE=cpu runs the same comparisons, less what only a GPU has, where there is none.
"""

import copy
import gc
import os
import warnings

import pytest
import torch
from torch import nn

import isocline as ic
from isocline.compat import torchdiffeq as compat
from isocline.gradients import Gradient
from isocline.nn import (
    CNF,
    MLP,
    ODERNN,
    AugmentedODE,
    HamiltonianODE,
    LatentODE,
    MatrixField,
    NeuralCDE,
    NeuralODE,
    TimeMLP,
)
from isocline.solvers import Solver

DEVICE = os.environ.get("ISOCLINE_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no GPU")
only_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="what only a GPU has")
F64 = torch.float64
BATCHINGS = ["shared", "per_sample"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = MLP((2, 8, 2), seed=4, dtype=F64)
        self.w = nn.Parameter(torch.tensor([0.3, -0.4], dtype=F64))

    def forward(self, t, y, a):
        return self.mlp(t, y) + torch.sin(3 * t) * self.w * a


class Pendulum(Net):
    def forward(self, t, y, a):
        x, v = y
        return v, -torch.sin(x) * a + torch.cos(t) * self.w


def start(device):
    return torch.tensor([[0.5, -0.3], [1.0, 0.2], [0.1, 0.9]], dtype=F64, device=device, requires_grad=True)


def solved(device, solver, **options):
    """ys and the gradients by y0, args, times and parameters, all on the processor."""
    pair = Solver.named(solver).wants_pair
    field = (Pendulum() if pair else Net()).to(device)
    y0 = start(device)
    a = torch.tensor([[0.7], [1.1], [0.9]], dtype=F64, device=device, requires_grad=True)
    ts = torch.tensor([0.1, 0.53, 1.1], dtype=F64, device=device, requires_grad=True)
    sol = ic.solve(field, (y0, 0.4 * y0) if pair else y0, ts, args=(a,), solver=solver, **options)
    ys = sol.ys[0] + 0.3 * sol.ys[1] if pair else sol.ys
    assert ys.device.type == torch.device(device).type
    wanted = [y0, a, ts, field.w] if pair else [y0, a, ts, *field.parameters()]
    loss = (ys * torch.linspace(-1, 1, ys.numel(), dtype=F64, device=device).reshape(ys.shape)).sum() + ys[1].sum()
    return [x.detach().cpu() for x in (ys, *torch.autograd.grad(loss, wanted))]


def same(one, other, tolerance=1e-9):
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("solver", sorted(Solver.registry))
def test_every_solver(solver, batching):
    options = {"solver": solver, "batching": batching, "step": 0.05}
    same(solved(DEVICE, **options), solved("cpu", **options))


# The kernels' last bits differ, so the choice of steps may: the tolerances bound what that does.
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("solver", sorted(n for n, cls in Solver.registry.items() if cls().error_order))
def test_every_choice_of_steps(solver, batching):
    loose = Solver.named(solver).order < 3
    options = {"solver": solver, "batching": batching, "rtol": 1e-5 if loose else 1e-8, "atol": 1e-6 if loose else 1e-9}
    same(solved(DEVICE, **options), solved("cpu", **options), 1e-4 if loose else 1e-6)


@pytest.mark.filterwarnings("ignore:Backsolve. y integrated backwards")
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("gradient", sorted(Gradient.registry))
def test_every_gradient(gradient, batching):
    solver = "reversible" if gradient == "reversible_adjoint" else "tsit5"
    options = {"solver": solver, "batching": batching, "gradient": gradient, "rtol": 1e-8, "atol": 1e-9}
    same(solved(DEVICE, **options), solved("cpu", **options), 1e-6)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_dense_output(batching):
    def found(device):
        sol = ic.solve(Net().to(device), start(device), [0.0, 1.0], args=(1.0,), dense=True, batching=batching)
        between = torch.linspace(0.1, 0.9, 5, dtype=F64)
        return [x.detach().cpu() for x in (sol.at(between), sol.derivative(between))]

    same(found(DEVICE), found("cpu"), 1e-6)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_events_that_reset(batching):
    def found(device):
        bounce = ic.Event(
            lambda t, y: y[..., 0] if batching == "per_sample" else y[0], reset=lambda t, y: y * y.new_tensor([0.0, -0.8]),
            direction=-1,
        )  # fmt: skip
        heights = [1.0] if batching == "shared" else [1.0, 2.0, 3.0]
        y0 = torch.tensor([[h, 0.0] for h in heights], dtype=F64, device=device, requires_grad=True)
        y0_ = y0[0] if batching == "shared" else y0
        g = torch.tensor(9.81, dtype=F64, device=device, requires_grad=True)

        def fall(t, y):
            return torch.stack((y[..., 1], -g.expand_as(y[..., 1])), -1)

        sol = ic.solve(fall, y0_, [0.0, 1.5], events=bounce, batching=batching, rtol=1e-9, atol=1e-10)
        grads = torch.autograd.grad(sol.event_ts.nansum() + sol.ys[-1].sum(), (y0, g))
        return [x.detach().cpu() for x in (sol.ys, sol.event_ts.nan_to_num(), *grads)]

    same(found(DEVICE), found("cpu"), 1e-7)


def test_signals_and_doses():
    def found(device):
        values = torch.tensor([[0.5], [-0.2], [0.3]], dtype=F64, device=device, requires_grad=True)
        amounts = torch.ones(2, 3, 2, dtype=F64, device=device, requires_grad=True)
        ys = ic.solve(
            lambda t, y, u: torch.sin(y) * u,
            start(device),
            [0.0, 1.0, 2.0],
            inputs=ic.LinearInterpolation([0.0, 0.7, 2.0], values),
            doses=ic.Dose([0.5, 1.5], amounts),
            rtol=1e-9,
            atol=1e-10,
        ).ys
        return [x.detach().cpu() for x in (ys, *torch.autograd.grad(ys.square().sum(), (values, amounts)))]

    same(found(DEVICE), found("cpu"), 1e-7)


def test_a_sample_that_blows_up_leaves_the_others_alone():
    y0 = torch.tensor([[1.0], [-1.0]], dtype=F64, device=DEVICE)
    sol = ic.solve(lambda t, y: y * y, y0, [0.0, 2.0], batching="per_sample", throw=False)
    assert sol.status.tolist() == [ic.Status.BLOW_UP, ic.Status.SUCCESS] and "sample 0" in sol.message
    assert sol.ys[-1, 1].item() == pytest.approx(-1 / 3, rel=1e-6)


def test_steady_states():
    def found(device):
        a = torch.tensor([0.7, 1.3], dtype=F64, device=device, requires_grad=True)
        y = ic.steady_state(lambda t, y: a - y - 0.1 * y**3, torch.zeros(2, dtype=F64, device=device)).y
        return [y.detach().cpu(), *(g.cpu() for g in torch.autograd.grad(y.sum(), a))]

    same(found(DEVICE), found("cpu"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ways", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams", "radauIIA5", "explicit_adams"])
def test_the_drop_in(method, ways):
    def found(device):
        field = Net().to(device)
        func = lambda t, y: field(t, y, 1.0)
        options = {"adjoint_params": tuple(field.parameters())} if ways == "odeint_adjoint" else {}
        ts = torch.linspace(0.0, 1.0, 21, dtype=F64, device=device)
        y0 = start(device)
        rtol = torch.full((2,), 1e-8, dtype=F64) if method == "dopri5" else 1e-8  # on the processor
        ys = getattr(compat, ways)(func, y0, ts, method=method, rtol=rtol, atol=1e-9, **options)
        return [x.detach().cpu() for x in (ys, *torch.autograd.grad(ys.square().sum(), (y0, *field.parameters())))]

    same(found(DEVICE), found("cpu"), 1e-6)


def test_a_signal_of_each_sample():
    def found(device):
        values = torch.linspace(-1, 1, 18, dtype=F64, device=device).reshape(3, 3, 2).requires_grad_()
        knots = [[0.0, 0.5, 1.0], [0.1, 0.4, 1.1], [0.0, 0.7, float("nan")]]
        ts = [[0.0, 1.0], [0.0, 0.8], [0.0, 0.9]]
        ys = ic.solve(
            lambda t, y, u: torch.sin(y) * u,
            start(device),
            torch.tensor(ts, dtype=F64),
            inputs=ic.CubicHermite(torch.tensor(knots, dtype=F64), values),
            batching="per_sample",
            rtol=1e-9,
            atol=1e-10,
        ).ys
        return [x.detach().cpu() for x in (ys, *torch.autograd.grad(ys.square().sum(), values))]

    same(found(DEVICE), found("cpu"), 1e-7)


# ---- models -------------------------------------------------------------------------------------------------------
def trained(model, loss, device):
    """The loss and the gradients of all weights."""
    model = copy.deepcopy(model).to(device)
    value = loss(model, device)
    return [
        x.detach().cpu() for x in (value, *torch.autograd.grad(value, list(model.parameters()), materialize_grads=True))
    ]


TS = torch.linspace(0, 1, 5, dtype=F64)
X = torch.linspace(-1, 1, 12, dtype=F64).reshape(6, 2)
SERIES = torch.sin(torch.linspace(0, 9, 60, dtype=F64)).reshape(5, 4, 3)
MODELS = {
    "NeuralODE": (lambda: NeuralODE(MLP((2, 8, 2))), lambda m, d: m(X.to(d), TS.to(d)).square().sum()),
    "NeuralODE, Backsolve": (
        lambda: NeuralODE(TimeMLP((2, 8, 2)), gradient="backsolve"),
        lambda m, d: m(X.to(d), TS.to(d)).square().sum(),
    ),
    "AugmentedODE": (
        lambda: AugmentedODE(MLP((4, 8, 4)), extra=2, returns="end"),
        lambda m, d: m(X.to(d)).square().sum(),
    ),
    "HamiltonianODE": (
        lambda: HamiltonianODE(MLP((4, 8, 1))),
        lambda m, d: m(torch.cat([X, X], 1).to(d), TS.to(d)).square().sum(),
    ),
    "CNF": (lambda: CNF(TimeMLP((2, 8, 2)), 2), lambda m, d: -m.log_prob(X.to(d)).mean()),
    "ODERNN": (lambda: ODERNN(3, 6), lambda m, d: m(SERIES.to(d), TS.to(d)).after.square().sum()),
    "NeuralCDE": (
        # Fixed steps: the field is made of ReLUs, between which a choice of steps hangs on the last bit.
        lambda: NeuralCDE(MatrixField(6, 4), nn.Linear(4, 6), solver="rk4", step=0.25),
        lambda m, d: m(SERIES.to(d), TS.to(d)).square().sum(),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model(name):
    make, loss = MODELS[name]
    torch.manual_seed(3)
    model = make().double()
    same(trained(model, loss, DEVICE), trained(model, loss, "cpu"), 1e-5)


def test_the_latent_ode():
    torch.manual_seed(0)
    model = LatentODE(3, 4).double().to(DEVICE)
    model.elbo(SERIES.to(DEVICE), TS.to(DEVICE)).value.mean().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


# ---- what only a GPU has ------------------------------------------------------------------------------------------
def waits(call):
    """How often the processor waited for the GPU."""
    call()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            result = call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return result, sum("synchroniz" in str(one.message) for one in seen)


@only_gpu
@pytest.mark.parametrize(("batching", "start"), [("shared", 6), ("per_sample", 24)])
def test_one_wait_a_step(batching, start):
    """Beside a few at the start and the end."""
    net = MLP((2, 16, 2)).cuda()
    y0 = torch.linspace(-1, 1, 8, device="cuda").reshape(4, 2)
    options = {"rtol": 1e-6, "atol": 1e-8, "batching": batching}
    with torch.no_grad():
        few, at_first = waits(lambda: ic.solve(net, y0, [0.0, 1.0], **options))
        many, in_all = waits(lambda: ic.solve(net, y0, [0.0, 20.0], **options))
    steps = [int(torch.as_tensor(sol.stats.accepted + sol.stats.rejected).max()) for sol in (few, many)]
    assert steps[1] > steps[0] + 10
    assert in_all - at_first <= steps[1] - steps[0] + (0 if batching == "shared" else 12)  # rows leave one by one
    assert at_first <= steps[0] + start


@only_gpu
def test_fixed_steps_wait_at_the_end_alone():
    net = MLP((2, 16, 2)).cuda()
    y0 = torch.randn(4, 2, device="cuda")
    with torch.no_grad():
        counts = [waits(lambda n=n: ic.solve(net, y0, [0.0, 1.0], solver="rk4", step=1 / n))[1] for n in (4, 64)]
    assert counts[0] == counts[1] <= 3


@only_gpu
@pytest.mark.parametrize("gradient", ["checkpointed", "backprop", "gauss_adjoint", "interpolating"])
def test_no_memory_is_left(gradient):
    net = MLP((2, 64, 2)).cuda()
    y0 = torch.randn(256, 2, device="cuda")

    def once():
        ic.solve(net, y0, [0.0, 1.0], gradient=gradient).ys.square().sum().backward()
        net.zero_grad()

    once()
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        once()
    gc.collect()
    assert torch.cuda.memory_allocated() == before


@only_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    torch.manual_seed(0)
    net = MLP((2, 64, 2)).cuda()
    y0 = torch.randn(64, 2, device="cuda")
    want = ic.solve(net, y0, [0.0, 1.0], rtol=1e-3, atol=1e-3).ys
    with torch.autocast("cuda", dtype=dtype):
        got = ic.solve(net, y0, [0.0, 1.0], rtol=1e-3, atol=1e-3).ys
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2)
    got.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


@only_gpu
def test_two_devices_are_refused_by_name():
    with pytest.raises(ValueError, match="device"):
        ic.solve(lambda t, y: y, (torch.ones(1), torch.ones(1, device="cuda")), [0.0, 1.0])


@only_gpu
def test_times_may_lie_on_the_processor():
    y0 = torch.ones(2, device="cuda")
    ts = torch.linspace(0, 1, 3, requires_grad=True)
    ys = ic.solve(lambda t, y: -y, y0, ts).ys
    (grad,) = torch.autograd.grad(ys[-1].sum(), ts)
    assert grad.device.type == "cpu" and grad[-1].item() == pytest.approx(
        -2 * torch.tensor(-1.0).exp().item(), rel=1e-3
    )
