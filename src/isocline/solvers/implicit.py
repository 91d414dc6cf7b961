"""The implicit Runge–Kutta step: stages found by Newton's method, with one small Jacobian a sample.

Stages that depend on each other form a block (one stage of a diagonally implicit method, all of a fully implicit one).
With the increments Z_i = h Σ_j a_ij k_j over the block and `base` what the earlier stages contribute, Newton solves

    Z_i = h Σ_j a_ij f(t + c_j h, base_j + Z_j),    (I − h A ⊗ J) ΔZ = h A f − Z    (Hairer & Wanner II, IV.8),

and the stages are h·k = A⁻¹ Z: no evaluation of f multiplies the error of Z by the stiffness. J is evaluated once and
kept while the iteration converges fast.

Gradients never pass through the iterations. `recorded` attaches the solution by the implicit function theorem: one
more Newton step with the exact Jacobian, held constant, has the derivative of the solution; two have the second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.runge_kutta import RungeKutta, Workspace, advance, combine
from isocline.solvers.tableau import Tableau

KAPPA = 0.03  # how far below the tolerance of a step Newton goes (Hairer & Wanner II, IV.8: 10⁻¹ to 10⁻²)
ITERATIONS = 10
# The rate of convergence at which a Jacobian is kept: a small one costs no more than an iteration.
FAST, FAST_LARGE, LARGE = 0.03, 0.3, 8


@dataclass(frozen=True)
class ImplicitRungeKutta(RungeKutta, abstract=True):
    """Base of the implicit methods: a subclass gives its tableau and its source.

    The first stage of the tableau is explicit, f at the start of the step: of methods that do not use it, it has weight
    zero, and serves the first guess and the dense output.

    Stages may not be found (the step is too long for Newton's method): the step then counts as rejected.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -1000 * (y - torch.cos(t)), torch.zeros(1), [0.0, 1.0], solver="kvaerno5")
        >>> round(sol.ys[-1].item(), 3), sol.stats.accepted < 40
        (0.541, True)
    """

    # γ₀ of an error estimate that is multiplied by (I − hγ₀J)⁻¹, so that it stays small where hJ is large.
    filter: ClassVar[float | None] = None

    def workspace(self, y: Tensor, field: VectorField) -> NewtonWorkspace:
        return NewtonWorkspace(self.tableau, y, field, self.filter)

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
        with torch.no_grad():
            found = self.workspace(y.detach(), field)
            found.rows[0].copy_(k1.detach().view_as(found.like))
            full = None if paces is None else found.paces(paces.squeeze(1))
            y1 = found.step(field.fill, times, scale, y.detach(), full)
        if not bool(y1.isfinite().all()):  # nothing to differentiate
            return y1, [k1, *(k.reshape(y.shape) for k in found.rows[1:])]
        ks = [k1]
        for block in blocks(self.tableau):
            bases = [combine(y, row[: block.first], ks, scale) for row in block.rows]
            if block.explicit:
                k = field(times[block.first], bases[0])
                ks.append(k if paces is None else k * paces)
                continue
            at = [
                combine(y.detach(), row, [k.view_as(y) for k in found.rows], scale).requires_grad_()
                for row in block.rows
            ]
            z = self._attached(field, times[block.first : block.last], block, found, scale, paces, bases, at)
            hk = torch.einsum("ij,j...->i...", _like(block.inverse, y), z)
            ks += list((hk / scale if paces is None else hk).unbind(0))
        return advance(y, self.tableau.b, ks, scale), ks

    @staticmethod
    def _attached(
        field: VectorField,
        times: Sequence[Any],
        block: Block,
        found: NewtonWorkspace,
        scale: float,
        paces: Tensor | None,
        bases: list[Tensor],
        at: list[Tensor],
    ) -> Tensor:
        """The increments (m, …) of a block whose stages are `at`, with the derivatives of the implicit equations."""
        h = scale if paces is None else paces
        a = _like(block.a, bases[0])
        slopes = [field(t, x) for t, x in zip(times, at, strict=True)]
        jacobians = torch.stack([found.rows_of(f, x) for f, x in zip(slopes, at, strict=True)])
        matrix = found.newton_matrix(a, jacobians, h if paces is None else paces.reshape(-1, 1))
        factors = torch.linalg.lu_factor(matrix)
        base, stages = torch.stack(bases), torch.stack(at).detach()
        for correction in range(2):
            if correction:
                slopes = [field(t, x) for t, x in zip(times, stages.unbind(0), strict=True)]
            residual = base + h * torch.einsum("ij,j...->i...", a, torch.stack(slopes)) - stages
            stages = stages + found.solved(factors, residual)
        return stages - base


class Block(NamedTuple):
    """Stages first … last − 1, which depend on each other through `a` (m, m); `rows` are those of the tableau."""

    first: int
    last: int
    rows: tuple[tuple[float, ...], ...]
    a: tuple[tuple[float, ...], ...]
    inverse: tuple[tuple[float, ...], ...]

    @property
    def explicit(self) -> bool:
        """A single stage that depends on earlier ones only."""
        return not self.a


@cache
def blocks(tableau: Tableau) -> tuple[Block, ...]:
    """The stages after the first, in groups that must be solved together."""
    found, first = [], 1
    while first < tableau.stages:
        last = max(first + 1, len(tableau.a[first - 1]))
        while (reach := max(len(row) for row in tableau.a[first - 1 : last - 1])) > last:
            last = reach
        rows = tableau.a[first - 1 : last - 1]
        a = [[*row[first:last], *[0.0] * (last - max(first, len(row)))] for row in rows]
        if len(rows) == 1 and len(rows[0]) == first:
            found.append(Block(first, last, rows, (), ()))
        else:
            matrix = torch.tensor(a, dtype=torch.float64)
            inverse = torch.linalg.inv(matrix).tolist()
            found.append(Block(first, last, rows, tuple(map(tuple, a)), tuple(map(tuple, inverse))))
        first = last
    return tuple(found)


def _like(matrix: Sequence[Sequence[float]], y: Tensor) -> Tensor:
    return y.new_tensor(matrix)


class NewtonWorkspace(Workspace):
    """The stage buffer of an implicit method.

    The state is looked at as (R, D), R samples with a Jacobian (D, D) each: the rows where samples step on their own;
    with shared steps the leading dimensions of a single tensor, as long as a probe shows that `f` treats them alone;
    else all of it as one.

    Without a `tolerance` Newton goes down to rounding.
    """

    def __init__(self, tableau: Tableau, y: Tensor, field: VectorField, filter_: float | None = None) -> None:
        super().__init__(tableau, y, field.shaped)
        self.tableau, self.field, self.filter = tableau, field, filter_
        shape = self.like.shape
        alone = y.dim() == 1 and len(shape) > 1
        self.grid = (-1, y.shape[-1]) if y.dim() == 2 else (-1, shape[-1]) if alone else (1, -1)
        self.probed = not alone
        self.y_shape = y.shape
        self.jacobian: Tensor | None = None
        self.seen: Tensor | None = None  # the state the Jacobian is of
        self.slow = False

    # ---- Jacobians ------------------------------------------------------------------------------------------------
    def rows_of(self, f: Tensor, x: Tensor, create_graph: bool = False) -> Tensor:
        """∂f/∂x of every sample, (R, D, D), from the graph of `f`: row by row, for all samples at once."""
        size = x.view(self.grid).shape[1]
        if not f.requires_grad:
            return x.new_zeros(x.numel() // size, size, size)
        out = f.view(self.grid)
        rows = []
        for i in range(size):
            (row,) = torch.autograd.grad(
                out[:, i].sum(), x, retain_graph=True, create_graph=create_graph, allow_unused=True
            )
            rows.append(torch.zeros_like(x) if row is None else row)
        return torch.stack([row.view(self.grid) for row in rows], 1)

    def _evaluate(self, time: Any, y: Tensor) -> None:
        with torch.enable_grad():
            x = y.detach().requires_grad_()
            f = self.field(time, x)
            if not self.probed:
                self._probe(f, x)
            self.jacobian = self.rows_of(f, x).detach()
        self.seen, self.slow = y, False
        self.jacobians += 1

    def _probe(self, f: Tensor, x: Tensor) -> None:
        """Whether the samples are alone: the product of Jᵀ with a random vector tells the blocks from the whole."""
        self.probed = True
        if not f.requires_grad:
            return
        generator = torch.Generator().manual_seed(0)
        w = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        (want,) = torch.autograd.grad(f, x, w, retain_graph=True, allow_unused=True)
        if want is None or not bool(want.isfinite().all()):
            return
        got = torch.einsum("rij,ri->rj", self.rows_of(f, x), w.view(self.grid)).view_as(want)
        if not torch.allclose(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max())):
            self.grid = (1, -1)

    def newton_matrix(self, a: Tensor, jacobians: Tensor, h: Any) -> Tensor:
        """I − h A ⊗ J, (R, mD, mD); `jacobians` (R, D, D), or of every stage (m, R, D, D); h a number or (R, 1)."""
        if jacobians.dim() == 3:
            product = torch.einsum("ij,rkl->rikjl", a, jacobians)
        else:
            product = torch.einsum("ij,jrkl->rikjl", a, jacobians)
        size = len(a) * jacobians.shape[-1]
        product = product.reshape(-1, size, size) * (h if isinstance(h, float) else h.unsqueeze(-1))
        return torch.eye(size, dtype=a.dtype, device=a.device) - product

    def solved(self, factors: tuple[Tensor, Tensor], residual: Tensor) -> Tensor:
        """The Newton step for a residual (m, …) of a block."""
        parts = residual.view(len(residual), *(residual[0].view(self.grid)).shape).transpose(0, 1)
        flat = torch.linalg.lu_solve(*factors, parts.reshape(parts.shape[0], -1, 1))
        return flat.view(parts.shape).transpose(0, 1).reshape(residual.shape)

    # ---- the step -------------------------------------------------------------------------------------------------
    def step(self, f: Any, times: Sequence[Any], scale: float, y: Tensor, paces: Tensor | None = None) -> Tensor:
        """As `Workspace.step`; rows whose stages were not found come back as NaN, so that the step is rejected."""
        h: Any = scale if paces is None else paces.reshape(self.y_shape)[:, :1]
        if self.jacobian is None or (self.slow and self.seen is not y):
            self._evaluate(times[0], y)
        factors: dict[Any, Any] = {}
        failed, ends = None, y
        for block in blocks(self.tableau):
            bases = [self._base(y, row[: block.first], scale) for row in block.rows]
            if block.explicit:
                self.last = f(times[block.first], bases[0].view_as(self.like), self.rows[block.first], paces)
                continue
            z, lost = self._newton(times[block.first : block.last], block, bases, y, h, factors)
            if bool(lost.any()) and self.seen is not y:
                self._evaluate(times[0], y)
                factors.clear()
                z, lost = self._newton(times[block.first : block.last], block, bases, y, h, factors)
            failed = lost if failed is None else failed | lost
            hk = torch.einsum("ij,j...->i...", _like(block.inverse, y), z)
            self.K[block.first : block.last] = hk if paces is not None else hk / scale
            if paces is not None:
                self.last = (hk[-1] / torch.where(h == 0, 1.0, h)).view_as(self.like)
            ends = bases[-1] + z[-1]
        # Of a stiffly accurate method the last stage is the result.
        result = ends if self.fsal else torch.addmv(y.reshape(-1), self.flat_t, self.b, alpha=scale).view_as(y)
        self._filter = (h, factors)
        if failed is not None:
            result = torch.where(self._spread(failed), torch.nan, result)
        return result

    def _base(self, y: Tensor, row: Sequence[float], scale: float) -> Tensor:
        """y + scale Σ a_j K_j over the stages before a block."""
        flat = y.reshape(-1)
        filled = self.K.as_strided((flat.numel(), len(row)), (1, flat.numel()))
        return torch.addmv(flat, filled, y.new_tensor(row), alpha=scale).view_as(y)

    def _spread(self, rows: Tensor) -> Tensor:
        """(R,) to the shape of the state."""
        return rows.unsqueeze(1).expand(-1, self._width()).reshape(self.y_shape)

    def _width(self) -> int:
        return self.K[0].view(self.grid).shape[1]

    def _newton(
        self, times: Sequence[Any], block: Block, bases: list[Tensor], y: Tensor, h: Any, factors: dict[Any, Any]
    ) -> tuple[Tensor, Tensor]:
        """The increments (m, …) of a block, and which samples (R,) did not converge."""
        a = _like(block.a, y)
        if block.a not in factors:
            assert self.jacobian is not None
            matrix = self.newton_matrix(a, self.jacobian, h)
            factors[block.a] = torch.linalg.lu_factor_ex(matrix)[:2]
        base = torch.stack(bases)
        z = a.sum(1).view(-1, *[1] * y.dim()) * self._guess(block, h)
        unit = self._unit(y, z)
        before: Tensor | None = None
        done = lost = torch.zeros(self.K[0].view(self.grid).shape[0], dtype=torch.bool, device=y.device)
        for _ in range(ITERATIONS):
            slopes = torch.stack([self.field(t, x) for t, x in zip(times, (base + z).unbind(0), strict=True)])
            change = self.solved(factors[block.a], h * torch.einsum("ij,j...->i...", a, slopes) - z)
            z = z + change
            size = (change / unit).view(len(z), *y.view(self.grid).shape).square().mean((0, 2)).sqrt()
            if before is None:
                done = size <= 1e-2
                rate = torch.zeros_like(size)
            else:
                rate = size / before
                # What is still missing is estimated from the rate; close to rounding there is no rate any more.
                done = done | (size * rate <= (1 - rate).clamp(min=0.0)) | (size <= 1e-2)
                lost = (lost | (rate >= 2.0) | ~size.isfinite()) & ~done
            before = size.clamp(min=1e-30)
            finished, worst = torch.stack(((done | lost).all().to(size), rate.nan_to_num(9.0).max())).tolist()
            if worst > (FAST if self._width() <= LARGE else FAST_LARGE):
                self.slow = True
            if finished:
                break
        return z, ~done

    def _guess(self, block: Block, h: Any) -> Tensor:
        """h·k of every stage of the block, guessed: the stage before it."""
        k = self.K[block.first - 1]
        return k if isinstance(h, Tensor) else k * h

    def _unit(self, y: Tensor, z: Tensor) -> Tensor:
        """What Newton's error is measured in."""
        if self.tolerance is not None:
            return self.tolerance.scale(y.abs()) * KAPPA
        size = torch.maximum(y.abs(), z.abs().amax(0)).view(self.grid).amax(1)
        return self._spread(size.clamp(min=1e-30) * (20 * torch.finfo(y.dtype).eps))

    def error(self) -> Tensor:
        error = super().error()
        if self.filter is None or self.jacobian is None:
            return error
        h, factors = self._filter
        a = error.new_tensor([[self.filter]])
        key = ("filter", self.filter)
        if key not in factors:
            factors[key] = torch.linalg.lu_factor_ex(self.newton_matrix(a, self.jacobian, h))[:2]
        return self.solved(factors[key], error.view(1, *self.y_shape)).view(-1)
