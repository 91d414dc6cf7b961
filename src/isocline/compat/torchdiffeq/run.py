"""The one place where a call in torchdiffeq's terms becomes one of `isocline.solve`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.compat.torchdiffeq import options as settings
from isocline.compat.torchdiffeq.methods import Method, method_named
from isocline.compat.torchdiffeq.state import State
from isocline.control import FixedStep, Observer
from isocline.gradients import Backprop
from isocline.solution import Solution
from isocline.solve import solve

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


def checked(func: Any, y0: Any, t: Any, method: Any, options: Any) -> tuple[State, Tensor, Method, dict[str, Any]]:
    """The arguments all four functions share, checked; options copied, warned of."""
    if not callable(func):
        raise TypeError(f"func: expected a callable func(t, y), got {type(func).__name__}")
    state, chosen, options = State(y0), method_named(method), dict(options or {})
    chosen.check(options)
    return state, settings.times(t).to(state.layout.device), chosen, options


def integrate(
    func: Callable[..., Any],
    state: State,
    y0: Any,
    t: Tensor,
    rtol: Any,
    atol: Any,
    method: Method,
    options: Mapping[str, Any],
    callbacks: Mapping[str, Callable[..., Any]],
) -> Any:
    """States at `t` in the user's form, by isocline.

    Args:
        func: the user's, or one derived from it.
        state: form of `y0`.
        y0, t, rtol, atol, options: as `odeint` takes them, checked.
        method: not SciPy's.
        callbacks: those of `CALLBACKS` that are wanted.
    """
    unsupported = [] if method.adaptive else [name for name in callbacks if name != "callback_step"]
    if unsupported:
        warnings.warn(f"Solver {method.name!r} does not support callbacks {unsupported}", stacklevel=3)
    common: dict[str, Any] = {
        "solver": method.make(options),
        "gradient": Backprop(),
        "observer": observer(callbacks, state),
    }
    field = state.field(func)
    if method.adaptive:
        return solve(field, y0, t, **common, **settings.adaptive(state, rtol, atol, options, len(t) - 1)).ys
    interp = options.get("interp", "linear")
    if interp not in ("linear", "cubic"):
        raise ValueError(f"interp={interp!r}, expected 'linear' or 'cubic'")
    grid = settings.Grid.of(t, options, func, y0)
    steps = t.detach().double().tolist() if grid is None else grid.steps
    common |= {"controller": FixedStep(max_step=math.inf), "step_ts": steps, "max_steps": len(steps)}
    if options.get("perturb", False):
        # Every end of a step is a jump: asked just before it by the step that ends there, just after by the next.
        common["jump_ts"] = steps
    if grid is None or not grid.between:
        return solve(field, y0, t, **common).ys
    return interpolate(field, solve(field, y0, grid.asked, **common), grid, t, interp)


def interpolate(field: Callable[..., Any], solution: Solution, grid: settings.Grid, t: Tensor, interp: str) -> Any:
    """States at `t` from those at the grid points beside them: a straight line, or Hermite's cubic."""
    left, right = (torch.tensor(x, device=t.device) for x in (grid.left, grid.right))
    start, end = grid.asked[left], grid.asked[right]
    width = torch.where(left == right, 1.0, end - start)
    theta = torch.where(left == right, 0.0, (t.double() - start) / width)
    slopes: Any = solution.ys
    if interp == "cubic":
        slopes = _slopes(field, solution, grid)

    def between(ys: Tensor, fs: Tensor) -> Tensor:
        real = ys.real.dtype if ys.is_complex() else ys.dtype
        column = (-1, *[1] * (ys.dim() - 1))
        x, h = (v.to(real).reshape(column) for v in (theta, width))
        a, b = ys[left], ys[right]
        line = a + x * (b - a)
        if interp == "linear":
            return line
        # Hairer, Nørsett & Wanner I, II.6, eq. 6.7
        return line + x * (x - 1) * ((1 - 2 * x) * (b - a) + (x - 1) * h * fs[left] + x * h * fs[right])

    return pytree.tree_map(between, solution.ys, slopes)


def _slopes(field: Callable[..., Any], solution: Solution, grid: settings.Grid) -> Any:
    """`field` at the grid points beside an observation, zero elsewhere; time first."""
    beside = {i for pair in zip(grid.left, grid.right, strict=True) if pair[0] != pair[1] for i in pair}
    rows = []
    for i in range(len(grid.asked)):
        y = pytree.tree_map(lambda x, i=i: x[i], solution.ys)
        first = pytree.tree_leaves(y)[0]
        clock = grid.asked[i].to(torch.empty(0, dtype=first.dtype).abs().dtype)
        rows.append(field(clock, y) if i in beside else pytree.tree_map(torch.zeros_like, y))
    return pytree.tree_map(lambda *xs: torch.stack(xs), *rows)


def callbacks_of(func: Any, suffix: str = "") -> dict[str, Callable[..., Any]]:
    """The callbacks `func` carries as attributes."""
    found = {name: getattr(func, name + suffix, None) for name in CALLBACKS}
    return {name: callback for name, callback in found.items() if callback is not None}


def observer(callbacks: Mapping[str, Callable[..., Any]], state: State) -> Observer | None:
    """torchdiffeq's callbacks, `(t, y, |h|)` in tensors, as an isocline observer."""
    if not callbacks:
        return None
    device, clock = state.layout.device, state.layout.clock_dtype

    def adapted(callback: Callable[..., Any] | None) -> Callable[[float, Any, float], None] | None:
        if callback is None:
            return None

        def call(t: float, y: Any, h: float) -> None:
            callback(torch.tensor(t, dtype=clock, device=device), y, torch.tensor(abs(h), dtype=clock, device=device))

        return call

    return Observer(*(adapted(callbacks.get(name)) for name in CALLBACKS))
