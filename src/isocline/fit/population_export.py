"""The typical series of a population as a file for others: its equations, or their solver as source code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from isocline import export as sources
from isocline._version import __version__
from isocline.equations import Equations
from isocline.fit.config import Config
from isocline.fit.errors import UserError
from isocline.fit.files import POPULATION, read_run
from isocline.fit.flow import ATOL, MAX_STEPS, RTOL
from isocline.fit.population import equations_from
from isocline.fit.reading.column import Column


def of_typical(folder: Path, target: str, solver: str | None) -> tuple[str, str]:
    """The file, and what is to be known of it.

    Args:
        folder: of a population run.
        target: "equations", "c" or "js".
        solver: for source code, an adaptive method; None: tsit5.

    Raises:
        UserError: for another target, and equations that source code cannot hold.
    """
    if target not in ("equations", "c", "js"):
        raise UserError(
            f"--target {target}: a population, with parameters of each series, has no one model; expected equations, c or js, of "
            f"the typical series"
        )
    kept = read_run(folder)
    config = Config.make(**kept["config"])
    known = json.loads((folder / POPULATION).read_text(encoding="utf-8"))
    model = equations_from(config, config.covariates)
    model.assign({name: known["values"][name] for name in model.names})
    title = f"{folder.resolve().name}: the typical series"
    if target == "equations":
        return _equations(model, title), ""
    if model.system.inputs:
        raise UserError(
            f"--target {target}: the solver of an exported file has no signals; its inputs are {config.inputs}"
        )
    typical = _typical(known, model)
    covariates = (torch.tensor(list(typical.values()), dtype=torch.float64),) if typical else ()
    write = sources.to_c if target == "c" else sources.to_js
    try:
        content = write(
            model, _start(model, typical), args=covariates, solver=solver or "tsit5", rtol=RTOL, atol=ATOL,
            max_steps=MAX_STEPS, name=title, states=model.states, time=str(config.time),
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{folder}: the model cannot be exported: {error}") from error
    return content, _note(model, typical)


def _equations(model: Equations, title: str) -> str:
    lines = [f"# {title}: by isocline {__version__}, in the table's units."]
    lines += model.text(values=True, digits=17).splitlines()
    lines += ["#", "# To fit again from these numbers:"]
    lines += [f"#   --equation '{line}'" for line in model.text().splitlines()]
    lines += [f"#   --parameter '{line}'" for line in model.declarations()]
    return "\n".join(lines) + "\n"


def _typical(known: dict, model: Equations) -> dict[str, float]:
    """The median of each covariate over the series."""
    rows = [{Column.of(c).name: v for c, v in s["covariates"].items()} for s in known["series"].values()]
    return {name: float(np.median([row[name] for row in rows])) for name in model.system.covariates}


def _start(model: Equations, typical: dict[str, float]) -> torch.Tensor:
    """(n,) states at time 0."""
    y = torch.zeros(len(model.states), dtype=torch.float64)
    with torch.no_grad():
        for name, (value, _) in model.initial(model.evaluation(None, y, None, typical or None)).items():
            y[model.states.index(name)] = float(value)
    return y


def _note(model: Equations, typical: dict[str, float]) -> str:
    """How the states begin, what is observed of them, and what the numbers rest on."""
    lines = model.text(values=True, digits=4).splitlines()
    beside = [line for line in lines if not line.startswith("d") or "/dt" not in line.split("=")[0]]
    median = [f"{name} = {value:g}, the median" for name, value in typical.items()]
    dosing = "a dose is added to its state between two calls"
    return "; ".join([*beside, *median, dosing])
