"""Whole solves on the machine: every sample with its own steps, as the eager engine's `per_sample` takes them."""

from __future__ import annotations

import ctypes
import math
import os
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID
from isocline.control.initial_step import Tolerance
from isocline.control.schedule import row_stops
from isocline.engines.eager.problem import Failure, Problem, Trajectory
from isocline.engines.fused.build import library
from isocline.engines.fused.lanes import CannotFuseError
from isocline.engines.fused.native import Encoded, addresses
from isocline.engines.fused.prepare import Prepared, prepare
from isocline.solution import Stats, Status
from isocline.solvers.runge_kutta import DenseStep, ExplicitRungeKutta

MOST_STAGES, MOST_POWERS = 16, 16
NAMES = {torch.float32: "float", torch.float64: "double"}
Pointer = ctypes.c_void_p


class _Method(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("stages", "fsal", "degree", "adaptive")),
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
        *((name, ctypes.c_int64) for name in ("samples", "width", "stops_width")),
        *((name, Pointer) for name in ("keys", "stops", "sign")),
    ]


class _Outcome(ctypes.Structure):
    _fields_ = [(name, Pointer) for name in ("status", "accepted", "rejected", "evaluations", "t", "h")]


class _Field(ctypes.Structure):
    _fields_ = [
        ("code", Pointer),
        ("length", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        *((name, Pointer) for name in ("picked", "inputs", "outputs")),
        ("n_in", ctypes.c_int32),
        ("n_out", ctypes.c_int32),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        ("field", _Field),
        ("method", _Method),
        ("control", _Control),
        ("times", _Times),
        ("outcome", _Outcome),
        ("size", ctypes.c_int64),
        ("further", ctypes.c_int64),
        *((name, Pointer) for name in ("y0", "u", "rtol", "atol", "ys", "end", "leaves", "leaf_sizes")),
        ("n_leaves", ctypes.c_int32),
    ]


class _Back(ctypes.Structure):
    _fields_ = [
        ("call", _Call),
        ("derivative", _Field),
        *((name, Pointer) for name in ("grads", "grad_y0", "grad_u", "grad_leaves")),
    ]


def refusal(problem: Problem) -> str | None:
    """Why the machine cannot take a problem; None where nothing speaks against it but perhaps the field."""
    layout, solver, controller = problem.field.layout, problem.solver, problem.controller
    if layout.batch is None:
        return "its samples share their steps: batching='per_sample' gives each its own"
    if layout.device.type != "cpu" or layout.dtype not in NAMES or not layout.plain:
        return "the state is not one real tensor in single or double precision on the processor"
    if not isinstance(solver, ExplicitRungeKutta) or solver.remembers or solver.wants_pair:
        return "the solver is no explicit Runge–Kutta method"
    tableau = solver.tableau
    if tableau.extra_c or tableau.stages > MOST_STAGES or max(map(len, tableau.dense)) > MOST_POWERS:
        return "the solver evaluates further stages for its interpolant"
    if any(c < 0 or c > 1 for c in tableau.c):
        return "the solver asks beyond its step"
    if problem.watch is not None or problem.jump_ts or problem.row_jump_ts is not None:
        return "it has events, or jumps"
    if problem.dense or problem.observer is not None or problem.progress is not None:
        return "somebody looks on, or wants every step"
    if isinstance(controller, PID) and (controller.norm is not None or controller.force_min_step):
        return "the controller has a norm of its own, or forces steps"
    return None


class Run:
    """One solve: its arguments as the machine takes them, kept alive, and what it fills."""

    def __init__(self, problem: Problem, y0: Tensor, prepared: Prepared) -> None:
        self.problem, self.kept = problem, []
        traced, further = prepared.traced, prepared.further
        self.name = NAMES[y0.dtype]
        ts: Tensor = problem.ts
        samples, width = ts.shape
        size = y0.shape[1]
        end = ts.gather(1, (~ts.isnan()).sum(1, keepdim=True) - 1)
        sign = torch.where(end >= ts[:, :1], 1.0, -1.0).to(torch.float64)
        by_row = (problem.row_step_ts, problem.row_jump_ts, problem.field.time_dtype)
        stops, _ = row_stops(problem.controller, ts, end, problem.step_ts, problem.jump_ts, *by_row)
        self.ys = y0.new_full((width, samples, size), torch.nan)
        self.end = y0.clone()
        counts = [torch.zeros(samples, dtype=torch.int64) for _ in range(4)]
        self.status, self.accepted, self.rejected, self.evaluations = counts
        self.t, self.h = torch.zeros(samples, dtype=torch.float64), torch.zeros(samples, dtype=torch.float64)
        self.traced, self.shapes = traced, [x.shape for x in further]
        self.leaves = [leaf.detach().to(y0.dtype).contiguous() for leaf in prepared.leaves]
        call = self.call = _Call()
        call.field = self.field(traced.encoded)
        call.method, call.control = self._method(y0), self._control()
        keys = (ts * sign).nan_to_num(nan=torch.inf)
        call.times = _Times(samples, width, stops.shape[1], self.at(keys), self.at(stops * sign), self.at(sign))
        call.outcome = _Outcome(*map(self.at, (*counts, self.t, self.h)))
        u = (
            torch.cat([x.detach().reshape(samples, -1).to(y0.dtype) for x in further], 1)
            if further
            else y0.new_empty(samples, 0)
        )
        call.size, call.further = size, u.shape[1]
        call.y0, call.u, call.end = map(self.at, (y0, u, self.end))
        call.ys = self.ys.data_ptr()  # not kept: what a graph's node holds must not hold its output
        call.rtol, call.atol = map(self.at, self._tolerances(y0))
        call.leaves = self.address(addresses(self.leaves))
        call.leaf_sizes = self.address((ctypes.c_int64 * max(1, len(self.leaves)))(*(x.numel() for x in self.leaves)))
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

    def field(self, encoded: Encoded) -> _Field:
        """A program as the machine takes it."""
        program = encoded.program
        counts = sum(count for _, _, count in program.inputs), sum(len(rows) for _, rows in program.outputs)
        arrays = [self.address(x) for x in (encoded.picked, encoded.inputs, encoded.outputs)]
        return _Field(self.address(encoded.code), len(program.code), program.rows, *arrays, *counts)

    def _method(self, y0: Tensor) -> _Method:
        tableau = self.problem.solver.tableau
        s = tableau.stages
        a = torch.zeros(s, s, dtype=torch.float64)
        for i, row in enumerate(tableau.a, start=1):
            a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
        dense = DenseStep.of(tableau, y0.double())
        adaptive = isinstance(self.problem.controller, PID)
        error = tableau.b_error if adaptive else None
        rows = [a, tableau.b, tableau.c, error or [0.0] * s, dense.coefficients]
        pointers = [self.at(torch.as_tensor(row, dtype=torch.float64)) for row in rows]
        return _Method(s, tableau.fsal, dense.coefficients.shape[0], adaptive, *pointers, dense.center)

    def _control(self) -> _Control:
        found, controller = _Control(), self.problem.controller
        found.max_steps = self.problem.max_steps
        found.success, found.limit = int(Status.SUCCESS), int(Status.MAX_STEPS)
        found.too_small, found.non_finite = int(Status.STEP_TOO_SMALL), int(Status.NON_FINITE)
        if isinstance(controller, PID):
            found.e0, found.e1, found.e2 = controller.exponents(self.problem.solver.error_order)
            for name in ("safety", "min_factor", "max_factor", "min_step", "max_step"):
                setattr(found, name, getattr(controller, name))
            found.first_step = -1.0 if controller.first_step is None else controller.first_step
            found.error_order = self.problem.solver.error_order
        else:
            found.max_step = math.inf
        return found

    def _tolerances(self, y0: Tensor) -> list[Tensor]:
        controller, size = self.problem.controller, y0.shape[1]
        if not isinstance(controller, PID):
            return [y0.new_zeros(size)] * 2
        tolerance = Tolerance(controller, self.problem.field.layout)
        found = [torch.as_tensor(x, dtype=y0.dtype) for x in (tolerance.rtol, tolerance.atol)]
        if any(x.dim() > 1 and len(x) > 1 for x in found):
            raise CannotFuseError("the fused engine cannot take this problem: its tolerances differ between samples")
        return [x.expand(1, size)[0] for x in found]

    def solve(self, want_tape: bool = False) -> Tensor:
        """Runs it, once: the observations (T, B, N). With a tape it can be pulled back."""
        run: Any = getattr(library(), f"isocline_solve_{self.name}")
        run.restype = Pointer
        tape = run(ctypes.byref(self.call), int(want_tape), threads())
        self.tape = Tape(tape, self.name) if want_tape else None
        ys = self.ys
        del self.ys
        return ys

    def pull_back(self, grads: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Cotangents of the observations (T, B, N) -> of y0, of the further inputs, of the leaves."""
        assert self.tape is not None
        kept = len(self.kept)
        grad_y0 = torch.zeros_like(self.end)
        grad_u = grad_y0.new_zeros(len(grad_y0), self.call.further)
        grad_leaves = [torch.zeros_like(leaf) for leaf in self.leaves]
        back = _Back(self.call, self.field(self.traced.encoded_derivative))
        back.grads, back.grad_y0, back.grad_u = map(self.at, (grads.to(grad_y0.dtype), grad_y0, grad_u))
        back.grad_leaves = self.address(addresses(grad_leaves))
        getattr(library(), f"isocline_pull_back_{self.name}")(
            ctypes.byref(back), Pointer(self.tape.address), ctypes.c_int(threads())
        )
        del self.kept[kept:]
        widths = [math.prod(shape[1:]) for shape in self.shapes]
        parts = grad_u.split(widths, 1) if widths else []
        return grad_y0, [g.reshape(shape) for g, shape in zip(parts, self.shapes, strict=True)], grad_leaves

    def trajectory(self, ys: Tensor) -> Trajectory:
        """As the eager engine's."""
        stats = Stats(accepted=self.accepted, rejected=self.rejected, evaluations=self.evaluations)
        found = Trajectory(ys, self.end, stats, self.status)
        found.failure = Failure(self.t.to(self.problem.field.layout.clock_dtype), self.end, self.h)
        return found


def threads() -> int:
    """As many as PyTorch uses, at most the processors there are."""
    return max(1, min(torch.get_num_threads(), os.cpu_count() or 1))


class Tape:
    """The accepted steps of a solve, in the machine's memory, freed with it."""

    def __init__(self, address: int, name: str) -> None:
        self.address, self.free = address, getattr(library(), f"isocline_free_{name}")

    def __del__(self) -> None:
        self.free(Pointer(self.address))


def run_of(problem: Problem, y0: Tensor) -> tuple[Run, list[Tensor]]:
    """A run, and the tensors beside y0 that its result depends on: further inputs and leaves, with their graphs.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    why = refusal(problem)
    if why is not None:
        raise CannotFuseError(f"the fused engine cannot take this problem: {why}")
    prepared = prepare(problem.field, problem.ts[:, 0], y0.detach())
    return Run(problem, y0.detach().contiguous(), prepared), [*prepared.further, *prepared.leaves]


def integrate(problem: Problem, y0: Tensor) -> Trajectory:
    """Integrates every row of `y0` (B, N) over its own row of `problem.ts`, without a graph.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    run, _ = run_of(problem, y0)
    return run.trajectory(run.solve())
