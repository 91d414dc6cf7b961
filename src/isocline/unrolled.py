"""A solve of fixed steps as plain operations, one after the other: what a tracer can follow.

`torch.export`, ONNX and `torch.compile(fullgraph=True)` record operations on tensors whose numbers they do not know.
How many steps there are is then known only where the times are Python numbers and the steps are fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from isocline._types import Float, Tensor
from isocline.control import Controller, FixedStep
from isocline.engines.eager.steps import stage_times
from isocline.field import Layout, VectorField
from isocline.gradients import Backprop, Checkpointed, Gradient, GradientError
from isocline.solution import Solution, Stats, Status
from isocline.solvers import RungeKutta, snake_case
from isocline.solvers.memory import Remembering
from isocline.solvers.runge_kutta import combine
from isocline.solvers.tableau import Tableau
from isocline.transforms import exporting


def solve_unrolled(
    field: Callable[..., Any],
    y0: Any,
    ts: Any,
    solver: RungeKutta,
    controller: Controller,
    gradient: Gradient,
    batching: str,
    args: tuple[Any, ...],
    step_ts: Any,
    max_steps: int,
    **without: Any,
) -> Solution:
    """The solve, every operation of every step in a row.

    Args:
        without: what no tracer can follow, and must be None or False.

    Others are those of `solve`, resolved. Nothing looks at the numbers: what becomes infinite stays so in `ys`, and no
    error is raised.

    Raises:
        ValueError, GradientError: naming the argument that a tracer cannot follow, and what to use.
    """
    _check(solver, controller, gradient, without)
    assert isinstance(controller, FixedStep)
    layout = Layout.of(y0, per_sample=batching == "per_sample")
    times = numbers("ts", ts)
    forwards = all(b > a for a, b in itertools.pairwise(times))
    if not times or not (forwards or all(b < a for a, b in itertools.pairwise(times))):
        raise ValueError(f"ts: {times}, expected at least one time, strictly increasing or strictly decreasing")
    grid = controller.grid(times, [] if step_ts is None else numbers("step_ts", step_ts))
    if len(grid) - 1 > max_steps:
        raise ValueError(f"max_steps={max_steps}: these are {len(grid) - 1} fixed steps; take longer ones or raise it")
    plain = PlainField(field, layout, args)
    ys = integrate(plain, layout.flatten(y0), times, grid, solver)
    given = torch.tensor(times, dtype=torch.float64, device=layout.device)
    stats: Any = Stats(plain.evaluations, len(grid) - 1)
    status: Any = Status.SUCCESS
    if layout.batch is not None:
        one = torch.ones(layout.batch, dtype=torch.int64, device=layout.device)
        stats, status = Stats(plain.evaluations * one, (len(grid) - 1) * one, 0 * one, 0, 0 * one), 0 * one
    return Solution(given, layout.unflatten(ys), stats, status)


def integrate(
    field: PlainField, y0: Tensor, ts: Sequence[float], grid: Sequence[float], solver: RungeKutta
) -> Float[Tensor, "times *batch state"]:
    """The states (T, …) at `ts`, by steps from each time of `grid` to the next."""
    tableau, sign = solver.tableau, 1.0 if ts[-1] >= ts[0] else -1.0
    memory = solver if isinstance(solver, Remembering) else None
    ys, y, k1, note = [y0], y0, None, None
    state = y0 if memory is None else memory.begin(y0)
    for t, t1 in itertools.pairwise(grid):
        times, h = field.times(stage_times(tableau.c, t, t1, t, t1)), t1 - t
        inner = [x for x in ts[len(ys) :] if sign * x < sign * t1]
        if k1 is None:
            k1 = field(times[0], y if memory is None else memory.anchor(state))
        before = state
        if memory is None:
            y1, ks = solver.recorded(field, times, h, y, k1, last_stage=bool(inner) or t1 != grid[-1])
        else:
            state, ks = memory.taken(field, times, h, before, k1, None, note)
            y1, note = state[0], memory.note_after(note, h)
        k1 = ks[tableau.stages - 1] if tableau.fsal and t1 != grid[-1] else None
        if inner and tableau.extra_c:
            times = field.times(stage_times(tableau.extra_c, t, t1, t, t1))
            if memory is None:
                ks = solver.recorded_extra(field, times, h, y, ks)
            else:
                ks = [*ks, *memory.taken_extra(field, times, h, before, ks)]
        ys += [combine(y, interpolant(tableau, (x - t) / h), ks, h) for x in inner]
        if len(ys) < len(ts) and ts[len(ys)] == t1:
            ys.append(y1)
        y = y1
    return torch.stack(ys)


def interpolant(tableau: Tableau, theta: float) -> list[float]:
    """b_i(θ) of every stage, as numbers.

    Example:
        >>> from isocline.solvers import RK4
        >>> [round(b, 3) for b in interpolant(RK4.tableau, 1.0)]
        [0.167, 0.333, 0.333, 0.167]
    """
    center = tableau.dense_center
    return [
        sum(c * ((theta - center) ** d - (-center) ** d) for d, c in enumerate(row, start=1)) for row in tableau.dense
    ]


class PlainField(VectorField):
    """A field whose calls are nothing but `f`: what guards it otherwise reads versions of tensors, and numbers."""

    def times(self, ts: Sequence[float]) -> Sequence[Tensor]:
        lead = () if self.layout.batch is None else (self.layout.batch, *self.time_tail)
        return [self._clock.new_full(lead, t) for t in ts]

    def _call(self, t: Tensor, state: Any) -> Any:
        return self.f(t, state, *self.args)


def numbers(name: str, value: Any) -> list[float]:
    """Times as Python numbers; ValueError where they are a tensor whose numbers a tracer does not know."""
    if isinstance(value, Tensor):
        if torch.compiler.is_compiling():
            raise ValueError(
                f"{name}: a tensor, whose numbers are not known while the model is traced; give the times as Python numbers, "
                f"such as [0.0, 0.5, 1.0], or take them with .tolist() beforehand"
            )
        if value.requires_grad:
            raise ValueError(f"{name}: requires grad, which engine='unrolled' has not; use engine='eager'")
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or not all(isinstance(t, (int, float)) for t in value):
        raise ValueError(f"{name}: expected a sequence of numbers, got {value!r}; a traced solve has common times only")
    return [float(t) for t in value]


def _check(solver: RungeKutta, controller: Controller, gradient: Gradient, without: dict[str, Any]) -> None:
    who = "torch.export" if exporting() else "engine='unrolled'"
    if not isinstance(controller, FixedStep):
        raise ValueError(
            f"controller={type(controller).__name__} under {who}: it chooses steps by numbers that a tracer does not see; "
            f"give fixed ones, step=… or max_step=…"
        )
    if not solver.tableau.explicit:
        raise ValueError(
            f"solver={snake_case(type(solver).__name__)!r} under {who}: it takes its Jacobians from autograd and iterates "
            f"until numbers agree; use an explicit solver such as 'rk4' there"
        )
    if not isinstance(gradient, (Backprop, Checkpointed)):
        raise GradientError(
            f"gradient={snake_case(type(gradient).__name__)!r} under {who}: the operations of the steps themselves are "
            f"differentiated there; use 'checkpointed' or 'backprop', which is the same derivative"
        )
    for name, value in without.items():
        if value is not None and value is not False:
            raise ValueError(f"{name} under {who}: not available there; {WITHOUT.get(name, 'leave it out')}")


WITHOUT = {
    "inputs": "call the signal inside the field, as signal(t)",
    "dense": "put the times wanted into ts",
    "jump_ts": "give the times of jumps as step_ts",
}
