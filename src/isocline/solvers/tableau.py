"""Butcher tableaus that check themselves: row sums, order conditions, embedded and dense orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import isclose
from typing import Any, Protocol, runtime_checkable

# A rooted tree is the sorted tuple of the trees hanging from its root; () is the single node.
Tree = tuple[Any, ...]


@cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with `order` nodes (1, 1, 2, 4, 9, 20, 48, 115, ... of them).

    Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, II.2.

    Example:
        >>> [len(rooted_trees(n)) for n in range(1, 7)]
        [1, 1, 2, 4, 9, 20]
    """

    def forests(nodes: int, largest: Tree | None) -> Iterator[Tree]:
        if nodes == 0:
            yield ()
            return
        for size in range(1, nodes + 1):
            for tree in rooted_trees(size):
                if largest is None or (size, tree) <= (_size(largest), largest):
                    for rest in forests(nodes - size, tree):
                        yield (tree, *rest)

    return tuple(forests(order - 1, None))


@cache
def _size(tree: Tree) -> int:
    return 1 + sum(_size(child) for child in tree)


@cache
def density(tree: Tree) -> int:
    """γ(τ): the product of the sizes of all subtrees."""
    product = _size(tree)
    for child in tree:
        product *= density(child)
    return product


@runtime_checkable
class Tableau(Protocol):
    """What the engines read of a method's coefficients, whatever its kind; documented at `ButcherTableau`.

    Example:
        >>> from isocline.solvers import Rodas5P, Tsit5
        >>> isinstance(Tsit5.tableau, Tableau) and isinstance(Rodas5P.tableau, Tableau)
        True
    """

    @property
    def c(self) -> tuple[float, ...]: ...
    @property
    def a(self) -> tuple[tuple[float, ...], ...]: ...
    @property
    def b(self) -> tuple[float, ...]: ...
    @property
    def b_error(self) -> tuple[float, ...] | None: ...
    @property
    def dense(self) -> tuple[tuple[float, ...], ...]: ...
    @property
    def extra_c(self) -> tuple[float, ...]: ...
    @property
    def extra_a(self) -> tuple[tuple[float, ...], ...]: ...
    @property
    def stages(self) -> int: ...
    @property
    def dense_stages(self) -> int: ...
    @property
    def fsal(self) -> bool: ...
    @property
    def explicit(self) -> bool: ...
    @property
    def order(self) -> int: ...
    @property
    def embedded_order(self) -> int: ...
    @property
    def dense_order(self) -> int: ...
    @property
    def dense_center(self) -> float: ...


@dataclass(frozen=True)
class ButcherTableau:
    """The coefficients of a Runge–Kutta method whose first stage is explicit, checked when it is made.

    Args:
        c: nodes of the stages, `c[0] = 0`.
        a: rows from the second stage on; of an explicit method row i holds the i stages before it, of an implicit one
            more, up to all.
        b: weights of the solution, one a stage.
        b_error: weights of the error estimate, b − b̂; None for a method without one.
        order: order of the solution.
        embedded_order: order of the embedded solution b̂.
        dense: polynomials b_i(θ), one a stage and then one an extra stage, each as the coefficients of θ, θ², …; the
            solution inside the step is y(t + θh) = y + h Σ b_i(θ) k_i.
        dense_order: order of that interpolant.
        dense_center: what the powers are taken about: b_i(θ) = Σ_d p_d [(θ − center)^d − (−center)^d]. Of high degree, a
            polynomial in powers of θ cancels thousandfold, one in powers of θ − ½ hardly.
        extra_c, extra_a: nodes and rows of further stages, for the interpolant alone; they are evaluated only in steps
            where somebody asks for it. Each row holds all stages before it.
        tolerance: slack of the checks; methods whose source prints rounded fractions need more than rounding.

    Raises:
        ValueError: naming the condition that fails, when the numbers cannot be such a method.

    Example:
        >>> ButcherTableau(c=(0, 1), a=((1,),), b=(0.5, 0.5), order=2, dense=((1, -0.5), (0, 0.5)), dense_order=2).fsal
        False
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int
    dense: tuple[tuple[float, ...], ...]
    dense_order: int
    dense_center: float = 0.0
    b_error: tuple[float, ...] | None = None
    embedded_order: int = 0
    extra_c: tuple[float, ...] = ()
    extra_a: tuple[tuple[float, ...], ...] = ()
    tolerance: float = 1e-13

    @property
    def stages(self) -> int:
        """Number of stages, the shared first-same-as-last one included."""
        return len(self.c)

    @property
    def dense_stages(self) -> int:
        """Number of stages the interpolant takes: the extra ones come on top."""
        return len(self.c) + len(self.extra_c)

    @property
    def explicit(self) -> bool:
        """Whether every stage depends on earlier ones only."""
        return all(len(row) == i for i, row in enumerate(self.a, start=1))

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is evaluated at the step's result and serves the next step as its first."""
        last = self.a[-1] + (0.0,) * (self.stages - len(self.a[-1])) if self.a else ()
        return self.stages > 1 and self.c[-1] == 1 and last == self.b

    def __post_init__(self) -> None:
        if not (len(self.a) + 1 == len(self.b) == len(self.c) and len(self.dense) == self.dense_stages):
            raise ValueError(
                f"tableau: {len(self.c)} nodes, {len(self.a)} rows, {len(self.b)} weights do not fit together"
            )
        nodes = (*self.c[1:], *self.extra_c)
        for i, (row, node) in enumerate(zip((*self.a, *self.extra_a), nodes, strict=True), start=1):
            longest = max(i, self.stages)
            if not i <= len(row) <= longest or not isclose(sum(row), node, rel_tol=0, abs_tol=self.tolerance):
                raise ValueError(f"tableau: row {i + 1} of a sums to {sum(row)}, its node is {node}")
        self._check_order("the solution", self.b, self.order, 1.0)
        if self.b_error is not None:
            embedded = [b - e for b, e in zip(self.b, self.b_error, strict=True)]
            self._check_order("the embedded solution", embedded, self.embedded_order, 1.0)
        for theta in (0.3, 0.7):
            inside = dense_weights(self.dense, theta, self.dense_center)
            self._check_order("the dense output", inside, self.dense_order, theta)
        at_end = dense_weights(self.dense, 1.0, self.dense_center)
        ends = (*self.b, *(0.0 for _ in self.extra_c))
        if not all(isclose(x, y, rel_tol=0, abs_tol=self.tolerance) for x, y in zip(at_end, ends, strict=True)):
            raise ValueError(f"tableau: the dense output ends at weights {at_end}, the step at {self.b}")

    def _check_order(self, what: str, weights: Sequence[float], order: int, theta: float) -> None:
        """Σ b_i(θ) Φ_i(τ) = θ^|τ| / γ(τ) for every rooted tree τ up to `order` (Hairer I, II.2 and II.6)."""
        scale = max(1.0, max(abs(w) for w in weights))
        for nodes in range(1, order + 1):
            for tree in rooted_trees(nodes):
                got = sum(w * phi for w, phi in zip(weights, self._elementary(tree), strict=False))
                want = theta**nodes / density(tree)
                if not isclose(got, want, rel_tol=0, abs_tol=self.tolerance * scale):
                    raise ValueError(
                        f"tableau: {what} misses the order-{nodes} condition of tree {tree} at θ = {theta}: "
                        f"{got!r} instead of {want!r}"
                    )

    def _elementary(self, tree: Tree) -> list[float]:
        """Φ_i(τ) = Π over children τ' of Σ_j a_ij Φ_j(τ')."""
        memo: dict[Tree, list[float]] = self.__dict__.setdefault("_memo", {})
        if tree not in memo:
            phi = [1.0] * self.dense_stages
            for child in tree:
                inner = self._elementary(child)
                phi = [
                    p * sum(x * y for x, y in zip(row, inner, strict=False))
                    for p, row in zip(phi, ((), *self.a, *self.extra_a), strict=True)
                ]
            memo[tree] = phi
        return memo[tree]


def dense_weights(dense: Sequence[Sequence[float]], theta: float, center: float = 0.0) -> list[float]:
    """b_i(θ) of every stage, by Horner's rule.

    Example:
        >>> dense_weights(((1, -0.5), (0, 0.5)), 1.0)
        [0.5, 0.5]
    """

    def horner(coefficients: Sequence[float], x: float) -> float:
        value = 0.0
        for coefficient in reversed(coefficients):
            value = (value + coefficient) * x
        return value

    return [horner(coefficients, theta - center) - horner(coefficients, -center) for coefficients in dense]
