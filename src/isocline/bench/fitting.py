"""How good `isocline fit` is: every set, every seed, the same recipe; a line for each fit in a file that a break cannot spoil."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isocline.bench.sets import DataSet, Task, error, located, spread
from isocline.fit import Config, UserError
from isocline.fit.autoregression import equal_steps
from isocline.fit.files import place
from isocline.fit.fitted import Fitted
from isocline.fit.judge import NEURAL, distances, number
from isocline.fit.reading.table import Series
from isocline.fit.rivals import Rivals, all_equal, model_forecaster
from isocline.fit.run import fit, read_as
from isocline.fit.scores import of_bands
from isocline.fit.split import Split

Line = dict[str, Any]


def run(
    sets: Sequence[DataSet],
    seeds: int,
    out: Path,
    data: Path | None = None,
    tell: Callable[[str], None] = print,
    settings: dict[str, Any] | None = None,
) -> list[Line]:
    """Fits what has not been fitted yet, seed by seed, and returns all lines there are.

    Args:
        sets: of `isocline.bench.sets`.
        seeds: 0, 1, …
        out: the file of lines.
        data: the folder that holds the sets.
        tell: called with a sentence for every fit, and for every set that is not there.
        settings: of `isocline.fit`, for all fits.

    Raises:
        UserError: where no set is there.
    """
    tasks: list[tuple[DataSet, Task]] = []
    for one in sets:
        try:
            path = located(one.file, data) if one.file else Path()
        except UserError as missing:
            tell(f"left out: {one.name}: {missing}")
            continue
        tasks += [(one, task) for task in one.tasks(path)]
    if not tasks:
        raise UserError("no data set is there; give the folder that holds them with --data, or set ISOCLINE_DATA")
    lines = read(out)
    done = {(line["set"], line["part"], line["seed"]) for line in lines}
    for seed in range(seeds):
        for one, group in _sharing(tasks):
            missing = [task for task in group if (one.name, task.part, seed) not in done]
            for line in fitted(one, missing, seed, settings or {}):
                append(out, line)
                lines.append(line)
                own = "failed" if line["failed"] else f"error {line['error'][NEURAL]:.3g}"
                part = f", {line['part']}" if line["part"] else ""
                tell(f"{one.name}{part}, seed {seed}: {own}, {line['seconds']:.0f} s")
    return lines


def _sharing(tasks: Sequence[tuple[DataSet, Task]]) -> list[tuple[DataSet, list[Task]]]:
    """Tasks that follow each other and need the same fit, together."""
    groups: list[tuple[DataSet, list[Task]]] = []
    for one, task in tasks:
        if groups and groups[-1][1][0].train is task.train and groups[-1][1][0].settings == task.settings:
            groups[-1][1].append(task)
        else:
            groups.append((one, [task]))
    return groups


def fitted(one: DataSet, tasks: Sequence[Task], seed: int, settings: dict[str, Any]) -> Iterator[Line]:
    """One fit and its forecasts, a line a task, beside those of simple models that saw the same."""
    if not tasks:
        return
    first = tasks[0]
    heads = [{"set": one.name, "part": task.part, "seed": seed, "rows": len(first.train)} for task in tasks]
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder) / "train.csv", Path(folder) / "run"
        first.train.to_csv(table, index=False)
        time_, *states = (c for c in first.train.columns if c not in ("id", *first.settings.get("inputs", ())))
        named = {"time": time_, "states": tuple(states), **({"id": "id"} if "id" in first.train else {})}
        config = Config.make(**{**named, **first.settings, **settings, "hold_out": 0.0, "seed": seed})
        began = time.monotonic()
        try:
            fit(table, config, out, page=False)
        except UserError as why:
            for head in heads:
                yield {**head, "seconds": 0.0, "error": {NEURAL: None}, "failed": True, "why": str(why)}
            return
        seconds = round(time.monotonic() - began, 1)
        for head, task in zip(heads, tasks, strict=True):
            yield {**head, "seconds": seconds, **_scored(one, task, out)}


def _scored(one: DataSet, task: Task, out: Path) -> Line:
    run_ = Fitted.read(out)
    scales = run_.scales
    taught = Split.of(read_as(out.with_name("train.csv"), run_.config), 0.0).taught
    later = [t for t, _ in task.later]
    seen = np.concatenate([y for _, y in task.later])
    equal = all_equal(task.records, [Series("", t, y) for t, y in task.later]) and equal_steps(taught)
    others = Rivals.of(taught, scales, run_.config.window, equal, sparse=False)
    models = [model_forecaster(NEURAL, run_.field, scales), *others.forecasters(scales)]
    unit = spread(task, one)
    paths = {m.name: np.concatenate(m.forecast(task.records, later)) for m in models}
    errors = {name: error(scales.unscaled(path), seen, unit, one.log) for name, path in paths.items()}
    line: Line = {
        "error": {name: number(e) for name, e in errors.items()},
        "failed": not math.isfinite(errors[NEURAL]),
        "compared": int((~np.isnan(seen)).sum()),
        "inside": None,
        "score": None,
    }
    bands = run_.ensemble.bands
    if bands is not None:
        apart = np.concatenate(run_.ensemble.spread(task.records, later, scales))
        record = scales.scaled(np.concatenate([s.y for s in taught]))
        measured = np.concatenate(task.measured) if task.measured else seen
        known = {s.id for s in taught} >= {r.id for r in task.records}
        away = None if known else distances(run_.ensemble, task.records, [len(t) for t in later], scales)
        judged = of_bands(bands, paths[NEURAL], apart, scales.scaled(measured), record, away)
        line["inside"] = {level: row["coverage"] for level, row in judged.items()}
        line["score"] = {level: number(row["score"]) for level, row in judged.items()}
    return line


# ---- lines ------------------------------------------------------------------------------------------------------------
def read(path: Path) -> list[Line]:
    """Lines of earlier runs; a last one that was not written to its end does not count."""
    if not path.exists():
        return []
    return list(_whole(path.read_text(encoding="utf-8").split("\n"), path))


def _whole(texts: list[str], path: Path) -> Iterator[Line]:
    for number_, text in enumerate(texts, 1):
        try:
            if text:
                yield json.loads(text)
        except json.JSONDecodeError as broken:
            if number_ < len(texts):
                raise UserError(
                    f"{path}: line {number_}: not a line of this benchmark: {broken}; move it away"
                ) from broken


def append(path: Path, line: Line) -> None:
    """Adds a line in one write, after what a break may have left of another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    if torn:
        whole = path.read_bytes()
        place(path, lambda aside: aside.write_bytes(whole[: whole.rfind(b"\n") + 1]))
    text = (json.dumps(line, allow_nan=False) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        file.write(text)
        os.fsync(file.fileno())
