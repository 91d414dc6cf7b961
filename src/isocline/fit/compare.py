"""Several runs beside each other, on the held-out part that they share."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isocline.fit.errors import UserError
from isocline.fit.files import read_run
from isocline.fit.reading.table import Series
from isocline.fit.verdict import CLOSE


def digest(held: Sequence[Series], states: Sequence[str]) -> dict[str, Any] | None:
    """What makes a held-out part the same as another: its rows, to the last bit; None where nothing is held out."""
    whole = hashlib.sha256("\n".join(states).encode())
    parts = [s for s in held if len(s.t)]
    for s in parts:
        whole.update(s.id.encode() + b"\0")
        whole.update(np.ascontiguousarray(s.t, dtype="<f8").tobytes())
        whole.update(np.ascontiguousarray(s.y, dtype="<f8").tobytes())
    if not parts:
        return None
    return {"sha256": whole.hexdigest(), "series": len(parts), "rows": sum(len(s.t) for s in parts)}


def read_report(folder: str | Path) -> dict[str, Any]:
    """report.json of a run.

    Raises:
        UserError: where there is no run, it is not finished, or its report is that of an earlier version.
    """
    folder = Path(folder)
    read_run(folder)
    path = folder / "report.json"
    again = f"isocline fit --resume {folder}"
    if not path.is_file():
        raise UserError(f"{folder}: the run has no report yet; finish it with: {again}")
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not the report of a run: {error}; make it again with: {again}") from error
    if "held_out" not in report:
        raise UserError(f"{path}: of an earlier isocline ({report.get('isocline')}); make it again with: {again}")
    return report


def compare(runs: Sequence[str | Path]) -> dict[str, Any]:
    """The reports of some runs, and their scores side by side.

    Args:
        runs: folders, at least two, that hold out the same rows of the same states.

    Returns:
        "runs" ({"name", "folder", "report"} of each), "rows" (a dictionary of scores for each run, then for the baselines of the
        first), "scaled" (whether the runs work in the same coordinates, without which NRMSE and skill are left out),
        "measure" ("nrmse", or "mase"; None where neither can be compared), "best" (the name of the run with the lowest; None
        without a measure), "sentence" (about who is best, which may be nobody).

    Raises:
        UserError: for folders that are no finished runs, and where the held-out parts differ, saying in what.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise UserError("give two runs or more to compare, for example: isocline compare a-fit b-fit")
    names = _names(folders)
    reports = [read_report(folder) for folder in folders]
    for folder, report in zip(folders, reports, strict=True):
        if report["held_out"] is None:
            raise UserError(f"{folder}: the run held nothing out, so there is nothing to compare it by")
        if report["held_out"] != reports[0]["held_out"]:
            raise UserError(
                f"{folder}: its held-out part is not that of {folders[0]}: {_difference(reports[0], report)}; "
                f"compare runs with the same table, states and hold_out"
            )
    scaled = all(_coordinates(r) == _coordinates(reports[0]) for r in reports)
    same = all(r["table"]["sha256"] == reports[0]["table"]["sha256"] for r in reports)
    measures = [*(["nrmse", "skill"] if scaled else []), *(["mase"] if same else [])]
    rows = [_row(name, r, measures, r["scores"][0]) for name, r in zip(names, reports, strict=True)]
    rows += [_row(None, reports[0], measures, score) for score in reports[0]["scores"][1:]]
    measure = "nrmse" if scaled else "mase" if same else None
    best, sentence = _best(rows, measure)
    return {
        "runs": [
            {"name": name, "folder": str(folder), "report": report}
            for name, folder, report in zip(names, folders, reports, strict=True)
        ],
        "rows": rows,
        "scaled": scaled,
        "measure": measure,
        "best": best,
        "sentence": sentence,
    }


def _best(rows: list[dict[str, Any]], measure: str | None) -> tuple[str | None, str]:
    """The run with the lowest error, and a sentence that counts errors as equal which the observations do not tell apart."""
    if measure is None:
        return None, "The runs have neither their tables nor their scales in common: no one number tells which is best."
    told = [row for row in rows if row[measure] is not None]
    runs = sorted((row for row in told if row["run"] is not None), key=lambda row: row[measure])
    if not runs:
        return None, "No run has a forecast that stays finite on the held-out part."
    best = runs[0]
    close = 1 + max(CLOSE, 1 / math.sqrt(best["observations"]))
    sentence = f"Of the runs {best['run']} has the lowest {measure.upper()} on the held-out part, {best[measure]:.3g}"
    alike = [row["run"] for row in runs[1:] if row[measure] <= close * best[measure]]
    baseline = min((row for row in told if row["run"] is None), key=lambda row: row[measure], default=None)
    if baseline is not None and best[measure] > close * baseline[measure]:
        sentence += f", though the {baseline['model']} has a lower one, {baseline[measure]:.3g}"
    elif baseline is not None and baseline[measure] <= close * best[measure]:
        alike.append(f"the {baseline['model']} ({baseline[measure]:.3g})")
    if alike:
        sentence += f"; {best['observations']} observations cannot tell it apart from {' or '.join(alike)}"
    return best["run"], f"{sentence}."


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        twice = next(f for i, f in enumerate(folders) if resolved[i] in resolved[:i])
        raise UserError(f"{twice}: given twice; expected different runs")
    for depth in range(1, max(len(f.parts) for f in resolved)):
        names = ["/".join(f.parts[-depth:]) for f in resolved]
        if len(set(names)) == len(names):
            return names
    return [str(f) for f in resolved]


def _coordinates(report: dict[str, Any]) -> list[Any]:
    return [s["scale"] for s in report["table"]["states"]]


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """In what two held-out parts differ, in words."""

    def states(report: dict[str, Any]) -> str:
        return ", ".join(report["config"]["states"])

    if states(one) != states(other):
        return f"the states are {states(other)}, not {states(one)}"
    if one["table"]["sha256"] != other["table"]["sha256"]:
        return f"the tables are {other['table']['path']} and {one['table']['path']}, and their held-out rows differ"
    if one["config"]["hold_out"] != other["config"]["hold_out"]:
        return f"hold_out is {other['config']['hold_out']}, not {one['config']['hold_out']}"
    a, b = one["held_out"], other["held_out"]
    return f"{b['rows']} rows of {b['series']} series, not {a['rows']} of {a['series']}"


def _row(name: str | None, report: dict[str, Any], measures: Sequence[str], score: dict[str, Any]) -> dict[str, Any]:
    bands = (report["bands"] or {}).get("held_out") if name is not None else None
    return {
        "run": name,
        "model": score["model"],
        "parameters": score["parameters"],
        "observations": score["observations"],
        "rmse": score["rmse"],
        **{m: score[m] for m in measures},
        "coverage": {level: row["coverage"] for level, row in bands.items()} if bands else None,
        "seconds": report["seconds"] if name is not None else None,
    }
