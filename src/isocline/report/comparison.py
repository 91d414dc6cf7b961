"""Runs side by side: a page, and a picture beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from isocline.report.figures import LAST, bounds, by_rows, legend, named, quiet, thin
from isocline.report.html import page, write_text
from isocline.report.layout import canvas, label_below, title_above
from isocline.report.svg import LIGHT, to_svg
from isocline.report.ticks import Plain

STYLES = [(c, d) for d in ("-", "--", ":") for c in ("model", "forecast", "second", "third")]  # of runs, in their order
MAX_RUNS, MAX_STATES, MAX_SERIES = len(STYLES), 6, 4  # that are drawn
BEFORE = 0.35  # of the training part's end that is shown, as a share of the held-out part


def write_comparison(compared: dict[str, Any], path: Path) -> Path:
    """Writes the page, and a PNG of the same name beside it.

    Args:
        compared: what `isocline.fit.compare` returned.
        path: of the page.

    Returns:
        The path of the picture.
    """
    picture = path.with_suffix(".png")
    write_text(path, render_comparison(compared))
    figure = forecasts(compared, 1000, 2)
    figure.set_dpi(144)
    figure.patch.set(visible=True, facecolor=LIGHT["paper"])
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    return picture


def render_comparison(compared: dict[str, Any]) -> str:
    """The page as text."""
    runs, rows = compared["runs"], compared["rows"]
    measures = [m for m in ("nrmse", "mase", "skill") if m in rows[0]]
    known = [row[compared["measure"]] for row in rows] if compared["measure"] else []
    told = [r["report"]["horizons"] for r in runs]
    shared = compared["scaled"] and all(told) and all(t["rows"] == told[0]["rows"] for t in told)
    names = ", ".join(r["name"] for r in runs)
    return page(
        "comparison.html",
        runs=runs,
        rows=rows,
        measures=measures,
        measure=compared["measure"],
        best=compared["best"],
        sentence=compared["sentence"],
        scaled=compared["scaled"],
        worst=max((k for k in known if k is not None), default=None),
        banded=any(row["coverage"] for row in rows),
        table=runs[0]["report"]["table"],
        held=runs[0]["report"]["held_out"],
        wide=to_svg(forecasts(compared, 900, 2), f"Forecasts of {names}", "wide"),
        narrow=to_svg(forecasts(compared, 380, 1), f"Forecasts of {names}", "narrow"),
        horizons=to_svg(_horizons(compared), f"Errors of {names} by rows ahead", "horizons") if shared else None,
        changed=_settings(runs),
    )


def forecasts(compared: dict[str, Any], width: int, columns: int) -> Figure:
    """The held-out part with every run's forecast, a panel for each state of the first series."""
    first = compared["runs"][0]["report"]
    states = first["table"]["states"][:MAX_STATES]
    shown = [s for s in first["series"] if s["split"] is not None][:MAX_SERIES]
    panels = [(s, i) for s in shown for i in range(len(states))]
    columns = min(columns, len(panels)) or 1
    rows = max(1, math.ceil(len(panels) / columns))
    figure = canvas(width, 190 * rows + 50)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for (series, i), axes in zip(panels, grid.flat, strict=False):
        _panel(axes, compared["runs"][:MAX_RUNS], series, i)
        of = f" · {series['id']}" if len(shown) > 1 else ""
        title_above(axes, f"{named(states[i], 40)}{of}", LIGHT["ink"])
        label_below(axes, named(first["table"]["time"], 50))
    legend(figure, min(3, len(compared["runs"])))
    return figure


def _panel(axes: Axes, runs: list[dict[str, Any]], series: dict[str, Any], i: int) -> None:
    t = np.array(series["t"], dtype=float)
    y = np.array([row[i] for row in series["y"]], dtype=float)
    begin, end = series["split"], t[-1]
    left = max(t[0], begin - BEFORE * (end - begin))
    axes.axvspan(begin, end, color=LIGHT["held"], lw=0, zorder=0)
    paths = []
    for run, (colour, dashes) in zip(runs, STYLES, strict=False):
        for path in run["report"]["model_path"]:
            if path["id"] == series["id"] and path["part"] == "forecast":
                value = np.array([row[i] for row in path["y"]], dtype=float)
                axes.plot(path["t"], value, color=LIGHT[colour], ls=dashes, lw=1.7, label=run["name"], zorder=3)
                paths.append(value)
    there = thin(t, np.where(t >= left, y, np.nan), 400)
    axes.plot(t[there], y[there], "o", color=LIGHT["data"], ms=4.2, mew=0, zorder=2)
    axes.set_xlim(left, end)
    axes.set_ylim(*bounds(y[t >= left], np.concatenate(paths or [y])))
    axes.xaxis.set_major_formatter(Plain())
    axes.yaxis.set_major_formatter(Plain())
    axes.locator_params(axis="both", nbins=5)
    quiet(axes)


def _horizons(compared: dict[str, Any]) -> Figure:
    runs = compared["runs"][:MAX_RUNS]
    told = runs[0]["report"]["horizons"]
    errors = {r["name"]: next(iter(r["report"]["horizons"]["nrmse"].values())) for r in runs}
    styles = STYLES[: len(errors)]
    figure = canvas(440, 310)
    by_rows(figure.subplots(), told["rows"], {**errors, LAST: told["nrmse"][LAST]}, [*styles, ("data", ":")])
    legend(figure, 2)
    return figure


def _settings(runs: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Settings in which the runs differ, with the value of each."""
    configs = [r["report"]["config"] for r in runs]
    names = [k for k in configs[0] if any(c.get(k) != configs[0][k] for c in configs)]
    return [(k, [_written(c.get(k)) for c in configs]) for k in names]


def _written(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
