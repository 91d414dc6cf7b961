"""The times a solve must step to exactly, and on which side of a jump `f` is asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.control.controllers import Controller, FixedStep


class Stops:
    """Times to end a step at: the given ones inside the interval, and its end.

    At a jump, the step that ends there must see `f` from before and the one that starts there from after. So the
    stages that fall on a jump get a time one spacing (of the dtype `f` gets) inside their step.

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
        self._jumps = {t for t in jump_ts if low <= t <= high}
        inside = {t for t in (*step_ts, *self._jumps) if low < t < high}
        self.times = [*sorted(inside, reverse=t1 < t0), t1]
        self._dtype = dtype

    def is_jump(self, t: float) -> bool:
        """Whether the stored slope at `t` must be discarded."""
        return t in self._jumps

    def inside(self, t: float, towards: float) -> float:
        """`t`, moved by one spacing of the field's dtype towards `towards` if `t` is a jump."""
        if t not in self._jumps:
            return t
        return nudge(t, towards, self._dtype)


def nudge(t: float, towards: float, dtype: torch.dtype) -> float:
    """The number next to `t` in `dtype`, towards `towards`."""
    return torch.nextafter(torch.tensor(t, dtype=dtype), torch.tensor(towards, dtype=dtype)).item()


def row_stops(
    controller: Controller, ts: Tensor, t_end: Tensor, step_ts: Sequence[float], jump_ts: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Stops of every sample and which of them are jumps, (B, J) both, padded with the sample's end.

    Args:
        controller: of fixed steps, whose grid points are all stops, or adaptive.
        ts: observation times (B, T), NaN where padded.
        t_end: the last of each, (B,).
        step_ts, jump_ts: common to all samples.
    """
    extra = [*step_ts, *jump_ts]
    fixed = isinstance(controller, FixedStep)
    if not extra and not fixed:
        stops = t_end.unsqueeze(1)
    elif not extra and fixed and controller.max_step is not None and _within(ts, controller.max_step):
        stops = torch.where(ts.isnan(), t_end.unsqueeze(1), ts)[:, 1:] if ts.shape[1] > 1 else t_end.unsqueeze(1)
    else:
        rows = [_one_row(controller, row, extra) for row in ts.tolist()]
        width = max(map(len, rows))
        stops = ts.new_tensor([row + [row[-1]] * (width - len(row)) for row in rows])
    if not jump_ts:
        return stops.contiguous(), torch.zeros_like(stops, dtype=torch.bool)
    return stops.contiguous(), torch.isin(stops, ts.new_tensor(list(jump_ts)))


def _within(ts: Tensor, max_step: float) -> bool:
    return bool((ts.diff(dim=1).abs().nan_to_num(nan=0.0) <= max_step).all())


def _one_row(controller: Controller, row: list[float], extra: Sequence[float]) -> list[float]:
    times = [t for t in row if t == t]
    if isinstance(controller, FixedStep):
        return controller.grid(list(dict.fromkeys(times)), extra)[1:] or [times[-1]]
    low, high = min(times[0], times[-1]), max(times[0], times[-1])
    inside = {t for t in extra if low < t < high}
    return [*sorted(inside, reverse=times[-1] < times[0]), times[-1]]
