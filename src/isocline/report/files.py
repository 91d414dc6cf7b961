"""The figures of a report as files: SVG to edit, PDF for a paper."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from isocline.report import bifurcation, diagnostics, figures, population
from isocline.report.svg import as_written, printable


def write_figures(report: dict[str, Any], folder: str | Path) -> list[Path]:
    """Writes every figure of a report as NAME.svg and NAME.pdf.

    Args:
        report: the contents of `report.json`.
        folder: made where it is not there; other files in it stay.

    Returns:
        The paths, in the order of the report.
    """
    from matplotlib.backends.backend_pdf import FigureCanvasPdf  # loads what cuts fonts, which a page does without

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for name, figure in drawn(report):
        figure.patch.set(visible=True, facecolor="white")
        as_written(figure)
        settings = {"svg.fonttype": "none", "svg.hashsalt": name, "pdf.fonttype": 42}
        for suffix in ("svg", "pdf"):
            path = folder / f"{name}.{suffix}"
            aside = path.with_name(path.name + ".tmp")
            with matplotlib.rc_context(settings), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph .* missing from font")
                if suffix == "svg":
                    FigureCanvasSVG(figure).print_svg(aside, metadata={"Date": None})
                else:
                    FigureCanvasPdf(figure).print_pdf(aside, metadata={"CreationDate": None})
            aside.replace(path)
            out.append(path)
    return out


def drawn(report: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Every figure of a report with the name of its file."""
    many = len(report["series"]) > 1
    columns, height = (1, 150) if len(report["table"]["states"]) <= 4 else (2, 104)
    for number, series in enumerate(report["series"]):
        name = f"trajectories-{number + 1}-{_safe(series['id'])}" if many else "trajectories"
        yield name, figures.draw_trajectories(report, series, figures.WIDE, columns, height, figures.MAX_DOTS)
    if report["horizons"]:
        yield "horizons", figures.draw_horizons(report)
    if report["phase"]:
        yield "phase", figures.draw_phase(report)[0]
    if report.get("bifurcation"):
        yield "bifurcation", bifurcation.draw(report["bifurcation"], report["table"]["states"])
    for i, state in enumerate(report["table"]["states"][: diagnostics.MAX_STATES]):
        if diagnostics.has_members(report):
            yield f"ensemble-{i + 1}-{_safe(state['name'])}", diagnostics.draw_members(report, i)
        if i in diagnostics.measured(report):
            yield f"residuals-{i + 1}-{_safe(state['name'])}", diagnostics.draw_residuals(report, i)
    for i, column in enumerate(population.columns(report)):
        name = f"{i + 1}-{_safe(column['name'])}"
        yield f"predictions-{name}", population.draw_predictions(report, i)
        yield f"weighted-residuals-{name}", population.draw_residuals(report, i)
        yield f"predictive-check-{name}", population.draw_predictive(report, i)
    if report["history"]["iteration"]:
        yield "training", figures.draw_losses(report)


def _safe(name: str) -> str:
    """What of a name may stand in a file's."""
    return re.sub(r"[^\w.-]+", "_", printable(name, 40)).strip("._") or "series"
