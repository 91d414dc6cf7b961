"""What the figures of these pages share: SVG in the page's own colours, light and dark, and animations in both."""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Callable
from itertools import count
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from isocline.report.svg import LIGHT, PALETTE, pixels, to_svg

INK, MUTED, LINE, PAPER = LIGHT["ink"], LIGHT["muted"], LIGHT["line"], LIGHT["paper"]
BLUE, RED, VIOLET, GREY, FLOW = LIGHT["model"], LIGHT["forecast"], LIGHT["second"], LIGHT["third"], LIGHT["flow"]
NARROW = 360  # pixels: a column of text on a phone
_salts = count()
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Picture:
    """HTML that a notebook shows."""

    def __init__(self, html: str) -> None:
        self.html = f'<div class="figure">{html}</div>'

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return "a picture"


def panels(rows: int = 1, columns: int = 1, width: int = 720, height: int = 300, **options: Any) -> tuple[Figure, Any]:
    """A figure of so many pixels and its axes, as `Figure.subplots` gives them."""
    figure = pixels(width, height)
    figure.patch.set_alpha(0)  # the page's own paper
    axes = figure.subplots(rows, columns, **options)
    for one in figure.axes:
        quiet(one)
    return figure, axes


def quiet(axes: Axes) -> None:
    """No box, thin pale lines, small labels."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=MUTED, labelsize=11, width=0.8)
    axes.xaxis.label.set(color=MUTED, size=12)
    axes.yaxis.label.set(color=MUTED, size=12)


def title(axes: Axes, text: str) -> None:
    """On the left, in ink."""
    axes.set_title(text, loc="left", fontsize=12.5, color=INK)


def legend(axes: Axes, beside: bool = False, **options: Any) -> None:
    """Without a box; `beside` the axes, or within them."""
    if beside:
        options |= {"bbox_to_anchor": (1.0, 1.0), "loc": "upper left"}
    made = axes.legend(frameon=False, fontsize=11, **options)
    made.set_gid("beside" if beside else "within")
    for text in made.get_texts():
        text.set_color(INK)


def log(axes: Axes, which: str = "xy") -> None:
    """Logarithmic axes, labelled at the powers of ten."""
    for letter in which:
        axis = getattr(axes, f"{letter}axis")
        getattr(axes, f"set_{letter}scale")("log")
        axis.set_major_locator(LogLocator(numticks=7))
        axis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
        axis.set_minor_formatter(NullFormatter())
        axis.minorticks_off()


def power(value: float) -> str:
    """A power of ten, written as one.

    >>> power(1e-3)
    '10⁻³'
    """
    return "10" + str(round(math.log10(value))).translate(_SUPERSCRIPTS)


def arrow(axes: Axes, start: Any, end: Any, colour: str = INK, width: float = 1.2, gap: float = 13.0) -> None:
    """From one place to another, with room for what stands there."""
    style = {"arrowstyle": "->", "color": colour, "lw": width, "shrinkA": gap, "shrinkB": gap}
    axes.annotate("", xy=tuple(end), xytext=tuple(start), arrowprops=style)


def show(figure: Figure, description: str) -> Picture:
    """The figure as the last line of a cell; `description` is for those who cannot see it.

    It is drawn a second time for phones, where a figure of this width would have letters too small to read.
    """
    html = ""
    for name in ("wide", "narrow"):
        html += f'<div class="{name}">{to_svg(figure, description, f"page-{next(_salts)}")}</div>'
        narrow(figure)
    return Picture(html)


def narrow(figure: Figure) -> None:
    """Lays a figure out for a phone: panels one below the other, letters as large as before."""
    panels = figure.axes
    grid = panels[0].get_subplotspec().get_gridspec()
    height = figure.get_figheight() * 72
    if grid.ncols > 1:
        for axes, place in zip(panels, GridSpec(len(panels), 1, figure), strict=True):
            axes.set_subplotspec(place)
        height *= 0.9 * len(panels)
    figure.set_size_inches(NARROW / 72, height / 72)
    for axes in panels:
        axes.set_title("\n".join(textwrap.wrap(axes.get_title("left"), 46)), loc="left", fontsize=12.5, color=INK)
        names = axes.get_legend()
        if names is not None and names.get_gid() == "beside":
            names.set_loc("upper left")
            names.set_bbox_to_anchor((0.0, -0.22), axes.transAxes)


def film(
    draw: Callable[[Figure, dict[str, str], int], None], frames: int, description: str, size: int = 440
) -> Picture:
    """An animation: `draw(figure, colours, k)` draws frame k. Made twice, for light and for dark pages."""
    html = ""
    for scheme, only in enumerate(("only-light", "only-dark")):
        colours = {name: pair[scheme] for name, pair in PALETTE.items()}
        images = [_image(draw, colours, k, size) for k in range(frames)]
        palette = images[-1].quantize(64)
        flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
        out = io.BytesIO()
        durations = [110] * (frames - 1) + [2500]
        flat[0].save(out, "GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=True)
        data = base64.b64encode(out.getvalue()).decode()
        html += f'<img class="{only}" alt="{description}" src="data:image/gif;base64,{data}">'
    return Picture(html)


def _image(
    draw: Callable[[Figure, dict[str, str], int], None], colours: dict[str, str], k: int, size: int
) -> Image.Image:
    figure = Figure(figsize=(size / 72, size / 72), dpi=72, facecolor=colours["paper"])
    draw(figure, colours, k)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")
