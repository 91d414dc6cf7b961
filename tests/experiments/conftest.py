"""Quick runs of experiments, in processes of their own, as a user has them."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isocline import experiments

DATA = Path(os.environ.get("ISOCLINE_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture
def quick(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """name -> the record of `isocline reproduce NAME --quick`; rows also by their names under "ours".

    Checks what holds for all: the rows are numbers, and every picture listed is there. Skips where a data set is missing.
    """

    def run(name: str) -> dict[str, Any]:
        for dataset in experiments.find(name).data:
            if not (DATA / dataset).is_dir():
                pytest.skip(f"no {dataset} in {DATA}: set ISOCLINE_DATA to a folder that has it")
        # The tests' checks of shapes make a training several times slower: here they stay off.
        code = "from isocline.cli import main; main()"
        command = [sys.executable, "-c", code, "reproduce", name, "--quick", "--threads", "1", "--out", str(tmp_path)]
        environment = {**os.environ, "ISOCLINE_DATA": str(DATA), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        (record,) = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert record["quick"] and record["rows"]
        for row in record["rows"]:
            assert row["ours"] is not None and math.isfinite(row["ours"]), row
        for picture in record["pictures"]:
            assert (tmp_path / "pictures" / picture).stat().st_size > 2000, picture
        record["ours"] = {row["what"]: row["ours"] for row in record["rows"]}
        record["folder"] = tmp_path
        return record

    return run
