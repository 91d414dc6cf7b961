"""The smoothing spline's digits."""

import os
import subprocess
import sys


def test_the_last_digit_does_not_depend_on_the_threads_that_libraries_find():
    """A training makes another model of a last digit: `isocline fit` must give the same one wherever it runs."""
    code = (
        "import hashlib, numpy as np, torch; torch.set_num_threads(1);"
        "from isocline.fit.smooth import smoothing_spline;"
        "t = np.arange(91.0); y = np.sin(t / 3) + np.cos(7 * t) / 9;"
        "print(hashlib.md5(b''.join(x.tobytes() for x in smoothing_spline(t, y))).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": n}, capture_output=True, check=True
        ).stdout
        for n in ("1", "2")
    }
    assert len(found) == 1
