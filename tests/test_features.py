"""The page of features: each of its lines does what it says."""

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
SCRIPT = """
import features
assert features.PAGE.read_text(encoding="utf-8") == features.page(), "docs/features.md is out of date: run `make docs`"
"""


def test_the_page_is_written_from_lines_that_do_what_they_say():
    """In a process without checks of types at run time, which torch.compile would trace."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=DOCS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
