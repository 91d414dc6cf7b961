"""The experiments with both engines: writes engines.md.

python benchmarks/engines.py [NAME ...] [--full] [--data FOLDER] [--out FILE]

Every experiment's run as `isocline reproduce NAME` makes it, of some the whole one and of others the quick one of `--quick`, in a
process of its own: with engine="auto", the models' default, and with the eager engine in its place; processor time of the whole
process, imports and pictures included: of a quick run these are 5 to 10 seconds, whatever the engine.
What goes through the eager engine either way (GPUs, convolutions, events, stiff solvers, shared steps) shows a ratio near 1.
Experiments whose data are not in the folder are left out. What was measured is kept in engines.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from common import origin, table

from isocline import experiments

AUTO = "from isocline.cli import main; main()"
EAGER = f"from isocline import fusing; fusing.missing.append(fusing.NoMachineError('switched off')); {AUTO}"


def seconds(name: str, code: str, data: str, quick: bool) -> float | None:
    """Of the processor for one run; None where it fails, as without its data."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code, "reproduce", name, "--threads", "1", "--out", folder]
        command += ["--quick"] if quick else []
        environment = {**os.environ, "ISOCLINE_DATA": data, "OMP_NUM_THREADS": "1"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent if done.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=experiments.names())
    parser.add_argument("--full", action="store_true", help="whole runs, minutes each")
    parser.add_argument("--data", default=os.environ.get("ISOCLINE_DATA", ""), help="where the experiments' data are")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), help="file to write")
    options = parser.parse_args()
    file = options.out.with_suffix(".json")
    kept = json.loads(file.read_text()) if file.exists() else {"full": {}, "quick": {}}
    for name in options.names:
        found = [seconds(name, code, options.data, not options.full) for code in (AUTO, EAGER)]
        if None not in found:
            kept["full" if options.full else "quick"][name] = [*found, date.today().isoformat()]
            file.write_text(json.dumps(kept, indent=1) + "\n")
        print(name, *(x if x is None else round(x, 1) for x in found), flush=True)
    rows = [
        [name, run, f"{auto:.1f}", f"{eager:.1f}", f"{eager / auto:.2f}", day]
        for run, of_run in kept.items()
        for name, (auto, eager, day) in sorted(of_run.items())
    ]
    head = ["experiment", "run", "auto, s", "eager, s", "eager / auto", "measured"]
    text = (__doc__ or "").split("\n\n", 2)[2]
    options.out.write_text(f"# The experiments with both engines\n\n{origin()}\n{text}\n{table(head, rows)}")


if __name__ == "__main__":
    main()
