"""Layers whose weights or offsets depend on time, and fields made of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn

from isocline._types import Float, Tensor
from isocline.nn.fields import uniform, xavier
from isocline.nn.tangents import SIGMAS, Affine, pushed, value_and_divergence


class TimeLayer(nn.Module):
    """What the layers share: at any time they are affine in x.

    A subclass gives `at(t) -> Affine`.

    Shapes:
        t 0-d or broadcasting against x, as `solve` gives it; x (..., in) -> (..., out).

    Example:
        >>> isinstance(ConcatSquash(2, 3), TimeLayer)
        True
    """

    def at(self, t: Float[Tensor, ...]) -> Affine:
        """The layer at time t."""
        raise NotImplementedError

    def forward(self, t: Float[Tensor, ...], x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        """A(t) x + c(t)."""
        return self.at(t)(x)


class Concat(TimeLayer):
    """W x + w t + b: the layer of a network that sees (x, t).

    Args:
        n_in, n_out: sizes of x and of what is returned.
        generator: of the initial weights; None: torch's own.
        dtype: of the weights.

    Example:
        >>> Concat(2, 3)(torch.tensor(0.5), torch.zeros(7, 2)).shape
        torch.Size([7, 3])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        weight = xavier(n_out, n_in + 1, generator, dtype)
        self.weight = nn.Parameter(weight[:, :-1].clone())
        self.slope = nn.Parameter(weight[:, -1].clone())
        self.bias = nn.Parameter(torch.zeros(n_out, dtype=dtype))

    def at(self, t: Float[Tensor, ...]) -> Affine:
        """The weights, and the offset at t."""
        return Affine(self.weight, None, self.bias + self.slope * t)


class ConcatSquash(TimeLayer):
    """(W x + b) * sigmoid(w_g t + b_g) + w_b t: time opens and shuts the units and shifts them.

    Source: Grathwohl et al., FFJORD (ICLR 2019), the layer of its experiments.

    Args:
        n_in, n_out, generator, dtype: as for `Concat`.

    Example:
        >>> ConcatSquash(2, 3)(torch.rand(7, 1), torch.zeros(7, 2)).shape  # every sample at its own time
        torch.Size([7, 3])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(xavier(n_out, n_in, generator, dtype))
        self.bias = nn.Parameter(torch.zeros(n_out, dtype=dtype))
        self.gate_slope, self.gate_bias, self.slope = (
            nn.Parameter(uniform(n_out, bound=1.0, generator=generator, dtype=dtype)) for _ in range(3)
        )

    def at(self, t: Float[Tensor, ...]) -> Affine:
        """The gate and the offset at t."""
        gate = torch.sigmoid(self.gate_bias + self.gate_slope * t)
        return Affine(self.weight, gate, self.bias * gate + self.slope * t)


class HyperLinear(TimeLayer):
    """W(t) x + b(t), both the output of a small network of t (a hypernetwork; Ha, Dai & Le 2017).

    Args:
        n_in, n_out, generator, dtype: as for `Concat`.
        width: of the hypernetwork's two hidden layers, tanh.

    Example:
        >>> HyperLinear(2, 3, width=8)(torch.tensor(0.5), torch.zeros(7, 2)).shape
        torch.Size([7, 3])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        width: int = 16,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.shape = (n_out, n_in)
        self.net = hypernetwork(width, n_out * (n_in + 1), generator, dtype)
        with torch.no_grad():  # at first a plain layer with a tenth of its size added by time
            last = self.net[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(0.1)
            last.bias[: n_out * n_in] = xavier(n_out, n_in, generator, dtype).flatten()

    def at(self, t: Float[Tensor, ...]) -> Affine:
        """One evaluation of the hypernetwork, for each time given."""
        values = self.net(t.reshape(1) if t.dim() == 0 else t)
        weight, shift = values.split([math.prod(self.shape), self.shape[0]], -1)
        return Affine(weight.unflatten(-1, self.shape), None, shift)


class Galerkin(TimeLayer):
    """W(t) x + b(t), both an expansion Σ_k φ_k(t) (W_k, b_k): weights that vary with depth.

    Source: Massaroli et al., Dissecting Neural ODEs (NeurIPS 2020), section 3.

    Args:
        n_in, n_out, generator, dtype: as for `Concat`.
        span: times between which the basis is defined; beyond them t counts as the nearer end.
        terms: of the expansion.
        basis: "chebyshev" polynomials; "fourier": 1, cos, sin, … with the span as period; "hat": linear between `terms`
            equally spaced knots (kinks there: give them to `solve` as `step_ts`).

    Raises:
        ValueError: for an unknown basis, too few terms, or an empty span.

    Example:
        >>> layer = Galerkin(2, 3, terms=4, basis="hat")
        >>> layer.functions(torch.tensor(0.5)), layer(torch.tensor(0.5), torch.zeros(7, 2)).shape
        (tensor([0.0000, 0.5000, 0.5000, 0.0000]), torch.Size([7, 3]))
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        span: tuple[float, float] = (0.0, 1.0),
        terms: int = 5,
        basis: str = "chebyshev",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if basis not in ("chebyshev", "fourier", "hat"):
            raise ValueError(f"Galerkin: basis={basis!r}, expected 'chebyshev', 'fourier' or 'hat'")
        least = 2 if basis == "hat" else 1
        if terms < least:
            raise ValueError(f"Galerkin: terms={terms}, expected at least {least} for basis={basis!r}")
        if span[0] == span[1]:
            raise ValueError(f"Galerkin: span={span}, expected two different times")
        self.span, self.terms, self.basis, self.shape = span, terms, basis, (n_out, n_in)
        coefficients = torch.zeros(terms, n_out, n_in + 1, dtype=dtype)
        # At first the weights do not change with time.
        coefficients[slice(None) if basis == "hat" else 0, :, :-1] = xavier(n_out, n_in, generator, dtype)
        self.coefficients = nn.Parameter(coefficients)

    def functions(self, t: Float[Tensor, ...]) -> Float[Tensor, "*rows terms"]:
        """φ(t): (terms,) for a 0-d t, else (*t.shape[:-1], terms)."""
        start, end = self.span
        s = (((t.reshape(1) if t.dim() == 0 else t) - start) / (end - start)).clamp(0.0, 1.0)
        if self.basis == "hat":
            knots = torch.arange(self.terms, dtype=s.dtype, device=s.device)
            return (1 - (s * (self.terms - 1) - knots).abs()).clamp(min=0.0)
        if self.basis == "fourier":
            order = torch.arange(self.terms, dtype=s.dtype, device=s.device)
            angle = 2 * math.pi * torch.div(order + 1, 2, rounding_mode="floor") * s
            return torch.where(order % 2 == 1, angle.sin(), angle.cos())
        x = 2 * s - 1
        values = [torch.ones_like(x), x]
        while len(values) < self.terms:
            values.append(2 * x * values[-1] - values[-2])
        return torch.cat(values[: self.terms], -1)

    def at(self, t: Float[Tensor, ...]) -> Affine:
        """The sum at t."""
        values = (self.functions(t) @ self.coefficients.flatten(1)).unflatten(-1, self.coefficients.shape[1:])
        return Affine(values[..., :-1], None, values[..., -1])


LAYERS: dict[str, Callable[..., TimeLayer]] = {
    "concat": Concat,
    "concatsquash": ConcatSquash,
    "hyper": HyperLinear,
    "galerkin": Galerkin,
}


class TimeMLP(nn.Module):
    """A multilayer perceptron of layers that depend on time: dy/dt = A_L(t, σ(… σ(A_1(t, y)) …)).

    It carries tangents along with its value, and has the trace of ∂f/∂y, with one hidden layer or two in closed form: `CNF`
    uses both.

    Args:
        sizes: widths, the first and the last the dimension of the state, e.g. (2, 64, 64, 2).
        layer: "concat" (`Concat`), "concatsquash" (`ConcatSquash`), "hyper" (`HyperLinear`), "galerkin" (`Galerkin`).
        activation: one of "tanh", "sigmoid", "softplus", "elu", "silu", "gelu", "relu".
        seed: of the initial weights, which come from a generator of their own.
        dtype: of the weights.
        **options: of the layers: `width` of a hypernetwork; `span`, `terms`, `basis` of an expansion.

    Shapes:
        t 0-d or broadcasting against y, y (..., sizes[0]) -> (..., sizes[-1]).

    Raises:
        ValueError: for fewer than two sizes, a size below one, or an unknown layer or activation.

    Example:
        >>> import torch
        >>> field = TimeMLP((2, 16, 16, 2), layer="concatsquash", seed=1)
        >>> field(torch.tensor(0.3), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        layer: str = "concatsquash",
        activation: str = "tanh",
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"TimeMLP: sizes={tuple(sizes)}, expected at least two positive widths such as (2, 32, 2)")
        if layer not in LAYERS:
            raise ValueError(f"TimeMLP: layer={layer!r}, expected one of {', '.join(LAYERS)}")
        if activation not in SIGMAS:
            raise ValueError(f"TimeMLP: activation={activation!r}, expected one of {', '.join(SIGMAS)}")
        generator = torch.Generator().manual_seed(seed)
        self.activation = activation
        self.layers = nn.ModuleList(
            LAYERS[layer](n_in, n_out, generator=generator, dtype=dtype, **options)
            for n_in, n_out in itertools.pairwise(sizes)
        )

    def forward(self, t: Float[Tensor, ...], y: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch slope"]:
        """dy/dt."""
        σ = SIGMAS[self.activation]
        for i, layer in enumerate(self.layers):
            y = layer(t, σ(y)[0] if i else y)
        return y

    def jvp(self, t: Float[Tensor, ...], y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """f and (∂f/∂y) v for several v at once, in one pass.

        Args:
            t: 0-d or broadcasting against y.
            y: (..., n).
            v: tangents, (K, ..., n), broadcasting against y.

        Returns:
            f (..., m) and (K, ..., m).
        """
        return pushed(self._at(t), SIGMAS[self.activation], y, v)

    def value_and_divergence(self, t: Float[Tensor, ...], z: Tensor) -> tuple[Tensor, Tensor]:
        """f (..., n) and tr ∂f/∂z (...): with two hidden layers at most, and one time for all samples or a last layer without
        a gate, at the cost of one more product, however many dimensions z has."""
        return value_and_divergence(self._at(t), SIGMAS[self.activation], z)

    def _at(self, t: Tensor) -> list[Affine]:
        return [cast(TimeLayer, layer).at(t) for layer in self.layers]


def hypernetwork(
    width: int, n_out: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """A network t -> `n_out` numbers with two hidden layers of tanh."""
    linears = [nn.Linear(a, b, dtype=dtype) for a, b in ((1, width), (width, width), (width, n_out))]
    with torch.no_grad():
        for linear in linears:
            linear.weight.copy_(xavier(linear.out_features, linear.in_features, generator, dtype))
            linear.bias.copy_(uniform(linear.out_features, bound=0.5, generator=generator, dtype=dtype))
        linears[-1].bias.zero_()
    return nn.Sequential(linears[0], nn.Tanh(), linears[1], nn.Tanh(), linears[2])
