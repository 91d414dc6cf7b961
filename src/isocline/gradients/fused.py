"""Gradients by the fused engine, all in one native call: recorded steps taken again and pulled back, or the continuous
adjoint."""

from __future__ import annotations

from typing import Any

import torch

from isocline._types import Tensor
from isocline.control import Controller, FixedStep
from isocline.engines.eager import Problem, Trajectory
from isocline.engines.fused import Fused
from isocline.engines.fused.events import until_event
from isocline.engines.fused.lanes import CannotFuseError
from isocline.engines.fused.path import Steps, look_between
from isocline.engines.fused.solve import PLAIN, Adjoint, Run, integrate, run_alike, run_of, solver_refusal
from isocline.gradients import replay
from isocline.gradients.backsolve import Backsolve, refuse_or_warn
from isocline.gradients.base import Gradient, GradientError
from isocline.gradients.way_back import Refused
from isocline.solution import Status
from isocline.solvers import RungeKutta


def solve_fused(problem: Problem, y0: Tensor, way_back: Gradient, engine: Fused = PLAIN) -> Trajectory:
    """Integrates, differentiable by y0, parameters, arguments and inputs.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    back = _Back(problem, way_back) if isinstance(way_back, Backsolve) else None
    run, others = run_of(problem, y0, engine)
    if not any(x.requires_grad for x in (y0, *others)):
        return integrate(problem, y0, engine)
    if problem.watch is None:
        return _solved(run, back, y0, others)

    def finish(run: Run, problem: Problem) -> Trajectory:
        return _solved(run, back and _Back(problem, back.method), y0, others)

    return until_event(run, finish)


def observed(run: Run, way_back: Gradient, y0: Tensor, others: list[Tensor]) -> Tensor:
    """The observations (T, B, N) of a run without events and not `dense`, differentiable where a graph is wanted."""
    if not torch.is_grad_enabled() or not (y0.requires_grad or any(x.requires_grad for x in others)):
        return run.solve()
    back = _Back(run.problem, way_back) if isinstance(way_back, Backsolve) else None
    return _PLAINLY(run, back, *map(torch._C._functorch.unwrap_if_dead, (y0, *others)))


def _solved(run: Run, back: Any, y0: Tensor, others: list[Tensor]) -> Trajectory:
    if run.problem.dense:
        return _dense(run, back, y0, others)
    return run.trajectory(_Solved.apply(run, back, y0, *others))


__all__ = ["integrate", "observed", "run_alike", "run_of", "solve_fused"]


class _Solved(torch.autograd.Function):
    """(y0, tables of signals, further inputs, leaves) -> ys."""

    @staticmethod
    def forward(ctx: Any, run: Run, back: Any, *tensors: Tensor) -> Tensor:
        ctx.run, ctx.back = run, back
        ys = run.solve(want_tape=back is None or run.problem.dense)
        ctx.save_for_backward(*tensors, ys)  # the first to notice changes in place between the two ways
        return ys

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        run, back, graph = ctx.run, ctx.back, torch.is_grad_enabled()
        *tensors, ys = ctx.saved_tensors
        if graph and (back is not None or not run.problem.field.optional):
            raise GradientError(
                "second derivatives of a solve by the fused engine are not available: take engine='eager' for them"
            )
        if graph or replay.mapped(cotangents[0]):
            return None, None, *replay.pull_back(run, tensors, cotangents[0], graph)
        if back is not None:
            return None, None, *back.adjoint(run, ys, cotangents[0])
        run.stats.passes += 1
        return None, None, *run.pull_back(cotangents[0])


# `_Solved.apply` where no transform is at work, which it would ask about for as long as a small solve takes for a step.
_PLAINLY: Any = super(torch.autograd.Function, _Solved).apply  # pyrefly: ignore[missing-attribute]


def _dense(run: Run, back: Any, y0: Tensor, others: list[Tensor]) -> Trajectory:
    """The same with every step."""
    if back is None:
        ys, y, hk = _SolvedDensely.apply(run, y0, *others)
        assert run.steps is not None
        return look_between(run.trajectory(ys), run.steps, y, hk)
    ys = _Solved.apply(run, back, y0, *others)
    steps, run.tape = Steps(run), None
    return look_between(run.trajectory(ys), steps, Refused.apply(steps.y, ys, "Backsolve"), steps.hk(run, others))


class _SolvedDensely(torch.autograd.Function):
    """(y0, tables of signals, further inputs, leaves) -> ys, and of every accepted step the state where it began and h·k."""

    @staticmethod
    def forward(ctx: Any, run: Run, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ys = run.solve(want_tape=True)
        ctx.run, run.steps = run, Steps(run)
        ctx.save_for_backward(*tensors)  # to notice changes in place between the two ways
        # What the node holds must not be its output.
        return ys, run.steps.y.detach(), run.steps.hk(run, tensors[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        run, tensors, (grad_ys, grad_y, grad_hk) = ctx.run, ctx.saved_tensors, cotangents
        if torch.is_grad_enabled() or any(map(replay.mapped, cotangents)):
            raise GradientError(
                "second derivatives, and cotangents that are mapped over, of a dense output by the fused engine are not "
                "available: take engine='eager' for them"
            )
        states, *direct = run.steps.pull_back(run, tensors[1:], grad_hk)
        run.stats.passes += 1
        of_y0, *through = run.pull_back(grad_ys, grad_y + states)
        return None, of_y0, *(a + b.view_as(a) for a, b in zip(direct, through, strict=True))


class _Back:
    """A `Backsolve`, with the solver and the controller of its way back."""

    def __init__(self, problem: Problem, method: Backsolve) -> None:
        self.method, self.problem = method, problem
        self.solver: RungeKutta = method.back_solver(problem)
        self.controller: Controller = method.back_controller(problem)
        why = solver_refusal(self.solver)
        if why is None and not method.seminorm:
            why = "the parameters' adjoints are to be in the error norm (seminorm=False)"
        if why is None and isinstance(self.controller, FixedStep) and self.controller != problem.controller:
            why = "it has fixed steps that are not those of the way forward"
        if why is not None:
            raise CannotFuseError(f"the fused engine cannot take this way back: {why}")

    def adjoint(self, run: Run, ys: Tensor, grads: Tensor) -> list[Tensor]:
        """The cotangents, or what is wrong with them."""
        found = run.adjoint(ys, grads, self.problem, self.solver, self.controller)
        run.stats.evaluations_backward += int(found.evaluations.max())
        bad = (found.status != int(Status.SUCCESS)).nonzero()
        if len(bad):
            i = int(bad[0])
            raise GradientError(
                f"Backsolve: integrating sample {i} backwards failed at t = {float(found.t[i]):.6g}: "
                f"{Status(int(found.status[i])).message}. The system cannot be run backwards there; use "
                f"gradient='checkpointed'"
            )
        self._compare(found, ys)
        return found.cotangents

    def _compare(self, found: Adjoint, ys: Tensor) -> None:
        """What y misses the stored ones by, observation by observation, the last first."""
        squares = found.missed.sum(1) / max(1, ys.shape[1] * ys.shape[2])
        if self.method.check == "off" or not bool(squares.any()):
            return
        scale = max(float(ys.nan_to_num(0.0).abs().max()), torch.finfo(ys.dtype).tiny)
        ts = self.problem.ts
        for i in range(len(squares) - 2, -1, -1):
            moment = [float(ts[:, k].nanmean()) if ts.shape[0] else 0.0 for k in (i, i + 1)]
            refuse_or_warn(self.method.check, float(squares[i].sqrt()) / scale, *moment)
