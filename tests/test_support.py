"""The table of what works with what is what the code does."""

import functools
import importlib.util
from pathlib import Path

import pytest

from isocline.gradients import Gradient
from isocline.solvers import Solver

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("both", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_page_is_what_trying_every_pair_gives(both, unchecked, monkeypatch):
    """In both batchings, or, each as often, in one that stands for both: no cell says now that they differ."""
    spec = importlib.util.spec_from_file_location("support", DOCS / "support.py")
    assert spec is not None and spec.loader is not None
    support = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(support)
    written = support.PAGE.read_text()
    if not both:
        tried = functools.cache(support.outcome)
        solvers, gradients = list(Solver.registry.values()), list(Gradient.registry)

        def by_turns(cls, way_back, batching, what="first"):
            if what == "first":
                turn = (solvers.index(cls) + gradients.index(way_back)) % 2
                batching = ("shared", "per_sample")[turn]
            return tried(cls, way_back, batching, what)

        monkeypatch.setattr(support, "outcome", by_turns)
    assert written == support.page(), "docs/support.md is out of date: run `make docs`, or `python docs/support.py`"
    assert all(f"`{name}`" in written for name in Solver.registry) and all(
        name in written for name in Gradient.registry
    )
