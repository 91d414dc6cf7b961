"""Measured sets; where one is not to be had, a test is skipped with a line that says so."""

import csv
import math
import os
from pathlib import Path

import pytest

from isocline.equations import Measured

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


@pytest.fixture
def warfarin(rows):
    """Concentration and effect in 32 subjects, with the dose and the weight of each as covariates."""
    by = {}
    for row in rows("pk_warfarin", "warfarin.csv"):
        by.setdefault(row["id"], []).append(row)
    found = []
    for name, group in by.items():
        seen = [r for r in group if r["evid"] == "0"]
        columns = {
            k: [float(r["dv"]) if r["dvid"] == k and (k == "pca" or float(r["dv"]) > 0) else math.nan for r in seen]
            for k in ("cp", "pca")
        }
        covariates = {
            "amt": next(float(r["amt"]) for r in group if r["evid"] == "1"),
            "wt": float(group[0]["wt"]),
        }
        found.append(Measured([float(r["time"]) for r in seen], columns, covariates, id=name))
    return found
