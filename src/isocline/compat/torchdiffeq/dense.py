"""`odeint_dense`: the solution as a function of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isocline.compat.torchdiffeq import options as settings
from isocline.compat.torchdiffeq.run import callbacks_of, checked, observer
from isocline.control import FixedStep
from isocline.gradients import Backprop
from isocline.solve import solve


def odeint_dense(
    func: Callable[..., Any],
    y0: Any,
    t0: Any,
    t1: Any,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[[Any], Any]:
    """Solves from t0 to t1 and returns y as a function of time.

    torchdiffeq's takes "dopri5", increasing time, a tensor state and one time at a call; here every method but SciPy's
    and every state will do, time may decrease, and a vector of times gives a leading axis.

    Args:
        func, y0, rtol, atol, method, options: as for `odeint`.
        t0, t1: 0-d tensors or numbers.

    Returns:
        `y(t)` for t between t0 and t1, differentiable as `odeint` is.

    Raises:
        ValueError: here for "scipy_solver", and by the function returned for a time outside the interval.

    Example:
        >>> import torch
        >>> y = odeint_dense(lambda t, y: -y, torch.ones(1), torch.tensor(0.0), torch.tensor(1.0))
        >>> round(y(torch.tensor(0.5)).item(), 4), y(torch.linspace(0, 1, 7)).shape
        (0.6065, torch.Size([7, 1]))
    """
    ends = [torch.as_tensor(x, dtype=None if isinstance(x, Tensor) else torch.float64).reshape(()) for x in (t0, t1)]
    state, t, chosen, options = checked(func, y0, torch.stack(ends), method, options)
    if chosen.scipy:
        raise ValueError("method='scipy_solver' has no dense output; ask odeint for the times wanted")
    steps: dict[str, Any]
    if chosen.adaptive:
        steps = settings.adaptive(state, rtol, atol, options, 1)
    else:
        grid = settings.Grid.of(t, options, func, y0)
        ends = t.detach().tolist() if grid is None else grid.steps
        steps = {"controller": FixedStep(max_step=math.inf), "step_ts": ends, "max_steps": len(ends)}
        if options.get("perturb", False):
            steps["jump_ts"] = ends
    watched = observer(callbacks_of(func), state)
    solution = solve(
        state.field(func),
        y0,
        t,
        solver=chosen.make(options),
        gradient=Backprop(),
        observer=watched,
        dense=True,
        **steps,
    )
    return solution.at
