"""Ready-made vector fields."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from isocline._types import Float, Tensor
from isocline.nn.tangents import SIGMAS, Affine, Sigma, pushed, value_and_divergence

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}

KNOWN = {(made, made().extra_repr()): name for name, made in ACTIVATIONS.items()}


class MLP(nn.Module):
    """A multilayer perceptron as a vector field: dy/dt = W_L σ(… σ(W_1 y + b_1) …) + b_L.

    Weights are Xavier-uniform (Glorot & Bengio 2010) from a generator of their own, biases zero, so equal seeds give
    equal fields whatever else has drawn random numbers. `last_gain` below 1 starts near a field that stands still,
    which keeps the first solves short. `CNF` uses its `jvp` and `value_and_divergence`.

    Args:
        sizes: widths, the first and the last the dimension of the state, e.g. (2, 32, 2).
        activation: one of "tanh", "elu", "gelu", "relu", "sigmoid", "silu", "softplus". Smooth ones suit adaptive
            solvers better.
        seed: of the initial weights.
        last_gain: factor on the last layer's initial weights.
        time: append t to the input of the first layer (a field that depends on time).
        dtype: of the weights.

    Shapes:
        t 0-d or broadcasting against y, y (..., sizes[0]) -> (..., sizes[-1]).

    Raises:
        ValueError: for fewer than two sizes, a size below one, or an unknown activation.

    Example:
        >>> import torch
        >>> field = MLP((2, 32, 2), seed=1)
        >>> field(torch.tensor(0.0), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "tanh",
        *,
        seed: int = 0,
        last_gain: float = 1.0,
        time: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"MLP: sizes={tuple(sizes)}, expected at least two positive widths such as (2, 32, 2)")
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP: activation={activation!r}, expected one of {', '.join(ACTIVATIONS)}")
        self.time = time
        generator = torch.Generator().manual_seed(seed)
        widths = [sizes[0] + int(time), *sizes[1:]]
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            linear = nn.Linear(n_in, n_out, dtype=dtype)
            with torch.no_grad():
                linear.weight.copy_(xavier(n_out, n_in, generator, dtype, last_gain if i == len(widths) - 2 else 1.0))
                linear.bias.zero_()
            layers += [linear, ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, t: Float[Tensor, ...], y: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch slope"]:
        """dy/dt."""
        if self.time:
            y = torch.cat([y, t.expand(*y.shape[:-1], 1).to(y.dtype)], -1)
        return self.layers(y)

    def jvp(self, t: Float[Tensor, ...], y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """f (..., m) and (∂f/∂y) v (K, ..., m) for tangents v (K, ..., n), in one pass; NotImplemented if layers were replaced
        by others than `Linear` and the activations above."""
        known = self._at(t)
        return NotImplemented if known is None else pushed(*known, y, v)

    def value_and_divergence(self, t: Float[Tensor, ...], z: Tensor) -> tuple[Tensor, Tensor]:
        """f (..., n) and tr ∂f/∂z (...), with one hidden layer or two in closed form, at the cost of one more product however
        many dimensions z has; NotImplemented as for `jvp`."""
        known = self._at(t)
        return NotImplemented if known is None else value_and_divergence(*known, z)

    def _at(self, t: Tensor) -> tuple[list[Affine], Sigma] | None:
        """The layers at time t, and what is between them; None where that is not what was made here."""
        layers = list(self.layers.children())
        between = {(type(x), x.extra_repr()) for x in layers[1::2]}
        if (
            len(between) > 1
            or not between <= set(KNOWN)
            or any(x._forward_pre_hooks or x._forward_hooks for x in layers)
        ):
            return None
        affine = [
            Affine(x.weight, None, x.bias)
            for x in layers[::2]
            if isinstance(x, nn.Linear) and type(x).forward is nn.Linear.forward
        ]
        if len(affine) != len(layers[::2]):
            return None
        if self.time:
            weight, _, bias = affine[0]
            affine[0] = Affine(weight[:, :-1], None, bias + weight[:, -1] * t.to(weight.dtype))
        return affine, SIGMAS[KNOWN[between.pop()] if between else "tanh"]


def xavier(
    n_out: int, n_in: int, generator: torch.Generator | None, dtype: torch.dtype, gain: float = 1.0
) -> Float[Tensor, "n_out n_in"]:
    """Uniform numbers in ±gain √(6 / (n_in + n_out)) (Glorot & Bengio 2010)."""
    bound = (6.0 / (n_in + n_out)) ** 0.5 * gain
    return uniform(n_out, n_in, bound=bound, generator=generator, dtype=dtype)


def uniform(*shape: int, bound: float, generator: torch.Generator | None, dtype: torch.dtype) -> Tensor:
    """Uniform numbers in ±bound, drawn in float64."""
    return ((2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1) * bound).to(dtype)
