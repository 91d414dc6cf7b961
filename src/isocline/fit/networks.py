"""Many networks of one shape as rows of one matrix: trained in one batch, they cost hardly more than one.

Every sample of a solve brings the parameters of its own network, so that networks and training windows share the lanes of
one solve (in the fused engine ten networks take twice the time of one, in the eager one hardly more than one).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from isocline.fit.season import Season
from isocline.nn import MLP

BOUND = 20.0  # standard deviations beyond which a field stands still at its edge: a path that runs away stays finite
PERIOD = "period"  # of the season of a field, what its file calls it
LAST_GAIN = 0.2  # of the last layer's first weights: a field that begins nearly at rest keeps the first solves short


class Field(nn.Module):
    """dy/dt = A (y, u) + MLP(y, u), in scaled coordinates: a linear field and what it leaves to be learned.

    Args:
        dim: of the state.
        hidden: widths of the hidden layers (tanh); none leaves dy/dt = A (y, u) + b.
        seed: of the initial weights; A begins at zero.
        inputs: m, of u; none leaves it out.
        season: a clock whose two numbers are the last of u; None leaves it out.

    Attributes:
        takes: what of a `Drive` is to be given: "u", and of a season "begin", the table's time at t = 0.

    Shapes:
        t 0-d or broadcasting against y, y (..., dim), given {"u": (..., inputs), "begin": (..., 1)} -> (..., dim).

    Example:
        >>> field = Field(2, (8,), seed=1)
        >>> field(torch.tensor(0.0), torch.zeros(5, 2, dtype=torch.float64)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, dim: int, hidden: Sequence[int], seed: int = 0, inputs: int = 0, season: Season | None = None
    ) -> None:
        super().__init__()
        width = dim + _driving(inputs, season)
        self.net = MLP((width, *hidden, dim), seed=seed, last_gain=LAST_GAIN, dtype=torch.float64)
        self.linear = nn.Linear(width, dim, bias=False, dtype=torch.float64)
        nn.init.zeros_(self.linear.weight)
        self.season, self.takes = season, _takes(inputs, season)
        if season is not None:  # kept with the weights
            self.register_buffer(PERIOD, torch.tensor(season.period, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor, given: dict[str, Tensor] | None = None) -> Tensor:
        """dy/dt."""
        x = torch.cat([y, *(u.expand(*y.shape[:-1], -1) for u in _driven(self, t, given))], -1)
        return self.net(t, x) + self.linear(x)


def _driving(inputs: int, season: Season | None) -> int:
    """How many numbers drive a field."""
    return inputs + (2 if season else 0)


def _takes(inputs: int, season: Season | None) -> tuple[str, ...]:
    """What of a `Drive` they are made of."""
    return (*(["u"] if inputs else []), *(["begin"] if season else []))


def _driven(field: Any, t: Tensor, given: dict[str, Tensor] | None) -> list[Tensor]:
    """Those numbers, of what a field is given that has `takes` and a `season`."""
    if given is None:
        return []
    out = [given["u"]] if "u" in field.takes else []
    return out if field.season is None else [*out, field.season.told(t, given["begin"])]


class Networks:
    """The layout of `Field`s of one shape in rows of a matrix.

    Args:
        dim: of the state.
        hidden: widths of the hidden layers.
        inputs: m, of u.
        season: a clock that drives all of them; None without.

    Attributes:
        size: parameters of one network.
        shrunk: (size,) 1 where a squared parameter costs (weights and inner biases), 0 where it does not (A and the last
            bias): however dear the network, the linear field stays free.
        field: f(t, y, *handed), or f(t, y, given, *handed), with a network for each sample: y (B, dim), what it is given as of
            `Field`, and what `handed` makes of their rows (B, size). Its attribute `takes` names what of a `Drive` that is.

    Example:
        >>> nets = Networks(2, (8,))
        >>> theta = nets.begin([0, 1, 2])
        >>> nets.slopes(theta, torch.zeros(3, 7, 2, dtype=torch.float64)).shape
        torch.Size([3, 7, 2])
    """

    def __init__(self, dim: int, hidden: Sequence[int], inputs: int = 0, season: Season | None = None) -> None:
        self.dim, self.hidden, self.inputs, self.season = dim, tuple(hidden), inputs, season
        width = dim + _driving(inputs, season)
        sizes = (width, *self.hidden, dim)
        self.shapes: list[tuple[int, ...]] = [s for n, m in pairwise(sizes) for s in ((m, n), (m,))] + [(dim, width)]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.size = sum(self.sizes)
        free = (len(self.shapes) - 2, len(self.shapes) - 1)
        costs = [torch.full((n,), float(i not in free), dtype=torch.float64) for i, n in enumerate(self.sizes)]
        self.shrunk = torch.cat(costs)
        self.takes = _takes(inputs, season)
        self.field: Callable[..., Tensor] = _PerSample(self.takes, season, self.sizes, self.shapes)

    def begin(self, seeds: Sequence[int]) -> Tensor:
        """(M, size): networks as they are before training."""
        fields = [Field(self.dim, self.hidden, seed, self.inputs, self.season) for seed in seeds]
        return torch.stack([torch.cat([p.detach().flatten() for p in f.parameters()]) for f in fields])

    def moving(self, penalty: Tensor) -> Tensor:
        """(M, size) 1 where a parameter is learned: where the penalty (M,) is infinite, what costs is 0 and stays there."""
        return 1.0 - self.shrunk * penalty.isinf().to(self.shrunk)[:, None]

    def parts(self, theta: Tensor) -> list[Tensor]:
        """(B, size) as weights (B, n, m) and biases (B, n), the matrix A last."""
        return _parts(theta, self.sizes, self.shapes)

    def handed(self, theta: Tensor) -> tuple[Tensor, ...]:
        """Rows (B, size) as `field` takes them: whole, since taking a row apart costs the fused engine nothing."""
        return (theta,)

    def slopes(self, theta: Tensor, y: Tensor, given: dict[str, Tensor] | None = None) -> Tensor:
        """dy/dt (M, R, dim) of every network at rows of its own (M, R, dim), `given` what drives it there, (M, R, …)."""
        return self.slopes_and_back(theta, y, given)[0]

    def slopes_and_back(
        self, theta: Tensor, y: Tensor, given: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """`slopes`, and what takes their cotangents (M, R, dim) back to θ (M, size)."""
        *layers, linear = self.parts(theta)
        y = torch.cat([y, *_driven(self, y.new_zeros(()), given)], -1)  # "begin" is then the time of each row
        last, xs = len(layers) - 2, [y]
        for i in range(0, len(layers), 2):
            x = torch.baddbmm(layers[i + 1][:, None], xs[-1], layers[i].mT)
            xs.append(torch.tanh(x) if i < last else x)

        def back(g: Tensor) -> Tensor:
            grads = [y.mT.bmm(g).mT]
            for i in range(last, -1, -2):
                x = xs[i // 2]
                grads += [g.sum(1), x.mT.bmm(g).mT]
                if i:
                    g = torch.ops.aten.tanh_backward(g.bmm(layers[i]), x)
            return torch.cat([part.flatten(1) for part in reversed(grads)], 1)

        return torch.baddbmm(xs[-1], y, linear.mT), back

    def module(self, theta: Tensor) -> nn.Module:
        """One row (size,) as a module."""
        field = Field(self.dim, self.hidden, inputs=self.inputs, season=self.season)
        with torch.no_grad():
            for p, values in zip(field.parameters(), theta.split(self.sizes), strict=True):
                p.copy_(values.view_as(p))
        return field

    def plain(self, theta: Tensor) -> tuple[Networks, Tensor]:
        """The layout that needs no record, and rows (M, size) as it has them."""
        return self, theta


def _parts(theta: Tensor, sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    return [p.reshape(-1, *shape) for p, shape in zip(theta.split(list(sizes), -1), shapes, strict=True)]


class _PerSample:
    """Products and sums, not batched matrix products: these the fused engine knows, and they cost it the same."""

    def __init__(
        self, takes: tuple[str, ...], season: Season | None, sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]
    ) -> None:
        self.takes, self.season = takes, season
        self.sizes, self.shapes = tuple(sizes), tuple(shapes)

    def __call__(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        y = y.clamp(-BOUND, BOUND)
        if self.takes:
            y = torch.cat([y, *_driven(self, t, args[0])], -1)
        *layers, linear = _parts(args[-1], self.sizes, self.shapes)
        x = y
        for i in range(0, len(layers), 2):
            x = (layers[i] * x[:, None, :]).sum(-1) + layers[i + 1]
            x = torch.tanh(x) if i < len(layers) - 2 else x
        return x + (linear * y[:, None, :]).sum(-1)
