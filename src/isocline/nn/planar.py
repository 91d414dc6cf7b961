"""The planar field: a hidden layer whose divergence is a closed form."""

from __future__ import annotations

import torch
from torch import nn

from isocline._types import Float, Tensor
from isocline.nn.fields import uniform, xavier
from isocline.nn.time_dependent import hypernetwork


class PlanarField(nn.Module):
    """dz/dt = Σ_n σ_n(t) u_n tanh(w_n·z + b_n), with tr ∂f/∂z = Σ_n σ_n(t) (u_n·w_n) (1 − tanh²(w_n·z + b_n)).

    Source: Chen et al., Neural Ordinary Differential Equations (NeurIPS 2018), section 4, eq. 9 and 10.

    Args:
        dim: D, of the state.
        units: M, how many terms.
        mean: their mean in place of their sum (as torchdiffeq's example has it).
        hyper: None: u, w, b do not change with time. A width: they are the output of a network of t with two hidden
            layers of this width, u multiplied by the sigmoid of a further output.
        gate: σ_n(t), a network of t with a sigmoid at its end, says when a term acts; else σ_n = 1.
        seed: of the initial weights, which come from a generator of their own.
        dtype: of the weights.

    Shapes:
        t 0-d or broadcasting against z, z (..., D) -> (..., D).

    Raises:
        ValueError: for a size below one, or where `hyper` and `gate` are both given (`hyper` gates by itself).

    Example:
        >>> import torch
        >>> field = PlanarField(2, units=8)
        >>> f, divergence = field.value_and_divergence(torch.tensor(0.0), torch.ones(5, 2))
        >>> f.shape, divergence.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self,
        dim: int,
        units: int = 64,
        *,
        mean: bool = False,
        hyper: int | None = None,
        gate: bool = False,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if min(dim, units, 1 if hyper is None else hyper) < 1:
            raise ValueError(f"PlanarField: dim={dim}, units={units}, hyper={hyper}, expected positive numbers")
        if hyper is not None and gate:
            raise ValueError("PlanarField: hyper has a gate of its own; leave gate out")
        self.dim, self.units, self.mean = dim, units, mean
        generator = torch.Generator().manual_seed(seed)
        self.hyper = self.gate = None
        if hyper is not None:
            self.hyper = hypernetwork(hyper, units * (3 * dim + 1), generator, dtype)
            return
        self.u = nn.Parameter(xavier(units, dim, generator, dtype))
        self.w = nn.Parameter(xavier(units, dim, generator, dtype) * 2)
        self.b = nn.Parameter(uniform(units, bound=1.0, generator=generator, dtype=dtype))
        if gate:
            self.gate = hypernetwork(16, units, generator, dtype)

    def at(self, t: Float[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """u (..., M, D) with gate and mean in it, w (..., M, D) and b (..., M); the dots are the times' of the samples."""
        time = t.reshape(1) if t.dim() == 0 else t
        if self.hyper is not None:
            size = self.units * self.dim
            flat = self.hyper(time).split([size, size, size, self.units], -1)
            u, g, w = (x.unflatten(-1, (self.units, self.dim)) for x in flat[:3])
            u, b = u * torch.sigmoid(g), flat[3]
        else:
            u, w, b = self.u, self.w, self.b
            if self.gate is not None:
                u = u * torch.sigmoid(self.gate(time)).unsqueeze(-1)
        return (u / self.units if self.mean else u), w, b

    def forward(self, t: Float[Tensor, ...], z: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch state"]:
        """dz/dt."""
        u, w, b = self.at(t)
        return times(torch.tanh(times(z, w.mT) + b), u)

    def value_and_divergence(self, t: Float[Tensor, ...], z: Tensor) -> tuple[Tensor, Tensor]:
        """f (..., D) and tr ∂f/∂z (...)."""
        u, w, b = self.at(t)
        h = torch.tanh(times(z, w.mT) + b)
        return times(h, u), times(1 - h * h, (u * w).sum(-1, keepdim=True)).squeeze(-1)

    def jvp(self, t: Float[Tensor, ...], z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """f (..., D) and (∂f/∂z) v (K, ..., D) for tangents v (K, ..., D)."""
        u, w, b = self.at(t)
        h = torch.tanh(times(z, w.mT) + b)
        return times(h, u), times(times(v, w.mT) * (1 - h * h), u)


def times(x: Tensor, matrix: Tensor) -> Tensor:
    """x (..., n) times one matrix (n, m), or times each row's own (*rows, n, m)."""
    return x @ matrix if matrix.dim() == 2 else (x.unsqueeze(-2) @ matrix).squeeze(-2)
