"""What tests of the fused engine share."""

import logging

import pytest


@pytest.fixture
def solved(monkeypatch):
    """How many solves the machine did."""
    from isocline.engines.fused.solve import Run

    count, whole = [], Run.solve
    monkeypatch.setattr(Run, "solve", lambda *a, **k: (count.append(1), whole(*a, **k))[1])
    return count


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="isocline")
    return lambda: [r.getMessage() for r in caplog.records if "engine='auto'" in r.getMessage()]
