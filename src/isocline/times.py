"""Observation times: read, and checked to be finite and strictly monotone."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from isocline.field import Layout


class Times:
    """Observation times, checked.

    Attributes:
        given: as a tensor, (T,) or (B, T).
        plain: what the engine reads: floats, or (B, T) on the device.
        differentiable: (T,) or (T, B) where gradients are wanted, else None.
    """

    def __init__(self, given: Tensor, plain: Any, differentiable: Tensor | None) -> None:
        self.given, self.plain, self.differentiable = given, plain, differentiable

    @staticmethod
    def of(ts: Any, layout: Layout) -> Times:
        """Raises ValueError naming the entry of `ts` that is wrong."""
        given = as_times(ts, ragged=layout.batch is not None)
        wanted = given.requires_grad and torch.is_grad_enabled()
        if layout.batch is None:
            if given.dim() != 1:
                raise ValueError(
                    f"ts: shape {tuple(given.shape)}, expected (T,); times per sample need batching='per_sample'"
                )
            plain = given.detach().double().tolist()
            check_row(plain, "ts", padded=False)
            return Times(given, plain, given.to(layout.device) if wanted else None)
        if given.dim() == 1:
            check_row(given.detach().double().tolist(), "ts", padded=False)
            rows = given.expand(layout.batch, -1)
            plain = given.detach().to(device=layout.device, dtype=layout.clock_dtype).expand(layout.batch, -1)
        elif given.dim() == 2 and given.shape[0] == layout.batch:
            rows = given
            _check_rows(rows.detach().double())
            plain = rows.detach().to(device=layout.device, dtype=layout.clock_dtype)
        else:
            raise ValueError(
                f"ts: shape {tuple(given.shape)}, expected (T,) or ({layout.batch}, T) for a batch of {layout.batch}"
            )
        return Times(given, plain, rows.t().to(layout.device) if wanted else None)


def as_times(ts: Any, ragged: bool, name: str = "ts") -> Tensor:
    """Times as a tensor; `ragged`: they may be a list of vectors, one a sample. TypeError for what is no number."""
    if isinstance(ts, Tensor):
        if ts.is_complex() or ts.dtype == torch.bool:
            raise TypeError(f"{name}: dtype {ts.dtype}, expected real numbers")
        return ts if ts.is_floating_point() else ts.double()
    if isinstance(ts, (list, tuple)) and ts and isinstance(ts[0], (Tensor, list, tuple)) and ragged:
        rows = [t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64) for t in ts]
        if all(row.dim() == 1 and len(row) for row in rows):
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)
        raise ValueError(
            f"{name}: a list of vectors expected, one a sample, found shapes {[tuple(row.shape) for row in rows]}"
        )
    try:
        return torch.as_tensor(ts, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected a tensor or a sequence of numbers, got {type(ts).__name__} ({error})"
        ) from error


def check_row(row: list[float], name: str, padded: bool) -> None:
    """Strictly monotone and finite; `padded`: NaN or the last time repeated may follow."""
    if padded:
        while row and row[-1] != row[-1]:
            row = row[:-1]
        while len(row) > 1 and row[-1] == row[-2]:
            row = row[:-1]
    if math.isfinite(sum(row)) and len(set(row)) == len(row) > 1 and row == sorted(row, reverse=row[-1] < row[0]):
        return
    if not row:
        raise ValueError(f"{name}: no time in it, expected at least one")
    for i, t in enumerate(row):
        if not abs(t) < float("inf"):
            raise ValueError(f"{name}[{i}] = {t}: expected a finite number")
    sign = 1.0 if row[-1] >= row[0] else -1.0
    for i, (a, b) in enumerate(itertools.pairwise(row)):
        if not sign * (b - a) > 0:
            direction = "increase" if sign > 0 else "decrease"
            raise ValueError(
                f"{name}: must be strictly monotone, but {name}[{i}] = {a:g} is followed by {name}[{i + 1}] = {b:g} where "
                f"times {direction}; sort them and drop repeats"
            )


def _check_rows(rows: Tensor) -> None:
    """All rows at once; the first wrong one is then looked at closely."""
    missing = rows.isnan()
    last = (~missing).sum(1, keepdim=True) - 1
    end = rows.gather(1, last.clamp(min=0))
    filled = torch.where(missing, end, rows)
    steps = filled.diff(dim=1) * torch.where(end >= rows[:, :1], 1.0, -1.0)
    repeated = filled[:, :-1] == end
    ordered = (
        ((steps > 0) | repeated).all(1)
        if rows.shape[1] > 1
        else torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    )
    padding = (missing == (torch.arange(rows.shape[1], device=rows.device) > last)).all(1)
    good = ordered & padding & (last.squeeze(1) >= 0) & filled.isfinite().all(1)
    if not bool(good.all()):
        i = int((~good).nonzero()[0])
        check_row(rows[i].tolist(), f"ts[{i}]", padded=True)
        raise ValueError(f"ts[{i}]: NaN is padding and may only follow the last time; found {rows[i].tolist()}")
