"""Shapes and types of isocline's own annotations are checked at run time, in the tests only."""

import os

import jaxtyping
import pytest
import torch

if os.environ.get("ISOCLINE_CHECK_TYPES", "1") == "1":
    jaxtyping.install_import_hook("isocline", "typecheck.check")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """For tests that hand over wrong types on purpose: the library's own message is what they look at."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
