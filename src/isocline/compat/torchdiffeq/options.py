"""torchdiffeq's options as isocline's controllers and times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.compat.torchdiffeq.state import State
from isocline.control import PID


def times(t: Any) -> Tensor:
    """The observation times, checked as torchdiffeq checks them.

    Raises:
        TypeError: unless it is a floating-point tensor.
        ValueError: unless it has one dimension.
    """
    if not isinstance(t, Tensor):
        raise TypeError(f"t: expected a torch.Tensor, got {type(t).__name__}; try torch.tensor(t)")
    if not t.is_floating_point():
        raise TypeError(f"t: expected a floating point tensor, got {t.dtype}; try t.double()")
    if t.dim() != 1:
        raise ValueError(f"t: shape {tuple(t.shape)}, must be one dimensional")
    return t


def adaptive(state: State, rtol: Any, atol: Any, options: Mapping[str, Any], intervals: int) -> dict[str, Any]:
    """Arguments of `solve` for a method that chooses its steps.

    Args:
        state: of the problem.
        rtol, atol: as `odeint` takes them.
        options: checked keys.
        intervals: between observations; torchdiffeq's budget of steps is for each of them.
    """
    step_t, jump_t = (_extra(name, options.get(name)) for name in ("step_t", "jump_t"))
    if len({*step_t, *jump_t}) < len(step_t) + len(jump_t):
        raise ValueError("step_t and jump_t must not have any repeated elements between them")
    first = options.get("first_step")
    smallest = float(options.get("min_step", 0.0))
    return {
        "controller": PID(
            state.tolerance("rtol", rtol),
            state.tolerance("atol", atol),
            first_step=None if first is None else float(first),
            safety=float(options.get("safety", 0.9)),
            max_factor=float(options.get("ifactor", 10.0)),
            min_factor=float(options.get("dfactor", 0.2)),
            min_step=smallest,
            force_min_step=smallest > 0,
            max_step=float(options.get("max_step", math.inf)),
            norm=state.norm(options.get("norm")),
        ),
        "step_ts": step_t,
        "jump_ts": jump_t,
        "max_steps": int(options.get("max_num_steps", 2**31 - 1)) * max(1, intervals),
    }


def _extra(name: str, value: Any) -> list[float]:
    if value is None:
        return []
    value = torch.as_tensor(value, dtype=torch.float64).detach()
    if value.dim() != 1:
        raise ValueError(f"{name}: shape {tuple(value.shape)}, expected a vector of times")
    return value.tolist()


class Grid:
    """The steps of a fixed-step method, and where the observations lie between their ends.

    An observation on a grid point is the solver's state there. One between two is interpolated from theirs, so only
    the grid points beside an observation are asked of the solver.

    Args:
        points: ends of the steps, t[0] and t[-1] included; differentiable where `t` is.
        t: observation times.

    Attributes:
        steps: all ends, as numbers.
        asked: the times asked of the solver, those of `t` itself among them.
        left, right: for each observation, the positions in `asked` of the grid points around it; equal on the grid.
    """

    def __init__(self, points: Tensor, t: Tensor) -> None:
        points, exact = points.double(), t.double()
        self.steps: list[float] = points.detach().tolist()
        wanted: list[float] = exact.detach().tolist()
        sign = 1.0 if wanted[-1] >= wanted[0] else -1.0
        places = self._snap(wanted, sign, 4 * torch.finfo(t.dtype).eps)
        self.left: list[int] = []
        self.right: list[int] = []
        asked: dict[float, Tensor] = {}
        position: dict[float, int] = {}

        def ask(time: float, source: Tensor) -> int:
            if time not in asked:
                position[time] = len(asked)
                asked[time] = source
            return position[time]

        for j, (time, k) in enumerate(zip(wanted, places, strict=True)):
            if self.steps[k] == time:
                self.left.append(ask(time, exact[j]))
                self.right.append(self.left[-1])
            else:
                self.left.append(ask(self.steps[k], points[k]))
                self.right.append(ask(self.steps[k + 1], points[k + 1]))
        self.asked = torch.stack(list(asked.values())) if self.between else t

    def _snap(self, wanted: Sequence[float], sign: float, near: float) -> list[int]:
        """For each time the last grid point not after it; one that only rounding keeps apart is moved there."""
        places, k = [], 0
        for time in wanted:
            while k + 1 < len(self.steps) and sign * (self.steps[k + 1] - time) <= 0:
                k += 1
            for i in range(k, min(k + 2, len(self.steps))):
                if abs(self.steps[i] - time) <= near * max(abs(time), abs(self.steps[i])):
                    self.steps[i], k = time, i
                    break
            places.append(k)
        return places

    @property
    def between(self) -> bool:
        """Whether some observation lies between grid points."""
        return self.left != self.right

    @staticmethod
    def of(t: Tensor, options: Mapping[str, Any], func: Callable[..., Any], y0: Any) -> Grid | None:
        """The grid the options describe; None: the observation times themselves.

        Raises:
            ValueError: for step_size and grid_constructor together, or a grid that does not span t.
        """
        step, constructor = options.get("step_size"), options.get("grid_constructor")
        if step is not None and constructor is not None:
            raise ValueError("step_size and grid_constructor are mutually exclusive arguments")
        if len(t) == 1 or (step is None and constructor is None):
            return None
        if constructor is not None:
            points = constructor(func, y0, t).to(t.device)
            if points.dim() != 1 or points[0] != t[0] or points[-1] != t[-1]:
                raise ValueError(
                    f"grid_constructor: returned {points}, expected a vector from t[0] = {t[0].item()} to t[-1] = {t[-1].item()}"
                )
            steps = points.detach().double().tolist()
            if not all((b - a) * (steps[-1] - steps[0]) > 0 for a, b in itertools.pairwise(steps)):
                raise ValueError(
                    "grid_constructor: returned a grid that is not strictly monotone; sort it, drop repeats"
                )
            return Grid(points, t)
        assert step is not None
        if not float(step) > 0:
            raise ValueError(f"step_size={step!r}, expected a positive number")
        span = (t[-1] - t[0]).detach().double().item()
        # The tolerance keeps 0.3/0.1 at three steps, in the precision of t.
        count = max(1, math.ceil(abs(span) / float(step) * (1 - torch.finfo(t.dtype).eps)))
        moves = torch.arange(count, dtype=torch.float64, device=t.device) * math.copysign(float(step), span)
        return Grid(torch.cat([t[0] + moves, t[-1:].double()]), t)
