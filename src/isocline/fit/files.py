"""The files of a run: each written aside and moved into place, so that there is never half of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isocline.fit.errors import UserError

POPULATION = "population.json"  # of a run of equations whose series differ


def write(path: Path, text: str) -> None:
    """Writes UTF-8 text."""
    place(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def place(path: Path, save: Callable[[Path], Any]) -> None:
    """Calls `save` with a path beside, and moves what it wrote to `path`."""
    aside = path.with_name(path.name + ".tmp")
    try:
        save(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_run(folder: Path) -> dict[str, Any]:
    """config.json of a run; UserError where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: not a run (it has no config.json); expected a folder that isocline fit left as its --out"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not the configuration of a run: {error}") from error
