"""docs/gradients.md: its examples print what they say, and its numbers are those of the benchmark."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "gradients.md").read_text()


def test_every_example_prints_what_it_should():
    spec = importlib.util.spec_from_file_location("checks", ROOT / "docs" / "learn" / "checks.py")
    checks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checks)
    report = []
    page = checks.examples(ROOT / "docs" / "gradients.md")
    result = checks.doctest.DocTestRunner().run(page, out=report.append)
    assert result.attempted > 20 and result.failed == 0, "".join(report)


def test_its_tables_of_costs_are_those_measured():
    measured = re.findall(r"^\|.*\|$", (ROOT / "benchmarks" / "gradients.md").read_text(), re.MULTILINE)
    assert len(measured) == 2 * 8  # header, rule and six methods, of two problems
    assert all(line in PAGE for line in measured) and "`python benchmarks/gradients.py`" in PAGE


def test_every_gradient_is_on_it():
    from isocline.gradients import Gradient

    assert all(f"`{method.__name__}`" in PAGE for method in Gradient.registry.values())
