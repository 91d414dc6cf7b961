"""A run of equations whose series differ: doses and covariates from the table, parameters of a population and of each series.

Such equations need no recipe: they say where a series starts, and the likelihood of all series is maximised as it is
(`isocline.equations.population`). What is held out is forecast from each series' own first rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isocline.equations import Equations, Measured, Population, population
from isocline.equations.errors import meant
from isocline.equations.mixed_effects import Curves
from isocline.equations.parameters import declared
from isocline.equations.parser import NET, parse
from isocline.equations.population import accepted, together
from isocline.equations.posterior import Posterior
from isocline.equations.tree import Call, names, walk
from isocline.fit.compare import digest
from isocline.fit.config import Config
from isocline.fit.drive import HOLDS, Inputs
from isocline.fit.errors import UserError
from isocline.fit.files import POPULATION, write
from isocline.fit.judge import MAX_SCORED, Scores, number, scored
from isocline.fit.population_check import checked
from isocline.fit.reading.column import Column
from isocline.fit.reading.given import Given
from isocline.fit.reading.reader import Source, read_source
from isocline.fit.reading.table import Series, Table, read_table
from isocline.fit.rivals import Forecaster, of_rows
from isocline.fit.scale import Scales
from isocline.fit.scores import of_bounds
from isocline.fit.split import Split
from isocline.fit.summary import MAX_POINTS, MAX_SERIES, described, plain, series_of
from isocline.fit.verdict import verdict

NAME, TYPICAL = "population model", "typical series"  # forecasts from a series' own rows, and from none of them
FINE = 300  # points of a path
BOUNDS = {"low80": 0.1, "high80": 0.9, "low95": 0.025, "high95": 0.975}
DRAWS = 500  # for the bands of a series
TOLD = 40  # series whose parameters a report has
BANDED = 24  # series on which they are judged
Bounds = Callable[[Series, np.ndarray], dict[str, np.ndarray]]  # a series, times -> each of `BOUNDS`


def of_population(config: Config) -> bool:
    """Whether a run is of this kind.

    Networks, alone or in equations, are fitted by windows, whatever drives them.

    Raises:
        UserError: for equations and declarations that are none.
    """
    if not config.equations:
        return False
    try:
        per_series = any(p.per_series for p in declared(config.parameters))
        statements = parse("\n".join(config.equations))
    except ValueError as error:
        raise UserError(str(error)) from error
    calls = (part.name for s in statements for part in walk(s.expression) if isinstance(part, Call))
    if any(NET.fullmatch(name) for name in calls):
        return per_series
    return bool(config.doses or config.covariates or per_series)


def read_population(source: Source, config: Config, fitting: bool = True) -> tuple[Config, Table]:
    """The table, and the settings with the columns that the equations name: measured ones and covariates.

    Args:
        source, config: of the run.
        fitting: whether it is to be fitted, or only forecast from.

    Raises:
        UserError: for what is the user's to mend.
    """
    plain = equations_from(config, ())
    known = [*plain.states, *plain.system.definitions]
    columns = read_source(source, config.sheet)[0].columns
    by_name = {
        Column.of(c).name: c for c in columns if c not in (config.time, config.id, *config.inputs, *config.ignore)
    }
    used = {name for s in parse("\n".join(config.equations)) for name in names(s.expression)}
    fixed = {p.name for p in declared(config.parameters)} | set(known) | {"t"}
    guessed = [c for name, c in by_name.items() if name in used - fixed and c not in config.covariates]
    covariates = (*config.covariates, *guessed)
    states = config.states or (tuple(by_name[n] for n in known if n in by_name) if config.value is None else ())
    config = config.model_copy(
        update={"covariates": covariates, "scale": "linear" if config.scale == "auto" else config.scale}
    )
    equations = equations_from(config, covariates)
    table = read_table(
        source, config.time, config.id, states, config.ignore, inputs=config.inputs, hold=config.hold, log=config.log,
        variable=config.variable, value=config.value, replicates=config.replicates, time_unit=config.time_unit,
        sheet=config.sheet, given=True, doses=config.doses, covariates=covariates,
    )  # fmt: skip
    table = _named(table, known, bool(config.states))
    if not fitting:
        return config, table
    try:
        accepted(equations, tuple(measured(s, table, equations) for s in table.series), config.error)
        together(equations, config.correlated)
    except ValueError as error:
        raise UserError(f"{table.path}: {error}") from error
    return config, table


def equations_from(config: Config, covariates: Sequence[str]) -> Equations:
    """Of a run, with covariates by the names of their columns."""
    inputs = [Column.of(c).name for c in config.inputs]
    own = [Column.of(c).name for c in covariates]
    try:
        found = Equations("\n".join(config.equations), inputs=inputs, covariates=own, parameters=config.parameters)
    except ValueError as error:
        raise UserError(str(error)) from error
    return found


def _named(table: Table, known: Sequence[str], asked: bool) -> Table:
    """With the columns that the equations have a state or a definition for; `known` begins with the first state."""
    first = known[0]
    keep = [i for i, c in enumerate(table.states) if c.name in known]
    wrong = [c for c in table.states if c.name not in known]
    if not keep or (asked and wrong):
        name = wrong[0].name
        raise UserError(
            f"{table.path}: column {wrong[0].header!r}: the equations have neither a state nor a definition of this name"
            f"{meant(name, known)}; there are {', '.join(known)}: define what was measured, as in {name} = central/v"
        )
    series = [replace(s, y=s.y[:, keep]) for s in table.series]
    series = [s.rows(np.flatnonzero(np.isfinite(s.y).any(axis=1))) for s in series]
    ignored = [*table.ignored, *((c.header, "not in the equations") for c in wrong)]
    unsaid = not any(role.startswith("which state") for _, role in table.others)
    others = [(c, f"dose into {first}" if role == "dose" and unsaid else role) for c, role in table.others]
    return replace(
        table, states=[table.states[i] for i in keep], series=[s for s in series if len(s.t)], ignored=ignored,
        others=others, notes=[n for n in table.notes if "empty cell" not in n] if wrong else table.notes,
    )  # fmt: skip


# ---- a run ------------------------------------------------------------------------------------------------------------
def go(
    folder: Path,
    kept: dict[str, Any],
    table: Table,
    split: Split,
    scales: Scales,
    config: Config,
    notify: Callable[[str, Any], None],
    page: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Fits, judges, and leaves report.json, population.json and the page; returns the report.

    Raises:
        UserError: where the equations do not fit the data.
    """
    began = time.monotonic()
    equations = equations_from(config, config.covariates)
    steps: list[int] = []
    broken: list[bool] = []

    def asked() -> bool:
        if stop():
            broken.append(True)
        return bool(broken)

    try:
        series = [measured(s, table, equations) for s in split.taught]
        found = population(
            equations, series, noise=config.error, correlated=config.correlated,
            tell=lambda step, loss: steps.append(step), stop=asked,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from error
    notify("judging", None)
    posterior = {s.id: found.curves.posterior(measured(s, table, equations)) for s in split.train}
    own = {name: found.curves.named(p) for name, p in posterior.items()}
    scores = _scores(found, own, table, split, scales, equations)

    def bounds(s: Series, ts: np.ndarray) -> dict[str, np.ndarray]:
        series = measured(s, table, equations)
        return bounds_of(found.curves, series, ts, found.covariance, posterior[s.id], config.seed)

    bands = _bands(bounds, split, scales)
    reason = "interrupted" if broken else "done"
    seconds = round(time.monotonic() - began, 2)
    report = _report(kept, table, split, scales, found, own, scores, bands, bounds, len(steps), seconds, reason)
    write(folder / POPULATION, json.dumps(_kept(found, posterior, table, split), indent=1))
    write(folder / "report.json", json.dumps(report, indent=1, allow_nan=False))
    if page:
        from isocline.report import write_report

        write_report(report, folder / "report.html")
    notify("report", report)
    return report


def measured(s: Series, table: Table, equations: Equations) -> Measured:
    """A series of a table as equations are compared with it."""
    columns = {c.name: s.y[:, i].copy() for i, c in enumerate(table.states)}
    return given_to(s.id, s.t, columns, (table.given or {}).get(s.id, Given()), s.u, equations)


def given_to(
    name: str, t: np.ndarray, columns: dict[str, np.ndarray], given: Given, u: Inputs | None, equations: Equations
) -> Measured:
    """A series from its parts.

    Raises:
        ValueError: for a dose into what is no state.
    """
    inputs = {}
    if u is not None:
        inputs = {
            name: HOLDS[u.hold](torch.tensor(u.t), torch.tensor(u.u[:, k]), per_sample=False)
            for k, name in enumerate(equations.system.inputs)
        }
    covariates = {Column.of(c).name: value for c, value in given.covariates.items()}
    return Measured(t.copy(), columns, covariates, inputs, _doses(given, equations), id=name, resets=given.resets)


def _doses(given: Given, equations: Equations) -> dict[str, tuple[Any, ...]]:
    """By state: times, amounts, durations, intervals. What says nothing else goes into the first state."""
    states = equations.states
    by: dict[str, list[tuple[float, float, float, float]]] = {}
    for d in given.doses:
        name = states[0] if d.state is None else d.state
        if isinstance(name, int):
            if not 1 <= name <= len(states):
                raise ValueError(
                    f"dose: into state {name} by cmt, but the equations have {len(states)}: {', '.join(states)}"
                )
            name = states[name - 1]
        by.setdefault(name, []).append((d.t, d.amount, d.duration, d.interval))
    return {name: tuple(np.array(x) for x in zip(*rows, strict=True)) for name, rows in by.items()}


def _kept(found: Population, posterior: dict[str, Posterior], table: Table, split: Split) -> dict[str, Any]:
    """What forecasts need: the population, and of every series its parameters, its end, and what it was given."""
    series = {}
    for s in split.train:
        given = (table.given or {}).get(s.id, Given())
        own = posterior[s.id]
        series[s.id] = {
            "parameters": found.curves.named(own),
            "posterior": own.to_dict(),
            "end": float(s.t[-1]),
            **asdict(given),
        }
        if s.u is not None:
            series[s.id]["inputs"] = {"t": s.u.t.tolist(), "u": s.u.u.tolist()}
    return {
        "columns": list(found.noise),
        "values": found.values,
        "sd": {k: found[k].sd for k in found.varying},
        "noise": found.noise,
        "psi": found.psi.tolist(),
        "covariance": plain(found.covariance.numpy()),
        "series": series,
    }


def _path(found: Population, s: Measured, ts: np.ndarray, own: dict[str, float] | None, table: Table) -> np.ndarray:
    """(n, d) of the table's columns."""
    paths = found.predict(s, ts, own)
    return np.stack([paths[c.name].numpy() for c in table.states], 1)


def bounds_of(
    curves: Curves, series: Measured, ts: np.ndarray, covariance: torch.Tensor, own: Posterior | None, seed: int
) -> dict[str, np.ndarray]:
    """Each of `BOUNDS` (n, d) at times (n,), by draws; `own` None: of a series of which nothing is known."""
    drawn = torch.stack([*curves.simulate(series, ts, covariance, own, DRAWS, seed, apart=False).values()], -1)
    return {name: drawn.nanquantile(q, 0).numpy() for name, q in BOUNDS.items()}


def _bands(bounds: Bounds, split: Split, scales: Scales) -> dict[str, Any] | None:
    """How good they are on the held-out part; None where nothing is held out."""
    held = [i for i, h in enumerate(split.held) if len(h.t)]
    if not held:
        return None
    some = [held[k] for k in np.unique(np.linspace(0, len(held) - 1, BANDED).round().astype(int))]
    found = [bounds(split.train[i], split.held[i].t) for i in some]
    whole = {name: scales.scaled(np.concatenate([b[name] for b in found])) for name in BOUNDS}
    seen, record = (
        scales.scaled(np.concatenate(y)) for y in ([split.held[i].y for i in some], [s.y for s in split.taught])
    )
    rows = of_bounds({level: (whole[f"low{level}"], whole[f"high{level}"]) for level in ("80", "95")}, seen, record)
    levels = {level: {k: number(v) for k, v in row.items()} for level, row in rows.items()}
    return {
        "members": 0,
        "draws": DRAWS,
        "points": 0,
        "coverage": {level: row["coverage"] for level, row in levels.items()},
        "held_out": levels,
    }


def _scores(
    found: Population,
    own: dict[str, dict[str, float]],
    table: Table,
    split: Split,
    scales: Scales,
    equations: Equations,
) -> Scores:
    """On the held-out rows: from each series' own parameters, from the population's, and by the last value and the mean."""
    chosen = [i for i, h in enumerate(split.held) if len(h.t)][:MAX_SCORED]
    if not chosen:
        return []
    trains, held = [split.train[i] for i in chosen], [split.held[i] for i in chosen]

    def by(parameters: dict[str, dict[str, float]]) -> Callable[..., list[np.ndarray]]:
        return lambda records, later: [
            scales.scaled(_path(found, measured(s, table, equations), t, parameters.get(s.id), table))
            for s, t in zip(records, later, strict=True)
        ]

    count = len(found.psi)
    stacked = np.concatenate([scales.scaled(s.y) for s in split.taught])
    models = [
        Forecaster(NAME, count, by(own)),
        Forecaster(TYPICAL, count, by({})),
        *of_rows(np.nanmean(stacked, 0), scales),
    ]
    forecasts = {m.name: m.forecast(trains, [h.t for h in held]) for m in models}
    return scored(models, forecasts, held, split.taught, scales, table)


def without_rows(scores: Scores) -> str:
    """The error of the typical series as a sentence to go on with; nothing where it is not among the scores."""
    typical = next((s["nrmse"] for s in scores if s["model"] == TYPICAL), None)
    if typical is None:
        return ""
    return f" Without the series' own rows, by the parameters of the typical one, it is {typical:.3g}."


def _report(
    kept: dict[str, Any], table: Table, split: Split, scales: Scales, found: Population,
    own: dict[str, dict[str, float]], scores: Scores, bands: dict[str, Any] | None, bounds: Bounds, steps: int,
    seconds: float, reason: str,
) -> dict[str, Any]:  # fmt: skip
    rivals = [s for s in scores if s["model"] != TYPICAL]
    sentence, won = verdict(rivals)
    sentence += without_rows(scores)
    shown = list(zip(split.train, split.held, split.learned, strict=True))[:MAX_SERIES]
    equations = found.model
    paths = []
    for train, held, _ in shown:
        s = measured(train, table, equations)
        end = held.t[min(len(held.t), MAX_POINTS) - 1] if len(held.t) else train.t[-1]
        for part, first, last in (("fit", train.t[0], train.t[-1]), ("forecast", train.t[-1], end)):
            if last > first:
                grid = np.linspace(first, last, FINE)
                y = _path(found, s, grid, own[train.id], table)
                paths.append({"id": train.id, "part": part, "t": grid.tolist(), "y": y.tolist()})
                if part == "forecast":
                    paths[-1] |= {name: plain(values) for name, values in bounds(train, grid).items()}
    return {
        "isocline": kept["isocline"], "command": kept["command"], "created": kept["created"],
        "table": described(table, scales), "series": [series_of(*parts) for parts in shown], "model_path": paths,
        "config": kept["config"],
        "history": {"iteration": [], "stage": [], "train": [], "seconds": []},  # no mean square error by steps
        "stages": [{"phase": "fitting", "name": "likelihood (FOCEI)", "steps": steps, "seconds": seconds,
                    "misfit": None}],
        "chosen": None, "tuning": None, "bands": bands, "held_out": digest(split.held, [c.header for c in table.states]),
        "scores": scores, "absent": [], "horizons": None, "reach": None,
        "score_scale": "NRMSE: root mean square error in standard deviations of what was measured, all columns together",
        "verdict": sentence, "won": won, "phase": None, "equilibria": [], "bifurcation": None,
        "residuals": None, "population": checked(found, kept["config"]["seed"]),
        "solver": {"solver": "tsit5, rtol 1e-8", "evaluations": None, "evaluations_backward": None, "accepted": None,
                   "rejected": None, "reconstruction": None},
        "stopped": reason, "seconds": seconds, "warnings": [],
        "parameters": _parameters(found, own),
    }  # fmt: skip


def _parameters(found: Population, own: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What report.json tells about the equations."""
    equations = found.model
    correlated = bool(found.laplace.layout.correlated)
    noise = [f"{name} {kind} {value:.3g}" for name, own in found.noise.items() for kind, value in own.items()]
    rows, columns = found.laplace.layout.pairs
    pairs = [
        f"{found.varying[j]} and {found.varying[i]} {float(found.correlation[i, j]):.2f}"
        for i, j in zip(rows, columns, strict=True)
    ]
    told = [
        f"noise: {', '.join(noise)}; log-likelihood {found.log_likelihood:.3f} of {found.count} observations",
        *([f"correlation between series: {', '.join(pairs)}"] if pairs else []),
    ]
    return {
        "equations": equations.text().splitlines(),
        "with_values": equations.text(values=True, digits=4).splitlines(),
        "rows": found.rows(),
        "correlation": {"names": list(found.varying), "values": found.correlation.tolist()} if correlated else
                       {"names": [], "values": []},
        "noise": found.noise,
        "observations": found.count,
        "log_likelihood": found.log_likelihood,
        "population": True,
        "told": told,
        "individuals": {"names": list(found.varying), "count": len(own),
                        "rows": [[name, [values[v] for v in found.varying]] for name, values in list(own.items())[:TOLD]]},
        "notes": [*told, *found.messages],
    }  # fmt: skip
