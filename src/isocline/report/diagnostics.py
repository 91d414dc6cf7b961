"""Figures that look for faults: what the fit leaves, and how far the members of the ensemble part."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from isocline.report.figures import NARROW, bounds, dots, named, quiet, thin
from isocline.report.layout import canvas, label_below, title_above
from isocline.report.svg import LIGHT, to_svg
from isocline.report.ticks import Plain

MAX_STATES = 4  # that are drawn


def measured(report: dict[str, Any]) -> list[int]:
    """The states that have residuals, the first few."""
    sizes = report["residuals"]["sd"] if report["residuals"] else []
    return [i for i, sd in enumerate(sizes) if sd is not None][:MAX_STATES]


def residuals(report: dict[str, Any]) -> list[str]:
    """A card for each state that was measured."""
    names = [state["name"] for state in report["table"]["states"]]
    return [
        to_svg(
            draw_residuals(report, i),
            f"Residuals of {names[i]} over time and against the fitted value, and their autocorrelation",
            f"residuals{i}",
        )
        for i in measured(report)
    ]


def draw_residuals(report: dict[str, Any], i: int) -> Figure:
    """Of one state: over time, against what was fitted, autocorrelation."""
    told, state = report["residuals"], report["table"]["states"][i]
    figure = canvas(NARROW, 400)
    panels = figure.subplots(3, 1)
    left = np.array([row[i] for row in told["residual"]], dtype=float)
    fitted = np.array([row[i] for row in told["fitted"]], dtype=float)
    _scatter(panels[0], np.array(told["t"], dtype=float), left, named(report["table"]["time"], 40))
    _scatter(panels[1], fitted, left, "fitted")
    _correlogram(panels[2], told["autocorrelation"][i], told["bound"])
    title_above(panels[0], named({**state, "unit": ""}, 40), LIGHT["ink"])
    return figure


def _scatter(axes: Axes, x: np.ndarray, y: np.ndarray, label: str) -> None:
    there = np.isfinite(x) & np.isfinite(y)
    axes.axhline(0, color=LIGHT["line"], lw=1, zorder=1)
    if there.any():
        dots(axes, x[there], y[there], 3.4 if there.sum() < 300 else 2.2, LIGHT["data"])
        margin = 0.03 * (np.ptp(x[there]) or 1.0)
        axes.set_xlim(x[there].min() - margin, x[there].max() + margin)
        most = 1.1 * float(np.abs(y[there]).max()) or 1.0
        axes.set_ylim(-most, most)
    label_below(axes, label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(Plain())
    axes.locator_params(axis="both", nbins=4)
    quiet(axes)


def _correlogram(axes: Axes, values: list[float | None], bound: float) -> None:
    lags = np.arange(1, len(values))
    heights = np.array(values[1:], dtype=float)
    axes.axhspan(-bound, bound, color=LIGHT["held"], lw=0, zorder=0)
    axes.axhline(0, color=LIGHT["line"], lw=1, zorder=1)
    axes.vlines(lags, 0, heights, color=LIGHT["model"], lw=2.2 if len(lags) < 30 else 1.2, zorder=2)
    axes.set_xlim(0.3, len(values) - 0.3)
    low, high = (f([*heights[np.isfinite(heights)], sign * bound]) for f, sign in ((min, -1), (max, 1)))
    axes.set_ylim(min(1.1 * low, -0.3), max(1.1 * high, 0.3))
    label_below(axes, "autocorrelation by lag (rows)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(Plain())
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.locator_params(axis="y", nbins=4)
    quiet(axes)


def has_members(report: dict[str, Any]) -> bool:
    """Whether there are forecasts of members to draw."""
    return any("members" in path for path in report["model_path"])


def members(report: dict[str, Any]) -> list[str]:
    """A card for each state."""
    one = "fit" if "parameters" in report else "network"
    return [
        to_svg(draw_members(report, i), f"Forecasts of {state['name']}, {one} by {one}", f"members{i}")
        for i, state in enumerate(report["table"]["states"][:MAX_STATES])
    ]


def draw_members(report: dict[str, Any], i: int) -> Figure:
    """Of one state: the forecast of every member of the ensemble, thin, and the model's; of the first series that has one."""
    path = next(p for p in report["model_path"] if "members" in p)
    series = next(s for s in report["series"] if s["id"] == path["id"])
    figure = canvas(NARROW, 180)
    axes = figure.subplots()
    for one in path["members"]["y"]:
        values = np.array([row[i] for row in one], dtype=float)
        axes.plot(path["members"]["t"], values, color=LIGHT["second"], lw=0.9, alpha=0.75, zorder=2)
    at, own = np.array(path["t"], dtype=float), np.array([row[i] for row in path["y"]], dtype=float)
    axes.plot(at, own, color=LIGHT["forecast"], lw=1.9, zorder=4)
    t, y = np.array(series["t"], dtype=float), np.array([row[i] for row in series["y"]], dtype=float)
    if len(at):
        y = np.where((t >= at[0]) & (t <= at[-1]), y, np.nan)
        axes.set_xlim(at[0], at[-1])
    shown = thin(t, y, 300)
    dots(axes, t[shown], y[shown], 4.2, LIGHT["data"])
    axes.set_ylim(*bounds(y, own))
    title_above(axes, named(report["table"]["states"][i], 40), LIGHT["ink"])
    label_below(axes, named(report["table"]["time"], 40))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(Plain())
    axes.locator_params(axis="both", nbins=4)
    quiet(axes)
    return figure
