"""The methods of SciPy, for comparison: their own steps, their own control, on the processor."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import pi, sin
from typing import Any, ClassVar

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.memory import StepRows
from isocline.solvers.runge_kutta import RungeKutta, Workspace

# Order, and the degree of the polynomial inside a step, of each; LSODA's and BDF's are the highest they take.
METHODS = {"RK23": (3, 3), "RK45": (5, 4), "DOP853": (8, 7), "Radau": (5, 3), "BDF": (5, 5), "LSODA": (12, 12)}
EXPLICIT = ("RK23", "RK45", "DOP853")
CENTER = 0.5  # of the polynomials: in powers of θ itself those of degree 12 lose six digits


@dataclass(frozen=True)
class Scipy(RungeKutta, abstract=True):
    """A solver of `scipy.integrate`, to compare with, or to go to where ours fail.

    The state is copied to the processor in double precision and back at every evaluation. Of the controller, SciPy's own
    takes `rtol`, `atol`, `first_step`, `max_step`, and LSODA `min_step`; `step_ts` and `jump_ts` are stepped to. Rejected
    steps are not counted: SciPy does not tell. For states that share their steps.

    SciPy's steps are not recorded, so that gradients come from a continuous adjoint, with a solver of its own:
    `gradient=Backsolve(solver="tsit5")`, or `GaussAdjoint(solver="kvaerno5")` for stiff systems. Any other is refused by
    name where gradients are wanted; without them (`torch.no_grad()`) none is needed.

    Args:
        method: "LSODA", "RK23", "RK45", "DOP853", "Radau" or "BDF".

    Source: P. Virtanen et al., SciPy 1.0, Nature Methods 17 (2020); `scipy.integrate.solve_ivp` names that of each method.

    Raises:
        ValueError: for another method.
        ImportError: when it solves, without SciPy.

    Example:
        >>> import torch, isocline
        >>> stiff = lambda t, y: -1000 * (y - torch.cos(t))
        >>> sol = isocline.solve(stiff, torch.zeros(1), [0.0, 1.0], solver=Scipy("Radau"))
        >>> round(sol.ys[-1].item(), 3)
        0.541
    """

    method: str = "LSODA"
    error_order: ClassVar[int] = 1  # it has an estimate; what it makes of it is SciPy's

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"Scipy: method={self.method!r}, expected one of {', '.join(METHODS)}")

    @cached_property
    def tableau(self) -> StepRows:  # pyrefly: ignore[bad-override]
        """What the dense output reads: rows are the state at `nodes` less that at the start."""
        order, degree = METHODS[self.method]
        at_end = (*(0.0 for _ in range(degree - 1)), 1.0)
        return StepRows(
            c=(0.0, *nodes(degree)),
            order=order,
            embedded_order=order - 1,
            b=at_end,
            dense=lagrange(nodes(degree)),
            dense_order=degree,
            dense_center=CENTER,
            explicit=self.method in EXPLICIT,
        )

    def check(self, field: VectorField, t: Tensor, y: Tensor) -> None:
        if field.layout.batch is not None:
            raise ValueError(
                f"batching='per_sample': solver={self} takes one step size for the whole state; use batching='shared', or "
                f"solve one sample after the other"
            )

    def workspace(self, y: Tensor, field: VectorField) -> Workspace:
        raise self.refusal()

    def recorded(self, *args: Any, **kwargs: Any) -> tuple[Tensor, list[Tensor]]:
        raise self.refusal()

    def refusal(self) -> ValueError:
        """For whoever asks for single steps."""
        return ValueError(
            f"gradient: solver={self} does not hand out its steps; use gradient=Backsolve(solver='tsit5') or "
            f"GaussAdjoint(solver='kvaerno5'), whose way back is isocline's own, or torch.no_grad() for values alone"
        )

    def stepper(self) -> Any:
        """SciPy's class; it is asked for only here, and only when it is used."""
        try:
            return getattr(importlib.import_module("scipy.integrate"), self.method)
        except ImportError as error:
            raise ImportError(
                f"{self} needs SciPy: pip install scipy, or take one of isocline's own solvers"
            ) from error


def nodes(degree: int) -> tuple[float, ...]:
    """Where polynomials of that degree are read off, beside θ = 0: the extrema of Chebyshev's."""
    return (*(sin(pi * j / (2 * degree)) ** 2 for j in range(1, degree)), 1.0)


@cache
def lagrange(points: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """ℓ_j in powers of θ − ½ from the first on, one at its point and zero at the others and at θ = 0.

    Example:
        >>> lagrange((0.5, 1.0))[1]  # θ(2θ − 1), in powers of θ − ½
        (1.0, 2.0)
    """
    rows = []
    for point in points:
        basis = [1.0]
        for other in (0.0, *points):
            if other != point:
                scale, shift = 1 / (point - other), other - CENTER
                raised = [0.0, *basis]
                basis = [scale * (r - shift * x) for r, x in zip(raised, [*basis, 0.0], strict=True)]
        rows.append(tuple(basis[1:]))
    return tuple(rows)
