"""docs/reference: every public name has its place there, and nothing else has."""

import re
from pathlib import Path

import isocline

PAGES = Path(__file__).parents[1] / "docs" / "reference"


def test_every_public_name_is_in_the_reference():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
    there = re.findall(r"^\.\. auto\w+:: isocline\.(\S+)$", text, re.MULTILINE)
    modules = {"audit", "export", "nn", "problems"}
    wanted = {name for name in isocline.__all__ if not name.startswith("__")} - modules
    for module in modules:
        public = getattr(isocline, module)
        wanted |= {f"{module}.{name}" for name in getattr(public, "__all__", ("gradients", "reconstruction", "Audit"))}
    assert len(there) == len(set(there)), "a name stands twice"
    assert wanted <= set(there), wanted - set(there)
    others = set(there) - wanted
    assert all(name.startswith(("equations.", "fit.", "report.", "compat.", "solvers.Scipy")) for name in others), (
        others
    )
