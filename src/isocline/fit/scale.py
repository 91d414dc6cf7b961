"""Units in which a network learns: states of size one, and time in which they change at rate one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from isocline.fit.table import Series


@dataclass(frozen=True)
class StateScale:
    """x = (g(y) − mean) / sd with g the identity or the logarithm."""

    kind: str
    mean: float
    sd: float

    def scaled(self, y: np.ndarray) -> np.ndarray:
        """From the table's unit."""
        return ((np.log(y) if self.kind == "log" else y) - self.mean) / self.sd

    def unscaled(self, x: np.ndarray) -> np.ndarray:
        """Back to it; a logarithm is held below overflow."""
        y = x * self.sd + self.mean
        return np.exp(np.minimum(y, 700.0)) if self.kind == "log" else y


@dataclass(frozen=True)
class Scales:
    """Of all states, and of time: s = (t − origin) / tau."""

    states: tuple[StateScale, ...]
    tau: float

    @staticmethod
    def of(series: Sequence[Series], kind: str) -> Scales:
        """Chosen from (training) data.

        A column is taken in logarithms where all its values are positive and its skewness shrinks by that. tau makes
        the root mean square of the slopes between neighbouring observations one; slopes over at least three
        observations, so that noise does not set the pace.
        """
        stacked = np.concatenate([s.y for s in series])
        states = tuple(_state_scale(stacked[:, i], kind) for i in range(stacked.shape[1]))
        scales = Scales(states, 1.0)
        squares = []
        for s in series:
            x = scales.scaled(s.y)
            lag = min(3, len(s.t) - 1)
            squares.append((((x[lag:] - x[:-lag]) / (s.t[lag:] - s.t[:-lag])[:, None]) ** 2).ravel())
        rate = float(np.sqrt(np.nanmean(np.concatenate(squares))))
        return Scales(states, 1.0 / rate if rate > 0 and np.isfinite(rate) else 1.0)

    def scaled(self, y: np.ndarray) -> np.ndarray:
        """(…, d) from the table's units."""
        return np.stack([s.scaled(y[..., i]) for i, s in enumerate(self.states)], -1)

    def unscaled(self, x: np.ndarray) -> np.ndarray:
        """(…, d) to the table's units."""
        return np.stack([s.unscaled(x[..., i]) for i, s in enumerate(self.states)], -1)

    def to_dict(self) -> dict[str, object]:
        """For config.json."""
        return {"states": [asdict(s) for s in self.states], "tau": self.tau}

    @staticmethod
    def from_dict(value: dict) -> Scales:
        """From config.json."""
        return Scales(tuple(StateScale(**s) for s in value["states"]), value["tau"])


def _state_scale(y: np.ndarray, kind: str) -> StateScale:
    y = y[~np.isnan(y)]
    positive = bool((y > 0).all())
    if kind == "auto":
        kind = "log" if positive and abs(_skewness(np.log(y))) < abs(_skewness(y)) - 0.3 else "linear"
    if kind == "log" and not positive:
        kind = "linear"
    g = np.log(y) if kind == "log" else y
    sd = float(g.std())
    return StateScale(kind, float(g.mean()), sd if sd > 0 else 1.0)


def _skewness(y: np.ndarray) -> float:
    sd = y.std()
    return float(((y - y.mean()) ** 3).mean() / sd**3) if sd > 0 else 0.0
