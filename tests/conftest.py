"""Shapes and types of isocline's own annotations are checked at run time, in the tests only.

That takes three times as long as the tests themselves. So of every function the first calls of a test are checked, and few
later ones; and the cases of a test that has many differ: in one of eight types are checked. ISOCLINE_CHECK_TYPES=1 checks
every call in all, 0 none.
"""

import os
import zlib

import jaxtyping
import pytest
import torch
import typecheck

CHECKED = os.environ.get("ISOCLINE_CHECK_TYPES", "some")
if CHECKED != "0":
    typecheck.install(every_call=CHECKED == "1")

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _seen_through():
    """What watches a field for changes looks at the functions that the checker wrapped, not at what the checker counts."""
    from isocline.engines.fused.watch import Watch

    plain = Watch._callable

    def look(watch, thing):
        inner = typecheck.unwrapped(thing)
        plain(watch, thing) if inner is None else watch.waiting.append(inner)

    Watch._callable = look


@pytest.fixture(autouse=True, scope="session")
def _drawn_when_looked_at():
    import pages

    from isocline import report

    report.write_report = pages.keep


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _some_checked(request):
    name = request.node.name
    off = CHECKED == "some" and "[" in name and zlib.crc32(name.encode()) % 8 > 0
    jaxtyping.config.update("jaxtyping_disable", off)
    typecheck.counts.clear()
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_runtest_setup(item):
    """A test marked `machine` is skipped where there is no compiler to build it, with the line that says what to install."""
    if item.get_closest_marker("machine"):
        from isocline.engines.fused import build

        try:
            build.compiler()
        except build.NoMachineError as error:
            pytest.skip(str(error))


@pytest.fixture
def unchecked():
    """For tests that hand over wrong types on purpose: the library's own message is what they look at."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
