"""Tests that need a process of their own."""

import os
import subprocess
import sys


def passes(path):
    """Runs the tests of a file without checks of types at run time, which a tracer would trace too."""
    call = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(path)]
    environment = {**os.environ, "ISOCLINE_CHECK_TYPES": "0"}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
