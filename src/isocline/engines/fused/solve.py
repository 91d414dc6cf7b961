"""Whole solves on the machine: every sample with its own steps, as the eager engine's `per_sample` takes them."""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID, Controller
from isocline.engines.eager.problem import Failure, Problem, Trajectory
from isocline.engines.fused import Fused
from isocline.engines.fused.build import library
from isocline.engines.fused.counts import Counted, Counts
from isocline.engines.fused.emit.specialise import address, backward, compiled, forward
from isocline.engines.fused.events import until_event
from isocline.engines.fused.lanes import CannotFuseError
from isocline.engines.fused.native import addresses
from isocline.engines.fused.path import Steps, look_between
from isocline.engines.fused.plan import (
    NAMES,
    Back,
    Call,
    Field,
    Job,
    Path,
    Plan,
    Pointer,
    Signal,
    control,
    method,
    times,
    tolerances_of,
)
from isocline.engines.fused.prepare import Prepared, prepare
from isocline.engines.fused.threads import threads
from isocline.solvers import RungeKutta
from isocline.solvers.runge_kutta import ExplicitRungeKutta

MOST_STAGES = 32  # as stepper.hpp
WAYS = {"forward": forward, "backward": backward}
PLAIN = Fused()
KIND = operator.attrgetter("dtype", "grad_fn")
BACKWARDS = {"pull_back", "adjoint"}


def refusal(problem: Problem) -> str | None:
    """Why the machine cannot take a problem; None where nothing speaks against it but perhaps the field."""
    layout, controller = problem.field.layout, problem.controller
    if layout.batch is None:
        return "its samples share their steps: batching='per_sample' gives each its own"
    if layout.device.type != "cpu" or layout.dtype not in NAMES or set(layout.dtypes) != {layout.dtype}:
        return "the state is not made of real tensors on the processor, all in single or all in double precision"
    if problem.observer is not None or problem.progress is not None:
        return "somebody looks on"
    if problem.dense and problem.field.common_times is not None:
        return "a dense output has a sample's own steps only where batching='per_sample' asks for them"
    if isinstance(controller, PID) and (controller.norm is not None or controller.force_min_step):
        return "the controller has a norm of its own, or forces steps"
    return solver_refusal(problem.solver)


def solver_refusal(solver: RungeKutta) -> str | None:
    """The same of a solver."""
    if not isinstance(solver, ExplicitRungeKutta) or solver.remembers or solver.wants_pair:
        return "the solver is no explicit Runge–Kutta method"
    if solver.tableau.dense_stages > MOST_STAGES:
        return f"the solver has more than {MOST_STAGES} stages"
    if any(c < 0 or c > 1 for c in (*solver.tableau.c, *solver.tableau.extra_c)):
        return "the solver asks beyond its step"
    return None


def entry(what: str, precision: str) -> Callable[..., int]:
    """A function of the machine."""
    return getattr(library(), f"isocline_{what}_{precision}")


class Run:
    """One solve: the tensors that the machine reads and fills."""

    def __init__(
        self, plan: Plan, problem: Callable[[], Problem], y0: Tensor, prepared: Prepared, engine: Fused = PLAIN
    ) -> None:
        """`problem`: made when it is asked for, which of solves alike most are not."""
        self.plan, self.made, self.engine, self.y0, self.prepared = plan, problem, engine, y0, prepared
        self.widths = plan.width, plan.width_back
        if engine.specialise:  # what is compiled has whole vectors
            self.widths = plan.width or 1, plan.width_back or 1
        samples, dtype = plan.samples, y0.dtype
        # The machine fills it: PyTorch would take its threads for that, which then wait, spinning, where the machine's own should run.
        self.ys = y0.new_empty((plan.observations, samples, plan.size))
        self.counts = Counts(samples, samples * plan.size * y0.itemsize)
        self.stats = Counted(self.counts, plan.call.method.stages)
        self.steps: Steps | None = None  # of a dense output
        self.leaves = prepared.leaves
        if not ({(dtype, None)}.issuperset(map(KIND, self.leaves)) and all(map(Tensor.is_contiguous, self.leaves))):
            self.leaves = [leaf.detach().to(dtype).contiguous() for leaf in self.leaves]
        self.pointers = addresses(self.leaves)
        call = self.call = Call.from_buffer_copy(plan.call)
        call.outcome = self.counts.outcome()
        call.y0, call.end = y0.data_ptr(), call.outcome.status + self.counts.behind
        call.leaves = self.pointers.buffer_info()[0]
        call.ys = self.ys.data_ptr()  # what a graph's node holds must not hold its output: `solve` lets go of it
        self.shapes: list[torch.Size] = []
        self.signals: list[tuple[Tensor, Tensor]] = []
        if prepared.further:
            self.shapes = [x.shape for x in prepared.further]
            self.u = torch.cat([x.detach().reshape(samples, -1).to(dtype) for x in prepared.further], 1)
            call.u, call.further = self.u.data_ptr(), self.u.shape[1]
        if prepared.signals:
            self.signals = [(knots.contiguous(), table.detach().contiguous()) for knots, table in prepared.signals]
            self.curves = (Signal * len(self.signals))()
            for signal, (knots, table) in zip(self.curves, self.signals, strict=True):
                signal.rows, signal.knots, signal.powers = len(knots), knots.shape[1], table.shape[2]
                signal.size, signal.ts, signal.coefficients = (
                    math.prod(table.shape[3:]),
                    knots.data_ptr(),
                    table.data_ptr(),
                )
            call.driven, call.n_signals = sum(signal.size for signal in self.curves), len(self.signals)
            call.signals = ctypes.addressof(self.curves)
        if engine.specialise and (native := self._native("forward")) is not None:
            call.field = self._compiled_field(native)

    @cached_property
    def end(self) -> Tensor:
        """The states (B, N) where the samples stopped."""
        if not self.y0.numel():
            return torch.empty_like(self.y0)
        memory, count = self.counts, self.y0.numel()
        return torch.frombuffer(memory.memory, dtype=self.y0.dtype, count=count, offset=memory.behind).view_as(self.y0)

    @cached_property
    def problem(self) -> Problem:
        """What is solved."""
        return self.made()

    @property
    def traced(self) -> Any:
        """The field's program."""
        return self.plan.traced

    def over(self, problem: Problem, y0: Tensor | None = None) -> Run:
        """One of the same field, of a problem with other times or steps, from the same states or others."""
        start = self.y0 if y0 is None else y0
        return Run(Plan(problem, self.traced, self.plan.dtype), lambda: problem, start, self.prepared, self.engine)

    def _native(self, way: str) -> ctypes.CDLL | None:
        """The compiled functions of a way, "forward" or "backward", where they are there."""
        plan = self.plan
        wait = self.engine.specialise == "wait"
        return compiled(WAYS[way], plan.traced, plan.dtype, self.widths[way == "backward"], wait, plan.tableau)

    def _compiled_field(self, native: ctypes.CDLL | None) -> Field:
        where = (None, None) if native is None else (address(native, "field"), address(native, "steps"))
        return self.plan.field(self.traced.encoded, *where)

    def solve(self, want_tape: bool = False) -> Tensor:
        """Runs it, once: the observations (T, B, N). With a tape it can be pulled back."""
        tape = Pointer()
        into = ctypes.byref(tape) if want_tape else None
        self.failures = self._run("solve", ctypes.byref(self.call), into)
        self.tape = Tape(tape.value or 0, self.plan.name) if want_tape else None
        ys = self.ys
        del self.ys
        return ys

    def _run(self, what: str, *arguments: Any) -> int:
        """What the machine returns: how many samples failed."""
        width = self.widths[what in BACKWARDS]
        found = entry(what, self.plan.name)(width, *arguments, threads(self.plan.work))
        if found < 0:
            raise MemoryError("the fused engine ran out of memory; take fewer samples at once, or gradient='backsolve'")
        return found

    def path(self) -> tuple[Tensor, ...]:
        """The accepted steps, sample by sample, of a solve with a tape: where those of each begin (B,); times from and to,
        whether f jumps at either, (n,); states where they began (n, N)."""
        assert self.tape is not None
        accepted = self.counts.accepted
        first, count = accepted.cumsum(0) - accepted, int(accepted.sum())
        times, jumps = torch.empty(2, count, dtype=torch.float64), torch.empty(2, count, dtype=torch.bool)
        found = (first, *times, *jumps, self.end.new_empty(count, self.plan.size))
        into = Path(*(x.data_ptr() for x in found))
        self._run("path", ctypes.byref(self.call), Pointer(self.tape.address), ctypes.byref(into))
        return found

    def pull_back(self, grads: Tensor, grad_states: Tensor | None = None) -> list[Tensor]:
        """Cotangents of the observations (T, B, N), and of the states where `steps` began -> of y0, of the signals, of the
        further inputs, of the leaves."""
        assert self.tape is not None
        back, found, _held = self._back(grads)
        if grad_states is not None:
            assert self.steps is not None
            grad_states = grad_states.contiguous()
            back.first, back.grad_states = self.steps.first.data_ptr(), grad_states.data_ptr()
        self._run("pull_back", ctypes.byref(back), Pointer(self.tape.address))
        return self._split(*found)

    def _back(self, grads: Tensor) -> tuple[Back, Any, Any]:
        """What the machine is handed, the tensors it fills, and what must outlast the call beside them."""
        plan = self.plan
        if grads.dtype is not plan.dtype or not grads.is_contiguous():
            grads = grads.to(plan.dtype).contiguous()
        grad_y0 = torch.zeros_like(self.y0)
        grad_u = grad_y0.new_zeros(plan.samples, self.call.further) if self.shapes else None
        grad_leaves = list(map(torch.zeros_like, self.leaves))
        grad_tables = []
        if self.signals:
            grad_tables = [torch.zeros_like(table) for _, table in self.signals]
            for curve, table in zip(self.curves, grad_tables, strict=True):
                curve.grads = table.data_ptr()
        pointers = addresses(grad_leaves)
        back = Back.from_buffer_copy(plan.back)
        back.call, back.call.field = self.call, plan.back.call.field
        if self.engine.specialise:  # the way forward may have been compiled and this one not
            native = self._native("backward")
            back.call.field = self._compiled_field(native)
            if native is not None:
                where = address(native, "derivative"), address(native, "steps_back")
                back.derivative = plan.field(self.traced.encoded_derivative, *where)
        back.grads, back.grad_y0 = grads.data_ptr(), grad_y0.data_ptr()
        if grad_u is not None:
            back.grad_u = grad_u.data_ptr()
        back.grad_leaves = pointers.buffer_info()[0]
        return back, (grad_y0, grad_tables, grad_u, grad_leaves), (grads, pointers)

    def _split(
        self, grad_y0: Tensor, tables: list[Tensor], grad_u: Tensor | None, leaves: list[Tensor]
    ) -> list[Tensor]:
        if grad_u is None:
            return [grad_y0, *tables, *leaves]
        widths = [math.prod(shape[1:]) for shape in self.shapes]
        parts = grad_u.split(widths, 1)
        return [grad_y0, *tables, *(g.reshape(s) for g, s in zip(parts, self.shapes, strict=True)), *leaves]

    def adjoint(
        self, ys: Tensor, grads: Tensor, problem: Problem, solver: RungeKutta, controller: Controller
    ) -> Adjoint:
        """The continuous adjoint's cotangents, as of `pull_back`, by a solver and a controller of its own.

        Args:
            ys: the observations, and `grads` their cotangents, (T, B, N).
            problem: says when they are, and where f jumps.
        """
        ys = ys.detach().contiguous()
        back, found, _held = self._back(grads)
        counts = Counts(self.plan.samples)
        back.call.outcome = counts.outcome()
        back.call.method = method(solver, isinstance(controller, PID))
        back.call.control = control(controller, solver, problem.max_steps)
        back.call.times, _tables = times(problem, controller)
        twice = [x.repeat(2) for x in tolerances_of(problem, controller, self.plan.dtype)]
        back.call.rtol, back.call.atol = (x.data_ptr() for x in twice)
        back.call.ys = ys.data_ptr()
        missed = torch.zeros(len(ys), self.plan.samples, dtype=torch.float64)
        self._run("adjoint", ctypes.byref(Job(back, missed.data_ptr())))
        return Adjoint(self._split(*found), missed, counts.status, counts.t, counts.evaluations)

    def trajectory(self, ys: Tensor) -> Trajectory:
        """As the eager engine's."""
        counts = self.counts
        found = Trajectory(ys, self.end, self.stats, counts.status)
        if self.failures:
            found.failure = Failure(counts.t.to(self.problem.field.layout.clock_dtype), self.end, counts.h)
        return found


@dataclass
class Adjoint:
    """What a solve backwards found.

    Attributes:
        cotangents: as of `Run.pull_back`.
        missed: (T, B), by observation, squares of what y misses the stored one by, summed over the state.
        status, t, evaluations: (B,) how and where each sample ended, and how often the field was asked.
    """

    cotangents: list[Tensor]
    missed: Tensor
    status: Tensor
    t: Tensor
    evaluations: Tensor


class Tape:
    """The accepted steps of a solve, in the machine's memory, freed with it."""

    def __init__(self, address: int, name: str) -> None:
        self.address, self.free = address, entry("free", name)

    def __del__(self) -> None:
        self.free(Pointer(self.address))


def run_of(problem: Problem, y0: Tensor, engine: Fused) -> tuple[Run, list[Tensor]]:
    """A run, and the tensors beside y0 that its result depends on, with their graphs: tables of the signals, further
    inputs, leaves.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    y, alike = y0.detach().contiguous(), problem.alike
    why = refusal(problem)
    if why is not None:
        raise CannotFuseError(f"the fused engine cannot take this problem: {why}")
    prepared = prepare(problem.field, problem.ts[:, 0], y)
    others = [*(table for _, table in prepared.signals), *prepared.further, *prepared.leaves]
    plan = Plan(problem, prepared.traced, y.dtype)
    if alike is not None and prepared.kept is not None:
        alike["fused"] = plan, prepared.kept, prepared.own, prepared.common
    return Run(plan, lambda: problem, y, prepared, engine), others


def run_alike(
    laid_out: tuple[Any, ...] | None,
    problem: Callable[[], Problem],
    f: Callable[..., Any],
    args: tuple[Any, ...],
    y0: Tensor,
    engine: Fused,
) -> tuple[Run, list[Tensor]]:
    """The same, by what `run_of` laid out for a problem alike, where `f` is known to be what it was."""
    if laid_out is None or not laid_out[1].sure(f):
        return run_of(problem(), y0, engine)
    plan, kept, own, common = laid_out
    leaves = kept.leaves([args[i] for i in common] if common else ())
    prepared = Prepared(plan.traced, [args[i] for i in own] if own else [], leaves)
    return Run(plan, problem, y0.detach().contiguous(), prepared, engine), [*prepared.further, *leaves]


def integrate(problem: Problem, y0: Tensor, engine: Fused = PLAIN) -> Trajectory:
    """Integrates every row of `y0` (B, N) over its own row of `problem.ts`, without a graph.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    run, others = run_of(problem, y0, engine)
    if problem.watch is not None:
        return until_event(run, lambda run, _: _done(run, others))
    return _done(run, others)


def _done(run: Run, others: Sequence[Tensor]) -> Trajectory:
    dense = run.problem.dense
    found = run.trajectory(run.solve(want_tape=dense))
    if not dense:
        return found
    steps = Steps(run)
    return look_between(found, steps, steps.y, steps.hk(run, others))
