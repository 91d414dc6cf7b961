"""Gradient matching: fields whose slopes are those of the smoothed record, in a second and without a solve.

Never the answer (what the smoothing took away is lost), always the start: multiple shooting from random weights fails
on relaxation oscillations where from here it does not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from isocline.fit.batch import Batch
from isocline.fit.group import ALONE, Group
from isocline.fit.networks import Networks
from isocline.fit.windows import Record

ROWS = 2000  # smoothed rows a network looks at


class Slopes:
    """The mean square error of the slopes of every member, with a penalty on the squared weights (Varah 1982).

    Each process of a group looks at its share of the rows.
    """

    def __init__(self, networks: Networks, batch: Batch, penalty: Tensor, group: Group = ALONE) -> None:
        self.networks, self.penalty, self.group = networks, torch.where(penalty.isinf(), 0.0, penalty), group
        self.moving = networks.moving(penalty)
        rows = [_rows(r) for r in batch.records]
        size = min(ROWS, max(len(r["x"]) for r in rows))
        spread = [np.linspace(0, len(r["x"]) - 1, size).round().astype(int) for r in rows]
        mine = group.share(size)
        self.weight = (mine.stop - mine.start) / size
        columns = {
            name: torch.tensor(np.stack([r[name][i[mine]] for r, i in zip(rows, spread, strict=True)]))
            for name in rows[0]
        }
        self.x, self.target = columns.pop("x"), columns.pop("slopes")
        self.given = columns

    @torch.no_grad()
    def value(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squares (M,) and gradients (M, size) of all networks (M, size)."""
        misfit, gradient = torch.zeros_like(theta[:, 0]), torch.zeros_like(theta)
        if self.weight:
            slopes, back = self.networks.slopes_and_back(theta, self.x, self.given)
            error = slopes - self.target
            misfit = self.weight * error.square().mean((1, 2))
            gradient = back(2 * error * (self.weight / error[0].numel()))
        if self.group.leads:
            gradient = gradient + self.penalty[:, None] * self.networks.shrunk * (2 * theta)
        misfit, gradient = self.group.summed(misfit, gradient)
        return misfit, gradient * self.moving


def _rows(record: Record) -> dict[str, np.ndarray]:
    """Smoothed states "x" and "slopes" (R, d) of all segments, and what drives them."""
    values, slopes = (np.concatenate(part) for part in zip(*record.smooth, strict=True))
    return {"x": values, "slopes": slopes, **record.given()}
