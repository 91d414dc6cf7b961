"""Which number of which sample stands where in a traced tensor.

A tensor of the trace that depends on the state has a *code* in every entry: the row of the program that holds its number,
and the sample (lane) it is of. What only moves numbers (views, slices, cat, flips, …) is then lowered by doing it to the
codes, whatever it is called. That a field treats every sample alike, and none with another, shows in them: the rows must be
the same for all lanes, and an operation may not meet two lanes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LANES = 3  # in the trace
ANY = LANES  # the lane of a number that is the same for all samples
BASE = LANES + 1


class CannotFuseError(ValueError):
    """A field that is no tile program; the message names the operation and why."""


@dataclass(frozen=True)
class Lane:
    """A tensor of the trace that depends on the sample: the code of every entry."""

    code: Tensor


def coded(rows: Tensor, lanes: Tensor | int) -> Tensor:
    """Codes from rows and lanes.

    Example:
        >>> coded(torch.tensor([0, 1]), ANY).tolist()
        [3, 7]
    """
    return rows * BASE + lanes


def rows_of(code: Tensor) -> Tensor:
    """The rows.

    Example:
        >>> rows_of(torch.tensor([3, 7])).tolist()
        [0, 1]
    """
    return code // BASE


def lanes_of(code: Tensor) -> Tensor:
    """The lanes.

    Example:
        >>> lanes_of(torch.tensor([0, 1, 3])).tolist() == [0, 1, ANY]
        True
    """
    return code % BASE


def meet(lanes: Tensor, what: str) -> Tensor:
    """The one lane in each row of (n, k), ANY where there is none; CannotFuseError where there are two."""
    real = lanes != ANY
    low = torch.where(real, lanes, LANES).amin(1)
    high = torch.where(real, lanes, -1).amax(1)
    if bool((real.any(1) & (low != high)).any()):
        raise CannotFuseError(f"{what} mixes samples of the batch")
    return low


@dataclass(frozen=True)
class Places:
    """The entries of a result, by sample.

    Attributes:
        at: (LANES, n): which entry is number i of a lane; (1, n) where all are the same for all samples.
        lanes: (LANES,) or (1,): which lane each row of `at` is.
    """

    at: Tensor
    lanes: Tensor

    @staticmethod
    def among(lanes: Tensor, what: str) -> list[tuple[Tensor, Places]]:
        """From the lane of every entry (m,): first those that are the same for all samples, then the samples'; which they are,
        and where they stand among these."""
        alike = lanes == ANY
        chosen = [where.nonzero().squeeze(1) for where in (alike, ~alike)]
        return [(where, Places.of(lanes[where], what)) for where in chosen if len(where)]

    @staticmethod
    def of(lanes: Tensor, what: str) -> Places:
        """From the lane of every entry (m,), ANY in all or in none."""
        if bool((lanes == ANY).all()):
            return Places(torch.arange(len(lanes)).unsqueeze(0), torch.tensor([ANY]))
        counts = torch.bincount(lanes, minlength=BASE)
        if int(counts[:LANES].min()) != int(counts[:LANES].max()):
            raise CannotFuseError(f"{what} treats samples differently, or mixes them")
        return Places(lanes.argsort(stable=True).view(LANES, -1), torch.arange(LANES))

    def template(self, values: Tensor, what: str) -> list[int]:
        """Values (m,) of the entries, of one sample; CannotFuseError where samples have others."""
        return [value for (value,) in self.templates(values.unsqueeze(1), what)]

    def templates(self, values: Tensor, what: str) -> list[list[int]]:
        """The same of several values (m, k) an entry."""
        found = values[self.at]
        if bool((found != found[0]).any()):
            raise CannotFuseError(f"{what} treats samples differently")
        return found[0].tolist()

    def codes(self, rows: Tensor) -> Tensor:
        """Of a result whose numbers lie in these rows, (n,)."""
        lanes, count = self.at.shape
        out = torch.empty(lanes * count, dtype=torch.int64)
        out[self.at.reshape(-1)] = coded(rows.repeat(lanes), self.lanes.repeat_interleave(count))
        return out
