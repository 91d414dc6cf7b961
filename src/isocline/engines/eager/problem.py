"""What an engine is given and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from isocline.control import Controller, Observer
from isocline.control.schedule import jumps_at
from isocline.events import Watch
from isocline.field import VectorField
from isocline.solution import Stats, Status
from isocline.solvers import RungeKutta

Progress = Callable[[float, float, int], None]
OnStep = Callable[[Any], None]


@dataclass
class Problem:
    """One initial value problem, checked and resolved.

    Attributes:
        field: `f` on flat buffers.
        ts: observation times as Python floats; per-sample: (B, T) on the device, NaN where padded.
        solver, controller: resolved.
        step_ts, jump_ts: times to step to exactly; at the latter `f` jumps.
        row_step_ts, row_jump_ts: per-sample: further ones of each sample, (B, J), NaN where padded.
        max_steps: attempted steps before giving up (of each sample, per-sample).
        dense: keep the stages of every accepted step.
        whole_states: per-sample: record the whole batch's state with a step, so that checkpoints can be thinned.
        progress: called with (fraction done, time, accepted steps).
        observer: looks on, shared batching.
        start: (y0, f there), flat, where a gradient method had to evaluate it already: a leaf and its graph.
        alike: where an engine keeps what it laid out, for solves that differ in numbers alone; None where there may be none.
        watch: looks for events; at the first one (of each sample) the solve ends, and `ts` is cut, in place, to end there.
    """

    field: VectorField
    ts: Any
    solver: RungeKutta
    controller: Controller
    step_ts: list[float] = field(default_factory=list)
    jump_ts: list[float] = field(default_factory=list)
    row_step_ts: Tensor | None = None
    row_jump_ts: Tensor | None = None
    max_steps: int = 100_000
    dense: bool = False
    whole_states: bool = False
    progress: Progress | None = None
    observer: Observer | None = None
    start: tuple[Tensor, Tensor] | None = None
    alike: dict[str, Any] | None = None
    watch: Watch | None = None

    def take_start(self) -> tuple[Tensor, Tensor] | None:
        """`start`, once; None where `f` jumps there and must be asked anew."""
        start, self.start = self.start, None
        if start is None or not (self.jump_ts or self.row_jump_ts is not None):
            return start
        t0 = torch.tensor([self.ts[:1]], dtype=torch.float64) if isinstance(self.ts, list) else self.ts[:, :1]
        jumps = jumps_at(t0, self.jump_ts, self.row_jump_ts, self.field.time_dtype)
        return None if bool(jumps.any()) else start


@dataclass
class Trajectory:
    """What the loop returns, flat.

    Attributes:
        ys: (T, N), or per-sample (T, B, N); NaN where not reached. Gradient methods may return it as `VectorField.shaped`
            makes it: a view behind their own node would hide reference cycles through a model from the collector.
        y_end: the state where it stopped, (N,) or (B, N).
        state_end: the same with the memory of a solver that remembers, (1 + M, N) or (1 + M, B, N).
        steps: the accepted steps, when asked for.
        dense_y, dense_hk: states and h·k of the accepted steps, when asked for.
        failure: where and how it stopped early, for the diagnosis.
        event: the events (E, 1) it ended at, or (E, B) of each sample; None where there was nothing to watch for.
    """

    ys: Tensor
    y_end: Tensor
    stats: Stats
    status: Any = Status.SUCCESS
    steps: list[Any] = field(default_factory=list)
    dense_y: list[Tensor] = field(default_factory=list)
    dense_hk: list[Tensor] = field(default_factory=list)
    failure: Failure | None = None
    event: Tensor | None = None
    state_end: Tensor | None = None


@dataclass
class Failure:
    """Time, state and step of the last accepted point before a solve (or one sample of it) stopped."""

    t: Any
    y: Tensor
    h: Any = math.nan
