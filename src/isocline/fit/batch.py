"""The records of all members of a batch, side by side: each may have lost other rows, or carry noise of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from isocline.fit.drive import Drive
from isocline.fit.windows import Record, Windows

ROWS = 8000  # observations an evaluation looks at, those of all members together


class Batch:
    """Records, one a member, and their windows as the samples of one solve.

    Args:
        records: of all members; with the same states.

    Attributes:
        knots: places for free starting states that every member has.
        levels: window lengths there are.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = list(records)
        self.knots = max(len(r.starts()) for r in self.records)
        self.levels = max(r.levels for r in self.records)

    @property
    def dim(self) -> int:
        """Of the state."""
        return self.records[0].y[0].shape[1]

    @property
    def rows(self) -> int:
        """Observations of all members."""
        return sum(r.rows for r in self.records)

    def starts(self) -> Tensor:
        """(M, knots, d): first guesses of the states at all knots, zeros where a member has fewer."""
        return torch.nn.utils.rnn.pad_sequence([r.starts() for r in self.records], batch_first=True, padding_value=0.0)

    def noise(self) -> Tensor:
        """(M, d): the noise of every column, from what the smoothing spline left."""
        return torch.stack([r.noise() for r in self.records])

    def windows(self, level: int) -> Windows:
        """Windows of 2^level base stretches, of all members."""
        parts = [r.windows(min(level, r.levels - 1)) for r in self.records]
        width = max(p.ts.shape[1] for p in parts)
        ts = torch.cat([torch.nn.functional.pad(p.ts, (0, width - p.ts.shape[1]), value=torch.nan) for p in parts])
        ys = [torch.nn.functional.pad(p.y, (0, 0, 0, 0, 0, width - p.y.shape[0]), value=torch.nan) for p in parts]
        shifts = [m * self.knots for m in range(len(parts))]
        start = torch.cat([p.start + shift for p, shift in zip(parts, shifts, strict=True)])
        end = torch.cat([torch.where(p.end >= 0, p.end + shift, -1) for p, shift in zip(parts, shifts, strict=True)])
        member = torch.cat([torch.full_like(p.start, m) for m, p in enumerate(parts)])
        drive = Drive.joined([p.drive for p in parts])
        return Windows(ts, torch.cat(ys, 1), start, end, torch.cat([p.last for p in parts]), member, drive)

    def some(self, windows: Windows, seed: int) -> Windows:
        """All windows, or of a long record as many of every member as `ROWS` allows, drawn anew for each seed."""
        count, width = windows.ts.shape
        keep = max(1, ROWS // (width * len(self.records)))
        if count <= keep * len(self.records):
            return windows
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(count, generator=generator)
        # Sorted by member, then by lot: the first `keep` of each.
        order = torch.argsort(windows.member + order)
        sizes = torch.bincount(windows.member, minlength=len(self.records))
        rank = torch.arange(count) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        return windows.pick(order[rank < keep].sort().values)


def of_members(windows: Windows, members: Tensor, batch: Batch) -> Windows:
    """The windows of some members of a batch, who are then numbered by their place in `members`, and their knots likewise."""
    place = torch.full((len(batch.records),), -1)
    place[members] = torch.arange(len(members))
    chosen = windows.pick((place[windows.member] >= 0).nonzero().squeeze(1))
    member = place[chosen.member]
    shift = (chosen.member - member) * batch.knots
    end = torch.where(chosen.end >= 0, chosen.end - shift, -1)
    return replace(chosen, member=member, start=chosen.start - shift, end=end)
