"""The times a solve must step to exactly, and on which side of a jump `f` is asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.control.controllers import Controller, FixedStep


class Stops:
    """Times to end a step at: the given ones inside the interval, and its end.

    At a jump, the step that ends there must see `f` from before and the one that starts there from after. So the
    stages that fall on a jump get a time one spacing (of the dtype `f` gets) inside their step. A time is at a jump
    where `f` cannot tell the two apart, that is where they are one number in that dtype.

    Args:
        t0, t1: the interval, either direction.
        step_ts: further times to step to.
        jump_ts: times where `f` jumps.
        dtype: the real dtype `f` gets its time in.

    Example:
        >>> stops = Stops(0.0, 2.0, step_ts=[1.5], jump_ts=[1.0, 7.0], dtype=torch.float64)
        >>> stops.times, stops.is_jump(1.0), stops.inside(1.0, 2.0) > 1.0
        ([1.0, 1.5, 2.0], True, True)
    """

    def __init__(
        self, t0: float, t1: float, step_ts: Sequence[float], jump_ts: Sequence[float], dtype: torch.dtype
    ) -> None:
        low, high = min(t0, t1), max(t0, t1)
        inside = {t for t in (*step_ts, *jump_ts) if low < t < high}
        self.times = [*sorted(inside, reverse=t1 < t0), t1]
        self._dtype = dtype
        self._jumps = set(torch.tensor(list(jump_ts), dtype=torch.float64).to(dtype).tolist()) if jump_ts else None

    def is_jump(self, t: float) -> bool:
        """Whether the stored slope at `t` must be discarded."""
        return self._jumps is not None and torch.tensor(t, dtype=self._dtype).item() in self._jumps

    def inside(self, t: float, towards: float) -> float:
        """`t`, moved by one spacing of the field's dtype towards `towards` if `t` is a jump."""
        return nudge(t, towards, self._dtype) if self._jumps is not None and self.is_jump(t) else t


def nudge(t: float, towards: float, dtype: torch.dtype) -> float:
    """The number next to `t` in `dtype`, towards `towards`."""
    return torch.nextafter(torch.tensor(t, dtype=dtype), torch.tensor(towards, dtype=dtype)).item()


def row_stops(
    controller: Controller | None,
    ts: Tensor,
    t_end: Tensor,
    step_ts: Sequence[float],
    jump_ts: Sequence[float],
    row_step_ts: Tensor | None,
    row_jump_ts: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Stops of every sample and which of them are jumps, (B, S) both, padded with the sample's end.

    Args:
        controller: of fixed steps, whose grid points are all stops, or adaptive, or None for that.
        ts: observation times (B, T), NaN where padded.
        t_end: the last of each, (B, 1).
        step_ts, jump_ts: common to all samples.
        row_step_ts, row_jump_ts: of each sample, (B, J), NaN where padded.
        dtype: the real dtype `f` gets its time in.
    """
    extra = by_row(ts, [*step_ts, *jump_ts], row_step_ts, row_jump_ts)
    if isinstance(controller, FixedStep):
        if controller.max_step is not None:
            stops = between(ts[:, :1], t_end, [_divided(ts, controller.max_step), *extra])
        else:
            further = torch.cat(extra, 1).tolist() if extra else [()] * len(ts)
            rows = [_grid(controller, row, more) for row, more in zip(ts.tolist(), further, strict=True)]
            width = max(map(len, rows))
            stops = ts.new_tensor([row + [row[-1]] * (width - len(row)) for row in rows])
    else:
        stops = between(ts[:, :1], t_end, extra)
    return stops.contiguous(), jumps_at(stops, jump_ts, row_jump_ts, dtype)


def jumps_at(t: Tensor, jump_ts: Sequence[float], row_jump_ts: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Which of the times `t` (B, S) are jumps, common ones or of their sample; `dtype` as in `Stops`."""
    common, t = t.new_tensor(list(jump_ts)).to(dtype), t.to(dtype)
    found = torch.isin(t, common) if jump_ts else torch.zeros_like(t, dtype=torch.bool)
    if row_jump_ts is None or not row_jump_ts.shape[1]:
        return found
    # Compared with their neighbour from above: a table of all pairs would grow with the square of the knots.
    ordered = row_jump_ts.to(dtype).nan_to_num(nan=torch.inf).sort(1).values
    place = torch.searchsorted(ordered, t.contiguous()).clamp_(max=ordered.shape[1] - 1)
    return found | (ordered.gather(1, place) == t)


def by_row(like: Tensor, common: Sequence[float], *rows: Tensor | None) -> list[Tensor]:
    """Common times and those of each row, (B, J) each; those that there are. `like`: (B, …)."""
    tables = [like.new_tensor(list(common)).expand(len(like), -1)] if common else []
    return [*tables, *(x for x in rows if x is not None)]


def between(start: Tensor, end: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """The times (B, J) strictly between `start` and `end` (B, 1), each once, in the order of travel; then `end`."""
    if not tables:
        return end
    times = torch.cat(list(tables), 1)
    sign = torch.where(end >= start, 1.0, -1.0).to(times.dtype)
    clock, last = times * sign, end * sign
    clock = torch.where((clock > start * sign) & (clock < last), clock, torch.inf).sort(1).values
    repeated = torch.cat([torch.zeros_like(last, dtype=torch.bool), clock[:, 1:] == clock[:, :-1]], 1)
    clock = torch.where(repeated, torch.inf, clock).sort(1).values
    width = int(clock.isfinite().sum(1).max()) if clock.numel() else 0
    return torch.cat([torch.minimum(clock[:, :width], last), last], 1) * sign


def _divided(ts: Tensor, max_step: float) -> Tensor:
    """The ends (B, S), NaN padded, of equal steps of at most `max_step` between neighbouring times; as `FixedStep.grid`."""
    a, b = ts[:, :-1], ts[:, 1:]
    counts = ((b - a).abs() / max_step * (1 - 1e-12)).ceil().clamp(min=1).nan_to_num(nan=0.0).long()
    gap = torch.arange(counts.numel(), device=ts.device).repeat_interleave(counts.flatten())
    row, steps, ends = gap // max(1, counts.shape[1]), counts.flatten()[gap], b.flatten()[gap]
    place = torch.arange(len(gap), device=ts.device)
    k = place - (counts.flatten().cumsum(0) - counts.flatten())[gap] + 1
    start = a.flatten()[gap]
    width = counts.sum(1)
    out = ts.new_full((len(ts), int(width.max()) if width.numel() else 0), torch.nan)
    out[row, place - (width.cumsum(0) - width)[row]] = torch.where(k == steps, ends, start + (ends - start) * k / steps)
    return out


def _grid(controller: FixedStep, row: list[float], extra: Sequence[float]) -> list[float]:
    times = list(dict.fromkeys(t for t in row if t == t))
    return controller.grid(times, [t for t in extra if t == t])[1:] or [times[-1]]
