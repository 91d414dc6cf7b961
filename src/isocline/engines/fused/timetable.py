"""When a solve on the machine is observed and where it steps to, as the machine reads it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from isocline.control import Controller, FixedStep
from isocline.control.schedule import jumps_at, row_stops
from isocline.engines.eager.problem import Problem

MOST = 10_000  # numbers of a table that is kept


@dataclass(frozen=True)
class Timetable:
    """Times on a clock that runs forwards.

    Attributes:
        keys: observations (B, T), inf where padded; (1, T) where all samples have the same, and so with
        stops: (B, S), times stepped to, the last one the end.
        sign: (B,) of the clock.
        jumps: (B, 1 + S), whether f jumps at the start and at the stops; None where it does nowhere.
    """

    keys: Tensor
    stops: Tensor
    sign: Tensor
    jumps: Tensor | None


def timetable(problem: Problem, controller: Controller) -> Timetable:
    """Of a problem, with the stops of a controller.

    Times that all samples have in common are mostly those of the solve before: a table of few numbers is kept.
    """
    ts: Tensor = problem.ts
    rows = problem.row_step_ts, problem.row_jump_ts, problem.field.time_dtype
    common = rows[0] is None and rows[1] is None and (ts.stride(0) == 0 or len(ts) == 1 or bool((ts == ts[:1]).all()))
    if not common:
        return _table(controller, ts, problem.step_ts, problem.jump_ts, *rows, len(ts))
    if ts.shape[1] + len(problem.step_ts) + len(problem.jump_ts) > MOST:
        return _table(controller, ts[:1], problem.step_ts, problem.jump_ts, *rows, len(ts))
    fixed = controller if isinstance(controller, FixedStep) else None
    return _kept(fixed, tuple(ts[0].tolist()), tuple(problem.step_ts), tuple(problem.jump_ts), rows[2], len(ts))


@lru_cache(maxsize=64)
def _kept(
    fixed: Controller | None,
    row: tuple[float, ...],
    step_ts: tuple[float, ...],
    jump_ts: tuple[float, ...],
    dtype: torch.dtype,
    count: int,
) -> Timetable:
    ts = torch.tensor([row], dtype=torch.float64)
    return _table(fixed, ts, list(step_ts), list(jump_ts), None, None, dtype, count)


def _table(
    controller: Controller | None,
    ts: Tensor,
    step_ts: list[float],
    jump_ts: list[float],
    row_step_ts: Tensor | None,
    row_jump_ts: Tensor | None,
    dtype: torch.dtype,
    count: int,
) -> Timetable:
    end = ts.gather(1, (~ts.isnan()).sum(1, keepdim=True) - 1)
    sign = torch.where(end >= ts[:, :1], 1.0, -1.0).to(torch.float64)
    stops, jump = row_stops(controller, ts, end, step_ts, jump_ts, row_step_ts, row_jump_ts, dtype)
    jumps = None
    if jump_ts or row_jump_ts is not None:
        jumps = torch.cat([jumps_at(ts[:, :1], jump_ts, row_jump_ts, dtype), jump], 1).to(torch.uint8)
    keys = (ts * sign).nan_to_num(nan=torch.inf)
    keys, stops = keys.double().contiguous(), (stops * sign).contiguous()
    return Timetable(keys, stops, (sign.expand(count, 1) if len(sign) == 1 else sign).contiguous(), jumps)
