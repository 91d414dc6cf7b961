"""Gradient matching: a field whose slopes are those of the smoothed record, in a second and without a solve.

Never the answer (what the smoothing took away is lost), always the start: multiple shooting from random weights fails
on relaxation oscillations where from here it does not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from isocline.fit.windows import Record

ROWS = 2000


def match_slopes(field: nn.Module, record: Record, penalty: float, iterations: int = 300) -> None:
    """Trains `field` in place by Adam on the smoothed states and slopes of a record (Varah 1982)."""
    values = np.concatenate([v for v, _ in record.smooth])
    slopes = np.concatenate([s for _, s in record.smooth])
    rows = np.unique(np.linspace(0, len(values) - 1, ROWS).round().astype(int))
    x, target = torch.tensor(values[rows]), torch.tensor(slopes[rows])
    parameters = list(field.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    now = torch.zeros((), dtype=x.dtype)
    for _ in range(iterations):
        optimizer.zero_grad()
        loss = (field(now, x) - target).square().mean() + penalty * sum(p.square().sum() for p in parameters)
        loss.backward()
        optimizer.step()
