"""Models that hold solves: copied, saved, trained for long, used by two threads; nothing is left behind."""

import copy
import gc
import io
import pickle
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import isocline as ic
from isocline.gradients import Gradient
from isocline.nn import MLP, NeuralODE
from isocline.solvers import Solver

TS = [0.0, 0.35, 1.0]
Y0 = torch.linspace(-1, 1, 6).view(3, 2)


class Field(torch.nn.Module):
    """With or without an input."""

    def __init__(self):
        super().__init__()
        self.net = MLP((2, 8, 2), seed=2)

    def forward(self, t, y, u=0.0):
        return self.net(t, y) + u


def far_away(t, y):
    return y[..., 0].sum() - 100.0


SETTINGS = {
    "defaults": {},
    "fixed steps": {"solver": ic.RK4(), "step": 0.1, "gradient": ic.Checkpointed(memory=4096)},
    "tensors in the tolerances": {
        "controller": ic.PID(rtol=torch.tensor([1e-3, 1e-4]), atol=1e-6),
        "gradient": ic.Backsolve(rtol=1e-3),
    },
    "implicit": {"solver": ic.Kvaerno3(), "gradient": ic.GaussAdjoint(solver="tsit5")},
    "samples": {"batching": "per_sample", "gradient": "backprop", "dense": True},
    "events": {"events": [ic.Event(far_away, name="far away")]},
    "doses": {"doses": ic.Dose([0.5], torch.ones(1, 3, 2))},
    "inputs": {"inputs": ic.LinearInterpolation([0.0, 1.0], torch.ones(2, 2))},
}


def through_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


def through_torch(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = [copy.copy, copy.deepcopy, through_pickle, through_torch]


def grads(model):
    """Of one pass; the model keeps them too."""
    model.zero_grad()
    model(Y0, TS).square().mean().backward()
    return [p.grad.clone() for p in model.parameters()]


# ---- copies -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_model_that_has_been_used_can_be_copied_and_saved(settings, copied):
    model = NeuralODE(Field(), **settings)
    want = grads(model)
    other = copied(model)
    assert str(other.stats) == str(model.stats)
    for g, w in zip(grads(other), want, strict=True):
        assert torch.equal(g, w)
    shared = copied is copy.copy
    assert all((p is q) == shared for p, q in zip(other.parameters(), model.parameters(), strict=True))


def test_weights_travel_as_a_state_dict():
    model, other = NeuralODE(Field(), **SETTINGS["samples"]), NeuralODE(Field(), rtol=1e-3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    assert list(model.state_dict()) == [f"field.net.layers.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")]
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(
        torch.cat([p.flatten() for p in other.parameters()]), torch.cat([p.flatten() for p in model.parameters()])
    )


def made(cls):
    try:
        return cls()
    except TypeError:
        return None  # it has a setting without default


@pytest.mark.parametrize("copied", COPIES)
def test_every_solver_and_gradient_can_be_copied(copied):
    things = [
        thing for cls in (*Solver.registry.values(), *Gradient.registry.values()) if (thing := made(cls)) is not None
    ]
    assert len(things) > 40
    for thing in [*things, ic.PID(1e-3, 1e-6), ic.FixedStep(max_step=0.1)]:
        assert copied(thing) == thing and type(copied(thing)) is type(thing)


@pytest.mark.parametrize("copied", COPIES)
def test_solutions_and_errors_can_be_copied(copied):
    with torch.no_grad():
        sol = ic.solve(Field(), Y0, TS, dense=True)
    assert torch.equal(copied(sol).at(0.6), sol.at(0.6))
    with pytest.raises(ic.SolveError) as caught:
        ic.solve(lambda t, y: y * y, torch.ones(1), [0.0, 2.0])
    other = copied(caught.value)
    assert str(other) == str(caught.value) and other.status is ic.Status.BLOW_UP
    assert torch.equal(other.solution.ys[0], torch.ones(1))


# ---- what is left behind ----------------------------------------------------------------------------------------------
def tensors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects warn when looked at
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def a_pass(model, y0):
    """With gradients in all there is, the field holding a tensor that is new every time."""
    ts = torch.tensor(TS, requires_grad=True)
    fresh = torch.rand(2, requires_grad=True)
    seen = weakref.ref(fresh)
    sol = ic.solve(lambda t, y: model.field(t, y) * fresh, y0, ts, **model.options)
    loss = sol.ys.square().mean()
    if model.options.get("dense"):
        loss = loss + sol.at(0.6).sum()
    model.zero_grad()
    loss.backward()
    assert fresh.grad is not None
    return seen


KINDS = [
    {"gradient": name, "batching": b}
    for name in ("backprop", "checkpointed", "backsolve", "gauss_adjoint")
    for b in ("shared", "per_sample")
]
KINDS += [
    {"dense": True},
    {"solver": "kvaerno3"},
    {"solver": "reversible_heun"},
    {"gradient": ic.Checkpointed(memory=64)},
]
KINDS += [
    {"events": ic.Event(far_away)},
    {"doses": ic.Dose([0.5], torch.ones(1, 3, 2))},
    {"engine": "unrolled", "step": 0.25},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(str(v).split("(")[0] for v in kind.values()))
def test_nothing_waits_for_the_garbage_collector(kind):
    """No cycle of references holds a tensor: what an iteration made is gone when it ends."""
    tolerances = {} if "step" in kind else {"rtol": 1e-2, "atol": 1e-2}
    model = NeuralODE(Field(), **kind, **tolerances)
    y0 = Y0.clone().requires_grad_()
    if "step" in kind:  # gradients in times are not for this engine
        run = lambda: (model.zero_grad(), model(y0, TS).square().mean().backward(), lambda: None)[-1]
    else:
        run = lambda: a_pass(model, y0)
    for _ in range(2):
        run()
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        for _ in range(5):
            assert run()() is None
        assert tensors() == before
    finally:
        gc.enable()


def test_two_hundred_iterations_leave_nothing_behind():
    model = NeuralODE(Field(), solver="heun", step=0.5)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train(count):
        for _ in range(count):
            optimiser.zero_grad()
            model(Y0, TS).square().mean().backward()
            optimiser.step()
        gc.collect()
        return len(gc.get_objects())

    before = train(20)
    assert train(200) - before < 20  # not one object in ten iterations


# ---- threads ----------------------------------------------------------------------------------------------------------
def test_two_threads_solve_at_once():
    def work(seed):
        y0 = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
        found = []
        for settings in (SETTINGS["defaults"], SETTINGS["samples"], SETTINGS["fixed steps"], SETTINGS["implicit"]):
            model = NeuralODE(Field(), **settings)
            with torch.set_grad_enabled(seed % 2 == 0):  # the mode is a thread's own
                ys = model(y0, TS)
            assert ys.requires_grad == (seed % 2 == 0)
            found.append(ys.detach())
            if ys.requires_grad:
                found += torch.autograd.grad(ys.square().sum(), list(model.parameters()))
        return found

    want = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            for got, expected in zip(pool.map(work, range(4)), want, strict=True):
                assert all(torch.equal(g, w) for g, w in zip(got, expected, strict=True))


def test_two_threads_share_one_model():
    model = NeuralODE(Field(), rtol=1e-4)
    starts = [Y0 * scale for scale in (0.5, 1.0, 1.5, 2.0)]
    want = [model(y0, TS) for y0 in starts]
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda y0: model(y0, TS), starts))
    for g, w in zip(got, want, strict=True):
        assert torch.equal(g, w)
        for a, b in zip(*(torch.autograd.grad(x.sum(), list(model.parameters())) for x in (g, w)), strict=True):
            assert torch.equal(a, b)
