"""Solving until an event, for `odeint` and `odeint_adjoint`.

torchdiffeq's events have no final time. isocline's solves do, so the search goes from window to window, each as long
as all before it, until one holds the event. A window begins where the last step of the one before began: that step was
cut short, and an event at its very end, where the sign is rounding, is found by the step that goes over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.compat.torchdiffeq import options as settings
from isocline.compat.torchdiffeq.methods import Method
from isocline.compat.torchdiffeq.run import observer
from isocline.compat.torchdiffeq.state import State
from isocline.control import FixedStep, Observer
from isocline.events import Conditions, Event
from isocline.gradients import Backprop
from isocline.gradients.event_time import attach_event
from isocline.solution import SolveError, Status
from isocline.solve import solve

FIXED_LIMIT = 20_000  # steps of a fixed-step method without an event: torchdiffeq's
ADAPTIVE_LIMIT = 100_000  # of the others, where max_num_steps sets no limit: without one the search may never end


class Crossing:
    """`event_fn` as one number that crosses zero where the first of its entries does.

    Several entries are turned positive at the start; then the least of them is that number. An entry that starts at
    zero has the sign it is about to take.
    """

    def __init__(
        self,
        event_fn: Callable[..., Any],
        func: Callable[..., Any],
        state: State,
        y0: Any,
        t0: Tensor,
        direction: float,
    ) -> None:
        self.event_fn = event_fn
        self.conditions = Conditions([Event(self)], state.layout, ())
        self.func, self.state = state.field(func), state
        self.signs: Tensor | None = None
        with torch.no_grad():
            first = event_fn(t0, y0)
            if not isinstance(first, Tensor) or first.numel() <= 1:
                return
            signs = first.sign().reshape(-1)
            y = state.layout.flatten(y0)
            for i in (signs == 0).nonzero().squeeze(1).tolist():
                entry = Event(lambda t, y, i=i: event_fn(t, y).reshape(-1)[i])
                rate = Conditions([entry], state.layout, ()).rate(0, t0.double(), y, self.slope(t0, y))
                signs[i] = 1.0 if rate * direction >= 0 else -1.0
            self.signs = signs

    def __call__(self, t: Tensor, y: Any) -> Any:
        c = self.event_fn(t, y)
        return c if self.signs is None else (c.reshape(-1) * self.signs).amin()

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        """f on the flat state."""
        layout = self.state.layout
        return layout.flatten(self.func(t.to(layout.time_dtype), layout.unflatten(y)), "func")

    def attach(self, t: Tensor, y: Any) -> tuple[Tensor, Any]:
        """Time and state of the event, found without a graph, made differentiable; `y` has the graph of a fixed time."""
        flat = self.state.layout.flatten(y)
        if not torch.is_grad_enabled():
            return t, y

        def rates(time: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            slope = self.slope(time, state)
            return slope, self.conditions.rate(0, time, state, slope)

        c = self.conditions.value(0, t, flat)
        t, flat = attach_event(rates, t, flat, c, torch.ones_like(t, dtype=torch.bool))
        return t, self.state.layout.unflatten(flat)


class Pace:
    """Where the last step began, and how long the last two are: what the next window begins with."""

    def __init__(self) -> None:
        self.last = self.before = 0.0
        self.t, self.y = math.nan, None

    def watch(self, other: Observer | None) -> Observer:
        """An observer that also tells `other`."""
        other = other or Observer()

        def accepted(t: float, y: Any, h: float) -> None:
            self.before, self.last = self.last, abs(h)
            self.t, self.y = t, y
            if other.accepted is not None:
                other.accepted(t, y, h)

        return replace(other, accepted=accepted)

    @property
    def step(self) -> float:
        """The longer of the last two steps: the end of a window cuts one short."""
        return max(self.last, self.before)


def until_event(
    func: Callable[..., Any],
    state: State,
    y0: Any,
    t: Tensor,
    crossing: Crossing,
    rtol: Any,
    atol: Any,
    method: Method,
    options: Mapping[str, Any],
    callbacks: Mapping[str, Callable[..., Any]],
) -> tuple[Tensor, Any]:
    """Time and state of the first event from t[0] on, in the direction of t[1]; differentiable.

    Args: as of `run.integrate`, and `crossing` made of the event function.

    Raises:
        ValueError: for SciPy's methods, and for a method of fixed steps without `step_size`.
        SolveError: where none is found within `max_num_steps`, or 20 000 steps of a fixed-step method.
    """
    if method.scipy:
        raise ValueError("method='scipy_solver' does not find events; use 'dopri5' or 'tsit5'")
    search = _adaptive if method.adaptive else _fixed
    pace = Pace()
    common = {
        "solver": method.make(options),
        "gradient": Backprop(),
        "observer": pace.watch(observer(callbacks, state)),
        "events": Event(crossing),
    }
    field = state.field(func)
    start, direction = t[0].double(), 1.0 if t[1] > t[0] else -1.0
    y, used, solution = y0, 0, None
    windows = search(state, rtol, atol, options, abs((t[1] - t[0]).item()), pace)
    while True:
        length, steps = windows(start.item(), direction, used)
        end = start.detach() + direction * length
        if not math.isfinite(end.item()):
            break
        solution = solve(field, y, torch.stack((start, end)), **common, **steps)
        if solution.status is Status.EVENT:
            return solution.event_ts[-1], pytree.tree_map(lambda x: x[-1], solution.event_ys)
        used += solution.stats.accepted + solution.stats.rejected
        if pace.t != start.item():
            y, start = pace.y, torch.full_like(end, pace.t)
    assert solution is not None
    raise SolveError(f"no event up to t = {start.item():.3g}: does event_fn change sign?", Status.MAX_STEPS, solution)


def _adaptive(
    state: State, rtol: Any, atol: Any, options: Mapping[str, Any], length: float, pace: Pace
) -> Callable[[float, float, int], tuple[float, dict[str, Any]]]:
    """Windows for a method that chooses its steps: (start, direction, steps used) to length and arguments of `solve`."""
    arguments = settings.adaptive(state, rtol, atol, options, 1)
    budget, begun = int(options.get("max_num_steps", ADAPTIVE_LIMIT)), 0.0

    def window(start: float, direction: float, used: int) -> tuple[float, dict[str, Any]]:
        nonlocal begun
        controller = arguments["controller"]
        if begun:
            controller = replace(controller, first_step=pace.step)
        if used >= budget:
            return math.inf, {}
        size = max(length, begun, 16 * pace.step)
        begun += size
        return size, {**arguments, "controller": controller, "max_steps": budget - used}

    return window


def _fixed(
    state: State, rtol: Any, atol: Any, options: Mapping[str, Any], length: float, pace: Pace
) -> Callable[[float, float, int], tuple[float, dict[str, Any]]]:
    """The same for fixed steps: a window is a whole number of them."""
    if options.get("step_size") is None:
        raise ValueError("event_fn: a fixed-step method needs options={'step_size': …} to go on until the event")
    step = float(options["step_size"])
    size = 64

    def window(start: float, direction: float, used: int) -> tuple[float, dict[str, Any]]:
        nonlocal size
        size = max(1, min(2 * size, FIXED_LIMIT - used))
        if used >= FIXED_LIMIT:
            return math.inf, {}
        arguments: dict[str, Any] = {"controller": FixedStep(step), "max_steps": size + 1}
        if options.get("perturb", False):
            arguments["jump_ts"] = [start + direction * k * step for k in range(size + 1)]
        return size * step, arguments

    return window


def event_of(event_fn: Callable[..., Any], func: Callable[..., Any], state: State, y0: Any, t: Tensor) -> Crossing:
    """The event, after a look at `t`: its second entry says in which direction to search."""
    if len(t) != 2:
        raise ValueError(
            f"t: {len(t)} times; with event_fn expected 2, the start and any other in the direction of search"
        )
    if not bool(t.isfinite().all()) or bool(t[0] == t[1]):
        raise ValueError(f"t: {t.tolist()}, expected two different finite times")
    return Crossing(event_fn, func, state, y0, t[0].detach().to(state.layout.time_dtype), 1.0 if t[1] > t[0] else -1.0)


def states_at_event(y0: Any, t: Tensor, when: Tensor, y: Any) -> tuple[Tensor, Any]:
    """What torchdiffeq returns: the event's time as `t` is, and the states at the start and there."""
    return when.to(t), pytree.tree_map(lambda a, b: torch.stack((a, b)), y0, y)
