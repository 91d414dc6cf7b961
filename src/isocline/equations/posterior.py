"""What is not known of a series: parameters of its own beside those of the population, and what both make of its course."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.equations.laplace import Laplace, Layout, Local


@dataclass(frozen=True)
class Posterior:
    """Parameters of a series given its numbers, normal about the likeliest ones.

    Attributes:
        raw: (P,) the likeliest, in unbounded coordinates.
        spread: (q, q) covariance of those that vary, at the population's values.
        moves: (q, P) by how much these move with the population's.
    """

    raw: Tensor
    spread: Tensor
    moves: Tensor

    def to_dict(self) -> dict[str, Any]:
        """For a file."""
        return {"raw": self.raw.tolist(), "spread": self.spread.tolist(), "moves": self.moves.tolist()}

    @staticmethod
    def from_dict(kept: dict[str, Any]) -> Posterior:
        """From a file."""
        raw = torch.tensor(kept["raw"], dtype=torch.float64)
        spread = torch.tensor(kept["spread"], dtype=torch.float64)
        moves = torch.tensor(kept["moves"], dtype=torch.float64)
        return Posterior(raw, spread.view(len(spread), len(spread)), moves.view(len(spread), len(raw)))


def posteriors(laplace: Laplace, psi: Tensor, eta: Tensor, local: Local) -> list[Posterior]:
    """Of every series, at its mode.

    With y ≈ f + J δφ and δφ ~ N(δθ, Ω): the mode of φ moves by δθ − H⁻¹ Jᵥᵀ W J δθ where the population's θ moves by δθ, H the
    second derivative of -log p(y, η), Jᵥ the part of J that varies.
    """
    values = laplace.layout.values(psi)
    information = laplace.information(values, local.f, local.slopes)
    v, dv = laplace.variance(values, local.f)
    slopes = torch.where(laplace.there.unsqueeze(-1), local.slopes, 0.0)
    weight = (1.0 / v + 0.5 * (dv / v).square()).unsqueeze(-1)
    varying = list(laplace.layout.varying)
    pulled = torch.linalg.solve(information, slopes[..., varying].mT @ (weight * slopes))
    moves = torch.eye(laplace.layout.count, dtype=v.dtype)[varying] - pulled
    spread, raw = torch.linalg.inv(information), laplace.raw(values.theta, eta)
    return [Posterior(*parts) for parts in zip(raw, spread, moves, strict=True)]


@dataclass(frozen=True)
class Draws:
    """Numbers of the population as they may be, and of a series: (M, P) parameters, (M, C) parts a and b of the noise."""

    raw: Tensor
    additive: Tensor
    proportional: Tensor


def drawn(
    layout: Layout, psi: Tensor, covariance: Tensor, own: Posterior | None, count: int, generator: torch.Generator
) -> Draws:
    """So many of them: the population's by their covariance, then those of a series by its own rows, or of any at all.

    Args:
        covariance: (size, size) of ψ; what is NaN counts as known.
        own: None: a series of which nothing is known.
    """
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    root = _root(covariance.nan_to_num(0.0))
    psis = psi + torch.randn(count, layout.size, **options) @ root.mT
    values = [layout.values(row) for row in psis]
    theta = torch.stack([v.theta for v in values])
    varying = list(layout.varying)
    z = torch.randn(count, len(varying), 1, **options)
    raw = theta.clone()
    if own is None:
        raw[:, varying] += (torch.stack([v.factor for v in values]) @ z).squeeze(-1)
    else:
        moved = (theta - psi[: layout.count]) @ own.moves.mT
        raw[:, varying] = own.raw[varying] + moved + (_root(own.spread) @ z).squeeze(-1)
    noise = (torch.stack([getattr(v, part) for v in values]) for part in ("additive", "proportional"))
    return Draws(raw, *noise)


def _root(covariance: Tensor) -> Tensor:
    """A with A Aᵀ = covariance."""
    values, directions = torch.linalg.eigh(covariance)
    return directions * values.clamp(min=0.0).sqrt()
