"""The loop in which every sample has its own time, step size, error norm, accept decision and observation times.

Control runs in float64 tensors over the rows still running, one synchronisation a step. A finished or failed sample
leaves the batch: at once while the batch is small, in larger ones when a quarter of the rows stands idle.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.control import PID, FixedStep
from isocline.control.initial_step import Tolerance
from isocline.control.schedule import row_stops
from isocline.engines.eager.problem import Failure, OnStep, Problem, Trajectory
from isocline.engines.eager.steps import RowStep, row_times, stage_nodes
from isocline.field import VectorField
from isocline.solution import Stats, Status
from isocline.solvers.runge_kutta import DenseStep, Workspace

logger = logging.getLogger("isocline")

SMALL_BATCH = 64  # rows up to which a finished one is dropped at once; the gather then costs less than it saves
CROWDED = 0.75  # in larger batches: drop when at most this share of the rows is running


def integrate(problem: Problem, y0: Tensor, on_step: OnStep | None = None) -> Trajectory:
    """Integrates every row of `y0` (B, N) over its own row of `problem.ts` (B, T)."""
    return _Loop(problem, y0, on_step).run()


class _Loop:
    def __init__(self, problem: Problem, y0: Tensor, on_step: OnStep | None) -> None:
        self.problem, self.on_step = problem, on_step
        self.field: VectorField = problem.field
        self.tableau = problem.solver.tableau
        self.dense_step = DenseStep.of(self.tableau, y0)
        self.independent: bool | None = None  # whether f treats its rows alone; None: not looked yet
        ts: Tensor = problem.ts
        self.batch, self.width = len(y0), ts.shape[1]
        self.y_end = y0.clone()  # by sample: where it left the batch
        self.t_end_reached = ts[:, 0].clone()
        self.h_end = torch.full_like(self.t_end_reached, math.nan)
        self.status = torch.zeros(self.batch, dtype=torch.int64, device=y0.device)
        self.accepted = torch.zeros_like(self.status)
        self.rejected = torch.zeros_like(self.status)
        self.out = y0.new_full((self.width, *y0.shape), torch.nan)
        self.trajectory = Trajectory(self.out, self.y_end, Stats())
        # Rows still running; index_select keeps all of these in step with each other.
        self.ids = torch.arange(self.batch, device=y0.device)
        self.y, self.ts = y0, ts
        self.t = ts[:, 0].contiguous()
        last = (~ts.isnan()).sum(1, keepdim=True) - 1
        self.t_end = ts.gather(1, last).squeeze(1)
        self.sign = torch.where(self.t_end >= self.t, 1.0, -1.0).to(ts.dtype)
        self.keys = torch.nan_to_num(ts * self.sign.unsqueeze(1), nan=torch.inf)
        self.stops, self.jumps = row_stops(problem.controller, ts, self.t_end, problem.step_ts, problem.jump_ts)
        self.i_stop = torch.zeros_like(self.ids)
        self.at_jump = self._is_jump(self.t)
        self.r1, self.r2 = torch.ones_like(self.t), torch.ones_like(self.t)
        self.alive: Tensor | None = None  # None: every row present is running

    # ---- the loop -------------------------------------------------------------------------------------------------
    def run(self) -> Trajectory:
        self._first_observations()
        self._leave(self.t != self.t_end)
        if len(self.ids):
            self._start()
        for _ in range(self.problem.max_steps):
            if not len(self.ids):
                break
            self._step()
        if len(self.ids):
            running = torch.ones_like(self.ids, dtype=torch.bool) if self.alive is None else self.alive
            self.status[self.ids[running]] = int(Status.MAX_STEPS)
            self._retire(torch.zeros_like(running))
        return self._finish()

    def _start(self) -> None:
        controller = self.problem.controller
        low = self._inside(self.t, self.stops[:, 0], self.at_jump)
        self.f = self._evaluate(low, self.y)
        self.h = torch.full_like(self.t, math.inf)
        if isinstance(controller, PID):
            self.tolerance = Tolerance(controller, self.field.layout)
            self.exponents = controller.exponents(self.problem.solver.error_order)
            self.h = self._first_step(controller, low)
        self.spacing = 1e-9 * _ulp(self.t_end - self.t)
        self.size = self.y.abs()
        self._bind()
        if isinstance(controller, PID):
            bad = ~self.f.isfinite().all(1)
            if bool(bad.any()):
                self.status[self.ids[bad]] = int(Status.NON_FINITE)
                self._leave(~bad)

    def _bind(self) -> None:
        """What depends on the number of rows."""
        self.workspace = Workspace(self.tableau, self.y)
        self.c = stage_nodes(self.tableau, self.t)

    def _step(self) -> None:
        adaptive = isinstance(self.problem.controller, PID)
        stop = self.stops.gather(1, self.i_stop.unsqueeze(1)).squeeze(1)
        clipped = (stop - self.t).abs() <= self.h * (1 + 1e-10)
        t1 = torch.where(clipped, stop, self.t + self.sign * self.h)
        if self.alive is not None:
            t1 = torch.where(self.alive, t1, self.t)
        low, high = self._inside(self.t, t1, self.at_jump), t1
        if self.problem.jump_ts:
            high = self._inside(t1, self.t, clipped & self.jumps.gather(1, self.i_stop.unsqueeze(1)).squeeze(1))
        y1, k_last = self._stages(t1, low, high)
        accepted, factor = clipped, None
        if adaptive:
            size1 = y1.abs()
            error = self.workspace.error().div_(self.tolerance.scale(torch.maximum(self.size, size1)))
            r = self.tolerance.rows(error).to(self.t.dtype)
            accepted = r <= 1.0
            factor = self._factor(r, accepted)
        if self.alive is not None:
            accepted = accepted & self.alive
        reach = torch.searchsorted(self.keys, (t1 * self.sign).unsqueeze(1), right=True).squeeze(1)
        saves = torch.where(accepted, reach - self.seen, 0)
        failed = self._next_h(t1, clipped, accepted, factor, r) if adaptive else ~accepted
        done = accepted & (t1 == self.t_end)
        # The one synchronisation of the step.
        counts = torch.stack((accepted.sum(), saves.sum(), saves.amax(), (done | failed).sum())).tolist()
        self._record(counts, accepted, saves, t1, low, high, y1)
        self._commit(counts[0], accepted, clipped, t1, y1, k_last, reach)
        if counts[3]:
            self.status[self.ids[failed]] = int(Status.STEP_TOO_SMALL)
            self._leave(~(done | failed))

    def _stages(self, t1: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fills the workspace with h·k; returns y₁ and the unscaled last stage."""
        h = (t1 - self.t).to(self.y.dtype).unsqueeze(1)
        times = row_times(self.field, self.c, self.t, t1, low, high)
        torch.mul(self.f, h, out=self.workspace.rows[0])
        last: list[Tensor] = []

        def write(time: Tensor, z: Tensor, out: Tensor) -> None:
            k = self.field(time, z)
            last[:] = [k]
            torch.mul(k, h, out=out)

        y1 = self.workspace.step(write, times, 1.0, self.y)
        return y1, (last[0] if last and self.tableau.fsal else None)

    def _factor(self, r: Tensor, accepted: Tensor) -> Tensor:
        """`PID.factor`, row by row."""
        controller = self.problem.controller
        assert isinstance(controller, PID)
        e0, e1, e2 = self.exponents
        raw = controller.safety * r.clamp(min=1e-30) ** e0
        if e1 or e2:
            raw = raw * self.r1**e1 * self.r2**e2
        grown = raw.clamp(1.0, controller.max_factor)
        shrunk = raw.nan_to_num(nan=0.0).clamp(controller.min_factor, controller.safety)
        return torch.where(accepted, grown, shrunk)

    def _next_h(self, t1: Tensor, clipped: Tensor, accepted: Tensor, factor: Tensor | None, r: Tensor) -> Tensor:
        """Sets h of the next attempt; returns which rows can go no further."""
        controller = self.problem.controller
        assert isinstance(controller, PID) and factor is not None
        step = (t1 - self.t).abs() * factor
        h = torch.where(accepted & clipped, torch.maximum(self.h, step), step)
        if self.alive is not None:
            h = torch.where(self.alive, h, self.h)
        if self.exponents[1] or self.exponents[2]:
            finite = r.isfinite()
            kept2 = torch.where(accepted, self.r1, self.r2)
            kept1 = torch.where(accepted, r.clamp(min=1e-8), self.r1)
            self.r1, self.r2 = torch.where(finite, kept1, 1.0), torch.where(finite, kept2, 1.0)
        self.h = h.clamp(max=controller.max_step)
        spacing = torch.maximum(2 * _ulp(t1), self.spacing).clamp(min=controller.min_step)
        failed = ~accepted & (self.h <= spacing)
        return failed if self.alive is None else failed & self.alive

    def _record(
        self, counts: list[int], accepted: Tensor, saves: Tensor, t1: Tensor, low: Tensor, high: Tensor, y1: Tensor
    ) -> None:
        """Writes the observations of this step, and hands the step on where somebody records."""
        wanted = self.on_step is not None or self.problem.dense
        if not wanted and not counts[1]:
            return
        inner, ends = self._observations(counts, saves, t1, y1) if counts[1] else (None, None)
        if not wanted or not counts[0]:
            return
        if self.independent is None and counts[0] < len(self.ids):
            self._look_for_coupling()
        everyone = counts[0] == len(self.ids) or not self.independent
        if everyone:
            # Coupled rows are replayed together; those that did not accept take a step of length zero.
            still = t1 if counts[0] == len(self.ids) else torch.where(accepted, t1, self.t)
            high = still if high is t1 else high
            step = RowStep(self.ids, self.t, still, low, high, inner, ends, self.problem.whole_states, self.y)
        else:
            pick = accepted.nonzero().squeeze(1)
            position = accepted.cumsum(0) - 1
            part = [x[pick] for x in (self.ids, self.t, t1)]
            part += [part[1] if low is self.t else low[pick], part[2] if high is t1 else high[pick]]
            inner, ends = ((position[x[0]], *x[1:]) if x is not None else None for x in (inner, ends))
            step = RowStep(*part, inner, ends, self.problem.whole_states, self.y[pick])
        if self.problem.dense:
            hk = self.workspace.K if everyone else self.workspace.K[:, pick]
            y, hk = step.dense(step.y, hk)
            self.trajectory.dense_y.append(y.clone())
            self.trajectory.dense_hk.append(hk.contiguous() if not everyone else hk.clone())
            self.trajectory.steps.append((step.rows, step.t, step.t1))
        if self.on_step is not None:
            self.on_step(step._replace(y=self._whole_state()) if self.problem.whole_states else step)

    def _observations(self, counts: list[int], saves: Tensor, t1: Tensor, y1: Tensor) -> tuple[Any, Any]:
        """Interpolates and writes; returns what a recorded step needs to know of it."""
        sample = torch.repeat_interleave(torch.arange(len(saves), device=saves.device), saves, output_size=counts[1])
        first = saves.cumsum(0) - saves
        column = self.seen[sample] + torch.arange(counts[1], device=saves.device) - first[sample]
        when, end = self.ts[sample, column], t1[sample]
        row = column * self.batch + self.ids[sample]
        out = self.out.view(-1, self.out.shape[-1])
        at_end = when == end
        index = at_end.nonzero().squeeze(1)
        ends = (sample[index], row[index]) if len(index) else None
        if ends is not None:
            out.index_copy_(0, ends[1], y1[ends[0]])
        if len(index) == counts[1]:
            return None, ends
        index = (~at_end).nonzero().squeeze(1)
        sample, row, when = sample[index], row[index], when[index]
        start = self.t[sample]
        theta = ((when - start) / (t1[sample] - start)).to(self.y.dtype)
        out.index_copy_(0, row, self._interpolate(sample, theta))
        return (sample, row, self.dense_step.weights(theta)), ends

    def _interpolate(self, sample: Tensor, theta: Tensor) -> Tensor:
        """States at θ (m,) of the rows `sample`: the step's polynomial coefficients once a row, then Horner's rule."""
        degree = len(self.dense_step.coefficients)
        flat = self.workspace.K.view(self.tableau.stages, -1)
        polynomials = torch.mm(self.dense_step.coefficients, flat).view(degree, *self.y.shape)[:, sample]
        theta = theta.unsqueeze(1)
        value = polynomials[-1]
        for coefficient in polynomials[:-1].flip(0):
            value = torch.addcmul(coefficient, value, theta)
        return torch.addcmul(self.y[sample], value, theta)

    def _commit(
        self,
        count: int,
        accepted: Tensor,
        clipped: Tensor,
        t1: Tensor,
        y1: Tensor,
        k_last: Tensor | None,
        reach: Tensor,
    ) -> None:
        """Makes the accepted rows' results the state, and the slope there the next first stage."""
        self.accepted.index_add_(0, self.ids, accepted.long())
        rejected = ~accepted if self.alive is None else ~accepted & self.alive
        self.rejected.index_add_(0, self.ids, rejected.long())
        if not count:
            return
        hit = accepted & clipped
        if self.problem.jump_ts:
            jumps = self.jumps.gather(1, self.i_stop.unsqueeze(1)).squeeze(1)
            self.at_jump = torch.where(accepted, hit & jumps, self.at_jump)
        self.i_stop = (self.i_stop + hit).clamp(max=self.stops.shape[1] - 1)
        if count == len(self.ids):
            self.t, self.y, self.seen = t1, y1, reach
            self.size = y1.abs()
            if k_last is not None:
                self.f = k_last
        else:
            row = accepted.unsqueeze(1)
            self.t = torch.where(accepted, t1, self.t)
            self.seen = torch.where(accepted, reach, self.seen)
            self.y = torch.where(row, y1, self.y)
            self.size = self.y.abs()
            if k_last is not None:
                self.f = torch.where(row, k_last, self.f)
        if k_last is None or (self.problem.jump_ts and bool((self.at_jump & (self.t != self.t_end)).any())):
            stop = self.stops.gather(1, self.i_stop.unsqueeze(1)).squeeze(1)
            self.f = self._evaluate(self._inside(self.t, stop, self.at_jump), self.y)
        if self.problem.progress is not None:
            done = ((self.t - self.ts[:, 0]) / (self.t_end - self.ts[:, 0])).min()
            self.problem.progress(float(done), float(self.t.min()), int(self.accepted.max()))

    # ---- who is in the batch --------------------------------------------------------------------------------------
    def _leave(self, running: Tensor) -> None:
        """Rows not `running` stop: dropped from the batch, or kept as dead weight where `f` couples its rows."""
        if self.alive is not None:
            running = running & self.alive
        count, rows = int(running.sum()), len(running)
        if count == rows:
            return
        if count and self.independent is None and hasattr(self, "f"):
            self._look_for_coupling()
        crowded = count and rows > SMALL_BATCH and count > CROWDED * rows
        if count and (self.independent is False or crowded):
            self._retire(running)
            self.alive = running
            return
        self._retire(running)
        keep = running.nonzero().squeeze(1)
        names = [
            "ids",
            "y",
            "ts",
            "t",
            "t_end",
            "sign",
            "keys",
            "stops",
            "jumps",
            "i_stop",
            "at_jump",
            "r1",
            "r2",
            "seen",
        ]
        names += [name for name in ("f", "h", "spacing", "size") if hasattr(self, name)]
        for name in names:
            setattr(self, name, getattr(self, name).index_select(0, keep))
        self.alive = None
        self.field = self.problem.field.of_rows(self.ids)
        if count and hasattr(self, "f"):
            self._bind()

    def _retire(self, running: Tensor) -> None:
        """Keeps where the rows not running stand."""
        gone = (~running).nonzero().squeeze(1)
        ids = self.ids[gone]
        self.y_end[ids], self.t_end_reached[ids] = self.y[gone], self.t[gone]
        if hasattr(self, "h"):
            self.h_end[ids] = self.h[gone]

    def _whole_state(self) -> Tensor:
        return self.y_end.index_copy(0, self.ids, self.y)

    def _look_for_coupling(self) -> None:
        """Evaluates `f` on half of the rows: if their slopes change, rows must stay together.

        That is so with batch normalisation, with tensors of the batch's size caught in a closure, with noise. Arguments
        whose first dimension is the batch's may be per-sample or not: whichever reading reproduces the slopes is right.
        """
        rows = torch.arange(0, len(self.ids), 2, device=self.y.device)
        if len(self.ids) == 1 and self.batch > 1:
            rows = rows[:1]
        ids = self.ids[rows]
        stop = self.stops.gather(1, self.i_stop.unsqueeze(1)).squeeze(1)
        low = self._inside(self.t, stop, self.at_jump)[rows]
        leaves = pytree.tree_leaves(self.problem.field.args)
        batched = frozenset(
            i
            for i, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == self.batch
        )
        want = self.f[rows]
        size = float(want.nan_to_num(0.0, 0.0, 0.0).abs().max()) if len(rows) else 0.0
        for choice in dict.fromkeys((batched, frozenset())):
            self.problem.field.batch_args = choice
            try:
                got = self._evaluate(low, self.y[rows], self.problem.field.of_rows(ids))
            except (RuntimeError, ValueError, IndexError):
                continue
            if torch.allclose(got, want, rtol=1e-3, atol=1e-5 * size, equal_nan=True):
                self.independent = True
                return
        self.problem.field.batch_args = frozenset()
        self.independent = False
        logger.warning(
            "the field couples the samples of a batch (or captured a tensor of the batch's size): finished samples stay "
            "in the batch; hand per-sample tensors over in args to let them leave"
        )

    # ---- times ----------------------------------------------------------------------------------------------------
    def _first_observations(self) -> None:
        self.seen = torch.searchsorted(self.keys, (self.t * self.sign).unsqueeze(1), right=True).squeeze(1)
        for column in range(int(self.seen.max())):
            here = (self.seen > column).unsqueeze(1)
            self.out[column] = torch.where(here, self.y, torch.nan)

    def _is_jump(self, t: Tensor) -> Tensor:
        if not self.problem.jump_ts:
            return torch.zeros_like(t, dtype=torch.bool)
        return (t.unsqueeze(1) == t.new_tensor(self.problem.jump_ts)).any(1)

    def _inside(self, t: Tensor, towards: Tensor, jump: Tensor) -> Tensor:
        """`t` itself, or at jumps the next number in the field's dtype; the same tensor where nothing jumps."""
        if not self.problem.jump_ts:
            return t
        dtype = self.field.time_dtype
        return torch.where(jump, torch.nextafter(t.to(dtype), towards.to(dtype)).to(t.dtype), t)

    def _evaluate(self, t: Tensor, y: Tensor, field: VectorField | None = None) -> Tensor:
        field = field or self.field
        return field(t.to(field.time_dtype).view(field.layout.time_shape(len(t))), y)

    def _first_step(self, controller: PID, low: Tensor) -> Tensor:
        """Hairer's rule, row by row (`control.initial_step` has it for floats)."""
        span = (self.stops[:, 0] - self.t).abs()
        if controller.first_step is not None:
            return torch.full_like(self.t, min(controller.first_step, controller.max_step))
        order = self.problem.solver.error_order
        rows = self.tolerance.rows
        scale = self.tolerance.scale(self.y.abs())
        d0, d1 = rows(self.y / scale).to(self.t.dtype), rows(self.f / scale).to(self.t.dtype)
        h0 = torch.where((d0 > 1e-5) & (d1 > 1e-5), 0.01 * d0 / d1, 1e-6 * span)
        h0 = torch.minimum(h0.nan_to_num(nan=0.0), span)
        signed = (self.sign * h0).to(self.y.dtype).unsqueeze(1)
        probe = self._evaluate(low + self.sign * h0, torch.addcmul(self.y, self.f, signed))
        largest = torch.maximum(d1, rows((probe - self.f).div_(scale)).to(self.t.dtype) / h0)
        h1 = torch.where(largest <= 1e-15, (1e-3 * h0).maximum(1e-6 * span), (0.01 / largest) ** (1.0 / order))
        h = torch.where(largest.isfinite(), torch.minimum(100 * h0, h1), h0)
        return torch.minimum(h, span).clamp(controller.min_step, controller.max_step)

    # ---- the end --------------------------------------------------------------------------------------------------
    def _finish(self) -> Trajectory:
        stats = self.trajectory.stats
        stats.accepted, stats.rejected = self.accepted, self.rejected
        stats.evaluations = self._evaluations()
        bad = ~self.out.isfinite().all(2) & (
            torch.arange(self.width, device=self.out.device)[:, None] < self._reached()
        )
        overflowed = bad.any(0) & (self.status == 0)
        self.status[overflowed] = int(Status.NON_FINITE)
        if bool(bad.any()):
            self.out[bad.long().cummax(0).values.bool()] = torch.nan
        self.trajectory.status = self.status
        self.trajectory.failure = Failure(self.t_end_reached, self.y_end, self.h_end)
        return self.trajectory

    def _reached(self) -> Tensor:
        """Observations behind every sample: those that must be finite."""
        ts: Tensor = self.problem.ts
        sign = torch.where(self.t_end_reached >= ts[:, 0], 1.0, -1.0).to(ts.dtype).unsqueeze(1)
        return (ts * sign <= self.t_end_reached.unsqueeze(1) * sign).sum(1)

    def _evaluations(self) -> Tensor:
        """Of every sample: the stages of its attempts, its first slope, the probe of the first step."""
        attempts = self.accepted + self.rejected
        controller = self.problem.controller
        probe = 1 if isinstance(controller, PID) and controller.first_step is None else 0
        first = torch.where(attempts + (self.status == int(Status.NON_FINITE)) > 0, 1 + probe, 0)
        again = 0 if self.tableau.fsal else (self.accepted - 1).clamp(min=0)
        return first + attempts * (self.tableau.stages - 1) + again


def _ulp(t: Tensor) -> Tensor:
    size = t.abs()
    return torch.nextafter(size, torch.full_like(size, math.inf)) - size
