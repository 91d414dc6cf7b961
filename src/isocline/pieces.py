"""A solve with events: ordinary solves from event to event, joined so that gradients pass through.

Each piece ends at its first event, which the engine finds. The event's time and state become differentiable
(`gradients.event_time`), the state is reset, and the next piece starts there; that its start moves with the event is
the gradient with respect to t0 that every piece has anyway. No gradient method knows of events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from isocline.control.schedule import nudge
from isocline.engines.eager import Problem, Trajectory
from isocline.engines.eager.problem import Failure
from isocline.events import Conditions, Watch
from isocline.gradients.event_time import attach_event
from isocline.gradients.times import attach_start
from isocline.solution import Stats, Status

Run = Callable[[Problem, Tensor], Trajectory]


@dataclass
class EventLog:
    """All events of a solve, in order: times (K,) or (K, B), flat states (K, …, N), indices (K,) or (K, B)."""

    ts: Tensor
    ys: Tensor
    index: Tensor


class SumOfStats(Stats):
    """The counts of all pieces together; what a later `backward` adds to one of them shows here."""

    def __init__(self, parts: Sequence[Stats]) -> None:
        self.parts = list(parts)

    def __getattribute__(self, name: str) -> Any:
        if name in ("evaluations", "accepted", "rejected", "evaluations_backward", "jacobians"):
            return sum(getattr(part, name) for part in object.__getattribute__(self, "parts"))
        return object.__getattribute__(self, name)


def solve_in_pieces(
    problem: Problem, run: Run, ts: Tensor | None, y0: Tensor, conditions: Conditions, max_events: int
) -> tuple[Trajectory, EventLog]:
    """The whole trajectory as if it were one solve, and its events.

    Args:
        problem: the whole one.
        run: solves one piece, differentiable: a gradient method's `run`, or an engine's `integrate`.
        ts: observation times with their graph, (T,) or (T, B), where their gradient is wanted.
        y0: flat.
        conditions: of at least one event.
        max_events: of the solve, or of each sample.
    """
    return _Shared(problem, run, ts, conditions, max_events).solve(y0)


@dataclass
class _Pieces:
    """What the two batchings share."""

    problem: Problem
    run: Run
    ts: Tensor | None
    conditions: Conditions
    max_events: int
    parts: list[Trajectory] = field(default_factory=list)

    def trajectory(self, ys: Tensor, status: Any, failure: Any) -> Trajectory:
        """The parts as one."""
        whole = Trajectory(ys, self.parts[-1].y_end, SumOfStats([part.stats for part in self.parts]), status)
        for part in self.parts:
            whole.steps += part.steps
            whole.dense_y += part.dense_y
            whole.dense_hk += part.dense_hk
        whole.failure = failure
        return whole


class _Shared(_Pieces):
    """One clock for the whole state."""

    def solve(self, y0: Tensor) -> tuple[Trajectory, EventLog]:
        """From event to event, to the end."""
        ts, events = self.problem.ts, self.conditions.events
        rows, seen = [y0[None]], 1
        found: list[tuple[Tensor, Tensor, int]] = []
        t, y, watch = ts[0], y0, Watch(self.conditions)
        moving = self.ts[0] if self.ts is not None else None
        while True:
            piece = self._piece([t, *ts[seen:]], watch)
            start = y if moving is None else attach_start(self.problem.field, moving, y)
            part = self.run(piece, start)
            self.parts.append(part)
            ys, status, failure = part.ys.reshape(-1, *y0.shape), part.status, part.failure
            if part.event is None or status is not Status.EVENT:
                rows.append(ys[1:])
                break
            t, inside = piece.ts[-1], len(piece.ts) - 2
            rows.append(ys[1 : 1 + inside])
            seen += inside
            if seen < len(ts) and ts[seen] == t:
                rows.append(ys[-1:])
                seen += 1
            fired = part.event[:, 0].nonzero().squeeze(1).tolist()
            moving, y = self._event(t, ts[0], ys[-1], fired[0])
            found += [(moving, y, i) for i in fired]
            if any(events[i].terminal for i in fired):
                break
            if seen == len(ts):
                status = Status.SUCCESS
                break
            if len(found) >= self.max_events:
                status, failure = Status.MAX_EVENTS, Failure(t, y.detach())
                break
            watch = Watch(self.conditions, part.event, self._residual(moving, y))
            for i in fired:
                y = self.conditions.reset(i, moving, y)
        ys = torch.cat(rows)
        if len(ys) < len(ts):
            ys = torch.cat([ys, ys.new_full((len(ts) - len(ys), *y0.shape), torch.nan)])
        return self.trajectory(ys, status, failure), self._log(found, y0)

    def _piece(self, ts: list[float], watch: Watch) -> Problem:
        used = sum(part.stats.accepted + part.stats.rejected for part in self.parts)
        return replace(self.problem, ts=ts, watch=watch, start=None, max_steps=max(0, self.problem.max_steps - used))

    def _event(self, t: float, towards: float, y: Tensor, index: int) -> tuple[Tensor, Tensor]:
        clock = y.new_tensor(t, dtype=self.problem.field.layout.clock_dtype)
        if not torch.is_grad_enabled():
            return clock, y
        c = self.conditions.value(index, clock, y)
        before = nudge(t, towards, self.problem.field.time_dtype) if t in self.problem.jump_ts else t

        def rates(time: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            slope = self.problem.field.at(torch.full_like(time, before), state)
            return slope, self.conditions.rate(index, time, state, slope)

        return attach_event(rates, clock, y, c, torch.ones_like(clock, dtype=torch.bool))

    def _residual(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            values = [self.conditions.value(i, t, y) for i in range(len(self.conditions.events))]
        return torch.stack(values).double().unsqueeze(1)

    def _log(self, found: Sequence[tuple[Tensor, Tensor, int]], y0: Tensor) -> EventLog:
        clock = self.problem.field.layout.clock_dtype
        index = torch.tensor([i for _, _, i in found], dtype=torch.int64, device=y0.device)
        if not found:
            return EventLog(y0.new_empty(0, dtype=clock), y0.new_empty(0, *y0.shape), index)
        return EventLog(torch.stack([t for t, _, _ in found]), torch.stack([y for _, y, _ in found]), index)
