"""The page of features: each of its lines does what it says. Without type checks, which break a graph of torch.compile."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SPEC = importlib.util.spec_from_file_location("features", DOCS / "features.py")
assert SPEC is not None and SPEC.loader is not None
FEATURES = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(FEATURES)


@pytest.mark.parametrize("row", FEATURES.FEATURES, ids=lambda row: row[1])
def test_its_line_does_it(row, unchecked):
    FEATURES.run(row[3])


def test_the_page_is_written_from_them(unchecked):
    written = FEATURES.PAGE.read_text(encoding="utf-8")
    assert written == FEATURES.page(), "docs/features.md is out of date: run `make docs`"
