"""What the continuous adjoints share: a solver and a controller of their own for the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isocline.control import PID, FixedStep
from isocline.control.initial_step import Tolerance
from isocline.engines.eager import Problem
from isocline.gradients.base import GradientError
from isocline.solvers import RungeKutta, Solver, snake_case


@dataclass(frozen=True)
class WayBack:
    """Settings of a solve backwards in time, checked when made; the arguments are documented at `Backsolve`.

    Example:
        >>> from isocline.gradients import Backsolve, GaussAdjoint
        >>> isinstance(Backsolve(), WayBack) and isinstance(GaussAdjoint(rtol=1e-3), WayBack)
        True
    """

    solver: RungeKutta | str | None = None
    controller: PID | FixedStep | None = None
    rtol: float | None = None
    atol: float | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.controller is not None and (self.rtol is not None or self.atol is not None):
            raise ValueError(f"{name}: give either controller or rtol and atol")
        if isinstance(self.solver, str):
            if self.solver not in Solver.registry:
                raise ValueError(f"{name}: solver={self.solver!r}, expected one of {sorted(Solver.registry)}")
            object.__setattr__(self, "solver", Solver.named(self.solver))

    def back_solver(self, problem: Problem) -> RungeKutta:
        """The solver of the way back; ValueError where it could not choose its steps."""
        solver = self.solver or problem.solver
        assert isinstance(solver, RungeKutta)
        if solver.wants_pair:
            name, method = snake_case(type(solver).__name__), type(self).__name__
            raise GradientError(
                f"{method}: {name!r} steps pairs (x, v), and the state of the way back is none: give it another solver, "
                f"{method}(solver='rk4'), or use gradient='checkpointed', which is exact"
            )
        if isinstance(self.controller or problem.controller, PID) and not solver.error_order:
            name, method = snake_case(type(solver).__name__), type(self).__name__
            raise ValueError(
                f"{method}: solver={name!r} has no error estimate and cannot choose its steps on the way back: give "
                f"controller=FixedStep(…), or an adaptive solver such as 'tsit5'"
            )
        return solver

    def tolerances(self, problem: Problem) -> tuple[Any, Any]:
        """rtol and atol of the way back: numbers, or tensors that broadcast to the forward state."""
        controller = self.controller or problem.controller
        assert isinstance(controller, PID)
        tolerance = Tolerance(controller, problem.field.layout)
        return (
            tolerance.rtol if self.rtol is None else self.rtol,
            tolerance.atol if self.atol is None else self.atol,
        )
