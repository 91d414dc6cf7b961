"""Who forecasts: the model of a run, and the simple models that it must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from isocline.fit import sindy
from isocline.fit.autoregression import Autoregression, equal_steps
from isocline.fit.baselines import LinearODE, last_values, period_of, season_ago
from isocline.fit.flow import Flow, flow_of
from isocline.fit.forecast import forecast
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales
from isocline.fit.windows import Record

LAST, MEAN, SEASON, LINEAR, AUTO = "persistence", "mean", "seasonal naive", "linear ODE", "autoregression"
MOST = 100_000  # rows an autoregression and a period are found from; of more, series spread over all of them
SPARSE = "PySINDy model"


@dataclass(frozen=True)
class Forecaster:
    """A model that goes on with records.

    Attributes:
        name: in tables and sentences.
        parameters: how many numbers were fitted to the training part.
        forecast: (records, later times of each) -> scaled states (n, d) of each, NaN or inf where it cannot go on.
        period: of a seasonal one, in rows.
    """

    name: str
    parameters: int
    forecast: Callable[[Sequence[Series], Sequence[np.ndarray]], list[np.ndarray]]
    period: int | None = None


def model_forecaster(name: str, model: nn.Module, scales: Scales) -> Forecaster:
    """The model of a run: every forecast starts from a state settled on the last rows of its record."""
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Forecaster(name, count, _flowing(flow_of(model), scales))


@dataclass(frozen=True)
class Rivals:
    """Simple models fitted to a training part.

    Attributes:
        mean: (d,) in scaled units.
        linear: the linear ODE.
        auto, period: an autoregression, and the rows after which the record repeats itself; None where steps differ, and where
            it does not.
        own: states that are no earlier values of others.
        sparse: what PySINDy finds, or one sentence that says why it is not there.
    """

    mean: np.ndarray
    linear: LinearODE
    auto: Autoregression | None
    period: int | None
    own: int
    sparse: sindy.Rival | str

    @staticmethod
    def of(taught: Sequence[Series], scales: Scales, window: int, equal: bool, sparse: bool = True) -> Rivals:
        """Fits them.

        Args:
            taught: the series that the model learned from.
            scales: of the run.
            window: rows of the shortest training window.
            equal: whether all steps agree, those of the held-out part too.
            sparse: False leaves PySINDy out.
        """
        stacked = np.concatenate([scales.scaled(s.y) for s in taught])
        mean = np.nansum(stacked, 0) / np.maximum((~np.isnan(stacked)).sum(0), 1)  # 0 of a hidden state
        linear = LinearODE(Record.of(taught, scales, window))
        some = spread(taught, MOST)
        auto = Autoregression(some, scales) if equal else None
        found = sindy.rival(taught, scales) if sparse else ""
        return Rivals(mean, linear, auto, period_of(some, scales) if equal else None, some[0].width, found)

    def forecasters(self, scales: Scales) -> list[Forecaster]:
        """Persistence, the mean, the linear ODE, and those of the others that there are."""
        linear, auto, period, sparse = self.linear, self.auto, self.period, self.sparse
        out = [
            *of_rows(self.mean, scales),
            Forecaster(LINEAR, linear.rows.numel(), _flowing(linear.flow, scales)),
        ]
        if auto is not None:
            count = sum(map(len, auto.coefficients[: self.own]))
            out.append(
                Forecaster(AUTO, count, lambda *parts: [auto.forecast(s, t) for s, t in zip(*parts, strict=True)])
            )
        if period is not None:
            out.append(Forecaster(SEASON, 1, _by_rows(lambda y, rows: season_ago(y, period, rows), scales), period))
        if not isinstance(sparse, str):
            flow = sparse.model.flow(sparse.coefficients)
            out.append(Forecaster(SPARSE, sparse.parameters, _flowing(flow, scales)))
        return out


def spread(series: Sequence[Series], most: int) -> list[Series]:
    """As many series as have about so many rows together, spread over all; at least one.

    Example:
        >>> ten = [Series(str(i), np.arange(5.0), np.zeros((5, 1))) for i in range(10)]
        >>> [s.id for s in spread(ten, 15)]
        ['0', '4', '9']
    """
    rows = sum(len(s.t) for s in series)
    keep = len(series) if rows <= most else max(1, len(series) * most // rows)
    return [series[k] for k in np.linspace(0, len(series) - 1, keep).round().astype(int)]


def of_rows(mean: np.ndarray, scales: Scales) -> list[Forecaster]:
    """Those that look at rows alone: the last value, and a mean (d,) in scaled units."""
    return [
        Forecaster(LAST, 0, _by_rows(lambda y, rows: np.tile(last_values(y), (rows, 1)), scales)),
        Forecaster(MEAN, len(mean), _by_rows(lambda y, rows: np.tile(mean, (rows, 1)), scales)),
    ]


def all_equal(trains: Sequence[Series], held: Sequence[Series]) -> bool:
    """Whether all steps agree, from the first row of every series to its last."""
    joined = [(np.concatenate([s.t, h.t]), np.concatenate([s.y, h.y])) for s, h in zip(trains, held, strict=True)]
    return equal_steps([Series("", t, y) for t, y in joined])


def _flowing(flow: Flow, scales: Scales) -> Callable[[Sequence[Series], Sequence[np.ndarray]], list[np.ndarray]]:
    return lambda records, later: forecast(flow, records, later, scales)


def _by_rows(
    one: Callable[[np.ndarray, int], np.ndarray], scales: Scales
) -> Callable[[Sequence[Series], Sequence[np.ndarray]], list[np.ndarray]]:
    """Of a rule (scaled record (n, d), rows) -> (rows, d) that does not look at times."""
    return lambda records, later: [one(scales.scaled(s.y), len(t)) for s, t in zip(records, later, strict=True)]
