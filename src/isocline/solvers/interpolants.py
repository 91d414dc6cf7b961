"""Interpolants that follow from the nodes and weights of a method alone."""

from __future__ import annotations

from collections.abc import Sequence


def hermite(b: Sequence[float]) -> tuple[tuple[float, ...], ...]:
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


def interpolating(c: Sequence[float]) -> tuple[tuple[float, ...], ...]:
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
