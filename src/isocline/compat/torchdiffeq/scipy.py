"""torchdiffeq's `scipy_solver`: the six methods of scipy.integrate.solve_ivp.

SciPy is asked for only here, and only when it is used.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from isocline.compat.torchdiffeq.methods import Method
from isocline.compat.torchdiffeq.state import State
from isocline.control import PID
from isocline.control.initial_step import Tolerance
from isocline.solution import Solution, SolveError, Stats, Status

SOLVERS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")


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
    if solver not in SOLVERS:
        raise ValueError(f"options: solver={solver!r}, expected one of {', '.join(SOLVERS)}")
    layout = state.layout
    with torch.no_grad():
        start = layout.flatten(y0)
        times: list[float] = t.detach().double().tolist()
        if len(times) == 1 or not start.numel():
            return layout.unflatten(start.expand(len(times), -1))
        tolerance = Tolerance(PID(state.tolerance("rtol", rtol), state.tolerance("atol", atol)), layout)
        settings = {"max_step": float(options.get("max_step", float("inf")))}
        if solver == "LSODA":
            settings["min_step"] = float(options.get("min_step", 0.0))
        field = state.field(func)

        def flat(clock: float, y: Any) -> Any:
            buffer = torch.as_tensor(y, dtype=layout.dtype, device=layout.device)
            time = torch.tensor(clock, dtype=layout.time_dtype, device=layout.device)
            return layout.flatten(field(time, layout.unflatten(buffer)), "func").double().cpu().numpy()

        result = _solve_ivp()(
            flat,
            (times[0], times[-1]),
            start.double().cpu().numpy(),
            t_eval=times,
            method=solver,
            rtol=_plain(tolerance.rtol),
            atol=_plain(tolerance.atol),
            **settings,
        )
        reached = torch.as_tensor(result.y.T, dtype=layout.dtype, device=layout.device)
        rows = start.new_full((len(times), len(start)), torch.nan)
        rows[: len(reached)] = reached
        ys = layout.unflatten(rows)
    if not result.success or not bool(reached.isfinite().all()):
        status = Status.NON_FINITE if result.success else Status.STEP_TOO_SMALL
        message = f"scipy_solver with {solver} stopped after {len(reached)} of {len(times)} times: {result.message}"
        raise SolveError(message, status, Solution(t, ys, Stats(evaluations=result.nfev), status, message))
    return ys


def _plain(tolerance: Any) -> Any:
    return tolerance.double().cpu().numpy() if isinstance(tolerance, Tensor) else tolerance


def _solve_ivp() -> Callable[..., Any]:
    try:
        return importlib.import_module("scipy.integrate").solve_ivp
    except ImportError as error:
        raise ImportError(
            "method='scipy_solver' needs SciPy: pip install scipy, or take one of isocline's own methods"
        ) from error
