"""Neural controlled differential equations: a state driven by data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from isocline._types import Float, Tensor
from isocline.inputs import Signal
from isocline.nn.control_path import KINDS, Derivative, control_path
from isocline.nn.fields import MLP
from isocline.solution import Solution
from isocline.solve import solve


class MatrixField(nn.Module):
    """A perceptron with values in the matrices, between −1 and 1: f(z) = tanh(W_L σ(… σ(W_1 z + b_1) …) + b_L).

    Args:
        hidden: dimension of z.
        channels: of the path.
        width, depth: of the hidden layers, and how many.
        activation, seed, last_gain, dtype: as for `MLP`.

    Shapes:
        z (..., hidden) -> (..., hidden, channels).

    Source: P. Kidger, J. Morrill, J. Foster, T. Lyons (NeurIPS 2020), whose fields end in tanh too: what
    a long series can add to the state is bounded.

    Example:
        >>> MatrixField(8, 3)(torch.tensor(0.0), torch.zeros(5, 8)).shape
        torch.Size([5, 8, 3])
    """

    def __init__(
        self,
        hidden: int,
        channels: int,
        width: int = 128,
        depth: int = 1,
        activation: str = "relu",
        *,
        seed: int = 0,
        last_gain: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        sizes = (hidden, *[width] * depth, hidden * channels)
        self.hidden, self.channels = hidden, channels
        self.net = MLP(sizes, activation, seed=seed, last_gain=last_gain, dtype=dtype)

    def forward(
        self, t: Float[Tensor, ...], z: Float[Tensor, "*batch hidden"]
    ) -> Float[Tensor, "*batch hidden channels"]:
        """f(z); t is not used."""
        return self.net(t, z).tanh().unflatten(-1, (self.hidden, self.channels))


class NeuralCDE(nn.Module):
    """Observations ↦ the solution of dz = f(z) dX, z(0) = initial(X(0)), X a path through them.

    Solved as dz/ds = f(s, z) dX/ds, s the number of the observation, twice that on a rectilinear path; see
    `control_path`. `solver="rk4", step=1.0` takes one step from observation to observation.

    Args:
        field: `f(s, z)`, a module: (..., H) -> (..., H, C′), C′ the channels of the path: those of x, one for time (where
            `ts` is given), with `intensity` those of x once more. E.g. `MatrixField`.
        initial: a module, X(0) (..., C′) -> z(0) (..., H).
        path: "hermite", "natural", "linear" or "rectilinear"; the last lets the states at observations be used online.
        intensity: whether counts of observations are channels too.
        returns: "end": z after the last observation of each sample, (B, H). "path": z at all observations, (K, B, H); a
            sample that has ended stays at its end.
        **options: everything `isocline.solve` takes: `solver`, `gradient`, `rtol`, `step`, `batching`, …; here engine="auto"
            and batching=None where nothing else is said, as for `NeuralODE`.

    Attributes:
        stats: of the last call; its backward count fills in with `backward()`.

    Raises:
        ValueError: for an unknown `path` or `returns`; when called, what `control_path` and `solve` raise, and where
            `field` returns another shape.

    Source: P. Kidger, J. Morrill, J. Foster, T. Lyons, Neural Controlled Differential Equations for Irregular Time Series
    (NeurIPS 2020).

    Example:
        >>> model = NeuralCDE(MatrixField(8, 3), torch.nn.Linear(3, 8), solver="rk4", step=1.0)
        >>> x, ts = torch.randn(20, 4, 2), torch.rand(4, 20).cumsum(1)
        >>> x[3:6, 0, 1] = float("nan")  # missing
        >>> ts[1, 12:] = float("nan")  # the second sample has 12 observations
        >>> model(x, ts).shape
        torch.Size([4, 8])
    """

    def __init__(
        self,
        field: nn.Module,
        initial: nn.Module,
        *,
        path: str = "hermite",
        intensity: bool = False,
        returns: str = "end",
        **options: Any,
    ) -> None:
        super().__init__()
        if path not in KINDS:
            raise ValueError(f"NeuralCDE: path={path!r}, expected one of {', '.join(KINDS)}")
        if returns not in ("path", "end"):
            raise ValueError(f"NeuralCDE: returns={returns!r}, expected 'path' or 'end'")
        self.field, self.initial = field, initial
        self.path, self.intensity, self.returns = path, intensity, returns
        self.options = options
        self.stats: Any = None

    def control(self, x: Tensor, ts: Any = None, lengths: Tensor | None = None) -> Signal:
        """X of a batch; arguments as of `control_path`."""
        return control_path(x, ts, lengths, kind=self.path, intensity=self.intensity)

    def solution(self, x: Tensor, ts: Any = None, lengths: Tensor | None = None, **options: Any) -> Solution:
        """The whole `Solution` in s, its `ys` (K or 2, B, H); `options` go over those of the model."""
        path = self.control(x, ts, lengths)
        z0 = self.initial(path.values[:, 0])
        end = path.values.shape[1] - 1
        stride = 2 if self.path == "rectilinear" else 1
        stops = range(0, end + 1, stride) if self.returns == "path" or end == 0 else (0, end)
        given: dict[str, Any] = {"engine": "auto", "batching": None, **self.options, **options}
        solution = solve(self._rate, z0, [float(s) for s in stops], inputs=Derivative(path), **given)
        if not torch.compiler.is_compiling():  # a graph has no counts
            self.stats = solution.stats
        return solution

    def forward(self, x: Tensor, ts: Any = None, lengths: Tensor | None = None) -> Tensor:
        """The states.

        Args:
            x: observations (K, B, C), time first, NaN where missing; or (K, C), without a batch in what is returned either.
            ts: their times (K,) or (B, K), NaN as padding; None where x has a channel of time already, or needs none.
            lengths: (B,), where the padding of `ts` does not say them.

        Returns:
            (B, H) or (K, B, H), see `returns`.
        """
        single = x.dim() == 2
        ys = self.solution(x.unsqueeze(1) if single else x, ts, lengths).ys
        if single:
            ys = ys.squeeze(1)
        return ys if self.returns == "path" else ys[-1]

    def _rate(self, s: Tensor, z: Float[Tensor, "batch hidden"], slope: Float[Tensor, "batch channels"]) -> Tensor:
        """dz/ds."""
        matrix = self.field(s, z)
        if matrix.shape != (*z.shape, slope.shape[-1]):
            raise ValueError(
                f"field: returned shape {tuple(matrix.shape)}, expected {(*z.shape, slope.shape[-1])}: a row for each of "
                f"the {z.shape[-1]} components of z, a column for each of the {slope.shape[-1]} channels of the path "
                f"(time and counts included)"
            )
        return (matrix * slope.unsqueeze(-2)).sum(-1)
