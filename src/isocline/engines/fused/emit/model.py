"""What is exported: a field's program with its constants, a method, a controller, and how states are scaled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline._version import __version__
from isocline.control import PID, Controller, FixedStep
from isocline.control.initial_step import DEFAULT_ATOL, DEFAULT_RTOL
from isocline.engines.fused.agreement import near
from isocline.engines.fused.emit.coordinates import Coordinates
from isocline.engines.fused.lanes import LANES, CannotFuseError
from isocline.engines.fused.program import Program, execute
from isocline.engines.fused.trace import trace
from isocline.engines.fused.traced import Traced
from isocline.field import Layout, VectorField
from isocline.solvers import Solver, snake_case
from isocline.solvers.runge_kutta import DenseStep, ExplicitRungeKutta


@dataclass(frozen=True)
class Model:
    """A field and how it is solved, as numbers.

    Attributes:
        program, leaves: the field.
        size, further: numbers of the state, and of the inputs u.
        dtype: of the field.
        solver, controller: as for `isocline.solve`.
        rtol, atol, max_steps: what the exported solver takes by default; tolerances 0 with fixed steps.
        name: what it is, one line.
        states: a label of each state, with its unit; "" where there is none.
        time: of time.
        coordinates: None where the model's states and time are the user's.
    """

    program: Program
    leaves: list[Tensor]
    size: int
    further: int
    dtype: torch.dtype
    solver: ExplicitRungeKutta
    controller: Controller
    rtol: float
    atol: float
    name: str
    states: tuple[str, ...]
    time: str
    coordinates: Coordinates | None
    max_steps: int

    @staticmethod
    def of(
        field: Callable[..., Any],
        y0: Any,
        t0: float,
        inputs: Sequence[Tensor],
        args: tuple[Any, ...],
        solver: Solver,
        controller: Controller,
        *,
        name: str,
        states: Sequence[str] = (),
        time: str = "",
        coordinates: Coordinates | None = None,
        max_steps: int = 100_000,
    ) -> Model:
        """From a field: traced, and compared with it near y0.

        Raises:
            CannotFuseError: naming what cannot be exported.
        """
        rtol, atol = refused(solver, controller, y0)
        assert isinstance(solver, ExplicitRungeKutta)
        traced, layout = _traced(field, y0, t0, inputs, args)
        if coordinates is not None and _reads_time(traced.program):
            raise CannotFuseError("a field that depends on time has no scaled coordinates: its time has an origin")
        if states and len(states) != layout.size:
            raise ValueError(f"states: {len(states)} labels, the state has {layout.size} numbers; give one each")
        leaves = [leaf.detach() for leaf in traced.prologue()]
        further = sum(count for _, _, count in traced.program.inputs[2:])
        return Model(
            traced.program, leaves, layout.size, further, layout.dtype, solver, controller, rtol, atol,
            name, tuple(states) or ("",) * layout.size, time, coordinates, max_steps,
        )  # fmt: skip

    @property
    def method(self) -> str:
        """The solver's name."""
        return snake_case(type(self.solver).__name__)

    def tables(self) -> dict[str, list[list[float]]]:
        """The method's coefficients: a, b, c, the error's weights, the interpolant's (a row for each stage)."""
        tableau = self.solver.tableau
        stages = tableau.stages
        a = [[float(x) for x in row] + [0.0] * (stages - len(row)) for row in ((), *tableau.a)]
        error = [float(x) for x in tableau.b_error or (0.0,) * stages]
        dense = DenseStep.of(tableau, torch.zeros((), dtype=torch.float64)).coefficients.t().tolist()
        return {
            "A": a,
            "B": [[float(x) for x in tableau.b]],
            "C": [[float(x) for x in tableau.c]],
            "E": [error],
            "D": dense,
        }

    def numbers(self) -> dict[str, float]:
        """What the solver's source is filled in with; names as there."""
        tableau, controller = self.solver.tableau, self.controller
        pid = controller if isinstance(controller, PID) else PID()
        exponents = pid.exponents(self.solver.error_order) if self.solver.error_order else (0.0, 0.0, 0.0)
        step = controller.step if isinstance(controller, FixedStep) else None
        return {
            "stages": tableau.stages,
            "degree": max(map(len, tableau.dense)),
            "fsal": int(tableau.fsal),
            "adaptive": int(tableau.b_error is not None),
            "order": max(1, self.solver.error_order),
            "center": tableau.dense_center,
            "e0": exponents[0],
            "e1": exponents[1],
            "e2": exponents[2],
            "safety": pid.safety,
            "least": pid.min_factor,
            "most": pid.max_factor,
            "rtol": self.rtol,
            "atol": self.atol,
            "step": step or 0.0,
            "first_step": pid.first_step or 0.0,
            "min_step": pid.min_step,
            "max_step": pid.max_step,
            "max_steps": self.max_steps,
        }

    def about(self) -> list[str]:
        """What a header says of it: lines of text, with nothing in them that ends a comment, or is markup."""
        of = f" on {self.further} inputs u" if self.further else ""
        count = sum(leaf.numel() for leaf in self.leaves)
        lines = [
            f"{self.name}: dy/dt of {self.size} states{of}, {count} constants, exported by isocline {__version__}."
        ]
        lines += [f"  y[{i}]: {label}" for i, label in enumerate(self.states) if label]
        lines += [f"  t: {self.time}"] if self.time else []
        if self.coordinates is not None:
            lines += [
                "  These are the units of what goes in and comes out; rtol and atol are in the model's own, see below."
            ]
        clean = ["".join(c for c in line if c.isprintable()) for line in lines]
        return [line.replace("*/", "* /").replace("/*", "/ *").replace("<", "< ") for line in clean]


def refused(solver: Any, controller: Controller, y0: Any) -> tuple[float, float]:
    """Tolerances of a method that can be exported; ValueError naming what cannot."""
    tableau = getattr(solver, "tableau", None)
    explicit = isinstance(solver, ExplicitRungeKutta) and not solver.remembers and not solver.wants_pair
    if not explicit or tableau is None or tableau.extra_c or min(tableau.c) < 0 or max(tableau.c) > 1:
        name = snake_case(type(solver).__name__)
        raise ValueError(
            f"solver={name!r} cannot be exported: expected an explicit Runge–Kutta method whose interpolant needs no further "
            f"stages, such as 'tsit5', 'dopri5', 'bosh3' or 'rk4'"
        )
    if isinstance(controller, FixedStep):
        if controller.step is None:
            raise ValueError(
                f"max_step={controller.max_step}: exported solvers take fixed steps from t0 on; give step=…"
            )
        return 0.0, 0.0
    assert isinstance(controller, PID)
    if controller.norm is not None or controller.force_min_step:
        raise ValueError("controller: an exported solver has neither norm nor force_min_step; leave them out")
    bits = torch.finfo(Layout.of(y0).time_dtype).bits
    found = []
    for name, default in (("rtol", DEFAULT_RTOL[bits]), ("atol", DEFAULT_ATOL[bits])):
        value = getattr(controller, name)
        if value is not None and not isinstance(value, (int, float)):
            raise ValueError(f"{name}: an exported solver has one for all states, expected a number; got {value!r}")
        found.append(default if value is None else float(value))
    return found[0], found[1]


def _traced(
    field: Callable[..., Any], y0: Any, t0: float, inputs: Sequence[Tensor], args: tuple[Any, ...]
) -> tuple[Traced, Layout]:
    """The program on flat states, compared with the field on three of them near y0."""
    y = torch.utils._pytree.tree_map(lambda leaf: torch.stack([leaf.detach()] * LANES), y0)
    layout = Layout.of(y, per_sample=True)
    if layout.dtype not in (torch.float32, torch.float64) or layout.device.type != "cpu":
        raise CannotFuseError(
            f"y0: {layout.dtype} on {layout.device}, expected single or double precision on the processor"
        )
    generator = torch.Generator().manual_seed(0)
    flat = layout.flatten(y)
    flat = flat + (0.01 * torch.randn(flat.shape, generator=generator, dtype=torch.float64)).to(flat.dtype)
    given = [torch.stack([x.detach()] * LANES) for x in inputs]
    times = torch.full((LANES, *layout.time_tail), t0, dtype=layout.time_dtype)
    asked = VectorField(field, layout, args)

    def slope(t: Tensor, y: Tensor, *u: Tensor) -> Tensor:
        return asked.with_args((*u, *args))(t, y)

    traced = trace(slope, times, flat, given)
    names = [name for name, _, _ in traced.program.inputs]
    read = [x.reshape(LANES, -1).to(layout.dtype) for x in (times, flat, *given)]
    with torch.no_grad():
        want = slope(times, flat, *given)
        found, _ = execute(traced.program, dict(zip(names, read, strict=True)), [x.detach() for x in traced.prologue()])
    if not near([found["dy"]], [want]):
        raise CannotFuseError("the field cannot be exported: its program computes something else than it does")
    return traced, layout


def _reads_time(program: Program) -> bool:
    row = program.inputs[0][1]
    reads = any(row in one.rows or any(_holds(o, row, one.count) for o in one.operands) for one in program.code)
    return reads or any(row in rows for _, rows in program.outputs)


def _holds(operand: Any, row: int, count: int) -> bool:
    if operand.kind == "splat":
        return operand.at == row
    return operand.kind == "rows" and operand.at <= row < operand.at + count
