"""Every public name has a docstring, and every example in one runs and prints what it says."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import isocline

MODULES = sorted(m.name for m in pkgutil.walk_packages(isocline.__path__, "isocline.") if "__main__" not in m.name)
PUBLIC = [getattr(isocline, name) for name in isocline.__all__]
PUBLIC += [getattr(isocline.nn, name) for name in isocline.nn.__all__]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = importlib.import_module(name)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        report = []
        runner.run(example, out=report.append)
        assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("thing", [t for t in PUBLIC if callable(t)], ids=lambda t: t.__name__)
def test_a_public_name_has_an_example(thing):
    assert ">>>" in (inspect.getdoc(thing) or ""), f"{thing.__name__} has no example"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is(name):
    assert (importlib.import_module(name).__doc__ or "").strip()
