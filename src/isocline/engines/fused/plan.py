"""What solves of one field, shape, and choice of times and settings have in common, laid out once as the machine reads it."""

from __future__ import annotations

import ctypes
import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID, Controller
from isocline.control.initial_step import Tolerance
from isocline.engines.eager.problem import Problem
from isocline.engines.fused.build import vector_bytes
from isocline.engines.fused.counts import Outcome
from isocline.engines.fused.lanes import CannotFuseError
from isocline.engines.fused.native import Code, Encoded
from isocline.engines.fused.timetable import timetable
from isocline.engines.fused.traced import Traced
from isocline.engines.fused.worth import cycles
from isocline.solution import Status
from isocline.solvers import RungeKutta
from isocline.solvers.runge_kutta import DenseStep

NAMES = {torch.float32: "float", torch.float64: "double"}
Pointer = ctypes.c_void_p
METHODS: dict[tuple[int, bool], Any] = {}  # by tableau, which is kept, and whether steps adapt
CONTROLS: dict[Any, Any] = {}
TOLERANCES: dict[Any, list[Tensor]] = {}  # laid out
MOST_ALONE = 3  # samples
SMALL, SMALLEST = 48, 24  # rows of a program
FEW_STEPS = 10  # of a method that chooses them


class Method(ctypes.Structure):
    """A solver."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("stages", "extra", "fsal", "degree", "adaptive")),
        *((name, Pointer) for name in ("a", "b", "c", "error", "dense")),
        ("center", ctypes.c_double),
    ]


class Control(ctypes.Structure):
    """How steps are chosen, and what the statuses are called."""

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


class Times(ctypes.Structure):
    """A timetable."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("samples", "width", "stops_width", "common")),
        *((name, Pointer) for name in ("keys", "stops", "sign", "jumps")),
    ]


class Signal(ctypes.Structure):
    """A piecewise polynomial."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "knots", "powers", "size")),
        *((name, Pointer) for name in ("ts", "coefficients", "grads")),
    ]


class Field(ctypes.Structure):
    """A program, and where its inputs and outputs lie."""

    _fields_ = [("code", Code), ("inputs", Pointer), ("outputs", Pointer)]


class Call(ctypes.Structure):
    """A solve."""

    _fields_ = [
        ("field", Field),
        ("method", Method),
        ("control", Control),
        ("times", Times),
        ("outcome", Outcome),
        *((name, ctypes.c_int64) for name in ("size", "driven", "further", "n_signals")),
        *((name, Pointer) for name in ("signals", "y0", "u", "rtol", "atol", "ys", "end", "leaves", "leaf_sizes")),
        ("n_leaves", ctypes.c_int32),
    ]


class Back(ctypes.Structure):
    """Its way back."""

    _fields_ = [
        ("call", Call),
        ("derivative", Field),
        *((name, Pointer) for name in ("grads", "grad_y0", "grad_u", "grad_leaves", "grad_states", "first")),
    ]


class Path(ctypes.Structure):
    """Where the accepted steps go."""

    _fields_ = [(name, Pointer) for name in ("first", "from_", "to", "leaves", "meets", "states")]


class Job(ctypes.Structure):
    """Its way back by the continuous adjoint."""

    _fields_ = [("back", Back), ("missed", Pointer)]


class Plan:
    """The machine's arguments but for the numbers: of problems alike, solved with one program.

    Args:
        problem: one of them.
        traced: the field's program.
        dtype: of the state.

    Attributes:
        samples, size, observations: of a solve.
        width, width_back: of a tile's row in vectors, 0 for tiles of one lane; on the way back.
        tableau: of a method whose steps are the same for all samples, fixed and at common times; else None.
        call, back: what the machine is handed, without the addresses of a solve's tensors.
        work: about how many cycles a solve takes, at least.
    """

    def __init__(self, problem: Problem, traced: Traced, dtype: torch.dtype) -> None:
        self.traced, self.dtype, self.name = traced, dtype, NAMES[dtype]
        self.samples, self.observations = problem.ts.shape
        self.size = problem.field.layout.size
        call = self.call = Call()
        call.times, tables = times(problem, problem.controller)
        fixed = call.times.common and not call.times.jumps and not isinstance(problem.controller, PID)
        width = self._width(self.samples, bool(fixed))
        self.width = self._narrowed(width, problem.controller, 4)
        self.width_back = self._narrowed(width, problem.controller, 2)
        call.field = self.field(traced.encoded_alone)
        call.method = method(problem.solver, isinstance(problem.controller, PID))
        call.control = control(problem.controller, problem.solver, problem.max_steps)
        self.tableau = problem.solver.tableau if fixed else None
        tolerances = tolerances_of(problem, problem.controller, dtype)
        self.kept = tables, tolerances
        steps = max(call.times.stops_width, call.times.width - 1, FEW_STEPS if call.method.adaptive else 1)
        tiles = -(-self.samples // self._lanes)
        self.work = tiles * cycles(traced.program, self._lanes)[0] * problem.solver.tableau.stages * steps
        call.size = self.size
        call.rtol, call.atol = (x.data_ptr() for x in tolerances)
        call.leaf_sizes = ctypes.addressof(traced.encoded_alone.sizes)
        call.n_leaves = len(traced.program.leaves)

    @cached_property
    def back(self) -> Back:
        """Of the way back; its call is the solve's own."""
        found = Back(derivative=self.field(self.traced.encoded_derivative))
        found.call.field = self.field(self.traced.encoded)
        return found

    @staticmethod
    def field(encoded: Encoded, native: int | None = None, steps: int | None = None) -> Field:
        """A program as the machine takes it, with the addresses of its compiled functions where there are any."""
        return Field(encoded.by(native, steps), ctypes.addressof(encoded.inputs), ctypes.addressof(encoded.outputs))

    @property
    def _lanes(self) -> int:
        """Numbers in a vector."""
        return vector_bytes() // (4 if self.name == "float" else 8)

    def _width(self, samples: int, together: bool) -> int:
        """Vectors in a row of a tile: few lanes for few samples, one for fewer yet, many where there is little to compute, most
        if they take the same steps as well and there are registers for them (of AVX-512)."""
        lanes, rows = self._lanes, self.traced.program.rows
        if samples <= MOST_ALONE and self._alone(samples, lanes):
            return 0
        # A vector more a row has more lanes standing still at the end, and products that are quicker by a tenth.
        if 1.1 * -(-samples // lanes) < 2 * -(-samples // (2 * lanes)):
            return 1
        if rows > SMALL or samples < 16 * lanes:
            return 2
        return 16 if together and rows <= SMALLEST and samples >= 64 * lanes and vector_bytes() == 64 else 8

    def _narrowed(self, width: int, controller: Controller, most: int) -> int:
        """Half of two vectors for samples that fill at most `most`, if they take steps of their own: a lane that is done takes
        the next one, so that those that need most steps are waited for less."""
        short = isinstance(controller, PID) and self._lanes < self.samples <= most * self._lanes
        return 1 if short and width == 2 else width

    def _alone(self, samples: int, lanes: int) -> bool:
        """Whether samples are done earlier one by one, with vectors of rows, than side by side in a tile (alone.hpp)."""
        tile, alone = cycles(self.traced.program, lanes)
        return 1.35 * samples * alone <= tile


def times(problem: Problem, controller: Controller) -> tuple[Times, list[Tensor]]:
    """A problem's times, with the stops of a controller; and the tensors that hold them."""
    table = timetable(problem, controller)
    held = [table.keys, table.stops, table.sign]
    jumps = None if table.jumps is None else table.jumps.data_ptr()
    sizes = len(table.sign), table.keys.shape[1], table.stops.shape[1], len(table.keys) == 1
    found = Times(*sizes, *(x.data_ptr() for x in held), jumps)
    return found, held if table.jumps is None else [*held, table.jumps]


def tolerances_of(problem: Problem, controller: Controller, dtype: torch.dtype) -> list[Tensor]:
    """rtol and atol of every number of a state.

    Raises:
        CannotFuseError: where they differ between samples.
    """
    size = problem.field.layout.size
    if not isinstance(controller, PID):
        return [torch.zeros(size, dtype=dtype)] * 2
    plain = all(x is None or isinstance(x, float) for x in (controller.rtol, controller.atol))
    key = controller.rtol, controller.atol, size, dtype
    if plain and key in TOLERANCES:
        return TOLERANCES[key]
    tolerance = Tolerance(controller, problem.field.layout)
    found = [torch.as_tensor(x, dtype=dtype) for x in (tolerance.rtol, tolerance.atol)]
    if any(x.dim() > 1 and len(x) > 1 for x in found):
        raise CannotFuseError("the fused engine cannot take this problem: its tolerances differ between samples")
    rows = [x.expand(1, size)[0].contiguous() for x in found]
    if plain and size <= 1000 and len(TOLERANCES) < 1000:
        TOLERANCES[key] = rows
    return rows


def method(solver: RungeKutta, adaptive: bool) -> Method:
    """A solver as the machine reads it."""
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
    found = Method(*sizes, *(row.data_ptr() for row in kept), dense.center)
    METHODS[id(tableau), adaptive] = tableau, found, kept
    return found


def control(controller: Controller, solver: RungeKutta, max_steps: int) -> Control:
    """A controller likewise."""
    key = controller, solver.error_order, max_steps
    try:
        if (known := CONTROLS.get(key)) is not None:
            return known
    except TypeError:  # tensors of tolerances cannot be looked up
        key = None
    found = Control()
    found.max_steps = max_steps
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
