"""Which networks stay within reach of the data when they run freely, and what goes on with a record where none does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from isocline.fit.baselines import LinearODE
from isocline.fit.batch import Batch
from isocline.fit.config import Config
from isocline.fit.flow import flow_of_rows
from isocline.fit.forecast import forecast
from isocline.fit.loop import Trainer
from isocline.fit.networks import Networks
from isocline.fit.reading.table import Series, Table
from isocline.fit.scale import Scales
from isocline.fit.split import cut
from isocline.fit.windows import Record

REACH = (
    1.0  # ranges of the data by which a free run may leave them, on either side: growth that goes on for a while may
)
AHEAD = 0.25  # of a series: how far beyond its end a network runs, the tail that is held out by default
TIMES, SERIES = 50, 4  # of a run at which it is looked at, and series it is tried on
LINEAR, CLOCKED, REST = "the linear ODE", "a linear ODE with the clock", "a return to the mean"


class FreeRuns:
    """Networks that run freely, each from the middle of a record to its end, and where no inputs drive it from there on as far as
    a forecast goes.

    Args:
        networks: the layout.
        theta: (M, size), without gradient.
        series: what they were trained on; four, spread over all, are looked at.
        scales: of the run.

    Attributes:
        paths: (M, n, k) of the k states that were measured, scaled; without times where no series is long enough.
        holds: (M,) which of them stay within reach of what was measured: a path that leaves the data by more than their range
            has run away, however well its windows fitted.
    """

    def __init__(self, networks: Networks, theta: Tensor, series: Sequence[Series], scales: Scales) -> None:
        seen = np.concatenate([scales.scaled(s.y) for s in series])
        measured = np.flatnonzero(np.isfinite(seen).any(0))
        low, high = _reach(np.nanmin(seen[:, measured], 0), np.nanmax(seen[:, measured], 0))
        records, later = _ahead(series)
        self.paths = np.zeros((len(theta), 0, len(measured)))
        if records:
            layout, rows = networks.plain(theta)
            flow = flow_of_rows(layout, rows.repeat_interleave(len(records), 0))
            paths = forecast(flow, records * len(theta), later * len(theta), scales)
            self.paths = np.concatenate(paths).reshape(len(theta), -1, seen.shape[1])[..., measured]
        self.holds = torch.tensor(((self.paths >= low) & (self.paths <= high)).all((1, 2)))

    def typical(self, among: Tensor, company: Tensor) -> int | None:
        """Which of some networks (M,) runs nearest to the mean of a company of them (M,); None where no series was long enough to
        run on."""
        if not self.paths.shape[1]:
            return None
        away = np.square(self.paths - self.paths[company.numpy()].mean(0)).sum((1, 2))
        return int(np.where(among.numpy(), away, np.inf).argmin())


def _ahead(series: Sequence[Series]) -> tuple[list[Series], list[np.ndarray]]:
    """Records to run on from, and the times at which the runs are looked at."""
    chosen = [series[k] for k in np.unique(np.linspace(0, len(series) - 1, SERIES).round().astype(int))]
    records, later = list[Series](), list[np.ndarray]()
    for s in (s for s in chosen if len(s.t) > 3):
        known, rest = cut(s, len(s.t) // 2)
        records.append(known)
        later.append(rest.t[np.unique(np.linspace(0, len(rest.t) - 1, TIMES).round().astype(int))])
        if s.u is None:
            records.append(s)
            later.append(s.t[-1] + (s.t[-1] - s.t[0]) * AHEAD * np.arange(1, TIMES + 1) / TIMES)
    return records, later


def measured_between(table: Table) -> dict[str, tuple[float, float]]:
    """By state that was measured: the least and the largest value."""
    found = {}
    for i, state in enumerate(table.states):
        values = np.concatenate([s.y[:, i] for s in table.series])
        if np.isfinite(values).any():
            found[state.header] = float(np.nanmin(values)), float(np.nanmax(values))
    return found


def leaving(
    path: np.ndarray, states: Sequence[str], measured: Mapping[str, tuple[float, float]], scales: Scales
) -> list[tuple[str, int]]:
    """Which states of a forecast leave what was measured by more than its range, and from which row on they first do.

    Args:
        path: (n, d), scaled.
        states: the headers of the first columns of it.
        measured: as of `measured_between`.
    """
    bounds = np.full((2, path.shape[1]), np.nan)  # which no number is outside of
    for i, state in enumerate(states):
        bounds[:, i] = measured.get(state, np.nan)
    low, high = _reach(*scales.scaled(bounds))
    outside = (path < low) | (path > high)
    return [(state, int(outside[:, i].argmax())) for i, state in enumerate(states) if outside[:, i].any()]


def _reach(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far a free run may go, of the least and the largest that was measured, scaled."""
    room = REACH * np.maximum(high - low, 1.0)
    return low - room, high + room


def refuge(
    networks: Networks, config: Config, record: Record, series: Sequence[Series], scales: Scales
) -> tuple[Tensor, str]:
    """A row (size,) that holds where no network does, and its name: the linear ODE, with a clock where the networks have one, or if
    that runs away a return to the mean."""
    dim, width = networks.dim, networks.shapes[-1][1]
    if networks.season is None:
        name, linear = LINEAR, LinearODE(record).rows
    else:
        name, linear = CLOCKED, _with_clock(networks, config, record)
    rest = torch.cat([-torch.eye(dim), torch.zeros(dim, width - dim + 1)], 1).to(linear)
    rows = torch.zeros(2, networks.size, dtype=torch.float64)
    for row, found in zip(rows, (linear, rest), strict=True):
        *_, bias, matrix = row.split(networks.sizes)
        matrix.copy_(found[:, :-1].flatten())
        bias.copy_(found[:, -1])
    holds = FreeRuns(networks, rows[:1], series, scales).holds
    return (rows[0], name) if bool(holds[0]) else (rows[1], REST)


def _with_clock(networks: Networks, config: Config, record: Record) -> Tensor:
    """(dim, width + 1): a linear field with a clock and its constant, trained as the networks are."""
    bare = Networks(networks.dim, (), networks.inputs, networks.season)
    trainer = Trainer(
        config, Batch([record]), torch.zeros(1, dtype=torch.float64), [config.seed], lead=1, networks=bare
    )
    while not trainer.done:
        trainer.advance()
    weight, bias, matrix = (part[0].detach() for part in bare.parts(trainer.objective.network(trainer.theta)))
    return torch.cat([weight + matrix, bias[:, None]], 1)
