"""A run's model as a file for others: source code, a graph, equations, weights; in the units of the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from isocline import export as sources
from isocline._version import __version__
from isocline.fit.errors import UserError
from isocline.fit.files import POPULATION
from isocline.fit.fitted import Fitted
from isocline.fit.flow import ATOL, MAX_STEPS, RTOL
from isocline.fit.physics import Physics
from isocline.fit.population_export import of_typical
from isocline.solvers import ExplicitRungeKutta, Solver

ADAPTIVE, FIXED = (
    ("c", "js"),
    ("onnx", "torch"),
)  # targets that have a solver: one that chooses its steps, or equal steps
TARGETS = {
    "c": "model.c",
    "js": "model.mjs",
    "onnx": "model.onnx",
    "torch": "model.pt2",
    "equations": "equations.txt",
    "safetensors": "weights.safetensors",
}


@dataclass(frozen=True)
class Exported:
    """What the file holds, and what is to be known of it."""

    content: str | bytes
    note: str = ""


def export(folder: str | Path, target: str, *, solver: str | None = None) -> str | bytes:
    """A run's model as a file: text, or of "onnx", "torch" and "safetensors" bytes.

    Args:
        folder: of the run.
        target: "c" (one C99 file) or "js" (an ES module): the field and an adaptive solver, whose numbers are those of
            `predict`. "onnx" or "torch" (a program that `torch.export.load` reads without isocline): states at given times,
            y0 (batch, states), ts (times,) and of a run with inputs u (times, batch, inputs) -> (times, batch, states) in
            float64, by as many fixed steps between two times as the record's spacing needs. "equations": those of a run
            with equations, the fitted numbers in the place of the parameters. Of a population these three are of its typical
            series. "safetensors": the weights, which are of
            scaled coordinates, with scales and settings as metadata.
        solver: for "c" and "js" an adaptive method (tsit5), for "onnx" and "torch" any explicit Runge–Kutta method (rk4).

    Raises:
        UserError: for what is the user's to mend.
    """
    return exported(folder, target, solver).content


def exported(folder: str | Path, target: str, solver: str | None = None) -> Exported:
    """The same, with what is to be known of it."""
    if target not in TARGETS:
        raise UserError(f"--target {target}: expected {', '.join([*TARGETS][:-1])} or {[*TARGETS][-1]}")
    _check(target, solver)
    if (Path(folder) / POPULATION).is_file():
        return Exported(*of_typical(Path(folder), target, solver))
    fitted = Fitted.read(Path(folder))
    try:
        if target in ADAPTIVE:
            return Exported(source(fitted, target, solver or "tsit5"))
        if target in FIXED:
            from isocline.fit.graph import graph  # with what traces and writes graphs

            return Exported(*graph(fitted, target, solver or "rk4"))
        return Exported(equations(fitted) if target == "equations" else weights(fitted))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{folder}: the model cannot be exported: {error}") from error


def _check(target: str, solver: str | None) -> None:
    """UserError for a solver that the target has not."""
    if solver is None:
        return
    if target not in (*ADAPTIVE, *FIXED):
        raise UserError(f"--solver {solver}: --target {target} solves nothing; leave the option out")
    wanted: Callable[[Solver], bool] = (
        (lambda method: bool(method.error_order))
        if target in ADAPTIVE
        else (lambda method: isinstance(method, ExplicitRungeKutta))
    )
    if solver not in Solver.registry or not wanted(Solver.named(solver)):
        refused = "cannot choose its steps" if target in ADAPTIVE else "is no explicit Runge–Kutta method"
        instead = "an adaptive one such as tsit5, dopri5 or bosh3" if target in ADAPTIVE else "one such as rk4 or tsit5"
        what = "is no solver" if solver not in Solver.registry else refused
        raise UserError(f"--solver {solver}: it {what}; expected {instead}")


def named(fitted: Fitted) -> str:
    """What an exported file calls itself."""
    return f"{fitted.folder.resolve().name}, fitted to {fitted.table}"


def timed(fitted: Fitted) -> str:
    """The column of time, and what it counts."""
    label = fitted.clock.label
    return f"{fitted.config.time} [{label}]" if label else str(fitted.config.time)


def source(fitted: Fitted, target: str, solver: str = "tsit5") -> str:
    """Source code; ValueError where there is none."""
    scales, config = fitted.scales, fitted.config
    takes = getattr(fitted.field, "takes", ())
    if takes:
        timed_by = "the time in its equations" if config.equations else "the clock of its season"
        what = f"its inputs {', '.join(map(repr, config.inputs))}" if "u" in takes else timed_by
        raise ValueError(f"{what}: the solver of an exported file has no signals; forecast with isocline predict")
    coordinates = sources.Coordinates(
        tuple(s.kind == "log" for s in scales.states),
        tuple(s.mean for s in scales.states),
        tuple(s.sd for s in scales.states),
        scales.tau,
    )
    write = sources.to_c if target == "c" else sources.to_js
    return write(
        fitted.field,
        torch.zeros(len(config.every_state), dtype=torch.float64),
        solver=solver,
        rtol=RTOL,
        atol=ATOL,
        max_steps=MAX_STEPS,
        name=named(fitted),
        states=config.every_state,
        time=timed(fitted),
        coordinates=coordinates,
    )


def equations(fitted: Fitted) -> str:
    """The equations with the fitted numbers, and below, as comments, the options that fit them again from these."""
    model = fitted.field
    if not isinstance(model, Physics):
        raise ValueError(
            "its field is a network, not equations; fit with --equation, or export to c, js, onnx or torch"
        )
    own = model.equations
    lines = [f"# {named(fitted)}: by isocline {__version__}, in the table's units, over {timed(fitted)}."]
    if own.nets:
        nets = ", ".join(f"{name}(…)" for name in own.nets)
        lines.append(f"# Of {nets} the weights are not in this text: where it is read again they are fitted anew.")
    lines += own.text(values=True, digits=17).splitlines()
    if own.free:
        lines += ["#", "# To fit again from these numbers:"]
        lines += [f"#   --equation '{line}'" for line in own.text().splitlines()]
        lines += [f"#   --parameter '{line}'" for line in own.declarations()]
    return "\n".join(lines) + "\n"


def weights(fitted: Fitted) -> bytes:
    """The weights, with metadata that tells what they are of."""
    model, config, scales = fitted.field, fitted.config, fitted.scales
    told = {
        "format": "pt",
        "isocline": __version__,
        "name": named(fitted),
        "model": NETWORK,
        "states": json.dumps(config.every_state),
        "inputs": json.dumps(config.inputs),
        "time": timed(fitted),
        "scales": json.dumps(scales.to_dict()),
        "config": config.model_dump_json(),
    }
    if isinstance(model, Physics):
        told |= {
            "model": EQUATIONS,
            "equations": model.equations.text(),
            "parameters": json.dumps(model.equations.values),
        }
    return save({k: v.detach().contiguous() for k, v in model.state_dict().items()}, told)


SCALED = (
    "x = (g(y) - mean) / sd for each state y in the table's units, g the natural logarithm where its kind in scales is log and "
    "the identity where it is linear; u likewise of the inputs; s = t / tau."
)
NETWORK = (
    "dx/ds = net(z) + linear.weight z, z = (x, u). net: its layers in order, weight z + bias, with tanh between them. "
    + SCALED
)
EQUATIONS = (
    "dy/dt of equations, with the values of parameters. net(a, ...) = gain mlp((a - center) / spread), its layers in order, "
    "weight a + bias, with the activation between them. equations.raw: the free parameters in unbounded coordinates. "
    + SCALED
)
