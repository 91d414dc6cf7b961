"""Training windows: stretches of a record that start at states of their own (multiple shooting).

Every series is cut into segments (at gaps that are too long to integrate over, and so that none is longer than
`LONGEST` windows' worth of rows), every segment at knots `window` observations apart. The state at each knot is a
parameter, started at the smoothed record; a window runs from one knot over 1, 2, 4, … base stretches, and is asked to
meet the observations on its way and the free state at the knot where it ends. As windows double, the free states
between become unused, until one window spans its segment (Turan & Jäschke 2021; curriculum multiple shooting).

A start that is a parameter is neither a noisy observation taken for truth nor an imputed cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from isocline.fit.drive import Drive, Inputs
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales
from isocline.fit.smooth import smoothed

MAX_ROWS = 4000  # observations the linear ODE is fitted to; of longer records, a random choice of windows
MAX_RECORD = 20_000  # rows that are trained on at all; of longer records, segments spread over the whole
OVER = 1.1  # times that many, which may be taken
DOUBLINGS = 6  # at most: a segment has no more than 64 base windows
LEAST_NOISE = 1e-3  # of a column's standard deviation: exact data must not make a loss of infinities
GAP = 20.0  # scaled units of time without an observation that no window bridges
DENSE = 0.1  # rows closer than this (scaled time) tell little new: every k-th is trained on, k spacings to make 0.1


@dataclass
class Windows:
    """Windows of one length, as tensors.

    Attributes:
        ts: (W, T) scaled times from the start of each window, NaN padded.
        y: (T, W, d) scaled observations, NaN where missing or padded.
        start: (W,) index of the knot each begins at.
        end: (W,) knot it ends at, −1 at the end of a segment; `last`: (W,) position of that end in T.
        member: (W,) of the batch each belongs to.
        drive: of each.
    """

    ts: Tensor
    y: Tensor
    start: Tensor
    end: Tensor
    last: Tensor
    member: Tensor
    drive: Drive

    @cached_property
    def seen(self) -> Tensor:
        """(T, W, d) 1 where there is an observation, else 0."""
        return (~self.y.isnan()).to(self.y)

    @cached_property
    def observed(self) -> Tensor:
        """(T, W, d) the observations, 0 where there is none."""
        return self.y.nan_to_num(0.0)

    @cached_property
    def count(self) -> Tensor:
        """(M, d) observations of every member."""
        return self.seen.new_zeros(self.members, self.y.shape[2]).index_add(0, self.member, self.seen.sum(0))

    @cached_property
    def total(self) -> Tensor:
        """(M,) observations of every member in all columns; at least 1."""
        return self.count.sum(1).clamp(min=1)

    @cached_property
    def joints(self) -> tuple[Tensor, Tensor, Tensor]:
        """(J,) each, of the windows that end at a knot: where among T·W times that is, the knot, and the member."""
        inner = (self.end >= 0).nonzero().squeeze(1)
        return self.last[inner] * len(self.end) + inner, self.end[inner], self.member[inner]

    @cached_property
    def gaps(self) -> Tensor:
        """(M,) how many of every member do; at least 1."""
        return torch.bincount(self.joints[2], minlength=self.members).clamp(min=1).to(self.y)

    @cached_property
    def members(self) -> int:
        """M, each of whom has a window."""
        return int(self.member.max()) + 1

    @cached_property
    def common(self) -> Tensor | None:
        """(T,) the times of all windows if they agree, as in regular records: such windows can step together."""
        longest = self.ts[self.last.argmax()]
        apart = (self.ts - longest).abs().nan_to_num(0.0).max()
        return longest if apart <= 1e-6 * longest.diff().min() else None

    @cached_property
    def twice(self) -> Windows:
        """All of them, and all of them again."""
        return self.pick(torch.arange(len(self.start)).repeat(2))

    def pick(self, rows: Tensor) -> Windows:
        """Some of them."""
        start, end, last, member = (x[rows] for x in (self.start, self.end, self.last, self.member))
        return Windows(self.ts[rows], self.y[:, rows], start, end, last, member, self.drive.pick(rows))


@dataclass
class Record:
    """Segments of scaled series with their knots.

    Attributes:
        series: index of the series each segment is of; `begin` the time (table's unit) it begins at.
        t: scaled times of each segment from its start; `y` scaled states.
        knots: of each segment: rows where base windows begin.
        smooth: of each segment: values and slopes of the smoothing spline, both (n, d); 0 of hidden states, until they are
            guessed.
        u: scaled inputs of each segment on its clock; empty without inputs.
        tau: the table's time in a unit of scaled time.
        whole: segments there are, where some were left out for being too many.
        left: of each segment: what the spline with the whole of its penalty leaves (n, d).
    """

    series: list[int]
    begin: list[float]
    t: list[np.ndarray]
    y: list[np.ndarray]
    knots: list[np.ndarray]
    smooth: list[tuple[np.ndarray, np.ndarray]]
    u: list[Inputs]
    tau: float
    whole: int = 0
    left: list[np.ndarray] = field(default_factory=list)

    @staticmethod
    def of(series: Sequence[Series], scales: Scales, window: int, most: int = MAX_RECORD) -> Record:
        """Cuts and thins, to about `most` rows."""
        whole_ones = [(i, s) for i, s in enumerate(series) if s.complete]
        pieces = [(i, rows) for i, s in whole_ones for rows in _segments(s, scales, window * 2**DOUBLINGS)]
        sizes, whole = np.array([len(rows) for _, rows in pieces]), len(pieces)
        chosen = np.arange(whole)
        while len(chosen) > 1 and sizes[chosen].sum() > OVER * most:  # again where mostly long ones were met
            keep = max(1, int(len(chosen) * most / sizes[chosen].sum()))
            chosen = np.linspace(0, whole - 1, keep).round().astype(int)
        pieces = [pieces[k] for k in chosen]
        record = Record([], [], [], [], [], [], [], scales.tau, whole)
        for i, rows in pieces:
            t, y = (series[i].t[rows] - series[i].t[rows[0]]) / scales.tau, scales.scaled(series[i].y[rows])
            u, first, last = series[i].u, *series[i].t[rows[[0, -1]]]
            record.series.append(i)
            record.begin.append(float(series[i].t[rows[0]]))
            record.t.append(t)
            record.y.append(y)
            record.knots.append(np.arange(0, len(rows) - 1, window))
            if u is not None:
                record.u.append(u.stretch(first, last).scaled(first, scales))
        record = record.eased(1.0)
        return replace(record, left=[y - values for y, (values, _) in zip(record.y, record.smooth, strict=True)])

    def eased(self, share: float) -> Record:
        """The same with splines of a share of the penalty that each record's own observations choose."""
        smooth = []
        for i, (t, y) in enumerate(zip(self.t, self.y, strict=True)):
            # Without what was given a record is continuous, and its slopes are what the field is to be.
            given = self.u[i].so_far(t) if self.u else 0.0
            values, slopes = smoothed(t, y - given, ease=share)
            smooth.append((np.where(np.isnan(y).all(0), 0.0, values + given), slopes))
        return replace(self, smooth=smooth)

    @property
    def hidden(self) -> np.ndarray:
        """(d,) which states were never observed."""
        return np.all([np.isnan(y).all(0) for y in self.y], 0)

    @property
    def rows(self) -> int:
        """Observations in all segments."""
        return sum(len(t) for t in self.t)

    @property
    def levels(self) -> int:
        """Window lengths there are: the shortest, then doubled until one spans the longest segment."""
        return 1 + max(int(np.ceil(np.log2(len(k)))) for k in self.knots)

    def noise(self) -> Tensor:
        """(d,) standard deviation of what the smoothing spline left of every column, for hidden ones the mean of the others."""
        return self._noise(self.left)

    def followed(self) -> Tensor:
        """(d,) the same of this record's own spline, which may follow the observations more closely."""
        return self._noise([y - s[0] for y, s in zip(self.y, self.smooth, strict=True)])

    def _noise(self, parts: list[np.ndarray]) -> Tensor:
        left = np.concatenate(parts)
        count = np.maximum((~np.isnan(left)).sum(0), 1)
        found = torch.tensor(np.sqrt(np.nansum(left**2, 0) / count)).clamp(min=LEAST_NOISE)
        hidden = torch.tensor(self.hidden)
        return torch.where(hidden, found[~hidden].mean(), found)

    def perturbed(self, noise: Tensor, seed: int) -> Record:
        """The same with fresh Gaussian noise (d,) on every observation; starts are guessed from the data as they were."""
        generator = torch.Generator().manual_seed(seed)
        return replace(
            self, y=[y + (noise * torch.randn(y.shape, generator=generator, dtype=noise.dtype)).numpy() for y in self.y]
        )

    def given(self) -> dict[str, np.ndarray]:
        """What a field may take, as `Drive.signals`, at all rows of all segments: (R, m) and (R, 1)."""
        found = {"begin": np.concatenate([b + t * self.tau for b, t in zip(self.begin, self.t, strict=True)])[:, None]}
        if self.u and self.u[0].u.shape[1]:
            found["u"] = np.concatenate([u.at(t) for u, t in zip(self.u, self.t, strict=True)])
        return found

    def starts(self) -> Tensor:
        """(K, d): first guesses of the states at all knots."""
        return torch.tensor(np.concatenate([s[0][k] for s, k in zip(self.smooth, self.knots, strict=True)]))

    def windows(self, level: int) -> Windows:
        """Windows of 2^level base stretches."""
        step = 2**level
        lengths, counts = np.array([len(t) for t in self.t]), np.array([len(k) for k in self.knots])
        row = np.cumsum(lengths) - lengths  # of all segments in a row: where each begins
        segment = np.repeat(np.arange(len(counts)), counts)  # of each knot
        place = np.arange(len(segment)) - (np.cumsum(counts) - counts)[segment]  # of each knot in its segment
        knots = np.concatenate(self.knots) + row[segment]
        start = np.flatnonzero(place % step == 0)
        segment, inner = segment[start], place[start] + step < counts[segment[start]]
        end = np.where(inner, start + step, -1)
        last = np.where(inner, knots[end], (row + lengths)[segment] - 1) - knots[start]
        rows = np.arange(last.max() + 1)
        inside = rows <= last[:, None]
        rows = np.where(inside, knots[start, None] + rows, 0)
        t, y = np.concatenate(self.t), np.concatenate(self.y)
        begin = t[knots[start]]
        ts = np.where(inside, t[rows] - begin[:, None], np.nan)
        ys = np.where(inside.T[..., None], y[rows.T], np.nan)
        begins = np.array(self.begin)[segment] + begin * self.tau
        driven = []
        if self.u:
            for k, a, b in zip(segment, begin, t[knots[start] + last], strict=True):
                driven.append(self.u[k].stretch(a, b).shifted(a))
        start, end, last = (torch.tensor(x) for x in (start, end, last))
        drive = Drive.stacked(begins.tolist(), driven)
        return Windows(torch.tensor(ts), torch.tensor(ys), start, end, last, torch.zeros_like(start), drive)


def _segments(s: Series, scales: Scales, longest: int) -> list[np.ndarray]:
    """Row numbers of each segment; neighbours share a row, so that no step is left out."""
    gaps = np.diff(s.t) / scales.tau
    rows = np.arange(s.first, len(s.t))
    gaps = gaps[s.first :]
    every = len(rows) // 50
    if every > 1:
        every = min(int(DENSE / np.median(gaps)), every)
    # The solver steps from row to row of the inputs: to leave observations out would save nothing.
    if every > 1 and s.u is None and not np.isnan(s.y[rows][:, ~s.hidden]).any():
        rows = rows[::every]
        gaps = np.diff(s.t[rows]) / scales.tau
    long = np.flatnonzero(gaps > GAP)
    parts = np.split(rows, long + 1) if len(long) else [rows]
    cut = [part[i : i + longest + 1] for part in parts for i in range(0, max(1, len(part) - 1), longest)]
    segments = [part for part in cut if len(part) > 1]
    return segments or [rows]  # all gaps long: the record is what it is


def choose(windows: Windows, generator: torch.Generator) -> Windows:
    """All windows, or a random choice of them where the record is long."""
    count, width = windows.ts.shape
    keep = max(1, MAX_ROWS // width)
    if count <= keep:
        return windows
    return windows.pick(torch.randperm(count, generator=generator)[:keep])
