"""Solves by the fused engine and their gradients, over what changes its way: for a machine to be compared with another."""

from itertools import product

import torch
from torch import nn

import isocline as ic
from isocline.nn import MLP

ACTIVATIONS = ["tanh", "softplus", "elu", "relu", "silu", "gelu", "sigmoid"]
DTYPES = [torch.float32, torch.float64]
BATCHES = [1, 3, 20, 100]
STEPS = {"fixed": {"solver": "rk4", "step": 0.1}, "adaptive": {"solver": "dopri5", "rtol": 1e-5, "atol": 1e-7}}


class Driven(nn.Module):
    """A network of the state and of a signal."""

    def __init__(self):
        super().__init__()
        self.layers = MLP((3, 20, 2), seed=1)

    def forward(self, t, y, u):
        return self.layers(t, torch.cat((y, u), -1))


class Oscillator(nn.Module):
    """Van der Pol's: a handful of products."""

    def __init__(self):
        super().__init__()
        self.damping = nn.Parameter(torch.tensor(0.8))

    def forward(self, t, y):
        x, v = y.unbind(-1)
        return torch.stack((v, self.damping * (1 - x * x) * v - x), -1)


class Blowup(nn.Module):
    """Of samples that start above 1 there is no solution at the end."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0))

    def forward(self, t, y):
        return self.rate * y * y


def given(name, dtype):
    """A field, and what a solve of it is told."""
    if name == "signal":
        knots, values = [0.0, 0.3, 1.0], [[0.0], [1.0], [-1.0]]
        return Driven(), {
            "inputs": ic.LinearInterpolation(torch.tensor(knots, dtype=dtype), torch.tensor(values, dtype=dtype))
        }
    if name == "compiled":
        return Oscillator(), {"engine": ic.Fused(specialise="wait")}
    if name == "blow-up":
        return Blowup(), {"throw": False}
    if name == "event":
        return MLP((2, 20, 2), seed=0), {"events": ic.Event(lambda t, y: y[:, 0] - y[:, 1])}
    return MLP((2, 20, 2), name, seed=0), {}


def solved(name, dtype, batch, steps):
    """States, gradients of y0 and of the parameters, counts."""
    field, options = given(name, dtype)
    field, options = field.to(dtype), {"engine": "fused", "batching": "per_sample", **STEPS[steps], **options}
    y0 = torch.randn(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(batch)).to(dtype)
    sol = ic.solve(field, y0.requires_grad_(), [0.0, 0.45, 1.0], **options)
    gradients = torch.autograd.grad(sol.ys.nan_to_num().square().sum(), [y0, *field.parameters()])
    stats = sol.stats
    return sol.ys.detach(), gradients, torch.stack((sol.status, stats.accepted, stats.rejected, stats.evaluations))


def write(path):
    """All of them, into a file."""
    torch.set_num_threads(1)
    names = [*ACTIVATIONS, "signal", "event", "compiled", "blow-up"]
    torch.save({case: solved(*case) for case in product(names, DTYPES, BATCHES, STEPS)}, path)
