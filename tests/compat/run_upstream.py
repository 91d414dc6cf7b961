"""Runs torchdiffeq's own tests against isocline.compat.torchdiffeq.

    python tests/compat/run_upstream.py CHECKOUT [METHOD …]

CHECKOUT is a checkout of torchdiffeq, of any version; nothing of it is part of this repository. METHODs are left out of
its lists (for those without a solver here). Prints one line a test function: its seconds, and passed or how many of its
subtests failed. What failed is run once more with the checkout's own package: where that fails alike, the fault is not
here (SciPy's LSODA, for one, has ignored `min_step` since it was rewritten in C). Returns 0 where nothing else failed.
"""

import argparse
import importlib
import re
import subprocess
import sys
import time
import unittest
import warnings
from collections import Counter
from pathlib import Path

from isocline.compat import torchdiffeq

FILES = ("api_tests", "event_tests", "gradient_tests", "norm_tests", "odeint_tests")


class Lines(unittest.TestResult):
    """Counts failed subtests by function and keeps the first message of each."""

    def __init__(self) -> None:
        super().__init__()
        self.ran, self.failed, self.first = [], Counter(), {}

    def startTest(self, test):
        super().startTest(test)
        self.ran.append(test.id())

    def _fail(self, test, error, where=""):
        self.failed[test.id()] += 1
        self.first.setdefault(test.id(), []).append(f"{where} {error[0].__name__}: {error[1]}".strip().splitlines()[0])

    def addError(self, test, err):
        self._fail(test, err)

    def addFailure(self, test, err):
        self._fail(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._fail(test, err, subtest._subDescription())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("without", nargs="*", metavar="METHOD", help="methods to leave out")
    parser.add_argument("--only", default="", help="only functions whose name contains this")
    parser.add_argument("--all", action="store_true", help="show every failed subtest, not the first five")
    parser.add_argument("--itself", action="store_true", help="run the checkout's own package instead")
    options = parser.parse_args()
    if options.itself:
        sys.path.insert(0, str(options.checkout))
    else:
        sys.modules["torchdiffeq"] = torchdiffeq
    sys.path.insert(0, str(options.checkout / "tests"))
    problems = importlib.import_module("problems")
    for name, value in list(vars(problems).items()):
        if name.endswith("METHODS"):
            setattr(problems, name, tuple(method for method in value if method not in options.without))
    suite = []
    for file in FILES:
        for group in unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(file)):
            suite += (test for test in group if options.only in test.id())
    result, excused = Lines(), 0
    for one in suite:
        begun = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one.run(result)
        test, failed = one.id(), result.failed[one.id()]
        print(f"{test}: {f'{failed} failed' if failed else 'passed'}, {time.monotonic() - begun:.0f} s", flush=True)
        shown = result.first.get(test, [])
        for line in shown if options.all else shown[:5]:
            print(f"    {line[:220]}")
        if failed and not options.itself:
            alike = failed_in_checkout(options, test)
            excused += alike >= failed
            print(f"    torchdiffeq itself: {f'{alike} failed' if alike else 'passed'}", flush=True)
    good = sum(not result.failed[test] for test in result.ran)
    also = f", {excused} more fail in torchdiffeq itself as well" if excused else ""
    print(f"{good} of {len(result.ran)} functions passed{also}")
    return 0 if good + excused == len(result.ran) else 1


def failed_in_checkout(options: argparse.Namespace, test: str) -> int:
    """How many subtests of the function fail with the checkout's own package, in a process of its own."""
    command = [sys.executable, __file__, str(options.checkout), *options.without, "--only", test, "--itself"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(rf"^{re.escape(test)}: (\d+) failed", said, re.MULTILINE)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    sys.exit(main())
