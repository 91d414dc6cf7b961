"""The accepted steps of a solve as one path to interpolate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isocline.engines.eager.problem import Problem, Trajectory
from isocline.solution import DensePath
from isocline.solvers.runge_kutta import DenseStep


def dense_path(problem: Problem, trajectory: Trajectory, y0: Tensor) -> tuple[DensePath, Any]:
    """The accepted steps for interpolation, and their ends."""
    weights = DenseStep.of(problem.solver.tableau, y0)
    calls = (weights.weights, weights.slopes)
    layout = problem.field.layout
    stages = problem.solver.tableau.dense_stages
    y = torch.cat(trajectory.dense_y) if trajectory.dense_y else y0.new_empty(0, y0.shape[-1])
    hk = torch.cat(trajectory.dense_hk) if trajectory.dense_hk else y0.new_empty(0, stages, y0.shape[-1])
    if layout.batch is None:
        ends = torch.tensor([t1 for _, t1 in trajectory.steps], dtype=layout.clock_dtype, device=y0.device)
        starts = torch.tensor([t for t, _ in trajectory.steps], dtype=layout.clock_dtype, device=y0.device)
        first = torch.tensor(problem.ts[:1], dtype=layout.clock_dtype, device=y0.device)
        return DensePath(layout, calls, starts, ends, y, hk), torch.cat([first, ends])
    none = problem.ts.new_empty(0)
    rows, starts, ends = (torch.cat(x) for x in zip((none.long(), none, none), *trajectory.steps, strict=True))
    index = (starts != ends).nonzero().squeeze(1)
    index = index[rows[index].argsort(stable=True)]
    count = rows[index].bincount(minlength=layout.batch)
    column = torch.arange(len(index), device=y0.device) - (count.cumsum(0) - count)[rows[index]]
    shape = (layout.batch, max(1, int(count.max())))

    def table(values: Tensor, fill: float) -> Tensor:
        return values.new_full(shape, fill).index_put((rows[index], column), values)

    start_table, end_table = table(starts[index], torch.nan), table(ends[index], torch.nan)
    accepted = [torch.cat([t[:1], e[~e.isnan()]]) for t, e in zip(problem.ts, end_table, strict=True)]
    return DensePath(layout, calls, start_table, end_table, y, hk, table(index, 0)), accepted
