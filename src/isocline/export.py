"""A field and its solver as source code that needs nothing else: one C99 file, or one ES module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from isocline.control import Controller
from isocline.engines.fused.emit.coordinates import Coordinates
from isocline.solve import resolve_controller, resolve_solver
from isocline.solvers import Solver

__all__ = ["Coordinates", "to_c", "to_js"]


def to_c(
    field: Callable[..., Any],
    y0: Any,
    t0: float = 0.0,
    *,
    inputs: Sequence[Tensor] = (),
    args: tuple[Any, ...] = (),
    solver: Solver | str = "tsit5",
    controller: Controller | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    step: float | None = None,
    max_steps: int = 100_000,
    prefix: str = "model",
    name: str = "A vector field",
    states: Sequence[str] = (),
    time: str = "",
    coordinates: Coordinates | None = None,
) -> str:
    """One C99 file: `<prefix>_field`, and `<prefix>_solve` with adaptive or fixed steps and states at any times.

    It computes what `isocline.solve` does with per-sample steps, to rounding, in the precision of y0 or, by a macro, in the
    other. The comment at its head says how to compile and call it.

    Args:
        field: as for `isocline.solve`, of whatever tile programs are made of (what `engine="fused"` takes). Its parameters
            are written as they are now.
        y0: one state, without a batch dimension: its shape and dtype count, and the program is compared with the field near
            it. A state of several tensors, or of more dimensions, is one array there.
        t0: where, in time.
        inputs: tensors, of one sample each, that the field is handed after y and that remain arguments of the functions
            written: one array u. Constant over a solve.
        args: further arguments of the field, written as they are.
        solver: an explicit method whose interpolant needs no further stages.
        controller, rtol, atol, step, max_steps: as for `isocline.solve`; the caller of the exported function may give others.
        prefix: of all names in the file.
        name, states, time: what the field is, a label of each state, and of time, for the comment.
        coordinates: `Coordinates`, where the field's states and time are scaled and the file is to take and give others.

    Raises:
        ValueError: naming what cannot be exported.

    Example:
        >>> import torch, isocline
        >>> source = isocline.export.to_c(isocline.nn.MLP((2, 16, 2)), torch.ones(2), prefix="spiral")
        >>> "int spiral_solve(const spiral_real y0[SPIRAL_STATES], const double *ts, int count" in source
        True
    """
    from isocline.engines.fused.emit import c

    method = resolve_solver(solver)
    steps = resolve_controller(controller, method, rtol, atol, step, None)
    return c.to_c(
        _model(field, y0, t0, inputs, args, method, steps, max_steps, name, states, time, coordinates), prefix
    )


def to_js(
    field: Callable[..., Any],
    y0: Any,
    t0: float = 0.0,
    *,
    inputs: Sequence[Tensor] = (),
    args: tuple[Any, ...] = (),
    solver: Solver | str = "tsit5",
    controller: Controller | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    step: float | None = None,
    max_steps: int = 100_000,
    name: str = "A vector field",
    states: Sequence[str] = (),
    time: str = "",
    coordinates: Coordinates | None = None,
) -> str:
    """One ES module: `field(t, y)` and `solve(y0, ts, options)`, in double precision, for a browser or node.

    Args:
        field, y0, t0, inputs, args, solver, controller, rtol, atol, step, max_steps, name, states, time, coordinates: as
            for `to_c`.

    Raises:
        ValueError: naming what cannot be exported.

    Example:
        >>> import torch, isocline
        >>> source = isocline.export.to_js(isocline.nn.MLP((2, 16, 2)), torch.ones(2))
        >>> "export function field(t, y)" in source and "export function solve(y0, ts, options = {})" in source
        True
    """
    from isocline.engines.fused.emit import js

    method = resolve_solver(solver)
    steps = resolve_controller(controller, method, rtol, atol, step, None)
    return js.to_js(_model(field, y0, t0, inputs, args, method, steps, max_steps, name, states, time, coordinates))


def _model(
    field: Callable[..., Any], y0: Any, t0: float, inputs: Sequence[Tensor], args: tuple[Any, ...],
    solver: Any, controller: Controller, max_steps: int, name: str, states: Sequence[str], time: str, coordinates: Any,
) -> Any:  # fmt: skip
    from isocline.engines.fused.emit.model import Model  # with what traces fields, which takes a second

    described = {"name": name, "states": states, "time": time, "coordinates": coordinates, "max_steps": max_steps}
    return Model.of(field, y0, t0, inputs, args, solver, controller, **described)
