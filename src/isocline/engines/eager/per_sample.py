"""The loop in which every sample has its own time, step size, error norm, accept decision and observation times.

Control runs in tensors over the rows still running, one synchronisation a step. A finished or failed sample
leaves the batch as soon as a quarter of its rows stands idle.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID, FixedStep
from isocline.control.initial_step import Tolerance, hairer_finish_rows, hairer_start_rows
from isocline.control.schedule import jumps_at, row_stops
from isocline.engines.eager.coupling import rows_are_independent
from isocline.engines.eager.observations import Inner, Observations, Passed
from isocline.engines.eager.problem import Failure, OnStep, Problem, Trajectory
from isocline.engines.eager.row_events import RowEvents
from isocline.engines.eager.steps import RowStep, row_times, stage_nodes
from isocline.field import VectorField
from isocline.solution import Stats, Status, failed
from isocline.solvers.memory import MemoryWorkspace
from isocline.solvers.runge_kutta import DenseStep

# Finished rows leave when at most this share of the rows is running: more often costs more than it saves.
CROWDED = 0.75


def integrate(problem: Problem, y0: Tensor, on_step: OnStep | None = None) -> Trajectory:
    """Integrates every row of `y0` (B, N) over its own row of `problem.ts` (B, T)."""
    return _Loop(problem, y0, on_step).run()


class _Loop:
    """Inside, every sample's clock runs forwards: τ = sign · t. Times turn back into t where `f` is asked."""

    def __init__(self, problem: Problem, y0: Tensor, on_step: OnStep | None) -> None:
        self.problem, self.on_step = problem, on_step
        self.field: VectorField = problem.field
        self.tableau = problem.solver.tableau
        self.memory: MemoryWorkspace | None = None  # the workspace, of a solver that remembers
        self.counts_calls = not self.tableau.explicit or problem.solver.wants_pair or problem.solver.remembers
        self.controller = problem.controller
        self.adaptive = isinstance(problem.controller, PID)
        self.dense_step = DenseStep.of(self.tableau, y0)
        self.independent: bool | None = None  # whether f treats its rows alone; None: not looked yet
        ts: Tensor = problem.ts
        self.batch, self.width = len(y0), ts.shape[1]
        self._remember(y0, ts)
        # Rows still running; `_leave` picks from all of these alike.
        self.ids = torch.arange(self.batch, device=y0.device)
        self.y = y0
        end = ts.gather(1, (~ts.isnan()).sum(1, keepdim=True) - 1)
        self.sign = torch.where(end >= ts[:, :1], 1.0, -1.0).to(ts.dtype)
        self.backwards = bool((self.sign < 0).any())
        self.keys = (ts * self.sign).nan_to_num(nan=torch.inf)
        self.t, self.t_end = self.keys[:, 0].contiguous(), (end * self.sign).squeeze(1)
        self.sign = self.sign.squeeze(1)
        by_row = (problem.row_step_ts, problem.row_jump_ts, self.field.time_dtype)
        stops, self.jumps = row_stops(problem.controller, ts, end, problem.step_ts, problem.jump_ts, *by_row)
        self.jumping = bool(problem.jump_ts) or problem.row_jump_ts is not None
        self.stops = stops * self.sign.unsqueeze(1)
        self.many_stops = self.stops.shape[1] > 1
        # With a step from every observation to the next nothing is ever interpolated.
        self.only_ends = isinstance(problem.controller, FixedStep) and problem.controller.max_step is not None
        self.waiting = Observations(self.out, self.keys, self.dense_step)
        self.i_stop = torch.zeros_like(self.ids)
        self.at_jump = jumps_at(ts[:, :1], problem.jump_ts, *by_row[1:]).squeeze(1)
        self.h = torch.full_like(self.t, math.inf)
        self.r1 = self.r2 = torch.ones_like(self.t)
        self.rejects, self.steps_taken = torch.zeros_like(self.ids), torch.zeros_like(self.ids)
        self.extra = torch.zeros_like(self.ids)  # steps in which the interpolant's own stages were evaluated
        self.alive: Tensor | None = None  # None: every row present is running
        self.running = self.present = self.batch  # rows still going, and rows in the tensors
        self.events = None if problem.watch is None else RowEvents(problem.watch, self)
        self.retreated = False  # whether the last step was rejected by some row
        self.rows = ["ids", "y", "t", "t_end", "sign", "keys", "stops", "h", "seen", "rejects", "steps_taken"]
        self.rows += ["extra"] if self.tableau.extra_c else []
        if self.many_stops:
            self.rows += ["i_stop", "jumps", "at_jump"]

    def _remember(self, y0: Tensor, ts: Tensor) -> None:
        """What is kept by sample, (B, …)."""
        self.y_end, self.t_left = y0.clone(), ts[:, 0].clone()
        self.h_left = torch.full_like(self.t_left, math.nan)
        self.status = torch.zeros(self.batch, dtype=torch.int64, device=y0.device)
        self.accepted, self.attempts = torch.zeros_like(self.status), torch.zeros_like(self.status)
        self.interpolated, self.calls = torch.zeros_like(self.status), torch.zeros_like(self.status)
        self.out = y0.new_full((self.width, *y0.shape), torch.nan)
        self.trajectory = Trajectory(self.out, self.y_end, Stats())

    # ---- the loop -------------------------------------------------------------------------------------------------
    def run(self) -> Trajectory:
        self.step_count, self.begun = 0, self.field.evaluations
        self._first_observations()
        done = self.t == self.t_end
        self._leave(done, int(done.sum()))
        if self.present:
            self._start()
            if self.alive is not None:
                self._drop()
        while self.running and self.step_count < self.problem.max_steps:
            self.step_count += 1
            self._step()
        if self.present:
            running = torch.ones_like(self.ids, dtype=torch.bool) if self.alive is None else self.alive
            self._give_up(running, Status.MAX_STEPS)
            self._leave(running, self.running)
            if self.present:  # coupled rows stay together to the end
                self._store(torch.arange(self.present, device=self.ids.device))
        return self._finish()

    def _start(self) -> None:
        low = self._inside(self.t, self.stops[:, 0], self.at_jump)
        start = self.problem.take_start()
        # A copy: a field that writes into its argument is refused before it can spoil the caller's y0.
        self.f = self._slopes(low, self.y.clone()) if start is None else start[1].detach()[self.ids]
        self.begun -= start is not None  # that evaluation counts too
        self.eps = torch.finfo(self.t.dtype).eps
        self.spacing = 1e-9 * self.eps * (self.t_end - self.t)
        self.size = self.y.abs()
        self.rows += ["f", "spacing", "size"]
        if isinstance(self.controller, PID):
            self.tolerance = Tolerance(self.controller, self.field.layout)
            self.one = self.y.new_ones(())
            self.exponents = self.controller.exponents(self.problem.solver.error_order)
            self.rows += ["r1", "r2"] if any(self.exponents[1:]) else []
            self.h = torch.minimum(self.h, self._first_step(self.controller, low))
            self.spacing = self.spacing.clamp(min=self.controller.min_step)
            self.forced = self.controller.min_step if self.controller.force_min_step else 0.0
            bad = self._not(self.f.isfinite().all(1))
            if bool(bad.any()):
                self._give_up(bad, Status.NON_FINITE)
                self._leave(bad, int(bad.sum()))
        self.c, self.extra_c = stage_nodes(self.tableau.c, self.t), stage_nodes(self.tableau.extra_c, self.t)
        self._bind()

    def _bind(self) -> None:
        """What depends on the number of rows."""
        if self.present:
            self.workspace = self.problem.solver.workspace(self.y, self.field)
            self.workspace.tolerance = self.tolerance if self.adaptive else None
            self.memory = self.workspace if isinstance(self.workspace, MemoryWorkspace) else None

    def _step(self) -> None:
        stop = self.stops.gather(1, self.i_stop.unsqueeze(1)).squeeze(1) if self.many_stops else self.t_end
        t1 = torch.minimum(self.t + self.h, stop)
        clipped = t1 == stop
        low, high = self._inside(self.t, t1, self.at_jump), t1
        if self.jumping:
            high = self._inside(t1, self.t, clipped & self._stop_jumps())
        step = t1 - self.t
        y1, k_last = self._stages(step, t1, low, high)
        size1 = y1.abs()
        square = None
        if self.adaptive:
            error = self.workspace.error().view_as(y1).div_(self.tolerance.scale(torch.maximum(self.size, size1)))
            square = self.tolerance.squares(error)
            accepted = square <= self.one  # a number would take twice the time
            if self.forced:
                accepted = accepted | ((step <= self.forced * (1 + 1e-10)) & square.isfinite())
        else:
            accepted = y1.isfinite().all(1)
        if self.alive is not None:
            accepted = accepted & self.alive
        events = None
        if self.events is not None:
            self._complete()
            events = self.events.look(accepted, t1, y1, k_last)
            accepted = events.accepted
        t = torch.where(accepted, t1, self.t)
        reach = torch.searchsorted(self.keys, t.unsqueeze(1), right=True).squeeze(1)
        saves = reach - self.seen
        leaving = accepted & (t1 == self.t_end if self.many_stops else clipped)
        failed = None
        if square is None:
            failed = self._not(accepted)
        else:
            if self.retreated:  # a step can only be too short after one that was rejected
                # Of up to four spacings of time nine tenths would round to as many, for ever.
                failed = self._not(accepted) & (step <= torch.maximum(t1.abs().mul_(5 * self.eps), self.spacing))
            self._next_h(step, clipped, accepted, square)
        if events is not None:
            self.h = torch.where(events.withdrawn, math.inf, self.h)  # the next attempt goes to the event
            unaccepted = events.withdrawn | events.stuck  # for a reason of their own
            leaving, failed = leaving | events.stuck, None if failed is None else failed & ~unaccepted
        if failed is not None:
            leaving = leaving | failed
        # The one synchronisation of the step.
        sums = [accepted.count_nonzero(), saves.sum(), leaving.count_nonzero(), saves.count_nonzero()]
        if failed is not None:
            sums.append(failed.count_nonzero())
        counts: list[int] = torch.stack(sums).tolist()
        self._record(counts, accepted, saves, reach, t1, low, high, y1)
        self._commit(counts[0], accepted, clipped, t, y1, size1, k_last, reach)
        self.retreated = counts[0] < self.running
        if counts[2]:
            if failed is not None and counts[4]:
                self._give_up(failed, Status.STEP_TOO_SMALL if self.adaptive else Status.NON_FINITE)
            self._leave(leaving, counts[2])

    def _stages(self, step: Tensor, t1: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fills the workspace with h·k; returns y₁ and the unscaled last stage."""
        t0, workspace = self.t, self.workspace
        if self.memory is not None and self.memory.undecided:
            if self.independent is None:
                self._look_for_coupling()
            self.memory.decide(bool(self.independent))
        if self.backwards:
            step = step * self.sign
            t0, t1, low, high = (x * self.sign for x in (t0, t1, low, high))
        h = workspace.paces(step)
        times = row_times(self.field, self.c, t0, t1, low, high)
        torch.mul(self.field.shaped(self.f), h, out=workspace.rows[0])
        y1 = workspace.step(self.field.fill, times, 1.0, self.y, h)
        k = workspace.last
        self.attempt, self.complete = (h, t0, t1, low, high), not self.tableau.extra_c
        if not self.complete:
            k = None if k is None else k.clone()  # f may return the same memory when it is asked again
        return y1, (k.reshape(y1.shape) if k is not None and self.tableau.fsal else None)

    def _complete(self) -> None:
        """Adds the stages that only the interpolant needs, of every row (`f` may couple them), once a step."""
        if self.complete:
            return
        self.complete = True
        h, *clock = self.attempt
        times = row_times(self.field, self.extra_c, *clock)
        self.workspace.step_extra(self.field.fill, times, 1.0, self.y, h)
        self.extra = self.extra + (1 if self.alive is None else self.alive)

    def _next_h(self, step: Tensor, clipped: Tensor, accepted: Tensor, square: Tensor) -> None:
        """Sets h of the next attempt by `PID.factor`, row by row; `square` is r²."""
        controller = self.controller
        assert isinstance(controller, PID)
        e0, e1, e2 = self.exponents
        factor = (square ** (e0 / 2)).mul_(controller.safety)
        if e1 or e2:
            r = square.sqrt()
            factor = factor * self.r1**e1 * self.r2**e2
            finite = r.isfinite()
            self.r2 = torch.where(finite, torch.where(accepted, self.r1, self.r2), 1.0)
            self.r1 = torch.where(finite, torch.where(accepted, r.clamp(min=1e-8), self.r1), 1.0)
            factor = torch.where(accepted, factor, factor.clamp(max=controller.safety))
        # An accepted step does not shrink the next; a NaN becomes the largest cut.
        factor = torch.fmax(factor, accepted.to(factor.dtype)).clamp_(controller.min_factor, controller.max_factor)
        if self.memory is not None:
            factor = self.memory.steer(factor, square.sqrt(), accepted, controller)
        h = factor.to(step.dtype).mul_(step) if factor.dtype != step.dtype else factor.mul_(step)
        if self.many_stops:
            # A step cut short by a stop says nothing about how long the next one may be.
            h = torch.where(accepted & clipped, torch.maximum(self.h, h), h)
        if self.forced:
            h = torch.where(h > 0, h.clamp(min=self.forced), h)
        self.h = h if controller.max_step == math.inf else h.clamp(max=controller.max_step)

    def _not(self, accepted: Tensor) -> Tensor:
        """Running rows that did not accept the step."""
        return ~accepted if self.alive is None else self.alive & ~accepted

    def _record(
        self,
        counts: list[int],
        accepted: Tensor,
        saves: Tensor,
        reach: Tensor,
        t1: Tensor,
        low: Tensor,
        high: Tensor,
        y1: Tensor,
    ) -> None:
        """Writes the observations of this step, and hands the step on where somebody records."""
        if (counts[1] and not self.only_ends) or (counts[0] and self.problem.dense):
            self._complete()
        inner, ends = self._observations(counts[1], counts[3], saves, reach, t1, y1) if counts[1] else (None, None)
        if not counts[0] or not (self.on_step is not None or self.problem.dense):
            return
        if self.independent is None and counts[0] < self.present:
            self._look_for_coupling()
        everyone = counts[0] == self.present or not self.independent
        y, ids, sign, clock = self.y, self.ids, self.sign, (self.t, t1, low, high)
        if everyone and counts[0] < self.present:
            # Coupled rows are replayed together; those that did not accept take a step of length zero.
            still = torch.where(accepted, t1, self.t)
            clock = (self.t, still, low, still)
        memory, pick = {} if self.memory is None else self.memory.record(self.y), None
        if not everyone:
            pick = accepted.nonzero().squeeze(1)
            position = accepted.cumsum(0) - 1
            t0, end, low, high = (x[pick] for x in clock)
            y, ids, sign, clock = y[pick], ids[pick], sign[pick], (t0, end, low, high)
            memory = {} if self.memory is None else self.memory.picked(memory, pick)
            if inner is not None:
                inner.position = position
            ends = ends and (position[ends[0]], ends[1])
        if self.backwards:
            t0, end, low, high = (x * sign for x in clock)
            clock = (t0, end, low, high)
        whole = self.problem.whole_states
        step = RowStep(ids, *clock, inner, ends, whole, y)
        if memory:
            step = step._replace(moved=accepted if everyone else torch.ones_like(memory["fresh"]), **memory)
        if whole:
            step = step._replace(y=self._whole_state())
        if self.problem.dense:
            hk = self.workspace.K
            rows_y, rows_hk = step.dense(y, hk.clone() if pick is None else hk[:, pick])
            self.trajectory.dense_y.append(rows_y)
            self.trajectory.dense_hk.append(rows_hk)
            self.trajectory.steps.append(step[:3])
        if self.on_step is not None:
            self.on_step(step)

    def _observations(
        self, count: int, rows: int, saves: Tensor, reach: Tensor, t1: Tensor, y1: Tensor
    ) -> tuple[Any, Any]:
        """Writes them, now or later; returns what a recorded step needs to know of them."""
        sample = torch.nonzero_static(saves, size=rows).squeeze(1)
        if not self.only_ends:
            clock, states = (self.ids, self.t, t1), (self.y, y1, self.workspace.K)
            inner = None if self.on_step is None else Inner()
            return self.waiting.put(Passed(inner, count, sample, self.seen, reach, *clock, *states)), None
        row = self.seen.index_select(0, sample) * self.batch + self.ids.index_select(0, sample)
        self.out.view(-1, self.out.shape[-1]).index_copy_(0, row, y1.index_select(0, sample))
        return None, (sample, row)

    def _commit(
        self,
        count: int,
        accepted: Tensor,
        clipped: Tensor,
        t: Tensor,
        y1: Tensor,
        size1: Tensor,
        k_last: Tensor | None,
        reach: Tensor,
    ) -> None:
        """Makes the accepted rows' results the state, and the slope there the next first stage."""
        if count < self.present:
            self.rejects = self.rejects + self._not(accepted)
        if not count:
            return
        if self.many_stops:
            hit = accepted & clipped
            if self.jumping:
                self.at_jump = torch.where(accepted, hit & self._stop_jumps(), self.at_jump)
            self.i_stop = (self.i_stop + hit).clamp_(max=self.stops.shape[1] - 1)
        if self.memory is not None:
            self.memory.accept(self.y, None if count == self.present else accepted)
        if count == self.present:
            self.y, self.size = y1, size1
            self.f = self.f if k_last is None else k_last
        else:
            row = accepted.unsqueeze(1).expand_as(y1).contiguous()
            self.y = torch.where(row, y1, self.y)
            self.size = self.y.abs()
            self.f = self.f if k_last is None else torch.where(row, k_last, self.f)
        self.t, self.seen = t, reach
        jumps = self.jumping and bool((self.at_jump & (self.t != self.t_end)).any())
        if jumps and self.memory is not None:
            self.memory.forget(accepted & self.at_jump)
        if k_last is None or jumps:
            self._fresh_slopes()
        if self.problem.progress is not None:
            start = self.keys[:, 0]
            done = ((self.t - start) / (self.t_end - start)).min()
            self.problem.progress(
                float(done), float((self.t * self.sign).min()), int((self.step_count - self.rejects).max())
            )

    def _fresh_slopes(self) -> None:
        stop = self.stops.gather(1, self.i_stop.unsqueeze(1)).squeeze(1)
        anchor = self.y if self.memory is None else self.memory.anchor(self.y)
        self.f = self._slopes(self._inside(self.t, stop, self.at_jump), anchor)

    # ---- who is in the batch --------------------------------------------------------------------------------------
    def _leave(self, gone: Tensor, count: int) -> None:
        """`count` running rows are done or failed: dropped from the batch, or for a while kept in it as dead weight."""
        if not count:
            return
        self.running -= count
        self.alive = ~gone if self.alive is None else self.alive & ~gone
        self.steps_taken = torch.where(gone, self.step_count, self.steps_taken)
        self.h = torch.where(gone, 0.0, self.h)  # who stays as dead weight stands still
        if self.running and not hasattr(self, "f"):
            return  # nobody leaves before it is known whether rows may
        self._drop()

    def _drop(self) -> None:
        """Rows that are done leave, once they are many and if the field treats its rows alone."""
        assert self.alive is not None
        if self.running and self.independent is None:
            self._look_for_coupling()
        if self.running and (self.independent is False or self.running > CROWDED * self.present):
            return
        self._store(torch.nonzero_static(~self.alive, size=self.present - self.running).squeeze(1))
        keep = torch.nonzero_static(self.alive, size=self.running).squeeze(1)
        for name in self.rows:
            setattr(self, name, getattr(self, name).index_select(0, keep))
        if not self.many_stops:
            self.i_stop = self.i_stop[: self.running]
            self.at_jump = self.at_jump.index_select(0, keep) if self.jumping else self.at_jump[: self.running]
        if self.events is not None:
            self.events.keep(keep)
        self.alive, self.present = None, self.running
        self.trajectory.stats.jacobians += self.workspace.jacobians if hasattr(self, "workspace") else 0
        self.field = self.problem.field.of_rows(self.ids)
        if hasattr(self, "workspace"):
            before = self.memory
            self._bind()
            if self.memory is not None and before is not None:
                self.memory.go_on(before, keep)

    def _store(self, rows: Tensor) -> None:
        """Keeps, by sample, where these rows stand."""
        ids = self.ids.index_select(0, rows)
        steps = self.steps_taken.index_select(0, rows)
        here = (self.t * self.sign).index_select(0, rows)
        self.y_end.index_copy_(0, ids, self.y.index_select(0, rows))
        if self.memory is not None:
            self._store_state(ids, self.memory.record(self.y)["y"].index_select(1, rows))
        self.t_left.index_copy_(0, ids, here)
        self.attempts.index_copy_(0, ids, steps)
        if self.tableau.extra_c:
            self.interpolated.index_copy_(0, ids, self.extra.index_select(0, rows))
        if self.counts_calls:
            self.calls.index_fill_(0, ids, self.field.evaluations - self.begun)
            if self.memory is not None and (missed := self.memory.calls_missed()) is not None:
                self.calls.index_add_(0, ids, -missed.index_select(0, rows))
        self.accepted.index_copy_(0, ids, steps - self.rejects.index_select(0, rows))

    def _store_state(self, ids: Tensor, state: Tensor) -> None:
        out = self.trajectory
        if out.state_end is None:
            out.state_end = state.new_zeros(len(state), *self.y_end.shape)
        out.state_end.index_copy_(1, ids, state)

    def _give_up(self, rows: Tensor, status: Status) -> None:
        self.status[self.ids[rows]] = int(status)
        self.h_left[self.ids[rows]] = self.h[rows]

    def _whole_state(self) -> Tensor:
        if self.memory is not None:
            state = self.memory.record(self.y)["y"]
            return self.y_end.expand(len(state), *self.y_end.shape).index_copy(1, self.ids, state)
        return self.y_end.index_copy(0, self.ids, self.y)

    def _look_for_coupling(self) -> None:
        """Finds out, once and when it first matters, whether rows may be taken out of the batch."""
        stop = self.stops.gather(1, self.i_stop.unsqueeze(1)).squeeze(1)
        low = self._inside(self.t, stop, self.at_jump) * self.sign
        # The last stage of an implicit step is f only up to Newton's tolerance: not to be told from a coupling.
        slopes = self.f if self.tableau.explicit and self.memory is None else self.field.at(low, self.y)
        self.independent = rows_are_independent(self.problem.field, low, self.y, slopes, self.ids, self.batch)

    # ---- times ----------------------------------------------------------------------------------------------------
    def _first_observations(self) -> None:
        self.seen = torch.searchsorted(self.keys, self.t.unsqueeze(1), right=True).squeeze(1)
        for column in range(int(self.seen.max())):
            self.out[column] = torch.where((self.seen > column).unsqueeze(1), self.y, torch.nan)

    def _stop_jumps(self) -> Tensor:
        return self.jumps.gather(1, self.i_stop.unsqueeze(1)).squeeze(1)

    def _inside(self, t: Tensor, towards: Tensor, jump: Tensor) -> Tensor:
        """`t` itself, or at jumps the next number in the field's dtype; the same tensor where nothing jumps."""
        if not self.jumping:
            return t
        dtype = self.field.time_dtype
        return torch.where(jump, torch.nextafter(t.to(dtype), towards.to(dtype)).to(t.dtype), t)

    def _slopes(self, t: Tensor, y: Tensor) -> Tensor:
        return self.field.at(t * self.sign, y)

    def _first_step(self, controller: PID, low: Tensor) -> Tensor:
        """Hairer's rule, row by row; at least a spacing of time, or nothing would ever move."""
        if controller.first_step is not None:
            h = torch.full_like(self.t, min(controller.first_step, controller.max_step))
        else:
            span, rows = self.stops[:, 0] - self.t, self.tolerance.rows
            scale = self.tolerance.scale(self.size)
            d0, d1 = rows(self.y / scale).to(self.t.dtype), rows(self.f / scale).to(self.t.dtype)
            h0 = hairer_start_rows(span, d0, d1)
            ahead = torch.addcmul(self.y, self.f, (self.sign * h0).to(self.y.dtype).unsqueeze(1))
            d2 = rows((self._slopes(low + h0, ahead) - self.f).div_(scale)).to(self.t.dtype) / h0
            h = hairer_finish_rows(span, h0, d1, d2, self.problem.solver.error_order)
            h = h.clamp(controller.min_step, controller.max_step)
        return torch.maximum(h, self.t.abs() * (4 * self.eps))

    # ---- the end --------------------------------------------------------------------------------------------------
    def _finish(self) -> Trajectory:
        """Statistics, and overflow that no error estimate saw."""
        self.waiting.flush()
        if not math.isfinite(self.out.sum().item()):
            self._look_for_overflow()
        stats = self.trajectory.stats
        stats.accepted, stats.rejected = self.accepted, self.attempts - self.accepted
        stats.evaluations = self._evaluations()
        self.trajectory.status = self.status
        if self.events is not None:
            self.trajectory.event, self.events = self.events.event(), None
        self.trajectory.failure = Failure(self.t_left, self.y_end, self.h_left)
        return self.trajectory

    def _look_for_overflow(self) -> None:
        ts: Tensor = self.problem.ts
        sign = torch.where(self.t_left >= ts[:, 0], 1.0, -1.0).to(ts.dtype).unsqueeze(1)
        behind = (ts * sign <= self.t_left.unsqueeze(1) * sign).sum(1)
        bad = ~self.out.isfinite().all(2) & (torch.arange(self.width, device=ts.device).unsqueeze(1) < behind)
        self.status[bad.any(0) & ~failed(self.status)] = int(Status.NON_FINITE)
        if bool(bad.any()):
            self.out[bad.long().cummax(0).values.bool()] = torch.nan

    def _evaluations(self) -> Tensor:
        """Of every sample: the stages of its attempts, its first slope, the probe of the first step.

        Where their number is not that of the stages (they are iterated, or moves of a pair): the calls of f while it was
        in the batch.
        """
        probe = 1 if isinstance(self.controller, PID) and self.controller.first_step is None else 0
        if self.counts_calls:
            return self.calls
        first = torch.where(self.attempts + (self.status == int(Status.NON_FINITE)) > 0, 1 + probe, 0)
        again = 0 if self.tableau.fsal else (self.accepted - 1).clamp(min=0)
        extra = self.interpolated * len(self.tableau.extra_c)
        return first + self.attempts * (self.tableau.stages - 1) + again + extra
