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

from isocline.control import Stops
from isocline.engines.eager import Problem, Trajectory
from isocline.engines.eager.problem import Failure, Progress
from isocline.events import Conditions, Watch
from isocline.gradients.event_time import attach_event
from isocline.gradients.times import attach_start, beside
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
    pieces = _Shared if problem.field.layout.batch is None else _PerSample
    return pieces(problem, run, ts, conditions, max_events).solve(y0)


@dataclass
class _Pieces:
    """What the two batchings share."""

    problem: Problem
    run: Run
    ts: Tensor | None
    conditions: Conditions
    max_events: int
    parts: list[Trajectory] = field(default_factory=list)
    safe: Tensor | None = None  # finite states, shown to conditions and resets in place of those that do not matter

    def trajectory(self, ys: Tensor, status: Any, failure: Any, when: Any) -> Trajectory:
        """The parts as one; it ended at the time(s) `when`."""
        whole = Trajectory(ys, self.parts[-1].y_end, SumOfStats([part.stats for part in self.parts]), status)
        for part in self.parts:
            whole.steps += part.steps
            whole.dense_y += part.dense_y
            whole.dense_hk += part.dense_hk
        whole.failure = failure
        if self.problem.progress is not None:
            steps = torch.as_tensor(whole.stats.accepted).max().item()
            self.problem.progress(1.0, float(torch.as_tensor(when).max()), int(steps))
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
            start = y if moving is None else attach_start(self.problem.field, moving + (self._beside(t, ts[-1]) - t), y)
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
        return self.trajectory(ys, status, failure, t), self._log(found, y0)

    def _beside(self, t: float, towards: float) -> float:
        """`t`, where f jumps the number next to it."""
        return Stops(t, towards, [], self.problem.jump_ts, self.problem.field.time_dtype).inside(t, towards)

    def _piece(self, ts: list[float], watch: Watch) -> Problem:
        used = sum(part.stats.accepted + part.stats.rejected for part in self.parts)
        settings = {"max_steps": max(0, self.problem.max_steps - used), "progress": self._progress()}
        return replace(self.problem, ts=ts, watch=watch, start=None, **settings)

    def _progress(self) -> Progress | None:
        """The caller's, told of the whole solve and not of the piece."""
        tell, (first, *_, last) = self.problem.progress, [*self.problem.ts, self.problem.ts[-1]]
        before = sum(part.stats.accepted for part in self.parts)
        return tell and (lambda _, t, steps: tell((t - first) / (last - first), t, before + steps))

    def _event(self, t: float, towards: float, y: Tensor, index: int) -> tuple[Tensor, Tensor]:
        clock = y.new_tensor(t, dtype=self.problem.field.layout.clock_dtype)
        if not torch.is_grad_enabled():
            return clock, y
        # What the graph keeps must not lead to `self`, whose parts hold what comes later in the graph.
        field, conditions = self.problem.field, self.conditions
        c = conditions.value(index, clock, y)
        before = self._beside(t, towards)

        def rates(time: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            slope = field.at(torch.full_like(time, before), state)
            return slope, conditions.rate(index, time, state, slope)

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


class _PerSample(_Pieces):
    """A clock a sample: in every piece each goes to its own next event, and who is done has no way to go."""

    def solve(self, y0: Tensor) -> tuple[Trajectory, EventLog]:
        """From event to event, until every sample is at its end."""
        ts, batch, device = self.problem.ts, len(y0), y0.device
        sample = torch.arange(batch, device=device)
        last = ts.gather(1, (~ts.isnan()).sum(1, keepdim=True) - 1)
        sign = torch.where(last >= ts[:, :1], 1.0, -1.0).to(ts.dtype)
        terminal = torch.tensor([bool(e.terminal) for e in self.conditions.events], device=device).unsqueeze(1)
        status = torch.zeros(batch, dtype=torch.int64, device=device)
        failure = Failure(ts[:, 0].clone(), y0.detach().clone(), torch.full_like(ts[:, 0], torch.nan))
        self.safe = y0.detach().nan_to_num(0.0, 0.0, 0.0)
        ys = torch.where((ts == ts[:, :1]).t().unsqueeze(2), y0, torch.nan)
        seen = torch.ones_like(sample)  # observations behind each sample
        count = torch.zeros_like(sample)
        running = (ts[:, :1] != last).squeeze(1)
        moving: Tensor | None = self.ts[0] if self.ts is not None else None
        t, y, watch = ts[:, 0].clone(), y0, Watch(self.conditions)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        while True:
            piece = self._piece(self._times(t, seen, running), watch)
            start = y if moving is None else attach_start(self.problem.field, self._beside(moving, last.squeeze(1)), y)
            part = self.run(piece, start)
            self.parts.append(part)
            part_ys = part.ys.reshape(-1, *y0.shape)
            assert part.event is not None and part.failure is not None
            hit = part.event.any(0)
            failure = _where(running, part.failure, failure)
            # The event's time, or the end; observations up to there come from this piece.
            at = (~piece.ts.isnan()).sum(1) - 1
            reached = piece.ts.gather(1, at.unsqueeze(1))
            column = torch.arange(ts.shape[1], device=device).unsqueeze(0) - seen.unsqueeze(1) + 1
            here = running.unsqueeze(1) & (column >= 1) & (((ts - reached) * sign <= 0) | ~hit.unsqueeze(1))
            index = torch.minimum(column, torch.where(hit, at, ts.shape[1] - 1).unsqueeze(1)).clamp(min=0)
            values = part_ys[index.t(), sample]
            ys = torch.where((here & ~ts.isnan()).t().unsqueeze(2), values, ys)
            seen = torch.where(hit, seen + here.sum(1), seen)
            status = torch.where(running, part.status, status)
            if not bool(hit.any()):
                break
            moving, y_star = self._event(t, reached.squeeze(1), part_ys[at, sample], part.event)
            t = torch.where(hit, reached.squeeze(1), t)
            found += [(moving, y_star, self._indices(part.event, i)) for i in range(len(part.event))]
            count = count + part.event.sum(0)
            ends = (part.event & terminal).any(0)
            at_end = reached.squeeze(1) == last.squeeze(1)
            status = torch.where(hit & ~ends, int(Status.SUCCESS), status)
            running = hit & ~ends & ~at_end
            status = torch.where(running & (count >= self.max_events), int(Status.MAX_EVENTS), status)
            running = running & (count < self.max_events)
            if not bool(running.any()):
                break
            watch = Watch(self.conditions, part.event, self._residual(t, y_star))
            y = self._reset(moving, y_star, part.event & running)
        return self.trajectory(ys, status, failure, t), self._log(found, y0)

    def _times(self, t: Tensor, seen: Tensor, running: Tensor) -> Tensor:
        """Of every sample: where it stands, and what it has still to observe; nothing for those that are done."""
        ts = self.problem.ts
        column = seen.unsqueeze(1) + torch.arange(ts.shape[1] - 1, device=ts.device)
        ahead = ts.gather(1, column.clamp(max=ts.shape[1] - 1))
        ahead = ahead.masked_fill((column >= ts.shape[1]) | ~running.unsqueeze(1), torch.nan)
        return torch.cat([t.unsqueeze(1), ahead], 1)

    def _piece(self, ts: Tensor, watch: Watch) -> Problem:
        left = self.problem.max_steps
        if self.parts:
            used = torch.stack([part.stats.accepted + part.stats.rejected for part in self.parts]).sum(0)
            moves = ts[:, 1:].isfinite().any(1)
            left -= int(used[moves].min())
        tell, done = self.problem.progress, float(ts[:, 1:].isnan().all(1).double().mean())
        # Of samples at many times the share that is done says most.
        progress = tell and (lambda _, t, steps: tell(done, t, steps))
        return replace(self.problem, ts=ts, watch=watch, start=None, max_steps=max(0, left), progress=progress)

    def _event(self, before: Tensor, t: Tensor, y: Tensor, fired: Tensor) -> tuple[Tensor, Tensor]:
        """Time and state of the samples that have an event; the others' as they were, their state made finite."""
        hit = fired.any(0)
        assert self.safe is not None
        y = torch.where(hit.unsqueeze(1), y, self.safe)
        if not torch.is_grad_enabled():
            return torch.where(hit, t, before), y
        t = torch.where(hit, t, before)
        first = fired.to(torch.int8).argmax(0)
        which = first[hit].unique().tolist()
        # As above: nothing here may lead to `self`.
        field, conditions = self.problem.field, self.conditions
        c = torch.zeros_like(t)
        for i in which:
            c = torch.where(hit & (first == i), conditions.value(i, t, y).to(t.dtype), c)
        inside = self._beside(t, before)

        def rates(time: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            slope = field.at(inside, state)
            rate = torch.ones_like(time, dtype=torch.float64)
            for i in which:
                rate = torch.where(hit & (first == i), conditions.rate(i, time, state, slope), rate)
            return slope, rate

        return attach_event(rates, t, y, c, hit)

    def _beside(self, t: Tensor, towards: Tensor) -> Tensor:
        """`t`, where f jumps the number next to it; with the gradient of `t`."""
        problem = self.problem
        return beside(problem.field, t, towards, problem.jump_ts, problem.row_jump_ts)

    def _reset(self, t: Tensor, y: Tensor, fired: Tensor) -> Tensor:
        """Every sample's state after its events."""
        for i in fired.any(1).nonzero().squeeze(1).tolist():
            y = torch.where(fired[i].unsqueeze(1), self.conditions.reset(i, t, y), y)
        return y

    def _residual(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            values = [self.conditions.value(i, t, y) for i in range(len(self.conditions.events))]
        return torch.stack(values).double()

    @staticmethod
    def _indices(fired: Tensor, i: int) -> Tensor:
        return torch.where(fired[i], i, -1)

    def _log(self, found: Sequence[tuple[Tensor, Tensor, Tensor]], y0: Tensor) -> EventLog:
        """The events of each sample moved together, in order."""
        clock = self.problem.field.layout.clock_dtype
        if not found:
            index = torch.empty(0, len(y0), dtype=torch.int64, device=y0.device)
            return EventLog(y0.new_empty(index.shape, dtype=clock), y0.new_empty(0, *y0.shape), index)
        ts, ys, index = (torch.stack(x) for x in zip(*found, strict=True))
        none = index < 0
        order = none.to(torch.int8).argsort(dim=0, stable=True)[: int((~none).sum(0).max())]
        none, index, ts = (x.gather(0, order) for x in (none, index, ts))
        ys = ys.gather(0, order.unsqueeze(2).expand(-1, -1, y0.shape[1]))
        return EventLog(ts.masked_fill(none, torch.nan), ys.masked_fill(none.unsqueeze(2), torch.nan), index)


def _where(rows: Tensor, new: Failure, old: Failure) -> Failure:
    """Failures of samples, from `new` for `rows`."""
    y = torch.where(rows.unsqueeze(1), new.y, old.y)
    return Failure(torch.where(rows, new.t, old.t), y, torch.where(rows, new.h, old.h))
