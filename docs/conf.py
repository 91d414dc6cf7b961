"""How the site is built: `make docs`, or `python -m sphinx docs docs/_build/html`. Nothing is fetched, no script is asked of a server."""

from __future__ import annotations

import dataclasses
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import imagesize
from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from myst_nb.core.execute import direct
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from traitlets.config import Config

import isocline
from isocline.report.svg import PALETTE

logger = logging.getLogger(__name__)
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project, author, copyright = "isocline", "the isocline authors", "the isocline authors, Apache-2.0"
version = release = isocline.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
nitpicky = True
# The standard library and PyTorch have no pages here.
nitpick_ignore_regex = [("py:.*", r"(?!isocline).*")]

# ---- pages ----------------------------------------------------------------------------------------------------------
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "attrs_inline", "attrs_block", "colon_fence"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = ["config.cache"]  # a function among the settings

# Every cell is run at every build: what a page shows is what this version does.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True
nb_number_source_lines = False
nb_code_prompt_show, nb_code_prompt_hide = "Code", "Code"
# A kernel talks over local TCP, in plain text unless it is told otherwise, and warns of that on every page. myst-nb has no
# setting for the kernel manager; the function it calls has.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})
direct.single_nb_execution = partial(direct.single_nb_execution, config=ENCRYPTED)

# ---- docstrings -----------------------------------------------------------------------------------------------------
autodoc_typehints = "none"  # the docstrings say shapes, dtypes and units; the signatures stay readable
autodoc_preserve_defaults = True  # as they are written: not <function <lambda>>
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autoclass_content = "class"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False  # parameters that are named together stay together, under the one sentence about them
autodoc_inherit_docstrings = False  # a method without one does not get PyTorch's
# As a list of its own, which may name two in a line; napoleon would take the first for the type of the second.
napoleon_custom_sections = [("Attributes", "params_style")]
python_use_unqualified_type_names = True
default_role = "name"
smartquotes = False  # docstrings quote code
toc_object_entries_show_parents = "hide"

# ---- looks ----------------------------------------------------------------------------------------------------------
html_theme = "pydata_sphinx_theme"
html_title = "isocline"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "isocline"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "show_nav_level": 2,
    "navigation_depth": 2,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "start": []}


# ---- our own parts --------------------------------------------------------------------------------------------------
def public_names() -> dict[str, str]:
    """What `Name` in a docstring refers to: the public names, and the members of `Solution`."""
    found = {name: f"isocline.{name}" for name in isocline.__all__ if not name.startswith("__")}
    found |= {name: f"isocline.nn.{name}" for name in isocline.nn.__all__}
    found |= {f"isocline.{name}": target for name, target in found.items()}
    found |= {f"Solution.{name}": f"isocline.Solution.{name}" for name in ("at", "derivative")}
    return {name: target for name, target in found.items() if target not in MODULES}


MODULES = {"isocline.audit", "isocline.nn", "isocline.problems", "isocline.export"}
NAMES = public_names()


def made_defaults(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Defaults of a dataclass that are made for each object, by what makes them."""
    if signature and dataclasses.is_dataclass(thing):
        factories = {f.name: f.default_factory for f in dataclasses.fields(thing)}
        made = {
            name: {dict: "{}", list: "[]"}.get(f) or f"{getattr(f, '__name__', '…')}()" for name, f in factories.items()
        }
        signature = re.sub(r"(\w+)=<factory>", lambda found: f"{found[1]}={made[found[1]]}", signature)
    return signature, returns


def name_role(role: str, raw: str, text: str, line: int, inliner: Any, *_: Any) -> tuple[list[Any], list[Any]]:
    """Text in single backquotes: code, and a link where it is a public name."""
    code = nodes.literal(raw, text, classes=["xref", "py"])
    bare = text.removesuffix("()")
    if bare not in NAMES:
        return [nodes.literal(raw, text)], []
    options = {"refdomain": "py", "reftype": "obj", "reftarget": NAMES[bare], "refexplicit": True, "refwarn": True}
    reference = addnodes.pending_xref(raw, code, **options)
    reference["refdoc"] = inliner.document.settings.env.current_document.docname
    return [reference], []


SPANS = re.compile(r"(``.+?``|`[^`]*`)")
INDEX = re.compile(r"_\{([^{}]*)\}|(?<=(?<![\w`])[^\W\d_])_(ij|[^\W_])(?!\w)")
EXPONENT = re.compile(r"\^\{([^{}]*)\}")


def plain(text: str) -> str:
    r"""A docstring's text as reStructuredText: a star or a bar is one, and y_{n+1}, t_i and h^{p+1} are set as formulas.

    >>> plain("y_{n+1} of *args")
    'y\\ :sub:`n+1`\\  of \\*args'
    """
    text = re.sub(r"([*|])", r"\\\1", text)
    text = INDEX.sub(lambda found: rf"\ :sub:`{found[1] or found[2]}`\ ", text)
    return EXPONENT.sub(r"\\ :sup:`\1`\\ ", text)


def plain_docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """The docstrings are plain text with code in backquotes. Examples stay as they are."""
    example = False
    for i, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if not example:
            parts = SPANS.split(line)
            parts[::2] = [plain(part) for part in parts[::2]]
            lines[i] = "".join(parts)
    # What stands before a colon there is a type to napoleon; here it is half a sentence. It looks at the first line alone.
    starts = [i + 1 for i, line in enumerate(lines[:-1]) if line.strip() == "Returns:"] + [0] * (what == "property")
    for i in sorted(starts, reverse=True):
        indent, text = re.match(r"(\s*)(.*)", lines[i]).groups()
        if ":" in text and " " in text:
            lines[i : i + 1] = [indent + part for part in text.split(" ", 1)]


def not_ours(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what pydantic and named tuples put into a class with docstrings of their own."""
    made = name == "model_config" or str(getattr(thing, "__doc__", "")).startswith("Alias for field number")
    return True if made else None


OUTSIDE = re.compile(r"\]\(\.\./benchmarks/(\w+)\.md(#[\w-]+)?\)")
CLONE_ONLY = re.compile(r"\[([^\]]*)\]\(\.\./(?:README|CONTRIBUTING)\.md(?:#[\w-]+)?\)")


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """The guides are read in a clone too, where the benchmarks lie beside this folder; here they are pages of the site."""
    text = OUTSIDE.sub(r"](benchmarks/\1.md\2)", source[0])
    source[0] = CLONE_ONLY.sub(r"\1", text)


NUMBERED = re.compile(r"^(.*?)(?:\\qquad\s*)+\((\d\.\d+)\)\s*$", re.DOTALL)
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
OPENS, CLOSES = {"{", r"\left", r"\begin"}, {"}", r"\right", r"\end"}
# What docutils' translation leaves to the browser, which sets it wider or narrower than TeX: |x|, a/b, and "log p".
BARE = re.compile(r'<mo stretchy="false">([|/])</mo>')
APPLIED = re.compile(r'<mo>&ApplyFunction;</mo>(?!\s*<mo stretchy="false">\()')
FUNCTION = re.compile(r"(</(?:mi|mn|msub|msup|msubsup)>)\s*(<mi>(?:cos|sin|exp|log)</mi>)")
THIN = '<mspace width="0.1667em"></mspace>'


def pieces(text: str) -> list[str]:
    r"""A formula, cut where a narrow page may break it: at wide spaces, and before the second "=" of a chain.

    >>> pieces(r"a = b = c, \qquad d = \left(e = f\right)")
    ['a = b ', '= c, ', ' d = \\left(e = f\\right)']
    """
    found, depth, equals = [""], 0, 0
    for token in TOKEN.findall(text):
        depth += (token in OPENS) - (token in CLOSES)
        wide = depth == 0 and token in (r"\quad", r"\qquad")
        equals = 0 if wide else equals + (depth == 0 and token == "=")
        if wide or (depth == 0 and token == "=" and equals > 1):
            found.append("")
        found[-1] += "" if wide else token
    return [piece for piece in found if piece.strip()]


def markup(text: str, block: bool) -> str:
    """One formula as MathML, or a piece of one; a piece that goes on with "=" stands close to the one before."""
    tree = latex2mathml.tex2mathml(text, as_block=block)
    tree = tree.replace("<math ", '<math class="goes-on" ', 1) if text.startswith("=") else tree
    tree = BARE.sub(r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', tree)
    return FUNCTION.sub(rf"\1{THIN}\2", APPLIED.sub(THIN, tree))


def mathml(self: Any, node: Any) -> None:
    """Formulas as MathML, which browsers draw themselves; of a block, the number at its end and the box around it are ours."""
    block, text = isinstance(node, nodes.math_block), node.astext().replace("\\dots", "\\ldots").strip()
    numbered = NUMBERED.match(text) if block else None
    text, number = (numbered[1].strip(), numbered[2]) if numbered else (text, "")
    boxed = block and text.startswith("\\boxed{")
    text = text[len("\\boxed{") : -1] if boxed else text
    try:
        parts = pieces(text) if block and not boxed else [text]
        tree = " ".join(markup(part, block) for part in parts)
    except MathError as error:
        logger.warning("%s: %s", error, text, location=node)
        tree = text
    if block:
        anchor = f' id="eq-{number}"' if number else ""
        tail = f"<span>({number})</span>" if number else ""
        tree = f'<div class="math{" boxed" if boxed else ""}"{anchor}><div>{tree}</div>{tail}</div>'
    else:
        tree = f'<span class="inline-math">{tree}</span>'
        if "lead" in node or "tail" in node:
            tree = f'<span class="number">{node.get("lead", "")}{tree}{node.get("tail", "")}</span>'
    self.body.append(tree)
    raise nodes.SkipNode


HYPHENATED = re.compile(r"(\S*\d\S*-\S*\d\S*)")
IN_PROSE = re.compile(r"(\d{4}-\d\d-\d\d|\d[\d.]*e[-+]\d+|AVX-512)")
SUM = re.compile(r"^[\d,]+ [+×] [\d,]+$")


def within(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    """Whether a node lies in one of some kinds."""
    while node.parent is not None and not isinstance(node, kinds):
        node = node.parent
    return isinstance(node, kinds)


def whole_numbers(app: Sphinx, doctree: nodes.document) -> None:
    """No line ends inside 1e-04 or 2026-01-31, between 5 and %, or, in the narrow columns of tables, in 2-50-2 and 100 + 3."""
    verbatim = (nodes.literal, nodes.FixedTextElement, nodes.math, nodes.raw, nodes.title, addnodes.desc_signature)
    for text in list(doctree.findall(nodes.Text)):
        if within(text, *verbatim):
            continue
        was = text.astext()
        in_table = within(text, nodes.entry)
        now = re.sub(
            r"(?<=\d) (?=%)", "\u00a0", was.replace(" -- ", " – ")
        )  # napoleon's dashes, since quotes are not smart
        now = now.replace(" ", "\u00a0") if in_table and SUM.match(now) else now
        parts: list[Any] = (HYPHENATED if in_table else IN_PROSE).split(now)
        if len(parts) > 1 or now != was:
            parts[::2] = [nodes.Text(part) for part in parts[::2]]
            parts[1::2] = [nodes.inline("", part, classes=["number"]) for part in parts[1::2]]
            text.parent.replace(text, [part for part in parts if part.astext()])


def close_formulas(app: Sphinx, doctree: nodes.document) -> None:
    """A comma after a formula stays with it, and so does a parenthesis before: browsers break a line there."""
    for formula in doctree.findall(nodes.math):
        for key, at, pattern in (("tail", 1, r"[,.;:!?)\]]+"), ("lead", -1, r"[(\[]+$")):
            near = formula.next_node(siblings=True, descend=False) if at == 1 else formula.previous_sibling()
            found = re.search(rf"^{pattern}" if at == 1 else pattern, near) if isinstance(near, nodes.Text) else None
            if found:
                formula[key] = found[0]
                rest = near[found.end() :] if at == 1 else near[: found.start()]
                near.parent.replace(near, nodes.Text(rest))


def close_blocks(app: Sphinx, doctree: nodes.document) -> None:
    """Examples end with an empty line for doctest's sake; on the page it is a gap."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource == block.astext():
            block.rawsource = block.rawsource.rstrip("\n")
            block.children = [nodes.Text(block.rawsource)]


def cell_widths(app: Sphinx, doctree: nodes.document) -> None:
    """For phones, where a table of many columns scrolls: a browser would first break every cell at every space."""
    for table in doctree.findall(nodes.tgroup):
        for entry in (entry for body in table.findall(nodes.tbody) for entry in body.findall(nodes.entry)):
            length = len(entry.astext())
            if table["cols"] >= 4 and length > 30:
                entry["classes"].append("long" if length <= 80 else "longer")
            elif table["cols"] >= 5 and length <= 18:
                entry["classes"].append("short")


BROAD = 800  # pixels; narrower pictures can be read at the width of a phone


def broad_pictures(app: Sphinx, doctree: nodes.document) -> None:
    """For phones, where pictures of several panels scroll: fitted to the screen, nothing written in them could be read."""
    for image in doctree.findall(nodes.image):
        if "://" not in image["uri"] and imagesize.get(HERE / image["uri"])[0] >= BROAD:
            image["classes"].append("broad")


def colours() -> str:
    """The figures' colours in both schemes, as CSS variables."""
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in PALETTE.items()) for i in (0, 1))
    return f"<style>html{{{light}}}html[data-theme=dark]{{{dark}}}</style>"


def page_context(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    context["metatags"] = context.get("metatags", "") + colours()


def setup(app: Sphinx) -> None:
    app.add_role("name", name_role)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("autodoc-process-signature", made_defaults)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
    app.connect("source-read", read_source)
    app.connect("autodoc-skip-member", not_ours)
    app.connect("doctree-read", whole_numbers)
    app.connect("doctree-read", close_formulas)
    app.connect("doctree-read", close_blocks)
    app.connect("doctree-read", cell_widths, priority=400)
    app.connect("doctree-read", broad_pictures, priority=900)  # after the paths were resolved
    app.connect("html-page-context", page_context)


html_math_renderer = "mathml"
