"""A run: split, train, judge, keep. What `isocline fit`, `--resume` and `predict` do."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isocline._version import __version__
from isocline.fit.config import Config
from isocline.fit.errors import UserError
from isocline.fit.judge import judge
from isocline.fit.loop import Trainer, settle
from isocline.fit.scale import Scales
from isocline.fit.table import Series, Table, read_table
from isocline.fit.windows import Record
from isocline.nn import MLP
from isocline.solution import SolveError
from isocline.solve import solve

ANCHOR = 12  # observations that a forecast's starting state is settled on

Tell = Callable[[Trainer], None]
Notify = Callable[[str, Any], None]


@dataclass
class Split:
    """Training part and held-out part of every series, in the table's units.

    Attributes:
        train: what may be looked at; of a held-out series, its first observations, for the starting state only.
        held: what the scores are computed on, by series; empty where nothing is held out.
        learned: which series the field is trained on.
    """

    train: list[Series]
    held: list[Series]
    learned: list[bool]

    @staticmethod
    def of(table: Table, hold_out: float | str) -> Split:
        """The tail of every series, or one whole series."""
        if isinstance(hold_out, str):
            name = hold_out.removeprefix("series:")
            names = [s.id for s in table.series]
            if name not in names or len(names) < 2:
                raise UserError(f"hold_out={hold_out!r}: expected one of several series, there are {', '.join(map(repr, names[:20]))}")
            parts = [_cut(s, max(2, min(ANCHOR, len(s.t) // 4)) if s.id == name else len(s.t)) for s in table.series]
            return Split([a for a, _ in parts], [b for _, b in parts], [s.id != name for s in table.series])
        parts = [_cut(s, len(s.t) - round(hold_out * len(s.t))) for s in table.series]
        return Split([a for a, _ in parts], [b for _, b in parts], [True] * len(parts))


def _cut(s: Series, n: int) -> tuple[Series, Series]:
    n = max(2, n)
    return Series(s.id, s.t[:n], s.y[:n]), Series(s.id, s.t[n:], s.y[n:])


def fit(
    path: str | Path, config: Config, out: str | Path, *, tell: Tell, notify: Notify, stop: Callable[[], bool] = lambda: False,
    overwrite: bool = False, command: str = "",
) -> dict[str, Any]:
    """Fits a neural ODE to a table and leaves a run folder.

    Args:
        path: the table.
        config: the settings.
        out: the run folder; made once the table is accepted.
        tell: called after every iteration with the trainer.
        notify: called with ("table", Table), ("scales", Scales), ("report", dict) as they are known.
        stop: asked before every iteration; True saves and ends the training.
        overwrite: replace an earlier run in `out`.
        command: as typed, for the report.

    Returns:
        The report (`report.json`).

    Raises:
        UserError: for what is the user's to mend; nothing is then left behind.
    """
    table = read_table(path, config.time, config.id, config.states)
    split = Split.of(table, config.hold_out)
    _enough(table, split)
    notify("table", table)
    scales = Scales.of([s for s, yes in zip(split.train, split.learned, strict=True) if yes], config.scale)
    notify("scales", scales)
    folder = Path(out)
    if (folder / "config.json").exists() and not overwrite:
        raise UserError(f"{folder}: already holds a run; continue it with --resume {folder}, or choose another --out")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, expected a folder for the run; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("checkpoint.pt", "report.json", "report.html", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    resolved = config.model_copy(
        update={"time": table.time.header, "id": table.id and table.id.header, "states": tuple(c.header for c in table.states)}
    )
    kept = {
        "isocline": __version__,
        "torch": torch.__version__,
        "command": command,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "table": str(Path(path).resolve()),
        "sha256": table.sha256,
        "config": resolved.model_dump(mode="json"),
        "scales": scales.to_dict(),
    }
    write(folder / "config.json", json.dumps(kept, indent=1))
    return _go(folder, kept, table, split, scales, resolved, tell, notify, stop)


def resume(folder: str | Path, *, tell: Tell, notify: Notify, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Goes on with a run that was interrupted or killed, to the numbers the unbroken run would have had."""
    folder = Path(folder)
    kept = read_run(folder)
    config = Config.make(**kept["config"])
    table = read_table(kept["table"], config.time, config.id, config.states)
    if table.sha256 != kept["sha256"]:
        raise UserError(
            f"{kept['table']}: the table has changed since the run began (sha256 {table.sha256[:12]}…, was {kept['sha256'][:12]}…); "
            f"start a new run"
        )
    notify("table", table)
    scales = Scales.from_dict(kept["scales"])
    notify("scales", scales)
    return _go(folder, kept, table, Split.of(table, config.hold_out), scales, config, tell, notify, stop)


def _go(
    folder: Path, kept: dict[str, Any], table: Table, split: Split, scales: Scales, config: Config, tell: Tell, notify: Notify,
    stop: Callable[[], bool],
) -> dict[str, Any]:
    from safetensors.torch import save_file

    from isocline.report import write_report

    learned = [s for s, yes in zip(split.train, split.learned, strict=True) if yes]
    fitted = [_cut(s, len(s.t) - round(config.validation * len(s.t)))[0] for s in learned]
    record = Record.of(fitted, scales, config.window)
    whole = Record.of(learned, scales, config.window)
    trainer = Trainer(config, record, None, folder)
    if any(len(a.t) < len(b.t) for a, b in zip(fitted, learned, strict=True)):
        trainer.validate = lambda model: _validation(trainer, whole)
    if (folder / "checkpoint.pt").exists():
        trainer.load()
    reason = trainer.run(tell, stop)
    trainer.model.load_state_dict(trainer.best["model"])
    aside = folder / "model.safetensors.tmp"
    save_file(trainer.best["model"], aside)
    os.replace(aside, folder / "model.safetensors")
    notify("judging", None)
    report = judge(table, split, scales, config, trainer, reason, kept)
    states = {s.id: end_state(trainer.model, s, scales) for s in table.series}
    write(folder / "states.json", json.dumps(states))
    write(folder / "report.json", json.dumps(report, indent=1))
    write_report(report, folder / "report.html")
    notify("report", report)
    return report


def _enough(table: Table, split: Split) -> None:
    count = sum(len(s.t) for s, yes in zip(split.train, split.learned, strict=True) if yes)
    if count < 5:
        raise UserError(f"{table.path}: {count} rows to learn from, expected at least five; measure more or set --hold-out 0")


def _validation(trainer: Trainer, whole: Record) -> float:
    """Mean square error on what follows the fitted part, from the start of its last window."""
    first, starts, times, seen = 0, [], [], []
    for t, y, knots, fitted in zip(whole.t, whole.y, trainer.record.knots, trainer.record.t, strict=True):
        i = (len(knots) - 1) >> trainer.level << trainer.level
        starts.append(first + i)
        begin = knots[i]
        later = np.arange(len(t)) >= len(fitted)
        keep = np.arange(len(t)) >= begin
        times.append(torch.tensor(t[keep]))
        seen.append(torch.tensor(np.where(later[:, None], y, np.nan)[keep], dtype=torch.float32))
        first += len(knots)
    with torch.no_grad():
        ys = solve(
            trainer.field, trainer.starts[torch.tensor(starts)], times, batching="per_sample", solver="rk4", max_step=0.5, throw=False
        ).ys
        target = torch.nn.utils.rnn.pad_sequence(seen, padding_value=torch.nan)
        error = torch.where(ys.isnan(), 1e3, ys) - target
        return float(error[~target.isnan()].square().mean()) if bool((~target.isnan()).any()) else 0.0


# ---- the fitted model -------------------------------------------------------------------------------------------------
def path_of(model: nn.Module, state: Tensor, ts: Tensor) -> Tensor:
    """The model's path (T, d) from `state` at ts[0]; scaled; SolveError where it cannot go on."""
    return solve(model, state, ts, rtol=1e-5, atol=1e-6, max_steps=20_000).ys if len(ts) > 1 else state[None]


def end_state(model: nn.Module, s: Series, scales: Scales) -> dict[str, Any]:
    """The state at the last observation of a series, settled on the last few: where a forecast starts."""
    t, y = _last(s, ANCHOR)
    state, _ = settled(model, t, y, scales)
    ts = torch.tensor((t - t[0]) / scales.tau)
    try:
        with torch.no_grad():
            end = path_of(model, state, ts)[-1]
    except SolveError:
        end = torch.tensor(_filled(scales.scaled(y))[-1], dtype=torch.float32)
    return {"t": float(t[-1]), "state": end.tolist()}


def settled(model: nn.Module, t: np.ndarray, y: np.ndarray, scales: Scales) -> tuple[Tensor, float]:
    """The state at t[0] from which the model best meets these observations."""
    x = scales.scaled(y)
    guess = torch.tensor(_filled(x)[0], dtype=torch.float32)
    ts = torch.tensor((t - t[0]) / scales.tau)
    return settle(lambda state, times: path_of(model, state, times), torch.tensor(x, dtype=torch.float32), ts, guess)


def _last(s: Series, n: int) -> tuple[np.ndarray, np.ndarray]:
    return s.t[-n:], s.y[-n:]


def _filled(x: np.ndarray) -> np.ndarray:
    """A first guess where a cell is empty: the nearest observation of its column, else the mean (0)."""
    rows = np.arange(len(x))
    return np.stack([np.interp(rows, rows[~np.isnan(c)], c[~np.isnan(c)]) if (~np.isnan(c)).any() else 0 * rows for c in x.T], 1)


# ---- predict ----------------------------------------------------------------------------------------------------------
def predict(
    folder: str | Path, *, until: float | None = None, times: str | Path | None = None, start: str | Path | None = None
) -> tuple[list[str], list[list[Any]], str]:
    """Forecasts of a run.

    Args:
        folder: of the run.
        until: forecast from the end of the record (or from `start`) to this time, at the record's spacing.
        times: instead: a table with the times (and series) to predict.
        start: a table with one complete row a series to start from; None: the end of the record.

    Returns:
        Header, rows, and a warning (empty if all is well).
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    kept = read_run(folder)
    if not (folder / "model.safetensors").exists():
        raise UserError(f"{folder}: the run has no model yet; finish it with: isocline fit --resume {folder}")
    if (until is None) == (times is None):
        raise UserError("give one of --until T and --times FILE")
    config, scales = Config.make(**kept["config"]), Scales.from_dict(kept["scales"])
    dim = len(config.states)
    model = MLP((dim, *config.hidden, dim))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    starts = _starts(folder, config, scales, start)
    wanted = _wanted(config, starts, until, times, _spacing(folder))
    header = [*([config.id] if config.id else []), str(config.time), *config.states]
    rows: list[list[Any]] = []
    warnings = []
    for name, ts in wanted.items():
        begin, state = starts[name]
        grid = torch.tensor(np.concatenate([[begin], ts[ts != begin]]) - begin) / scales.tau
        try:
            with torch.no_grad():
                x = path_of(model, state, grid)
        except SolveError as error:
            x = error.solution.ys
            warnings.append(f"{f'series {name!r}: ' if config.id else ''}the forecast cannot go on: {error}")
        y = scales.unscaled(x.double().numpy())
        kept_rows = [(begin, y[0])] if (ts == begin).any() else []
        kept_rows += list(zip(ts[ts != begin], y[1:], strict=True))
        rows += [[*([name] if config.id else []), t, *values] for t, values in kept_rows if np.isfinite(values).all()]
    return header, rows, "; ".join(warnings)


def _starts(folder: Path, config: Config, scales: Scales, start: str | Path | None) -> dict[str, tuple[float, Tensor]]:
    if start is None:
        saved = json.loads((folder / "states.json").read_text())
        return {name: (s["t"], torch.tensor(s["state"])) for name, s in saved.items()}
    rows = _rows(Path(start), config, need_states=True)
    out = {}
    for name, t, y in rows:
        x = scales.scaled(y)
        if not np.isfinite(x).all():
            raise UserError(f"{start}: a starting row needs a (positive, where logarithms are used) value in every state; got {y.tolist()}")
        out[name] = (t, torch.tensor(x, dtype=torch.float32))
    return out


def _wanted(
    config: Config, starts: dict[str, tuple[float, Tensor]], until: float | None, times: str | Path | None, spacing: float
) -> dict[str, np.ndarray]:
    """Times by series, those at or after its start only."""
    if until is not None:
        out = {}
        for name, (begin, _) in starts.items():
            if not until > begin:
                raise UserError(f"--until {until:g}: must lie after the start of the forecast, {begin:g}")
            count = max(1, round((until - begin) / spacing))
            grid = begin + spacing * np.arange(1, count + 1)
            out[name] = np.append(grid[grid < until - 1e-9 * abs(until)], until)
        return out
    assert times is not None
    wanted: dict[str, list[float]] = {}
    for name, t, _ in _rows(Path(times), config, need_states=False):
        if name not in starts:
            raise UserError(f"{times}: series {name!r} is not one of the run's: {', '.join(map(repr, list(starts)[:20]))}")
        if t < starts[name][0]:
            raise UserError(f"{times}: time {t:g} lies before the start of the forecast, {starts[name][0]:g}; give a start with --from FILE")
        wanted.setdefault(name, []).append(t)
    return {name: np.unique(ts) for name, ts in wanted.items()}


def _rows(path: Path, config: Config, need_states: bool) -> list[tuple[str, float, np.ndarray]]:
    """(series, time, states) of every row of a small table."""
    from isocline.fit.table import _cells, _numbers

    raw, _ = _cells(path)
    if config.time not in raw.columns and len(raw.columns) == 1 and not need_states:
        raw.columns = [config.time]
    needed = [config.time, *(config.states if need_states else ()), *([config.id] if config.id else [])]
    for column in needed:
        if column not in raw.columns:
            raise UserError(f"{path}: no column {column!r}; there are {', '.join(map(repr, raw.columns))}")
    t = _numbers(raw[str(config.time)])
    if np.isnan(t).any():
        raise UserError(f"{path}: line {int(np.flatnonzero(np.isnan(t))[0]) + 2}, column {config.time!r}: expected a number")
    y = np.stack([_numbers(raw[c]) for c in config.states], 1) if need_states else np.zeros((len(t), 0))
    names: Sequence[str] = raw[config.id].tolist() if config.id else [""] * len(t)
    return [(str(n), float(a), b) for n, a, b in zip(names, t, y, strict=True)]


def _spacing(folder: Path) -> float:
    report = json.loads((folder / "report.json").read_text())
    steps = [np.diff(s["t"]) for s in report["series"] if len(s["t"]) > 1]
    return float(np.median(np.concatenate(steps)))


# ---- files ------------------------------------------------------------------------------------------------------------
def write(path: Path, text: str) -> None:
    """Written aside and moved into place: never half a file."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def read_run(folder: Path) -> dict[str, Any]:
    """config.json of a run; UserError where there is none."""
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder}: not a run folder (it has no config.json); expected what isocline fit left in its --out")
    return json.loads(path.read_text(encoding="utf-8"))
