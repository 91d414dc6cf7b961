"""The named problems of `isocline.problems` that solvers are compared on, also as NumPy functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isocline import problems
from isocline.problems import Problem


@dataclass(frozen=True)
class Classic:
    """As `detest.Named`, from a `Problem`; `rates(y)` is the same formula on NumPy's arrays."""

    problem: Problem
    rates: Callable[[Any], Any]
    stiff: bool = False
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.problem.name

    @property
    def t0(self) -> float:
        return self.problem.t0

    @property
    def t1(self) -> float:
        return self.problem.t1

    @property
    def y0(self) -> np.ndarray:
        return self.problem.y0.numpy()

    @property
    def reference(self) -> np.ndarray:
        assert self.problem.reference is not None
        return self.problem.reference.numpy()

    def numpy(self, t: Any, y: np.ndarray) -> np.ndarray:
        return np.concatenate([np.atleast_1d(part) for part in self.rates(y)])

    def torch(self, t: Tensor, y: Tensor) -> Tensor:
        return self.problem.field(t, y)


def with_constants(rates: Callable[..., Any], field: torch.nn.Module) -> Callable[[Any], Any]:
    """`rates` with the numbers of `field`, as they are in float64."""
    constants = [x.numpy() if x.dim() else float(x) for x in field.buffers()]
    return lambda y: rates(y, *constants)


def van_der_pol(y: Any, mu: float) -> Any:
    return y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]


def classic(problem: Problem, rates: Callable[..., Any] | None = None, stiff: bool = False, label: str = "") -> Classic:
    return Classic(problem, with_constants(rates or problem.field.rates, problem.field), stiff, label)  # type: ignore[arg-type]


CLASSICS = [
    classic(problems.arenstorf()),
    classic(problems.pleiades()),
    classic(problems.brusselator()),
    classic(problems.robertson(), stiff=True),
    classic(problems.hires(), stiff=True),
    classic(problems.van_der_pol(1000.0), van_der_pol, stiff=True, label="Van der Pol 1000"),
]
