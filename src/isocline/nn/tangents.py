"""Perceptrons that carry tangents along with their value, and the trace of their Jacobian in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from isocline._types import Tensor


class Affine(NamedTuple):
    """A layer at one time: x -> gate * (weight x) + shift.

    Attributes:
        weight: (out, in), or (*rows, out, in) where every sample has its own time.
        gate: (out,) or (*rows, out); None stands for ones.
        shift: (out,) or (*rows, out).

    Example:
        >>> now = Affine(torch.eye(2), torch.tensor([1.0, 2.0]), torch.ones(2))
        >>> now(torch.ones(3, 2))[0], now.linear(torch.ones(2))
        (tensor([2., 3.]), tensor([1., 2.]))
    """

    weight: Tensor
    gate: Tensor | None
    shift: Tensor

    def linear(self, x: Tensor) -> Tensor:
        """The part linear in x, (..., in) -> (..., out): what the layer does to tangents."""
        w = self.weight
        out = functional.linear(x, w) if w.dim() == 2 else (w @ x.unsqueeze(-1)).squeeze(-1)
        return out if self.gate is None else out * self.gate

    def __call__(self, x: Tensor) -> Tensor:
        """The whole of it, (..., in) -> (..., out)."""
        return self.linear(x) + self.shift


def _tanh(a: Tensor) -> tuple[Tensor, Tensor]:
    h = a.tanh()
    return h, 1 - h * h


def _sigmoid(a: Tensor) -> tuple[Tensor, Tensor]:
    h = a.sigmoid()
    return h, h * (1 - h)


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    s = a.sigmoid()
    h = a * s
    return h, s + h * (1 - s)


def _gelu(a: Tensor) -> tuple[Tensor, Tensor]:
    below = torch.special.ndtr(a)
    return a * below, below + a * torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)


Sigma = Callable[[Tensor], tuple[Tensor, Tensor]]

# σ and σ′ at once.
SIGMAS: dict[str, Sigma] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": lambda a: (functional.softplus(a), a.sigmoid()),
    "elu": lambda a: (functional.elu(a), a.clamp(max=0.0).exp()),
    "silu": _silu,
    "gelu": _gelu,
    "relu": lambda a: (a.relu(), (a > 0).to(a.dtype)),
}


def pushed(layers: Sequence[Affine], sigma: Sigma, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """f = A_L(σ(… σ(A_1 y) …)) and (∂f/∂y) v for several v at once, in one pass.

    Args:
        layers: A_1, …, A_L.
        sigma: a -> (σ(a), σ′(a)).
        y: (..., n).
        v: tangents, (K, ..., n), broadcasting against y.

    Returns:
        f (..., m) and (K, ..., m).

    Example:
        >>> twice = Affine(2 * torch.eye(2), None, torch.zeros(2))
        >>> pushed([twice], SIGMAS["tanh"], torch.ones(2), torch.eye(2))[1]
        tensor([[2., 0.],
                [0., 2.]])
    """
    for i, layer in enumerate(layers):
        if i:
            y, slope = sigma(y)
            v = v * slope
        y, v = layer(y), layer.linear(v)
    return y, v.expand(len(v), *y.shape)


def value_and_divergence(layers: Sequence[Affine], sigma: Sigma, y: Tensor) -> tuple[Tensor, Tensor]:
    """f = A_L(σ(… σ(A_1 y) …)) and tr ∂f/∂y, with one hidden layer or two in closed form.

    With W_i the weights (gates in them) and d_i = σ′ at the i-th hidden layer, the Jacobian of two hidden layers is
    W_3 diag(d_2) W_2 diag(d_1) W_1, so that its trace is Σ_jk (d_2)_j (d_1)_k (W_2)_jk (W_1 W_3)_kj: beside f itself one
    product with a matrix that all samples share, where pushing tangents takes as many products as y has dimensions. With one
    hidden layer it is d_1 · diag(W_1 W_2). Three hidden layers and more, and last layers that differ between samples, push
    the tangents.

    Args:
        layers: A_1, …, A_L.
        sigma: a -> (σ(a), σ′(a)).
        y: (..., n).

    Returns:
        f (..., n) and its divergence (...).

    Example:
        >>> twice = Affine(2 * torch.eye(2), None, torch.zeros(2))
        >>> value_and_divergence([twice, twice], SIGMAS["tanh"], torch.zeros(5, 2))[1]
        tensor([8., 8., 8., 8., 8.])
    """
    ends = layers[-1].gate
    if len(layers) > 3 or any(layer.weight.dim() > 2 for layer in layers) or (ends is not None and ends.dim() > 1):
        unit = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device).reshape(-1, *(1,) * (y.dim() - 1), y.shape[-1])
        f, products = pushed(layers, sigma, y, unit)
        return f, (products * unit).sum((0, -1))
    slopes, f = [], y
    for i, layer in enumerate(layers):
        if i:
            f, slope = sigma(f)
            slopes.append(slope if (gate := layers[i - 1].gate) is None else slope * gate)
        f = layer(f)
    first, last = layers[0].weight, layers[-1].weight
    last = last if ends is None else last * ends.unsqueeze(-1)
    if len(layers) == 1:
        return f, last.diagonal().sum().expand(y.shape[:-1])
    if len(layers) == 2:
        return f, functional.linear(slopes[0], (first.mT * last).sum(0, keepdim=True)).squeeze(-1)
    core = layers[1].weight * (first @ last).mT
    return f, (functional.linear(slopes[0], core) * slopes[1]).sum(-1)
