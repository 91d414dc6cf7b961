"""`isocline export`: a run's model as a source file."""

from __future__ import annotations

from pathlib import Path

from isocline.cli import fail
from isocline.fit import UserError
from isocline.fit import export as export_run
from isocline.fit.export import TARGETS
from isocline.fit.files import write


def export_command(run: Path, target: str, out: Path | None, solver: str) -> int:
    """0 when the file is written; exits with 2 on bad input."""
    try:
        text = export_run(run, target, solver=solver)
        path = out or run / TARGETS[target]
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--out {path}: expected a file in a folder that exists")
    except UserError as error:
        fail(str(error))
    write(path, text)
    print(f"{text.count(chr(10))} lines: {path}")
    return 0
