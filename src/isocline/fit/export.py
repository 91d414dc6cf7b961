"""A run's model and its solver as source code, in the units of the table."""

from __future__ import annotations

from pathlib import Path

import torch

from isocline import export as sources
from isocline.fit.errors import UserError
from isocline.fit.fitted import Fitted
from isocline.fit.flow import ATOL, MAX_STEPS, RTOL
from isocline.solvers import Solver

TARGETS = {"c": "model.c", "js": "model.mjs"}


def export(folder: str | Path, target: str, *, solver: str = "tsit5") -> str:
    """The source text of a run's model: its states and times are the table's, its numbers those of `predict`.

    Args:
        folder: of the run.
        target: "c" (one C99 file) or "js" (an ES module).
        solver: an adaptive method.

    Raises:
        UserError: for what is the user's to mend.
    """
    if target not in TARGETS:
        raise UserError(f"--target {target}: expected {' or '.join(TARGETS)}")
    if solver not in Solver.registry or not Solver.named(solver).error_order:
        what = "is no solver" if solver not in Solver.registry else "cannot choose its steps"
        raise UserError(f"--solver {solver}: it {what}; expected an adaptive one such as tsit5, dopri5 or bosh3")
    fitted = Fitted.read(Path(folder))
    try:
        return source(fitted, target, solver)
    except ValueError as error:
        raise UserError(f"{folder}: the model cannot be exported: {error}") from error


def source(fitted: Fitted, target: str, solver: str = "tsit5") -> str:
    """The text; ValueError where there is none."""
    scales, config = fitted.scales, fitted.config
    takes = getattr(fitted.field, "takes", ())
    if takes:
        what = f"its inputs {', '.join(map(repr, config.inputs))}" if "u" in takes else "the time in its equations"
        raise ValueError(f"{what}: the solver of an exported file has no signals; forecast with isocline predict")
    coordinates = sources.Coordinates(
        tuple(s.kind == "log" for s in scales.states),
        tuple(s.mean for s in scales.states),
        tuple(s.sd for s in scales.states),
        scales.tau,
    )
    label = fitted.clock.label
    write = sources.to_c if target == "c" else sources.to_js
    return write(
        fitted.field,
        torch.zeros(len(config.every_state), dtype=torch.float64),
        solver=solver,
        rtol=RTOL,
        atol=ATOL,
        max_steps=MAX_STEPS,
        name=f"{fitted.folder.resolve().name}, fitted to {fitted.table}",
        states=config.every_state,
        time=f"{config.time} [{label}]" if label else str(config.time),
        coordinates=coordinates,
    )
