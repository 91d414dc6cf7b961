"""A cross-validation as a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isocline.report.html import page, write_text


def write_validation(found: dict[str, Any], path: Path) -> None:
    """Writes the page of a cross-validation, self-contained as that of a run.

    Args:
        found: the contents of `validation.json`.
        path: of the page; written aside and moved into place.
    """
    write_text(path, render_validation(found))


def render_validation(found: dict[str, Any]) -> str:
    """The page as text."""
    known = [row["nrmse"] for row in found["scores"] if row["nrmse"] is not None]
    rivals = [row for row in found["scores"][1:] if row["nrmse"] is not None]
    rival = min(rivals, key=lambda row: row["nrmse"])["model"] if rivals else "–"
    folds = [_fold(line, rival) for line in found["folds"]]
    return page(
        "validation.html",
        found=found,
        name=Path(found["table"]).name,
        how=_how(found),
        notes=_notes(found),
        rival=rival,
        folds=folds,
        held=sum(fold["held"] for fold in folds if not fold["failed"]),
        best=min(known, default=None),
        worst=max(known, default=None),
        highest=max((fold["own"] for fold in folds if fold["own"] is not None), default=None),
        config=json.dumps(found["config"], indent=1),
    )


def _fold(line: dict[str, Any], rival: str) -> dict[str, Any]:
    """What a row of the tables shows."""
    errors = {} if line["failed"] else {row["model"]: row["nrmse"] for row in line["scores"]}
    own, other = next(iter(errors.values()), None), errors.get(rival)
    won = own is not None and (other is None or own < other)
    return {"seconds": None, "coverage": None, **line, "own": own, "rival": other, "won": won}


def _how(found: dict[str, Any]) -> str:
    """Which parts were held out, in words."""
    plan, count = found["plan"], len(found["folds"])
    if plan["kind"] == "future":
        ahead = f"{plan['horizon']} rows after each" if plan["horizon"] else "up to the next"
        return f"the future left out, from {count} rolling origin{'s' * (count != 1)}, {ahead}"
    return "one series after another left out" if plan["folds"] is None else f"series left out in {count} groups"


def _notes(found: dict[str, Any]) -> list[str]:
    """What went wrong, a sentence each."""
    notes = [f"{line['name']} failed: {line['failed']}" for line in found["folds"] if line["failed"]]
    return [*notes, *(["Interrupted: the same command goes on."] if found["stopped"] == "interrupted" else [])]
