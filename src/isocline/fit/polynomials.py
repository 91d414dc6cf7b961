"""Polynomial right-hand sides, many in one batch: what sparse regression finds, ready to be solved and to be written down."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isocline.equations.tree import quoted
from isocline.fit.drive import Drive
from isocline.fit.flow import Flow
from isocline.fit.networks import BOUND
from isocline.fit.scale import Scales
from isocline.solve import solve

RTOL, ATOL = 1e-5, 1e-6
MAX_STEPS = 5000  # of one path: a polynomial that drives a state to and fro must not take the day


class Polynomials:
    """dy/dt = Σ_k c_k Π_j z_j^p_kj with z = (y, u) over typical sizes: systems that share their monomials.

    Args:
        powers: (K, states + inputs) exponents of each monomial; the parts of a product are among them too.
        sizes: (states + inputs,) of states and inputs, in the table's units.
        scales: of the run.

    Attributes:
        field: f(t, x, C), or f(t, x, {"u": u}, C), in scaled coordinates, with coefficients (B, K, states) of each sample: dy/dt
            over size, per unit of scaled time.
    """

    def __init__(self, powers: np.ndarray, sizes: np.ndarray, scales: Scales) -> None:
        self.powers, self.sizes, self.scales = powers, sizes, scales
        self.dim = len(scales.states)
        self.field = _PerSample(powers, sizes, scales)

    def flow(self, coefficients: np.ndarray) -> Flow:
        """Paths: the samples of a batch of B, or of several times B one after another, have coefficients (B, K, states)."""
        return partial(self._paths, torch.tensor(coefficients))

    @torch.no_grad()
    def _paths(self, coefficients: Tensor, states: Tensor, ts: Tensor, drive: Drive | None = None) -> Tensor:
        args = (coefficients.repeat(len(states) // len(coefficients), 1, 1),)
        options = {"rtol": RTOL, "atol": ATOL, "max_steps": MAX_STEPS, "throw": False, "batching": "per_sample"}
        field, driven = (self.field, {}) if drive is None else drive.into(self.field)
        ys = solve(field, states, ts, args=args, engine="auto", **driven, **options).ys
        return torch.where((ys.abs() <= BOUND).all(-1, keepdim=True), ys, torch.nan)

    def in_table_units(self, coefficients: np.ndarray) -> np.ndarray:
        """(K, states) coefficients of the monomials of y and u themselves, per unit of the table's time."""
        size = np.prod(self.sizes**self.powers, 1)
        return coefficients * self.sizes[: self.dim] / size[:, None] / self.scales.tau


class _PerSample:
    """The field, of operations that the fused engine knows and of attributes that it can watch.

    Beyond `BOUND` standard deviations the slopes stay what they are there: polynomials run away in finite time, at which a solver
    would halve its steps for ever.
    """

    def __init__(self, powers: np.ndarray, sizes: np.ndarray, scales: Scales) -> None:
        self.takes: tuple[str, ...] = ("u",) if scales.inputs else ()
        columns = [*scales.states, *scales.inputs]
        self.logs = [s.kind == "log" for s in columns]
        self.means, self.sds = [s.mean for s in columns], [s.sd for s in columns]
        self.sizes: list[float] = sizes.tolist()
        rows = [tuple(row) for row in powers.tolist()]
        self.factors = [_factors(row, rows) for row in rows]

    def __call__(self, t: Tensor, x: Tensor, *args: Any) -> Tensor:
        x = x.clamp(-BOUND, BOUND)
        columns = torch.cat([x, args[0]["u"]], -1) if self.takes else x
        z = []
        for i, log in enumerate(self.logs):
            y = columns[..., i] * self.sds[i] + self.means[i]
            z.append((y.exp() if log else y) / self.sizes[i])
        products: list[Tensor] = []
        for before, j in self.factors:
            products.append(z[0] * 0.0 + 1.0 if before is None else z[j] if before == 0 else products[before] * z[j])
        rates = (torch.stack(products, -1)[..., None] * args[-1]).sum(-2)
        count = x.shape[-1]
        return torch.stack(
            [
                rates[..., i] / z[i] / self.sds[i] if self.logs[i] else rates[..., i] * (self.sizes[i] / self.sds[i])
                for i in range(count)
            ],
            -1,
        )


def _factors(row: tuple[int, ...], rows: list[tuple[int, ...]]) -> tuple[int | None, int]:
    """Of which monomial, and of which number, a monomial is the product; (None, 0) of the constant."""
    if not any(row):
        return None, 0
    j = next(j for j, p in enumerate(row) if p)
    return rows.index((*row[:j], row[j] - 1, *row[j + 1 :])), j


def term(power: Sequence[int] | np.ndarray, names: Sequence[str]) -> str:
    """A monomial as equations have it, "" of the constant.

    Example:
        >>> term((2, 1, 0), ("x", "level 2", "u"))
        'x^2*`level 2`'
    """
    parts = [quoted(name) + (f"^{p}" if p > 1 else "") for name, p in zip(names, power, strict=True) if p]
    return "*".join(parts)
