"""The loop with one time, one step size and one error norm for the whole state.

Control runs in Python floats: a step needs one number from the device anyway (the error ratio), and arithmetic on
0-d tensors would cost more than the step.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import torch

from isocline._types import Float, Tensor
from isocline.control import PID, FixedStep, Stops
from isocline.control.initial_step import Tolerance, hairer_finish, hairer_start
from isocline.engines.eager.problem import Failure, Problem, Trajectory
from isocline.engines.eager.steps import Segment, SharedStep, stage_times
from isocline.events import Stretch
from isocline.field import VectorField
from isocline.solution import Stats, Status
from isocline.solvers.memory import MemoryWorkspace
from isocline.solvers.runge_kutta import DenseStep

CORRECTIONS = 4  # times a step is taken again until it ends at an event


def integrate(
    problem: Problem,
    y0: Float[Tensor, " state"],
    *,
    graph: bool = False,
    on_step: Callable[[SharedStep], None] | None = None,
    segments: int = 0,
) -> Trajectory:
    """Integrates from ts[0] to ts[-1].

    Args:
        problem: of shared batching.
        y0: flat state (N,).
        graph: let autograd record every accepted step (plain backpropagation).
        on_step: called with every accepted `SharedStep`, in order.
        segments: give the first so many accepted steps a graph of their own, from a leaf at the step's start.
    """
    return Loop(problem, y0, graph, on_step, segments).run()


class Loop:
    """One integration, at once or step by step.

    Attributes:
        clock: (t, next h, last two error ratios) after an accepted step; of fixed steps t alone counts.
        jumped: whether y or f was changed since, from outside.
    """

    def __init__(
        self,
        problem: Problem,
        y0: Tensor,
        graph: bool,
        on_step: Callable[[SharedStep], None] | None,
        segments: int = 0,
        after: Loop | None = None,
    ) -> None:
        """`after` is another one, of the same field and solver, that this one goes on from."""
        self.problem, self.graph, self.on_step, self.segments = problem, graph, on_step, segments
        self.segment: Segment | None = None  # of the step just attempted
        self.origin: tuple[Tensor, Tensor] | None = None  # the leaf y, and k₁, where the next segment begins
        self.field: VectorField = problem.field
        self.tableau = problem.solver.tableau
        self.ts: list[float] = problem.ts
        self.sign = 1.0 if self.ts[-1] >= self.ts[0] else -1.0
        self.adaptive = isinstance(problem.controller, PID)
        self.dense_step = DenseStep.of(self.tableau, y0)
        self.workspace = None if graph else problem.solver.workspace(y0, self.field)
        self.after, self.jumped, self.clock = after, False, (self.ts[0], math.nan, 1.0, 1.0)
        if after is not None:
            self.workspace, self.jumped, self.clock = after.workspace, after.jumped, after.clock
        self.memory = self.workspace if isinstance(self.workspace, MemoryWorkspace) else None
        self.y = y0
        self.k1: Tensor | None = None
        self.ks: list[Tensor] = []
        self.saved: list[Tensor] = [y0]
        self.stats = Stats()
        self.trajectory = Trajectory(y0, y0, self.stats)
        self.watch = problem.watch
        self.seen = 1
        if not graph:
            self.out = y0.new_empty(len(self.ts), *y0.shape)
            self.out[0] = y0

    # ---- the loop -------------------------------------------------------------------------------------------------
    def run(self) -> Trajectory:
        count = self.field.evaluations
        status = Status.SUCCESS if len(self.ts) == 1 else _exhaust(self.steps())
        self.stats.evaluations += self.field.evaluations - count
        self.stats.jacobians = 0 if self.workspace is None else self.workspace.jacobians
        self.trajectory.y_end = self.y
        if self.memory is not None:
            self.trajectory.state_end = self.memory.record(self.y)["y"]
        self.trajectory.ys = self._collect()
        return self._checked(status)

    def steps(self) -> Generator[None, None, Status]:
        """Takes them one by one; returns how it ended."""
        return self._adaptive() if self.adaptive else self._fixed()

    def _adaptive(self) -> Generator[None, None, Status]:
        controller = self.problem.controller
        assert isinstance(controller, PID)
        tolerance = Tolerance(controller, self.field.layout)
        if self.workspace is not None:
            self.workspace.tolerance = tolerance
        exponents = controller.exponents(self.problem.solver.error_order)
        stops = Stops(self.ts[0], self.ts[-1], self.problem.step_ts, self.problem.jump_ts, self.field.time_dtype)
        t, i_stop = self.ts[0], 0
        if self.after is None:
            self._start(stops.inside(t, stops.times[0]))
            h = self._first_step(controller, tolerance, t, stops)
            r1 = r2 = 1.0
        else:
            _, h, r1, r2 = self.clock
            h = min(max(h, controller.min_step), controller.max_step)
            self._go_on(t, stops.times[0], stops)
        if not math.isfinite(h):
            return self._failed(Status.NON_FINITE, t, h)
        h = max(h, 4 * math.ulp(t))  # the interval itself may be a few spacings long
        # Below this no step advances time; the second term ends the retreat from a NaN at t = 0 in a few dozen steps.
        spacing = 1e-9 * math.ulp(self.ts[-1] - t)
        size = self.y.detach().abs()
        observed = self.problem.observer is not None
        for _ in range(self.problem.max_steps):
            stop = stops.times[i_stop]
            clipped = abs(stop - t) <= h * (1 + 1e-10)
            t1 = stop if clipped else t + self.sign * h
            if not clipped and h <= max(2 * math.ulp(t), spacing):
                return self._failed(Status.STEP_TOO_SMALL, t, h)
            if observed:
                self._tell("tried", t, t1)
            y1, low, high = self._attempt(t, t1, stops)
            step = abs(t1 - t)
            error, size1 = self._error(), (y1.detach() if self.graph else y1).abs()
            scale = tolerance.scale(torch.maximum(size, size1))
            # In place under vmap it would have to be mapped over itself.
            r = tolerance.shared(error / scale if self.graph else error.div_(scale)) * step
            accepted = r <= 1.0 or controller.forces(r, step)
            factor = controller.factor(exponents, r, r1, r2, accepted)
            if self.memory is not None:
                factor = self.memory.steer(factor, r, accepted, controller)
            if observed:
                self._tell("accepted" if accepted else "rejected", t, t1)
            if accepted:
                if self.watch is not None and (ended := self._event(t, t1, y1, stops)) is not None:
                    return ended
                self._accept(self._step(t, t1, low, high), y1)
                size, t = size1, t1
                r1, r2 = max(r, 1e-8), r1
                # A step cut short by a stop says nothing about how long the next one may be.
                h = max(h, step * factor) if clipped else step * factor
                self.clock = t, h, r1, r2
                yield
                if clipped:
                    i_stop += 1
                    if i_stop == len(stops.times):
                        return Status.SUCCESS
                if self.jumped:
                    size = self.y.abs()
                self._go_on(t, stops.times[i_stop], stops)
            else:
                self.stats.rejected += 1
                # Of a few spacings of time a fraction may round to as many.
                h = min(step * factor, step - math.ulp(t))
                if not math.isfinite(r):
                    r1 = r2 = 1.0
                if h < controller.min_step and not (controller.force_min_step and math.isfinite(r)):
                    return self._failed(Status.STEP_TOO_SMALL, t, h)
            h = min(max(h, controller.min_step), controller.max_step)
        return self._failed(Status.MAX_STEPS, t, h)

    def _fixed(self, watch: bool = False) -> Generator[None, None, Status]:
        """`watch` looks at every state, to find where one that overflowed did."""
        controller = self.problem.controller
        assert isinstance(controller, FixedStep)
        stops = Stops(self.ts[0], self.ts[-1], self.problem.step_ts, self.problem.jump_ts, self.field.time_dtype)
        grid = controller.grid(self.ts, stops.times)
        observed = self.problem.observer is not None
        if self.after is None:
            self._start(stops.inside(grid[0], grid[1]))
        for i, (t, t1) in enumerate(itertools.pairwise(grid)):
            if i == self.problem.max_steps:
                return self._failed(Status.MAX_STEPS, t, abs(t1 - t))
            if i or self.after is not None:
                self._go_on(t, t1, stops)
            if observed:
                self._tell("tried", t, t1)
            y1, low, high = self._attempt(t, t1, stops)
            if watch and not bool(y1.isfinite().all()):
                return self._failed(Status.NON_FINITE, t, abs(t1 - t))
            if observed:
                self._tell("accepted", t, t1)
            if self.watch is not None and (ended := self._event(t, t1, y1, stops)) is not None:
                return ended
            self._accept(self._step(t, t1, low, high), y1)
            self.clock = t1, math.nan, 1.0, 1.0
            yield
        return Status.SUCCESS

    def _go_on(self, t: float, stop: float, stops: Stops) -> None:
        """The slope at the start of the next step."""
        self._next_slope(t, stops.inside(t, stop), stops.is_jump(t) or self.jumped)
        self.jumped = False

    def _tell(self, what: str, t: float, t1: float) -> None:
        """The observer, of the step from the present state."""
        call = getattr(self.problem.observer, what)
        if call is not None:
            call(t, self.field.layout.unflatten(self.y), t1 - t)

    # ---- one step -------------------------------------------------------------------------------------------------
    def _attempt(self, t: float, t1: float, stops: Stops) -> tuple[Tensor, float, float]:
        low, high = stops.inside(t, t1), stops.inside(t1, t)
        self.attempt, self.complete = (t, t1, low, high), not self.tableau.extra_c
        times = self.field.times(stage_times(self.tableau.c, t, t1, low, high))
        if self.workspace is None:
            assert self.k1 is not None
            y1, self.ks = self.problem.solver.recorded(self.field, times, t1 - t, self.y, self.k1)
        elif self.origin is not None:
            y1 = self._attempt_segment(times, t1 - t)
        else:
            self.segment = None
            y1 = self.workspace.step(self.field.fill, times, t1 - t, self.y)
        return y1, low, high

    def _attempt_segment(self, times: Sequence[Tensor], h: float) -> Tensor:
        """The step with a graph of its own; its stages are copied to where the others are."""
        assert self.origin is not None and self.workspace is not None
        with torch.enable_grad():
            y1, ks = self.problem.solver.recorded(self.field, times, h, *self.origin)
        self.segment = Segment(*self.origin, y1, ks)
        if len(ks) > 1:
            torch.stack([k.detach() for k in ks[1:]], out=self.workspace.K[1 : len(ks)])
        return y1.detach()

    def _complete(self) -> None:
        """Adds the stages that only the interpolant needs, once a step."""
        if self.complete:
            return
        self.complete = True
        solver, (t, t1, low, high) = self.problem.solver, self.attempt
        h = t1 - t
        times = self.field.times(stage_times(self.tableau.extra_c, t, t1, low, high))
        if self.workspace is None:
            self.ks = solver.recorded_extra(self.field, times, h, self.y, self.ks)
        elif self.segment is None:
            self.workspace.step_extra(self.field.fill, times, h, self.y)
        else:
            ks = [k for k in self.segment.ks if k is not None]
            with torch.enable_grad():
                ks = solver.recorded_extra(self.field, times, h, self.segment.y, ks)
            self.segment = self.segment._replace(ks=ks)
            stages = self.tableau.stages
            torch.stack([k.detach() for k in ks[stages:]], out=self.workspace.K[stages:])

    def _error(self) -> Tensor:
        if self.workspace is not None:
            return self.workspace.error()
        assert self.tableau.b_error is not None
        # The error steers the steps; gradients hold the steps fixed.
        weights = self.y.new_tensor(self.tableau.b_error)
        return torch.mv(torch.stack([k.detach() for k in self.ks], -1).view(-1, len(self.ks)), weights)

    def _accept(self, step: SharedStep, y1: Tensor) -> None:
        if self.on_step is not None:
            self.on_step(step)
        if self.problem.dense:
            y, hk = step.dense(self.y, self._stages() * (step.t1 - step.t))
            self.trajectory.dense_y.append(y)
            self.trajectory.dense_hk.append(hk)
            self.trajectory.steps.append(step[:2])
        if step.last > step.first:
            self._save(step, y1)
        self.seen = step.last
        if self.memory is not None:
            self.memory.accept(self.y)
        self.y = y1
        self.stats.accepted += 1
        if self.problem.progress is not None:
            done = (step.t1 - self.ts[0]) / (self.ts[-1] - self.ts[0])
            self.problem.progress(done, step.t1, self.stats.accepted)

    def _reach(self, t1: float) -> int:
        """How many observations are behind once `t1` is reached."""
        if self.seen < len(self.ts) and (self.ts[self.seen] - t1) * self.sign > 0:
            return self.seen
        return bisect_right(self.ts, self.sign * t1, lo=self.seen, key=lambda x: self.sign * x)

    def _stages(self) -> Tensor:
        self._complete()
        return torch.stack(self.ks) if self.workspace is None else self.workspace.K

    def _step(self, t: float, t1: float, low: float, high: float) -> SharedStep:
        """The step just taken, with the weights of the observations strictly inside it."""
        first, last = self.seen, self._reach(t1)
        inner = last - first
        if inner and self.ts[last - 1] == t1:
            inner -= 1
        if inner or self.problem.dense:
            self._complete()
        weights = None
        if inner:
            powers = [self.dense_step.row((x - t) / (t1 - t)) for x in self.ts[first : first + inner]]
            weights = self.y.new_tensor(powers) @ self.dense_step.coefficients
        segment = self.segment
        if segment is not None and weights is None and not self.problem.dense:
            segment = segment.of_last_stage(self.tableau.stages, self.tableau.fsal)
        step = SharedStep(t, t1, low, high, first, last, weights, self.y, segment)
        if self.memory is None or self.on_step is None:
            return step
        return step._replace(**self.memory.record(self.y))

    def _save(self, step: SharedStep, y1: Tensor) -> None:
        inner = step.first + (0 if step.weights is None else len(step.weights))
        h = step.t1 - step.t
        if self.graph:
            if step.weights is not None:
                self.saved += torch.addmm(self.y, step.weights, self._stages(), alpha=h).unbind(0)
            self.saved += [y1] * (step.last - inner)
            return
        if step.weights is not None:
            torch.addmm(self.y, step.weights, self._stages(), alpha=h, out=self.out[step.first : inner])
        if inner < step.last:
            self.out[inner : step.last] = y1

    # ---- events ---------------------------------------------------------------------------------------------------
    def _event(self, t: float, t1: float, y1: Tensor, stops: Stops) -> Status | None:
        """Where the accepted step holds an event: ends the solve there, with a step that is taken again to end at it."""
        assert self.watch is not None
        clock, end = (self.y.new_tensor([x], dtype=self.field.layout.clock_dtype) for x in (t, t1))
        hk = self._stages().detach().unsqueeze(1) * (t1 - t)
        step = Stretch(clock, end, self.y.detach()[None], y1.detach()[None], hk, self.dense_step.weights)
        if self.stats.accepted == 0:
            self.watch.begin(clock, step.y)
        found = self.watch.look(step, final=end == self.ts[-1])
        if found is None:
            return None
        if bool(found.stuck):
            return self._failed(Status.EVENTS_ACCUMULATE, t, abs(t1 - t))
        at = found.t
        for _ in range(CORRECTIONS):
            t1 = at.item()
            y1, low, high = self._attempt(t, t1, stops)
            with torch.no_grad():
                slope = self.field(self.field.time(high), y1.detach())
            better, moves = self.watch.correct(found, at, y1.detach()[None], slope[None])
            if not bool(moves):
                break
            at = self.watch.after(clock, end, better)
        first = bisect_left(self.ts, self.sign * t1, key=lambda x: self.sign * x)
        self.ts[first:] = [t1]
        self._accept(self._step(t, t1, low, high), y1)
        self.trajectory.event = found.fired
        return Status.EVENT

    # ---- slopes and the first step --------------------------------------------------------------------------------
    def _start(self, low: float) -> None:
        start = self.problem.take_start() if self.workspace is not None else None
        self.stats.evaluations = 0 if start is None else 1
        self.jumped = False
        if start is None:
            # A copy: a field that writes into its argument is refused before it can spoil the caller's y0.
            self._ask(low, self.y.clone())
        else:
            self._set_slope(start[1].detach())
            self.origin = start if self.segments else None

    def _set_slope(self, k1: Tensor) -> None:
        self.k1 = k1
        if self.workspace is not None:
            self.workspace.rows[0].copy_(k1.view_as(self.workspace.like))

    def _ask(self, low: float, y: Tensor) -> None:
        """Evaluates k₁ anew; with a graph where the next step keeps its own."""
        if self.stats.accepted >= self.segments:
            self.origin = None
            self._set_slope(self.field(self.field.time(low), y))
            return
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            k1 = self.field(self.field.time(low), y)
        self.origin = y, k1
        self._set_slope(k1.detach())

    def _next_slope(self, t: float, low: float, jump: bool) -> None:
        if jump and self.memory is not None:
            self.memory.forget()
        if jump or not self.tableau.fsal:
            self._ask(low, self.y)
        elif self.workspace is None:
            self.k1 = self.ks[self.tableau.stages - 1]
        else:
            self.workspace.rows[0].copy_(self.workspace.rows[self.tableau.stages - 1])
            self.origin = None
            if self.stats.accepted < self.segments:
                # Sums keep nothing of what they add, so the leaf may lie in the buffer.
                self.origin = self.y.detach().requires_grad_(), self.workspace.K[0].detach().requires_grad_()

    def _first_step(self, controller: PID, tolerance: Tolerance, t: float, stops: Stops) -> float:
        span = abs(stops.times[0] - t)
        if controller.first_step is not None:
            return min(controller.first_step, controller.max_step)
        assert self.k1 is not None
        with torch.no_grad():
            y, k1 = self.y.detach(), self.k1.detach()
            scale = tolerance.scale(y.abs())
            d0, d1 = tolerance.shared(y / scale), tolerance.shared(k1 / scale)
            if not math.isfinite(d0 + d1):
                return math.nan
            h0 = hairer_start(span, d0, d1)
            probe = self.field(
                self.field.time(stops.inside(t, t + self.sign) + self.sign * h0), y + k1 * (self.sign * h0)
            )
            d2 = tolerance.shared((probe - k1) / scale) / h0
        h = hairer_finish(span, h0, d1, d2, self.problem.solver.error_order)
        return min(max(h, controller.min_step), controller.max_step)

    # ---- the end --------------------------------------------------------------------------------------------------
    def _collect(self) -> Tensor:
        if not self.graph:
            out = self.out if self.trajectory.event is None else self.out[: len(self.ts)]
            out[self.seen :] = torch.nan
            return out
        missing = len(self.ts) - len(self.saved)
        return torch.stack(self.saved + [torch.full_like(self.y, torch.nan)] * missing)

    def _failed(self, status: Status, t: float, h: float) -> Status:
        self.trajectory.failure = Failure(t, self.y.detach(), h)
        return status

    def _checked(self, status: Status) -> Trajectory:
        """Overflow that no error estimate saw (fixed steps; inf over inf): found once, at the end."""
        out = self.trajectory
        if torch._C._are_functorch_transforms_active() and status is Status.SUCCESS:
            return out  # under vmap no number can be read
        ys = out.ys.detach()
        if status.success and math.isfinite(ys.sum().item()):
            out.status = status
            return out
        finite = ys.isfinite().all(1)
        if status.success and not bool(finite.all()):
            status = Status.NON_FINITE
            before = max(int((~finite).nonzero()[0]) - 1, 0)
            out.failure = Failure(self.ts[before], out.ys[before].detach())
            if not self.adaptive:
                again = Loop(replace(self.problem, observer=None), out.ys[0].detach(), graph=False, on_step=None)
                with torch.no_grad():
                    again.watch = None
                    _exhaust(again._fixed(watch=True))
                out.failure = again.trajectory.failure or out.failure
        if not status.success:
            reached = finite.long().cummin(0).values.bool()
            out.ys = torch.where(reached[:, None], out.ys, torch.nan)
        out.status = status
        return out


def _exhaust(steps: Generator[None, None, Status]) -> Status:
    """Takes all steps; how it ended."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
