"""Pictures in one style: dark ink on white, few lines, PNG and GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from isocline.fit.files import place

INK, MUTED, PALE = "#14293d", "#5a6a78", "#b9c6d2"
COLOURS = ("#1f6f8b", "#d1495b", "#edae49", "#66a182", "#7b5ea7", "#8d5a3a")  # of models, in the order they appear
FONT = {"font.size": 11, "axes.edgecolor": PALE, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED}


def panels(
    rows: int, columns: int, size: tuple[float, float] = (3.2, 3.2), **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of (rows, columns) axes, each `size` inches at 100 dots an inch; axes always a 2-d array."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for one in axes.flat:
        quiet(one)
    return figure, axes


def quiet(axes: Axes) -> None:
    """No box, thin pale lines, small muted labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=MUTED, labelsize=9, width=0.8)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)


def title(axes: Axes, text: str) -> None:
    """On the left, in ink."""
    axes.set_title(text, loc="left", fontsize=11, color=INK)


def bare(axes: Axes) -> None:
    """No axes at all, equal scales: for planes and images."""
    axes.set_axis_off()
    axes.set_aspect("equal")


def image(figure: Figure) -> Image.Image:
    """The figure as pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def save(figure: Figure, path: Path) -> None:
    """As a PNG of at most 256 colours: half the size, and no eye sees it."""
    picture = image(figure).quantize(256, dither=Image.Dither.NONE)
    place(path, lambda aside: picture.save(aside, format="PNG", optimize=True))


def animate(
    frames: Sequence[Image.Image], path: Path, milliseconds: int = 90, hold: int = 2000, colours: int = 64
) -> None:
    """A looping GIF, the last frame held.

    One palette for all frames: colours do not flicker, and the file stays small. It is chosen from the last frame and a
    strip of the plasma scale, which by its area alone would get no colours of its own.
    """
    last = frames[-1].copy()
    scale = np.asarray(colormaps["plasma"](np.linspace(0, 1, last.width), bytes=True))[None, :, :3]
    last.paste(Image.fromarray(np.repeat(scale, last.height // 3, 0)), (0, 0))
    palette = last.quantize(colours)
    white = int(np.array(palette.getpalette()).reshape(-1, 3).sum(1).argmax())
    flat = [_indexed(frame, palette, white) for frame in frames]
    durations = [milliseconds] * (len(flat) - 1) + [hold]
    place(
        path,
        lambda aside: flat[0].save(
            aside, format="GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=True
        ),
    )


def _indexed(frame: Image.Image, palette: Image.Image, white: int) -> Image.Image:
    """In the colours of the palette; white stays the white of the palette, which Pillow's search may miss."""
    found = frame.quantize(palette=palette, dither=Image.Dither.NONE)
    paper = np.asarray(frame.convert("RGB")).min(-1) == 255
    out = Image.fromarray(np.where(paper, white, np.asarray(found)).astype(np.uint8), mode="P")
    out.putpalette(found.getpalette() or [])
    return out
