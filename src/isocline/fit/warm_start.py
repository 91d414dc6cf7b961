"""Gradient matching: fields whose slopes are those of the smoothed record, in a second and without a solve.

Never the answer (what the smoothing took away is lost), always the start: multiple shooting from random weights fails
on relaxation oscillations where from here it does not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from isocline.fit.batch import Batch
from isocline.fit.networks import Networks
from isocline.fit.windows import Record

ROWS = 2000  # smoothed rows a network looks at


class Slopes:
    """The mean square error of the slopes of every member, with a penalty on the squared weights (Varah 1982)."""

    def __init__(self, networks: Networks, batch: Batch, penalty: Tensor) -> None:
        self.networks, self.penalty = networks, penalty
        rows = [_rows(r) for r in batch.records]
        size = min(ROWS, max(len(x) for x, _ in rows))
        spread = [np.linspace(0, len(x) - 1, size).round().astype(int) for x, _ in rows]
        self.x, self.target = (
            torch.tensor(np.stack([pair[k][i] for pair, i in zip(rows, spread, strict=True)])) for k in (0, 1)
        )

    def value(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squares (M,) and gradients (M, size) of all networks (M, size)."""
        theta = theta.detach().requires_grad_()
        misfit = (self.networks.slopes(theta, self.x) - self.target).square().mean((1, 2))
        loss = misfit + self.penalty * (self.networks.shrunk * theta.square()).sum(1)
        loss.sum().backward()
        assert theta.grad is not None
        return misfit.detach(), theta.grad


def _rows(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed states and slopes (R, d) of all segments."""
    return np.concatenate([v for v, _ in record.smooth]), np.concatenate([s for _, s in record.smooth])
