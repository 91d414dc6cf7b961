"""docs/models.md: its examples run, and every model is on it."""

import doctest
import inspect
from pathlib import Path

import torch

import isocline.nn

PAGE = Path(__file__).parents[1] / "docs" / "models.md"


def test_every_example_prints_what_it_should():
    torch.manual_seed(0)
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 20 and result.failed == 0


def test_every_model_is_on_it():
    text = PAGE.read_text(encoding="utf-8")
    models = [n for n in isocline.nn.__all__ if n.endswith(("ODE", "CDE", "RNN", "CNF"))]
    assert len(models) == 9 and all(f"`{name}`" in text for name in models)
    assert all(inspect.getdoc(getattr(isocline.nn, name)) for name in models)
