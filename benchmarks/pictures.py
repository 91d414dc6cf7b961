"""The pictures of work_precision.py: error against evaluations and against time, one line a solver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from classics import Classic
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

mpl.use("Agg")
mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e4e4e4",
        "svg.fonttype": "none",  # text stays text: smaller, and searchable
        "svg.hashsalt": "isocline",
    }
)
MARKS = "osD^vP*X<>pdh8"
PEERS = {"SciPy": ("#555555", "--"), "torchdiffeq": ("#b07a3f", ":")}
SMALL = ("isocline tsit5", "isocline dopri8", "isocline vern7", "SciPy RK45", "SciPy DOP853", "torchdiffeq dopri5")


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """isocline in colours and full lines, each peer package in one colour, dashed or dotted; a mark a solver."""
    found, count = {}, {"isocline": 0, "SciPy": 0, "torchdiffeq": 0}
    ours = [n for n in names if n.startswith("isocline")]
    colours = plt.get_cmap("turbo")(np.linspace(0.08, 0.92, max(2, len(ours))))
    for name in names:
        package = name.split()[0]
        i = count[package]
        count[package] += 1
        colour, line = (colours[i], "-") if package == "isocline" else PEERS[package]
        found[name] = {
            "color": colour,
            "linestyle": line,
            "marker": MARKS[i % len(MARKS)],
            "markersize": 4,
            "linewidth": 1.2,
        }
    return found


def lines(axes: Axes, curves: dict[str, Any], what: str, style: dict[str, dict[str, Any]]) -> None:
    for name, curve in curves.items():
        if name in style and curve.errors:
            seen = [(max(e, 1e-16), c) for e, c in zip(curve.errors, getattr(curve, what), strict=True) if e < 10]
            if seen:
                axes.loglog(*zip(*seen, strict=True), label=name, **style[name])
    axes.invert_xaxis()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())


def draw(work: Any, curves: dict[str, Any], file: Path) -> None:
    """One problem: both panels, the legend beside them."""
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
    style = styles(list(curves))
    for axes, what, label in zip(
        panels, ("evaluations", "seconds"), ("evaluations of f", "processor time in s"), strict=True
    ):
        lines(axes, curves, what, style)
        axes.set_xlabel("error at the end")
        axes.set_ylabel(label)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    figure.suptitle(work.name, fontsize=11)
    save(figure, file)


def draw_grid(works: Sequence[Any], results: dict[str, dict[str, Any]], file: Path) -> None:
    """DETEST: a small panel a problem, evaluations alone, a few solvers."""
    columns = min(5, len(works))
    rows = -(-len(works) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(2.3 * columns, 1.9 * rows + 0.6), layout="constrained", squeeze=False
    )
    present = [n for n in SMALL if any(n in results[w.name] for w in works)]
    style = styles(present)
    for axes, work in zip(panels.flat, works, strict=False):
        lines(axes, results[work.name], "evaluations", style)
        axes.set_title(work.name, fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in list(panels.flat)[len(works) :]:
        axes.set_visible(False)
    handles = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    figure.supxlabel("error at the end", fontsize=9)
    figure.supylabel("evaluations of f", fontsize=9)
    save(figure, file)


def save(figure: Any, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def draw_all(results: dict[str, dict[str, Any]], works: Sequence[Any], page: Path) -> Iterator[tuple[str, Path]]:
    """(title, file) of every picture, drawn beside the page."""
    for work in works:
        if isinstance(work, Classic):
            file = page.with_name(f"{page.stem}-{work.name.lower().replace(' ', '-')}.svg")
            draw(work, results[work.name], file)
            yield work.name, file
    rest = [work for work in works if not isinstance(work, Classic)]
    if rest:
        file = page.with_name(f"{page.stem}-detest.svg")
        draw_grid(rest, results, file)
        yield "DETEST", file
