"""The table of what works with what is what the code does."""

import importlib.util
from pathlib import Path

from isocline.gradients import Gradient
from isocline.solvers import Solver

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_what_trying_every_pair_gives(unchecked):
    spec = importlib.util.spec_from_file_location("support", DOCS / "support.py")
    assert spec is not None and spec.loader is not None
    support = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(support)
    written = support.PAGE.read_text()
    assert written == support.page(), "docs/support.md is out of date: run `make docs`, or `python docs/support.py`"
    assert all(f"`{name}`" in written for name in Solver.registry) and all(
        name in written for name in Gradient.registry
    )
