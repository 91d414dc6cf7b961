"""A run's model as a graph in a file: ONNX, or a program of PyTorch's."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from isocline._version import __version__
from isocline.fit.compare import read_report
from isocline.fit.errors import UserError
from isocline.fit.export import named, timed
from isocline.fit.fitted import Fitted
from isocline.fit.rollout import BATCH, CLOSE, TIMES, program_of, step_of
from isocline.solvers import ExplicitRungeKutta, Solver


def graph(fitted: Fitted, target: str, solver: str) -> tuple[bytes, str]:
    """The file of target "onnx" or "torch", and how finely it steps.

    Raises:
        ValueError: for a model that is given what a graph cannot hold.
        UserError: where a package, or a newer one, is needed.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        raise UserError(f"--target {target} needs PyTorch 2.13 or newer, found {torch.__version__}; or take c or js")
    if target == "onnx":
        try:
            import onnxscript  # noqa: F401  (torch.onnx asks for it when all is traced)
        except ImportError as error:
            what = "needs a package that is not installed: pip install 'isocline[onnx]'"
            raise UserError(f"--target onnx {what}") from error
    report = read_report(fitted.folder)
    method = Solver.named(solver)
    assert isinstance(method, ExplicitRungeKutta)
    step, miss, spacing = step_of(fitted, report, method.tableau)
    steps = f"{solver}, {step.steps} equal step{'s' if step.steps > 1 else ''} between two times"
    note = f"{steps}: within {miss:.1e} standard deviations at the record's spacing of {spacing:g}"
    note += "; ask for closer times" if miss > CLOSE else ""
    program = program_of(step, fitted)
    config = fitted.config
    names = ["y0", "ts", *(["u"] if config.inputs else [])]
    told = {
        "name": named(fitted),
        "isocline": __version__,
        "states": json.dumps(config.every_state),
        "inputs": json.dumps(config.inputs),
        "time": timed(fitted),
        "solver": steps,
    }
    if target == "onnx":
        return _onnx(program, names, told), note
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"model.json": json.dumps(told, indent=1)})
    return buffer.getvalue(), note


def _onnx(program: torch.export.ExportedProgram, names: Sequence[str], told: dict[str, str]) -> bytes:
    """The program in ONNX."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")  # misses packages that nobody asked for
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            written = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names, output_names=["ys"])
    finally:
        logger.setLevel(level)
    assert written is not None
    model = written.model_proto
    axes = {}
    for value, sizes in zip(model.graph.input, ((BATCH,), (TIMES,), (TIMES, BATCH)), strict=False):
        axes |= {dim.dim_param: size for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=False)}
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in axes:
                dim.dim_param = axes[dim.dim_param]
    for key, value in told.items():
        model.metadata_props.add(key=key, value=value)
    used = set(_used(model.graph))
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model.SerializeToString()


def _used(graph: Any) -> Iterator[str]:
    """Names of what the nodes of a graph, and of those within them, take."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _used(attribute.g)
