"""Implicit–explicit steps: an implicit method for the stiff part of a `Split`, its explicit partner for the rest.

    Y_i = y + h Σ_{j<i} (â_ij f_j + a_ij g_j) + h γ g(t + c_i h, Y_i),    y₁ = y + h Σ b_i (f_i + g_i)

with the same nodes and weights for both (Kennedy & Carpenter 2003, section 2); or with weights b̂ for f, and then
h Σ (b̂_i − b_i) f_i is one row of a step more. Newton's iteration sees g alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import Any, cast

import torch
from torch.autograd import forward_ad

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.inputs import Driven
from isocline.solvers.implicit import ImplicitRungeKutta, attached, blocks
from isocline.solvers.interpolants import hermite
from isocline.solvers.memory import StepRows
from isocline.solvers.newton import Newton
from isocline.solvers.runge_kutta import RungeKutta, Workspace, advance, combine
from isocline.solvers.tableau import ButcherTableau, Tree, density, rooted_trees
from isocline.split import Split

Rows = tuple[tuple[float, ...], ...]
Part = Callable[[Any, Tensor], Tensor]


def for_field(solver: RungeKutta, field: Any) -> RungeKutta:
    """The solver as it takes that field: of a `Split` both parts in their own way, where it can.

    Example:
        >>> from isocline.solvers import KenCarp4, Tsit5
        >>> split = Split(lambda t, y: y, lambda t, y: -y)
        >>> type(for_field(KenCarp4(), split)).__name__, type(for_field(Tsit5(), split)).__name__
        ('Additive', 'Tsit5')
    """
    if isinstance(field, Split) and isinstance(solver, ImplicitRungeKutta) and solver.partner is not None:
        return Additive(solver)
    return solver


def for_another(solver: RungeKutta) -> RungeKutta:
    """The solver for a field that is made of the user's, as the adjoint is: without what is only that one's.

    Example:
        >>> from isocline.solvers import KenCarp4
        >>> for_another(Additive(KenCarp4(jacobian=lambda t, y: -1.0))) == KenCarp4()
        True
    """
    if isinstance(solver, Additive):
        solver = solver.implicit
    if getattr(solver, "jacobian", None) is not None:
        return replace(solver, jacobian=None)  # pyrefly: ignore[unexpected-keyword]
    return solver


@dataclass(frozen=True)
class Additive(RungeKutta, abstract=True):
    """An implicit method together with its explicit partner; `solve` makes it where the field is a `Split`.

    The slope at the end of a step is evaluated there, once more than there are stages, and begins the next one.
    """

    implicit: ImplicitRungeKutta

    @cached_property
    def tableau(self) -> StepRows:  # pyrefly: ignore[bad-override]
        whole, partner = self.implicit.tableau, self.implicit.partner
        assert partner is not None and whole.b_error is not None and isinstance(whole, ButcherTableau)
        slack = max(1e-12, whole.tolerance)
        explicit, explicit_error = partner.b or whole.b, partner.b_error or whole.b_error
        for b, error in {(whole.b, whole.b_error), (explicit, explicit_error)}:
            check(whole.a, partner.a, b, whole.order, slack)
            embedded = tuple(x - e for x, e in zip(b, error, strict=True))
            check(whole.a, partner.a, embedded, whole.embedded_order, slack)
        b, error, dense = (*whole.b, 0.0), (*whole.b_error, 0.0), (*partner.dense, (0.0,))
        if partner.b is not None:
            # What the other weights add to y₁, and to the error.
            b = (*whole.b, 1.0, 0.0, 0.0)
            error, dense = (*whole.b_error, 0.0, 1.0, 0.0), hermite(b)
        return StepRows(
            c=(*whole.c, 1.0),
            order=whole.order,
            embedded_order=whole.embedded_order,
            b=b,
            b_error=error,
            dense=dense,
            dense_order=partner.dense_order,
            explicit=False,
        )

    @property
    def order(self) -> int:  # pyrefly: ignore[bad-override]
        return self.implicit.order

    @property
    def error_order(self) -> int:  # pyrefly: ignore[bad-override]
        return self.implicit.error_order

    @property
    def dense_order(self) -> int:  # pyrefly: ignore[bad-override]
        return self.tableau.dense_order

    def workspace(self, y: Tensor, field: VectorField) -> AdditiveWorkspace:
        return AdditiveWorkspace(self, y, field)

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
        explicit, implicit = parts(field)
        found: list[Tensor] = []
        with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
            newton = self.implicit.newton(implicit, y.detach())
            newton.begin(times[0], y.detach(), scale if paces is None else paces)

            def find(i: int, base: Tensor, guess: Tensor) -> Tensor:
                found.append(newton.solved(times[i : i + 1], self._a(i), base[None], guess[None]))
                return found[-1][0]

            self.stages(explicit, times, scale, y.detach(), k1.detach(), paces, find)

        def attach(i: int, base: Tensor, guess: Tensor) -> Tensor:
            return attached(newton, times[i : i + 1], self._a(i), base[None], found[i - 1], scale, paces)[0]

        ks = self.stages(explicit, times, scale, y, k1, paces, attach)
        y1 = advance(y, self.tableau.b[:-1], ks, scale)
        if last_stage:
            slope = field(times[-1], y1)
            ks.append(slope if paces is None else slope * paces)
        return y1, ks

    def stages(
        self,
        explicit: Part,
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        k1: Tensor,
        paces: Tensor | None,
        solve: Callable[[int, Tensor, Tensor], Tensor],
    ) -> list[Tensor]:
        """f_i + g_i of every stage, and what other weights of f add, times `paces` (R, 1) where given.

        Args:
            explicit: f.
            solve: of stage i, `base` (what earlier ones contribute) and a guess: the increment h γ g_i.
        """
        tableau, partner = self.implicit.tableau, self.implicit.partner
        assert partner is not None
        unit: Any = 1.0 if paces is None else paces
        fs = [explicit(times[0], y) * unit]
        gs = [k1 - fs[0]]
        for i, (row, other, block) in enumerate(zip(tableau.a, partner.a, blocks(tableau), strict=True), start=1):
            base = combine(combine(y, other, fs, scale), row[:i], gs, scale)
            ahead = [guess + a - e for guess, a, e in zip(block.guess[0], row, other, strict=False)]
            guess = combine(combine(torch.zeros_like(y), ahead, fs, scale), block.guess[0], gs, scale)
            z = solve(i, base, guess)
            gs.append(z * (1 / (row[i] * scale)))
            fs.append(explicit(times[i], base + z) * unit)
        rows = [f + g for f, g in zip(fs, gs, strict=True)]
        if partner.b is not None and partner.b_error is not None and tableau.b_error is not None:
            for other, own in ((partner.b, tableau.b), (partner.b_error, tableau.b_error)):
                weights = [a - b for a, b in zip(other, own, strict=True)]
                rows.append(combine(torch.zeros_like(y), weights, fs, 1.0))
        return rows

    def _a(self, i: int) -> Rows:
        return blocks(self.implicit.tableau)[i - 1].a


class AdditiveWorkspace(Workspace):
    """The buffer of one solve without a graph: the sums f_i + g_i, and the slope at the end."""

    def __init__(self, solver: Additive, y: Tensor, field: VectorField) -> None:
        super().__init__(solver.tableau, y, field.shaped)
        self.solver, self.field, self.y_shape = solver, field, y.shape
        self.explicit, implicit = parts(field)
        self.newton: Newton = solver.implicit.newton(implicit, y)

    @property
    def jacobian(self) -> Tensor | None:
        """That of the implicit part, (R, D, D)."""
        return self.newton.jacobian

    @property
    def jacobians(self) -> int:
        return self.newton.count

    def step(self, f: Any, times: Sequence[Any], scale: float, y: Tensor, paces: Tensor | None = None) -> Tensor:
        """As `Workspace.step`; rows whose stages were not found come back as NaN, so that the step is rejected."""
        solver, newton = self.solver, self.newton
        h = None if paces is None else paces.reshape(self.y_shape)[:, :1]
        newton.tolerance = self.tolerance
        newton.begin(times[0], y, scale if h is None else h)

        def solve(i: int, base: Tensor, guess: Tensor) -> Tensor:
            return newton.solved(times[i : i + 1], solver._a(i), base[None], guess[None])[0]

        ks = solver.stages(self.explicit, times, scale, y, self.K[0], h, solve)
        torch.stack(ks[1:], out=self.K[1:-1])
        y1 = advance(y, solver.tableau.b[:-1], ks, scale)
        self.last = f(times[-1], y1.view_as(self.like), self.rows[-1], paces)
        return y1


def parts(field: VectorField) -> tuple[Part, VectorField]:
    """f and g of a split field on flat buffers, which count as it does; of another one f = 0."""
    inner = field.f.field if isinstance(field.f, Driven) else field.f
    if not isinstance(inner, Split):
        return lambda t, y: torch.zeros_like(y), field

    def part(f: Callable[..., Any]) -> VectorField:
        if inner is not field.f:  # it gets the inputs too
            f = replace(cast(Driven, field.f), field=f)
        other = VectorField(f, field.layout, field.args)
        other.differentiates, other.batch_args, other._counter = field.differentiates, field.batch_args, field._counter
        return other

    return part(inner.explicit), part(inner.implicit)


@cache
def check(a: Rows, other: Rows, weights: tuple[float, ...], order: int, tolerance: float = 1e-12) -> None:
    """The order conditions of a pair: those of every tree, each of its edges with a or with â (Kennedy & Carpenter, 2.2).

    Raises:
        ValueError: naming the tree.
    """
    size = len(weights)
    both = [
        torch.tensor([[*row, *[0.0] * (size - len(row))] for row in ((), *rows)], dtype=torch.float64)
        for rows in (a, other)
    ]

    def elementary(tree: Tree) -> Iterator[Tensor]:
        for inner in product(*(list(elementary(child)) for child in tree)):
            for matrices in product(both, repeat=len(tree)):
                phi = torch.ones(size, dtype=torch.float64)
                for matrix, child in zip(matrices, inner, strict=True):
                    phi = phi * (matrix @ child)
                yield phi

    b = torch.tensor(weights, dtype=torch.float64)
    for nodes in range(1, order + 1):
        for tree in rooted_trees(nodes):
            for phi in elementary(tree):
                if abs(float(b @ phi) - 1 / density(tree)) > tolerance:
                    raise ValueError(
                        f"tableau: the pair misses the order-{nodes} condition of tree {tree}: {float(b @ phi)!r}"
                    )
