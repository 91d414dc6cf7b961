"""The implicit Runge–Kutta step: stages found by Newton's method (`newton`), with one small Jacobian a sample.

Stages that depend on each other form a block (one stage of a diagonally implicit method, all of a fully implicit one).
The unknowns are their increments Z, and the stages follow as h·k = A⁻¹ Z: no evaluation of f multiplies the error of Z by
the stiffness. The first guess is a combination of the stages before the block, of the highest order there is.

Gradients never pass through the iterations. `recorded` attaches the solution by the implicit function theorem: one
more Newton step with the exact Jacobian, held constant, has the derivative of the solution; two have the second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch.autograd import forward_ad

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.jacobian import Factors, Given
from isocline.solvers.krylov import Inverse, Krylov, Products
from isocline.solvers.newton import Matrix, Newton
from isocline.solvers.runge_kutta import RungeKutta, Workspace, advance, combine
from isocline.solvers.tableau import Tableau, rooted_trees


@dataclass(frozen=True)
class Partner:
    """The explicit half of an implicit–explicit pair, with the same nodes (`additive`).

    Attributes:
        a: its rows from the second stage on.
        dense, dense_order: polynomials b_i(θ) that interpolate both halves.
        b, b_error: its weights, where they are others than those of the implicit half; the interpolant is then Hermite's.
    """

    a: Matrix
    dense: Matrix
    dense_order: int
    b: tuple[float, ...] | None = None
    b_error: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ImplicitRungeKutta(RungeKutta, abstract=True):
    """Base of the implicit methods: a subclass gives its tableau and its source.

    The first stage of the tableau is explicit, f at the start of the step: of methods that do not use it, it has weight
    zero, and serves the first guess and the dense output.

    Stages may not be found (the step is too long for Newton's method): the step then counts as rejected.

    Args:
        jacobian: `fn(t, y, *args)`, ∂f_i/∂y_j as [..., i, j] of every sample, with what f is called with: (B, D, D) with
            per-sample batching, D numbers a sample; (*lead, D, D) with shared steps for a tensor (*lead, D), or (N, N) of
            the whole state where the samples are coupled, or the state is a pytree or complex (its real view counts).
            Compared with a product of f's own derivative at the first step. None: found by automatic differentiation.
        linear: "dense", or "gmres": products with the Jacobian alone, for states so large that (D, D) does not fit.
            Systems are then solved iteratively, without a preconditioner.

    Raises:
        ValueError: naming `linear` or `jacobian`.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -1000 * (y - torch.cos(t)), torch.zeros(1), [0.0, 1.0], solver="kvaerno5")
        >>> round(sol.ys[-1].item(), 3), sol.stats.accepted < 40
        (0.541, True)
        >>> solver = isocline.Kvaerno5(jacobian=lambda t, y: torch.diag_embed(-3 * y**2))
        >>> sol = isocline.solve(lambda t, y: -(y**3), torch.ones(4, 2), [0.0, 1.0], solver=solver, batching="per_sample")
        >>> round(sol.ys[-1, 0, 0].item(), 3)
        0.577
    """

    partner: ClassVar[Partner | None] = None
    # γ₀ of an error estimate that is multiplied by (I − hγ₀J)⁻¹, so that it stays small where hJ is large.
    filter: ClassVar[float | None] = None

    jacobian: Given | None = None
    linear: str = "dense"

    def __post_init__(self) -> None:
        if self.linear not in ("dense", "gmres"):
            raise ValueError(f"linear={self.linear!r}, expected 'dense' or 'gmres'")
        if self.jacobian is not None and not callable(self.jacobian):
            raise ValueError(f"jacobian: expected a callable fn(t, y, *args), got {type(self.jacobian).__name__}")
        if self.jacobian is not None and self.linear == "gmres":
            raise ValueError("jacobian: linear='gmres' forms none; give one of them")

    def newton(self, field: VectorField, y: Tensor) -> Newton:
        """The iteration for the stages of this method."""
        return Newton(field, y, self.jacobian, self.linear)

    def workspace(self, y: Tensor, field: VectorField) -> NewtonWorkspace:
        return NewtonWorkspace(self, y, field)

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
        with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
            newton, found = self._found(field, times, scale, y.detach(), k1.detach(), paces)
        ks = [k1]
        for block, z in zip(blocks(self.tableau), found, strict=True):
            bases = [combine(y, row[: block.first], ks, scale) for row in block.rows]
            if block.explicit:
                k = field(times[block.first], bases[0])
                ks.append(k if paces is None else k * paces)
                continue
            z = attached(newton, times[block.first : block.last], block.a, torch.stack(bases), z, scale, paces)
            hk = torch.einsum("ij,j...->i...", y.new_tensor(block.inverse), z)
            ks += list((hk / scale if paces is None else hk).unbind(0))
        return advance(y, self.tableau.b, ks, scale), ks

    def _found(
        self, field: VectorField, times: Sequence[Any], scale: float, y: Tensor, k1: Tensor, paces: Tensor | None
    ) -> tuple[Newton, list[Any]]:
        """The increments of every block, NaN where there are none; None of an explicit stage."""
        newton, ks, found = self.newton(field, y), [k1], []
        newton.begin(times[0], y, scale if paces is None else paces)
        for block in blocks(self.tableau):
            bases = torch.stack([combine(y, row[: block.first], ks, scale) for row in block.rows])
            if block.explicit:
                k = field(times[block.first], bases[0])
                ks.append(k if paces is None else k * paces)
                found.append(None)
                continue
            guess = torch.stack([combine(torch.zeros_like(y), row, ks, scale) for row in block.guess])
            z = newton.solved(times[block.first : block.last], block.a, bases, guess)
            hk = torch.einsum("ij,j...->i...", y.new_tensor(block.inverse), z)
            ks += list((hk / scale if paces is None else hk).unbind(0))
            found.append(z)
        return newton, found


def attached(
    newton: Newton, times: Sequence[Any], a: Matrix, base: Tensor, z: Tensor, scale: float, paces: Tensor | None
) -> Tensor:
    """The increments z (m, …) that solve z = h A f(base + z), with the derivatives of that equation."""
    field, h, matrix = newton.field, scale if paces is None else paces, base.new_tensor(a)
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        at = (base + z).detach()
        if newton.linear == "dense":
            exact = torch.stack([newton.jacobians.at(t, x) for t, x in zip(times, at.unbind(0), strict=True)])
            factors = Factors(matrix, exact, h)
            solve: Any = factors.solved
        else:
            products = [Products(field, t, x) for t, x in zip(times, at.unbind(0), strict=True)]
            system = Krylov(matrix, products, h, newton.grid)
            solve = lambda right: Inverse.apply(right, system, False, False)  # noqa: E731
    stages = at
    for _ in range(2):
        slopes = torch.stack([field(t, x) for t, x in zip(times, stages.unbind(0), strict=True)])
        residual = base + h * torch.einsum("ij,j...->i...", matrix, slopes) - stages
        stages = stages + solve(residual.reshape(len(residual), *newton.grid)).reshape(residual.shape)
    return stages - base


class Block(NamedTuple):
    """Stages first … last − 1, which depend on each other through `a` (m, m); `rows` are those of the tableau.

    `guess` are weights of the stages before them, of the first guess at the increments.
    """

    first: int
    last: int
    rows: Matrix
    a: Matrix
    inverse: Matrix
    guess: Matrix

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
            found.append(Block(first, last, rows, (), (), ()))
        else:
            matrix = torch.tensor(a, dtype=torch.float64)
            inverse = torch.linalg.inv(matrix).tolist()
            guess = tuple(predictor(tableau, i, first) for i in range(first, last))
            found.append(Block(first, last, rows, tuple(map(tuple, a)), tuple(map(tuple, inverse)), guess))
        first = last
    return tuple(found)


def predictor(tableau: Tableau, stage: int, known: int) -> tuple[float, ...]:
    """Weights of the first `known` stages whose sum is near Σ_j a_ij k_j over the others, of the highest order there is.

    With weights q, y + h Σ q_l k_l agrees with stage i up to order p where Σ q_l Φ_l(τ) = Σ_j a_ij Φ_j(τ) for all trees of
    at most p nodes (Hairer & Wanner II, IV.8, "starting values"); of the q that do, the shortest.

    Example:
        >>> from isocline.solvers import Kvaerno3
        >>> [round(w, 3) for w in predictor(Kvaerno3.tableau, 1, 1)]  # γ of the slope at the start
        [0.436]
    """
    size = tableau.stages
    rows = [[*row, *[0.0] * (size - len(row))] for row in ((), *tableau.a)]
    a = torch.tensor(rows, dtype=torch.float64)
    best = torch.zeros(known, dtype=torch.float64)
    matrix, wanted = [], []
    for nodes in range(1, size + 1):
        for tree in rooted_trees(nodes):
            phi = _elementary(a, tree)
            matrix.append(phi[:known])
            wanted.append(a[stage] @ phi)
        m, w = torch.stack(matrix), torch.stack(wanted)
        q = torch.linalg.pinv(m, rtol=1e-10) @ w
        if float((m @ q - w).abs().max()) > 1e-9:
            break
        best = q
    return tuple((best - a[stage, :known]).tolist())


def _elementary(a: Tensor, tree: Any) -> Tensor:
    phi = torch.ones(len(a), dtype=a.dtype)
    for child in tree:
        phi = phi * (a @ _elementary(a, child))
    return phi


class NewtonWorkspace(Workspace):
    """The stage buffer of an implicit method; without a `tolerance` Newton goes down to rounding."""

    def __init__(self, solver: ImplicitRungeKutta, y: Tensor, field: VectorField) -> None:
        super().__init__(solver.tableau, y, field.shaped)
        self.tableau, self.filter = solver.tableau, solver.filter
        self.newton = solver.newton(field, y)
        self.y_shape = y.shape
        flat = self.K.view(len(self.K), -1)
        # The block, the rows before it, and what they are weighed with: in `base`, and in the guess.
        self.parts = [
            (
                block,
                flat[: block.first],
                y.new_tensor([row[: block.first] for row in block.rows]),
                y.new_tensor(block.guess),
            )
            for block in blocks(solver.tableau)
        ]

    @property
    def jacobian(self) -> Tensor | None:
        """The present one, (R, D, D)."""
        return self.newton.jacobian

    @property
    def jacobians(self) -> int:
        return self.newton.count

    def step(self, f: Any, times: Sequence[Any], scale: float, y: Tensor, paces: Tensor | None = None) -> Tensor:
        """As `Workspace.step`; rows whose stages were not found come back as NaN, so that the step is rejected."""
        newton = self.newton
        h: Any = scale if paces is None else paces.reshape(self.y_shape)[:, :1]
        newton.tolerance = self.tolerance
        newton.begin(times[0], y, h)
        flat, ends = y.reshape(1, -1), y
        for block, known, before, guess in self.parts:
            base = torch.addmm(flat, before, known, alpha=scale)
            if block.explicit:
                self.last = f(times[block.first], base.view_as(self.like), self.rows[block.first], paces)
                continue
            shape = (len(base), *newton.grid)
            start = torch.mm(guess, known)
            start = start if scale == 1.0 else start * scale
            z = newton.block(times[block.first : block.last], block.a, base.view(shape), start.view(shape))
            if newton.failed is True:
                return torch.full_like(y, torch.nan)
            self._store(block, z, scale)
            ends = (base[-1] + z[-1].reshape(-1)).view(self.y_shape)
        if paces is not None and self.fsal:
            self.last = self.rows[-1] / torch.where(paces == 0, 1.0, paces)
        # Of a stiffly accurate method the last stage is the result.
        result = ends if self.fsal else torch.addmv(y.reshape(-1), self.flat_t, self.b, alpha=scale).view_as(y)
        if newton.failed is not False:
            lost = newton.failed.unsqueeze(1).expand(newton.grid).reshape(self.y_shape)
            result = torch.where(lost, torch.nan, result)
        return result

    def _store(self, block: Block, z: Tensor, scale: float) -> None:
        """The stages of a block, of their increments."""
        rows = self.K[block.first : block.last].view(z.shape)
        if len(z) == 1:
            torch.mul(z, block.inverse[0][0] / scale, out=rows)
        else:
            rows.copy_(torch.einsum("ij,jrd->ird", z.new_tensor(block.inverse), z) / scale)

    def error(self) -> Tensor:
        error = super().error()
        if self.filter is None or self.newton.seen is None:  # a step that was recorded left no Jacobian here
            return error
        return self.newton.filtered(error, self.filter)
