"""Forecasts of a population run: of its series, of series with other doses, of new ones."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isocline.equations import Equations, Measured
from isocline.equations.course import Settings
from isocline.equations.individuals import Individuals
from isocline.equations.laplace import Layout
from isocline.equations.mixed_effects import Curves
from isocline.equations.population import together
from isocline.equations.posterior import Posterior
from isocline.fit.config import Config
from isocline.fit.drive import Inputs
from isocline.fit.errors import UserError
from isocline.fit.files import POPULATION, read_run
from isocline.fit.population import BOUNDS, bounds_of, equations_from, given_to, measured, read_population
from isocline.fit.reading.clock import Clock
from isocline.fit.reading.given import Clocked, Dose, Doses, Given
from isocline.fit.reading.reader import read_cells

ROWS = 100  # of a forecast up to a time, where nothing says how far apart they are


@dataclass
class Subject:
    """One series of a forecast: its parameters and how well they are known (None: not at all), what it is given, where it ends."""

    parameters: dict[str, float]
    given: Given
    end: float
    inputs: Inputs | None = None
    posterior: Posterior | None = None


def predict_population(
    folder: Path,
    until: str | float | None = None,
    times: str | Path | None = None,
    start: str | Path | None = None,
    inputs: str | Path | None = None,
    bands: bool = False,
) -> tuple[list[str], list[list[Any]], list[str]]:
    """As `isocline.fit.predict`.

    Args:
        folder: of the run.
        until: to this time, from the end of each record; of series that have none, from time 0.
        times: instead: a table with the times (and series).
        start: a table like that of the run: the parameters of each of its series come from its own rows and the population.
        inputs: a table of doses and covariates: of a series of the run, or of `start`, instead of its own; of any other, a
            series with the parameters of the population.
        bands: after the columns, the bounds of their 80 and 95 % bands: quantiles of draws of the population's numbers, of the
            series' own given its rows, and of the noise.

    Raises:
        UserError: for what is the user's to mend.
    """
    kept = read_run(folder)
    config, clock = Config.make(**kept["config"]), Clock(**kept["clock"])
    path = folder / POPULATION
    if not path.is_file():
        raise UserError(f"{folder}: the run has no population yet; fit it anew with isocline fit")
    known = json.loads(path.read_text(encoding="utf-8"))
    if (until is None) == (times is None):
        raise UserError("expected one of --until T and --times FILE")
    equations = equations_from(config, config.covariates)
    population = Kept(known, config, equations)
    try:
        subjects = _subjects(population, start)
        if inputs is not None:
            _given_anew(Path(inputs), config, clock, subjects, known["values"])
        wanted = (
            _until(clock.number(str(until)), subjects)
            if until is not None
            else _times(Path(str(times)), config, clock, subjects)
        )
        rows: list[list[Any]] = []
        for name, ts in wanted.items():
            s = subjects[name]
            series = given_to(
                name, ts, {c: np.full(len(ts), np.nan) for c in known["columns"]}, s.given, s.inputs, equations
            )
            curves = population.curves(series)
            found = curves.predict(series, ts, s.parameters)
            columns = [found[c].tolist() for c in known["columns"]]
            if bands:
                within = bounds_of(curves, series, ts, population.covariance, s.posterior, config.seed)
                columns += [column.tolist() for part in within.values() for column in part.T]
            for t, *values in zip(ts, *columns, strict=True):
                rows.append([*([name] if config.id else []), clock.text(t), *values])
    except ValueError as error:
        raise UserError(str(error)) from error
    bounds = [f"{state} {bound}" for bound in BOUNDS for state in config.states] if bands else []
    return [*([config.id] if config.id else []), str(config.time), *config.states, *bounds], rows, []


class Kept:
    """The population as it was kept: made ready with the first series it is asked of, for all others too."""

    def __init__(self, known: dict[str, Any], config: Config, equations: Equations) -> None:
        self.known, self.config, self.equations = known, config, equations
        self.made: Curves | None = None

    @property
    def covariance(self) -> torch.Tensor:
        """(size, size) of the numbers of the population, NaN where it is not known."""
        rows = [[math.nan if x is None else x for x in row] for row in self.known["covariance"]]
        return torch.tensor(rows, dtype=torch.float64)

    def curves(self, series: Measured) -> Curves:
        """For this series and any other."""
        self.made = self.made or _curves(self.known, self.config, self.equations, series)
        return self.made


def _curves(known: dict[str, Any], config: Config, equations: Equations, series: Measured) -> Curves:
    varying = tuple(i for i, p in enumerate(equations.free) if p.per_series)
    columns = known["columns"]
    layout = Layout(
        len(equations.free), varying, (config.error,) * len(columns), together(equations, config.correlated)
    )
    psi = torch.tensor(known["psi"], dtype=torch.float64)
    ts = torch.cat([torch.zeros(1, dtype=torch.float64), series.ts]).unique()
    individuals = Individuals(equations, [series], ts[None], columns, Settings(), psi[: layout.count])
    return Curves(equations, layout, psi, individuals)


def _subjects(population: Kept, start: str | Path | None) -> dict[str, Subject]:
    """Series of the run; or of a table like its own, with the parameters that their rows make most likely."""
    known, config, equations = population.known, population.config, population.equations
    if start is None:
        return {
            name: Subject(
                s["parameters"], Given([Dose(**d) for d in s["doses"]], s["covariates"], s["resets"]), s["end"],
                Inputs(np.array(s["inputs"]["t"]), np.array(s["inputs"]["u"]), config.hold) if "inputs" in s else None,
                Posterior.from_dict(s["posterior"]),
            )
            for name, s in known["series"].items()
        }  # fmt: skip
    _, table = read_population(start, config, fitting=False)
    found = {}
    for s in table.series:
        series = measured(s, table, equations)
        curves = population.curves(series)
        own = curves.posterior(series)
        given = (table.given or {}).get(s.id, Given())
        found[s.id] = Subject(curves.named(own), given, float(s.t[-1]), s.u, own)
    return found


def _given_anew(
    path: Path, config: Config, clock: Clock, subjects: dict[str, Subject], values: dict[str, float]
) -> None:
    """Puts the doses and covariates of a table in the place of the series' own."""
    if config.inputs:
        raise UserError(f"--inputs {path}: doses of a run with inputs u(t) cannot be given anew; leave the option out")
    cells = read_cells(path)
    cells.require(*filter(None, [config.time, config.id]))
    there = [c for c in config.covariates if c in cells.columns]
    found = Doses(cells, config.doses, ()).given(Clocked(str(config.time), config.id, clock), there)
    for name, given in found.items():
        old = subjects.get(name)
        covariates = {**(old.given.covariates if old else {}), **given.covariates}
        missing = [c for c in config.covariates if c not in covariates]
        if missing:
            raise UserError(f"{path}: series {name!r} needs a number in column {missing[0]!r}")
        subjects[name] = Subject(
            old.parameters if old else values, Given(given.doses, covariates, given.resets), old.end if old else 0.0,
            posterior=old.posterior if old else None,
        )  # fmt: skip


def _until(end: float, subjects: dict[str, Subject]) -> dict[str, np.ndarray]:
    """From the end of each record on, evenly."""
    out = {name: np.linspace(s.end, end, ROWS + 1)[1:] for name, s in subjects.items() if s.end < end}
    if not out:
        last = min(s.end for s in subjects.values())
        raise UserError(f"--until {end:g}: expected a time after the end of a record, {last:g}; or give --times FILE")
    return out


def _times(path: Path, config: Config, clock: Clock, subjects: dict[str, Subject]) -> dict[str, np.ndarray]:
    """By series, sorted; of a table of times alone those of every series."""
    cells = read_cells(path, one_column=True)
    if len(cells.columns) == 1 and cells.columns != [str(config.time)]:
        cells.frame.columns = [str(config.time)]
    cells.require(str(config.time))
    ts = clock.numbers(cells, str(config.time))
    if config.id is None or config.id not in cells.columns:
        return {name: np.unique(ts) for name in subjects}
    names = cells.text(config.id).to_numpy()
    for i, name in enumerate(names):
        if name not in subjects:
            raise UserError(
                f"{cells.place(i, config.id)}: no series {name!r}; there are {', '.join(map(repr, list(subjects)[:20]))}; "
                f"give a new one's doses with --inputs FILE, or its rows with --from FILE"
            )
    return {name: np.unique(ts[names == name]) for name in dict.fromkeys(names.tolist())}
