"""A run: read, split, train, judge, keep. What `isocline fit` and `isocline fit --resume` do."""

from __future__ import annotations

import datetime
import json
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isocline._version import __version__
from isocline.fit.beside import HERE, Here
from isocline.fit.config import Config
from isocline.fit.drive import Drive
from isocline.fit.ensemble import Ensemble
from isocline.fit.errors import UserError
from isocline.fit.export import TARGETS, source
from isocline.fit.files import POPULATION, read_run, write
from isocline.fit.fitted import Fitted
from isocline.fit.flow import Flow, flow_of_rows
from isocline.fit.forecast import anchor, settled
from isocline.fit.group import ALONE, Group
from isocline.fit.judge import EQUATIONS, NEURAL, fitted_rivals, judge
from isocline.fit.parameters import infer
from isocline.fit.physics import Physics, scales_of, settings_of
from isocline.fit.population import go, of_population, read_population
from isocline.fit.reach import measured_between
from isocline.fit.reading.given import AMOUNT_NAMES
from isocline.fit.reading.lags import Lags, delayed, usual_step
from isocline.fit.reading.reader import Source, paths_of, read_source
from isocline.fit.reading.table import Series, Table, read_table
from isocline.fit.recipe import CHECKPOINT, Recipe
from isocline.fit.scale import Scales
from isocline.fit.season import FREE, read_season, seconds_in
from isocline.fit.split import SHORTEST, Split
from isocline.fit.summary import summary
from isocline.fit.tune import JOURNAL, searched, tune, tuned

Tell = Callable[[Recipe], None]
Notify = Callable[[str, Any], None]
FIGURES = "figures"  # of the report, as files
TABLE = "table.csv"  # of a run that was given one that will not last
RESULTS = (
    CHECKPOINT,
    JOURNAL,
    "model.safetensors",
    "members.safetensors",
    "bands.json",
    "states.json",
    POPULATION,
    "report.json",
    "report.html",
    "prediction.csv",
    *TARGETS.values(),
)


def fit(
    source: Source,
    config: Config,
    out: str | Path,
    *,
    tell: Tell = lambda recipe: None,
    notify: Notify = lambda what, value: None,
    stop: Callable[[], bool] = lambda: False,
    overwrite: bool = False,
    command: str = "",
    page: bool = True,
    group: Group = ALONE,
    aside: Here = HERE,
) -> dict[str, Any]:
    """Fits a neural ODE to a table and leaves a run folder.

    Args:
        source: the table: the path of a file (CSV and its kin, also compressed; Excel; Parquet), several of them or a pattern
            such as "runs/*.csv", each file a series; or a data frame of pandas, Polars or another library that narwhals knows.
        config: the settings.
        out: the run folder; made once the table is accepted.
        tell: called after every step with the recipe.
        notify: called with ("table", Table), ("scales", Scales), ("trial", dict), ("judging", None), ("report", dict) as they are known.
        stop: asked before every step; True saves and ends the training.
        overwrite: replace an earlier run in `out`.
        command: as typed, for the report.
        page: write report.html, too; `write_page` does so later.
        group: processes that fit together, each called with the same arguments; the first of them writes.
        aside: where simple models are fitted, and the page is written.

    Returns:
        The report (`report.json`); empty in all processes of a group but the first.

    Raises:
        UserError: for what is the user's to mend; nothing is then left behind.
    """
    folder = Path(out)
    config, table = read_for(source, config)
    split = Split.of(table, config.hold_out)
    scales = scales_of(Scales.of(table, split.taught, config.scale, table.log), config)
    if group.leads and (folder / "config.json").exists() and not overwrite:
        raise UserError(
            f"{folder}: already holds a run; continue it with --resume {folder}, choose another --out, or give --overwrite"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, expected a folder for the run; choose another --out")
    roles: dict[str, Any] = {
        "time": table.time.header,
        "id": table.id and table.id.header,
        "states": tuple(c.header for c in table.own if c.header not in config.hidden_states),
        "log": table.log,
    }
    if config.season not in FREE:
        roles["season"] = read_season(config.season, _seconds(table))
    if table.long:
        roles |= dict(zip(("variable", "value"), table.long, strict=True))
    resolved = config.model_copy(update=roles)
    if not of_population(config):
        resolved = settings_of(resolved)  # refuses equations before anything is written
    _check_search(config, group)
    search = searched(resolved, split.taught) if config.tune else []
    notify("table", table)
    notify("scales", scales)
    kept = _begun(folder, source, table, scales, resolved, command, search) if group.leads else {}
    if of_population(resolved):
        return go(folder, kept, table, split, scales, resolved, notify, page, stop) if group.leads else {}
    return _go(folder, kept, table, split, scales, resolved, tell, notify, stop, page, group, aside)


def _seconds(table: Table) -> float | None:
    """In a unit of the table's time."""
    return seconds_in(table.clock.unit or table.time.unit, table.time.name, table.series[0].t if table.series else None)


def _check_search(config: Config, group: Group) -> None:
    if config.tune and group.size > 1:
        raise UserError(
            f"--tune {config.tune}: expected one process, found {group.size}; --resume takes several afterwards"
        )
    if config.tune and of_population(config):
        raise UserError(f"--tune {config.tune}: a population fit has no settings to search")


def _begun(
    folder: Path,
    source: Source,
    table: Table,
    scales: Scales,
    config: Config,
    command: str,
    search: list[str],
) -> dict[str, Any]:
    """The folder of a run, empty but for its config.json; that."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)
    paths = paths_of(source)
    if paths is None:  # a data frame is gone with its process
        write(folder / TABLE, read_source(source)[0].frame.to_csv(index=False))
        paths = [folder / TABLE]
    kept = {
        "isocline": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": command,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "table": [str(p.resolve()) for p in paths] if len(paths) > 1 else str(paths[0].resolve()),
        "sha256": table.sha256,
        "config": config.model_dump(mode="json"),
        **({"search": search} if search else {}),
        "clock": asdict(table.clock),
        "scales": scales.to_dict(),
        "measured": measured_between(table),
    }
    write(folder / "config.json", json.dumps(kept, indent=1))
    return kept


def read_for(source: Source, config: Config) -> tuple[Config, Table]:
    """The table as a new fit reads it, and the settings with the roles that its columns play beside states."""
    if of_population(config):
        return read_population(source, config)
    if config.covariates:  # of a network: inputs that do not change
        config = config.model_copy(update={"inputs": (*config.inputs, *config.covariates)})
    # A column amt is doses also where nothing was said, but for equations, which then become a population's.
    guess = not config.doses and not of_population(config.model_copy(update={"doses": AMOUNT_NAMES[:1]}))
    table = read_as(source, config, guess)
    if guess and table.given is not None:
        column = next(c for c, role in table.others if role == "dose")
        if config.lags:
            raise UserError(
                f"{table.path}: column {column!r} is taken for doses, which --lags cannot go with; give --ignore {column}, or "
                f"--input {column} where it is no dose"
            )
        config = config.model_copy(update={"doses": (column,)})
    config, table = _spaced(config, table)
    refuse_varying(table, config.covariates)
    return config, table


def read_as(source: Source, config: Config, guess: bool = False) -> Table:
    """Reads a table with the roles of a configuration; where doses are to be guessed, they may be there without being asked for."""
    table = read_table(
        source,
        config.time,
        config.id,
        config.states,
        config.ignore,
        inputs=config.inputs,
        hold=config.hold,
        log=config.log,
        variable=config.variable,
        value=config.value,
        replicates=config.replicates,
        time_unit=config.time_unit,
        sheet=config.sheet,
        given=True if config.doses else None if guess else False,
        doses=config.doses,
    )
    lags = Lags.of(config.lags) if config.lags else None
    table = delayed(table, lags) if lags and lags.chosen else table.with_hidden(config.hidden_states)
    return table.with_doses() if table.given is not None else table


def _spaced(config: Config, table: Table) -> tuple[Config, Table]:
    """Lags with their spacing in time, and the table with them: without a spacing all of them together span the unit of scaled
    time, a sixth of an oscillation, as the training part has it."""
    if not config.lags:
        return config, table
    if not table.lags:
        lags, step = Lags.of(config.lags), usual_step(table.series)
        tau = Scales.of(table, Split.of(table, config.hold_out).taught, config.scale, table.log).tau
        table = delayed(table, replace(lags, rows=max(1, round(tau / lags.count / step))))
    taught = Split.of(table, config.hold_out).taught
    if sum(len(s.t) - s.first for s in taught if s.complete) < SHORTEST:
        raise UserError(
            f"{table.path}: fewer than {SHORTEST} rows to learn from have values {table.lags[-1]:g} before them; try fewer --lags, "
            f"closer ones, or a smaller --hold-out"
        )
    return config.model_copy(update={"lags": Lags(len(table.lags), time=table.lags[0]).text}), table


def refuse_varying(table: Table, covariates: Sequence[str]) -> None:
    """UserError where a covariate changes within a series."""
    for column in covariates:
        k = [c.header for c in table.inputs].index(column)
        for s in table.series:
            if s.u is not None and np.ptp(s.u.u[:, k]) > 0:
                at = int(np.flatnonzero(s.u.u[:, k] != s.u.u[0, k])[0])
                raise UserError(
                    f"{table.path}: column {column!r} changes within series {s.id!r} at {table.clock.text(s.u.t[at])}; a "
                    f"covariate is constant within a series: give the column with --input"
                )
        table.notes.append(f"{column!r} is a covariate: an input of the network that is constant within every series")


def resume(
    folder: str | Path,
    source: Source | None = None,
    *,
    tell: Tell = lambda recipe: None,
    notify: Notify = lambda what, value: None,
    stop: Callable[[], bool] = lambda: False,
    group: Group = ALONE,
    page: bool = True,
    aside: Here = HERE,
) -> dict[str, Any]:
    """Goes on with a run that was interrupted or killed, to the numbers the unbroken run would have had.

    Args:
        folder: of the run.
        source: the table, if its files have moved since.
        tell, notify, stop, page, aside: as for `fit`.
        group: processes that go on together, as torchrun starts them; more or fewer than before.

    Raises:
        UserError: where there is no run, or its table has changed.
    """
    folder = Path(folder)
    kept = read_run(folder)
    config = Config.make(**kept["config"])
    again = kept["table"] if source is None else source
    table = read_population(again, config)[1] if of_population(config) else read_as(again, config)
    if table.sha256 != kept["sha256"]:
        raise UserError(
            f"{table.path}: the table has changed since the run began (sha256 {table.sha256[:12]}…, it was "
            f"{kept['sha256'][:12]}…), so its numbers cannot be continued; start a new run"
        )
    if "tuning" not in kept:
        _check_search(config, group)
    notify("table", table)
    scales = Scales.from_dict(kept["scales"])
    notify("scales", scales)
    split = Split.of(table, config.hold_out)
    if of_population(config):  # the same search again, which ends at the same numbers
        return go(folder, kept, table, split, scales, config, notify, page, stop) if group.leads else {}
    return _go(folder, kept, table, split, scales, config, tell, notify, stop, page, group, aside)


def _go(
    folder: Path,
    kept: dict[str, Any],
    table: Table,
    split: Split,
    scales: Scales,
    config: Config,
    tell: Tell,
    notify: Notify,
    stop: Callable[[], bool],
    page: bool = True,
    group: Group = ALONE,
    aside: Here = HERE,
) -> dict[str, Any]:
    searching = config.tune > 0 and "tuning" not in kept
    if searching:
        found = tune(config, kept["search"], split.taught, scales, folder, notify, stop)
        (folder / CHECKPOINT).unlink(missing_ok=True)  # of the settings as they were given
        if found is not None:
            searching, config = False, tuned(config, found)
            kept |= {"config": config.model_dump(mode="json"), "tuning": found}
            write(folder / "config.json", json.dumps(kept, indent=1))
    group.agree("the SHA-256 of the table", table.sha256)
    if group.leads:
        shutil.rmtree(folder / FIGURES, ignore_errors=True)  # of an earlier report; isocline show --figures draws them
    rivals = aside.ask(fitted_rivals, split, scales, config.window)
    recipe = Recipe(config, split.taught, scales, folder, group, _seconds(table))
    recipe.load()
    reason = recipe.run(tell, lambda: searching or stop())  # of a search that was broken off nothing is fitted
    if not group.leads:
        return {}
    ensemble = recipe.ensemble()
    notify("judging", None)
    model = ensemble.model
    known = infer(model, recipe, split.taught) if isinstance(model, Physics) else None
    name = NEURAL if known is None else EQUATIONS
    judged = judge(model, table, split, scales, config.window, ensemble, name, rivals)
    warnings = [*recipe.warnings(), *judged.warnings]
    report = summary(table, split, scales, recipe, ensemble, reason, kept, judged, warnings)
    if known is not None:
        report["parameters"] = known
    drawn = None
    if page:
        module = _module(Fitted.of(folder, kept, config, scales, ensemble)) if report["phase"] else None
        drawn = aside.ask(_draw, report, folder, module)
    ensemble.write(folder)
    write(folder / "states.json", json.dumps(end_states(ensemble, table.series, scales, split.learned)))
    write(folder / "report.json", json.dumps(report, indent=1, allow_nan=False))
    if drawn is not None:
        drawn()
    notify("report", report)
    return report


def write_page(report: dict[str, Any], fitted: Fitted) -> Path:
    """report.html in the run's folder."""
    return _draw(report, fitted.folder, _module(fitted) if report["phase"] else None)


def _draw(report: dict[str, Any], folder: Path, module: str | None = None) -> Path:
    from isocline.report import write_report

    path = folder / "report.html"
    write_report(report, path, module)
    return path


def page_of(report: dict[str, Any], folder: Path) -> Path:
    """report.html of a run that was fitted without one."""
    if (folder / POPULATION).is_file():
        return _draw(report, folder)
    return write_page(report, Fitted.read(folder))


def _module(fitted: Fitted) -> str | None:
    """The model for the page to run; None where it cannot be exported, and the page is a picture only."""
    try:
        return source(fitted, "js")
    except ValueError:
        return None


def end_states(
    ensemble: Ensemble, series: list[Series], scales: Scales, learned: Sequence[bool]
) -> dict[str, dict[str, Any]]:
    """By series: the state at its last observation, settled on its last rows: where a forecast starts; and the members'. Of one
    that was not learned from, how far from all that was those rows are."""
    out: dict[str, dict[str, Any]] = {}
    for first in range(0, len(series), 200):
        group, taught = series[first : first + 200], learned[first : first + 200]
        anchors = [anchor(s, scales) for s in group]
        states = _ends(ensemble.flow, anchors, scales)
        count = len(ensemble.members)
        crowd = flow_of_rows(ensemble.networks, ensemble.members.repeat_interleave(len(group), 0))
        others = _ends(crowd, anchors * count, scales).view(count, len(group), -1) if count else None
        for i, (a, state) in enumerate(zip(anchors, states, strict=True)):
            out[a.id] = {"t": float(a.t[-1]), "state": state.tolist()}
            if a.u is not None:  # as far as the table has them, also after the last measurement
                known = a.u.stretch(float(a.t[-1]), np.inf)
                out[a.id]["inputs"] = {"t": known.t.tolist(), "u": known.u.tolist()}
                if known.doses is not None:
                    out[a.id]["doses"] = known.doses.to_dict()
            if others is not None:
                out[a.id]["members"] = others[:, i].tolist()
                out[a.id]["distance"] = None if taught[i] else ensemble.distance(a, scales)
    return out


def _ends(flow: Flow, anchors: list[Series], scales: Scales) -> torch.Tensor:
    """(B, d) states at the last rows; where a path is lost, those at the first."""
    states = settled(flow, anchors, scales)
    times = torch.tensor([[0.0, max((a.t[-1] - a.t[0]) / scales.tau, 1e-9)] for a in anchors], dtype=torch.float64)
    ends = flow(states, times, Drive.of(anchors, [a.t for a in anchors], scales))[-1]
    return torch.where(ends.isfinite().all(1, keepdim=True), ends, states)
