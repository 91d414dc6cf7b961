"""Fields compiled one by one: the interpreter's numbers, of programs, of derivatives, of whole solves and their gradients."""

import re

import pytest
import torch
from caches import own_cache
from fused_fields import FIELDS, Field
from torch import nn

import isocline as ic
from isocline.engines.fused import build, native
from isocline.engines.fused.derive import derive
from isocline.engines.fused.emit import specialise as emitter
from isocline.engines.fused.emit.blocks import blocks
from isocline.engines.fused.emit.specialise import Pending, address, emit, frame, library
from isocline.engines.fused.lanes import LANES
from isocline.engines.fused.plan import Plan
from isocline.engines.fused.trace import trace
from isocline.nn import MLP

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures(own_cache.__name__)]

F32, F64 = torch.float32, torch.float64


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def traced_of(field, size):
    return trace(field, torch.rand(LANES, 1, dtype=F64), random(LANES, size))


# ---- programs -----------------------------------------------------------------------------------------------------
def agree(field, size, dtype, count=37):
    """Both programs of a field, as compiled and as interpreted."""
    traced = traced_of(field, size)
    leaves = [leaf.detach() for leaf in traced.prologue()]
    given = {name: random(count, n, seed=k) for k, (name, n) in enumerate((("t", 1), ("y", size), ("g", size)))}
    whole = [native.Encoded(program) for program in (traced.program, derive(traced.program))]
    functions = library(frame(dtype, 2, emit("field", whole[0]), emit("derivative", whole[1])))
    for encoded, name in zip(whole, ("field", "derivative"), strict=True):
        inputs = {name: given[name].to(dtype) for name, _, _ in encoded.program.inputs}
        want, collected = native.evaluate(encoded, inputs, leaves)
        got, ours = native.evaluate(encoded, inputs, leaves, address(functions, name))
        loose = 1e-12 if dtype == F64 else 1e-4
        for a, b in zip([*got.values(), *ours], [*want.values(), *collected], strict=True):
            torch.testing.assert_close(a, b, rtol=loose, atol=loose * (1 + float(b.abs().max()) if b.numel() else 0))


SEVERAL = ["Lorenz", "exact trace", "powers", "where", "pieces", "softmax", "attention", "parameters beside", "nothing"]


@pytest.mark.parametrize("name", SEVERAL)
def test_small_programs(name):
    agree(Field(FIELDS[name]), 3, F64)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus"])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_networks(activation, dtype):
    """With layers that are written out, looped over, and multiplied by the interpreter's product; tiles that are not full."""
    agree(MLP((3, 5, 20, 3), activation, seed=1, time=True, dtype=F64), 3, dtype)


class Wide(nn.Module):
    """Long sums, copies, maxima and normalisations, and a number common to a loop."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(12, 24, dtype=F64), nn.LayerNorm(24, dtype=F64)
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, t, y):
        h = self.norm(self.layer(y)) * self.scale
        h = torch.softmax(h.flip(-1), -1) + h.roll(5, -1) * h.amax(-1, keepdim=True)
        return h[:, ::2] * h.sum(-1, keepdim=True) + h[:, 1::2] * torch.sin(t)


def test_wide_programs():
    agree(Wide(), 12, F64)


def test_intermediates_stay_in_registers():
    encoded = traced_of(Field(FIELDS["Lorenz"]), 3).encoded
    source = emit("field", encoded)
    assert [block.kind for block in blocks(encoded.plain)] == ["straight"]
    assert len(re.findall(r"high\[\(\d+\) \* NV \+ v\] = ", source)) == 3  # the outputs
    assert len(re.findall(r"= high\[\(\d+\) \* NV \+ v\];", source)) == 3  # the inputs


# ---- whole solves -------------------------------------------------------------------------------------------------
class LotkaVolterra(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([1.1, 0.4, 0.4, 0.1], dtype=dtype))

    def forward(self, t, y):
        (a, b, c, d), (prey, hunters) = self.rates, y.unbind(-1)
        return torch.stack((a * prey - b * prey * hunters, d * prey * hunters - c * hunters), -1)


SOLVED = {
    "Lorenz": (lambda dtype: Field(FIELDS["Lorenz"]).to(dtype), 3),
    "Lotka–Volterra": (LotkaVolterra, 2),
    "a network": (lambda dtype: MLP((2, 20, 2), seed=3, time=True, dtype=dtype), 2),
}


def solved(field, engine, y0, **options):
    """The solution, and the gradients by y0 and the parameters that have one."""
    y0 = y0.clone().requires_grad_()
    sol = ic.solve(field, y0, torch.linspace(0, 0.5, 4, dtype=F64), batching="per_sample", engine=engine, **options)
    loss = (sol.ys * torch.linspace(-1, 1, sol.ys.numel(), dtype=sol.ys.dtype).view(sol.ys.shape)).sum()
    return sol, torch.autograd.grad(loss, [y0, *field.parameters()], allow_unused=True)


@pytest.mark.parametrize(("dtype", "width"), [(F64, 1), (F64, 2), (F64, 8), (F32, 8)])
@pytest.mark.parametrize("name", SOLVED)
def test_whole_solves(name, dtype, width, monkeypatch):
    """The same steps and numbers, with the exact gradient and the continuous adjoint, adaptive and with fixed steps."""
    made, size = SOLVED[name]
    field, y0 = made(dtype), (1 + 0.2 * random(37, size)).to(dtype)
    monkeypatch.setattr(Plan, "_width", lambda self, samples, together: width)
    loose = 1e-11 if dtype == F64 else 2e-4
    for options in ({"rtol": 1e-5, "atol": 1e-5}, {"step": 0.02, "solver": "rk4"}):
        for gradient in ("checkpointed", "backsolve"):
            (a, plain), (b, ours) = (
                solved(field, ic.Fused(specialise), y0, gradient=gradient, **options) for specialise in (False, "wait")
            )
            if dtype == F64:
                assert torch.equal(a.stats.accepted, b.stats.accepted)
                assert torch.equal(a.stats.rejected, b.stats.rejected)
            torch.testing.assert_close(b.ys, a.ys, rtol=loose, atol=loose)
            for x, y in zip(ours, plain, strict=True):
                assert (x is None) == (y is None)
                if x is not None and y is not None:
                    assert float((x - y).norm()) <= 10 * loose * float(y.norm())


def test_the_compiled_functions_are_the_ones_that_run(monkeypatch):
    """Where they are another field's, the solve is of the other field."""
    other = frame(F64, 1, emit("field", traced_of(lambda t, y: y.abs(), 1).encoded, 10**6))
    monkeypatch.setattr(emitter, "library", lambda source: library(other))
    y0 = torch.ones(1, 1, dtype=F64)  # one vector, of whatever length
    with torch.no_grad():
        sol = ic.solve(lambda t, y: -y, y0, [0.0, 1.0], batching="per_sample", engine=ic.Fused("wait"))
    torch.testing.assert_close(sol.ys[-1], torch.e * y0, rtol=1e-6, atol=0)


# ---- compiling ----------------------------------------------------------------------------------------------------
def test_a_field_is_compiled_once_and_beside(own_cache, monkeypatch):
    source = emitter.forward(traced_of(Field(FIELDS["time"]), 3), F64, 1)
    pending = Pending(source)
    first = pending.result(wait=True)
    assert first is not None and address(first, "field") and pending.result() is first
    files = sorted(own_cache.iterdir())
    assert all(path.suffix == ".so" for path in files)
    library.cache_clear()
    monkeypatch.setattr(build, "_compiled", lambda *a: pytest.fail("compiled again"))
    assert address(library(source), "field")
    assert sorted(own_cache.iterdir()) == files


def test_solves_are_interpreted_until_it_is_there(monkeypatch):
    waited, begun = [], []
    real = Pending.result

    class Slow(Pending):
        def __init__(self, source):
            begun.append(source)
            super().__init__(source)

        def result(self, wait=False):
            waited.append(wait)
            return None if len(waited) == 1 else real(self, wait=True)

    monkeypatch.setattr(emitter, "Pending", Slow)
    y0 = torch.ones(3, 1, dtype=F64)
    field = Field(lambda s, t, y: -y * 0.75)
    with torch.no_grad():
        first, second = (
            ic.solve(field, y0, [0.0, 1.0], batching="per_sample", engine=ic.Fused(specialise=True)) for _ in range(2)
        )
    assert waited == [False, False] and len(begun) == 1
    torch.testing.assert_close(second.ys, first.ys, rtol=1e-14, atol=0)


def test_where_it_cannot_be_compiled_it_is_said_once(monkeypatch, caplog):
    def broken(*_):
        raise build.NoMachineError("no room")

    monkeypatch.setattr(build, "_compiled", broken)
    y0 = torch.ones(3, 1, dtype=F64)
    field = Field(lambda s, t, y: torch.cos(y) * 0.123)
    with torch.no_grad():
        for _ in range(2):
            found = ic.solve(field, y0, [0.0, 1.0], batching="per_sample", engine=ic.Fused("wait"))
        want = ic.solve(field, y0, [0.0, 1.0], batching="per_sample", engine="fused")
    assert torch.equal(found.ys, want.ys)
    assert caplog.text.count("stays interpreted: no room") == 1


def test_settings_are_checked():
    with pytest.raises(ValueError, match="specialise='soon': expected False, True or 'wait'"):
        ic.Fused(specialise="soon")


def test_a_model_takes_it():
    model = ic.nn.NeuralODE(MLP((2, 8, 2), seed=3), engine=ic.Fused("wait"), batching="per_sample")
    plain = ic.nn.NeuralODE(model.field, engine="fused", batching="per_sample")
    y0 = random(5, 2).float()
    torch.testing.assert_close(model(y0, [0.0, 1.0]), plain(y0, [0.0, 1.0]))
