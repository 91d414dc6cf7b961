"""The record of a run: rows with machine, time and commit, appended to `results/NAME.json`."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from isocline._version import __version__
from isocline.engines.fused import build
from isocline.experiments.lab.experiment import Row
from isocline.fit.errors import UserError
from isocline.fit.files import write


def read(path: Path) -> list[dict[str, Any]]:
    """Earlier runs, the oldest first; UserError for a file that is not a record."""
    if not path.exists():
        return []
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not a record of runs: {error}; move it away") from error
    if not isinstance(runs, list):
        raise UserError(f"{path}: expected a list of runs, found {type(runs).__name__}; move it away")
    return runs


def append(path: Path, run: dict[str, Any]) -> None:
    """Adds a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps([*read(path), run], indent=1, ensure_ascii=False) + "\n")


def run_of(
    name: str,
    quick: bool,
    seed: int,
    seconds: tuple[float, float],
    rows: list[Row],
    pictures: list[str],
    command: str,
    device: str = "cpu",
) -> dict[str, Any]:
    """A run as it is kept; `seconds` as they passed and of processor time; numbers that are not finite become None."""
    kept = [{k: _finite(v) for k, v in asdict(row).items() if v not in (None, "")} for row in rows]
    return {
        "experiment": name,
        "quick": quick,
        "seed": seed,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds[0], 1),
        "processor_seconds": round(seconds[1], 1),
        "command": command,
        "isocline": __version__,
        "commit": commit(),
        "machine": machine(device),
        "rows": kept,
        "pictures": pictures,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def processor() -> str:
    """Its name; of an ARM, which Linux does not name, the numbers of its maker and kind."""
    told: dict[str, str] = {}
    for line in build.CPUINFO.read_text().splitlines() if build.CPUINFO.exists() else ():
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    if platform.system() == "Darwin":
        command = [build.SYSCTL, "-n", "machdep.cpu.brand_string"]
        told["model name"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    elif "CPU part" in told:
        told.setdefault("model name", f"{platform.machine()}, maker {told['CPU implementer']}, kind {told['CPU part']}")
    return told.get("model name") or platform.processor() or platform.machine()


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads, versions; the device, where that is another."""
    other = {} if device == "cpu" else {"device": torch.cuda.get_device_name(device) if "cuda" in device else device}
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **other,
    }


def commit() -> str:
    """Of the source tree this runs from, with a + where it has changes; "" for an installed package.

    For a copy of the tree without its repository the environment variable ISOCLINE_COMMIT says it.
    """
    if given := os.environ.get("ISOCLINE_COMMIT"):
        return given
    here = Path(__file__).parent

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()

    found = git("rev-parse", "--short=10", "HEAD")
    return found + ("+" if found and git("status", "--porcelain", "--untracked-files=no", "--", "src") else "")


__all__ = ["append", "commit", "machine", "read", "run_of"]
