"""Events of samples that step on their own.

A row whose accepted step holds an event withdraws it: its end is moved to the event, so that the next attempt stops
there, and until its step ends at the event to rounding. To the rest of the loop it is a row that reaches its end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.events import Found, Stretch, Watch
from isocline.solution import Status

CORRECTIONS = 4  # times a step is taken again until it ends at an event


class Outcome(NamedTuple):
    """Of one step, (R,) each: rows that accept it, that withdraw it, and whose events accumulate."""

    accepted: Tensor
    withdrawn: Tensor
    stuck: Tensor


class RowEvents:
    """What the loop over samples keeps about events.

    Args:
        watch: looks at the steps.
        loop: its rows, clocks and ends are read and, at an event, its ends, stops and observation times moved.
    """

    def __init__(self, watch: Watch, loop: Any) -> None:
        self.watch, self.loop = watch, loop
        watch.begin(loop.problem.ts[:, 0].clone(), loop.y)
        self.fired = torch.zeros(watch.count, loop.batch, dtype=torch.bool, device=loop.y.device)
        self.all_keys = loop.keys.clone()
        # By row present: whether its end is an event, where the step that held it ended, and attempts left.
        self.pending = torch.zeros(loop.batch, dtype=torch.bool, device=loop.y.device)
        self.far, self.tries = loop.t_end.clone(), torch.full_like(loop.ids, CORRECTIONS)

    def keep(self, rows: Tensor) -> None:
        """Only these rows stay in the batch."""
        self.watch.keep(rows, self.loop.ids)
        self.pending, self.far, self.tries = (x.index_select(0, rows) for x in (self.pending, self.far, self.tries))

    def event(self) -> Tensor:
        """The events (E, B) that samples ended at."""
        return self.fired & (self.loop.status == int(Status.EVENT))

    def look(self, accepted: Tensor, t1: Tensor, y1: Tensor, slope: Tensor | None) -> Outcome:
        """At a step to `t1` (on the forward clock) that the rows `accepted` would accept; `slope` is f at its end."""
        loop, nobody = self.loop, torch.zeros_like(accepted)
        arriving, looking = accepted & self.pending, accepted & ~self.pending
        step = Stretch(loop.t * loop.sign, t1 * loop.sign, loop.y, y1, loop.workspace.K, loop.dense_step.weights)
        found = self.watch.look(step, looking, t1 == loop.t_end)
        moves = self._correct(arriving, step, slope) if bool(arriving.any()) else nobody
        if found is None:
            return Outcome(accepted & ~moves, moves, nobody)
        loop.status[loop.ids[found.stuck]] = int(Status.EVENTS_ACCUMULATE)
        self.fired[:, loop.ids[found.rows]] = found.fired[:, found.rows]
        self.pending = self.pending | found.rows
        self.far = torch.where(found.rows, t1, self.far)
        self.tries = torch.where(found.rows, CORRECTIONS, self.tries)
        self._aim(found.rows, found.t * loop.sign)
        withdrawn = moves | found.rows
        return Outcome(accepted & ~withdrawn & ~found.stuck, withdrawn, found.stuck)

    def _correct(self, arriving: Tensor, step: Stretch, slope: Tensor | None) -> Tensor:
        """Rows that have to end elsewhere, after a step to where the interpolant had the event; the others are there."""
        loop = self.loop
        if slope is None:
            slope = loop.field.at(step.t1, step.y1)
        fired = self.fired.index_select(1, loop.ids)
        better, moves = self.watch.correct(Found(arriving, step.t1, fired, ~arriving), step.t1, step.y1, slope)
        self.tries = self.tries - arriving.to(self.tries.dtype)
        moves = moves & (self.tries > 0)
        better = Watch.after(step.t, torch.where(moves, self.far * loop.sign, step.t1), better)
        self._aim(moves, better * loop.sign)
        loop.status[loop.ids[arriving & ~moves]] = int(Status.EVENT)
        return moves

    def _aim(self, rows: Tensor, key: Tensor) -> None:
        """The end of `rows`, and the last of their observations, is moved to `key` on the forward clock."""
        loop = self.loop
        loop.t_end = torch.where(rows, key, loop.t_end)
        row, at = rows.unsqueeze(1), key.unsqueeze(1)
        keys = self.all_keys.index_select(0, loop.ids)
        # The first observation that is not before the event becomes the event.
        column = torch.arange(keys.shape[1], device=keys.device) - torch.searchsorted(keys, at.contiguous())
        keys = torch.where(column == 0, at, keys.masked_fill(column > 0, torch.inf))
        loop.keys = torch.where(row, keys, loop.keys)
        loop.waiting.keys.index_copy_(0, loop.ids, loop.keys)
        ts = (loop.keys * loop.sign.unsqueeze(1)).masked_fill(loop.keys.isinf(), torch.nan)
        loop.problem.ts.index_copy_(0, loop.ids, ts)
        if loop.many_stops:
            ahead = row & (torch.arange(loop.stops.shape[1], device=keys.device) >= loop.i_stop.unsqueeze(1))
            loop.jumps = loop.jumps & (~ahead | (loop.stops == at))
            loop.stops = torch.where(ahead, at, loop.stops)
