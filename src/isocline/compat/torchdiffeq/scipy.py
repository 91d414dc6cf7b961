"""torchdiffeq's `scipy_solver`: the six methods of scipy.integrate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from isocline.compat.torchdiffeq.methods import Method
from isocline.compat.torchdiffeq.state import State
from isocline.control import PID
from isocline.solution import SolveError
from isocline.solve import solve
from isocline.solvers.scipy import METHODS, Scipy


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
    """States at `t`, detached, in double precision on the processor whatever the state's dtype and device.

    Args: as of `run.integrate`; of `options` it reads `solver`, `min_step` (of LSODA), `max_step`.

    Raises:
        ImportError: without SciPy.
        ValueError: for a solver that SciPy does not have.
        SolveError: where SciPy stops early.
    """
    if callbacks:
        warnings.warn(f"Solver {method.name!r} does not support callbacks {list(callbacks)}", stacklevel=3)
    solver = options.get("solver", "LSODA")
    if solver not in METHODS:
        raise ValueError(f"options: solver={solver!r}, expected one of {', '.join(METHODS)}")
    controller = PID(
        state.tolerance("rtol", rtol),
        state.tolerance("atol", atol),
        min_step=float(options.get("min_step", 0.0)),
        max_step=float(options.get("max_step", math.inf)),
    )
    with torch.no_grad():
        try:
            return solve(state.field(func), y0, t, solver=Scipy(solver), controller=controller).ys
        except SolveError as error:
            message = f"scipy_solver with {solver} stopped early: {error}"
            raise SolveError(message, error.status, error.solution) from error
