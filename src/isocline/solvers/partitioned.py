"""Partitioned steps of a pair (x, v): kicks of v and drifts of x in turn.

For dx/dt = F(t, v), dv/dt = G(t, x) a step is a composition of (Hairer, Lubich & Wanner, Geometric Numerical
Integration, I.1, II.5)

    kick:   v ← v + κ_i h G(t + C_i h, x),    C_i the sum of the drifts before;
    drift:  x ← x + δ_i h F(t + c_i h, v),    c_i the sum of the kicks before.

Each is the exact flow of a Hamiltonian, so the step is symplectic (VI.3, theorem 3.1 and after): the energy error of a
Hamiltonian system stays bounded over exponentially many steps (IX.8) where other methods drift.

For the engines a step has three rows of `K`: the slope at its start, the mean slope (y₁ − y)/h, and the slope at its
end, with which the next step begins. Between them lies the cubic of Hermite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import isclose
from typing import Any, ClassVar

import torch
from torch.utils import _pytree as pytree

from isocline._types import Tensor
from isocline.field import Layout, VectorField
from isocline.second_order import SecondOrder
from isocline.solvers.base import snake_case
from isocline.solvers.interpolants import hermite
from isocline.solvers.runge_kutta import RungeKutta, Workspace
from isocline.solvers.tableau import Tree, density, rooted_trees

Rows = tuple[tuple[float, ...], ...]
MEAN = (0.0, 1.0, 0.0)  # the step is its mean slope


@dataclass(frozen=True)
class Splitting:
    """The coefficients of a method of kicks and drifts, checked when it is made.

    Args:
        kicks: κ_i, the first move of a step is a kick.
        drifts: δ_i, in between; as many as kicks, or one fewer.
        order: order of the solution; that of the interpolant is 3, or lower where the ends are.
        tolerance: slack of the checks.

    Raises:
        ValueError: naming the condition that fails.

    Example:
        >>> Splitting(kicks=(0.5, 0.5), drifts=(1.0,), order=2).c
        (0.0, 0.5, 1.0, 1.0)
    """

    kicks: tuple[float, ...]
    drifts: tuple[float, ...]
    order: int
    tolerance: float = 1e-13

    # ---- as the engines see it ---------------------------------------------------------------------------------------
    stages: int = field(default=3, init=False)
    dense_stages: int = field(default=3, init=False)
    explicit: bool = field(default=True, init=False)
    fsal: bool = field(default=True, init=False)
    a: Rows = field(default=((0.0,), (0.0, 1.0)), init=False)
    b: tuple[float, ...] = field(default=MEAN, init=False)
    b_error: tuple[float, ...] | None = field(default=None, init=False)
    embedded_order: int = field(default=0, init=False)
    extra_c: tuple[float, ...] = field(default=(), init=False)
    extra_a: Rows = field(default=(), init=False)
    dense: Rows = field(default=hermite(MEAN), init=False)
    dense_center: float = field(default=0.0, init=False)

    @property
    def dense_order(self) -> int:
        return min(3, self.order)

    @cached_property
    def moves(self) -> tuple[float, ...]:
        """κ₁, δ₁, κ₂, δ₂, …"""
        return tuple((self.drifts if i % 2 else self.kicks)[i // 2] for i in range(len(self.kicks) + len(self.drifts)))

    @cached_property
    def c(self) -> tuple[float, ...]:
        """Where every move asks `f`, and the end."""
        kicked, drifted = (*accumulate(self.kicks),), (0.0, *accumulate(self.drifts))
        nodes = [kicked[i // 2] if i % 2 else drifted[i // 2] for i in range(len(self.moves))]
        # The end exactly: a sum of coefficients may miss it by a rounding.
        return *(1.0 if isclose(node, 1.0, rel_tol=0, abs_tol=self.tolerance) else node for node in nodes), 1.0

    # ---- the checks --------------------------------------------------------------------------------------------------
    def __post_init__(self) -> None:
        if not 0 <= len(self.kicks) - len(self.drifts) <= 1:
            raise ValueError(f"splitting: {len(self.kicks)} kicks and {len(self.drifts)} drifts do not take turns")
        for nodes in range(1, self.order + 1):
            for tree in rooted_trees(nodes):
                for root, what in enumerate(("v", "x")):
                    got = sum(w * phi for w, phi in zip(self.moves[root::2], self._elementary(tree, root), strict=True))
                    if not isclose(got, 1 / density(tree), rel_tol=0, abs_tol=self.tolerance):
                        raise ValueError(
                            f"splitting: {what} misses the order-{nodes} condition of tree {tree}: {got!r} instead of "
                            f"{1 / density(tree)!r}"
                        )

    def _elementary(self, tree: Tree, root: int) -> list[float]:
        """Φ_i(τ) at every kick (root 0) or drift (root 1), of the trees whose colours alternate (III.2.1).

        A move sees the sum of the other kind's moves before it.
        """
        phi = [1.0] * len(self.moves[root::2])
        for child in tree:
            inner = self._elementary(child, 1 - root)
            seen = (0.0, *accumulate(w * p for w, p in zip(self.moves[1 - root :: 2], inner, strict=True)))
            phi = [p * seen[i + root] for i, p in enumerate(phi)]
        return phi


@dataclass(frozen=True)
class Partitioned(RungeKutta, abstract=True):
    """Base of the methods of kicks and drifts: a subclass gives its splitting and its source.

    The state is a tuple `(x, v)` of two tensors of equal shape and dtype, or of two equal pytrees of such; with
    per-sample batching the first dimension of every tensor is the batch. In the flat buffer x is then the first half of
    every row and v the second.

    The field returns `(dx/dt, dv/dt)`, the first of t and v alone, the second of t and x alone. Whether that is so is
    tried before the first step, with three evaluations near y0 that are not counted. Of a field made by
    `isocline.second_order` the velocity is known, and only the force is evaluated.

    Fixed steps only: a step size that follows the solution would spoil what the methods are for.

    Example:
        >>> from isocline.solvers import Leapfrog, Tsit5
        >>> Leapfrog.wants_pair, Tsit5.wants_pair
        (True, False)
    """

    tableau: ClassVar[Splitting]
    wants_pair: ClassVar[bool] = True

    def workspace(self, y: Tensor, field: VectorField) -> PairWorkspace:
        return PairWorkspace(self.tableau, y, field)

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
        y1, mean, force = move(self.tableau, field, times, scale, y, k1, paces)
        if not last_stage:
            return y1, [k1, mean]
        slope = slope_at_end(self.tableau, field, times[-1], y1, force)
        return y1, [k1, mean, slope if paces is None else slope * paces]

    def undone(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        after: Tensor,
        paces: Tensor | None = None,
    ) -> Tensor:
        """The state at the start of a step from that at its end: the moves in reverse; arguments as of `recorded`."""
        x, v = after.chunk(2, -1)
        moves = list(enumerate(zip(self.tableau.moves, times, strict=False)))
        for i, (weight, time) in reversed(moves):
            slope = field(time, torch.cat((x, v), -1)).chunk(2, -1)[1 - i % 2]
            slope = slope if paces is None else slope * paces
            if i % 2 == 0:
                v = torch.sub(v, slope, alpha=weight * scale)
            else:
                x = torch.sub(x, slope, alpha=weight * scale)
        return torch.cat((x, v), -1)

    def check(self, field: VectorField, t: Tensor, y: Tensor) -> None:
        """Refuses states that are no pair, and fields that are not separable where the solve starts."""
        name = snake_case(type(self).__name__)
        if not is_pair(field.layout):
            found = "a single tensor" if field.layout.spec is None else f"{field.layout.spec}"
            shapes = ", ".join(str(tuple(shape)) for shape in field.layout.shapes)
            raise ValueError(
                f"y0: solver={name!r} steps pairs: expected a tuple (x, v) of tensors (or pytrees) equal in structure, shape "
                f"and dtype, found {found} of shapes {shapes}; write y0=(x, v) with a field that returns (dx/dt, dv/dt), "
                f"or take a solver for any state, such as 'rk4' or 'tsit5'"
            )
        for kind, own, other, form in entangled(field, t, y):
            raise ValueError(
                f"field: {kind} changes with {own}; solver={name!r} is for separable fields, where {kind} = {form} depends on "
                f"t and {other} alone, and would lose its order. Take 'rk4' or 'tsit5' for friction and the like, "
                f"'implicit_midpoint' or 'gauss_legendre4' for a Hamiltonian that is no sum T(v) + V(x)"
            )


def is_pair(layout: Layout) -> bool:
    """Whether a state is a tuple (x, v) of two alike, so that x and v are halves of the flat buffer.

    Example:
        >>> import torch
        >>> is_pair(Layout.of((torch.zeros(3), torch.zeros(3)))), is_pair(Layout.of(torch.zeros(3, 2)))
        (True, False)
    """
    if layout.spec is None:
        return False
    count = len(layout.shapes)
    pair = pytree.tree_unflatten(range(count), layout.spec)
    if type(pair) is not tuple or len(pair) != 2:
        return False
    x, v = map(pytree.tree_structure, pair)
    shapes, dtypes = ((each[: count // 2], each[count // 2 :]) for each in (layout.shapes, layout.dtypes))
    return x == v and shapes[0] == shapes[1] and dtypes[0] == dtypes[1]


def entangled(field: VectorField, t: Tensor, y: Tensor) -> Iterator[tuple[str, str, str, str]]:
    """The halves of the slope that change with their own half of the state: three evaluations near `y` tell."""
    if torch._C._are_functorch_transforms_active():
        return  # under vmap no number can be read
    field, y = field.with_args(field.args), y.detach()  # a count of its own
    # Not at `y` itself: where all is at rest, much is zero.
    shift = 0.1 * (torch.rand(y.shape, generator=torch.Generator().manual_seed(0)).to(y) + 0.5) * (y.abs() + 1)
    with torch.no_grad():
        slope = field.at(t, y + shift).chunk(2, -1)
        for i, words in enumerate((("dx/dt", "x", "v", "F(t, v)"), ("dv/dt", "v", "x", "G(t, x)"))):
            other = (torch.arange(y.shape[-1], device=y.device) // (y.shape[-1] // 2) != i).to(y)
            moved = field.at(t, torch.addcmul(y, other, shift)).chunk(2, -1)[i]
            size = torch.maximum(slope[i].abs().max(), moved.abs().max())
            if bool((moved - slope[i]).abs().max() > 100 * torch.finfo(field.time_dtype).eps * size):  # not where NaN
                yield words


def move(
    splitting: Splitting,
    field: VectorField,
    times: Sequence[Any],
    scale: float,
    y: Tensor,
    k1: Tensor,
    paces: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step: y₁, its mean slope times `paces` if given, and the last force; arguments as of `RungeKutta.recorded`."""
    knows_velocity = isinstance(field.f, SecondOrder)
    x0, v0 = x, v = y.chunk(2, -1)
    force, last = k1.chunk(2, -1)[1], k1
    mean_x = mean_v = None
    for i, (weight, time) in enumerate(zip(splitting.moves, times, strict=False)):
        if i % 2 == 0:
            if i:
                last = field(time, torch.cat((x, v), -1)).chunk(2, -1)[1]
                force = last if paces is None else last * paces
            mean_v = force * weight if mean_v is None else torch.add(mean_v, force, alpha=weight)
            v = torch.add(v0, mean_v, alpha=scale)
        else:
            velocity = v if knows_velocity else field(time, torch.cat((x, v), -1)).chunk(2, -1)[0]
            velocity = velocity if paces is None else velocity * paces
            mean_x = velocity * weight if mean_x is None else torch.add(mean_x, velocity, alpha=weight)
            x = torch.add(x0, mean_x, alpha=scale)
    assert mean_x is not None and mean_v is not None
    return torch.cat((x, v), -1), torch.cat((mean_x, mean_v), -1), last


def slope_at_end(splitting: Splitting, field: VectorField, time: Any, y1: Tensor, force: Tensor) -> Tensor:
    """f there; where the step ends with a kick, at x₁, and the velocity is known, no evaluation is needed."""
    if isinstance(field.f, SecondOrder) and len(splitting.kicks) > len(splitting.drifts):
        return torch.cat((y1.chunk(2, -1)[1], force), -1)
    return field(time, y1)


class PairWorkspace(Workspace):
    """The three rows of a step without a graph."""

    def __init__(self, splitting: Splitting, y: Tensor, field: VectorField) -> None:
        super().__init__(splitting, y, field.shaped)
        self.splitting, self.field = splitting, field

    def step(
        self,
        f: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor],
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        paces: Tensor | None = None,
    ) -> Tensor:
        """As `Workspace.step`."""
        column = None if paces is None else paces[:, :1]
        y1, self.K[1], force = move(self.splitting, self.field, times, scale, y, self.K[0], column)
        self.last = slope_at_end(self.splitting, self.field, times[-1], y1, force)
        self.K[2] = self.last if column is None else self.last * column
        return y1
