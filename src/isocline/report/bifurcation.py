"""Equilibria over an input or a parameter: stable ones solid, unstable ones dashed, folds and Hopf points marked."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from isocline.report.figures import NARROW, legend, named, quiet
from isocline.report.svg import LIGHT, pixels, to_svg
from isocline.report.ticks import Plain

MAX_STATES = 4  # that are drawn
MARKS = {"fold": "o", "Hopf": "s", "branch point": "D"}


def picture(report: dict[str, Any]) -> str:
    """The figure of a report's page."""
    told, states = report["bifurcation"], report["table"]["states"]
    names = ", ".join(s["name"] for s in states[:MAX_STATES])
    return to_svg(draw(told, states), f"Equilibria of {names} over {told['over']}", "bifurcation")


def draw(told: dict[str, Any], states: list[dict[str, Any]]) -> Figure:
    """A panel a state.

    Args:
        told: as `isocline.fit.bifurcation` gives it.
        states: of the report's table.
    """
    shown = states[:MAX_STATES]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = pixels(NARROW + 60 if columns == 1 else 900, 260 * rows + 40)
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, axes in enumerate(grid.flat):
        if i < len(shown):
            _panel(axes, told, i)
            axes.set_title(named(shown[i], 50), loc="left", fontsize=12, color=LIGHT["ink"], pad=6)
            axes.set_xlabel(named({"name": told["over"], "unit": told["unit"]}, 50))
        else:
            axes.set_axis_off()
    legend(figure, 5)
    return figure


def _panel(axes: Axes, told: dict[str, Any], i: int) -> None:
    for branch in told["branches"]:
        value, stable = np.array(branch["value"]), np.array(branch["stable"])
        state = np.array([row[i] for row in branch["state"]])
        edges = [0, *(np.flatnonzero(np.diff(stable.astype(int))) + 1).tolist(), len(stable)]
        for a, b in pairwise(edges):
            part = slice(max(0, a - 1), b)  # joined to the part before
            colour, dashes, width = ("model", "-", 2.0) if stable[a] else ("second", (0, (4, 2.5)), 1.4)
            label = "stable" if stable[a] else "unstable"
            axes.plot(value[part], state[part], color=LIGHT[colour], ls=dashes, lw=width, label=label, zorder=3)
    for point in told["points"]:
        at = point["value"], point["state"][i]
        axes.plot(
            *at,
            MARKS[point["kind"]],
            ms=7,
            mfc=LIGHT["paper"],
            mec=LIGHT["ink"],
            mew=1.5,
            zorder=5,
            label=point["kind"],
        )
        ground = {"fc": LIGHT["paper"], "ec": "none", "pad": 1.0, "alpha": 0.8}
        axes.annotate(
            f"{point['value']:.3g}", at, xytext=(8, 7), textcoords="offset points", fontsize=11, color=LIGHT["ink"],
            bbox=ground, zorder=4,
        )  # fmt: skip
    axes.set_xlim(told["low"], told["high"])
    axes.xaxis.set_major_formatter(Plain())
    axes.yaxis.set_major_formatter(Plain())
    axes.locator_params(axis="both", nbins=5)
    quiet(axes)


def write_bifurcation(told: dict[str, Any], states: list[dict[str, Any]], path: str | Path) -> Path:
    """Writes the figure as an SVG file, white behind it.

    Args:
        told: what `isocline.fit.bifurcation` gives.
        states: {"name", "unit"} of each, as in `report["table"]["states"]`.
        path: of the file; written aside and moved into place.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> told = {"over": "r", "unit": "", "low": -1.0, "high": 0.0, "points": []}
        >>> told["branches"] = [{"value": [-1.0, 0.0], "state": [[-1.0], [0.0]], "stable": [True, True]}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bifurcation(told, [{"name": "x", "unit": ""}], Path(folder) / "r.svg").name
        'r.svg'
    """
    path = Path(path)
    figure = draw(told, states)
    figure.patch.set(visible=True, facecolor="white")
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a column may be named "$"
    aside = path.with_name(path.name + ".tmp")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bifurcation"}):
        FigureCanvasSVG(figure).print_svg(aside, metadata={"Date": None})
    aside.replace(path)
    return path
