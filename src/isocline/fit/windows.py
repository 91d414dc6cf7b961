"""Training windows: stretches of a record that start at states of their own (multiple shooting).

The record of every series is cut at knots, `window` observations apart. The state at each knot is a parameter, started
at the observation; a window runs from one knot over 1, 2, 4, … base stretches, and is asked to meet the observations on
its way and the free state at the knot where it ends. As windows double, the free states between become unused, until
one window spans the record (Turan & Jäschke 2021; curriculum multiple shooting).

A start that is a parameter is neither a noisy observation taken for truth nor an imputed cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isocline.fit.scale import Scales
from isocline.fit.table import Series

MAX_ROWS = 4000  # observations a training step looks at; of longer records, a random choice of windows each time


@dataclass
class Windows:
    """Windows of one length, as tensors.

    Attributes:
        ts: (W, T) scaled times, NaN padded.
        y: (T, W, d) scaled observations, NaN where missing or padded.
        start: (W,) index of the knot each begins at.
        end: (W,) knot it ends at, −1 at the end of a record; `last`: (W,) position of that end in T.
    """

    ts: Tensor
    y: Tensor
    start: Tensor
    end: Tensor
    last: Tensor

    def pick(self, rows: Tensor) -> Windows:
        """Some of them."""
        return Windows(self.ts[rows], self.y[:, rows], self.start[rows], self.end[rows], self.last[rows])


@dataclass
class Record:
    """Scaled series with their knots.

    Attributes:
        t, y: of each series.
        knots: of each series: indices of the rows where base windows begin.
    """

    t: list[np.ndarray]
    y: list[np.ndarray]
    knots: list[np.ndarray]

    @staticmethod
    def of(series: Sequence[Series], scales: Scales, window: int) -> Record:
        """Time counts from each series' first observation."""
        t = [(s.t - s.t[0]) / scales.tau for s in series]
        y = [scales.scaled(s.y) for s in series]
        return Record(t, y, [np.arange(0, max(1, len(x) - 1), window) for x in t])

    @property
    def levels(self) -> int:
        """How often windows double before one spans the longest record."""
        return max(int(np.ceil(np.log2(len(k)))) for k in self.knots)

    def starts(self) -> Tensor:
        """(K, d): first guesses of the states at all knots: the observation, or between the nearest ones of its column."""
        rows = []
        for t, y, knots in zip(self.t, self.y, self.knots, strict=True):
            columns = [np.interp(t[knots], t[~np.isnan(c)], c[~np.isnan(c)]) if (~np.isnan(c)).any() else 0 * t[knots] for c in y.T]
            rows.append(np.stack(columns, 1))
        return torch.tensor(np.concatenate(rows), dtype=torch.float32)

    def windows(self, level: int) -> Windows:
        """Windows of 2^level base stretches."""
        pieces, first = [], 0
        for t, y, knots in zip(self.t, self.y, self.knots, strict=True):
            for i in range(0, len(knots), 2**level):
                j = i + 2**level
                stop = int(knots[j]) + 1 if j < len(knots) else len(t)
                pieces.append((t[knots[i] : stop], y[knots[i] : stop], first + i, first + j if j < len(knots) else -1))
            first += len(knots)
        width = max(len(p[0]) for p in pieces)
        ts = np.full((len(pieces), width), np.nan)
        ys = np.full((width, len(pieces), self.y[0].shape[1]), np.nan)
        for w, (t, y, _, _) in enumerate(pieces):
            ts[w, : len(t)], ys[: len(t), w] = t, y
        start, end = (torch.tensor([p[k] for p in pieces]) for k in (2, 3))
        last = torch.tensor([len(p[0]) - 1 for p in pieces])
        return Windows(torch.tensor(ts), torch.tensor(ys, dtype=torch.float32), start, end, last)


def choose(windows: Windows, generator: torch.Generator) -> Windows:
    """All windows, or a random choice of them where the record is long."""
    count, width = windows.ts.shape
    keep = max(1, MAX_ROWS // width)
    if count <= keep:
        return windows
    return windows.pick(torch.randperm(count, generator=generator)[:keep])
