"""States of several tensors, samples first: values, gradients and errors as by the eager engine."""

import pytest
import torch
from torch import nn

import isocline as ic
from isocline.engines.fused.lanes import CannotFuseError
from isocline.nn import CNF, MLP, ODERNN, LatentODE, MatrixField, NeuralCDE, NeuralODE, SecondOrderODE, TimeMLP

pytestmark = pytest.mark.machine

F64 = torch.float64
TS = torch.linspace(0, 1, 5, dtype=F64)
FINE = {"rtol": 1e-9, "atol": 1e-10}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Coupled(nn.Module):
    """Matrices, vectors and a number of each sample, in a dict with a tuple in it."""

    def __init__(self):
        super().__init__()
        self.inner = MLP((3, 8, 3), seed=3, dtype=F64)

    def forward(self, t, y):
        (a, q), b = y["pair"], y["b"]
        turned = (a @ b.unsqueeze(-1)).squeeze(-1)
        return {
            "b": self.inner(t, b) - turned,
            "pair": (-a * torch.sin(q).reshape(-1, 1, 1), torch.cos(t).reshape(-1) - q),
        }


def start(count=7):
    return {"b": normal(count, 3), "pair": (normal(count, 3, 3, seed=1), normal(count, seed=2))}


def leaves(y):
    return [y["b"], *y["pair"]]


@pytest.mark.parametrize("gradient", ["checkpointed", "backsolve"])
@pytest.mark.parametrize("how", [FINE, {"solver": "rk4", "step": 0.125}])
def test_values_and_gradients_are_those_of_the_eager_engine(how, gradient, solved):
    field = Coupled()
    found = []
    for engine in ("fused", "eager"):
        y0 = {"b": start()["b"].requires_grad_(), "pair": tuple(x.requires_grad_() for x in start()["pair"])}
        solution = ic.solve(field, y0, TS, engine=engine, batching="per_sample", gradient=gradient, **how)
        ys = leaves(solution.ys)
        assert [tuple(y.shape) for y in ys] == [(5, 7, 3), (5, 7, 3, 3), (5, 7)]
        loss = sum((y.square() * w).sum() for y, w in zip(ys, (1.0, 0.5, 2.0), strict=True))
        found.append([*ys, *torch.autograd.grad(loss, [*leaves(y0), *field.parameters()])])
    assert len(solved) == 1
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)


def test_tolerances_of_each_tensor_are_heeded():
    y0, field = start(), Coupled()
    for atol in (1e-3, {"b": 1e-3, "pair": (1e-9, 1e-3)}):
        found = [
            ic.solve(field, y0, TS, engine=engine, batching="per_sample", controller=ic.PID(0.0, atol))
            for engine in ("fused", "eager")
        ]
        assert torch.equal(found[0].stats.accepted, found[1].stats.accepted)
        torch.testing.assert_close(leaves(found[0].ys), leaves(found[1].ys), rtol=1e-6, atol=1e-8)


def test_states_of_one_form_and_other_names_are_not_taken_for_each_other():
    a, b = normal(4, 2), normal(4, 2, seed=1)

    def field(t, y):
        return {k: -v if k == "a" else v for k, v in y.items()}

    for first, second in (("a", "b"), ("c", "a")):
        ys = ic.solve(field, {first: a, second: b}, [0.0, 1.0], engine="fused", batching="per_sample", **FINE).ys
        for key, value in ((first, a), (second, b)):
            torch.testing.assert_close(ys[key][-1], value * torch.tensor(-1.0 if key == "a" else 1.0).exp())


def test_each_sample_has_its_own_times_and_events():
    ts = torch.stack([torch.linspace(0, end, 4, dtype=F64) for end in (1.0, 2.0, 3.0)])

    def fall(t, y):
        v = y[1]
        return v, -torch.ones_like(v)

    y0 = torch.tensor([[1.0], [2.0], [3.0]], dtype=F64), torch.zeros(3, 1, dtype=F64)
    ground = ic.Event(lambda t, y: y[0][:, 0], terminal=True)
    for events in (None, ground):
        found = [ic.solve(fall, y0, ts, engine=e, batching="per_sample", events=events) for e in ("fused", "eager")]
        torch.testing.assert_close(found[0].ys, found[1].ys, equal_nan=True)
        if events is not None:
            torch.testing.assert_close(found[0].event_ts, found[1].event_ts, equal_nan=True)


def test_complex_states_are_refused_by_name():
    with pytest.raises(CannotFuseError, match="made of real tensors"):
        ic.solve(
            lambda t, y: 1j * y, torch.ones(3, 2, dtype=torch.complex128), TS, engine="fused", batching="per_sample"
        )


def test_models_with_several_tensors_are_fused_by_default(solved, said):
    def field(t, x, v):
        return -torch.sin(x) - 0.1 * v

    model = NeuralODE(lambda t, y: (y[1], field(t, *y)))
    model((normal(6, 1), normal(6, 1, seed=1)), TS)
    SecondOrderODE(field)((normal(6, 1), normal(6, 1, seed=1)), TS)
    assert len(solved) == 2 and said() == []
    # One sample is not told from a state of vectors.
    model((normal(1)[0], normal(1)[0]), TS)
    assert len(solved) == 2


@pytest.mark.parametrize("window", [None, (0.2, 1.5)])
def test_latent_odes_are_fused_by_default_and_their_bound_is_that_of_the_eager_engine(window, solved, said):
    x, ts = normal(8, 5, 2), torch.linspace(0, 2, 8, dtype=F64)
    found = []
    for options in ({}, {"engine": "eager"}):
        torch.manual_seed(0)
        model = LatentODE(2, 3, rates=1 if window else 0, solver="rk4", step=0.1, **options).double()
        torch.manual_seed(1)
        bound = model.elbo(x, ts, window=window, samples=2) if window else model.elbo(x, ts, samples=2)
        bound.value.mean().backward()
        found.append([bound.value, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(solved) >= 1 and said() == []
    for got, want in zip(*found, strict=True):
        assert (got - want).norm() <= 1e-9 * want.norm()


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_flows_are_fused_by_default(trace, solved, said):
    x, found = normal(6, 2), []
    for options in ({}, {"engine": "eager"}):
        flow = CNF(TimeMLP((2, 8, 8, 2), dtype=F64, seed=1), 2, trace=trace, **FINE, **options).double()
        torch.manual_seed(0)
        value = flow.log_prob(x)
        found.append([value, *torch.autograd.grad(value.sum(), list(flow.parameters()))])
        assert isinstance(flow.stats.accepted, int)
    assert len(solved) == 1 and said() == []
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_controlled_equations_are_fused_by_default_with_and_without_own_times(solved, said):
    x, ts = normal(6, 4, 2), torch.rand(4, 6, dtype=F64).cumsum(1)
    ts[1, 4:] = torch.nan
    torch.manual_seed(0)
    for more in ({"solver": "rk4", "step": 1.0}, FINE):
        model = NeuralCDE(MatrixField(5, 3, 8, 1, "tanh", dtype=F64), nn.Linear(3, 5, dtype=F64), **more)
        found = []
        for engine in ("auto", "eager"):
            model.options["engine"] = engine
            z = model(x, ts)
            found.append([z, *torch.autograd.grad(z.square().sum(), list(model.parameters()))])
            assert isinstance(model.stats.accepted, int)
        torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)
    assert len(solved) == 2 and said() == []


def test_signals_that_all_samples_share_leave_the_steps_shared(solved, said):
    common = ic.LinearInterpolation([0.0, 1.0], normal(2, 1))
    each = ic.LinearInterpolation([0.0, 1.0], normal(3, 2, 1))
    for signal, count in ((each, 1), (common, 1), (ic.LinearInterpolation([0.0, 0.5, 1.0], normal(3, 3, 1)), 1)):
        ic.solve(lambda t, y, u: u - y, normal(3, 1), [0.0, 1.0], inputs=signal, engine="auto", batching=None)
        assert len(solved) == count
    assert len(said()) == 1


def test_recurrent_networks_with_a_solver_are_fused_by_default(solved, said):
    x, ts = normal(6, 4, 2), torch.rand(4, 6, dtype=F64).cumsum(1)
    torch.manual_seed(0)
    model = ODERNN(2, 5, MLP((5, 8, 5), dtype=F64), solver="rk4", max_step=0.25).double()
    found = []
    for engine in ("auto", "eager"):
        model.options["engine"] = engine
        z = model.encode(x, ts)
        found.append([z, *torch.autograd.grad(z.square().sum(), list(model.parameters()))])
    assert len(solved) == 5 and said() == []
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-10)


def test_a_hypernetwork_of_many_samples_is_evaluated_once_for_all(solved, said):
    flow = CNF(TimeMLP((2, 32, 32, 2), "hyper"), 2, solver="rk4", step=0.5)
    flow.log_prob(torch.randn(8, 2))
    assert len(solved) == 1 and said() == []
    for _ in range(2):
        flow.log_prob(torch.randn(2000, 2))
    assert len(solved) == 1
    (line,) = said()
    assert "of 2000 samples the eager engine is quicker" in line
    flow.log_prob(torch.randn(8, 2))
    assert len(solved) == 2
