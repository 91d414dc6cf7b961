"""Whole solves on the machine: every sample with its own steps, as the eager engine's `per_sample` takes them."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.control import PID
from isocline.control.initial_step import Tolerance
from isocline.control.schedule import row_stops
from isocline.engines.eager.problem import Failure, Problem, Trajectory
from isocline.engines.fused.build import library
from isocline.engines.fused.lanes import LANES, CannotFuseError
from isocline.engines.fused.native import Encoded, evaluate
from isocline.engines.fused.program import execute
from isocline.engines.fused.trace import Traced, trace
from isocline.field import VectorField
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


def traced_field(field: VectorField, t: Tensor, y: Tensor) -> tuple[Traced, list[Tensor]]:
    """A field as a program, and its further inputs (B, …): what it is handed for each sample.

    Raises:
        CannotFuseError: naming what cannot be.
    """
    leaves = pytree.tree_leaves(field.args)
    batched = {i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.dim() and x.shape[0] == len(y)}
    refused = None
    for own in dict.fromkeys((tuple(sorted(batched | field.batch_args)), tuple(sorted(field.batch_args)))):
        try:
            return _of_reading(field, t, y.detach(), own), [leaves[i] for i in own]
        except CannotFuseError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _of_reading(field: VectorField, t: Tensor, y: Tensor, own: tuple[int, ...]) -> Traced:
    """The program, where the arguments `own` have a row for each sample and the others none."""
    leaves, spec = pytree.tree_flatten(field.args)
    some = torch.arange(LANES) % len(y)
    times = t.to(field.time_dtype).view(-1, *field.time_tail)
    given = [times[some], y[some], *(leaves[i].detach()[some] for i in own)]

    def slope(t: Tensor, y: Tensor, *u: Tensor) -> Tensor:
        read = list(leaves)
        for i, value in zip(own, u, strict=True):
            read[i] = value
        return field.with_args(pytree.tree_unflatten(read, spec))(t, y)

    known = _known(field.f)
    others = tuple(_identity(x) for i, x in enumerate(leaves) if i not in own)
    key = (spec, own, others, tuple((x.shape, x.dtype) for x in given), field.layout)
    traced = known.get(key)
    if traced is not None and _still(traced, slope, given):
        return traced
    traced = trace(slope, given[0], given[1], given[2:])
    with torch.no_grad():
        whole = field(times, y)[some]
        alone = slope(*given)
    if not (_near(alone, whole) and _agrees(traced, slope, given)):
        raise CannotFuseError("the field cannot be fused: its program computes something else than it does")
    known[key] = traced
    return traced


KNOWN: WeakKeyDictionary[Any, dict[Any, Traced]] = WeakKeyDictionary()


def _known(f: Any) -> dict[Any, Traced]:
    """Programs made of this field before; they go with it."""
    try:
        return KNOWN.setdefault(f, {})
    except TypeError:  # what cannot be referred to weakly is traced each time
        return {}


def _identity(x: Any) -> Any:
    return id(x) if isinstance(x, Tensor) else repr(x)


def _still(traced: Traced, slope: Callable[..., Tensor], given: Sequence[Tensor]) -> bool:
    """Whether a program made before is the field as it is now, on these samples: a mode or an attribute may have changed."""
    with torch.no_grad():
        want = slope(*given)
        inputs = {name: x.to(want.dtype) for (name, _, _), x in zip(traced.program.inputs, given, strict=True)}
        got, _ = evaluate(traced.encoded, inputs, traced.prologue())
    return _near(got["dy"], want)


def _agrees(traced: Traced, slope: Callable[..., Tensor], given: Sequence[Tensor]) -> bool:
    """Whether a program computes what the field does on these samples, and its derivative what autograd does.

    The field may hide something from autograd, or from the tracer.
    """
    names = [name for name, _, _ in traced.program.inputs]
    leaves = traced.prologue()
    inputs = [x.clone().requires_grad_(torch.is_grad_enabled()) for x in given]
    want = slope(*inputs)
    flat = {name: x.detach().reshape(LANES, -1).to(given[1].dtype) for name, x in zip(names, inputs, strict=True)}
    got, _ = execute(traced.program, flat, [leaf.detach() for leaf in leaves])
    if not _near(got["dy"], want.detach()):
        return False
    if not want.requires_grad:
        return True
    g = torch.ones_like(want)
    sources = [x for x in (*inputs, *_parameters(traced)) if x.requires_grad]
    exact = torch.autograd.grad(want, sources, g, materialize_grads=True, retain_graph=True)
    found, collected = execute(traced.derivative, {**flat, "g": g}, [leaf.detach() for leaf in leaves])
    moving = [(leaf, c) for leaf, c in zip(leaves, collected, strict=True) if leaf.requires_grad]
    ours: list[Any] = [found[name].view_as(x) for name, x in zip(names, inputs, strict=True)]
    rest = sources[len(inputs) :]
    if rest:
        parts: Any = [None] * len(rest)
        if moving:
            outputs, cotangents = zip(*moving, strict=True)
            parts = torch.autograd.grad(outputs, rest, cotangents, allow_unused=True, retain_graph=True)
        ours += [torch.zeros_like(x) if p is None else p for x, p in zip(rest, parts, strict=True)]
    return all(_near(a, b) for a, b in zip(ours, exact, strict=True))


def _parameters(traced: Traced) -> list[Tensor]:
    """The tensors with a gradient of their own that the program's leaves come from."""
    found = {id(x): x for x in traced.sources() if x.requires_grad}
    return list(found.values())


def _near(a: Tensor, b: Tensor) -> bool:
    unit = 1e4 * torch.finfo(a.dtype).eps
    finite = b.isfinite()
    if not bool(finite.any()):
        return True
    size = b[finite].abs().max().clamp(min=1e-30)
    return bool(((a - b)[finite].abs() <= unit * (size + 1)).all())


class Run:
    """One solve: its arguments as the machine takes them, kept alive, and what it fills."""

    def __init__(
        self, problem: Problem, y0: Tensor, traced: Traced, further: Sequence[Tensor], leaves: Sequence[Tensor]
    ) -> None:
        self.problem, self.kept = problem, []
        self.encoded, self.name = traced.encoded, NAMES[y0.dtype]
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
        self.leaves = [leaf.detach().to(y0.dtype).contiguous() for leaf in leaves]
        call = self.call = _Call()
        call.field = self.field(self.encoded)
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
        call.leaves = self.address((Pointer * max(1, len(self.leaves)))(*map(self.at, self.leaves)))
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
        encoded = self.traced.encoded_derivative
        grad_y0 = torch.zeros_like(self.end)
        grad_u = grad_y0.new_zeros(len(grad_y0), self.call.further)
        grad_leaves = [torch.zeros_like(leaf) for leaf in self.leaves]
        back = _Back(self.call, self.field(encoded))
        back.grads, back.grad_y0, back.grad_u = map(self.at, (grads.to(grad_y0.dtype), grad_y0, grad_u))
        back.grad_leaves = self.address((Pointer * max(1, len(grad_leaves)))(*map(self.at, grad_leaves)))
        getattr(library(), f"isocline_pull_back_{self.name}")(
            ctypes.byref(back), Pointer(self.tape.address), ctypes.c_int(threads())
        )
        widths = [math.prod(shape[1:]) for shape in self.shapes]
        parts = (
            [g.reshape(shape) for g, shape in zip(grad_u.split(widths, 1), self.shapes, strict=True)] if widths else []
        )
        return grad_y0, parts, grad_leaves

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


def prepared(problem: Problem, y0: Tensor) -> tuple[Run, list[Tensor]]:
    """A run, and the tensors beside y0 that its result depends on: further inputs and leaves, with their graphs.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    why = refusal(problem)
    if why is not None:
        raise CannotFuseError(f"the fused engine cannot take this problem: {why}")
    traced, further = traced_field(problem.field, problem.ts[:, 0], y0)
    leaves = traced.prologue()
    return Run(problem, y0.detach().contiguous(), traced, further, leaves), [*further, *leaves]


def integrate(problem: Problem, y0: Tensor) -> Trajectory:
    """Integrates every row of `y0` (B, N) over its own row of `problem.ts`, without a graph.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    run, _ = prepared(problem, y0)
    return run.trajectory(run.solve())
