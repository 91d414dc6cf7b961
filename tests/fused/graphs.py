"""Compiled and exported models whose solve is one operator. Run by `test_operators.py`, in a process of its own."""

import subprocess
import sys

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.export import Dim, export

import isocline as ic
from isocline.nn import MLP, NeuralODE, TimeMLP


class Net(nn.Module):
    def __init__(self, field, **options):
        super().__init__()
        self.before, self.after = nn.Linear(3, 2), nn.Linear(2, 1)
        self.ode = NeuralODE(field, engine="fused", batching="per_sample", returns="end", **options)

    def forward(self, x):
        return self.after(torch.relu(self.ode(self.before(x), [0.0, 0.5, 1.0])))


class Odd(nn.Module):
    """Weights computed of parameters, a buffer, a constant."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 2))
        self.register_buffer("scale", torch.tensor([1.0, 2.0]))

    def forward(self, t, y):
        return torch.sin(y @ torch.linalg.matrix_exp(self.w - self.w.T) * self.scale) + torch.tensor([0.1, 0.2]) * t


FIELDS = {
    "MLP": lambda: MLP((2, 8, 2), seed=0),
    "hyper": lambda: TimeMLP((2, 6, 2), layer="hyper"),
    "concatsquash": lambda: TimeMLP((2, 6, 2), layer="concatsquash"),
    "computed": Odd,
}


def grads(model, like, x):
    named = dict(model.named_parameters())
    return torch.autograd.grad(model(x).square().sum(), [named[name] for name, _ in like.named_parameters()])


@pytest.mark.parametrize("name", FIELDS)
def test_a_compiled_model_is_one_graph(name):
    torch.manual_seed(0)
    torch._dynamo.reset()
    net, x = Net(FIELDS[name]()), torch.randn(7, 3)
    want = net(x), *grads(net, net, x)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    got = compiled(x)
    got = got, *torch.autograd.grad(got.square().sum(), list(net.parameters()))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(compiled(x[:4]), net(x[:4]))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), want[0].detach())
        for p in net.parameters():
            p.mul_(1.3)
    torch.testing.assert_close(compiled(x), net(x))


def test_a_field_that_changes_is_described_anew():
    torch._dynamo.reset()
    net, x = Net(MLP((2, 8, 2), seed=0)), torch.randn(7, 3)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    before = compiled(x)
    net.ode.field.layers[1] = nn.Sigmoid()
    torch.testing.assert_close(compiled(x), net(x))
    assert not torch.allclose(compiled(x), before)


def test_arguments_go_through():
    class Driven(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = MLP((2, 8, 2), seed=0)

        def forward(self, t, y, u, k, n):
            return self.net(t, y) + u - k * y * n

    torch._dynamo.reset()
    model = NeuralODE(Driven(), engine="fused", batching="per_sample")
    y, u, k = torch.randn(7, 2), torch.randn(7, 2, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    found = []
    for call in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        path = call(y, [0.0, 1.0], u, k, 2.0)
        found.append((path, *torch.autograd.grad(path.sum(), [u, k])))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


def test_a_failing_solve_raises_out_of_a_graph():
    class Square(nn.Module):
        def forward(self, t, y):
            return y * y

    torch._dynamo.reset()
    model = torch.compile(
        NeuralODE(Square(), engine="fused", batching="per_sample"), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(ic.SolveError, match="blows up"):
        model(torch.ones(2, 1), [0.0, 2.0])


def test_what_can_be_no_operator_stays_outside():
    torch._dynamo.reset()
    w = torch.ones(2)

    def model(y):
        return ic.solve(lambda t, y: -w * y, y * 2, [0.0, 1.0], engine="fused", batching="per_sample").ys + 1

    y = torch.randn(3, 2)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(y), model(y))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", FIELDS)
def test_an_exported_model_holds_it(name, strict):
    torch.manual_seed(0)
    net, x = Net(FIELDS[name](), rtol=1e-6, atol=1e-7), torch.randn(7, 3)
    program = export(net, (x,), dynamic_shapes=({0: Dim("batch")},), strict=strict)
    assert sum("isocline.tile_solve" in str(node.target) for node in program.graph.nodes) == 1
    module = program.module()
    for batch in (x, torch.randn(11, 3)):
        torch.testing.assert_close(module(batch), net(batch), rtol=1e-5, atol=1e-6)
    for g, w in zip(grads(module, net, x), grads(net, net, x), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-6)


def test_an_exported_model_runs_in_another_process(tmp_path):
    net, x = Net(MLP((2, 8, 2), seed=0)), torch.randn(7, 3)
    torch.export.save(export(net, (x,)), tmp_path / "net.pt2")
    torch.save((x, net(x).detach()), tmp_path / "xy.pt")
    code = f"""
import torch, isocline
x, y = torch.load({str(tmp_path / "xy.pt")!r})
print(float((torch.export.load({str(tmp_path / "net.pt2")!r}).module()(x) - y).abs().max()))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-6
