"""The figures of a report, drawn with matplotlib and handed over as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from isocline.report.layout import Margins, canvas, label_below, title_above
from isocline.report.streams import streamlines
from isocline.report.svg import LIGHT, printable, to_svg
from isocline.report.ticks import Plain, log_ticks

WIDE, NARROW, CARD = 900, 380, 300  # CSS pixels of a page's column, a phone's, one of many: labels stay readable
MAX_STATES = 12
LAST = "persistence"
# Of the models that a run is compared with: colours, and dashes for those who do not tell colours apart.
OTHERS = (("data", ":"), ("third", ":"), ("forecast", "-"), ("second", "--"), ("flow", "--"), ("third", "-."))
MAX_DOTS = 6000  # in all panels of a page together, or a long record makes a heavy page


NULLCLINES = (("second", "--"), ("forecast", "-."))  # where the first state stands still, and where the second does


@dataclass(frozen=True)
class Card:
    """The trajectories of one series: for a wide page (None where many cards share it) and for a narrow one."""

    title: str
    held_out: bool
    wide: str | None
    narrow: str


def named(column: dict[str, Any], limit: int = 60) -> str:
    """`level [V]`."""
    return printable(f"{column['name']} [{column['unit']}]" if column["unit"] else column["name"], limit)


def trajectories(report: dict[str, Any]) -> list[Card]:
    """All states of every series over time, the held-out part shaded; what drives them below."""
    states, many = _shown(report), len(report["series"]) > 1
    limit = max(60, MAX_DOTS // (len(states) * len(report["series"])))
    cards = []
    for number, series in enumerate(report["series"]):
        salt = f"trajectory{number}"
        narrow = _panels(report, series, CARD if many else NARROW, 1, 86 if many else 118, limit, salt)
        columns, height = (1, 150) if len(states) <= 4 else (2, 104)
        wide = None if many else _panels(report, series, WIDE, columns, height, limit, salt + "wide")
        cards.append(Card(printable(series["id"]), series["held_out"], wide, narrow))
    return cards


def _panels(
    report: dict[str, Any], series: dict[str, Any], width: int, columns: int, height: int, limit: int, salt: str
) -> str:
    figure = draw_trajectories(report, series, width, columns, height, limit)
    names = ", ".join(s["name"] for s in _shown(report))
    return to_svg(figure, f"Observations and model over {report['table']['time']['name']} of {names}", salt)


def draw_trajectories(
    report: dict[str, Any], series: dict[str, Any], width: int, columns: int, height: int, limit: int
) -> Figure:
    """All states of a series over time, a panel for each."""
    states, time = _shown(report), report["table"]["time"]
    measured = min(MAX_STATES, len(report["table"]["states"]))
    rows = math.ceil(len(states) / columns)
    figure = canvas(width, height * rows + 40)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    paths = [p for p in report["model_path"] if p["id"] == series["id"]]
    for i, axes in enumerate(grid.flat):
        if i >= len(states):
            axes.set_axis_off()
            continue
        _trajectory(axes, series, paths if i < measured else [], i, limit, measured)
        title_above(axes, named(states[i], width // (8 * columns)), LIGHT["ink"])
        quiet(axes)
        axes.yaxis.set_major_formatter(Plain())
        axes.locator_params(axis="y", nbins=4)
        if i + columns >= len(states):  # the lowest of its column
            label_below(axes, named(time, width // (8 * columns)))
            axes.xaxis.set_major_formatter(Plain())
            axes.locator_params(axis="x", nbins=max(4, width // (90 * columns)))
            axes.tick_params(labelbottom=True)
    return figure


def _shown(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns of a series' panels: states, then inputs."""
    table = report["table"]
    return [*table["states"][:MAX_STATES], *table.get("inputs", [])[:MAX_STATES]]


def _trajectory(
    axes: Axes, series: dict[str, Any], paths: list[dict[str, Any]], i: int, limit: int, measured: int
) -> None:
    t = np.array(series["t"], dtype=float)
    driven = i >= measured
    values = [row[i - measured] for row in series["u"]["y"]] if driven else [row[i] for row in series["y"]]
    y = np.array(values, dtype=float)
    first, last = t[0], t[-1]
    margin = 0.012 * (last - first) or 1.0
    axes.set_xlim(first - margin, last + margin)
    split = series["split"] if series["split"] is not None else (first - margin if series["held_out"] else math.inf)
    if split < math.inf:
        axes.axvspan(split, last + margin, color=LIGHT["held"], lw=0, zorder=0)
    shown = thin(t, y, limit)
    if driven:
        style = "steps-post" if series["u"]["hold"] == "zoh" else "default"
        axes.plot(t[shown], y[shown], color=LIGHT["second"], lw=1.2, drawstyle=style, zorder=2)
        axes.set_ylim(*bounds(y, y))
        return
    size = 4.6 if len(shown) < 150 else 3.4 if len(shown) < 500 else 2.2
    for held in (False, True):
        chosen = shown[(t[shown] > split) == held]
        dots(axes, t[chosen], y[chosen], size, LIGHT["data"])
        if held and size > 3:  # hollow: a smaller dot in the colour of the ground
            dots(axes, t[chosen], y[chosen], size - 2, LIGHT["held"])
    curves = [(np.array(p["t"], dtype=float), np.array([row[i] for row in p["y"]], dtype=float)) for p in paths]
    for path in paths:
        _bands(axes, path, i)
    for (at, value), path in zip(curves, paths, strict=True):
        axes.plot(at, value, color=LIGHT["forecast" if path["part"] == "forecast" else "model"], lw=1.7, zorder=3)
    axes.set_ylim(*bounds(y, np.concatenate([value for _, value in curves] or [y])))


def _bands(axes: Axes, path: dict[str, Any], i: int) -> None:
    """The 95 % band, and the 80 % band darker on it."""
    for level in ("95", "80"):
        if f"low{level}" in path:
            low, high = (np.array([row[i] for row in path[f"{side}{level}"]], dtype=float) for side in ("low", "high"))
            axes.fill_between(path["t"], low, high, color=LIGHT["forecast"], alpha=0.14, lw=0, zorder=1)


def bounds(seen: np.ndarray, model: np.ndarray) -> tuple[float, float]:
    """The data rule the scale: a forecast that runs away must not flatten them."""
    if not np.isfinite(seen).any():
        seen = model if np.isfinite(model).any() else np.array([0.0, 1.0])
    low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
    spread = high - low or abs(high) or 1.0
    inside = model[(model > low - 0.3 * spread) & (model < high + 0.3 * spread)]
    low, high = min([low, *inside]), max([high, *inside])
    return low - 0.07 * spread, high + 0.07 * spread


def thin(t: np.ndarray, y: np.ndarray, limit: int) -> np.ndarray:
    """Rows to draw, at most about `limit`: of every stretch of time the lowest and the highest, so that peaks stay."""
    rows = np.flatnonzero(np.isfinite(y))
    if len(rows) <= limit:
        return rows
    stretches = np.array_split(rows, limit // 2)
    return np.unique([pick for s in stretches for pick in (s[np.argmin(y[s])], s[np.argmax(y[s])])])


def dots(axes: Axes, x: np.ndarray, y: np.ndarray, size: float, colour: str) -> None:
    """Dots as one path of lines without length and with round ends: a quarter of the bytes of markers."""
    if not len(x):
        return
    vertices = np.repeat(np.stack([x, y], -1), 2, axis=0)
    path = Path(vertices, np.tile([Path.MOVETO, Path.LINETO], len(x)).astype(Path.code_type))
    path.should_simplify = False
    axes.add_patch(PathPatch(path, fill=False, lw=size, edgecolor=colour, capstyle="round", zorder=2))


def losses(report: dict[str, Any]) -> str:
    """Misfit over the steps; a line where a stage begins."""
    return to_svg(draw_losses(report), "Training error over the steps", "losses")


def draw_losses(report: dict[str, Any]) -> Figure:
    """The same as a figure."""
    history = report["history"]
    figure = canvas(440, 300)
    axes = figure.subplots()
    pairs = [(i, v) for i, v in zip(history["iteration"], history["train"], strict=True) if v is not None and v > 0]
    if pairs:
        axes.plot(
            *zip(*pairs, strict=True), color=LIGHT["model"], lw=1.3, marker="o" if len(pairs) < 80 else "", ms=2.6
        )
        axes.set_yscale("log")
        _log_axis(axes.yaxis, *log_ticks(*axes.dataLim.intervaly))
    stages = history.get("stage", [])
    for before, after, at in zip(stages, stages[1:], history["iteration"][1:], strict=False):
        if before != after:
            axes.axvline(at, color=LIGHT["muted"], lw=0.8, ls=(0, (3, 3)), zorder=1)
    label_below(axes, "step")
    axes.xaxis.set_major_formatter(Plain())
    axes.locator_params(axis="x", nbins=6)
    title_above(axes, "mean square error", LIGHT["ink"], 8)
    quiet(axes)
    return figure


def horizons(report: dict[str, Any]) -> str:
    """Error of every model by rows ahead, the run's own in its colour and on top."""
    names = ", ".join(report["horizons"]["nrmse"])
    return to_svg(draw_horizons(report), f"Error of {names} by rows ahead", "horizons")


def draw_horizons(report: dict[str, Any]) -> Figure:
    """The same as a figure."""
    told = report["horizons"]
    figure = canvas(440, 300)
    ours, *others = told["nrmse"]
    styles = [*OTHERS[: len(others)], ("model", "-")]
    by_rows(figure.subplots(), told["rows"], {name: told["nrmse"][name] for name in [*others, ours]}, styles)
    legend(figure, 3)
    return figure


def by_rows(
    axes: Axes, rows: Sequence[int], errors: dict[str, list[float | None]], styles: Sequence[tuple[str, str]]
) -> None:
    """Errors by rows ahead, a line for each; those in the model's colour are thick."""
    for (name, values), (colour, dashes) in zip(errors.items(), styles, strict=True):
        y = np.array([math.nan if e is None else e for e in values])
        width, mark = (2.2, 4.5) if colour == "model" else (1.3, 2.8)
        axes.plot(
            rows, y, color=LIGHT[colour], ls=dashes, lw=width, marker="o", ms=mark, label=printable(name, 30), zorder=3
        )
    least = min((e for values in errors.values() for e in values if e), default=1.0)
    last = max((e for e in errors.get(LAST, []) if e), default=1.0)
    axes.set_ylim(0, 1.12 * max(last, 1.2 * least))  # an error that runs away must not flatten the others
    axes.set_xscale("log")
    _log_axis(axes.xaxis, rows, [str(h) for h in rows])
    axes.set_xlim(rows[0] / 1.15, rows[-1] * 1.15)
    axes.yaxis.set_major_formatter(Plain())
    axes.locator_params(axis="y", nbins=5)
    label_below(axes, "rows ahead")
    title_above(axes, "NRMSE", LIGHT["ink"], 8)
    quiet(axes)


def legend(figure: Figure, columns: int) -> None:
    """Below the panels."""
    drawn = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    box = figure.legend(
        list(drawn.values()), list(drawn), loc="lower center", ncols=columns, frameon=False, fontsize=11, handlelength=1.6,
        borderaxespad=0.0,
    )  # fmt: skip
    for text in box.get_texts():
        text.set_color(LIGHT["muted"])
    engine = figure.get_layout_engine()
    if isinstance(engine, Margins):
        engine.below = 19.0 * math.ceil(len(drawn) / columns) + 8


@dataclass(frozen=True)
class Portrait:
    """The phase portrait, and where in it which values lie: pixels, values at them (log10 where `log`), what else a start needs."""

    svg: str
    frame: dict[str, Any]


def phase(report: dict[str, Any]) -> Portrait | None:
    """The learned vector field over two states as streamlines, with the fitted path and the data."""
    if report["phase"] is None:
        return None
    figure, axes, field, logs = *draw_phase(report), report["phase"], report["phase"].get("log", [False, False])
    states = shown_in(report)
    svg = to_svg(figure, f"Learned vector field over {states[0]['name']} and {states[1]['name']}", "phase")
    box, height = axes.bbox, figure.bbox.height  # laid out by now
    frame = {"left": box.x0, "right": box.x1, "top": height - box.y1, "bottom": height - box.y0}
    frame = {side: round(float(at), 2) for side, at in frame.items()}
    frame |= {"x": [float(x) for x in axes.get_xlim()], "y": [float(y) for y in axes.get_ylim()], "log": list(logs)}
    names = [printable(state["name"], 30) for state in states]
    frame |= {"names": names, "axes": axes_of(field), "held": field.get("held"), "span": field.get("span")}
    return Portrait(svg, frame)


def axes_of(field: dict[str, Any]) -> list[int]:
    """Which states a phase portrait is of."""
    return field.get("axes", [0, 1])


def shown_in(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of the phase portrait."""
    table = report["table"]
    states = [*table["states"], *table.get("earlier", [])]
    return [states[i] for i in axes_of(report["phase"])]


def dimension(report: dict[str, Any]) -> int:
    """How many states the field has, earlier values among them."""
    return len(report["table"]["states"]) + len(report["table"].get("earlier", []))


def draw_phase(report: dict[str, Any]) -> tuple[Figure, Axes]:
    """The figure of the phase portrait, and its axes."""
    field = report["phase"]
    pair = axes_of(field)
    figure = canvas(440, 400)
    axes = figure.subplots()
    logs = field.get("log", [False, False])
    grid = [_coordinate(field[name], log) for name, log in zip(("gx", "gy"), logs, strict=True)]
    rate = [np.ma.masked_invalid(np.array(field[name], dtype=float)) for name in ("dx", "dy")]
    for axis in (0, 1):  # d(log10 y)/dt on a logarithmic axis
        values = np.array(field[("gx", "gy")[axis]], dtype=float) * math.log(10)
        if logs[axis]:
            rate[axis] = rate[axis] / (values[None, :] if axis == 0 else values[:, None])
    _streamlines(axes, grid, rate)
    if dimension(report) == 2:
        for (colour, dashes), values in zip(NULLCLINES, rate, strict=True):
            if values.compressed().size and values.min() < 0 < values.max():
                axes.contour(
                    *grid, values, levels=[0.0], colors=[LIGHT[colour]], linestyles=[dashes], linewidths=1.3, zorder=2
                )
    for series in report["series"]:
        rows = np.array([[row[i] for i in pair] for row in series["y"]], dtype=float)
        rows = rows[np.isfinite(rows).all(1)]
        rows = rows[:: max(1, len(rows) * len(report["series"]) // 1500)]
        dots(axes, _coordinate(rows[:, 0], logs[0]), _coordinate(rows[:, 1], logs[1]), 3.8, LIGHT["data"])
    path = [_coordinate(field[name], log) for name, log in zip(("path_x", "path_y"), logs, strict=True)]
    axes.plot(*path, color=LIGHT["model"], lw=1.7, zorder=3)
    for point in report.get("equilibria", []) if dimension(report) == 2 else []:
        at = [_coordinate([point["state"][i]], log) for i, log in zip(pair, logs, strict=True)]
        face = LIGHT["ink"] if point["stable"] else LIGHT["paper"]
        axes.plot(*at, "o", ms=8, mfc=face, mec=LIGHT["ink"], mew=1.8, zorder=5)
    axes.set_xlim(grid[0][0], grid[0][-1])
    axes.set_ylim(grid[1][0], grid[1][-1])
    states = shown_in(report)
    for axis, values, log in zip((axes.xaxis, axes.yaxis), grid, logs, strict=True):
        axis.set_major_formatter(Plain())
        if log:
            at, labels = log_ticks(10 ** values[0], 10 ** values[-1])
            _log_axis(axis, np.log10(at), labels)
    label_below(axes, named(states[0], 50))
    title_above(axes, named(states[1], 50), LIGHT["ink"], 8)
    quiet(axes)
    return figure, axes


def _coordinate(values: Any, log: bool) -> np.ndarray:
    """Position along an axis: log10 on a logarithmic one, NaN where that does not exist."""
    values = np.array(values, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(values > 0, np.log10(values), np.nan) if log else values


def _streamlines(axes: Axes, grid: Sequence[np.ndarray], rate: Sequence[np.ma.MaskedArray]) -> None:
    """One path of all streamlines, and one of an arrow on each."""
    shares = [
        np.ma.filled(component, np.nan) / (values[-1] - values[0] or 1.0)
        for component, values in zip(rate, grid, strict=True)
    ]
    lines = streamlines(*shares)
    corner, size = np.array([v[0] for v in grid]), np.array([v[-1] - v[0] for v in grid])
    look = {"edgecolor": LIGHT["flow"], "lw": 0.9, "zorder": 1}
    if lines:
        codes = [[Path.MOVETO] + [Path.LINETO] * (len(line) - 1) for line in lines]
        vertices = corner + size * np.concatenate(lines)
        axes.add_patch(PathPatch(Path(vertices, np.concatenate(codes)), fill=False, **look))
        arrows = corner + size * np.concatenate([_arrow(line) for line in lines])
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(lines)
        axes.add_patch(PathPatch(Path(arrows, codes), facecolor=LIGHT["flow"], **look))


def _arrow(line: np.ndarray) -> np.ndarray:
    """A triangle on the middle of a line, as a closed path (4, 2); the panel is about as high as it is wide."""
    at = len(line) // 2
    along = line[at] - line[at - 1]
    along = 0.011 * along / (np.hypot(*along) or 1.0)
    across = 0.6 * along[::-1] * (-1, 1)
    return line[at] + np.stack([along, across - along, -across - along, along])


def quiet(axes: Axes) -> None:
    """Two thin spines, quiet ticks, no ground of its own."""
    axes.figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LIGHT["line"])
    axes.tick_params(labelcolor=LIGHT["muted"], color=LIGHT["line"], labelsize=11, length=4, width=0.8)
    axes.xaxis.label.set(color=LIGHT["ink"], fontsize=12)


def _log_axis(axis: Any, at: Sequence[float] | np.ndarray, labels: Sequence[str]) -> None:
    axis.set_major_locator(FixedLocator(list(at)))
    axis.set_major_formatter(FixedFormatter(labels))
    axis.set_minor_locator(NullLocator())
