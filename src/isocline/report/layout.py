"""Where panels stand in a figure: margins from what the labels say, in one pass and without measuring fonts."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.transforms import ScaledTranslation

from isocline.report.svg import pixels

EDGE = 5.0  # pixels between a panel, or its labels, and what is beside it
TICKS, LABEL, TITLE = 22.0, 18.0, 24.0  # heights of tick labels with their ticks, of a label below them, of a title
DIGIT = 0.64  # of the size of the letters: the width of a digit of matplotlib's font, which is a wide one


class Margins(LayoutEngine):
    """Panels of one size in the rows and columns of their grid, as large as their labels leave room for.

    matplotlib's constrained layout draws every label twice to know its size, which takes as long as drawing the figure.

    Attributes:
        below: pixels kept free at the bottom, for a legend.
    """

    _adjust_compatible = False
    _colorbar_gridspec = False

    def __init__(self) -> None:
        super().__init__()
        self.below = 0.0

    def execute(self, fig: Figure) -> None:
        """Places the axes of the figure."""
        width, height = (72 * inches for inches in fig.get_size_inches())
        left, right, top, bottom = (defaultdict[int, float](float) for _ in range(4))
        cells, rows, columns = [], 1, 1
        for axes in fig.axes:
            spec: Any = axes.get_subplotspec()
            row, column = spec.rowspan.start, spec.colspan.start
            rows, columns = spec.get_gridspec().get_geometry()
            cells.append((axes, row, column))
            if not axes.axison:
                continue
            wide = max((_width(text, axes.yaxis) for _, text in labels(axes.yaxis)), default=0.0)
            left[column] = max(left[column], wide + 8 + EDGE)
            right[column] = max(right[column], overhang(axes, 0.85 * width / columns) + EDGE)
            top[row] = max(top[row], TITLE if axes.get_title("left") else EDGE)
            ticks = TICKS if labelled(axes) else EDGE
            bottom[row] = max(bottom[row], ticks + LABEL * bool(axes.get_xlabel()))
        panel = (width - sum(left.values()) - sum(right.values())) / columns
        tall = (height - self.below - sum(top.values()) - sum(bottom.values())) / rows
        for axes, row, column in cells:
            x = sum(left[c] + right[c] for c in range(column)) + left[column] + column * panel
            y = height - sum(top[r] + bottom[r] for r in range(row)) - top[row] - (row + 1) * tall
            axes.set_position((x / width, y / height, panel / width, tall / height))


def canvas(width: float, height: float) -> Figure:
    """An empty figure whose SVG user units are CSS pixels, and whose panels are placed by `Margins`."""
    figure = pixels(width, height)
    figure.set_layout_engine(Margins())
    return figure


def labelled(axes: Axes) -> bool:
    """Whether there are labels at the ticks below."""
    return bool(axes.xaxis.get_tick_params().get("labelbottom", True))


def labels(axis: Any) -> list[tuple[float, str]]:
    """Where along an axis (0 to 1) the tick labels are, and what they say."""
    at = np.asarray(axis.get_majorticklocs(), dtype=float)
    if not len(at):
        return []
    low, high = axis.get_transform().transform(axis.get_view_interval())
    share = (axis.get_transform().transform(at) - low) / ((high - low) or 1.0)
    told = axis.get_major_formatter().format_ticks(at)
    return [(float(s), text) for s, text in zip(share, told, strict=True) if -1e-9 <= s <= 1 + 1e-9]


def overhang(axes: Axes, width: float) -> float:
    """Pixels by which the labels of a horizontal axis reach beyond its end."""
    found = labels(axes.xaxis) if labelled(axes) else []
    return max((_width(text, axes.xaxis) / 2 - (1 - share) * width for share, text in found), default=0.0)


def _width(text: str, axis: Any) -> float:
    return DIGIT * axis.get_tick_params().get("labelsize", 11) * len(text)


def label_below(axes: Axes, text: str) -> None:
    """A label where `Margins` keeps room for it; matplotlib would look for the lowest tick label first."""
    axes.set_xlabel(text)
    shift = ScaledTranslation(0.0, -TICKS / 72, axes.figure.dpi_scale_trans)
    axes.xaxis.set_label_coords(0.5, 0.0, transform=axes.transAxes + shift)


def title_above(axes: Axes, text: str, colour: str, pad: float = 5.0) -> None:
    """A title flush left; at a height that is given it is not moved off the ticks."""
    axes.set_title(text, loc="left", fontsize=12, color=colour, pad=pad, y=1.0)
