"""The exact gradient by the fused engine: recorded steps taken again, stages pulled back, all in one native call."""

from __future__ import annotations

from typing import Any

import torch

from isocline._types import Tensor
from isocline.engines.eager import Problem, Trajectory
from isocline.engines.fused.solve import Run, integrate, run_of
from isocline.gradients.base import GradientError


def solve_fused(problem: Problem, y0: Tensor) -> Trajectory:
    """Integrates with the gradient of `Checkpointed`, by y0, parameters and arguments.

    Raises:
        CannotFuseError: naming what is in the way.
    """
    run, others = run_of(problem, y0)
    if not any(x.requires_grad for x in (y0, *others)):
        return run.trajectory(run.solve())
    return run.trajectory(_Solved.apply(run, y0, *others))


__all__ = ["integrate", "solve_fused"]


class _Solved(torch.autograd.Function):
    """(y0, further inputs, leaves) -> ys."""

    @staticmethod
    def forward(ctx: Any, run: Run, *tensors: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(*tensors)  # to notice changes in place between the two ways
        return run.solve(want_tape=True)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise GradientError(
                "second derivatives of a solve by the fused engine are not available: take engine='eager' for them"
            )
        _ = ctx.saved_tensors
        grad_y0, further, leaves = ctx.run.pull_back(cotangents[0])
        return None, grad_y0, *further, *leaves
