"""Plain backpropagation through the operations of the solver."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from isocline.engines import eager
from isocline.engines.eager import Problem, Trajectory, shared
from isocline.gradients.base import Gradient, Inputs
from isocline.gradients.checkpointed import Plan


@dataclass(frozen=True)
class Backprop(Gradient):
    """Autograd records every operation of every accepted step.

    Exact: the derivative of the discretisation with the accepted step sequence held fixed (no gradient goes through
    the step sizes). Memory grows with the number of evaluations times the field's own; the fastest way back where
    that fits. Derivatives of any order, it is ordinary autograd.

    With per-sample batching the steps are found first and recorded afterwards, each for the samples that accepted it:
    a rejected step of one sample must not put its NaN into the graph of the others.

    Example:
        >>> import torch, isocline
        >>> y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
        >>> isocline.solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=Backprop()).ys[-1].sum().backward()
        >>> round(y0.grad.item(), 6)
        0.367879
    """

    def run(self, problem: Problem, y0: Tensor) -> Trajectory:
        if problem.field.layout.batch is None and not problem.solver.remembers:
            return shared.integrate(problem, y0, graph=True)
        with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
            plan = Plan(problem, Inputs([], [], problem.field, []))
            trajectory = eager.integrate(problem, y0.detach(), plan.record.add)
        calls = problem.field.evaluations
        ys, dense_y, dense_hk = plan.rebuild(y0)
        trajectory.stats.evaluations = trajectory.stats.evaluations + (problem.field.evaluations - calls)
        # Where a solve stopped early the loop has marked rows as not reached; the graph must agree.
        trajectory.ys = torch.where(trajectory.ys.isnan(), trajectory.ys, ys)
        if problem.dense:
            trajectory.dense_y, trajectory.dense_hk = [dense_y], [dense_hk]
        return trajectory
