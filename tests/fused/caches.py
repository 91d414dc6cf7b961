"""A cache of compiled fields for the tests of a module."""

import pytest

from isocline.engines.fused import build


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Neither read nor filled: the user's, but for the machine."""
    build.library()
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(build, "folder", lambda: folder)
        yield folder
