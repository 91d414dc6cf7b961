"""`isocline export`: a run's model as a file for others."""

from __future__ import annotations

from pathlib import Path

from isocline.cli import fail
from isocline.fit import UserError
from isocline.fit.export import TARGETS, exported
from isocline.fit.files import place


def export_command(run: Path, target: str, out: Path | None, solver: str | None) -> int:
    """0 when the file is written; exits with 2 on bad input."""
    try:
        made = exported(run, target, solver)
        path = out or run / TARGETS[target]
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--out {path}: expected a file in a folder that exists")
    except UserError as error:
        fail(str(error))
    text = isinstance(made.content, str)
    content = made.content.encode() if isinstance(made.content, str) else made.content
    place(path, lambda aside: aside.write_bytes(content))
    size = content.count(b"\n") if text else len(content)
    print(f"{size:,} {'lines' if text else 'bytes'}: {path}")
    if made.note:
        print(made.note)
    return 0
