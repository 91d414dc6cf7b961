"""Every public name has a docstring, and every example in one runs and prints what it says."""

import ast
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

import isocline

MODULES = sorted(m.name for m in pkgutil.walk_packages(isocline.__path__, "isocline.") if "__main__" not in m.name)


def public(module: ModuleType) -> list[tuple[str, str]]:
    """(name, text that shows how it is used) of what a module exports, and of what the modules among its exports do."""
    found = []
    overview = inspect.getdoc(module) or ""
    for name in getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]):
        thing = getattr(module, name)
        if isinstance(thing, ModuleType):
            found += public(thing) if thing.__name__.startswith("isocline.") else []
        elif callable(thing) and thing.__module__.startswith(module.__name__):
            # A class that nobody makes by hand may be shown where the module introduces it.
            text = inspect.getdoc(thing) or ""
            found.append((f"{module.__name__}.{name}", text + overview if f"`{name}`" in overview else text))
    return found


def examples(name: str) -> list[doctest.DocTest]:
    """Those of a module; a compiler that has traced it in this process leaves functions of its own there."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for test in finder.find(importlib.import_module(name), name) if test.examples]
    return [test for test in found if "__resume_at_" not in test.name]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for example in examples(name):
        torch.manual_seed(0)
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        report = []
        runner.run(example, out=report.append)
        assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_no_example_is_missed(name):
    """The finder passes over what a decorator hides from it, and says nothing."""
    source = Path(importlib.import_module(name).__file__ or "").read_text()
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    written = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    written = [node for node in written if ">>>" in (ast.get_docstring(node) or "")]
    assert len(examples(name)) == len(written)


@pytest.mark.parametrize(("name", "text"), public(isocline), ids=[name for name, _ in public(isocline)])
def test_a_public_name_has_an_example(name, text):
    assert ">>>" in text, f"{name} has no example"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is(name):
    assert (importlib.import_module(name).__doc__ or "").strip()
