"""What a model must beat: the last value, and the best linear ODE."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from isocline.fit.flow import Flow
from isocline.fit.windows import Record, choose

CHUNK = 64  # times whose matrix exponentials are held at once


class LinearODE:
    """dy/dt = A y + b in scaled coordinates, solved by the matrix exponential, so that irregular times are no matter.

    Fitted in least squares: first to the slopes of the smoothed record, then to the observations on windows as long as
    the neural ODE's longest, with free starting states (L-BFGS).

    Attributes:
        generator: (d + 1, d + 1): A and b above a row of zeros, acting on (y, 1).
    """

    def __init__(self, record: Record) -> None:
        dim = record.y[0].shape[1]
        values = np.concatenate([v for v, _ in record.smooth])
        slopes = np.concatenate([s for _, s in record.smooth])
        design = np.concatenate([values, np.ones((len(values), 1))], 1)
        first = torch.linalg.lstsq(torch.tensor(design), torch.tensor(slopes), driver="gelsd").solution.T
        self.generator = torch.zeros(dim + 1, dim + 1, dtype=torch.float64)
        self.generator[:dim] = first
        self._polish(record)

    def _polish(self, record: Record) -> None:
        windows = choose(record.windows(record.levels - 1), torch.Generator().manual_seed(0))
        dim = self.generator.shape[0] - 1
        rows = self.generator[:dim].clone().requires_grad_()
        starts = record.starts()[windows.start].requires_grad_()
        seen = ~windows.y.isnan()
        optimizer = torch.optim.LBFGS([rows, starts], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            generator = torch.cat([rows, torch.zeros(1, dim + 1, dtype=rows.dtype)])
            loss = (_paths(generator, starts, windows.ts) - windows.y)[
                seen
            ].square().mean() + 1e-6 * rows.square().sum()
            loss.backward()
            return loss

        before = float(closure().detach())
        optimizer.step(closure)
        after = float(closure().detach())
        if after < before and bool(rows.isfinite().all()):
            self.generator[:dim] = rows.detach()

    @property
    def flow(self) -> Flow:
        """Its paths."""

        def flow(states: Tensor, ts: Tensor) -> Tensor:
            with torch.no_grad():
                return _paths(self.generator, states, ts)

        return flow


def _paths(generator: Tensor, states: Tensor, ts: Tensor) -> Tensor:
    """(B, d) and (B, T) -> (T, B, d)."""
    full = torch.cat([states, torch.ones(len(states), 1, dtype=states.dtype)], 1)
    out = []
    for times in (ts - ts[:, :1]).split(CHUNK, 1):
        # Regular records share their times: each exponential is taken once.
        unique, which = times.nan_to_num(0.0).round(decimals=9).unique(return_inverse=True)
        exponentials = torch.linalg.matrix_exp(generator * unique[:, None, None])
        out.append(torch.einsum("btij,bj->tbi", exponentials[which], full)[..., :-1])
    return torch.cat(out)


def last_values(y: np.ndarray) -> np.ndarray:
    """The last observed value of every column, 0 (the mean, in scaled coordinates) where there is none."""
    return np.array([c[~np.isnan(c)][-1] if (~np.isnan(c)).any() else 0.0 for c in y.T])
