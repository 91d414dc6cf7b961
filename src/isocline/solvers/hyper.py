"""Any explicit method with a learned correction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from typing import Any

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.base import Solver, snake_case
from isocline.solvers.euler import Euler
from isocline.solvers.memory import Remembering, StepRows
from isocline.solvers.runge_kutta import ExplicitRungeKutta


@dataclass(frozen=True)
class Hyper(Remembering):
    """A hypersolver: a step of an explicit method of order p, and h^(p+1) times what a network makes of it.

        y₁ = y + Ψ_h(t, y) + h^{p+1} g(t, y, f(t, y)),

    where g is to learn the leading term of the local error, so that a cheap method takes long steps on the one system it
    was trained for. Train g like any parameter, through a solve or on single steps against a good solver. The error
    estimate and the stated order are those of the base method.

    Args:
        base: an explicit solver or its name.
        correction: `g(t, y, dy)`, a callable or module; `t` and `y` as the field gets them, `dy` like `y` is f there; returns
            the structure and shapes of `y`. None: none.

    Gradients reach g by the exact ways back; the continuous adjoints, which know nothing of steps, refuse it.

    Source: M. Poli, S. Massaroli, A. Yamashita, H. Asama & J. Park, Hypersolvers: Toward Fast Continuous-Depth Models,
    NeurIPS 2020, equation 4.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import torch, isocline
        >>> exact = lambda t, y, dy: dy / 2  # for dy/dt = y, y″/2
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> [
        ...     round(isocline.solve(lambda t, y: y, y0, [0.0, 1.0], solver=solver, step=0.1).ys[-1].item(), 3)
        ...     for solver in ("euler", isocline.Hyper("euler", exact))
        ... ]
        [2.594, 2.714]
    """

    base: ExplicitRungeKutta | str = dataclass_field(default_factory=Euler)
    correction: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        base = self.base
        if isinstance(base, str):
            if base not in Solver.registry:
                raise ValueError(f"Hyper: base={base!r}, expected one of {sorted(Solver.registry)}")
            object.__setattr__(self, "base", base := Solver.named(base))
        if not isinstance(base, ExplicitRungeKutta):
            name = snake_case(type(base).__name__)
            raise ValueError(
                f"Hyper: base={name!r} is no explicit Runge–Kutta method; take one such as 'euler' or 'rk4'"
            )
        if not (self.correction is None or callable(self.correction)):
            raise ValueError(f"Hyper: correction={self.correction!r}, expected a callable g(t, y, dy) or None")

    @property
    def _base(self) -> ExplicitRungeKutta:
        assert isinstance(self.base, ExplicitRungeKutta)
        return self.base

    @cached_property
    def tableau(self) -> StepRows:  # pyrefly: ignore[bad-override]
        base = self._base.tableau
        dense = [*base.dense, *[()] * (base.dense_stages - len(base.dense))]
        # In powers of θ − center the correction's θ^(p+1) is another polynomial; the interpolants with a center have none.
        grows = (1.0,) if base.dense_center else (*[0.0] * base.order, 1.0)
        return StepRows(
            c=(*base.c, 1.0),
            order=base.order,
            embedded_order=base.embedded_order,
            b=(*base.b, 1.0, 0.0),
            b_error=None if base.b_error is None else (*base.b_error, 0.0, 0.0),
            dense=(*dense[: base.stages], grows, (0.0,), *dense[base.stages :]),
            dense_order=base.dense_order,
            dense_center=base.dense_center,
            extra_c=base.extra_c,
        )

    def begin(self, y: Tensor) -> Tensor:
        return y.unsqueeze(0)

    def taken(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        state: Tensor,
        k1: Tensor,
        paces: Tensor | None = None,
        note: Any = None,
    ) -> tuple[Tensor, list[Tensor]]:
        y, base = state[0], self._base.tableau
        y1, stages = self._base.recorded(field, times[: base.stages], scale, y, k1, paces)
        row = torch.zeros_like(y)
        if self.correction is not None:
            slope = k1 if paces is None else k1 / torch.where(paces == 0, 1.0, paces)
            row = self._corrected(field, times[0], y, slope)
            row = row * scale**base.order if paces is None else row * paces ** (base.order + 1)
            y1 = torch.add(y1, row, alpha=scale)
        last = field(times[-1], y1)
        return y1.unsqueeze(0), [*stages, row, last if paces is None else last * paces]

    def taken_extra(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        state: Tensor,
        rows: Sequence[Tensor],
        paces: Tensor | None = None,
    ) -> list[Tensor]:
        stages = self._base.tableau.stages
        return self._base.recorded_extra(field, times, scale, state[0], rows[:stages], paces)[stages:]

    def _corrected(self, field: VectorField, time: Any, y: Tensor, slope: Tensor) -> Tensor:
        """g, flat; its result is checked as that of a field is."""
        assert self.correction is not None
        layout = field.layout
        dy = layout.unflatten(slope)
        return VectorField(self.correction, layout, (dy,))(time, y)
