"""What tracers make of fixed steps: the same numbers. Run by `test_unrolled.py`, in a process of its own."""

import pytest
import torch
import torch._dynamo
from torch.export import Dim, export

import isocline as ic
from isocline.nn import MLP, NeuralODE

TS = [0.0, 0.4, 1.0]  # the second lies inside a step
BATCH = Dim("batch")


def model(**options):
    return NeuralODE(MLP((2, 8, 2), time=True), **{"solver": "rk4", "step": 0.5, **options})


class At(torch.nn.Module):
    """A model whose times are numbers of its own."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, y):
        return self.model(y, TS)


@pytest.mark.parametrize(
    ("options", "strict"), [({}, False), ({}, True), ({"batching": "per_sample", "solver": "tsit5"}, False)]
)
def test_an_exported_model_gives_the_same_numbers_for_batches_of_any_size(options, strict):
    at, y = At(model(**options)), torch.randn(4, 2)
    program = export(at, (y,), dynamic_shapes=({0: BATCH},), strict=strict).module()
    for batch in (y, torch.randn(9, 2)):
        assert torch.allclose(program(batch), at(batch), rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError, match="Guard failed"):
        program(torch.randn(4, 3))


def test_an_exported_model_can_be_trained():
    at, y = At(model()), torch.randn(4, 2)
    program = export(at, (y,)).module()
    got = torch.autograd.grad(program(y).square().sum(), list(program.parameters()))
    want = torch.autograd.grad(at(y).square().sum(), list(at.parameters()))
    for g, w in zip(got, want, strict=True):
        assert torch.allclose(g, w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("solver", "y0"), [("reversible_heun", torch.ones(3)), ("leapfrog", (torch.ones(3), torch.ones(3)))]
)
def test_solvers_with_a_memory_and_those_of_pairs_are_exported_too(solver, y0):
    field = (lambda t, y: (y[1], -y[0])) if isinstance(y0, tuple) else (lambda t, y: -y)
    ode = NeuralODE(field, solver=solver, step=0.25, returns="end")
    got, want = export(ode, (y0,)).module()(y0), ode(y0)
    assert torch.allclose(torch.stack(tuple(got)), torch.stack(tuple(want)), rtol=1e-5)


def test_a_signal_is_called_inside_of_the_field():
    on = ic.ZeroOrderHold(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 2.0]))
    ode = NeuralODE(lambda t, y: -y * on(t), solver="rk4", step=0.25)
    y = torch.ones(3)
    assert torch.allclose(export(ode, (y,)).module()(y), ode(y), rtol=1e-5)


def test_one_compiled_graph_of_solve_and_model():
    torch._dynamo.reset()
    ode, y = At(model(engine="unrolled")), torch.randn(4, 2)
    compiled = torch.compile(ode, fullgraph=True, backend="aot_eager")
    got, want = compiled(y), At(ode.model)(y)
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-6)
    grads = torch.autograd.grad(got.square().sum(), list(ode.parameters()))
    for g, w in zip(grads, torch.autograd.grad(want.square().sum(), list(ode.parameters())), strict=True):
        assert torch.allclose(g, w, rtol=1e-4, atol=1e-6)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="function `solve`"):
        torch.compile(At(model()), fullgraph=True, backend="aot_eager")(y)


def test_onnx_gives_the_same_numbers_for_batches_of_any_size(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(
            package, reason=f"{package} is not installed: pip install -c constraints.txt onnxscript onnxruntime"
        )
    import onnxruntime

    at, y = At(model()).eval(), torch.randn(4, 2)
    torch.onnx.export(at, (y,), tmp_path / "ode.onnx", dynamo=True, dynamic_shapes=({0: BATCH},), verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "ode.onnx")
    for batch in (y, torch.randn(9, 2)):
        (got,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        assert torch.allclose(torch.from_numpy(got), at(batch), rtol=1e-5, atol=1e-6)


ADAPTIVE = ({"step": None}, ValueError, "controller=PID.*fixed ones")
IMPLICIT = ({"solver": "kvaerno3"}, ValueError, "solver='kvaerno3' under torch.export.*explicit")
CONTINUOUS = ({"gradient": "backsolve"}, ic.GradientError, "gradient='backsolve'.*'checkpointed'")


@pytest.mark.parametrize(("options", "error", "says"), [ADAPTIVE, IMPLICIT, CONTINUOUS])
def test_what_cannot_be_exported_is_refused_by_name(options, error, says):
    with pytest.raises(error, match=says):
        export(model(**{"solver": "tsit5", **options}), (torch.ones(4, 2),), strict=False)


def test_times_whose_numbers_are_unknown_are_refused():
    with pytest.raises(ValueError, match=r"ts: a tensor.*Python numbers"):
        export(model(), (torch.ones(4, 2), torch.tensor(TS)), strict=False)


def test_autocast_around_an_exported_solve():
    class Cast(At):
        def forward(self, y):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(y)

    at, y = Cast(model()), torch.randn(4, 2)
    got = export(at, (y,), strict=False).module()(y)  # strict, torch itself loses nested autocast regions
    assert torch.equal(got, at(y)) or torch.allclose(got, at(y), atol=2**-9)
    assert not torch.allclose(got, at.model(y, TS), atol=1e-6)
