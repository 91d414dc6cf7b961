"""The explicit Runge–Kutta step, in the two forms PyTorch wants it.

Both compute, for i = 2 … s (Hairer, Nørsett & Wanner I, II.1):

    Y_i = y + h Σ_{j<i} a_ij k_j,    k_i = f(t + c_i h, Y_i),    y₁ = y + h Σ b_i k_i.

`Workspace.step` writes the k_i into the rows of one buffer and combines them with a single matrix–vector product: the
fastest form without an autograd graph. `recorded` keeps them in a list and adds them up one by one, which records the
cheapest graph. They round differently in the last digit.

The size of the step enters as `scale`. With one step size for the whole state, the rows hold k_i and `scale` is h.
With a step size per sample the evaluation returns h·k_i already, and `scale` is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import torch

from isocline._types import Float, Tensor
from isocline.field import VectorField
from isocline.solvers.base import Solver
from isocline.solvers.tableau import Tableau


def _order(solver: Any) -> int:
    return solver.tableau.order


def _error_order(solver: Any) -> int:
    tableau = solver.tableau
    return min(tableau.order, tableau.embedded_order) + 1 if tableau.b_error else 0


def _dense_order(solver: Any) -> int:
    return solver.tableau.dense_order


@dataclass(frozen=True)
class RungeKutta(Solver, abstract=True):
    """A method whose step is a sum of stages: y₁ = y + h Σ b_i k_i, its error h Σ (b_i − b̂_i) k_i, inside h Σ b_i(θ) k_i.

    k₁ is always the slope at the start of the step. How the other stages are found is the subclass's: `workspace`
    does it without a graph, `recorded` with one.
    """

    tableau: ClassVar[Tableau]

    def __init_subclass__(cls, abstract: bool = False) -> None:
        super().__init_subclass__(abstract=abstract)
        if not abstract:
            names = ("order", "error_order", "dense_order")
            of_class = not isinstance(cls.tableau, cached_property)  # else it depends on the settings of the solver
            if of_class:
                _ = cls.tableau.fsal, cls.tableau.c  # found once, and now: under a tracer they could not be
            settings = {setting.name for setting in fields(cls)}
            for name, read in zip(names, (_order, _error_order, _dense_order), strict=True):
                if name not in settings:  # else it is one itself
                    setattr(cls, name, read(cls) if of_class else property(read))

    def workspace(self, y: Tensor, field: VectorField) -> Workspace:
        """The stage buffer of one solve, for states like `y`: (N,), or (R, N) with a step size a row."""
        raise NotImplementedError

    def recorded(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        k1: Tensor,
        paces: Tensor | None = None,
        *,
        last_stage: bool = True,
    ) -> tuple[Tensor, list[Tensor]]:
        """One step recorded by autograd: y₁ and the list of k_i.

        Args:
            field: `field(time, y)`, flat in and out.
            times: the time handed to each stage, the first unused (k1 is given).
            scale: h, or 1 where `paces` are given.
            y: state at the start of the step.
            k1: f there, times `paces`.
            paces: the rows' step sizes (R, 1); the stages are then h·k.
            last_stage: whether the first-same-as-last stage is wanted; without it one evaluation is saved.
        """
        raise NotImplementedError

    def check(self, field: VectorField, t: Tensor, y: Tensor) -> None:
        """Refuses, before a solve, what the method is not for; most are for every field and state.

        Args:
            field: on flat buffers.
            t: the first time, 0-d, or (R,) of the rows.
            y: the first state, flat.

        Raises:
            ValueError: naming y0 or field.
        """

    def recorded_extra(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        ks: Sequence[Tensor],
        paces: Tensor | None = None,
    ) -> list[Tensor]:
        """`ks` of a step that was `recorded`, followed by the extra stages of its interpolant; `times` are theirs."""
        ks = list(ks)
        for row, time in zip(self.tableau.extra_a, times, strict=True):
            k = field(time, combine(y, row, ks, scale))
            ks.append(k if paces is None else k * paces)
        return ks


@dataclass(frozen=True)
class ExplicitRungeKutta(RungeKutta, abstract=True):
    """Base of the explicit methods: a subclass gives its tableau and its source, nothing else.

    Example:
        >>> from isocline.solvers import Tsit5
        >>> Tsit5.order, Tsit5.tableau.stages, Tsit5.tableau.fsal
        (5, 7, True)
    """

    def workspace(self, y: Tensor, field: VectorField) -> Workspace:
        return Workspace(self.tableau, y, field.shaped)

    def recorded(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        k1: Tensor,
        paces: Tensor | None = None,
        *,
        last_stage: bool = True,
    ) -> tuple[Tensor, list[Tensor]]:
        ks = [k1]
        y1 = None
        for row, time in zip(self.tableau.a, times[1:], strict=True):
            ends = self.tableau.fsal and len(ks) + 1 == self.tableau.stages
            stage = (advance if ends else combine)(y, row, ks, scale)
            if ends:
                y1 = stage
                if not last_stage:
                    break
            k = field(time, stage)
            ks.append(k if paces is None else k * paces)
        return (advance(y, self.tableau.b, ks, scale) if y1 is None else y1), ks


def combine(
    y: Float[Tensor, "*state"], weights: Sequence[float], ks: Sequence[Tensor], scale: float
) -> Float[Tensor, "*state"]:
    """y + scale · Σ w_j k_j, skipping zero weights (a zero times inf would be NaN)."""
    for weight, k in zip(weights, ks, strict=False):
        if weight:
            y = torch.add(y, k, alpha=weight * scale)
    return y


def advance(
    y: Float[Tensor, "*state"], weights: Sequence[float], ks: Sequence[Tensor], scale: float
) -> Float[Tensor, "*state"]:
    """The same, the increment first: y is rounded once a step and not once a stage, which adds up over many steps."""
    increment = None
    for weight, k in zip(weights, ks, strict=False):
        if weight:
            weight *= scale
            increment = k * weight if increment is None else torch.add(increment, k, alpha=weight)
    return y if increment is None else y + increment


@lru_cache(maxsize=256)
def _constants(
    tableau: Tableau, dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Rows of a (the extra stages' too), b and b − b̂ as tensors.

    Made once, and outside of inference mode so that any graph may hold them.
    """
    with torch.inference_mode(False):
        rows = [torch.tensor(row, dtype=dtype, device=device) for row in (*tableau.a, *tableau.extra_a)]
        error = None if tableau.b_error is None else torch.tensor(tableau.b_error, dtype=dtype, device=device)
        return rows, torch.tensor(tableau.b, dtype=dtype, device=device), error


class Workspace:
    """The stage buffer of one solve without a graph: rows of `K` are the stages, last dimension the flat state.

    Row layout matters: with the stage axis last the same products are sixteen times slower on a large state.

    Args:
        tableau: the method.
        y: a state, for its shape (N,) or (R, N), dtype and device.
        shaped: gives a buffer the shape the field works in (`VectorField.shaped`).
    """

    def __init__(self, tableau: Tableau, y: Tensor, shaped: Callable[[Tensor], Tensor]) -> None:
        self.fsal = tableau.fsal
        rows, self.b, self.b_error = _constants(tableau, y.dtype, y.device)
        self.K = y.new_empty(tableau.dense_stages, *y.shape)
        self.flat_t = self.K.view(tableau.dense_stages, -1)[: tableau.stages].t()
        self.is_flat = y.dim() == 1
        self.last: Tensor | None = None
        self.tolerance: Any = None  # `Tolerance` of the steps, for methods that iterate
        self.rows = list(shaped(self.K).unbind(0))
        self.like = self.rows[0]  # gives stages the field's shape: `view_as` takes half the time of `view(shape)`
        size = y.numel()
        # Only the stages already filled enter a product: a stale inf times a zero weight would be NaN.
        plan = [
            (self.K.as_strided((size, i + 1), (1, size)), row, out)
            for i, (row, out) in enumerate(zip(rows, self.rows[1:], strict=True))
        ]
        self.plan, self.extra = plan[: tableau.stages - 1], plan[tableau.stages - 1 :]

    @property
    def jacobians(self) -> int:
        """How many Jacobians were evaluated."""
        return 0

    def paces(self, h: Float[Tensor, " rows"]) -> Tensor:
        """The rows' step sizes for `step`, in the field's shape: broadcasting along short rows takes twice the time."""
        return h.to(self.like.dtype).view(-1, *[1] * (self.like.dim() - 1)).expand_as(self.like).contiguous()

    def step(
        self,
        f: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor],
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        paces: Tensor | None = None,
    ) -> Tensor:
        """Fills rows 2 … s from row 1 (k₁, already there) and returns y₁, a fresh tensor; `last` is then f's last value.

        Args:
            f: `f(time, y, out, paces)` writes the evaluation, times `paces` if given, into `out`, all in the field's
                shape, and returns the evaluation.
            times: the time handed to each stage, the first unused.
            scale: h, or 1 where `f` writes h·k.
            y: state at the start of the step, never written to.
            paces: handed on to `f`.
        """
        flat = stage = y if self.is_flat else y.view(-1)
        like = self.like
        for (filled, row, out), time in zip(self.plan, times[1:], strict=True):
            stage = torch.addmv(flat, filled, row, alpha=scale)
            self.last = f(time, stage.view_as(like), out, paces)
        if not self.fsal:
            stage = torch.addmv(flat, self.flat_t, self.b, alpha=scale)
        return stage if self.is_flat else stage.view_as(y)

    def step_extra(
        self,
        f: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor],
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        paces: Tensor | None = None,
    ) -> None:
        """Fills the rows of the interpolant's extra stages, after a `step` with these arguments; `times` are theirs."""
        flat = y if self.is_flat else y.view(-1)
        for (filled, row, out), time in zip(self.extra, times, strict=True):
            f(time, torch.addmv(flat, filled, row, alpha=scale).view_as(self.like), out, paces)

    def error(self) -> Float[Tensor, " flat"]:
        """Σ (b_i − b̂_i) k_i: the error estimate per unit of `scale`, flat."""
        assert self.b_error is not None
        return torch.mv(self.flat_t, self.b_error)


@dataclass(frozen=True)
class DenseStep:
    """Weights of a step's interpolant as tensors, ready for a state's dtype and device."""

    coefficients: Tensor  # (degree, stages): row d holds the coefficients of (θ − center)^(d+1)

    powers: Tensor  # (degree,): 1, 2, …
    center: float
    at_start: Tensor  # (degree,): (−center), (−center)², …, which the powers are counted from

    @staticmethod
    def of(tableau: Tableau, like: Tensor) -> DenseStep:
        """In the dtype and on the device of `like`."""
        return _dense_step(tableau, like.dtype, like.device)

    def weights(self, theta: Float[Tensor, "*times"]) -> Float[Tensor, "*times stages"]:
        """b_i(θ) for θ of shape (...): (..., stages), differentiable in θ."""
        if self.center:
            powers = (theta - self.center).expand(len(self.powers), *theta.shape).cumprod(0)
            powers = powers - self.at_start.view(-1, *[1] * theta.dim())
        else:
            powers = theta.expand(len(self.powers), *theta.shape).cumprod(0)
        # This way round the product is eight times as fast as (times, degree) @ (degree, stages).
        return (
            (self.coefficients.t() @ powers.flatten(1)).t().reshape(*theta.shape, -1)
            if theta.dim()
            else powers @ self.coefficients
        )

    def row(self, theta: float) -> list[float]:
        """θ, θ², …: what `coefficients` turns into weights, where θ is known beforehand."""
        powers = [x := theta - self.center]
        for _ in range(self.coefficients.shape[0] - 1):
            powers.append(powers[-1] * x)
        if self.center:
            powers = [power - (-self.center) ** d for d, power in enumerate(powers, start=1)]
        return powers

    def slopes(self, theta: Float[Tensor, "*times"]) -> Float[Tensor, "*times stages"]:
        """db_i/dθ: (..., stages)."""
        return (self.powers * (theta - self.center).unsqueeze(-1) ** (self.powers - 1)) @ self.coefficients


@lru_cache(maxsize=256)
def _dense_step(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> DenseStep:
    degree = max(len(p) for p in tableau.dense)
    padded = [tuple(p) + (0.0,) * (degree - len(p)) for p in tableau.dense]
    with torch.inference_mode(False):
        coefficients = torch.tensor(padded, dtype=torch.float64).t().contiguous().to(device, dtype)
        powers = torch.arange(1, degree + 1, device=device, dtype=dtype)
        return DenseStep(coefficients, powers, tableau.dense_center, (-tableau.dense_center) ** powers)
