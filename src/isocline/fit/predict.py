"""Forecasts of a run, from the end of its record or from a state given in a table."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isocline.fit.config import Config
from isocline.fit.dosing import Regimen
from isocline.fit.drive import Drive, Inputs
from isocline.fit.ensemble import Ensemble
from isocline.fit.errors import UserError
from isocline.fit.files import read_run
from isocline.fit.fitted import Fitted
from isocline.fit.flow import flow_of
from isocline.fit.population import of_population
from isocline.fit.population_predict import predict_population
from isocline.fit.reach import leaving
from isocline.fit.reading.cells import Cells
from isocline.fit.reading.clock import Clock
from isocline.fit.reading.column import Column
from isocline.fit.reading.given import Clocked, Doses
from isocline.fit.reading.lags import Lags, past, usual_step
from isocline.fit.reading.reader import read_cells
from isocline.fit.reading.table import Series
from isocline.fit.run import end_states, read_as
from isocline.fit.scale import Scales

MAX_ROWS = 1_000_000
BOUNDS = ("low80", "high80", "low95", "high95")


def predict(
    folder: str | Path,
    *,
    until: str | float | None = None,
    times: str | Path | None = None,
    start: str | Path | None = None,
    bands: bool = False,
    inputs: str | Path | None = None,
) -> tuple[list[str], list[list[Any]], list[str]]:
    """Forecasts of a run, in the units and with the headers of its table.

    Args:
        folder: of the run.
        until: forecast from the start to this time (a number, or a date as in the table), at the record's spacing.
        times: instead: a table with the times (and series) to predict.
        start: a table with one complete row a series to start from, or of a run with hidden states or lags a record of rows
            (with the inputs there) from whose end to go on; None: the end of each record, from a state settled
            on its last rows.
        bands: after the states, the bounds of their 80 and 95 % bands: "x low80", "x high80", "x low95", "x high95". From
            a given state the networks of the ensemble start alike, and the bands of a run of several series are those of one
            that was not learned from; from the end of the record each starts from its own.
        inputs: a table with the times (and series) and the values there of what drives the system; of a run with inputs,
            where its own table does not have them up to the last time; of one with doses, those from the start on.

    Returns:
        Header, rows, and a sentence for every forecast that could not go on to its end.

    Raises:
        UserError: for what is the user's to mend.

    Warns:
        UserWarning: where a state leaves what was measured by more than its range.
    """
    folder = Path(folder)
    if of_population(Config.make(**read_run(folder)["config"])):
        return predict_population(folder, until, times, start, inputs, bands)
    fitted = Fitted.read(folder)
    if (until is None) == (times is None):
        raise UserError("expected one of --until T and --times FILE")
    config, scales, clock = fitted.config, fitted.scales, fitted.clock
    flow = flow_of(fitted.field)
    if bands and fitted.ensemble.bands is None:
        raise UserError(
            f"{folder}: the run has no bands (members={config.members}); fit it with members, or leave out --bands"
        )
    if start is None:
        saved = json.loads((folder / "states.json").read_text(encoding="utf-8"))
    elif config.hidden_states or config.lags:
        given = _given_record(start, fitted)
        saved = end_states(fitted.ensemble, given, scales, [False] * len(given))
    else:
        saved = None
    starts = _given_starts(Path(str(start)), fitted) if saved is None else _saved_starts(saved)
    wanted = (
        _until(until, starts, clock, folder) if until is not None else _times(Path(str(times)), starts, config, clock)
    )
    driven = _driven(inputs, fitted, wanted, starts, saved)
    shown = config.shown_states
    bounds = [f"{state} {bound}" for bound in BOUNDS for state in shown] if bands else []
    header = [*([config.id] if config.id else []), str(config.time), *shown, *bounds]
    rows: list[list[Any]] = []
    lost = []
    for name, ts in wanted.items():
        begin, state, members, away = starts[name]
        later = ts[ts > begin]
        at = np.concatenate([[begin], later])
        grid = torch.tensor(at - begin) / scales.tau
        drive = Drive.of([Series(name, at, np.empty((0, 0)), driven.get(name))], [at], scales)
        path = (flow(state[None], grid[None], drive)[:, 0] if len(later) else state[None]).numpy()
        y = scales.unscaled(path)
        good = np.isfinite(y).all(1)
        of = f"series {name!r}: " if config.id else ""
        for state, row in leaving(path, shown, fitted.measured, scales):
            low, high = fitted.measured[state]
            warnings.warn(
                f"{of}the forecast of {state!r} leaves what was measured ({low:.4g} to {high:.4g}) by more than its range, from "
                f"{config.time} {clock.text(at[row])} on: nothing that was measured says what happens there",
                stacklevel=2,
            )
        if not good.all():
            lost.append(f"{of}the forecast is finite only up to {config.time} {clock.text(at[good].max())}")
        y = y[:, : len(shown)]
        if bands:
            found = _bounds(fitted.ensemble, path, members, grid, drive, scales, away)
            y = np.concatenate([y, *(bound[:, : len(shown)] for bound in found)], 1)
        keep = good & np.concatenate([[bool((ts == begin).any())], np.ones(len(later), dtype=bool)])
        for t, values in zip(at[keep], y[keep], strict=True):
            rows.append([*([name] if config.id else []), clock.text(t), *values.tolist()])
    return header, rows, lost


def _bounds(
    ensemble: Ensemble,
    path: np.ndarray,
    states: Tensor,
    grid: Tensor,
    drive: Drive,
    scales: Scales,
    distance: float | None,
) -> list[np.ndarray]:
    """Each of `BOUNDS` (n, d) about a scaled path (n, d), from the states (M, d) of the members where it begins."""
    count, grids = len(states), grid.expand(len(states), -1)
    paths = ensemble.crowd(states, grids, drive.repeat(count)).movedim(1, 0) if len(grid) > 1 else states[:, None]
    bounds = ensemble.intervals(path, ensemble.spread_of(paths.numpy()), scales, distance)
    return [bounds[name] for name in BOUNDS]


# ---- what drives it ---------------------------------------------------------------------------------------------------
def _driven(
    path: str | Path | None,
    fitted: Fitted,
    wanted: dict[str, np.ndarray],
    starts: Starts,
    saved: dict[str, dict[str, Any]] | None,
) -> dict[str, Inputs]:
    """By series: its inputs from where the forecast starts up to its last time; UserError where they are not known."""
    config, clock = fitted.config, fitted.clock
    if not config.inputs and not config.doses:
        if path is not None:
            raise UserError(f"--inputs {path}: the run has no inputs; leave the option out")
        return {}
    count = len(config.every_state)
    known = {
        name: Inputs(
            np.array(s["inputs"]["t"]),
            np.array(s["inputs"]["u"]),
            config.hold,
            Regimen.from_dict(s["doses"], count) if "doses" in s else None,
        )
        for name, s in (saved or {}).items()
    }
    given = {} if path is None else _given_inputs(Path(path), fitted)
    if not config.inputs:
        return {name: x for name, x in {**known, **given}.items() if name in wanted}
    out = {}
    for name, ts in wanted.items():
        parts = [x for x in (known.get(name), given.get(name)) if x is not None]
        found = parts[0].then(parts[1]) if len(parts) == 2 else parts[0] if parts else None
        begin, end = starts[name][0], float(ts[-1])
        where = f"series {name!r}: " if config.id else ""
        names = ", ".join(map(repr, config.inputs))
        how = "give them with --inputs FILE" if path is None else f"{path} does not have them"
        if found is None or found.t[0] > begin:
            raise UserError(f"{where}the inputs {names} are needed from {clock.text(begin)} on; {how}")
        # A held value counts up to where the next row would be.
        reach = float(found.t[-1]) + (
            float(np.median(np.diff(found.t[-9:]))) if config.hold == "zoh" and len(found.t) > 1 else 0.0
        )
        if set(config.inputs) <= set(config.covariates):
            reach = np.inf  # they do not change
        if reach < end - 1e-9 * abs(end):
            raise UserError(
                f"{where}the inputs {names} are known up to {clock.text(float(found.t[-1]))} and needed up to "
                f"{clock.text(end)}; {how}"
            )
        out[name] = found
    return out


def _given_doses(cells: Cells, fitted: Fitted) -> tuple[dict[str, Regimen], Cells]:
    """By series, from a table; and its other rows."""
    config = fitted.config
    doses = Doses(cells, config.doses, config.inputs)
    states = [Column.of(header) for header in config.every_state]
    given = doses.given(Clocked(str(config.time), config.id, fitted.clock), ())
    return {name: own.regimen(states, cells.path) for name, own in given.items()}, doses.cells


def _given_inputs(path: Path, fitted: Fitted) -> dict[str, Inputs]:
    """By series, from a table."""
    config = fitted.config
    cells = read_cells(path)
    cells.require(*filter(None, [config.time, config.id]), *config.inputs)
    doses: dict[str, Regimen] = {}
    if config.doses:
        doses, cells = _given_doses(cells, fitted)
    if not config.inputs:
        return {name: Inputs.none(np.zeros(1), own) for name, own in doses.items()}
    ts = fitted.clock.numbers(cells, str(config.time))
    columns = []
    for header in config.inputs:
        values, bad = cells.numbers(header)
        cells.refuse_bad(header, bad | np.isnan(values), "a finite number in every row of the inputs")
        columns.append(values)
    u = np.stack(columns, 1)
    names = cells.text(config.id).to_numpy() if config.id else np.full(len(ts), "")
    out = {}
    for name in dict.fromkeys(names.tolist()):
        rows = np.flatnonzero(names == name)
        wrong = np.flatnonzero(np.diff(ts[rows]) <= 0)
        if len(wrong):
            line = cells.lines[rows[wrong[0] + 1]]
            raise UserError(f"{path}: line {line}, column {config.time!r}: expected times that increase; sort the rows")
        out[name] = Inputs(ts[rows], u[rows], config.hold, doses.get(name))
    return out


# ---- where to start ---------------------------------------------------------------------------------------------------
# By series: the time, the state (d,) of the model and those (M, d) of the members, and the distance from what was learned.
Starts = dict[str, tuple[float, Tensor, Tensor, float | None]]


def _saved_starts(saved: dict[str, dict[str, Any]]) -> Starts:
    return {
        name: (
            s["t"],
            torch.tensor(s["state"], dtype=torch.float64),
            torch.tensor(s.get("members", []), dtype=torch.float64),
            s.get("distance"),
        )
        for name, s in saved.items()
    }


def _given_record(path: str | Path, fitted: Fitted) -> list[Series]:
    """Rows of measurements and inputs: what hidden states are settled on, and earlier values are taken from."""
    config, clock = fitted.config, fitted.clock
    table = read_as(path, config.model_copy(update={"ignore": (), "lags": None}))
    series = table.series

    def own(t: np.ndarray) -> np.ndarray:
        return np.array([clock.number(table.clock.text(v)) for v in t])

    if clock.origin is not None:
        series = [
            replace(s, t=own(s.t), u=None if s.u is None else Inputs(own(s.u.t), s.u.u, s.u.hold)) for s in series
        ]
    return [_with_past(s, fitted, path) for s in series] if config.lags else series


def _with_past(s: Series, fitted: Fitted, path: str | Path) -> Series:
    """A record with the earlier values that a run with lags has as states."""
    config = fitted.config
    delays = Lags.of(str(config.lags)).times(1.0)
    found = past(s, delays, usual_step([s]))
    if not found.complete:
        of = f"series {s.id!r}: " if config.id else ""
        raise UserError(
            f"{path}: {of}no row has values {', '.join(f'{d:g}' for d in delays)} before it; expected a record of equally "
            f"spaced rows that reaches back {delays[-1]:g} in {config.time} from its end"
        )
    return found


def _given_starts(path: Path, fitted: Fitted) -> Starts:
    config, scales, clock = fitted.config, fitted.scales, fitted.clock
    cells = read_cells(path)
    cells.require(*filter(None, [config.time, config.id]), *config.states)
    ts = clock.numbers(cells, str(config.time))
    columns = []
    for header, scale in zip(config.states, scales.states, strict=True):
        values, bad = cells.numbers(header)
        cells.refuse_bad(header, bad | np.isnan(values), "a finite number in every state of a starting row")
        if scale.kind == "log":
            cells.refuse_bad(header, values <= 0, "a positive number: the model works in its logarithm")
        columns.append(scale.scaled(values))
    names = cells.text(config.id).tolist() if config.id else [""] * len(ts)
    states = torch.tensor(np.stack(columns, 1), dtype=torch.float64)
    out: Starts = {}
    for name, t, state, line in zip(names, ts, states, cells.lines, strict=True):
        if name in out:
            of = f" for series {name!r}" if config.id else ""
            raise UserError(f"{path}: line {line}: a second starting row{of}; expected one")
        begin = Series(name, np.array([t]), scales.unscaled(state.numpy()[None]))
        away = fitted.ensemble.distance(begin, scales)
        out[name] = (float(t), state, state.expand(len(fitted.ensemble.members), -1), away)
    return out


# ---- where to go ------------------------------------------------------------------------------------------------------
def _until(until: str | float, starts: Starts, clock: Clock, folder: Path) -> dict[str, np.ndarray]:
    """From each start, at the record's usual spacing, up to and including `until`."""
    end = clock.number(str(until))
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    spacing = float(np.median(np.concatenate([np.diff(s["t"]) for s in report["series"]])))
    first = min(begin for begin, *_ in starts.values())
    if sum(max(0.0, end - begin) for begin, *_ in starts.values()) / spacing > MAX_ROWS:
        raise UserError(
            f"--until {until}: more than {MAX_ROWS:,} rows at the record's spacing of {spacing:g}; give --times FILE"
        )
    out = {}
    for name, (begin, *_) in starts.items():
        grid = begin + spacing * np.arange(1, int((end - begin) / spacing + 1e-6) + 1) if end > begin else np.empty(0)
        if end > begin:
            grid = np.append(grid[grid < end - 1e-6 * spacing], end)
            out[name] = grid
    if not out:
        raise UserError(
            f"--until {until}: expected a time after the start of the forecast, {clock.text(first)}; "
            f"to start earlier give a row with --from FILE"
        )
    return out


def _times(path: Path, starts: Starts, config: Config, clock: Clock) -> dict[str, np.ndarray]:
    """By series, sorted."""
    cells = read_cells(path, one_column=True)
    if len(cells.columns) == 1 and not config.id:
        cells.frame.columns = [str(config.time)]
    cells.require(*filter(None, [config.time, config.id]))
    ts = clock.numbers(cells, str(config.time))
    names = cells.text(config.id).tolist() if config.id else [""] * len(ts)
    wanted: dict[str, list[float]] = {}
    for name, t, line in zip(names, ts, cells.lines, strict=True):
        if name not in starts:
            known = ", ".join(map(repr, list(starts)[:20]))
            raise UserError(
                f"{path}: line {line}, column {config.id!r}: no start for series {name!r}; there are {known}"
            )
        if t < starts[name][0]:
            raise UserError(
                f"{path}: line {line}, column {config.time!r}: {clock.text(t)} lies before the start of the forecast, "
                f"{clock.text(starts[name][0])}; to start earlier give a row with --from FILE"
            )
        wanted.setdefault(name, []).append(float(t))
    return {name: np.unique(ts_) for name, ts_ in wanted.items()}
