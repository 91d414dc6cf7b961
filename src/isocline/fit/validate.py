"""Cross-validation: the recipe again and again with a part of the data held out, and the scores of all parts together."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from isocline._version import __version__
from isocline.fit.config import Config
from isocline.fit.errors import UserError
from isocline.fit.files import write
from isocline.fit.judge import number
from isocline.fit.population import TYPICAL, without_rows
from isocline.fit.reading.reader import Source, paths_of, read_source
from isocline.fit.reading.table import Table
from isocline.fit.rivals import AUTO, LAST, LINEAR
from isocline.fit.run import TABLE, Notify, Tell, fit, read_for, resume
from isocline.fit.split import Split
from isocline.fit.verdict import the, verdict

RESULT, PAGE = "validation.json", "validation.html"
ORIGINS = 5  # where nothing says how often
AGAINST = (LAST, LINEAR, AUTO)  # of which a skill is told

Line = dict[str, Any]


def validate(
    table: Source | Mapping[str, Any],
    config: Config | None = None,
    out: str | Path | None = None,
    *,
    future: int | None = None,
    horizon: int | None = None,
    series: bool = False,
    folds: int | None = None,
    tell: Tell = lambda recipe: None,
    notify: Notify = lambda what, value: None,
    stop: Callable[[], bool] = lambda: False,
    overwrite: bool = False,
    command: str = "",
    **settings: Any,
) -> dict[str, Any]:
    """Cross-validates the recipe: leave-future-out with rolling origins, or leave-one-series-out.

    Every fold is a whole run of `isocline.fit.fit`, scales, choice of the penalty and bands too, on what the fold leaves; what
    it holds out is only forecast. A fold that fails is counted and told. The same call goes on where an earlier one was
    broken off.

    Args:
        table: as for `isocline.fit.fit`.
        config: the settings of every fold, all but `hold_out`; or give them by name.
        out: a folder for the result and a run for each fold; None keeps nothing.
        future: how many origins: the window that teaches grows from one to the next, from the first half of every series
            on, and what comes after an origin is forecast (5, where nothing else is asked for).
        horizon: rows that are forecast after every origin; None: as far as the next.
        series: instead of the future, hold out whole series, one after another; of each its first dozen rows are seen, to
            start from.
        folds: that many groups of series, drawn by lot, in place of one after another.
        tell, stop, command: as for `isocline.fit.fit`.
        notify: as there; and called with ("fold", dict) when a fold begins, and ("scored", dict) when it ends.
        overwrite: replace an earlier validation in `out`.

    Returns:
        What is kept in `validation.json`: "folds" (a dictionary each: "name", rows "trained" on and "held" out, "scores" of
        every model, "skill" of the run's model over simple ones, "coverage" of the bands, "seconds", and why it "failed", else
        None), "scores" of all folds together, "skill", "coverage", "failed" (how many), "seconds", "verdict", "won",
        "stopped" ("done" or "interrupted").

    Raises:
        UserError: for what is the caller's to mend, and where every fold fails.

    Source:
        Bürkner, Gabry & Vehtari (2020), Journal of Statistical Computation and Simulation 90, 2499-2523 (leave-future-out);
        Tashman (2000), International Journal of Forecasting 16, 437-450 (rolling origins).

    Example:
        >>> rows = {"t": [0.3 * i for i in range(40)], "x": [math.exp(-0.1 * i) for i in range(40)]}
        >>> quick = {"hidden": (4,), "matching": 20, "iterations": 2, "polish": 5, "starts": 1, "members": 0, "blocks": 0}
        >>> found = validate(rows, future=2, horizon=5, **quick)
        >>> [(fold["trained"], fold["held"]) for fold in found["folds"]]
        [(20, 5), (35, 5)]
    """
    if config is not None and settings:
        raise UserError(f"give a Config or settings by name ({', '.join(settings)}), not both")
    config = Config.make(**settings) if config is None else config
    if "hold_out" in config.model_fields_set:
        raise UserError(f"hold_out={config.hold_out}: validation holds out by itself; say how with future or series")
    plan = _plan(future, horizon, series, folds)
    if out is None:
        with TemporaryDirectory(prefix="isocline-") as own:
            return _go(table, config, Path(own), plan, tell, notify, stop, overwrite, command)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, expected a folder for the validation; choose another")
    return _go(table, config, folder, plan, tell, notify, stop, overwrite, command)


def read_validation(folder: str | Path) -> dict[str, Any]:
    """validation.json of a folder.

    Raises:
        UserError: where there is none, or it is broken.
    """
    path = Path(folder) / RESULT
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not the result of a validation: {error}") from error


# ---- which folds ------------------------------------------------------------------------------------------------------
def _plan(future: int | None, horizon: int | None, series: bool, folds: int | None) -> dict[str, Any]:
    """What was asked for, checked."""
    if series and (future is not None or horizon is not None):
        raise UserError("series: leaves whole series out; expected it without future and horizon")
    if folds is not None and not series:
        raise UserError(
            f"folds={folds}: the number of groups of series; expected it with series (--series); for rolling origins give future (--future {folds})"
        )
    for name, value, least in (("future", future, 1), ("horizon", horizon, 1), ("folds", folds, 2)):
        if value is not None and value < least:
            raise UserError(f"{name}={value}: expected {least} or more")
    if series:
        return {"kind": "series", "folds": folds}
    return {"kind": "future", "folds": ORIGINS if future is None else future, "horizon": horizon}


def _held(plan: dict[str, Any], table: Table) -> list[str]:
    """`Config.hold_out` of every fold."""
    if plan["kind"] == "future":
        ahead = "" if plan["horizon"] is None else f":{plan['horizon']}"
        return [f"future:{k + 1}/{plan['folds']}{ahead}" for k in range(plan["folds"])]
    if len(table.series) < 2:
        raise UserError(f"{table.path}: the table holds one series; expected several, or validate on the future")
    if plan["folds"] is None:
        return [f"series:{s.id}" for s in table.series]
    if plan["folds"] > len(table.series):
        raise UserError(f"folds={plan['folds']}: the table holds {len(table.series)} series; expected at most as many")
    return [f"fold:{k + 1}/{plan['folds']}" for k in range(plan["folds"])]


# ---- fold after fold --------------------------------------------------------------------------------------------------
def _go(
    table: Source | Mapping[str, Any], config: Config, folder: Path, plan: dict[str, Any],
    tell: Tell, notify: Notify, stop: Callable[[], bool], overwrite: bool, command: str,
) -> dict[str, Any]:  # fmt: skip
    source = pd.DataFrame(dict(table)) if isinstance(table, Mapping) else table
    read = read_for(source, config)[1]
    held = _held(plan, read)
    Split.of(read, held[-1])  # refuses what no fold could do before anything is written
    asked = {"plan": plan, "config": config.model_dump(mode="json"), "sha256": read.sha256}
    if overwrite and (folder / RESULT).exists():
        for old in [*folder.glob("fold-*"), folder / RESULT, folder / PAGE]:
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    _same(folder, asked)
    folder.mkdir(parents=True, exist_ok=True)
    paths = paths_of(source)
    if paths is None:  # a data frame is gone with its process
        write(folder / TABLE, read_source(source)[0].frame.to_csv(index=False))
        paths = [folder / TABLE]
    head = {"isocline": __version__, "command": command, "table": read.path, **asked}
    if not (folder / RESULT).exists():
        write(folder / RESULT, json.dumps({**head, "stopped": "interrupted", **_together([], read, plan), "folds": []}))
    lines: list[Line] = []
    stopped = "done"
    for k, hold_out in enumerate(held):
        if stop():
            stopped = "interrupted"
            break
        line = _described(k, len(held), hold_out, read)
        notify("fold", line)
        report = _one(paths, config.model_copy(update={"hold_out": hold_out}), folder / line["run"], tell, notify, stop)
        if not isinstance(report, str) and report["stopped"] == "interrupted":
            stopped = "interrupted"
            break
        line |= {"failed": report} if isinstance(report, str) else _scored(report)
        lines.append(line)
        notify("scored", line)
    if lines and all(line["failed"] for line in lines) and stopped == "done":
        if not list(folder.glob("fold-*")):  # refused, not failed on the way: nothing to go on with
            (folder / RESULT).unlink()
        raise UserError(f"every fold failed, the first with: {lines[0]['failed']}")
    result = {**head, "stopped": stopped, "folds": lines, **_together(lines, read, plan)}
    write(folder / RESULT, json.dumps(result, indent=1, allow_nan=False))
    from isocline.report import write_validation  # with what draws, which little else needs

    write_validation(result, folder / PAGE)
    return result


def _same(folder: Path, asked: dict[str, Any]) -> None:
    """Refuses a folder that holds the folds of another validation."""
    if not (folder / RESULT).exists():
        return
    before = read_validation(folder)
    changed = [name for name in asked if before.get(name) != asked[name]]
    if changed:
        what = {"plan": "other folds", "config": "other settings", "sha256": "another table"}[changed[0]]
        raise UserError(f"{folder}: holds a validation with {what}; choose another --out, or give --overwrite")


def _one(
    paths: list[Path], config: Config, run: Path, tell: Tell, notify: Notify, stop: Callable[[], bool]
) -> dict[str, Any] | str:
    """The report of one fold, begun, gone on with, or read where it is done; or in words why it failed."""
    handlers: dict[str, Any] = {"tell": tell, "notify": notify, "stop": stop, "page": False}
    try:
        if (run / "report.json").exists():
            report = json.loads((run / "report.json").read_text(encoding="utf-8"))
            if report["stopped"] == "done":
                return report
        if (run / "config.json").exists():
            return resume(run, paths, **handlers)
        return fit(paths, config, run, **handlers)
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever one fold runs into must not cost the others
        return f"{type(error).__name__}: {error}"


def _described(k: int, count: int, hold_out: str, table: Table) -> Line:
    """What a fold is, before it is fitted."""
    line: Line = {"fold": k + 1, "of": count, "hold_out": hold_out, "run": f"fold-{k + 1:02d}", "failed": None}
    try:
        split = Split.of(table, hold_out)
    except UserError:  # told by the fit itself
        return {**line, "name": hold_out, "trained": 0, "held": 0}
    out = [h for h in split.held if len(h.t)]
    rows = {"trained": sum(len(s.t) for s in split.taught), "held": sum(len(h.t) for h in out)}
    if not hold_out.startswith("future:"):
        names = [s.id for s in out]
        return {**line, "name": ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else ""), **rows}
    name = f"from {table.clock.text(out[0].t[0])}" if len(table.series) == 1 else f"origin {k + 1}"
    return {**line, "name": name, **rows}


def _scored(report: dict[str, Any]) -> Line:
    """What a fold's report says."""
    bands = (report["bands"] or {}).get("coverage")
    return {
        "scores": report["scores"],
        "skill": _skills(report["scores"]),
        "coverage": bands,
        "log": [s["name"] for s in report["table"]["states"] if s["scale"]["kind"] == "log"],
        "seconds": report["seconds"],
        "warnings": report["warnings"],
    }


def _skills(scores: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """1 − error of the first model / error of another, for those that there are."""
    errors = {row["model"]: row["nrmse"] for row in scores}
    own = scores[0]["nrmse"]
    return {
        name: 1 - own / errors[name] if own is not None and errors[name] else None for name in AGAINST if name in errors
    }


# ---- all folds together -----------------------------------------------------------------------------------------------
def _together(lines: Sequence[Line], table: Table, plan: dict[str, Any]) -> dict[str, Any]:
    """Pooled scores and the verdict."""
    done = [line for line in lines if not line["failed"]]
    failed = len(lines) - len(done)
    seconds = round(sum(line["seconds"] for line in done), 2)
    empty = {"scores": [], "skill": {}, "coverage": None, "failed": failed, "seconds": seconds}
    if not done:
        return {**empty, "verdict": "No fold is done yet.", "won": False}
    scores = pooled([line["scores"] for line in done])
    apart = _distinct([line["hold_out"] for line in done], table)
    what = ("rolling origin" if plan["kind"] == "future" else "fold") + "s" * (len(done) != 1)
    rivals = [row for row in scores if row["model"] != TYPICAL]  # which is the model itself, less informed
    sentence, won = verdict([{**row, "observations": min(row["observations"], apart)} for row in rivals],
                            f"over {len(done)} {what}")  # fmt: skip
    sentences = [sentence + without_rows(scores), *_agreement(rivals, done)]
    if failed:
        sentences.append(
            f"{failed} of {len(lines)} folds failed and {'counts' if failed == 1 else 'count'} in none of this."
        )
    if len({tuple(line["log"]) for line in done}) > 1:
        sentences.append("Not all folds take the same columns in logarithms: --scale or --log makes them.")
    return {
        "scores": scores,
        "skill": _skills(scores),
        "coverage": _coverage(done),
        "failed": failed,
        "seconds": seconds,
        "verdict": " ".join(sentences),
        "won": won,
    }


def pooled(folds: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Scores of all folds together, of the models that every fold has; the run's own first.

    Errors are root mean squares over all observations of all folds. NRMSE is pooled from those of the folds, each in the
    coordinates that its own training part gave. None where a forecast is not finite in one of the folds.
    """
    out: list[dict[str, Any]] = []
    for first in folds[0]:
        own = [row for fold in folds for row in fold if row["model"] == first["model"]]
        if len(own) < len(folds):
            continue
        counts = [row["observations"] for row in own]
        columns = {
            name: _mean_square([row["rmse"][name] for row in own], [row["counts"][name] for row in own])
            for name in first["rmse"]
        }
        out.append(
            {
                "model": first["model"],
                "parameters": max(row["parameters"] for row in own),
                "observations": sum(counts),
                "rmse": columns,
                "nrmse": _mean_square([row["nrmse"] for row in own], counts),
            }
        )
    last = next((row["nrmse"] for row in out if row["model"] == LAST), None)
    for row in out:
        row["skill"] = 1 - row["nrmse"] / last if last and row["nrmse"] is not None else None
    return out


def _mean_square(errors: Sequence[float | None], weights: Sequence[int]) -> float | None:
    """Root of the weighted mean of squares; None where one that counts is not finite, or none does."""
    pairs = [(e, w) for e, w in zip(errors, weights, strict=True) if w]
    if not pairs or any(e is None for e, _ in pairs):
        return None
    values = np.array([e for e, _ in pairs], dtype=np.float64)
    return number(math.sqrt(np.average(values**2, weights=[w for _, w in pairs])))


def _coverage(done: Sequence[Line]) -> dict[str, float] | None:
    """The share of all observations inside the bands, of the folds that have bands."""
    banded = [(line["coverage"], line["scores"][0]["observations"]) for line in done if line["coverage"]]
    if not banded:
        return None
    return {
        level: float(np.average([shares[level] for shares, _ in banded], weights=[n for _, n in banded]))
        for level in banded[0][0]
    }


def _distinct(held: Sequence[str], table: Table) -> int:
    """Observations that are held out, each counted once: with a long horizon folds share some."""
    seen: set[tuple[str, float]] = set()
    count = 0
    for hold_out in held:
        for s in Split.of(table, hold_out).held:
            new = np.array([(s.id, t) not in seen for t in s.t.tolist()], dtype=bool)
            count += int((~np.isnan(s.y[new])).sum()) if len(new) else 0
            seen |= {(s.id, t) for t in s.t.tolist()}
    return count


def _agreement(scores: Sequence[dict[str, Any]], done: Sequence[Line]) -> list[str]:
    """In how many folds the model beats the best of the others, in a sentence: a mean can rest on one fold."""
    name = scores[0]["model"]
    known = [row for row in scores[1:] if row["nrmse"] is not None]
    if len(done) < 2 or not known:
        return []
    rival = min(known, key=lambda row: row["nrmse"])
    errors = [{row["model"]: row["nrmse"] for row in line["scores"]} for line in done]
    lower = sum(e[name] is not None and e[name] < e[rival["model"]] for e in errors if e[rival["model"]] is not None)
    lost = sum(e[name] is None for e in errors)
    out = [f"Fold by fold the {name} has the lower error in {lower} of {len(done)}, compared with {the(rival)}."]
    if lost:
        out.append(f"In {lost} of {len(done)} folds its forecast does not stay finite.")
    return out
