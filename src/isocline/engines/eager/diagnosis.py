"""Why a solve stopped: one paragraph a user can act on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID
from isocline.control.initial_step import Tolerance
from isocline.engines.eager.problem import Failure, Problem, Trajectory
from isocline.field import Layout
from isocline.solution import Solution, SolveError, Status
from isocline.solution import failed as failures

GROWTH = 1e4  # a state this many times larger than it began (or than 1) has blown up


def report(problem: Problem, trajectory: Trajectory, y0: Tensor, solution: Solution, throw: bool) -> None:
    """Refines the status of a solution that is none, writes its message, raises it where it is to be thrown."""
    if isinstance(trajectory.status, Status):
        if trajectory.status.success:
            return
        assert trajectory.failure is not None
        if torch._C._functorch.is_batchedtensor(trajectory.failure.y):  # which shows no numbers
            solution.status, t = trajectory.status, trajectory.failure.t
            solution.message = (
                f"solve: stopped at t = {t:.6g}: {trajectory.status.message}, for one of the samples that vmap maps over; "
                f"batching='per_sample' solves each by itself and says which"
            )
        else:
            solution.status, solution.message = diagnose(problem, trajectory.status, trajectory.failure, y0)
    else:
        if (
            trajectory.failure is None
            or not bool(trajectory.status.any())
            or not bool(failures(trajectory.status).any())
        ):
            return
        solution.status, solution.message = diagnose_rows(problem, trajectory, y0)
    if throw:
        raise SolveError(solution.message, solution.status, solution)


def diagnose(problem: Problem, status: Status, failure: Failure, y0: Tensor, where: str = "") -> tuple[Status, str]:
    """The status, refined, and the message.

    Args:
        problem: the one that failed.
        status: what the loop saw.
        failure: the last good point; its `y` one flat state (N,), or (1, N) of one sample of a batch.
        y0: the initial state alike.
        where: further location, e.g. the sample.
    """
    with torch.no_grad():
        return _diagnose(problem, status, failure, y0, where)


def diagnose_rows(problem: Problem, trajectory: Trajectory, y0: Tensor) -> tuple[Tensor, str]:
    """The same for per-sample batching: every status refined, the first failure explained, the others counted.

    Args:
        trajectory: its status is (B,), its failure holds t, y, h of every sample.
        y0: (B, N).
    """
    status, failure = trajectory.status.clone(), trajectory.failure
    assert failure is not None
    failed = failures(status).nonzero().squeeze(1)
    messages = []
    with torch.no_grad():
        for i in failed.tolist():
            row = slice(i, i + 1)
            one = replace(problem, field=problem.field.of_rows(failed.new_tensor([i])), ts=problem.ts[row])
            where = f" in sample {i}"
            try:
                point = Failure(float(failure.t[i]), failure.y[row], float(failure.h[i]))
                refined, text = _diagnose(one, Status(int(status[i])), point, y0[row], where)
            except (RuntimeError, IndexError, ValueError):
                # A field that only works on the whole batch cannot be asked about one sample of it.
                refined, text = Status(int(status[i])), f"{Status(int(status[i])).message}{where}"
            status[i] = int(refined)
            messages.append(text)
    shown = "; ".join(messages[:3])
    more = f"; and {len(messages) - 3} more samples" if len(messages) > 3 else ""
    return status, f"{len(messages)} of {len(status)} samples did not reach their end: {shown}{more}"


def _diagnose(problem: Problem, status: Status, failure: Failure, y0: Tensor, where: str) -> tuple[Status, str]:
    t, y = failure.t, failure.y
    place = f"at t = {t:.6g}{where}"
    if status is Status.MAX_EVENTS:
        return status, f"max_events was used up {place}. Raise max_events, make an event terminal, or end earlier"
    if status is Status.EVENTS_ACCUMULATE:
        return status, (
            f"events accumulate {place}: after its reset the same event happens again sooner than time in "
            f"{problem.field.time_dtype} can resolve, as the bounces of a ball that comes to rest do. Add a terminal event "
            f"before (a speed or a gap small enough), or let the reset leave the surface"
        )
    slope = problem.field(_time(problem, t, y), y)
    growth = float(y.abs().max()) / max(1.0, float(y0.abs().max()))
    if not bool(y0.isfinite().all()):
        return (
            Status.NON_FINITE,
            f"the initial state{where} is not finite: {_component(problem.field.layout, ~y0.isfinite())}. Check y0",
        )
    end = problem.ts[-1] if isinstance(problem.ts, list) else float(problem.ts.nan_to_num(-math.inf).max())
    # Out of steps while they shrink to nothing: an implicit method creeps up to a pole like that.
    creeping = status is Status.MAX_STEPS and failure.h < 1e-9 * abs(end - t)
    if growth > GROWTH and (creeping or status is not Status.MAX_STEPS):
        grown = y.abs() == y.abs().max()
        return Status.BLOW_UP, (
            f"the solution blows up {place}: {_component(problem.field.layout, grown)} reached {growth:.2g} times its initial "
            f"size. Such a solution may not exist further; end before, bound the field (tanh on its output), or start closer to rest"
        )
    if not bool(slope.isfinite().all()):
        return Status.NON_FINITE, (
            f"the field returned NaN or inf {place}: {_component(problem.field.layout, ~slope.isfinite())}, with a state of at most "
            f"{float(y.abs().max()):.3g}. Look for a square root or log of a negative, a division by zero, or diverged weights"
        )
    explicit = problem.solver.tableau.explicit
    if status is Status.NON_FINITE and not explicit:
        return status, (
            f"no solution of the implicit equations was found, or it is not finite, just after t = {t:.6g}{where}: the step is too "
            f"long for Newton's method. Take shorter steps, or rtol and atol with an adaptive solver such as 'rodas5_p'"
        )
    if status is Status.NON_FINITE:
        return (
            status,
            f"the state became NaN or infinite just after t = {t:.6g}{where}. Take shorter steps, or an adaptive solver",
        )
    return status, _slow(problem, status, failure, place)


def _slow(problem: Problem, status: Status, failure: Failure, place: str) -> str:
    """Steps too small or too many: stiffness, a tolerance out of reach, or simply a long way."""
    t, y = failure.t, failure.y
    end = problem.ts[-1] if isinstance(problem.ts, list) else float(problem.ts.nan_to_num(-math.inf).max())
    fastest = fastest_rate(problem, t, y)
    said = (
        f"max_steps = {problem.max_steps} used up {place}"
        if status is Status.MAX_STEPS
        else f"the step fell to {failure.h:.2g} {place}"
    )
    if status is Status.STEP_TOO_SMALL:
        said += ", where time no longer advances"
    controller = problem.controller
    if isinstance(controller, PID):
        tolerance = Tolerance(controller, problem.field.layout)
        eps = torch.finfo(problem.field.time_dtype).eps
        if isinstance(tolerance.rtol, float) and tolerance.rtol < 10 * eps:
            return f"{said}: rtol = {tolerance.rtol:g} is below what {problem.field.time_dtype} can reach; use rtol >= {100 * eps:.1g} or float64"
        if problem.solver.tableau.explicit and math.isfinite(failure.h) and failure.h * fastest > 0.5:
            count = fastest * abs(end - t) / 3
            return (
                f"{said}: the problem looks stiff (fastest rate about {fastest:.3g} per unit of time, step × rate = "
                f"{failure.h * fastest:.2g}: stability, not accuracy, limits the step; about {count:.2g} more steps to the end). "
                f"An explicit solver is the wrong one here: use solver='rodas5_p' or 'kvaerno5' (implicit), 'auto_switch' (implicit "
                f"where and for the samples that need it), or penalise the field's Jacobian"
            )
    if status is Status.MAX_STEPS:
        return f"{said}. Raise max_steps, loosen rtol and atol, or look whether the field changes faster than intended"
    return f"{said}: the field is not smooth there (a jump, a singularity). Pass the times of jumps as jump_ts"


def fastest_rate(problem: Problem, t: Any, y: Tensor, iterations: int = 12) -> float:
    """Magnitude of the largest eigenvalue of ∂f/∂y by power iteration on finite differences."""
    time = _time(problem, t, y)
    base = problem.field(time, y)
    size = max(float(y.norm()), 1.0)
    step = size * torch.finfo(y.dtype).eps ** 0.5
    v = torch.ones_like(y)
    v[..., ::2] = -0.5
    rate = 0.0
    for _ in range(iterations):
        v = v * (step / max(float(v.norm()), 1e-300))
        v = problem.field(time, y + v) - base
        rate = float(v.norm()) / step
        if not math.isfinite(rate) or rate == 0.0:
            return rate
    return rate


def _time(problem: Problem, t: Any, y: Tensor) -> Tensor:
    layout = problem.field.layout
    clock = torch.as_tensor(t, dtype=problem.field.time_dtype, device=layout.device)
    return clock.expand(len(y), *layout.time_tail) if y.dim() == 2 else clock


def _component(layout: Layout, mask: Tensor) -> str:
    """Which entries of which leaf a flat mask marks."""
    flat = mask.reshape(-1)
    index = int(flat.nonzero()[0]) % layout.size
    count = int(flat.sum())
    others = f" and {count - 1} more" if count > 1 else ""
    for leaf, (size, shape, dtype) in enumerate(zip(layout.sizes, layout.shapes, layout.dtypes, strict=True)):
        if index < size:
            position = (
                torch.unravel_index(torch.tensor(index // (2 if dtype.is_complex else 1)), shape) if shape else ()
            )
            name = "y" if layout.spec is None else f"tensor {leaf} of y"
            return f"component {[int(i) for i in position]} of {name}{others}"
        index -= size
    raise AssertionError("mask longer than the layout")
