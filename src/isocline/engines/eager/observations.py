"""Observations of samples that step on their own, interpolated many steps at once.

In almost every step some sample passes one of its observation times. Interpolating there and then takes some thirty
small operations, about as many as the step itself; so a step only puts aside the rows it needs.
"""

from __future__ import annotations

from typing import Any

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


class Observations:
    """Collects and writes.

    Args:
        out: (T, B, N), written to.
        keys: (B, T) observation times on the forward clock, inf where padded.
        dense: the interpolant.
    """

    def __init__(self, out: Tensor, keys: Tensor, dense: DenseStep) -> None:
        self.out, self.keys, self.dense = out, keys, dense
        self.pending: list[dict[str, Any]] = []
        self.size = 0

    def put(
        self,
        count: int,
        sample: Tensor,
        saves: Tensor,
        seen: Tensor,
        ids: Tensor,
        t: Tensor,
        t1: Tensor,
        y: Tensor,
        y1: Tensor,
        K: Tensor,
    ) -> Inner:
        """One step with `count` observations, in the rows `sample`, `saves` of each row; `seen` were behind before it."""
        inner = Inner()
        # Tensors over all rows are never written to again, so they are kept as they are; the stages are overwritten.
        self.pending.append(
            {
                "count": count,
                "sample": sample,
                "saves": saves,
                "seen": seen,
                "ids": ids,
                "t": t,
                "t1": t1,
                "inner": inner,
            }
            | {"y": y[sample], "y1": y1[sample], "hk": K[:, sample]}
        )
        self.size += len(sample) * K.shape[0] * K.shape[2]
        if self.size > PENDING:
            self.flush()
        return inner

    def flush(self) -> None:
        """Interpolates and writes what is waiting."""
        steps, self.pending, self.size = self.pending, [], 0
        if not steps:
            return
        count = sum(s["count"] for s in steps)
        saves, first, ids, t, t1 = (
            torch.cat([s[name][s["sample"]] for s in steps]) for name in ("saves", "seen", "ids", "t", "t1")
        )
        y, y1 = (torch.cat([s[name] for s in steps]) for name in ("y", "y1"))
        hk = torch.cat([s["hk"] for s in steps], 1).transpose(0, 1)
        entry = torch.repeat_interleave(torch.arange(len(saves), device=saves.device), saves, output_size=count)
        # The k-th observation of an entry: its position in the list, less where the entry's begin.
        column = torch.arange(count, device=saves.device) + (first - saves.cumsum(0) + saves)[entry]
        ids, t, t1 = ids[entry], t[entry], t1[entry]
        when = self.keys[ids, column]
        weights = self.dense.weights(((when - t) / (t1 - t)).to(y.dtype))
        values = y[entry].unsqueeze(1).baddbmm(weights.unsqueeze(1), hk[entry]).squeeze(1)
        # An observation at the end of a step takes the step's result itself, not the interpolant's rounding of it.
        values = torch.where((when == t1).unsqueeze(1), y1[entry], values)
        row = column * self.out.shape[1] + ids
        self.out.view(-1, self.out.shape[-1]).index_copy_(0, row, values)
        position = torch.cat(
            [s["sample"] if s["inner"].position is None else s["inner"].position[s["sample"]] for s in steps]
        )[entry]
        counts = [s["count"] for s in steps]
        for s, *value in zip(steps, position.split(counts), row.split(counts), weights.split(counts), strict=True):
            s["inner"].value = tuple(value)
