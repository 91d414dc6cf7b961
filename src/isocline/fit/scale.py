"""Units in which a network learns: states of size one, and time in which they change at rate one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from isocline.fit.errors import UserError
from isocline.fit.reading.table import Series, Table, ungiven
from isocline.fit.smooth import smoothed

SKEWED = 0.5  # skewness above which a column counts as skewed
DECADE = 10.0  # and the factor it must span: over less, a logarithm changes little
PIECE, PIECES = 100, 24  # rows and number of the stretches on which the unit of time is measured


@dataclass(frozen=True)
class StateScale:
    """x = (g(y) − mean) / sd with g the identity ("linear") or the natural logarithm ("log")."""

    kind: str
    mean: float
    sd: float

    def scaled(self, y: np.ndarray) -> np.ndarray:
        """From the table's unit; NaN for what has no logarithm."""
        if self.kind == "log":
            y = np.log(np.where(y > 0, y, np.nan))
        return (y - self.mean) / self.sd

    def unscaled(self, x: np.ndarray) -> np.ndarray:
        """Back to the table's unit; inf beyond the largest number."""
        with np.errstate(over="ignore"):
            y = x * self.sd + self.mean
            return np.exp(y) if self.kind == "log" else y

    def rate(self, y: np.ndarray) -> np.ndarray:
        """dy/dx at y: turns a slope in x into one in the table's unit."""
        return self.sd * (y if self.kind == "log" else np.ones_like(y))


UNSEEN = StateScale("linear", 0.0, 1.0)  # of a column without a number


@dataclass(frozen=True)
class Scales:
    """Of all states, of time (one unit of scaled time is `tau` of the table's), and of what drives the states."""

    states: tuple[StateScale, ...]
    tau: float
    inputs: tuple[StateScale, ...] = ()

    @staticmethod
    def of(table: Table, series: Sequence[Series], kind: str, log: Sequence[str] = ()) -> Scales:
        """Chosen from the series that are trained on; states in `log` are taken in logarithms whatever `kind` is.

        A column is taken in logarithms where that makes sense for every row of the table (all positive) and its training
        part is skewed to the right and spans more than a decade. tau makes the root mean square of the slopes of the
        smoothed states one: the right-hand side to be learned is then of size one, whatever the units.

        Raises:
            UserError: where logarithms were asked for and a value is not positive.
        """
        positive = [all(not (s.y[:, i] <= 0).any() for s in table.series) for i in range(len(table.states))]
        kinds = ["log" if c.header in log else kind for c in table.states]
        largest = amounts(series, len(table.states))
        for i in np.flatnonzero(largest):  # what is added to a state cannot be added to its logarithm
            if kinds[i] == "log":
                raise UserError(
                    f"{table.path}: column {table.states[i].header!r} is given doses: expected --scale linear, as a dose adds to "
                    f"the state itself"
                )
            kinds[i] = "linear"
        wrong = [i for i, k in enumerate(kinds) if k == "log" and not positive[i]]
        if wrong:
            column = table.states[wrong[0]]
            low = min(float(np.nanmin(s.y[:, wrong[0]])) for s in table.series)
            raise UserError(
                f"{table.path}: column {column.header!r} goes down to {low:g}: expected positive values for --scale log; "
                f"try --scale auto"
            )
        stacked = np.concatenate([s.y for s in series])
        states = tuple(
            StateScale("linear", 0.0, float(size))
            if size and np.isnan(column).all()
            else _state_scale(column, own, above)
            for column, own, above, size in zip(stacked.T, kinds, positive, largest, strict=True)
        )
        # An earlier value has the scale of what it is a value of.
        states = states[: series[0].width] * (1 + len(table.lags))
        return Scales(states, _time_unit(Scales(states, 1.0), series), _input_scales(series))

    def scaled(self, y: np.ndarray) -> np.ndarray:
        """(…, d) from the table's units."""
        return np.stack([s.scaled(y[..., i]) for i, s in enumerate(self.states)], -1)

    def unscaled(self, x: np.ndarray) -> np.ndarray:
        """(…, d) to the table's units."""
        return np.stack([s.unscaled(x[..., i]) for i, s in enumerate(self.states)], -1)

    def scaled_inputs(self, u: np.ndarray) -> np.ndarray:
        """(…, m) inputs from the table's units."""
        if not self.inputs:
            return u
        return np.stack([s.scaled(u[..., i]) for i, s in enumerate(self.inputs)], -1)

    def to_dict(self) -> dict[str, Any]:
        """For config.json."""
        return {"states": [asdict(s) for s in self.states], "tau": self.tau, "inputs": [asdict(s) for s in self.inputs]}

    @staticmethod
    def from_dict(value: dict[str, Any]) -> Scales:
        """From config.json."""
        states, inputs = (tuple(StateScale(**s) for s in value.get(name, ())) for name in ("states", "inputs"))
        return Scales(states, value["tau"], inputs)


def amounts(series: Sequence[Series], count: int) -> np.ndarray:
    """(d,) the largest dose into each of so many states; 0 where there is none."""
    found = [np.abs(s.u.doses.amount) for s in series if s.u is not None and s.u.doses is not None]
    return np.concatenate([*found, np.zeros((1, count))]).max(0)


def _state_scale(y: np.ndarray, kind: str, positive: bool) -> StateScale:
    y = y[~np.isnan(y)]
    if kind == "auto":
        skewed = positive and len(y) > 2 and _skewness(y) > SKEWED and y.max() > DECADE * y.min()
        kind = "log" if skewed else "linear"
    if not len(y):  # a hidden state, or a column seen in the held-out part alone
        return UNSEEN
    g = np.log(y) if kind == "log" else y
    sd = float(g.std())
    return StateScale(kind, float(g.mean()), sd if sd > 0 else 1.0)


def _input_scales(series: Sequence[Series]) -> tuple[StateScale, ...]:
    """Linear, from the rows that are trained on."""
    if series[0].u is None:
        return ()
    rows = np.concatenate([s.u.at(s.t) for s in series if s.u is not None])
    return tuple(_state_scale(column, "linear", False) for column in rows.T)


def _skewness(y: np.ndarray) -> float:
    sd = y.std()
    return float(((y - y.mean()) ** 3).mean() / sd**3) if sd > 0 else 0.0


def _time_unit(scales: Scales, series: Sequence[Series]) -> float:
    """One over the root mean square slope of the smoothed states, on stretches spread over the record."""
    pieces = [(s, start) for s in series for start in range(0, max(1, len(s.t) - 1), PIECE)]
    chosen = [pieces[i] for i in np.unique(np.linspace(0, len(pieces) - 1, PIECES).round().astype(int))]
    squares, gaps = [], []
    for s, start in chosen:
        piece = s.rows(slice(start, start + PIECE))
        t, x = piece.t, scales.scaled(ungiven(piece))
        if len(t) > 1:
            squares.append((smoothed(t, x[:, ~np.isnan(x).all(0)], PIECE)[1] ** 2).ravel())
            gaps.append(np.diff(t))
    rate = float(np.sqrt(np.mean(np.concatenate(squares))))
    spacing = float(np.median(np.concatenate(gaps)))
    # Where smoothing leaves nothing (pure noise) the record's own length is the only scale there is.
    longest = max(float(s.t[-1] - s.t[0]) for s in series)
    return float(np.clip(1.0 / rate if rate > 0 else longest, 0.1 * spacing, longest))
