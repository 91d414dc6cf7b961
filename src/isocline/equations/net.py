"""A small network as one number in an equation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from isocline._types import Float
from isocline.equations.evaluate import Jet
from isocline.nn.fields import MLP


class Remainder(nn.Module):
    """net(a, b, …): gain · MLP((inputs - center) / spread), a single number.

    The weights are those of an `MLP` whose last layer starts small, so that a remainder begins near nothing; center,
    spread and gain are fixed numbers that bring what goes in and comes out to size one (`Equations.adapt` sets them).

    Args:
        inputs: numbers it depends on.
        width, depth: of the hidden layers.
        activation: "tanh", "softplus" or "sigmoid".
        seed: of the weights.
        dtype: of the weights.

    Shapes:
        (..., inputs) -> (...).

    Example:
        >>> net = Remainder(2, width=8)
        >>> net(torch.zeros(5, 2, dtype=torch.float64)).shape
        torch.Size([5])
    """

    center: Tensor
    spread: Tensor
    gain: Tensor

    def __init__(
        self,
        inputs: int,
        width: int = 32,
        depth: int = 1,
        activation: str = "tanh",
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.mlp = MLP((inputs, *[width] * depth, 1), activation, seed=seed, last_gain=0.2, dtype=dtype)
        self.register_buffer("center", torch.zeros(inputs, dtype=dtype))
        self.register_buffer("spread", torch.ones(inputs, dtype=dtype))
        self.register_buffer("gain", torch.ones((), dtype=dtype))

    @property
    def linears(self) -> list[nn.Linear]:
        """Its layers with weights."""
        return [layer for layer in self.mlp.layers if isinstance(layer, nn.Linear)]

    @property
    def count(self) -> int:
        """Weights and biases."""
        return sum(p.numel() for p in self.mlp.parameters())

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch"]:
        """The number."""
        return self.gain * self.mlp.layers((x - self.center) / self.spread).squeeze(-1)

    def jet(self, parts: Sequence[Jet], lead: torch.Size, like: Tensor, first: int | None, directions: int) -> Jet:
        """Its value and derivatives, by the chain rule from the last layer to the first.

        Args:
            parts: jets of the inputs.
            lead: the shape of a number in this evaluation.
            like: a tensor of the dtype and device.
            first: the direction of the first weight, where weights are differentiated by; the others follow it in the
                order of `parameters()`.
            directions: in all.
        """
        columns = [
            v if isinstance(v, Tensor) else torch.full((), v, dtype=like.dtype, device=like.device) for v, _ in parts
        ]
        x = torch.stack([column.expand(lead) for column in columns], -1)
        if first is None and all(d is None for _, d in parts):
            return self(x), None
        inputs, slopes, value = self._layers((x - self.center) / self.spread)
        total: Tensor | None = None
        pieces: list[Tensor] = []
        back = self.gain.expand(*lead, 1)
        for linear, h, slope in reversed(list(zip(self.linears, inputs, slopes, strict=True))):
            back = back if slope is None else back * slope
            if first is not None:
                outer = (back.unsqueeze(-1) * h.unsqueeze(-2)).reshape(*lead, linear.weight.numel())
                pieces = [outer, back, *pieces]
            back = back @ linear.weight
        by_input = back / self.spread
        for i, (_, tangent) in enumerate(parts):
            if tangent is not None:
                part = by_input[..., i].unsqueeze(-1) * tangent
                total = part if total is None else total + part
        if first is not None:
            before = torch.zeros((*lead, first), dtype=like.dtype, device=like.device)
            behind = torch.zeros((*lead, directions - first - self.count), dtype=like.dtype, device=like.device)
            own = torch.cat([before, *pieces, behind], -1)
            total = own if total is None else total + own
        return value, total

    def _layers(self, x: Tensor) -> tuple[list[Tensor], list[Tensor | None], Tensor]:
        """What goes into each layer, the slope of the activation behind it (None behind the last), and the value."""
        inputs: list[Tensor] = []
        slopes: list[Tensor | None] = []
        for layer in self.mlp.layers:
            if isinstance(layer, nn.Linear):
                inputs.append(x)
                x = layer(x)
                continue
            before, x = x, layer(x)
            if isinstance(layer, nn.Tanh):
                slopes.append(1.0 - x * x)
            else:
                slopes.append(x * (1.0 - x) if isinstance(layer, nn.Sigmoid) else torch.sigmoid(before))
        return inputs, [*slopes, None], self.gain * x.squeeze(-1)
