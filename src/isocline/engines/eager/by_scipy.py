"""A solve whose steps SciPy takes: the loop around one of its solvers, from stop to stop."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID, Stops
from isocline.control.initial_step import Tolerance
from isocline.engines.eager.problem import Failure, Problem, Trajectory
from isocline.solution import Stats, Status
from isocline.solvers.scipy import Scipy, nodes


def integrate(problem: Problem, y0: Tensor) -> Trajectory:
    """Integrates from ts[0] to ts[-1]; no graph.

    Args:
        problem: of shared batching, its solver a `Scipy`.
        y0: flat state (N,).
    """
    solver, controller, field = problem.solver, problem.controller, problem.field
    assert isinstance(solver, Scipy)
    if not isinstance(controller, PID):
        raise ValueError(f"controller={controller}: solver={solver} chooses its steps itself; give rtol and atol")
    for name, value in (("events", problem.watch), ("observer", problem.observer), ("norm", controller.norm)):
        if value is not None:
            raise ValueError(f"{name}: not available with solver={solver}; take one of isocline's own, such as 'tsit5'")
    # An evaluation that a gradient method has made already cannot be handed to SciPy; it counts.
    count, stats = field.evaluations - (problem.start is not None), Stats()
    problem.start = None
    settings = _settings(solver, controller, Tolerance(controller, field.layout))
    trajectory = Trajectory(y0, y0, stats)
    ts, sign = problem.ts, 1.0 if problem.ts[-1] >= problem.ts[0] else -1.0
    stops = Stops(ts[0], ts[-1], problem.step_ts, problem.jump_ts, field.time_dtype)
    theta = nodes(solver.tableau.dense_order)

    def as_state(y: Any) -> Tensor:
        return torch.as_tensor(y, dtype=y0.dtype, device=y0.device)

    rows, y = [y0], y0.detach().double().cpu().numpy()

    def ended(status: Status, failure: Failure | None = None) -> Trajectory:
        stats.evaluations = field.evaluations - count
        missing = [y0.new_full(y0.shape, torch.nan)] * (len(ts) - len(rows))
        trajectory.ys, trajectory.y_end = torch.stack(rows + missing), as_state(y)
        trajectory.status, trajectory.failure = status, failure
        return trajectory

    with torch.no_grad():
        for a, b in itertools.pairwise([ts[0], *stops.times] if len(ts) > 1 else ts):
            low, high = sorted((stops.inside(a, b), stops.inside(b, a)))

            def slope(t: float, y: Any, low: float = low, high: float = high) -> Any:
                return field(field.time(min(max(t, low), high)), as_state(y)).double().cpu().numpy()

            stepper = solver.stepper()(slope, a, y, b, **settings)
            while stepper.status == "running":
                before = stepper.t
                if stats.accepted == problem.max_steps:
                    return ended(Status.MAX_STEPS, Failure(before, as_state(y), abs(stepper.step_size or math.nan)))
                stepper.step()
                if stepper.status == "failed":
                    return ended(Status.STEP_TOO_SMALL, Failure(before, as_state(y), abs(stepper.step_size or 0.0)))
                after = as_state(stepper.y)
                if not bool(after.isfinite().all()):
                    return ended(Status.NON_FINITE, Failure(before, as_state(y), abs(stepper.t - before)))
                last = bisect_right(ts, sign * stepper.t, lo=len(rows), key=lambda x: sign * x)
                inner = [x for x in ts[len(rows) : last] if x != stepper.t]
                path: Any = stepper.dense_output() if inner or problem.dense else None
                rows += [as_state(path(x)) for x in inner]
                rows += [after] * (last - len(rows))
                if problem.dense:
                    at = torch.stack([as_state(path(before + (stepper.t - before) * x)) for x in theta])
                    trajectory.dense_y.append(as_state(y)[None])
                    trajectory.dense_hk.append((at - as_state(y))[None])
                    trajectory.steps.append((before, stepper.t))
                y = stepper.y.copy()
                stats.accepted += 1
                if problem.progress is not None:
                    problem.progress((stepper.t - ts[0]) / (ts[-1] - ts[0]), stepper.t, stats.accepted)
            stats.jacobians += int(stepper.njev)
    return ended(Status.SUCCESS)


def _settings(solver: Scipy, controller: PID, tolerance: Tolerance) -> dict[str, Any]:
    def plain(x: Any) -> Any:
        return x.double().cpu().numpy() if isinstance(x, Tensor) and x.dim() else float(x)

    settings = {"rtol": plain(tolerance.rtol), "atol": plain(tolerance.atol), "max_step": controller.max_step}
    if controller.first_step is not None:
        settings["first_step"] = controller.first_step
    if solver.method == "LSODA":
        settings["min_step"] = controller.min_step
    return settings
