"""Rosenbrock methods: one linear system a stage, no iteration.

With the stages v_i in the form that needs no products with J (Hairer & Wanner II, IV.7):

    (I − hγJ) v_i = γ [f(t + α_i h, y + h Σ a_ij v_j) + Σ c_ij v_j + h γ_i ∂f/∂t],    y₁ = y + h Σ m_i v_i,

J and ∂f/∂t at the start of the step. Both are part of the formula: they must be exact, and the derivative of a step
passes through them, so fields need second derivatives for a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isclose, prod
from typing import Any, ClassVar

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.jacobian import Factors, Given, Jacobians, under_transform
from isocline.solvers.runge_kutta import RungeKutta, Workspace, combine
from isocline.solvers.tableau import Tree, rooted_trees

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class RosenbrockTableau:
    """The coefficients of a Rosenbrock method with s stages, checked when it is made.

    Args:
        gamma: the diagonal entry γ.
        nodes, drift: α_i and γ_i, one a stage.
        lower, inner: rows of a_ij and c_ij, one a stage, the first empty.
        weights, error: m_i, and m_i − m̂_i.
        interpolant: polynomials m_i(θ), as the coefficients of θ, θ², ….
        order, embedded_order, dense_order: as in `ButcherTableau`.
        tolerance: slack of the checks.

    Raises:
        ValueError: naming the condition that fails.

    Example:
        >>> from isocline.solvers import Rosenbrock23
        >>> Rosenbrock23.tableau.stages, Rosenbrock23.tableau.explicit
        (4, False)
    """

    gamma: float
    nodes: tuple[float, ...]
    drift: tuple[float, ...]
    lower: Rows
    inner: Rows
    weights: tuple[float, ...]
    error: tuple[float, ...]
    interpolant: Rows
    order: int
    embedded_order: int
    dense_order: int
    tolerance: float = 1e-9

    # ---- as the engines see it: a first stage with weight zero, the slope at the start -----------------------------------
    @property
    def explicit(self) -> bool:
        return False

    @property
    def fsal(self) -> bool:
        return False

    @property
    def extra_c(self) -> tuple[float, ...]:
        return ()

    @property
    def extra_a(self) -> Rows:
        return ()

    @property
    def dense_center(self) -> float:
        return 0.0

    @property
    def stages(self) -> int:
        """Number of stages, the slope at the start counted."""
        return len(self.nodes) + 1

    @property
    def dense_stages(self) -> int:
        """The same: the interpolant needs no stages of its own."""
        return self.stages

    @property
    def c(self) -> tuple[float, ...]:
        return 0.0, *self.nodes

    @property
    def a(self) -> Rows:
        return tuple((0.0, *row) for row in self.lower)

    @property
    def b(self) -> tuple[float, ...]:
        return 0.0, *self.weights

    @property
    def b_error(self) -> tuple[float, ...]:
        return 0.0, *self.error

    @property
    def dense(self) -> Rows:
        return (0.0,), *self.interpolant

    # ---- the checks -----------------------------------------------------------------------------------------------
    def __post_init__(self) -> None:
        size = len(self.nodes)
        gammas = torch.linalg.inv(torch.eye(size, dtype=torch.float64) / self.gamma - _square(self.inner, size))
        alphas = _square(self.lower, size) @ gammas
        for name, sums, want in (("α", alphas.sum(1), self.nodes), ("γ", gammas.sum(1), self.drift)):
            if not torch.allclose(sums, torch.tensor(want, dtype=torch.float64), rtol=0, atol=self.tolerance):
                raise ValueError(f"tableau: the rows of {name} sum to {sums.tolist()}, stated are {want}")

        def check(what: str, weights: Sequence[float], order: int, theta: float) -> None:
            b = torch.tensor(weights, dtype=torch.float64) @ gammas
            for nodes in range(1, order + 1):
                for tree in rooted_trees(nodes):
                    got = float(b @ _elementary(tree, alphas, alphas + gammas))
                    want = theta**nodes / _density(tree)
                    if not isclose(got, want, rel_tol=0, abs_tol=self.tolerance):
                        raise ValueError(
                            f"tableau: {what} misses the condition of tree {tree}: {got} instead of {want}"
                        )

        check("the solution", self.weights, self.order, 1.0)
        embedded = [w - e for w, e in zip(self.weights, self.error, strict=True)]
        check("the embedded solution", embedded, self.embedded_order, 1.0)
        for theta in (0.3, 0.7):
            inside = [sum(x * theta**k for k, x in enumerate(p, start=1)) for p in self.interpolant]
            check("the dense output", inside, self.dense_order, theta)


def classical(
    alpha: Rows, gamma: Rows, weights: Sequence[float], error: Sequence[float], interpolant: Rows, **orders: Any
) -> RosenbrockTableau:
    """From the form with products J k_j: `alpha` strictly lower, `gamma` with its diagonal, both full; weights of k_i."""
    gammas = torch.tensor(gamma, dtype=torch.float64)
    alphas = torch.tensor(alpha, dtype=torch.float64)
    inverse = torch.linalg.inv(gammas)
    size = len(gammas)
    inner = torch.eye(size, dtype=torch.float64) / gammas[0, 0] - inverse
    longest = max(map(len, interpolant))
    padded = torch.tensor([[*p, *[0.0] * (longest - len(p))] for p in interpolant], dtype=torch.float64)
    lower = (alphas @ inverse).tolist()
    return RosenbrockTableau(
        gamma=float(gammas[0, 0]),
        nodes=tuple(alphas.sum(1).tolist()),
        drift=tuple(gammas.sum(1).tolist()),
        lower=tuple(tuple(row[:i]) for i, row in enumerate(lower)),
        inner=tuple(tuple(row[:i]) for i, row in enumerate(inner.tolist())),
        weights=tuple((torch.tensor(weights, dtype=torch.float64) @ inverse).tolist()),
        error=tuple((torch.tensor(error, dtype=torch.float64) @ inverse).tolist()),
        interpolant=tuple(map(tuple, (inverse.T @ padded).tolist())),
        **orders,
    )


def _square(rows: Rows, size: int) -> Tensor:
    return torch.tensor([[*row, *[0.0] * (size - len(row))] for row in rows], dtype=torch.float64)


def _elementary(tree: Tree, alphas: Tensor, betas: Tensor) -> Tensor:
    """Φ_i(τ): sums over α where a node has several children, over β = α + γ where it has one (IV.7, theorem 7.4)."""
    phi = torch.ones(len(alphas), dtype=torch.float64)
    for child in tree:
        phi = phi * ((betas if len(tree) == 1 else alphas) @ _elementary(child, alphas, betas))
    return phi


def _density(tree: Tree) -> int:
    return _size(tree) * prod(map(_density, tree))


def _size(tree: Tree) -> int:
    return 1 + sum(map(_size, tree))


@dataclass(frozen=True)
class Rosenbrock(RungeKutta, abstract=True):
    """Base of the Rosenbrock methods: a subclass gives its tableau and its source.

    Args:
        jacobian: as of `ImplicitRungeKutta`; it is part of the formula, so a gradient needs it to be differentiable too.

    Raises:
        ValueError: naming `jacobian`.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -1000 * (y - torch.cos(t)), torch.zeros(1), [0.0, 1.0], solver="rodas5_p")
        >>> round(sol.ys[-1].item(), 3)
        0.541
    """

    tableau: ClassVar[RosenbrockTableau]
    jacobian: Given | None = None

    def __post_init__(self) -> None:
        if self.jacobian is not None and not callable(self.jacobian):
            raise ValueError(f"jacobian: expected a callable fn(t, y, *args), got {type(self.jacobian).__name__}")

    def workspace(self, y: Tensor, field: VectorField) -> RosenbrockWorkspace:
        return RosenbrockWorkspace(self, y, field)

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
        formula, ks = Formula(self, y.detach(), field), [k1]
        formula.differentiate(times[0], y if y.requires_grad or under_transform() else y.detach(), create_graph=True)
        for v in formula.stages(times, scale, y, ks, paces):
            ks.append(v)
        return combine(y, self.tableau.b, ks, scale), ks


class Formula:
    """The stages of a Rosenbrock method, and the derivatives of `f` in them."""

    def __init__(self, solver: Rosenbrock, y: Tensor, field: VectorField) -> None:
        self.tableau, self.field = solver.tableau, field
        self.jacobians = Jacobians(field, y, solver.jacobian)

    def differentiate(self, time: Tensor, y: Tensor, create_graph: bool = False) -> None:
        """J and ∂f/∂t at the start of a step."""
        if under_transform():
            _, self.jacobian = self.jacobians.with_slope(time, y)
            _, self.drift, *_ = torch.func.jvp(lambda t: self.field(t, y), (time,), (torch.ones_like(time),))
        else:
            t = time.detach().requires_grad_()
            with torch.set_grad_enabled(create_graph):
                f, self.jacobian = self.jacobians.with_slope(t, y, create_graph)
            self.drift = _rate(f, t, create_graph)
        if not create_graph:
            self.jacobian, self.drift = self.jacobian.detach(), self.drift.detach()

    def stages(
        self, times: Sequence[Any], scale: float, y: Tensor, ks: list[Tensor], paces: Tensor | None
    ) -> Iterator[Tensor]:
        """The stages after the first, times `paces` (R, 1 or more) where given; they are to be appended to `ks`."""
        tableau, grid = self.tableau, self.jacobians.grid
        h: Any = scale if paces is None else paces[:, :1]
        factors = Factors(y.new_tensor([[tableau.gamma]]), self.jacobian, h)
        unit = 1.0 if paces is None else h
        for i, (row, inner, drift) in enumerate(zip(tableau.lower, tableau.inner, tableau.drift, strict=True)):
            slope = ks[0] if i == 0 else unit * self.field(times[i + 1], combine(y, row, ks[1:], scale))
            right = combine(slope, inner, ks[1:], 1.0)
            if drift:
                right = right + (drift * h * unit) * self.drift
            yield factors.solved((tableau.gamma * right).reshape(1, *grid)).reshape(y.shape)


def _rate(f: Tensor, t: Tensor, create_graph: bool) -> Tensor:
    """∂f/∂t. Twice backwards is once forwards: the product with one number of every sample."""
    with torch.enable_grad():
        if not f.requires_grad:
            return torch.zeros_like(f)
        dummy = torch.ones_like(f, requires_grad=True)
        (back,) = torch.autograd.grad(f, t, dummy, create_graph=True, allow_unused=True)
        if back is None or not back.requires_grad:
            return torch.zeros_like(f)
        options = {"create_graph": create_graph, "retain_graph": True, "allow_unused": True}
        (rate,) = torch.autograd.grad(back.sum(), dummy, **options)
        return torch.zeros_like(f) if rate is None else rate


class RosenbrockWorkspace(Workspace):
    """The stage buffer of a Rosenbrock method."""

    def __init__(self, solver: Rosenbrock, y: Tensor, field: VectorField) -> None:
        super().__init__(solver.tableau, y, field.shaped)
        self.formula, self.y_shape = Formula(solver, y, field), y.shape
        self.jacobian: Tensor | None = None  # the present one, (R, D, D)
        self.seen: Tensor | None = None  # the state it is of
        self.count = 0

    @property
    def jacobians(self) -> int:
        return self.count

    def step(self, f: Any, times: Sequence[Any], scale: float, y: Tensor, paces: Tensor | None = None) -> Tensor:
        if self.seen is not y:
            self.formula.differentiate(times[0], y)
            self.jacobian, self.seen = self.formula.jacobian, y
            self.count += 1
        ks = [self.K[0]]
        flat = None if paces is None else paces.reshape(self.y_shape)
        for i, v in enumerate(self.formula.stages(times, scale, y, ks, flat), start=1):
            self.K[i] = v
            ks.append(self.K[i])
        return torch.addmv(y.reshape(-1), self.flat_t, self.b, alpha=scale).view_as(y)
