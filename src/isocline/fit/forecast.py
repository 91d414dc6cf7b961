"""Forecasts: settle on the last rows of a record, then run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from isocline.fit.drive import Drive
from isocline.fit.flow import Flow, ended, settle
from isocline.fit.reading.table import Series, ungiven
from isocline.fit.scale import Scales
from isocline.fit.smooth import smoothed
from isocline.fit.windows import GAP

T = TypeVar("T")
ROWS, SPAN = 12, 1.0  # a starting state is settled on the last 12 rows, or as many as one unit of scaled time holds,
MOST = 24  # thinned to this many
HIDDEN_ROWS, HIDDEN_SPAN = 50, 3.0  # the same where states are hidden: they show in what they do to the others


def anchor(s: Series, scales: Scales) -> Series:
    """The last rows of a record, after its last long gap: what a starting state is settled on."""
    n = len(s.t)
    hidden = bool(s.hidden.any())
    rows, span, most = (HIDDEN_ROWS, HIDDEN_SPAN, HIDDEN_ROWS) if hidden else (ROWS, SPAN, MOST)
    first = max(s.first, min(n - rows, int(np.searchsorted(s.t, s.t[-1] - span * scales.tau))))
    long = np.flatnonzero(np.diff(s.t[first:]) > GAP * scales.tau)
    rows = np.arange(first + (int(long[-1]) + 1 if len(long) else 0), n)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]
    return s.rows(rows)


def settled(flow: Flow, records: Sequence[Series], scales: Scales) -> Tensor:
    """Scaled states (B, d) at the first rows of some records from which the flow best meets them."""
    ts, ys = padded([(s.t - s.t[0]) / scales.tau for s in records]), [scales.scaled(s.y) for s in records]
    drive = Drive.of(records, [s.t for s in records], scales)
    guess = np.stack(_once(lambda s: smoothed(s.t, scales.scaled(ungiven(s)))[0][0], records))
    return settle(flow, ts, padded(ys).movedim(0, 1), torch.tensor(guess), drive)


def forecast(flow: Flow, records: Sequence[Series], later: Sequence[np.ndarray], scales: Scales) -> list[np.ndarray]:
    """Scaled states (n, d) of each record at later times (table's unit), NaN or inf where the flow cannot go on."""
    anchors = _once(lambda s: anchor(s, scales), records)
    states = settled(flow, anchors, scales)
    whole = [np.concatenate([a.t, t]) for a, t in zip(anchors, later, strict=True)]
    ts = padded([(t - t[0]) / scales.tau for t in whole])
    paths = ended(flow(states, ts, Drive.of(anchors, whole, scales)))
    return [paths[len(a.t) : len(a.t) + len(t), b].numpy() for b, (a, t) in enumerate(zip(anchors, later, strict=True))]


def _once(of: Callable[[Series], T], records: Sequence[Series]) -> list[T]:
    """Of every record; one that stands there several times, once for every member of an ensemble, is looked at once."""
    found: dict[int, T] = {}
    for s in records:
        if id(s) not in found:
            found[id(s)] = of(s)
    return [found[id(s)] for s in records]


def padded(arrays: Sequence[np.ndarray]) -> Tensor:
    """(B, longest, ...) with NaN at the end of the shorter ones."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(a) for a in arrays], batch_first=True, padding_value=torch.nan)
