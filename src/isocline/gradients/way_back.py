"""What the continuous adjoints share: settings of the way back, and the node that stands for the solve in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.autocast import uncast
from isocline.control import PID, FixedStep
from isocline.control.initial_step import Tolerance
from isocline.engines import eager
from isocline.engines.eager import Problem, Trajectory
from isocline.gradients.base import GradientError, Inputs
from isocline.solution import Stats
from isocline.solvers import RungeKutta, Solver, snake_case
from isocline.solvers.additive import for_another
from isocline.solvers.scipy import Scipy


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

    def plan(self, problem: Problem, inputs: Inputs) -> Plan:
        """How this method solves and goes back."""
        raise NotImplementedError

    def run(self, problem: Problem, y0: Tensor) -> Trajectory:
        """Solves, and leaves `ys` differentiable."""
        inputs = Inputs.of(problem, y0)
        if not (y0.requires_grad or inputs.tensors):
            return eager.integrate(problem, y0)
        plan = self.plan(problem, inputs)
        ys = _Adjoint.apply(plan, y0, *inputs.tensors)
        trajectory, plan.trajectory = plan.trajectory, None
        assert trajectory is not None
        trajectory.ys = ys
        if problem.dense:
            trajectory.dense_y = [Refused.apply(y, ys, plan.name) for y in trajectory.dense_y]
        return trajectory

    def back_solver(self, problem: Problem) -> RungeKutta:
        """The solver of the way back; ValueError where it could not choose its steps."""
        solver = self.solver or problem.solver
        assert isinstance(solver, RungeKutta)
        solver = for_another(solver)
        if isinstance(solver, Scipy):
            method = type(self).__name__
            raise GradientError(
                f"{method}: {solver} is SciPy's, and cannot take the way back; give that a solver of its own, "
                f"{method}(solver='tsit5')"
            )
        if getattr(problem.solver, "correction", None) is not None:
            method = type(self).__name__
            raise GradientError(
                f"{method}: 'hyper' steps by a learned correction, of which the continuous adjoint knows nothing; use "
                f"gradient='checkpointed', which is exact"
            )
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


class Plan:
    """What the way forward leaves for the way back; it must not hold the outputs, or the graph would never be freed."""

    def __init__(self, method: WayBack, problem: Problem, inputs: Inputs) -> None:
        self.problem, self.inputs, self.name = problem, inputs, type(method).__name__
        self.stats = Stats()
        self.trajectory: Trajectory | None = None

    def solve(self, y0: Tensor) -> Tensor:
        """The way forward: ys (T, N) or (T, B, N)."""
        trajectory = eager.integrate(self.problem, y0)
        self.inputs.field.batch_args = self.problem.field.batch_args
        self.stats, self.trajectory = trajectory.stats, trajectory
        return trajectory.ys

    def pull_back(self, ys: Tensor, grad_ys: Tensor) -> Sequence[Tensor | None]:
        """Cotangents of y0 and of every source, from those of the observations."""
        raise NotImplementedError


class _Adjoint(torch.autograd.Function):
    """(y0, args, parameters) -> ys."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, y0: Tensor, *tensors: Tensor) -> Tensor:
        ctx.plan = plan
        ys = plan.problem.field.shaped(plan.solve(y0.detach()))
        ctx.shape = (len(ys), *y0.shape)
        # The parameters to notice changes in place between the two ways.
        ctx.save_for_backward(ys, *tensors)
        return ys

    @staticmethod
    @uncast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        (grad_ys,) = cotangents
        if torch.is_grad_enabled():
            raise GradientError(f"{ctx.plan.name} has no second derivatives; use gradient='checkpointed' or 'backprop'")
        ys, *_ = ctx.saved_tensors
        return (None, *ctx.plan.pull_back(ys.detach().reshape(ctx.shape), grad_ys.reshape(ctx.shape)))


class Refused(torch.autograd.Function):
    """A dense output without a gradient, and not in silence."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, like: Tensor, name: str) -> Tensor:
        ctx.name = name
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise GradientError(
            f"{ctx.name} has no gradient through Solution.at; put those times into ts, or use 'checkpointed'"
        )


def real_view(x: Tensor) -> Tensor:
    """Flat real view of a tensor."""
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).reshape(-1)


def unpack(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Pieces of a flat real vector in the shapes and dtypes of `like`."""
    out = []
    for piece, x in zip(flat.split([real_view(x).numel() for x in like]), like, strict=True):
        if x.is_complex():
            out.append(torch.view_as_complex(piece.view(*x.shape, 2)).to(x.dtype))
        else:
            out.append(piece.view(x.shape).to(x.dtype))
    return out
