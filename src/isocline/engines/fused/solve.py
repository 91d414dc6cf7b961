"""Whole solves on the machine: every sample with its own steps, as the eager engine's `per_sample` takes them."""

from __future__ import annotations

import ctypes
import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID, Controller
from isocline.control.initial_step import Tolerance
from isocline.engines.eager.problem import Failure, Problem, Trajectory
from isocline.engines.fused import Fused
from isocline.engines.fused.build import library
from isocline.engines.fused.emit.specialise import address, backward, compiled, forward
from isocline.engines.fused.lanes import CannotFuseError
from isocline.engines.fused.native import Code, Encoded, addresses
from isocline.engines.fused.prepare import Prepared, prepare
from isocline.engines.fused.timetable import timetable
from isocline.solution import Stats, Status
from isocline.solvers import RungeKutta
from isocline.solvers.runge_kutta import DenseStep, ExplicitRungeKutta

MOST_STAGES = 32  # as stepper.hpp
NAMES = {torch.float32: "float", torch.float64: "double"}
WAYS = {"forward": forward, "backward": backward}
PLAIN = Fused()
Pointer = ctypes.c_void_p
METHODS: dict[tuple[int, bool], Any] = {}  # by tableau, which is kept, and whether steps adapt
CONTROLS: dict[Any, Any] = {}
TOLERANCES: dict[Any, list[Tensor]] = {}  # laid out
PROCESSORS = os.cpu_count() or 1


class _Method(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("stages", "extra", "fsal", "degree", "adaptive")),
        *((name, Pointer) for name in ("a", "b", "c", "error", "dense")),
        ("center", ctypes.c_double),
    ]


class _Control(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_double)
            for name in ("e0", "e1", "e2", "safety", "min_factor", "max_factor", "min_step", "max_step", "first_step")
        ),
        *(
            (name, ctypes.c_int32)
            for name in ("error_order", "max_steps", "success", "limit", "too_small", "non_finite")
        ),
    ]


class _Times(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("samples", "width", "stops_width", "common")),
        *((name, Pointer) for name in ("keys", "stops", "sign", "jumps")),
    ]


class _Outcome(ctypes.Structure):
    _fields_ = [(name, Pointer) for name in ("status", "accepted", "rejected", "evaluations", "t", "h")]


class _Signal(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "knots", "powers", "size")),
        *((name, Pointer) for name in ("ts", "coefficients", "grads")),
    ]


class _Field(ctypes.Structure):
    _fields_ = [("code", Code), ("inputs", Pointer), ("outputs", Pointer)]


class _Call(ctypes.Structure):
    _fields_ = [
        ("field", _Field),
        ("method", _Method),
        ("control", _Control),
        ("times", _Times),
        ("outcome", _Outcome),
        *((name, ctypes.c_int64) for name in ("size", "driven", "further", "n_signals")),
        *((name, Pointer) for name in ("signals", "y0", "u", "rtol", "atol", "ys", "end", "leaves", "leaf_sizes")),
        ("n_leaves", ctypes.c_int32),
    ]


class _Back(ctypes.Structure):
    _fields_ = [
        ("call", _Call),
        ("derivative", _Field),
        *((name, Pointer) for name in ("grads", "grad_y0", "grad_u", "grad_leaves")),
    ]


class _Adjoint(ctypes.Structure):
    _fields_ = [("back", _Back), ("missed", Pointer)]


def refusal(problem: Problem) -> str | None:
    """Why the machine cannot take a problem; None where nothing speaks against it but perhaps the field."""
    layout, controller = problem.field.layout, problem.controller
    if layout.batch is None:
        return "its samples share their steps: batching='per_sample' gives each its own"
    if layout.device.type != "cpu" or layout.dtype not in NAMES or not layout.plain:
        return "the state is not one real tensor in single or double precision on the processor"
    if problem.watch is not None:
        return "it has events"
    if problem.dense or problem.observer is not None or problem.progress is not None:
        return "somebody looks on, or wants every step"
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


class Run:
    """One solve: its arguments as the machine takes them, kept alive, and what it fills."""

    def __init__(self, problem: Problem, y0: Tensor, prepared: Prepared, engine: Fused) -> None:
        self.problem, self.kept, self.traced, self.engine = problem, [], prepared.traced, engine
        self.name, self.size = NAMES[y0.dtype], y0.shape[1]
        ts: Tensor = problem.ts
        samples, width = ts.shape
        self.ys = y0.new_full((width, samples, self.size), torch.nan)
        self.end = y0.clone()
        counts, self.outcome = self._outcome(samples)
        self.status, self.accepted, self.rejected, self.evaluations, self.t, self.h = counts
        self.stats = Stats(accepted=self.accepted, rejected=self.rejected, evaluations=self.evaluations)
        self.shapes = [x.shape for x in prepared.further]
        self.leaves = [
            leaf.detach()
            if leaf.dtype is y0.dtype and leaf.is_contiguous()
            else leaf.detach().to(y0.dtype).contiguous()
            for leaf in prepared.leaves
        ]
        self.width = self._width(samples)
        call = self.call = _Call()
        call.field = self.field(self.traced.encoded, self._native("forward"), "field")
        call.method = self._method(problem.solver, isinstance(problem.controller, PID))
        call.control = self._control(problem.controller, problem.solver)
        call.times = self._times(problem.controller)
        call.outcome = self.outcome
        u = [x.detach().reshape(samples, -1).to(y0.dtype) for x in prepared.further]
        u = torch.cat(u, 1) if u else y0.new_empty(samples, 0)
        self.signals = [(knots.contiguous(), table.detach().contiguous()) for knots, table in prepared.signals]
        self.curves = (_Signal * max(1, len(self.signals)))()
        for signal, (knots, table) in zip(self.curves, self.signals, strict=False):
            signal.rows, signal.knots, signal.powers = len(knots), knots.shape[1], table.shape[2]
            signal.size, signal.ts, signal.coefficients = math.prod(table.shape[3:]), self.at(knots), self.at(table)
        call.driven, call.n_signals = sum(signal.size for signal in self.curves), len(self.signals)
        call.size, call.further, call.signals = self.size, u.shape[1], self.address(self.curves)
        call.y0, call.u, call.end = map(self.at, (y0, u, self.end))
        call.ys = self.ys.data_ptr()  # not kept: what a graph's node holds must not hold its output
        call.rtol, call.atol = map(self.at, self._tolerances(problem.controller))
        call.leaves = self.address(addresses(self.leaves))
        call.leaf_sizes = self.address(self.traced.encoded.sizes)
        call.n_leaves = len(self.leaves)

    def at(self, x: Tensor) -> int:
        """Its address; it is kept."""
        x = x.contiguous()
        self.kept.append(x)
        return x.data_ptr()

    def address(self, x: Any) -> int:
        """The same of an array of ctypes."""
        self.kept.append(x)
        return ctypes.addressof(x)

    def field(self, encoded: Encoded, compiled: ctypes.CDLL | None, name: str) -> _Field:
        """A program as the machine takes it, with its compiled function where there is one."""
        native = None if compiled is None else address(compiled, name)
        return _Field(encoded.by(native), ctypes.addressof(encoded.inputs), ctypes.addressof(encoded.outputs))

    def _native(self, way: str) -> ctypes.CDLL | None:
        """The compiled functions of a way, "forward" or "backward", where they are wanted and there."""
        if not self.engine.specialise:
            return None
        return compiled(WAYS[way], self.traced, self.end.dtype, self.width, self.engine.specialise == "wait")

    def _outcome(self, samples: int) -> tuple[list[Tensor], _Outcome]:
        whole = torch.zeros(6, samples, dtype=torch.int64)
        start, row = self.at(whole), 8 * samples
        counts = [*whole[:4].unbind(), *whole[4:].view(torch.float64).unbind()]
        return counts, _Outcome(*range(start, start + 6 * row, row) if samples else [start] * 6)

    def _width(self, samples: int) -> int:
        """Vectors in a row of a tile: few lanes for few samples, many where there is little to compute."""
        lanes = 8 if self.name == "float" else 4
        # A vector more a row has more lanes standing still at the end, and products that are quicker by a tenth.
        if 1.1 * -(-samples // lanes) < 2 * -(-samples // (2 * lanes)):
            return 1
        return 8 if self.traced.program.rows <= 48 and samples >= 16 * lanes else 2

    def _times(self, controller: Controller) -> _Times:
        table = timetable(self.problem, controller)
        keys, stops, sign, jumps = table.keys, table.stops, table.sign, table.jumps
        common = len(keys) == 1
        addresses = map(self.at, (keys, stops, sign))
        return _Times(
            len(sign), keys.shape[1], stops.shape[1], common, *addresses, None if jumps is None else self.at(jumps)
        )

    @staticmethod
    def _method(solver: RungeKutta, adaptive: bool) -> _Method:
        tableau = solver.tableau
        known = METHODS.get((id(tableau), adaptive))
        if known is not None:
            return known[1]
        a = torch.zeros(tableau.dense_stages, tableau.dense_stages, dtype=torch.float64)
        for i, row in enumerate((*tableau.a, *tableau.extra_a), start=1):
            a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
        dense = DenseStep.of(tableau, a)
        error = tableau.b_error if adaptive else None
        rows = [a, tableau.b, (*tableau.c, *tableau.extra_c), error or [0.0] * tableau.stages, dense.coefficients]
        kept = [torch.as_tensor(row, dtype=torch.float64).contiguous() for row in rows]
        sizes = tableau.stages, len(tableau.extra_c), tableau.fsal, len(kept[-1]), adaptive
        method = _Method(*sizes, *(row.data_ptr() for row in kept), dense.center)
        METHODS[id(tableau), adaptive] = tableau, method, kept
        return method

    def _control(self, controller: Controller, solver: RungeKutta) -> _Control:
        key = controller, solver.error_order, self.problem.max_steps
        try:
            if (known := CONTROLS.get(key)) is not None:
                return known
        except TypeError:  # tensors of tolerances cannot be looked up
            key = None
        found = _Control()
        found.max_steps = self.problem.max_steps
        found.success, found.limit = int(Status.SUCCESS), int(Status.MAX_STEPS)
        found.too_small, found.non_finite = int(Status.STEP_TOO_SMALL), int(Status.NON_FINITE)
        if isinstance(controller, PID):
            found.e0, found.e1, found.e2 = controller.exponents(solver.error_order)
            for name in ("safety", "min_factor", "max_factor", "min_step", "max_step"):
                setattr(found, name, getattr(controller, name))
            found.first_step = -1.0 if controller.first_step is None else controller.first_step
            found.error_order = solver.error_order
        else:
            found.max_step = math.inf
        if key is not None and len(CONTROLS) < 1000:
            CONTROLS[key] = found
        return found

    def _tolerances(self, controller: Controller) -> list[Tensor]:
        if not isinstance(controller, PID):
            return [self.end.new_zeros(self.size)] * 2
        plain = all(x is None or isinstance(x, float) for x in (controller.rtol, controller.atol))
        key = controller.rtol, controller.atol, self.size, self.end.dtype
        if plain and key in TOLERANCES:
            return TOLERANCES[key]
        tolerance = Tolerance(controller, self.problem.field.layout)
        found = [torch.as_tensor(x, dtype=self.end.dtype) for x in (tolerance.rtol, tolerance.atol)]
        if any(x.dim() > 1 and len(x) > 1 for x in found):
            raise CannotFuseError("the fused engine cannot take this problem: its tolerances differ between samples")
        rows = [x.expand(1, self.size)[0].contiguous() for x in found]
        if plain and self.size <= 1000 and len(TOLERANCES) < 1000:
            TOLERANCES[key] = rows
        return rows

    def solve(self, want_tape: bool = False) -> Tensor:
        """Runs it, once: the observations (T, B, N). With a tape it can be pulled back."""
        tape = Pointer()
        into = ctypes.byref(tape) if want_tape else None
        self._run("solve", ctypes.c_int(self.width), ctypes.byref(self.call), into, ctypes.c_int(threads()))
        self.tape = Tape(tape.value or 0, self.name) if want_tape else None
        ys = self.ys
        del self.ys
        return ys

    def _run(self, what: str, *arguments: Any) -> None:
        if getattr(library(), f"isocline_{what}_{self.name}")(*arguments):
            raise MemoryError("the fused engine ran out of memory; take fewer samples at once, or gradient='backsolve'")

    def pull_back(self, grads: Tensor) -> list[Tensor]:
        """Cotangents of the observations (T, B, N) -> of y0, of the signals, of the further inputs, of the leaves."""
        assert self.tape is not None
        kept = len(self.kept)
        back, found = self._back(grads)
        self._run(
            "pull_back",
            ctypes.c_int(self.width),
            ctypes.byref(back),
            Pointer(self.tape.address),
            ctypes.c_int(threads()),
        )
        del self.kept[kept:]
        return self._split(*found)

    def _back(self, grads: Tensor) -> tuple[_Back, Any]:
        grad_y0 = torch.zeros_like(self.end)
        grad_u = grad_y0.new_zeros(len(grad_y0), self.call.further)
        grad_leaves = [torch.zeros_like(leaf) for leaf in self.leaves]
        grad_tables = [torch.zeros_like(table) for _, table in self.signals]
        for curve, table in zip(self.curves, grad_tables, strict=False):
            curve.grads = table.data_ptr()
        functions = self._native("backward")
        back = _Back(self.call, self.field(self.traced.encoded_derivative, functions, "derivative"))
        back.call.field = self.field(self.traced.encoded, functions, "field")
        back.grads, back.grad_y0, back.grad_u = map(self.at, (grads.to(grad_y0.dtype), grad_y0, grad_u))
        back.grad_leaves = self.address(addresses(grad_leaves))
        return back, (grad_y0, grad_tables, grad_u, grad_leaves)

    def _split(self, grad_y0: Tensor, tables: list[Tensor], grad_u: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        widths = [math.prod(shape[1:]) for shape in self.shapes]
        parts = grad_u.split(widths, 1) if widths else []
        return [grad_y0, *tables, *(g.reshape(s) for g, s in zip(parts, self.shapes, strict=True)), *leaves]

    def adjoint(self, ys: Tensor, grads: Tensor, solver: RungeKutta, controller: Controller) -> Adjoint:
        """The continuous adjoint's cotangents, as of `pull_back`, by a solver and a controller of its own.

        Args:
            ys: the observations, and `grads` their cotangents, (T, B, N).
        """
        kept = len(self.kept)
        back, found = self._back(grads)
        counts, back.call.outcome = self._outcome(len(self.end))
        adaptive = isinstance(controller, PID)
        back.call.method = self._method(solver, adaptive)
        back.call.control = self._control(controller, solver)
        back.call.times = self._times(controller)
        back.call.rtol, back.call.atol = (self.at(x.repeat(2)) for x in self._tolerances(controller))
        back.call.ys = self.at(ys.detach())
        missed = torch.zeros(len(ys), len(self.end), dtype=torch.float64)
        job = _Adjoint(back, self.at(missed))
        self._run("adjoint", ctypes.c_int(self.width), ctypes.byref(job), ctypes.c_int(threads()))
        del self.kept[kept:]
        status, _, _, evaluations, t, _ = counts
        return Adjoint(self._split(*found), missed, status, t, evaluations)

    def trajectory(self, ys: Tensor) -> Trajectory:
        """As the eager engine's."""
        found = Trajectory(ys, self.end, self.stats, self.status)
        found.failure = Failure(self.t.to(self.problem.field.layout.clock_dtype), self.end, self.h)
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


def threads() -> int:
    """As many as PyTorch uses, at most the processors there are."""
    return max(1, min(torch.get_num_threads(), PROCESSORS))


class Tape:
    """The accepted steps of a solve, in the machine's memory, freed with it."""

    def __init__(self, address: int, name: str) -> None:
        self.address, self.free = address, getattr(library(), f"isocline_free_{name}")

    def __del__(self) -> None:
        self.free(Pointer(self.address))


def run_of(problem: Problem, y0: Tensor, engine: Fused) -> tuple[Run, list[Tensor]]:
    """A run, and the tensors beside y0 that its result depends on, with their graphs: tables of the signals, further
    inputs, leaves.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    why = refusal(problem)
    if why is not None:
        raise CannotFuseError(f"the fused engine cannot take this problem: {why}")
    prepared = prepare(problem.field, problem.ts[:, 0], y0.detach())
    others = [*(table for _, table in prepared.signals), *prepared.further, *prepared.leaves]
    return Run(problem, y0.detach().contiguous(), prepared, engine), others


def integrate(problem: Problem, y0: Tensor, engine: Fused = PLAIN) -> Trajectory:
    """Integrates every row of `y0` (B, N) over its own row of `problem.ts`, without a graph.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    run, _ = run_of(problem, y0, engine)
    return run.trajectory(run.solve())
