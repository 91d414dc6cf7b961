"""Graphs of what functions of tensors do."""

import subprocess
import sys

import pytest
import torch

from isocline.engines.fused.lanes import CannotFuseError
from isocline.engines.fused.record import record


def played(f, *inputs):
    return record(f, inputs, {})(*inputs)


def test_a_graph_computes_what_its_function_does_with_other_numbers_too():
    held = torch.tensor([1.0, 2.0, 3.0])

    def f(x, y):
        first, second = (x * held).split([1, 2])
        with torch.enable_grad():
            z = y.detach().requires_grad_()
            slope = torch.autograd.grad(z.sin().sum(), z)[0]
        return torch.cat([second, first]) + slope + torch.tensor(2.0)

    graph = record(f, (torch.zeros(3), torch.zeros(3)), {})
    x, y = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, -1.0, 0.5])
    torch.testing.assert_close(graph(x, y), f(x, y))
    held += 1.0
    torch.testing.assert_close(graph(x, y), f(x, y))


def test_numbers_of_what_is_held_and_of_constants_may_be_read_those_of_inputs_not():
    held, x = torch.tensor(3.0), torch.ones(2)
    assert torch.equal(played(lambda x: x * float(held) + float(torch.tensor(2.0) * 2), x), torch.full((2,), 7.0))
    for f in (lambda x: x * float(x.sum()), lambda x: x if x[0] > 0 else -x, lambda x: x * float((held * x).sum())):
        with pytest.raises(CannotFuseError, match="reads a number out of a tensor"):
            record(f, (x,), {})


def test_a_constant_that_is_written_into_is_new_each_time():
    def f(x):
        return x + torch.tensor(1.0).add_(x.sum())

    graph = record(f, (torch.zeros(2),), {})
    for _ in range(2):
        assert torch.equal(graph(torch.ones(2)), torch.full((2,), 4.0))


def test_a_fused_solve_does_not_load_the_compiler_of_pytorch():
    program = (
        "import sys, torch, isocline\n"
        "net = torch.nn.Linear(2, 2)\n"
        "ys = isocline.solve(lambda t, y: net(y), torch.ones(3, 2), [0.0, 1.0], engine='fused', batching='per_sample').ys\n"
        "ys.sum().backward()\n"
        "sys.exit(bool({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
