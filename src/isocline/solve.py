"""`solve`: checks its arguments, resolves names, calls the engine through the gradient, returns a Solution."""

from __future__ import annotations

import difflib
import functools
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from isocline.alike import Resolved, like_before
from isocline.autocast import outside_autocast
from isocline.control import PID, Controller, FixedStep, Observer
from isocline.doses import Dose
from isocline.engines import eager
from isocline.engines.eager import Problem, Trajectory
from isocline.engines.eager.dense import dense_path
from isocline.engines.eager.diagnosis import report
from isocline.engines.fused import Fused
from isocline.events import Conditions, Event
from isocline.field import Layout
from isocline.fusing import Attempt, check, either, of_each
from isocline.gradients import Checkpointed, Gradient
from isocline.gradients.times import attach_observations, attach_start, beside
from isocline.in_graph import describe, fits, solve_in_graph
from isocline.inputs import drive
from isocline.pieces import EventLog, solve_in_pieces
from isocline.save import solve_and_save
from isocline.solution import Solution, Stats, Status
from isocline.solvers import RungeKutta, Solver, snake_case
from isocline.solvers.additive import for_field
from isocline.times import Times
from isocline.transforms import exporting, outside_graphs, under_transforms
from isocline.unrolled import solve_unrolled

ENGINES = ("auto", "eager", "fused", "unrolled")


@like_before
@functools.partial(outside_graphs, inside=fits)
@outside_autocast
def solve(
    field: Callable[..., Any],
    y0: Any,
    ts: Any,
    *,
    solver: Solver | str = "tsit5",
    controller: Controller | None = None,
    gradient: Gradient | str = "checkpointed",
    engine: Fused | str | Attempt = "eager",
    batching: str | None = "shared",
    args: tuple[Any, ...] = (),
    inputs: Any = None,
    doses: Dose | None = None,
    rtol: Any = None,
    atol: Any = None,
    step: float | None = None,
    max_step: float | None = None,
    step_ts: Any = None,
    jump_ts: Any = None,
    dense: bool = False,
    save: Any = None,
    events: Event | Sequence[Event] | None = None,
    max_events: int = 1000,
    max_steps: int = 100_000,
    throw: bool = True,
    progress: bool | Callable[[float, float, int], None] = False,
    observer: Observer | None = None,
) -> Solution:
    """Solves dy/dt = f(t, y, *args) from y(ts[0]) = y0 and returns y at all `ts`, differentiable.

    Args:
        field: `f(t, y, *args)`, any callable; `t` a 0-d tensor, or (B, 1, …, 1) with per-sample batching, in the real
            dtype of `y`; returns the structure, shapes and dtypes of `y`. Never evaluated outside [ts[0], ts[-1]].
        y0: tensor, or pytree of tensors, floating point or complex, on one device.
        ts: times, strictly increasing or strictly decreasing: a tensor (T,) or a sequence. With per-sample batching
            also (B, T), NaN (or the last time repeated) as padding at the end, or a list of B vectors.
        solver: a solver or its name.
        controller: `FixedStep` or `PID`; None: `PID(rtol, atol)`, or `FixedStep` where `step` or `max_step` is given.
        gradient: a gradient method or its name.
        engine: "eager"; or "fused": the whole solve in one native call, of a field that can be traced, with an explicit
            solver and per-sample batching (it is built once, with a C++ compiler), or `Fused` with settings; or "auto":
            that one where it can be, else "eager", and a line in the log "isocline" says why; or "unrolled": fixed steps as
            plain operations in a row, for `torch.compile(fullgraph=True)`; what `torch.export` and ONNX see, but with
            "fused" and a module.
        batching: "shared": one step size for the whole state, whatever its shape. "per_sample": the first dimension
            of every tensor is a batch, each sample has its own times, steps, error norm and end. None, with
            engine="auto": samples step on their own where the fused engine takes them, with the statistics and the status
            of the whole batch; else "shared".
        args: further arguments of `f`, a tuple of anything; tensors in it get gradients.
        inputs: signals u(t): a `ZeroOrderHold`, `LinearInterpolation` or `CubicHermite`, or a pytree of them. The field
            is then called as `f(t, y, u, *args)`, u the values at t in the same structure; their knots are stepped to.
        rtol, atol: shorthand for `PID(rtol, atol)`; default 1e-5, 1e-6 for 32-bit states, 1e-7, 1e-9 for 64-bit.
        step, max_step: shorthand for `FixedStep(step)` and `FixedStep(max_step=…)`.
        step_ts: further times to step to exactly.
        jump_ts: times where `f` jumps: stepped to exactly, `f` asked just before and just after.
        dense: keep all steps, for `Solution.at` and `Solution.accepted_ts`.
        save: further outputs, at other times, after steps, or of functions of the state: a `Save` or a dict of them; they
            are `Solution.saved`.
        doses: times at which the state jumps by known amounts, a `Dose`. An observation there shows the state before, and
            a condition that a dose carries across zero is no event.
        events: an `Event` or a sequence of them. At a terminal one the solve ends (of that sample): later rows of `ys`
            are NaN, and `Solution.event_ys[-1]` is the state. Where one resets the state, an observation at exactly
            that time shows the state before.
        max_events: (of each sample) before giving up.
        max_steps: attempted steps (of each sample) before giving up.
        throw: raise `SolveError` when the end is not reached; False returns what there is, NaN beyond.
        progress: True shows a line on the terminal; or a callable `(fraction, t, accepted steps)`.
        observer: functions called at every step tried, accepted, rejected; with shared batching.

    Returns:
        A `Solution`. Its `ys` (and `event_ts`, `event_ys`) are differentiable with respect to y0, every parameter
        `f` reaches, `args`, the values of `inputs`, `doses` and all `ts`.

    Raises:
        TypeError, ValueError: naming the argument, what came, what was expected, what to try.
        SolveError: the solve stopped early; it says where, what, the likely cause, and carries the partial solution.

    Example:
        >>> import torch, isocline
        >>> k = torch.tensor(0.5, requires_grad=True)
        >>> sol = isocline.solve(lambda t, y: -k * y, torch.ones(1), [0.0, 2.0])
        >>> sol.ys[-1].sum().backward()
        >>> round(sol.ys[-1].item(), 4), round(k.grad.item(), 4)
        (0.3679, -0.7358)
    """
    if engine == "auto" and save is None and not exporting():
        given = {
            name: value for name, value in locals().items() if name not in ("field", "y0", "ts", "engine", "batching")
        }
        # Doses, events and some signals of all samples are told from those of each by the batching alone.
        told = doses is None and events is None and of_each(inputs, y0)
        chosen = batching if told else batching or "shared"
        return either(lambda e, b: solve(field, y0, ts, engine=e, batching=b, **given), field, y0, ts, chosen)
    if save is not None:
        given = {name: value for name, value in locals().items() if name not in ("field", "y0", "ts", "save", "dense")}
        return solve_and_save(lambda ts, dense: solve(field, y0, ts, dense=dense, **given), ts, dense, save)
    if not callable(field):
        raise TypeError(f"field: expected a callable f(t, y, *args), got {type(field).__name__}")
    attempt = engine if isinstance(engine, Attempt) else None
    fused = engine if isinstance(engine, Fused) else Fused() if attempt is not None or engine == "fused" else None
    engine = "fused" if fused is not None else engine
    batching = "shared" if batching is None else batching
    if engine not in ENGINES:
        raise ValueError(f"engine: {unknown(engine, ENGINES)}")
    if batching not in ("shared", "per_sample"):
        raise ValueError(f"batching: {unknown(batching, ['shared', 'per_sample'])}")
    if not isinstance(args, tuple):
        raise TypeError(f"args: expected a tuple, got {type(args).__name__}; write args=(x,) for a single argument")
    if not (isinstance(max_steps, int) and max_steps > 0):
        raise ValueError(f"max_steps={max_steps!r}, expected a positive integer")
    if observer is not None and batching == "per_sample":
        raise ValueError("observer: sees steps of the whole state; use batching='shared', or progress")
    if torch.compiler.is_compiling() and fits(
        field, engine, {"batching": batching, "inputs": inputs, "doses": doses, "events": events, "dense": dense}
    ):
        options = (solver, controller, gradient, rtol, atol, step, max_step, step_ts, max_steps, throw)
        return solve_in_graph(lambda f, s, d, g: _told(f, s, d, g, *options), field, y0, ts, args)
    method = for_field(resolve_solver(solver), field)
    if engine == "unrolled" or exporting():
        return solve_unrolled(
            field,
            y0,
            ts,
            method,
            resolve_controller(controller, method, rtol, atol, step, max_step),
            resolve_gradient(gradient),
            batching,
            args,
            step_ts,
            max_steps,
            inputs=inputs,
            doses=doses,
            events=events,
            jump_ts=jump_ts,
            dense=dense,
            progress=progress,
            observer=observer,
        )
    way_back = under_transforms(resolve_gradient(gradient), method)
    if engine == "fused":
        check(y0, batching, way_back)
    layout = Layout.of(y0, per_sample=batching == "per_sample")
    times = Times.of(ts, layout)
    vector_field, kinks = drive(field, inputs, layout, args)
    if attempt is not None:
        vector_field.optional, vector_field.common_times = True, times.given if attempt.alone else None
    problem = Problem(
        vector_field,
        times.plain,
        method,
        resolve_controller(controller, method, rtol, atol, step, max_step),
        step_ts=[*extra_times("step_ts", step_ts), *kinks.step_ts],
        jump_ts=[*extra_times("jump_ts", jump_ts), *kinks.jump_ts],
        row_step_ts=kinks.row_step_ts,
        row_jump_ts=kinks.row_jump_ts,
        max_steps=max_steps,
        dense=dense,
        progress=_bar() if progress is True else (progress or None),
        observer=observer,
    )
    flat = layout.flatten(y0).contiguous()
    if flat.numel() == 0:
        return _empty(problem, times, flat)
    start = torch.tensor(times.plain[0], dtype=torch.float64) if layout.batch is None else times.plain[:, 0]
    method.check(vector_field, start, flat)
    conditions = checked_events(events, max_events, layout, args)
    if doses is not None:
        if not isinstance(doses, Dose):
            raise TypeError(f"doses: expected a Dose, got {type(doses).__name__}; write doses=Dose(ts, amounts)")
        doses.check(layout)
    resolved = None
    nothing_else = all(x is None for x in (inputs, doses, step_ts, jump_ts, events, observer))
    if fused is not None and nothing_else and dense is False and progress is False:
        resolved = Resolved.of(problem, way_back, attempt, fused, throw)
    if conditions is None:
        trajectory, log = _run(problem, way_back, times, flat, doses, fused), None
    else:
        trajectory, log = _run_with_events(problem, way_back, times, flat, conditions, max_events, doses, fused)
    solution = _solution(problem, times, trajectory, log)
    if dense:
        solution._dense, solution.accepted_ts = dense_path(problem, trajectory, flat)
    report(problem, trajectory, flat.detach(), solution, throw)
    solution._alike = resolved
    return solution


def _solution(problem: Problem, times: Times, trajectory: Trajectory, log: EventLog | None = None) -> Solution:
    """What is returned, of what the engine found."""
    layout = problem.field.layout
    shaped = layout.plain and trajectory.ys.dim() > trajectory.y_end.dim() + 1
    ys = trajectory.ys if shaped else layout.unflatten(trajectory.ys)
    solution = Solution(times.given, ys, trajectory.stats, trajectory.status)
    if log is not None:
        solution.event_ts, solution.event_index, solution.event_ys = log.ts, log.index, layout.unflatten(log.ys)
    return solution


def _told(
    field: Any, shape: Any, dtype: Any, given: Any, solver: Any, controller: Any, gradient: Any, rtol: Any, atol: Any, step: Any,
    max_step: Any, step_ts: Any, max_steps: int, throw: bool,
) -> Any:  # fmt: skip
    """`describe`, of what `solve` was given."""
    method = for_field(resolve_solver(solver), field)
    check(None, "per_sample", resolve_gradient(gradient))
    rule = resolve_controller(controller, method, rtol, atol, step, max_step)
    return describe(field, shape, dtype, given, method, rule, extra_times("step_ts", step_ts), max_steps, throw)


vars(_told)["_dynamo_marked_constant"] = True  # as torch.compiler.assume_constant_result does, which imports Dynamo


def _run(
    problem: Problem,
    way_back: Gradient,
    times: Times,
    y0: Tensor,
    doses: Dose | None = None,
    fused: Fused | None = None,
) -> Trajectory:
    run = way_back.run if torch.is_grad_enabled() else eager.integrate
    if fused is not None:
        run = _fused(way_back, fused)
    if doses is not None:
        run = doses.around(run)
    if not torch.is_grad_enabled():
        return run(problem, y0.detach())
    ts = times.differentiable
    if ts is None:
        return run(problem, y0)
    trajectory = run(problem, attach_start(problem.field, _inside(problem, ts[0], ts[-1]), y0))
    # What is observed at t0 is y0 itself, which does not move with t0.
    here = (ts == ts[0]).reshape((*ts.shape, 1))
    ys = trajectory.ys.reshape(-1, *y0.shape)
    trajectory.ys = attach_observations(problem.field, _inside(problem, ts, ts[0]), torch.where(here, y0, ys))
    return trajectory


def _fused(way_back: Gradient, engine: Fused) -> Callable[[Problem, Tensor], Trajectory]:
    """Solves by the fused engine, differentiable where a graph is wanted."""
    from isocline.gradients.fused import integrate, solve_fused  # with what traces fields

    graph = torch.is_grad_enabled()
    return partial(solve_fused, way_back=way_back, engine=engine) if graph else partial(integrate, engine=engine)


def _inside(problem: Problem, t: Tensor, towards: Tensor) -> Tensor:
    """Where f is asked for the gradient of `t`: at a jump just beside it."""
    return beside(problem.field, t, towards.detach(), problem.jump_ts, problem.row_jump_ts)


def _run_with_events(
    problem: Problem,
    way_back: Gradient,
    times: Times,
    y0: Tensor,
    conditions: Conditions,
    max_events: int,
    doses: Dose | None = None,
    fused: Fused | None = None,
) -> tuple[Trajectory, EventLog]:
    if not torch.is_grad_enabled():
        plain = eager.integrate if fused is None else _fused(way_back, fused)
        plain = plain if doses is None else doses.around(plain)
        return solve_in_pieces(problem, plain, None, y0.detach(), conditions, max_events)
    ts = times.differentiable
    pieces = itertools.count()

    def run(piece: Problem, start: Tensor) -> Trajectory:
        method, done = way_back, next(pieces)
        if isinstance(method, Checkpointed):
            # The graphs kept by all pieces together stay below twice the budget.
            method = replace(method, graphs=method.graphs >> done)
        return method.run(piece, start)

    whole = run if fused is None else _fused(way_back, fused)
    whole = whole if doses is None else doses.around(whole)
    trajectory, log = solve_in_pieces(problem, whole, ts, y0, conditions, max_events)
    if ts is not None:
        trajectory.ys = attach_observations(problem.field, _inside(problem, ts, ts[0]), trajectory.ys)
    return trajectory, log


def checked_events(events: Any, max_events: Any, layout: Layout, args: tuple[Any, ...]) -> Conditions | None:
    """The conditions of `events`; None where there are none."""
    if not (isinstance(max_events, int) and max_events > 0):
        raise ValueError(f"max_events={max_events!r}, expected a positive integer")
    several = [events] if isinstance(events, Event) else list(events or ())
    for i, event in enumerate(several):
        if not isinstance(event, Event):
            raise TypeError(f"events[{i}]: expected an Event, got {event!r}; write Event(condition)")
    return Conditions(several, layout, args) if several else None


def extra_times(name: str, value: Any) -> list[float]:
    """`step_ts` or `jump_ts` as floats."""
    if value is None:
        return []
    times = torch.as_tensor(value, dtype=torch.float64).detach()
    if times.dim() != 1 or not bool(times.isfinite().all()):
        raise ValueError(f"{name}: expected a vector of finite times, got {value!r}")
    return times.tolist()


def unknown(name: Any, options: Sequence[str]) -> str:
    """Message for a name that is none of `options`, with the nearest."""
    near = difflib.get_close_matches(str(name).lower(), options, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {name!r}, expected one of {', '.join(sorted(options))}{guess}"


def resolve_solver(solver: Any) -> RungeKutta:
    """A solver from a solver, its class or its name."""
    if isinstance(solver, str):
        if solver not in Solver.registry:
            raise ValueError(f"solver: {unknown(solver, list(Solver.registry))}")
        solver = Solver.named(solver)
    if isinstance(solver, type) and issubclass(solver, Solver):
        solver = solver()
    if not isinstance(solver, RungeKutta):
        raise TypeError(f"solver: expected a solver or its name, got {solver!r}")
    return solver


def resolve_gradient(gradient: Any) -> Gradient:
    """A gradient method from one, its class or its name."""
    if isinstance(gradient, str):
        if gradient not in Gradient.registry:
            raise ValueError(f"gradient: {unknown(gradient, list(Gradient.registry))}")
        return Gradient.registry[gradient]()
    if isinstance(gradient, type) and issubclass(gradient, Gradient):
        return gradient()
    if not isinstance(gradient, Gradient):
        raise TypeError(f"gradient: expected a gradient method or its name, got {gradient!r}")
    return gradient


def resolve_controller(
    controller: Any, solver: RungeKutta, rtol: Any, atol: Any, step: float | None, max_step: float | None
) -> Controller:
    """One controller from the controller or its shorthands; refuses contradictions."""
    shorthands = {"rtol": rtol, "atol": atol, "step": step, "max_step": max_step}
    given = [name for name, value in shorthands.items() if value is not None]
    if controller is not None:
        if not isinstance(controller, Controller):
            raise TypeError(f"controller: expected FixedStep or PID, got {controller!r}")
        if given:
            raise ValueError(
                f"controller and {', '.join(given)} were given: put {given[0]} into the controller, or drop it"
            )
    elif step is not None or max_step is not None:
        if rtol is not None or atol is not None:
            raise ValueError(
                f"{' and '.join(given)}: fixed steps have no tolerance; give step or max_step, or rtol and atol"
            )
        controller = FixedStep(step, max_step)
    else:
        controller = PID(rtol, atol)
    if isinstance(controller, PID) and not solver.error_order:
        name = snake_case(type(solver).__name__)
        raise ValueError(
            f"solver={name!r} has no error estimate and cannot choose its steps: give step=… or max_step=…, or take an adaptive "
            f"solver such as 'tsit5'"
        )
    return controller


def _empty(problem: Problem, times: Times, y0: Tensor) -> Solution:
    """A state without numbers: nothing to integrate."""
    count = times.plain.shape[1] if isinstance(times.plain, Tensor) else len(times.plain)
    status: Any = Status.SUCCESS
    if problem.field.layout.batch is not None:
        status = torch.zeros(len(y0), dtype=torch.int64, device=y0.device)
    return Solution(times.given, problem.field.layout.unflatten(y0.expand(count, *y0.shape)), Stats(), status)


def _bar() -> Callable[[float, float, int], None]:
    """A line on the terminal, at most ten times a second."""
    last = [0.0]

    def show(done: float, t: float, steps: int) -> None:
        now = time.monotonic()
        if now - last[0] > 0.1 or done >= 1:
            last[0] = now
            print(f"\rsolve {done:4.0%}  t = {t:.6g}  {steps} steps", end="\n" if done >= 1 else "", file=sys.stderr)

    return show
