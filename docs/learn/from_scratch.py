"""A neural ODE from scratch: Euler's method forwards, the adjoint of Chen et al. (2018) backwards.

Chapters 4 and 5 of these pages derive every line; the equation numbers are theirs. `isocline.solve` does the same with
any solver, adaptive steps, batches of times, and refusals where the adjoint would be wrong.
"""

from itertools import pairwise
from math import ceil

import torch


def euler(f, state, t0, t1, h_max):
    """state(t1) from state(t0), a list of tensors: equal steps no longer than h_max (1.4)."""
    n = max(1, ceil(abs(float(t1 - t0)) / h_max))
    h = (t1 - t0) / n
    for i in range(n):
        slopes = f(t0 + i * h, state)
        state = [x + h * dx for x, dx in zip(state, slopes, strict=True)]
    return state


def augmented(f, params):
    """d/dt [z, a, a_t, a_θ…]: f, and −a [∂f/∂z, ∂f/∂t, ∂f/∂θ] in one product (5.3)."""

    def slopes(t, state):
        z, a = state[:2]
        with torch.enable_grad():
            z, t = z.detach().requires_grad_(), t.detach().requires_grad_()
            dz = f(t, z)
            unused = {"allow_unused": True, "materialize_grads": True}  # their product is zero
            products = torch.autograd.grad(dz, [z, t, *params], -a, **unused)
        return [dz.detach(), *products]

    return slopes


class Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f, h_max, z0, ts, *params):
        zs = [z0]
        for t0, t1 in pairwise(ts):  # no graph in here: of all steps only z(t_i) is kept
            zs += euler(lambda t, state: [f(t, state[0])], [zs[-1]], t0, t1, h_max)
        ctx.f, ctx.h_max = f, h_max
        ctx.save_for_backward(torch.stack(zs), ts, *params)
        return torch.stack(zs)

    @staticmethod
    def backward(ctx, g):  # g[i] = ∂L/∂z(t_i), with every other z(t_j) held fixed
        zs, ts, *params = ctx.saved_tensors
        # L sees nothing after t_N (4.10, 5.4)
        a, a_t, *a_theta = [torch.zeros_like(x) for x in (zs[0], ts[0], *params)]
        grad_t = torch.zeros_like(ts)
        for i in reversed(range(1, len(ts))):
            grad_t[i] = (g[i] * ctx.f(ts[i], zs[i])).sum()  # a later t_i moves z(t_i) along f (5.5)
            a, a_t = a + g[i], a_t - grad_t[i]  # the jumps (4.9, 5.7)
            start = [zs[i], a, a_t, *a_theta]  # the stored z(t_i), not the one that arrived
            back = augmented(ctx.f, params)
            _, a, a_t, *a_theta = euler(back, start, ts[i], ts[i - 1], ctx.h_max)
        grad_t[0] = a_t
        return None, None, a + g[0], grad_t, *a_theta


class NeuralODE(torch.nn.Module):
    """z(t_i) at all ts, with gradients for z0, ts and the parameters of f, a module f(t, z)."""

    def __init__(self, f, h_max=0.05):
        super().__init__()
        self.f, self.h_max = f, h_max

    def forward(self, z0, ts):
        return Adjoint.apply(self.f, self.h_max, z0, ts, *self.f.parameters())
