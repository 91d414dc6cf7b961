"""The machine for aarch64, emulated: what it finds is what this processor's does. `make aarch64` runs the others there too."""

import os
import subprocess
import sys
from pathlib import Path

import emulated
import pytest
import torch

from isocline.engines.fused import build

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(emulated.MISSING), reason=emulated.TO_INSTALL),
]

# Vectors of 16 bytes and fused multiply-adds on either side.
FLAGS = {
    "here": {"ISOCLINE_CXXFLAGS": "-mfma"},
    "there": {},
}
PLAIN = ["relu", "compiled", "blow-up"]  # without functions
OWN = [
    "tanh",
    "silu",
    "sigmoid",
    "signal",
    "event",
]  # theirs are the machine's in single precision; all others the C library's


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("source", ["machine", "lane"])
def test_the_compiler_has_nothing_to_say(source, size):
    command = [emulated.COMPILER, *build.FLAGS, "-Wall", "-Wextra", "-Werror", f"-DISO_SIZE={size}", "-fsyntax-only"]
    done = subprocess.run([*command, build.HERE / f"{source}.cpp"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The solves of sampled.py, by this processor's machine and by the other's."""
    if "fma" not in build.features():
        pytest.skip("this processor rounds products and sums apart, the other does not")
    folder, path = tmp_path_factory.mktemp("aarch64"), os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))
    code = "import sys, sampled, emulated; sys.argv[1] == 'there' and emulated.install(); sampled.write(sys.argv[2])"
    for where, flags in FLAGS.items():
        command = [sys.executable, "-c", code, where, str(folder / where)]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": path, **flags}, check=True)
    return [torch.load(folder / where) for where in FLAGS]


def test_solves_are_those_of_this_processor(found):
    """States, gradients and counts: to the last bit where the C library has no part in them, else to a few roundings of it with
    fixed steps, and to the steps' tolerance where its last bits may choose another one."""
    here, there = found
    assert len(here) == len(there) == 176
    for case, (ys, gradients, counts) in there.items():
        name, dtype, batch, steps = case
        want, slopes, counted = here[case]
        if name in PLAIN or (name in OWN and dtype == torch.float32):
            assert torch.equal(counts, counted), case
            for got, wanted in zip((ys, *gradients), (want, *slopes), strict=True):
                assert torch.equal(got.nan_to_num(), wanted.nan_to_num()) and torch.equal(
                    got.isnan(), wanted.isnan()
                ), case
            continue
        loose = 1e-5 if steps == "adaptive" else 16 * torch.finfo(dtype).eps
        for got, wanted in zip((ys, *gradients), (want, *slopes), strict=True):
            torch.testing.assert_close(
                got, wanted, rtol=loose, atol=loose * float(wanted.nan_to_num().abs().max()), equal_nan=True
            )
        assert int((counts != counted).any(0).sum()) <= (batch // 20 if steps == "adaptive" else 0), case
