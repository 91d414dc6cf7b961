"""Observations of samples that step on their own, interpolated many steps at once.

In almost every step some sample passes one of its observation times. Interpolating there and then takes some thirty
small operations, about as many as the step itself; so a step only puts aside the rows it needs.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.solvers.runge_kutta import DenseStep

PENDING = 1 << 20  # numbers put aside before they are worked off


class Inner:
    """Observations inside one recorded step, known after the next flush.

    Attributes:
        value: (position among the step's rows, row of the flat output, weights b_i(θ) (m, s)); set by the flush.
        position: where the step was recorded for some rows only: of each row of the batch then present.
    """

    def __init__(self) -> None:
        self.value: tuple[Tensor, Tensor, Tensor]
        self.position: Tensor | None = None

    def positions(self, sample: Tensor) -> Tensor:
        """Where the rows `sample` of the batch stand among the step's own."""
        return sample if self.position is None else self.position.index_select(0, sample)


class Passed(NamedTuple):
    """The observations that lie in one step: those of the rows `sample` (m,), of all rows (R, …) then present.

    `inner` is for whoever records the step. `seen`, `reach` count what each row had behind it before and after. Tensors over all rows are never written to
    again, so they are kept as they are; states and stages are overwritten, so the rows that matter are picked at once.
    """

    inner: Inner | None
    count: int
    sample: Tensor
    seen: Tensor
    reach: Tensor
    ids: Tensor
    t: Tensor
    t1: Tensor
    y: Tensor
    y1: Tensor
    hk: Tensor


class Observations:
    """Collects and writes.

    `index_select` throughout: indexing with brackets takes three to ten times as long.

    Args:
        out: (T, B, N), written to.
        keys: (B, T) observation times on the forward clock, inf where padded.
        dense: the interpolant.
    """

    def __init__(self, out: Tensor, keys: Tensor, dense: DenseStep) -> None:
        self.out, self.keys, self.dense = out, keys, dense
        self.pending: list[Passed] = []
        self.size = 0

    def put(self, passed: Passed) -> Inner | None:
        """One step; its `y`, `y1` and `hk` are those of all rows present, and picked here.

        Those before it are worked off first where they are many: of this one `inner.position` is not known yet.
        """
        if self.size > PENDING:
            self.flush()
        y, y1, hk = passed.y, passed.y1, passed.hk
        rows = y.shape[0]
        self.size += 5 * rows
        if passed.sample.shape[0] < rows:
            y, y1, hk = (x.index_select(d, passed.sample) for d, x in ((0, y), (0, y1), (1, hk)))
            self.size += hk.numel()
        else:
            hk = hk.clone()
            self.size += 3 * hk.numel()
        self.pending.append(passed._replace(y=y, y1=y1, hk=hk))
        return passed.inner

    def flush(self) -> None:
        """Interpolates and writes what is waiting."""
        steps, self.pending, self.size = self.pending, [], 0
        if not steps:
            return
        # Positions among the rows of all steps, and among the picked ones.
        starts = [0, *accumulate(len(s.ids) for s in steps)]
        row = torch.cat([s.sample + start for s, start in zip(steps, starts, strict=False)])
        per_row = zip(*((s.seen, s.ids, s.t, s.t1) for s in steps), strict=True)
        seen, ids, t, t1 = (torch.cat(x).index_select(0, row) for x in per_row)
        y, y1 = torch.cat([s.y for s in steps]), torch.cat([s.y1 for s in steps])
        hk = torch.cat([s.hk for s in steps], 1)
        count = sum(s.count for s in steps)
        column, entry = seen, None
        if count > len(row):  # some step passed several observations of one row
            reach = torch.cat([s.reach for s in steps]).index_select(0, row)
            passed = reach - seen
            entry = torch.repeat_interleave(passed, output_size=count)
            # The k-th observation of an entry: its position in the list, less where the entry's begin.
            column = torch.arange(count, device=row.device) + (seen - passed.cumsum(0) + passed).index_select(0, entry)
            ids, t, t1, y, y1 = (x.index_select(0, entry) for x in (ids, t, t1, y, y1))
            hk = hk.index_select(1, entry)
        when = self.keys.view(-1).index_select(0, ids * self.keys.shape[1] + column)
        weights = self.dense.weights(((when - t) / (t1 - t)).to(y.dtype))
        values = y.unsqueeze(1).baddbmm(weights.unsqueeze(1), hk.transpose(0, 1)).squeeze(1)
        # An observation at the end of a step takes the step's result itself, not the interpolant's rounding of it.
        values = torch.where((when == t1).unsqueeze(1), y1, values)
        row = column * self.out.shape[1] + ids
        self.out.view(-1, self.out.shape[-1]).index_copy_(0, row, values)
        recorded = [s.inner for s in steps if s.inner is not None]
        if recorded:  # all or none
            position = torch.cat([inner.positions(s.sample) for inner, s in zip(recorded, steps, strict=True)])
            position = position if entry is None else position.index_select(0, entry)
            counts = [s.count for s in steps]
            for inner, *value in zip(recorded, *(x.split(counts) for x in (position, row, weights)), strict=True):
                inner.value = tuple(value)
