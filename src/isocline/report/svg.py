"""From a matplotlib figure to SVG text that lives inside a page: small, escaped, and coloured by the page."""

import io
import re
import warnings
import xml.etree.ElementTree as ET

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

# Every colour a figure may use. The SVG refers to them as CSS variables, so that the page decides what they
# are and the dark scheme costs nothing; the figures are drawn with the light values.
PALETTE = {
    "paper": ("#fdfcfa", "#15181c"),
    "ink": ("#20242a", "#e6e4df"),
    "muted": ("#686d75", "#a0a5ad"),
    "line": ("#e3e0d9", "#31363d"),
    "held": ("#f4efe3", "#22262c"),
    "data": ("#454a52", "#c3c7cd"),
    "model": ("#1b5e9b", "#6cb0f0"),
    "forecast": ("#bf4a1e", "#f19066"),
    "second": ("#87699f", "#b79bd0"),
    "third": ("#8b8f86", "#8f948c"),
    "flow": ("#b4c0cb", "#4a5763"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
_VARIABLE = {light: f"var(--{name})" for name, light in LIGHT.items()}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_CONTROL = re.compile(r"[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


def printable(text: object, limit: int = 60) -> str:
    """`text` on one line without the characters XML forbids, cut to `limit` characters.

    >>> printable("a\\n<b>\\x00", 60), printable("a long name", 7)
    ('a <b> ', 'a long…')
    """
    line = _CONTROL.sub(" ", str(text).replace("\n", " "))
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def pixels(width: float, height: float) -> Figure:
    """An empty figure whose SVG user units are CSS pixels.

    >>> pixels(400, 200).get_size_inches().tolist()
    [5.555555555555555, 2.7777777777777777]
    """
    return Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")


def to_svg(figure: Figure, description: str, salt: str) -> str:
    """The figure as one `<svg>` element for use inside HTML.

    Args:
        figure: drawn with the colours of `LIGHT`; any other colour stays as it is.
        description: what a screen reader says in place of the picture; any text, escaped here.
        salt: different for every figure of a page, or the clip paths of two figures get the same id.

    Returns:
        SVG text without XML declaration, metadata, fixed size or font: it takes the page's font and width.
    """
    buffer = io.StringIO()
    as_written(figure)
    settings = {"svg.fonttype": "none", "svg.hashsalt": salt}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Text is laid out with matplotlib's own font, which lacks many scripts; the page's font draws it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue().encode())
    for name in ("width", "height"):
        del root.attrib[name]
    for child in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(child)
    for definitions in root.iter(f"{{{_SVG}}}defs"):
        for sheet in definitions.findall(f"{{{_SVG}}}style"):
            definitions.remove(sheet)  # a style sheet inside an SVG would style the whole page
    for element in root.iter():
        _lighten(element)
    root.set("role", "img")
    root.set("aria-label", printable(description, 300))
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return ET.tostring(root, encoding="unicode")


def as_written(figure: Figure) -> None:
    """Names are text and no formulas: a column may be called "$"."""
    texts = [child for axes in figure.axes for child in axes.get_children() if isinstance(child, Text)]
    texts += [axis.label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    for text in [*texts, *figure.texts, *(text for box in figure.legends for text in box.get_texts())]:
        text.set_parse_math(False)


def _lighten(element: ET.Element) -> None:
    """Rounds coordinates to a hundredth of a pixel, names colours by CSS variable, leaves fonts to the page."""
    if element.tag == f"{{{_SVG}}}g":
        element.attrib.pop("id", None)  # nothing refers to a group, and two figures would use the same ids
    for name in ("d", "x", "y", "transform"):
        if name in element.attrib:
            element.set(name, _LONG_NUMBER.sub(lambda m: f"{float(m.group()):.2f}", element.get(name, "")))
    style = element.get("style")
    if style is not None:
        for colour, variable in _VARIABLE.items():
            style = style.replace(colour, variable)
        element.set("style", re.sub(r"font-family: [^;]*;? ?", "", style).rstrip("; "))
    if element.text is not None and not element.text.strip():
        element.text = None
    element.tail = None
