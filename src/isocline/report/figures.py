"""The figures of a report, drawn with matplotlib and handed over as SVG."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from isocline.report.svg import LIGHT, pixels, printable, to_svg

WIDTH = 560  # CSS pixels of a figure; the page scales it up to its column, a phone down: labels stay readable on both
MAX_STATES = 12


def style(axes: Axes) -> None:
    """Two thin spines, quiet ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LIGHT["line"])
    axes.tick_params(colors=LIGHT["muted"], labelsize=11, length=3, width=0.8)
    axes.xaxis.label.set(color=LIGHT["muted"], fontsize=12)
    axes.yaxis.label.set(color=LIGHT["ink"], fontsize=12)
    axes.set_facecolor("none")


def named(column: dict[str, Any]) -> str:
    """`level [V]`."""
    return printable(f"{column['name']} [{column['unit']}]" if column["unit"] else column["name"], 60)


def trajectories(report: dict[str, Any]) -> list[tuple[str, str]]:
    """One figure a series: all states over time, the held-out part shaded. (title, SVG) pairs."""
    states, time = report["table"]["states"][:MAX_STATES], report["table"]["time"]
    out = []
    for number, series in enumerate(report["series"]):
        paths = [p for p in report["model_path"] if p["id"] == series["id"]]
        rows = len(states)
        figure = pixels(WIDTH, (130 if rows > 3 else 172) * rows + 36)
        figure.patch.set_alpha(0)
        grid = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        for i, (axes, state) in enumerate(zip(grid, states, strict=True)):
            _trajectory(axes, series, paths, i)
            axes.set_title(named(state), loc="left", fontsize=11.5, color=LIGHT["ink"], pad=4)
            style(axes)
        grid[-1].set_xlabel(named(time))
        title = printable(series["id"]) if series["id"] else "Data, fit and forecast"
        description = f"Observations and model over {time['name']} of {', '.join(s['name'] for s in states)}"
        out.append((title, to_svg(figure, description, f"trajectory{number}")))
    return out


def _trajectory(axes: Axes, series: dict[str, Any], paths: list[dict[str, Any]], i: int) -> None:
    t = np.array(series["t"], dtype=float)
    y = np.array([row[i] for row in series["y"]], dtype=float)
    split = series["split"]
    if split is not None:
        axes.axvspan(split, t[-1], color=LIGHT["held"], lw=0)
    size = 4.0 if len(t) < 300 else 2.0
    axes.plot(t, y, ls="none", marker="o", ms=size, mew=0, color=LIGHT["data"], alpha=0.75)
    for path in paths:
        colour = LIGHT["forecast"] if path["part"] == "forecast" else LIGHT["model"]
        axes.plot(path["t"], [row[i] for row in path["y"]], color=colour, lw=1.8)
    _bound(axes, y)
    if len(t):
        axes.set_xlim(t[0], t[-1])


def _bound(axes: Axes, y: np.ndarray) -> None:
    """The data rule the scale: a forecast that runs away must not flatten them."""
    if np.isfinite(y).any():
        low, high = np.nanmin(y), np.nanmax(y)
        pad = 0.25 * (high - low) or 1.0
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, low - pad), min(top, high + pad))


def losses(report: dict[str, Any]) -> str:
    """Misfit over the iterations, the chosen one marked."""
    history = report["history"]
    figure = pixels(WIDTH, 230)
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.plot(history["iteration"], history["train"], color=LIGHT["model"], lw=1.2, label="training windows")
    valid = [(i, v) for i, v in zip(history["iteration"], history["valid"], strict=True) if v is not None]
    if valid:
        axes.plot(
            *zip(*valid, strict=True), color=LIGHT["forecast"], lw=1.4, marker="o", ms=2.5, label="validation part"
        )
    if report["best_iteration"]:
        axes.axvline(report["best_iteration"], color=LIGHT["muted"], lw=0.9, ls=(0, (3, 3)), label="kept")
    if any(v and v > 0 for v in history["train"]):
        axes.set_yscale("log")
        for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis_format(LogFormatter(minor_thresholds=(1.2, 0.5)))
    axes.set_xlabel("iteration")
    axes.set_ylabel("mean square error")
    style(axes)
    legend = axes.legend(frameon=False, fontsize=11, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=3)
    for text in legend.get_texts():
        text.set_color(LIGHT["muted"])
    return to_svg(figure, "Training and validation loss over the iterations", "losses")


def phase(report: dict[str, Any]) -> str | None:
    """The learned vector field over the first two states, with the fitted path and the data."""
    field = report["phase"]
    if field is None:
        return None
    figure = pixels(WIDTH, 400)
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    to_x, to_y = (np.log10 if log else np.asarray for log in field.get("log", (False, False)))
    gx, gy = np.meshgrid(to_x(field["gx"]), to_y(field["gy"]))
    dx = np.array(field["dx"], dtype=float) / (_slope(field["gx"], field, 0)[None, :])
    dy = np.array(field["dy"], dtype=float) / (_slope(field["gy"], field, 1)[:, None])
    _arrows(axes, gx, gy, dx, dy)
    for series in report["series"]:
        rows = [(row[0], row[1]) for row in series["y"] if row[0] is not None and row[1] is not None]
        if rows:
            x, y = np.array(rows, dtype=float).T
            axes.plot(to_x(x), to_y(y), ls="none", marker="o", ms=3.2, mew=0, color=LIGHT["data"], alpha=0.6)
    axes.plot(to_x(np.array(field["path_x"])), to_y(np.array(field["path_y"])), color=LIGHT["model"], lw=1.8)
    axes.set_xlim(gx.min(), gx.max())
    axes.set_ylim(gy.min(), gy.max())
    first, second = report["table"]["states"][:2]
    axes.set_xlabel(named(first) + (", log10" if field.get("log", (0, 0))[0] else ""))
    axes.set_ylabel(named(second) + (", log10" if field.get("log", (0, 0))[1] else ""))
    style(axes)
    return to_svg(figure, f"Learned vector field over {first['name']} and {second['name']}", "phase")


def _slope(values: list[float], field: dict[str, Any], i: int) -> np.ndarray:
    """dy/d(log10 y) where an axis is logarithmic."""
    values_ = np.array(values, dtype=float)
    return values_ * math.log(10) if field.get("log", (False, False))[i] else np.ones_like(values_)


def _arrows(axes: Axes, gx: np.ndarray, gy: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> None:
    """Directions in the picture's own proportions, all of one length; strength in the opacity."""
    width, height = np.ptp(gx) or 1.0, np.ptp(gy) or 1.0
    u, v = dx / width, dy / height
    speed = np.hypot(u, v)
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = u / speed, v / speed
    step = 1 / gx.shape[1]
    strength = 0.35 + 0.65 * np.clip(speed / (np.nanpercentile(speed, 90) or 1.0), 0, 1)
    axes.quiver(
        gx, gy, u * step * width * 0.8, v * step * height * 0.8, color=LIGHT["flow"], alpha=np.nan_to_num(strength),
        angles="xy", scale_units="xy", scale=1, pivot="mid", width=0.0022, headwidth=4, headlength=4.5,
    )  # fmt: skip
