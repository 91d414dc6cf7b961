"""Interpolants that follow from the coefficients of a method alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import torch

from isocline._types import Tensor
from isocline.solvers.tableau import Tree, density, rooted_trees

Rows = tuple[tuple[float, ...], ...]


def hermite(b: Sequence[float]) -> Rows:
    """b_i(θ) of the cubic on both ends and both slopes, where the last stage is the slope at the end.

    y + (3θ² − 2θ³)(y₁ − y) + θ(1 − θ)² h k₁ − θ²(1 − θ) h k_s (Hairer, Nørsett & Wanner I, II.6).

    Example:
        >>> hermite((0.5, 0.5))
        ((1.0, -0.5, 0.0), (0.0, 0.5, 0.0))
    """
    last = len(b) - 1
    return tuple(
        (float(i == 0), 3 * w - 2 * (i == 0) - (i == last), -2 * w + (i == 0) + (i == last)) for i, w in enumerate(b)
    )


def interpolating(c: Sequence[float]) -> Rows:
    """b_i(θ) = ∫₀^θ ℓ_i of the polynomial whose slope takes the values k_i at the nodes c_i, all different.

    Example:
        >>> interpolating((0.0, 1.0))
        ((1.0, -0.5), (0.0, 0.5))
    """
    polynomials = []
    for i, node in enumerate(c):
        basis = [1.0]  # ℓ_i, from the constant term up
        for j, other in enumerate(c):
            if j != i:
                scale = 1 / (node - other)
                shifted = [0.0, *(scale * x for x in basis)]
                basis = [s - scale * other * x for s, x in zip(shifted, [*basis, 0.0], strict=True)]
        polynomials.append(tuple(x / (power + 1) for power, x in enumerate(basis)))
    return tuple(polynomials)


@cache
def continuous(a: Rows, b: tuple[float, ...], order: int) -> Rows:
    """b_i(θ) of the continuous extension of `order`, of a method whose first stage is explicit and last the slope at the end.

    Polynomials of degree order + 2 in θ, without constant term, that fulfil exactly

    - the order conditions inside the step, Σ b_i(θ) Φ_i(τ) = θ^|τ| / γ(τ) for all trees of at most `order` nodes, power by
      power of θ (Hairer, Nørsett & Wanner I, II.6),
    - b_i(1) = b_i, and slopes k₁ and k_s at the ends, so that the path has no kinks.

    What that leaves free is chosen by least squares, at θ = ¼, ½, ¾, over the conditions of the next order, and over those
    of components so stiff that the stages Y_i lie on a slow path g(t): their h·k = Â⁻¹(Y − y), Â the rows and columns of the
    implicit stages, and the interpolant follows g = t^q where Σ b_i(θ) (Â⁻¹ c^q)_i = θ^q, 3 ≤ q ≤ order + 1. Without the
    latter a path of order 4 was ten times worse on van der Pol's slow branches.

    Args:
        a: rows of a tableau from its second stage on.
        b: its weights.
        order: of the interpolant.

    Raises:
        ValueError: the stages do not allow that order.

    Example:
        >>> from isocline.solvers import Kvaerno5
        >>> weights = continuous(Kvaerno5.tableau.a, Kvaerno5.tableau.b, 4)
        >>> len(weights), len(weights[0]), round(sum(w[0] for w in weights), 9)
        (7, 6, 1.0)
    """
    size, degree = len(b), order + 2
    matrix = torch.tensor([[*row, *[0.0] * (size - len(row))] for row in ((), *a)], dtype=torch.float64)
    powers = torch.arange(1, degree + 1, dtype=torch.float64)
    stages, each = torch.eye(size, dtype=torch.float64), torch.eye(degree, dtype=torch.float64)

    def stack(conditions: Iterable[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor]:
        """Of conditions Σ_i Σ_d over_stages_i · over_powers_d · p_id = value: the matrix over p, and the values."""
        rows, values = [], []
        for over_stages, over_powers, value in conditions:
            rows.append(torch.outer(over_stages, over_powers).reshape(-1))
            values.append(value)
        return torch.stack(rows), torch.tensor(values, dtype=torch.float64)

    def exact() -> Iterator[tuple[Tensor, Tensor, float]]:
        for nodes in range(1, order + 1):
            for tree in rooted_trees(nodes):
                for d in range(degree):
                    yield elementary(matrix, tree), each[d], (d + 1 == nodes) / density(tree)
        for i in range(size):
            yield stages[i], torch.ones_like(powers), b[i]
            yield stages[i], each[0], float(i == 0)
            yield stages[i], powers, float(i == size - 1)

    def near() -> Iterator[tuple[Tensor, Tensor, float]]:
        slopes, nodes = torch.linalg.inv(matrix[1:, 1:]), matrix.sum(1)[1:]
        for theta in (0.25, 0.5, 0.75):
            for tree in rooted_trees(order + 1):
                yield elementary(matrix, tree), theta**powers, theta ** (order + 1) / density(tree)
            for q in range(3, order + 2):
                yield torch.cat((nodes.new_zeros(1), slopes @ nodes**q)), theta**powers, theta**q

    fixed, values = stack(exact())
    p = torch.linalg.pinv(fixed, rtol=1e-11) @ values
    gap = float((fixed @ p - values).abs().max())
    if gap > 1e-10:
        raise ValueError(
            f"dense: these stages allow no continuous extension of order {order}, a condition is off by {gap:g}"
        )
    _, sizes, across = torch.linalg.svd(fixed)
    free = across[int((sizes > 1e-11 * sizes[0]).sum()) :].t()
    weights, goals = stack(near())
    p = p + free @ (torch.linalg.pinv(weights @ free, rtol=1e-11) @ (goals - weights @ p))
    p = p + torch.linalg.pinv(fixed, rtol=1e-11) @ (values - fixed @ p)  # what the first solve lost to rounding
    return tuple(tuple(0.0 if abs(x) < 1e-14 else x for x in row) for row in p.view(size, degree).tolist())


def elementary(a: Tensor, tree: Tree) -> Tensor:
    """Φ_i(τ) = Π over the children τ' of Σ_j a_ij Φ_j(τ'), of every stage (Hairer, Nørsett & Wanner I, II.2).

    Example:
        >>> import torch
        >>> elementary(torch.tensor([[0.0, 0.0], [0.5, 0.5]]), ((),))
        tensor([0., 1.])
    """
    phi = torch.ones(len(a), dtype=a.dtype)
    for child in tree:
        phi = phi * (a @ elementary(a, child))
    return phi
