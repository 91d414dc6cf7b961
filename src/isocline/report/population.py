"""Figures of a population fit: predictions against what was measured, weighted residuals, a visual predictive check."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isocline.report.figures import CARD, bounds, dots, named, quiet
from isocline.report.layout import canvas, label_below, title_above
from isocline.report.svg import LIGHT, to_svg
from isocline.report.ticks import Plain

MAX_COLUMNS = 4  # that are drawn
WIDE = 2.0  # standard deviations, within which 95 % of weighted residuals are expected
COLOURS = ("second", "model", "second")  # of the quantiles of the predictive check


def columns(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns that were measured, the first few; none where it is no population."""
    found = report.get("population")
    return found["columns"][:MAX_COLUMNS] if found else []


def cards(report: dict[str, Any]) -> list[str]:
    """Three for each column."""
    out = []
    for i, column in enumerate(columns(report)):
        name = column["name"]
        told = (
            (draw_predictions, f"{name} as measured against its prediction, by series and by population"),
            (draw_residuals, f"Weighted residuals of {name} over time and against the population’s prediction"),
            (draw_predictive, f"Quantiles of {name} over time, measured and drawn from the model"),
        )
        out += [to_svg(draw(report, i), text, f"{draw.__name__}{i}") for draw, text in told]
    return out


def inside(column: dict[str, Any]) -> tuple[int, int]:
    """How many observed quantiles lie in their bands, and of how many."""
    found = [
        low <= y <= high
        for row in column["predictive"]
        for y, low, high in zip(row["observed"], row["low"], row["high"], strict=True)
    ]
    return sum(found), len(found)


def draw_predictions(report: dict[str, Any], i: int) -> Figure:
    """Of one column: observed against predicted from a series' own parameters, and from the population's."""
    column = columns(report)[i]
    figure = canvas(CARD, 320)
    panels = figure.subplots(2, 1)
    y = _numbers(column, "observed")
    for axes, key, text in zip(
        panels, ("individual", "population"), ("predicted, by series", "predicted, by the population"), strict=True
    ):
        f = _numbers(column, key)
        dots(axes, f, y, _size(y), LIGHT["data"])
        low, high = bounds(np.concatenate([y, f]), y)
        axes.plot([low, high], [low, high], color=LIGHT["muted"], lw=1, zorder=1)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        _finish(axes, text)
    title_above(panels[0], f"{_label(report, column)}, measured", LIGHT["ink"])
    return figure


def draw_residuals(report: dict[str, Any], i: int) -> Figure:
    """Of one column: conditional weighted residuals over time, and against the population's prediction."""
    column = columns(report)[i]
    figure = canvas(CARD, 320)
    panels = figure.subplots(2, 1)
    left = _numbers(column, "conditional")
    for axes, key, text in zip(
        panels, ("t", "population"), (named(report["table"]["time"], 40), "predicted, by the population"), strict=True
    ):
        x = _numbers(column, key)
        axes.axhspan(-WIDE, WIDE, color=LIGHT["held"], lw=0, zorder=0)
        axes.axhline(0, color=LIGHT["line"], lw=1, zorder=1)
        dots(axes, x, left, _size(left), LIGHT["data"])
        margin = 0.03 * (np.ptp(x) or 1.0)
        axes.set_xlim(x.min() - margin, x.max() + margin)
        most = max(1.1 * float(np.abs(left).max()), 1.5 * WIDE)
        axes.set_ylim(-most, most)
        _finish(axes, text)
    title_above(panels[0], f"{_label(report, column, unit=False)}, weighted residuals", LIGHT["ink"])
    return figure


def draw_predictive(report: dict[str, Any], i: int) -> Figure:
    """Of one column: by stretch of time, quantiles as measured (lines) and where the model has them (bands)."""
    column = columns(report)[i]
    figure = canvas(CARD, 320)
    axes = figure.subplots()
    t, y = _numbers(column, "t"), _numbers(column, "observed")
    dots(axes, t, y, 0.8 * _size(y), LIGHT["muted"])
    rows = column["predictive"]
    drawn = []
    for q, colour in enumerate(COLOURS):
        low, high = (np.array([row[side][q] for row in rows]) for side in ("low", "high"))
        edges = [edge for row in rows for edge in (row["begin"], row["end"])]
        axes.fill_between(edges, np.repeat(low, 2), np.repeat(high, 2), color=LIGHT[colour], alpha=0.22, lw=0, zorder=1)
        observed = [row["observed"][q] for row in rows]
        axes.plot(
            [row["t"] for row in rows], observed, color=LIGHT[colour], lw=1.8, ls="-" if q == 1 else "--", marker="o",
            ms=3, zorder=3,
        )  # fmt: skip
        drawn += [low, high, np.array(observed)]
    margin = 0.03 * (np.ptp(t) or 1.0)
    axes.set_xlim(t.min() - margin, t.max() + margin)
    axes.set_ylim(*bounds(np.concatenate([y, *drawn]), y))
    _finish(axes, named(report["table"]["time"], 40))
    title_above(axes, f"{_label(report, column)}, predictive check", LIGHT["ink"])
    return figure


def _label(report: dict[str, Any], column: dict[str, Any], unit: bool = True) -> str:
    state = next(s for s in report["table"]["states"] if s["name"] == column["name"])
    return named(state if unit else {**state, "unit": ""}, 20)


def _numbers(column: dict[str, Any], key: str) -> np.ndarray:
    """Those of rows in which nothing is missing."""
    keys = ("t", "observed", "individual", "population", "conditional")
    table = np.array([column[k] for k in keys], dtype=float)
    return table[keys.index(key), np.isfinite(table).all(0)]


def _size(values: np.ndarray) -> float:
    return 3.4 if len(values) < 300 else 2.2


def _finish(axes: Axes, text: str) -> None:
    label_below(axes, text)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(Plain())
    axes.locator_params(axis="both", nbins=4)
    quiet(axes)
