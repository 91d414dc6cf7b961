"""What a model must beat: the last value, and the best linear ODE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from isocline.fit.windows import Record

MAX_TRANSITIONS = 3000


class LinearODE:
    """dy/dt = A y + b in scaled coordinates, solved by the matrix exponential (irregular times are no matter).

    Fitted on transitions over 1, 2, 4 and 8 observations at once: those over one are easy to fit and tell little of a
    slow oscillation, those over eight tell it and are easy only from there.
    """

    def __init__(self, dim: int) -> None:
        self.generator = torch.zeros(dim + 1, dim + 1, dtype=torch.float64)

    def fit(self, record: Record) -> LinearODE:
        """Least squares by L-BFGS."""
        pairs = _transitions(record)
        dim = self.generator.shape[0] - 1
        theta = torch.zeros(dim, dim + 1, dtype=torch.float64, requires_grad=True)
        if not pairs:
            return self
        start, end, dt = (torch.tensor(np.stack(x), dtype=torch.float64) for x in zip(*pairs, strict=True))
        gaps, which = dt.round(decimals=9).unique(return_inverse=True)
        ones = torch.ones(len(start), 1, dtype=torch.float64)
        optimizer = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            full = torch.cat([theta, torch.zeros(1, dim + 1, dtype=torch.float64)])
            propagators = torch.linalg.matrix_exp(full * gaps[:, None, None])
            predicted = torch.einsum("pij,pj->pi", propagators[which], torch.cat([start, ones], 1))[:, :dim]
            loss = (predicted - end).square().mean() + 1e-6 * theta.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        if bool(theta.isfinite().all()):
            self.generator[:dim] = theta.detach()
        return self

    def path(self, state: Tensor, ts: Tensor) -> Tensor:
        """(d,) at ts[0] -> (T, d)."""
        tau = (ts - ts[0]).double()
        full = torch.cat([state.double(), torch.ones(1, dtype=torch.float64)])
        return torch.einsum("tij,j->ti", torch.linalg.matrix_exp(self.generator * tau[:, None, None]), full)[:, :-1].to(state.dtype)


def _transitions(record: Record) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Complete rows and those 1, 2, 4, 8 observations later."""
    pairs = []
    for t, y in zip(record.t, record.y, strict=True):
        rows = np.flatnonzero(~np.isnan(y).any(1))
        for lag in (1, 2, 4, 8):
            pairs += [(y[i], y[j], np.asarray(t[j] - t[i])) for i, j in zip(rows[:-lag], rows[lag:], strict=True)]
    if len(pairs) > MAX_TRANSITIONS:
        chosen = np.random.default_rng(0).choice(len(pairs), MAX_TRANSITIONS, replace=False)
        pairs = [pairs[i] for i in np.sort(chosen)]
    return pairs


def last_values(y: np.ndarray) -> np.ndarray:
    """The last observed value of every column, NaN where there is none."""
    return np.array([c[~np.isnan(c)][-1] if (~np.isnan(c)).any() else np.nan for c in y.T])


def rmse(predicted: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> np.ndarray:
    """Root mean square error of every column over all series; a prediction that is not finite counts as inf."""
    errors = np.concatenate([p - s for p, s in zip(predicted, seen, strict=True)])
    observed = ~np.isnan(np.concatenate(list(seen)))
    squares = np.where(observed, np.where(np.isfinite(errors), errors, np.inf) ** 2, 0.0)
    return np.sqrt(squares.sum(0) / np.maximum(observed.sum(0), 1))
