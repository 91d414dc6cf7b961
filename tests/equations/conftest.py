"""Measured sets; where one is not to be had, a test is skipped with a line that says so."""

import csv
import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("ISOCLINE_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture
def rows():
    """Reads a file of a data set: a list of dicts."""

    def read(dataset, name):
        path = DATA / dataset / name
        if not path.exists():
            pytest.skip(f"no {dataset}/{name} in {DATA}: set ISOCLINE_DATA to a folder that has it")
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    return read
