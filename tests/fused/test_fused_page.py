"""docs/fused.md: its examples print what they say."""

import doctest
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "fused.md"


@pytest.mark.machine
def test_every_example_prints_what_it_should():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 5 and result.failed == 0
