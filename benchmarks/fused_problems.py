"""The fields of fused.py for PyTorch, with their twins for jax, `(t, y, parameters)`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from common import Net
from torch import Tensor, nn

import isocline as ic
from isocline.nn.cnf import Carried


class MLP(nn.Module):
    """tanh between linear layers, with weights large enough that a solve has work to do."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        with torch.no_grad():
            for p in self.parameters():
                scale = 1.6 / p.shape[-1] ** 0.5 if p.dim() == 2 else 0.1
                p.copy_(scale * torch.randn(p.shape, generator=generator))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            y = layer(torch.tanh(y) if i else y)
        return y


def cubic() -> nn.Module:
    """torchdiffeq's demonstration, trained on its cubic spiral where the samples of `ring` go."""
    net = Net().float()
    net.load_state_dict(spiral())
    return net


@cache
def spiral() -> dict[str, Tensor]:
    """The weights of `cubic`."""
    generator = torch.Generator().manual_seed(0)
    weights = [0.1 * torch.randn(shape, generator=generator) for shape in ((50, 2), (2, 50))]
    parameters = [weights[0], torch.zeros(50), weights[1], torch.zeros(2)]
    adam = torch.optim.Adam([p.requires_grad_() for p in parameters], 1e-2)
    for _ in range(1500):
        cubes = (3.2 * torch.rand(512, 2, generator=generator) - 1.6) ** 3
        slopes = cubes @ torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
        inner, bias, outer, shift = parameters
        loss = (torch.tanh(cubes @ inner.T + bias) @ outer.T + shift - slopes).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    names = "inner.weight", "inner.bias", "outer.weight", "outer.bias"
    return {name: p.detach() for name, p in zip(names, parameters, strict=True)}


def ring(batch: int) -> Tensor:
    """(batch, 2), from 0.5 to 1.5 away from the origin."""
    generator = torch.Generator().manual_seed(1)
    radius, angle = 0.5 + torch.rand(batch, generator=generator), 2 * torch.pi * torch.rand(batch, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


class Lorenz(nn.Module):
    """Lorenz (1963); components along `dim`."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim
        self.rates = nn.Parameter(torch.tensor([10.0, 28.0, 8 / 3]))

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        sigma, rho, beta = self.rates
        x, y, z = state.unbind(self.dim)
        return torch.stack([sigma * (y - x), x * (rho - z) - y, x * y - beta * z], self.dim)


def net_jax(t: Any, y: Any, p: Sequence[Any]) -> Any:
    import jax.numpy as jnp

    inner, bias, outer, shift = p
    return jnp.tanh((y**3) @ inner.T + bias) @ outer.T + shift


def mlp_jax(t: Any, y: Any, p: Sequence[Any]) -> Any:
    import jax.numpy as jnp

    for i in range(0, len(p), 2):
        y = (jnp.tanh(y) if i else y) @ p[i].T + p[i + 1]
    return y


def lorenz_jax(t: Any, state: Any, p: Sequence[Any]) -> Any:
    """Components first: contiguous rows, which XLA vectorises."""
    import jax.numpy as jnp

    (rates,) = p
    x, y, z = state
    return jnp.stack([rates[0] * (y - x), x * (rates[1] - z) - y, x * y - rates[2] * z])


def carried_jax(t: Any, state: Any, p: Sequence[Any]) -> Any:
    """The exact trace as both tangents pushed at once."""
    import jax
    import jax.numpy as jnp

    z = state[..., :2]
    push = jax.vmap(lambda v: jax.jvp(lambda z: mlp_jax(t, z, p), (z,), (jnp.broadcast_to(v, z.shape),)))
    slopes, products = push(jnp.eye(2, dtype=z.dtype))
    trace = products[0, ..., 0] + products[1, ..., 1]
    return jnp.concatenate([slopes[0], trace[..., None]], -1)


def closed_jax(t: Any, state: Any, p: Sequence[Any]) -> Any:
    """The exact trace in the closed form of two hidden layers."""
    import jax.numpy as jnp

    first, bias, middle, shift, last, end = p
    h = jnp.tanh(state[..., :2] @ first.T + bias)
    g = jnp.tanh(h @ middle.T + shift)
    core = middle * (first @ last).T
    trace = (((1 - h * h) @ core.T) * (1 - g * g)).sum(-1)
    return jnp.concatenate([g @ last.T + end, trace[..., None]], -1)


def flow() -> nn.Module:
    """The library's perceptron, with the weights of `MLP`."""
    perceptron = ic.nn.MLP((2, 64, 64, 2))
    with torch.no_grad():
        for ours, theirs in zip(perceptron.parameters(), MLP(2, 64, 64, 2).parameters(), strict=True):
            ours.copy_(theirs)
    return Carried(perceptron, 2)
