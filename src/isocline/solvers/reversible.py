"""Steps that can be undone exactly, and one made of any explicit method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from typing import Any

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.base import Solver, snake_case
from isocline.solvers.memory import Remembering, StepRows
from isocline.solvers.runge_kutta import ExplicitRungeKutta, advance, combine
from isocline.solvers.tsit5 import Tsit5


@dataclass(frozen=True)
class AlgebraicallyReversible(Remembering, abstract=True):
    """Base of the methods of which a step's start is a formula in its end: what `ReversibleAdjoint` goes back by.

    Example:
        >>> from isocline.solvers import Reversible
        >>> isinstance(Reversible("rk4"), AlgebraicallyReversible)
        True
    """

    def undone(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        after: Tensor,
        paces: Tensor | None = None,
    ) -> Tensor:
        """The state at the start of a step from that at its end; arguments as of `Remembering.taken`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Reversible(AlgebraicallyReversible):
    """Any explicit method, made reversible; of its order, at twice its evaluations.

    Beside y it carries z, of the same size. With Ψ_h(t, y) the increment of a step h of the method from y at t,

        y₁ = λy + (1 − λ)z + Ψ_h(t, z),    z₁ = z − Ψ_{−h}(t + h, y₁),

    and both equations can be read backwards. The error estimate is that of Ψ_h(t, z), and Ψ_h(t, z) + Ψ_{−h}(t + h, y₁),
    by which y and z part. The interpolant is that of Ψ_h(t, z), laid on y.

    Args:
        base: an explicit solver or its name.
        coupling: λ in (0, 1]. At 1 no step of any size is stable on a decaying system; going back multiplies the
            rounding by 1/λ a step.

    Source: S. McCallum & J. Foster, Efficient, Accurate and Stable Gradients for Neural ODEs, arXiv:2410.11648 (2024),
    equations of section 3.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import torch, isocline
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> solver = isocline.solvers.Reversible("rk4")
        >>> round(isocline.solve(lambda t, y: -y, y0, [0.0, 1.0], solver=solver, step=0.1).ys[-1].item(), 5)
        0.36788
    """

    base: ExplicitRungeKutta | str = dataclass_field(default_factory=Tsit5)
    coupling: float = 0.999

    def __post_init__(self) -> None:
        base = self.base
        if isinstance(base, str):
            if base not in Solver.registry:
                raise ValueError(f"Reversible: base={base!r}, expected one of {sorted(Solver.registry)}")
            object.__setattr__(self, "base", base := Solver.named(base))
        if not isinstance(base, ExplicitRungeKutta):
            name = snake_case(type(base).__name__)
            raise ValueError(f"Reversible: base={name!r} is no explicit Runge–Kutta method; take one such as 'tsit5'")
        if not 0 < self.coupling <= 1:
            raise ValueError(f"Reversible: coupling={self.coupling!r}, expected a number in (0, 1]")

    @cached_property
    def tableau(self) -> StepRows:  # pyrefly: ignore[bad-override]
        base = self._base.tableau
        none, ends = (0.0,), (0.0, 0.0)
        dense = [*base.dense, *[()] * (base.dense_stages - len(base.dense))]
        return StepRows(
            c=(*base.c, *(1.0 - c for c in base.c)),
            order=base.order,
            embedded_order=base.embedded_order,
            b=(0.0, *base.b, 1.0, *ends),
            b_error=None if base.b_error is None else (*none * (base.stages + 2), 1.0, 0.0),
            dense=(none, *dense[: base.stages], (1.0,), none, none, *dense[base.stages :]),
            dense_order=base.dense_order,
            dense_center=base.dense_center,
            extra_c=base.extra_c,
        )

    @property
    def _wants_last(self) -> bool:
        """Whether the slope at the end, of a base method that has it as its last stage, enters anything."""
        base = self._base.tableau
        return bool(base.b_error and base.b_error[-1]) or any(base.dense[base.stages - 1])

    @property
    def _base(self) -> ExplicitRungeKutta:
        assert isinstance(self.base, ExplicitRungeKutta)
        return self.base

    def begin(self, y: Tensor) -> Tensor:
        return torch.stack((y, y))

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
        y, z = state.unbind(0)
        there, back = times[: len(times) // 2], times[len(times) // 2 :]
        forward, stages = self._increment(field, there, scale, z, None, paces)
        apart = (1 - self.coupling) * (z - y)
        y1 = y + (apart + forward)
        slope = field(back[0], y1)
        last = slope if paces is None else slope * paces
        backward, _ = self._increment(field, back, -scale, y1, last, paces)
        error = combine(torch.zeros_like(y), self._base.tableau.b_error or (), stages, 1.0).abs()
        error = error + (forward + backward).abs() / abs(scale)
        return torch.stack((y1, z - backward)), [k1, *stages, apart / scale, error, last]

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
        return self._base.recorded_extra(field, times, scale, state[1], rows[1 : 1 + stages], paces)[stages:]

    def undone(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        after: Tensor,
        paces: Tensor | None = None,
    ) -> Tensor:
        y1, z1 = after.unbind(0)
        there, back = times[: len(times) // 2], times[len(times) // 2 :]
        z = z1 + self._increment(field, back, -scale, y1, None, paces)[0]
        forward, _ = self._increment(field, there, scale, z, None, paces)
        return torch.stack((z + (y1 - z - forward) / self.coupling, z))

    def _increment(
        self, field: VectorField, times: Sequence[Any], scale: float, y: Tensor, k1: Tensor | None, paces: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Ψ and the stages of a step of the base method."""
        if k1 is None:
            k1 = field(times[0], y)
            k1 = k1 if paces is None else k1 * paces
        _, stages = self._base.recorded(field, times, scale, y, k1, paces, last_stage=self._wants_last)
        stages += [torch.zeros_like(y)] * (self._base.tableau.stages - len(stages))
        return advance(torch.zeros_like(y), self._base.tableau.b, stages, scale), stages
