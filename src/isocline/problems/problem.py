"""What a named system consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Problem:
    """A system with something known about it, to test a solver against or to make data from.

    Attributes:
        name: as it is written in text, for instance ``"Lotka–Volterra"``.
        field: ``field(t, y) -> dy/dt`` for y of shape (..., n) and any floating dtype. Its constants are buffers;
            ``field.a = nn.Parameter(field.a)`` turns the constant ``a`` into something to be fitted.
        y0: the usual initial state, shape (n,), float64.
        t0, t1: the usual interval.
        labels, units: one string for each of the n components.
        solution: the closed form ``solution(t, y0, t0)``, where there is one. t of any shape (T...) gives
            (T..., *y0.shape); y0 may be batched, (..., n), and must be a state at time t0. The result has y0's dtype.
        invariant: ``invariant(y)``, shape (..., n) to (...): a quantity the exact flow keeps.
        reference: where there is no closed form, the state at t1, shape (n,), float64: computed by SciPy's DOP853
            at rtol 1e-13, or where it says so by ``tests/references.py`` in extended precision;
            ``tests/test_problems.py`` computes it again by SciPy. None when the constants are not the usual ones.
        source: where the system and its constants come from.
        time_unit: the unit of t.
    """

    name: str
    field: nn.Module
    y0: Tensor
    t0: float
    t1: float
    labels: tuple[str, ...]
    units: tuple[str, ...]
    solution: Callable[[Tensor, Tensor, float], Tensor] | None = None
    invariant: Callable[[Tensor], Tensor] | None = None
    reference: Tensor | None = None
    source: str = ""
    time_unit: str = ""


class Constants(nn.Module):
    """A field whose constants are named scalars."""

    def __init__(self, **constants: float):
        super().__init__()
        self._names = tuple(constants)
        for name, value in constants.items():
            self.register_buffer(name, torch.tensor(float(value), dtype=torch.float64))

    def like(self, y: Tensor) -> list[Tensor]:
        """The constants in y's dtype, in the order given: the components of a single state are 0-d tensors, which a
        0-d float64 would promote."""
        return [getattr(self, name).to(y) for name in self._names]


def elapsed(t: Tensor, y0: Tensor, t0: float) -> Tensor:
    """t − t0 in y0's dtype, shaped (T..., 1, ..., 1) so that it broadcasts against one component of y0."""
    tau = (t - t0).to(y0.dtype)  # subtract first: 32-bit states at late times keep their digits
    return tau.reshape(tau.shape + (1,) * (y0.dim() - 1))
