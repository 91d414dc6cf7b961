"""Measured series to forecast, and a noisy van der Pol oscillator: each as tables to learn from and what comes after them.

What is to be forecast never enters a table: the part that is learned from is a file of its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from isocline.fit.drive import Inputs
from isocline.fit.errors import UserError
from isocline.fit.reading.table import Series
from isocline.problems import van_der_pol
from isocline.solve import solve


@dataclass(frozen=True)
class Task:
    """One table to fit, and forecasts to make with what was fitted.

    Attributes:
        part: of the set.
        train: the table, columns `time`, `id` where there are several series, then the states.
        records: what each forecast starts from, in the order of the table's states, hidden ones last.
        later: (times (n,), states (n, d)) after each, NaN where nothing is compared.
        measured: (n, d) what is measured then, where `later` has the truth; empty: the same. Bands are for measurements.
        settings: of `isocline.fit`, where they are not the defaults. Tasks that follow each other with one table (the same
            object) and the same settings share a fit.
    """

    part: str
    train: pd.DataFrame
    records: list[Series]
    later: list[tuple[np.ndarray, np.ndarray]]
    settings: dict[str, Any] = field(default_factory=dict)
    measured: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class DataSet:
    """A set of the benchmark.

    Attributes:
        name: in the table.
        what: is forecast from what, in a line.
        file: below the folder of data sets; empty where the set is computed.
        tasks: from the path of that file.
        log: whether errors are those of natural logarithms; else of values over the standard deviation of the training part,
        unit: or over this, in the table's unit.
    """

    name: str
    what: str
    file: str
    tasks: Callable[[Path], Iterator[Task]]
    log: bool = False
    unit: float | None = None


def located(file: str, given: Path | None) -> Path:
    """The path of a file of a data set: in the folder that was given, in $ISOCLINE_DATA, in ../shared/data.

    Raises:
        UserError: naming where it was looked for.
    """
    folders = [given, os.environ.get("ISOCLINE_DATA"), Path("../shared/data")]
    tried = [Path(folder) / file for folder in folders if folder]
    for path in tried:
        if path.exists():
            return path
    raise UserError(f"{file}: not at {', '.join(map(str, tried))}; give the folder that holds it with --data")


# ---- pieces -----------------------------------------------------------------------------------------------------------
def _tail(frame: pd.DataFrame, rows: int, horizon: int | None = None, part: str = "", **settings: Any) -> Task:
    """One series: the first rows teach, what comes after them (as far as `horizon` rows) is forecast."""
    t, y = _arrays(frame)
    end = len(frame) if horizon is None else min(len(frame), rows + horizon)
    return Task(part, frame[:rows], [Series("", t[:rows], y[:rows])], [(t[rows:end], y[rows:end])], settings)


def _arrays(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Times (n,), the first column, and states (n, d), the others."""
    values = frame.to_numpy(dtype=np.float64)
    return values[:, 0], values[:, 1:]


# ---- sets -------------------------------------------------------------------------------------------------------------
ORIGINS, YEARS = (1890, 1897, 1904, 1911, 1918), 18


def _lynx_hare(path: Path) -> Iterator[Task]:
    frame = pd.read_csv(path)
    frame = frame[[c for c in ("year", "hare", "lynx") if c in frame]]
    for origin in ORIGINS:
        yield _tail(frame, int((frame["year"] < origin).sum()), YEARS, f"from {origin}", scale="log")


def _predator_prey(path: Path) -> Iterator[Task]:
    """Read off a figure: two neighbouring rows are in the wrong order."""
    frame = pd.read_csv(path)[["time", "paramecium", "didinium"]].sort_values("time")
    yield _tail(frame, round(0.8 * len(frame)))


def _chemostat(path: Path) -> Iterator[Task]:
    frame = pd.read_csv(path)[["day", "algae", "rotifers"]]
    yield _tail(frame, round(0.8 * len(frame)))


def _growth(path: Path) -> Iterator[Task]:
    """Replicate 1 teaches; of replicate 2 the first quarter is seen. The concentration is a state that stays what it is."""
    frame = pd.read_csv(path)
    for strain, curves in frame.groupby("strain"):
        curves = curves.sort_values(["conc", "time"])
        first = curves[curves["replicate"] == 1]
        table = pd.DataFrame(
            {
                "time": first["time"],
                "id": "conc " + first["conc"].astype(str),
                "od": first["value"],
                "conc": first["conc"],
            }
        )
        records, later = [], []
        for conc, curve in curves[curves["replicate"] == 2].groupby("conc"):
            t, y = _arrays(curve[["time", "value", "conc"]])
            seen = len(t) // 4
            records.append(Series(str(conc), t[:seen], y[:seen]))
            later.append((t[seen:], np.stack([y[seen:, 0], np.full(len(t) - seen, np.nan)], 1)))
        yield Task(f"strain {strain}", table, records, later)


def _influenza(path: Path) -> Iterator[Task]:
    yield _tail(pd.read_csv(path)[["day", "in_bed", "convalescent"]], 10)


def _measles(path: Path) -> Iterator[Task]:
    """After the one week without a report; weeks are counted, for as decimal years with four digits they are not equal."""
    reports = pd.read_csv(path)["reports"]
    reports = reports[int(np.flatnonzero(reports.isna())[-1]) + 1 :].reset_index(drop=True)
    frame = pd.DataFrame({"week": reports.index, "reports": reports})
    yield _tail(frame, round(0.8 * len(frame)), 104)


PRESSURES = (950.0, 1050.0)  # hPa; a few rows hold −3 and 7679


def _delhi(path: Path) -> Iterator[Task]:
    """Weekly means: 2013 to 2016 teach, 2017 is forecast."""
    both = pd.concat(
        [pd.read_csv(path), pd.read_csv(path.with_name("delhi_test.csv")).iloc[1:]]
    )  # 2017-01-01 is in both
    pressure = both["meanpressure"]
    both["meanpressure"] = pressure.where(pressure.between(*PRESSURES))
    week = (pd.to_datetime(both["date"]) - pd.Timestamp("2013-01-01")).dt.days // 7
    weeks = both.drop(columns="date").groupby(week.rename("week")).mean().reset_index()
    yield _tail(weeks, int((weeks["week"] < (pd.Timestamp("2017-01-01") - pd.Timestamp("2013-01-01")).days // 7).sum()))


def _battery(path: Path) -> Iterator[Task]:
    """Three cells to the end of their life and the first half of a fourth teach; its second half is forecast."""
    frame = pd.read_csv(path)[["cycle", "cell", "capacity"]]
    last = frame[frame["cell"] == "B0018"]
    half = len(last) // 2
    t, y = _arrays(last[["cycle", "capacity"]])
    table = pd.concat([frame[frame["cell"] != "B0018"], last[:half]]).rename(columns={"cycle": "time", "cell": "id"})
    yield Task("B0018", table, [Series("B0018", t[:half], y[:half])], [(t[half:], y[half:])])


PENDULUM_EVERY, AHEAD, SEEN = 20, 1.0, 12  # rows (of 1 ms) used; seconds forecast; rows a forecast starts from
HELD = (2, 7, 12, 17)  # large swings; those of the authors are the small ones at the end


def _double_pendulum(path: Path) -> Iterator[Task]:
    """22 segments teach; in eight others the next second is forecast every half second, and both angles are compared."""
    with np.load(path) as file:
        t, y, segment, validation = (file[name] for name in ("t", "y", "segment", "validation"))
    names = ["q1", "q2", "v1", "v2"]
    test = {*HELD, *np.unique(segment[validation]).tolist()}
    tables, records, later = [], [], []
    for k in np.unique(segment).tolist():
        rows = np.flatnonzero(segment == k)[::PENDULUM_EVERY]
        ts, ys = t[rows], y[rows].astype(np.float64)
        if k not in test:
            tables.append(pd.DataFrame({"time": ts, "id": f"segment {k}", **dict(zip(names, ys.T, strict=True))}))
            continue
        step, ahead = round(0.5 / (ts[1] - ts[0])), round(AHEAD / (ts[1] - ts[0]))
        for begin in range(SEEN, len(ts) - ahead, step):
            records.append(Series(f"{k} {begin}", ts[begin - SEEN : begin], ys[begin - SEEN : begin]))
            angles = np.concatenate([ys[begin : begin + ahead, :2], np.full((ahead, 2), np.nan)], 1)
            later.append((ts[begin : begin + ahead], angles))
    yield Task("", pd.concat(tables), records, later)


FREE_EVERY, RELEASED = 20, 0.5  # rows (of 1 ms) used; seconds until the hand has let go


def _free_swing(path: Path) -> Iterator[Task]:
    """Two releases teach, the third is forecast from its first twelve rows. The velocity is the angle's central difference."""
    frame = pd.read_csv(path)
    runs = {}
    for degrees, run in frame.groupby("release_deg"):
        t, angle = run["t"].to_numpy()[::FREE_EVERY], run["angle_deg"].to_numpy(dtype=np.float64)[::FREE_EVERY]
        velocity = np.gradient(angle, t)
        keep = t >= RELEASED
        runs[degrees] = (t[keep], np.stack([angle, velocity], 1)[keep])
    for held, (t, y) in runs.items():
        tables = [
            pd.DataFrame({"time": ts, "id": f"from {name}", "angle": ys[:, 0], "velocity": ys[:, 1]})
            for name, (ts, ys) in runs.items()
            if name != held
        ]
        angle = np.stack([y[SEEN:, 0], np.full(len(t) - SEEN, np.nan)], 1)
        yield Task(f"from {held} deg", pd.concat(tables), [Series(str(held), t[:SEEN], y[:SEEN])], [(t[SEEN:], angle)])


SILVER_RATE = 1e7 / 2**14  # Hz
SILVER_TRAINED = (40_650, 105_712)  # rows of the multisines: three quarters teach,
SILVER_TESTS = {  # and the last quarter, and the arrow before them with and without amplitudes that the multisines lack, judge
    "multisine": (105_712, 127_400),
    "arrow, no extrapolation": (100, 32_100),
    "arrow, whole": (100, 40_575),
}
SILVER_SEEN = 50  # rows that a starting state may be settled on
# A hidden state for the velocity. The input is band-limited, far below the sampling rate: a smooth curve, not steps.
SILVER_SETTINGS = {"inputs": ("u",), "hidden_states": ("velocity",), "hold": "cubic"}


def _silverbox(path: Path) -> Iterator[Task]:
    """Free runs along three records, by the split of the benchmark's own loader (nonlinear_benchmarks 1.0)."""
    with np.load(path) as file:
        u, y = file["u"].astype(np.float64), file["y"].astype(np.float64)
    t = np.arange(len(u)) / SILVER_RATE
    begin, end = SILVER_TRAINED
    train = pd.DataFrame({"time": t[begin:end], "u": u[begin:end], "y": y[begin:end]})
    for part, (begin, end) in SILVER_TESTS.items():
        middle = begin + SILVER_SEEN
        states = np.stack([y, np.full(len(y), np.nan)], 1)
        driven = Inputs(t[begin:end], u[begin:end, None], str(SILVER_SETTINGS["hold"]))
        record = Series(part, t[begin:middle], states[begin:middle], driven)
        yield Task(part, train, [record], [(t[middle:end], states[middle:end])], dict(SILVER_SETTINGS))


MU, PERIOD, NOISE, COUNT = 2.0, 7.62987, 0.1, 10


def _van_der_pol(each: int, periods: float) -> Callable[[Path], Iterator[Task]]:
    """Ten draws of noise and phase, `each` rows a period: 84 rows teach, the rest of the periods is compared with the truth, and
    the bands with measurements of it, for a band that is to hold those holds nearly all of the truth."""

    def draws(path: Path) -> Iterator[Task]:
        rows = 84
        t = np.arange(round(periods * each)) * PERIOD / each
        oscillator, y0 = van_der_pol(mu=MU), torch.tensor([2.0, 0.0], dtype=torch.float64)
        for k in range(COUNT):
            rng = np.random.default_rng(k)
            begin = 30.0 + PERIOD * rng.random()  # on the limit cycle, at any phase
            ts = torch.tensor(np.concatenate([[0.0], begin + t]))
            truth = solve(oscillator.field, y0, ts, solver="dopri8", engine="auto", rtol=1e-9, atol=1e-9).ys[1:].numpy()
            noisy = truth + NOISE * truth.std(0) * rng.standard_normal(truth.shape)
            frame = pd.DataFrame({"time": t, "x": noisy[:, 0], "y": noisy[:, 1]})[:rows]
            records, later = [Series("", t[:rows], noisy[:rows])], [(t[rows:], truth[rows:])]
            yield Task(f"draw {k}", frame, records, later, measured=[noisy[rows:]])

    return draws


SETS = (
    DataSet(
        "lynx and hare", "rolling origins 1890 to 1918, up to 18 years ahead; error of the logarithms",
        "lynx_hare/hudson_bay_1845_1935.csv", _lynx_hare, log=True,
    ),
    DataSet(
        "predator and prey, laboratory", "the last fifth of 35 days",
        "bio_predator_prey_lab/didinium_paramecium_veilleux.csv", _predator_prey,
    ),
    DataSet("chemostat", "the last fifth of 108 days", "bio_chemostat/becks2010.csv", _chemostat),
    DataSet(
        "bacterial growth", "another replicate from its first quarter, 12 concentrations, 3 strains",
        "bio_bacterial_growth/bactgrowth.csv", _growth,
    ),
    DataSet("influenza 1978", "the last 4 of 14 days", "epi_influenza_1978/boarding_school_1978.csv", _influenza),
    DataSet("measles", "104 weeks after 701", "epi_measles/england_wales_weekly.csv", _measles),
    DataSet("Delhi weather", "16 weeks of 2017 after four years", "clim_delhi/delhi_train.csv", _delhi),
    DataSet("battery", "the second half of a cell's life, after three others", "phys_battery_nasa/capacity.csv", _battery),
    DataSet(
        "double pendulum", "both angles, 1 s ahead, in 8 of 30 segments", "phys_double_pendulum/double_pendulum.npz",
        _double_pendulum,
    ),
    DataSet(
        "free-swing pendulum", "the angle of one release after two others", "phys_free_swing_pendulum/free_swing.csv",
        _free_swing,
    ),
    DataSet(
        "Silverbox", "free runs along three records after the first 50 rows, driven by their inputs; error in mV",
        "phys_silverbox/silverbox.npz", _silverbox, unit=1e-3,
    ),
    DataSet(
        "noisy van der Pol", "six periods of 20 rows with 10 % noise: the truth of the last 30 %, 10 draws", "", _van_der_pol(20, 6)
    ),
    DataSet(
        "noisy van der Pol, coarse", "two periods of truth after six of 14 rows with 10 % noise, 10 draws", "", _van_der_pol(14, 8)
    ),
)  # fmt: skip


def named(names: list[str]) -> list[DataSet]:
    """Sets whose names contain one of these words; all where there are none.

    Raises:
        UserError: for a word that is in no name.
    """
    for name in names:
        if not any(name.lower() in s.name.lower() for s in SETS):
            raise UserError(f"no data set {name!r}; there are {', '.join(s.name for s in SETS)}")
    return [s for s in SETS if not names or any(name.lower() in s.name.lower() for name in names)]


def spread(task: Task, data: DataSet) -> np.ndarray:
    """(d,) what errors are divided by: the standard deviation of the training part, or 1 where they are of logarithms."""
    if data.unit is not None:
        return np.full(task.records[0].y.shape[1], data.unit)
    states = task.train.drop(columns=["id"], errors="ignore").iloc[:, 1:].to_numpy(dtype=np.float64)
    return np.ones(states.shape[1]) if data.log else np.nanstd(states, 0)


def error(path: np.ndarray, seen: np.ndarray, unit: np.ndarray, log: bool) -> float:
    """Root mean square over all compared values, each column over its unit; inf where a forecast is not finite.

    Example:
        >>> error(np.array([[1.0, 5.0]]), np.array([[3.0, np.nan]]), np.array([2.0, 1.0]), False)
        1.0
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (np.log(path), np.log(seen)) if log else (path, seen)
    there = ~np.isnan(seen)
    off = ((a - b) / unit)[there]
    return math.inf if not np.isfinite(off).all() else float(np.sqrt(np.mean(np.square(off))))
