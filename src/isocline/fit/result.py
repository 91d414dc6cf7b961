"""`isocline.fit.fit`: the recipe as a Python function, and what it gives."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from isocline.fit.config import Config
from isocline.fit.errors import UserError
from isocline.fit.files import POPULATION, read_run
from isocline.fit.fitted import Fitted
from isocline.fit.inside import inside
from isocline.fit.predict import predict
from isocline.fit.reading.clock import Clock
from isocline.fit.reading.table import Series
from isocline.fit.run import Notify, Tell, page_of, read_as
from isocline.fit.run import fit as run_table


class Result(dict[str, Any]):
    """What a fit has found: the contents of `report.json` as a dictionary, and the model behind them.

    Attributes:
        folder: of the run; what it holds is what `isocline fit` leaves.
        report: the path of the page.

    Example:
        >>> import math
        >>> rows = {"t": [0.3 * i for i in range(30)], "x": [math.exp(-0.1 * i) for i in range(30)]}
        >>> result = fit(rows, hidden=(4,), matching=20, iterations=2, polish=5, starts=1, members=0, blocks=0)
        >>> result["held_out"]["rows"], result.predict(times=[9.0, 9.5]).columns.tolist()
        (6, ['t', 'x'])
    """

    def __init__(
        self, report: Mapping[str, Any], folder: Path, own: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        super().__init__(report)
        self.folder = folder
        self._own = own  # removed with the last reference to it

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or what is pickled, brings the files of its run with it: a folder that goes with a result goes nowhere else."""
        files = {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        return _unpacked, (dict(self), {name: data for name, data in files.items() if name not in BULKY})

    def __repr__(self) -> str:
        return f"<fit of {Path(self['table']['path']).name}: {self['verdict']}>"

    @property
    def report(self) -> Path:
        """The page; drawn when it is first asked for, where the run has no folder of its own."""
        path = self.folder / "report.html"
        return path if path.is_file() else page_of(self, self.folder)

    @property
    def field(self) -> Any:
        """The model as a module f(t, x), in the scaled coordinates it works in."""
        return Fitted.read(self.folder).field

    def predict(
        self,
        times: Sequence[Any] | np.ndarray | Any | None = None,
        *,
        until: str | float | None = None,
        start: Any | None = None,
        bands: bool = False,
        inputs: Any | None = None,
    ) -> pd.DataFrame:
        """Forecasts, in the units and with the headers of the table.

        Args:
            times: (n,) numbers or dates after the end of the record, or a frame with the columns of time (and series).
            until: instead: forecast from the end of the record to this time, at its spacing.
            start: a frame with one complete row a series to start from; None: the end of each record.
            bands: add the bounds of the 80 and 95 % bands of every state: "x low80", "x high80", "x low95", "x high95".
            inputs: a frame with the columns of time (and series) and of what drives the system; of a run with inputs, where its
                own table does not have them up to the last time.

        Returns:
            A row a series and time; rows that a forecast did not reach are not there.

        Raises:
            UserError: for times before the start, and what else is the user's to mend.
        """
        with tempfile.TemporaryDirectory() as folder:
            asked = None if times is None else _written(self.asked(times), Path(folder) / "times.csv")
            begin = None if start is None else _written(_frame(start), Path(folder) / "start.csv")
            given = None if inputs is None else _written(_frame(inputs), Path(folder) / "inputs.csv")
            header, rows, _ = predict(self.folder, until=until, times=asked, start=begin, bands=bands, inputs=given)
        frame = pd.DataFrame(rows, columns=header)
        time = self["config"]["time"]
        if self.clock.origin is None:
            frame[time] = frame[time].astype(float)
        else:
            frame[time] = pd.to_datetime(frame[time])
        return frame

    def inside(self, times: Sequence[Any] | np.ndarray | Any) -> np.ndarray:
        """States (n, d) between the rows of the record, in the units of the table: the path of the model that best meets the dozen
        rows around.

        Args:
            times: (n,) numbers or dates, or a frame with the columns of time (and series).

        Raises:
            UserError: for a time outside the record, or an unknown series.
        """
        fitted, config = Fitted.read(self.folder), self["config"]
        records = self._records()
        frame = self.asked(times)
        id_ = config["id"]
        ids = frame[id_].astype(str).to_numpy() if id_ is not None else np.full(len(frame), "")
        ts = self.times(frame)
        out = np.full((len(ts), len(config["states"])), np.nan)
        for name in dict.fromkeys(ids):
            if name not in records:
                raise UserError(f"no series {name!r}; there are {', '.join(map(repr, list(records)[:20]))}")
            rows = np.flatnonzero(ids == name)
            record, wanted = records[name], ts[rows]
            if wanted.min() < record.t[0] or wanted.max() > record.t[-1]:
                raise UserError(
                    f"times from {fitted.clock.text(wanted.min())} to {fitted.clock.text(wanted.max())}: expected some from "
                    f"{fitted.clock.text(record.t[0])} to {fitted.clock.text(record.t[-1])}, inside the record"
                )
            unique, back = np.unique(wanted, return_inverse=True)
            path = inside(fitted.ensemble.flow, record, unique, fitted.scales)
            out[rows] = fitted.scales.unscaled(path)[back, : out.shape[1]]
        return out

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Copies the run to a folder, for `Result.read`, `isocline show`, `predict`, `compare` and `export`.

        Raises:
            UserError: where the folder exists, unless `overwrite`.
        """
        folder = Path(folder)
        _ = self.report
        if folder.exists() and folder.resolve() != self.folder.resolve():
            if not overwrite:
                raise UserError(f"{folder}: exists already; choose another, or give overwrite=True")
            if not (folder / "config.json").is_file():
                raise UserError(f"{folder}: holds no run that could be replaced; choose another")
            shutil.rmtree(folder)
        if folder.resolve() != self.folder.resolve():
            shutil.copytree(self.folder, folder)
        return folder

    @staticmethod
    def read(folder: str | Path) -> Result:
        """From a run's folder.

        Raises:
            UserError: where there is no finished run.
        """
        from isocline.fit.compare import read_report

        return Result(read_report(folder), Path(folder))

    # ---- times ----------------------------------------------------------------------------------------------------
    def ends(self) -> dict[str, float]:
        """The last time of every series, as the model counts."""
        return {name: float(record.t[-1]) for name, record in self._records().items()}

    def _records(self) -> dict[str, Series]:
        kept = read_run(self.folder)
        return {s.id: s for s in read_as(kept["table"], Config.make(**kept["config"])).series}

    def _names(self) -> list[str]:
        """Of all series: the report has the first only."""
        path = self.folder / POPULATION
        if path.is_file():
            return list(json.loads(path.read_text(encoding="utf-8"))["series"])
        return list(json.loads((self.folder / "states.json").read_text(encoding="utf-8")))

    def asked(self, times: Any, further: Sequence[str] = ()) -> pd.DataFrame:
        """The columns of time (and series, and further ones) of a frame; times alone are those of every series."""
        time, id_ = self["config"]["time"], self["config"]["id"]
        if not _is_table(times):
            frame = pd.DataFrame({time: np.asarray(times).reshape(-1)})
            return frame if id_ is None else pd.concat([frame.assign(**{id_: name}) for name in self._names()])
        frame = _frame(times)
        missing = [c for c in (time, id_) if c is not None and c not in frame]
        if missing:
            raise UserError(f"no column {missing[0]!r}; there are {', '.join(map(repr, frame.columns[:20]))}")
        return frame[[*(c for c in (time, id_) if c is not None), *further]]

    @property
    def clock(self) -> Clock:
        """How the table's times are written."""
        return Clock(**read_run(self.folder)["clock"])

    def times(self, frame: pd.DataFrame) -> np.ndarray:
        """Times (n,) of every row, as the model counts."""
        clock = self.clock
        return np.array([clock.number(str(t)) for t in frame[self["config"]["time"]]], dtype=np.float64)


BULKY = ("checkpoint.pt",)  # the training's, which is over


def _unpacked(report: dict[str, Any], files: dict[str, bytes]) -> Result:
    own = tempfile.TemporaryDirectory(prefix="isocline-")
    folder = Path(own.name) / "run"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return Result(report, folder, own)


def fit(
    table: str | Path | Any,
    config: Config | None = None,
    out: str | Path | None = None,
    *,
    tell: Tell = lambda recipe: None,
    notify: Notify = lambda what, value: None,
    stop: Callable[[], bool] = lambda: False,
    overwrite: bool = False,
    command: str = "",
    **settings: Any,
) -> Result:
    """Fits a neural ODE, or given equations, to a table: the recipe of `isocline fit`.

    Args:
        table: a path (CSV and its kin, Excel, Parquet), several, a data frame (pandas, Polars, …; of an index that has
            a name the column, too) or a dictionary of columns.
        config: the settings; or give them by name.
        out: the folder of the run, made once the table is accepted; None: one that goes with the result (`Result.save`
            keeps it).
        tell: called after every step with the recipe.
        notify: called with ("table", Table), ("scales", Scales), ("judging", None), ("report", dict) as they are known.
        stop: asked before every step; True saves and ends the training.
        overwrite: replace an earlier run in `out`.
        command: for the report.
        settings: of `Config`, such as `time="year"`, `states=("hare", "lynx")`, `hold_out=0.3`, `seed=1`.

    Returns:
        The report as a dictionary with `predict`, `save` and the folder of the run.

    Raises:
        UserError: for what is the user's to mend; nothing is then left behind.

    Example:
        >>> import math
        >>> rows = {"t": [0.3 * i for i in range(30)], "x": [math.cos(0.3 * i) for i in range(30)]}
        >>> result = fit(rows, hidden=(4,), matching=20, iterations=2, polish=5, starts=1, members=0, blocks=0)
        >>> [score["model"] for score in result["scores"]][:2]
        ['neural ODE', 'persistence']
    """
    if config is not None and settings:
        raise UserError(f"give a Config or settings by name ({', '.join(settings)}), not both")
    resolved = Config.make(**settings) if config is None else config
    own = tempfile.TemporaryDirectory(prefix="isocline-") if out is None else None
    folder = Path(out) if out is not None else Path(own.name) / "run" if own is not None else Path()
    handlers: dict[str, Any] = {
        "tell": tell, "notify": notify, "stop": stop, "overwrite": overwrite, "command": command,
        "page": out is not None,
    }  # fmt: skip
    source = pd.DataFrame(dict(table)) if isinstance(table, Mapping) else table
    return Result(run_table(source, resolved, folder, **handlers), folder, own)


def _is_table(table: Any) -> bool:
    return isinstance(table, Mapping) or (
        not isinstance(table, (str, Path)) and nw.dependencies.is_into_dataframe(table)
    )


def _frame(table: Any) -> pd.DataFrame:
    """A pandas frame of any."""
    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, Mapping):
        return pd.DataFrame(dict(table))
    columns = nw.from_native(table, eager_only=True)
    return pd.DataFrame({name: columns[name].to_numpy() for name in columns.columns})


def _written(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path
