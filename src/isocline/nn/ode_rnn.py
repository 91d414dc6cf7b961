"""A recurrent network whose hidden state follows an ODE between observations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from isocline._types import Float, Tensor
from isocline.solve import solve


class Observations(NamedTuple):
    """Series of a batch, made rectangular: what is missing is zero and masked, what is padding has the last time.

    Attributes:
        ts: (T, B).
        x: (T, B, D), zero where missing.
        mask: (T, B, D) bool, True where a value was observed.

    Example:
        >>> x = torch.tensor([[[1.0]], [[float("nan")]], [[2.0]]])
        >>> seen = Observations.of(x, torch.tensor([0.0, 1.0, 2.0]))
        >>> seen.mask.flatten().tolist(), seen.compact().ts.flatten().tolist()
        ([True, False, True], [0.0, 2.0])
    """

    ts: Tensor
    x: Tensor
    mask: Tensor

    @classmethod
    def of(cls, x: Float[Tensor, "times batch observed"], ts: Any, mask: Any = None) -> Observations:
        """Checks and completes them.

        Args:
            x: time first, as `solve` returns states; NaN is missing.
            ts: (T,), of all samples, or (B, T), each sample its own with NaN as padding at the end; not decreasing.
            mask: (T, B, D) or (T, B), True or 1 where a value counts; None: all that is not NaN.

        Raises:
            ValueError: for shapes that do not fit and times that decrease.
        """
        if x.dim() != 3:
            raise ValueError(
                f"x: shape {tuple(x.shape)}, expected (times, batch, observed); x[:, None] is a batch of one"
            )
        count, batch, observed = x.shape
        ts = torch.as_tensor(ts, dtype=None if isinstance(ts, Tensor) else torch.float64, device=x.device)
        ts = ts if ts.is_floating_point() else ts.to(torch.float64)
        if tuple(ts.shape) not in ((count,), (batch, count)):
            raise ValueError(
                f"ts: shape {tuple(ts.shape)}, expected ({count},) or ({batch}, {count}) for x of shape {tuple(x.shape)}"
            )
        rows = ts[:, None].expand(count, batch) if ts.dim() == 1 else ts.t()
        real = ~rows.isnan()
        there = ~x.isnan() & real[..., None]
        if mask is not None:
            mask = torch.as_tensor(mask, device=x.device)
            if tuple(mask.shape) not in ((count, batch), (count, batch, observed)):
                raise ValueError(
                    f"mask: shape {tuple(mask.shape)}, expected ({count}, {batch}) or ({count}, {batch}, {observed})"
                )
            there = there & (mask if mask.dim() == 3 else mask[..., None]).bool()
        last = torch.where(real, rows, -torch.inf).amax(0)
        rows = torch.where(real, rows, torch.where(last.isinf(), 0.0, last))
        if count > 1 and bool((rows.diff(dim=0) < 0).any()):
            where = int((rows.diff(dim=0) < 0).any(0).nonzero()[0])
            raise ValueError(f"ts: decreases, or has NaN before a time, in sample {where}; sort each sample by time")
        return cls(rows, torch.where(there, x, 0.0), there)

    def compact(self, padding_first: bool = False) -> Observations:
        """Without the rows that say nothing: each sample's observed rows moved together.

        Padding follows them and has the last observed time; with `padding_first` it precedes them and has the first.
        """
        seen = self.mask.any(-1)
        counts = seen.sum(0)
        if bool(seen.all()):
            return self
        size = max(1, int(counts.max()))
        order = (seen if padding_first else ~seen).to(torch.uint8).argsort(stable=True, dim=0)
        order = order[-size:] if padding_first else order[:size]
        row = torch.arange(size, device=seen.device)[:, None]
        nearest = row.maximum(size - counts) if padding_first else row.minimum(counts - 1)
        ts = self.ts.gather(0, order).gather(0, nearest.clamp(0, size - 1))
        places = order[..., None].expand(-1, -1, self.x.shape[-1])
        return Observations(ts, self.x.gather(0, places), self.mask.gather(0, places))


class States(NamedTuple):
    """Hidden states (T, B, H) just before and just after each row; the same where nothing was observed.

    Example:
        >>> States(torch.zeros(3, 2, 4), torch.ones(3, 2, 4)).after.shape
        torch.Size([3, 2, 4])
    """

    before: Tensor
    after: Tensor


class ODERNN(nn.Module):
    """An RNN for irregular times: dh/dt = f(t, h) between observations, h ← cell(x_i, h) at each (Rubanova et al. 2019).

    h(t_i⁻) = solve(f, h(t_{i−1}⁺), t_{i−1} … t_i),  h(t_i⁺) = cell([x_i, mask_i], h(t_i⁻)).

    Every sample has its own times: one pass over the rows steps all of them at once, each from its own time to its next.
    Without a field it is an ordinary RNN, which with `gaps=True` is told the times.

    Args:
        inputs: D, numbers observed at a time.
        hidden: H, of the hidden state.
        field: f(t, h), t (B, 1) and h (B, H); a module's parameters become this module's. None: h waits unchanged.
        cell: makes the cell: (size of its input, H) -> module (input, h) -> h.
        backwards: start at the last observation and end before the first.
        max_step: longest step of Euler's method, in units of time: a gap is divided into equal steps. None: one step a
            gap. With other solvers, see `options`: their steps.
        gaps: append to the cell's input the (signed) time to the next stop in the direction taken; with all of them an
            RNN without a field knows where it ends.
        see_mask: append the mask to the cell's input; False suits data without missing values.
        **options: of `isocline.solve`, in place of Euler's method: each gap is then a solve over s in [0, 1],
            t = t_{i-1} + s (t_i - t_{i-1}). Give tolerances for an adaptive solver, `max_step` for a fixed one. Here
            engine="auto" and batching=None where nothing else is said, as for `NeuralODE`.

    Shapes:
        x (T, B, D), ts (T,) or (B, T), mask None, (T, B) or (T, B, D), as `Observations.of` says.

    Raises:
        ValueError: for shapes that do not fit or times that decrease; what `solve` raises.

    Source: Y. Rubanova, R. T. Q. Chen, D. Duvenaud, Latent ODEs for Irregularly-Sampled Time Series, NeurIPS 2019,
    algorithm 1. There, as here, Euler's method between observations.

    Example:
        >>> from isocline.nn import MLP, ODERNN
        >>> model = ODERNN(2, 8, MLP((8, 16, 8)), max_step=0.1)
        >>> x, ts = torch.randn(5, 3, 2), torch.rand(3, 5).sort(1).values  # each sample its own times
        >>> states = model(x, ts)
        >>> states.before.shape, model.encode(x, ts, at=1.0).shape
        (torch.Size([5, 3, 8]), torch.Size([3, 8]))
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        field: Callable[..., Any] | None = None,
        *,
        cell: Callable[[int, int], nn.Module] = nn.GRUCell,
        backwards: bool = False,
        max_step: float | None = None,
        gaps: bool = False,
        see_mask: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if min(inputs, hidden) < 1:
            raise ValueError(f"ODERNN: inputs={inputs} and hidden={hidden}, expected positive numbers")
        if max_step is not None and not max_step > 0:
            raise ValueError(f"ODERNN: max_step={max_step!r}, expected a positive number or None")
        self.inputs, self.hidden = inputs, hidden
        self.backwards, self.max_step, self.gaps, self.see_mask = backwards, max_step, gaps, see_mask
        self.field = field
        self.cell = cell(inputs * (2 if see_mask else 1) + int(gaps), hidden)
        self.options = options
        self.stretched: dict[str, _Stretched] = {}

    def forward(
        self,
        x: Float[Tensor, "times batch inputs"],
        ts: Any,
        mask: Any = None,
        h0: Float[Tensor, "batch hidden"] | None = None,
    ) -> States:
        """The hidden states at every row, observed or not, in the rows' order; `h0` is the state at the first one taken."""
        before, after = self._run(Observations.of(x, ts, mask), h0, None)
        return States(torch.stack(before), torch.stack(after))

    def encode(
        self,
        x: Float[Tensor, "times batch inputs"],
        ts: Any,
        mask: Any = None,
        at: float | None = None,
        h0: Float[Tensor, "batch hidden"] | None = None,
    ) -> Float[Tensor, "batch hidden"]:
        """The state after all observations, carried on to time `at` (None: where the last one left it).

        Rows of which a sample has seen nothing do not exist for it: they take no time and change no bit.
        """
        seen = Observations.of(x, ts, mask).compact(padding_first=not self.backwards)  # so that it is taken first
        if at is not None:  # a sample without observations waits there
            none = ~seen.mask.any(-1).any(0)
            seen = seen._replace(ts=torch.where(none, seen.ts.new_tensor(at), seen.ts))
        _, after = self._run(seen, h0, at)
        return after[0 if self.backwards else -1]

    def _run(self, seen: Observations, h0: Tensor | None, at: float | None) -> tuple[list[Tensor], list[Tensor]]:
        """States before and after each row; with `at` the last one taken is carried on to it."""
        ts, x, mask = (a.flip(0) for a in seen) if self.backwards else seen
        if x.shape[-1] != self.inputs:
            raise ValueError(f"x: {x.shape[-1]} numbers at a time, expected {self.inputs}")
        end = ts[-1:] if at is None else torch.full_like(ts[-1:], at)
        gaps = torch.cat([ts, end]).diff(dim=0)[..., None]  # (T, B, 1), from each row to the next
        counts = self._steps(gaps)
        gaps, times = gaps.to(x.dtype), ts[..., None].to(x.dtype)
        parts = [x, *([mask.to(x.dtype)] if self.see_mask else []), *([gaps] if self.gaps else [])]
        inputs, observed = torch.cat(parts, -1), mask.any(-1, keepdim=True)
        everywhere = observed.flatten(1).all(1).tolist()
        h = x.new_zeros(x.shape[1], self.hidden) if h0 is None else h0
        before, after = [], []
        for i in range(len(x)):
            before.append(h)
            new = self.cell(inputs[i], h)
            h = new if everywhere[i] else torch.where(observed[i], new, h)
            after.append(h)
            if i < len(x) - 1 or at is not None:
                h = self._evolve(h, times[i], gaps[i], counts[i])
        if at is not None:
            after[-1] = h
        return (before[::-1], after[::-1]) if self.backwards else (before, after)

    def _steps(self, gaps: Tensor) -> list[int]:
        """Steps of each gap, as many as the longest of the batch needs."""
        if self.max_step is None or self.field is None:
            return [1] * len(gaps)
        longest = gaps.detach().abs().flatten(1).amax(1).tolist()
        return [max(1, math.ceil(gap / self.max_step * (1 - 1e-6))) for gap in longest]

    def _evolve(self, h: Tensor, t: Tensor, gap: Tensor, steps: int) -> Tensor:
        """h at t + gap; t and gap (B, 1)."""
        if self.field is None:
            return h
        if not self.options:
            for k in range(steps):
                h = h + gap / steps * self.field(t + gap * (k / steps), h)
            return h
        options = self.options if self.max_step is None else {"step": 1 / steps, **self.options}
        kept = self.stretched.get("field")  # the same one in each call: an engine knows a field again that it has seen
        if kept is None or kept.field is not self.field:
            kept = self.stretched["field"] = _Stretched(self.field)
        given: dict[str, Any] = {"engine": "auto", "batching": None, **options}
        return solve(kept, h, (0.0, 1.0), args=(t, gap), **given).ys[-1]


class _Stretched(nn.Module):
    """A field over s in [0, 1], each sample's t running from its own t to its own t + gap."""

    def __init__(self, field: Callable[..., Any]) -> None:
        super().__init__()
        self.field = field

    def forward(self, s: Tensor, h: Tensor, t: Tensor, gap: Tensor) -> Tensor:
        return gap * self.field(t + s * gap, h)


__all__ = ["ODERNN", "Observations", "States"]
