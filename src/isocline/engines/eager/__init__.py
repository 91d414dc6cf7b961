"""The eager engine: the loop over steps, with one step size for all (`shared`) or one a sample (`per_sample`)."""

import torch
from torch import Tensor

from isocline.engines.eager import by_scipy, per_sample, shared
from isocline.engines.eager.problem import OnStep, Problem, Trajectory
from isocline.solvers.scipy import Scipy

__all__ = ["Problem", "Trajectory", "integrate"]


def integrate(problem: Problem, y0: Tensor, on_step: OnStep | None = None, segments: int = 0) -> Trajectory:
    """Solves without a graph, in the batching of `problem`; `on_step` gets every accepted step.

    With shared steps the first `segments` of them carry a graph of their own.
    """
    if isinstance(problem.solver, Scipy):
        if on_step is not None:
            raise problem.solver.refusal()
        return by_scipy.integrate(problem, y0)
    with torch.no_grad():  # a field that calls autograd may return a graph even where nothing is to be differentiated
        if problem.field.layout.batch is None:
            return shared.integrate(problem, y0, on_step=on_step, segments=segments)
        return per_sample.integrate(problem, y0, on_step)
