"""What the experiments with irregular series share: recurrent baselines, scores."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from isocline.nn.ode_rnn import Observations, States


class GRUD(nn.Module):
    """GRU-D: what is missing decays to the mean, and so does the hidden state between observations.

    x̂ = m x + (1 − m)(γ x_last + (1 − γ) mean),  h ← GRU([x̂, m], γ_h h),  γ = exp(−max(0, W δ + b)), δ the time since a
    variable was last seen.

    Args:
        inputs, hidden: D, H.
        mean: (D,) of the training data.

    Shapes:
        x (T, B, D), ts (T,) or (B, T), mask as for `ODERNN` -> states before and after each row, (T, B, H).

    Source: Z. Che, S. Purushotham, K. Cho, D. Sontag, Y. Liu, Recurrent Neural Networks for Multivariate Time Series with
    Missing Values (Scientific Reports, 2018).

    Example:
        >>> states = GRUD(2, 8, torch.zeros(2))(torch.randn(5, 3, 2), torch.linspace(0, 1, 5))
        >>> states.after.shape
        torch.Size([5, 3, 8])
    """

    mean: Tensor

    def __init__(self, inputs: int, hidden: int, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())
        self.cell = nn.GRUCell(2 * inputs, hidden)
        self.decay, self.bias = nn.Parameter(torch.ones(inputs)), nn.Parameter(torch.zeros(inputs))
        self.fade = nn.Linear(inputs, hidden)

    def forward(self, x: Tensor, ts: Any, mask: Any = None) -> States:
        """The hidden states; a row in which nothing was observed leaves the state as the row before did."""
        seen = Observations.of(x, ts, mask)
        ts, m = seen.ts.to(x.dtype).unsqueeze(2), seen.mask
        last = self._last(m)
        since = ts - ts.expand_as(seen.x).gather(0, last.clamp(min=0))  # a variable not seen yet: since the first row
        known = torch.where(last < 0, self.mean, seen.x.gather(0, last.clamp(min=0)))
        keep = (-(self.decay * since + self.bias).clamp(min=0)).exp()
        filled = torch.where(m, seen.x, keep * known + (1 - keep) * self.mean)
        inputs, fade = torch.cat([filled, m.to(x.dtype)], 2), (-self.fade(since).clamp(min=0)).exp()
        observed = m.any(2, keepdim=True)
        h = x.new_zeros(x.shape[1], self.cell.hidden_size)
        before, after = [], []
        for i in range(len(x)):
            faded = fade[i] * h
            before.append(faded)
            h = torch.where(observed[i], self.cell(inputs[i], faded), h)
            after.append(h)
        return States(torch.stack(before), torch.stack(after))

    @staticmethod
    def _last(m: Tensor) -> Tensor:
        """(T, B, D): the row a variable was seen in last, before each; −1 where in none."""
        row = torch.arange(len(m), device=m.device).view(-1, 1, 1)
        found = torch.where(m, row, -1).cummax(0).values
        return torch.cat([torch.full_like(found[:1], -1), found[:-1]])


def auc(scores: Tensor, positive: Tensor) -> float:
    """The area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Example:
        >>> auc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, True, False, True]))
        0.875
    """
    above, below = scores[positive].unsqueeze(1), scores[~positive].unsqueeze(0)
    return float(((above > below).double() + 0.5 * (above == below)).mean())


def auc_error(area: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC from so many cases (Hanley & McNeil, Radiology 1982).

    Example:
        >>> round(auc_error(0.83, 110, 690), 3)
        0.025
    """
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (one - area**2) + (negatives - 1) * (two - area**2)
    return math.sqrt(spread / (positives * negatives))
