"""What a population fit leaves: residuals of every measurement, weighted by what they are expected to be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.equations.mixed_effects import Population


@dataclass(frozen=True)
class Weighted:
    """Of n measurements, in order of series and columns.

    Attributes:
        series, column: (n,) places among the series and the columns of the fit.
        t, observed: (n,).
        individual, population: (n,) what was predicted, by the parameters of the series and by those of the population.
        own: (n,) observed less individual prediction, in standard deviations of the noise (IWRES).
        conditional: (n,) observed less what is expected of any series, whitened by its covariance (CWRES): near standard normal
            and independent where the model is right.
    """

    series: Tensor
    column: Tensor
    t: Tensor
    observed: Tensor
    individual: Tensor
    population: Tensor
    own: Tensor
    conditional: Tensor


def weighted(fit: Population) -> Weighted:
    """The residuals of the series that were fitted.

    With f linearised about the likeliest effects η̂ of a series, y has the mean f(η̂) - J η̂ and the covariance J Ω Jᵀ + Σ.

    Raises:
        ValueError: where the equations cannot be solved over a series.

    Source: A. C. Hooker, C. E. Staatz & M. O. Karlsson, Pharm. Res. 24 (2007) 2187.

    Example:
        >>> from isocline.equations import Equations, Measured, population
        >>> data = [Measured([1.0, 2.0, 3.0], {"x": [a + 0.1, a, a - 0.1]}, id=str(a)) for a in (1.0, 1.4, 0.8, 1.1)]
        >>> fit = population(Equations("dx = b; x(0) = a", parameters="a = 1 per series"), data)
        >>> left = weighted(fit)
        >>> left.observed.shape, bool(left.conditional.abs().max() < 3)
        (torch.Size([12]), True)
    """
    laplace, psi = fit.laplace, fit.psi
    start = torch.zeros(len(laplace.rows), len(laplace.layout.varying), dtype=psi.dtype)
    found = laplace.modes(psi, laplace.sought(psi, start) if fit.model.system.lags and len(start[0]) else start)
    if found is None:
        raise ValueError("the equations cannot be solved over the series")
    eta, local = found
    values = laplace.layout.values(psi)
    typical, _ = laplace.predicted(laplace.raw(values.theta, torch.zeros_like(eta)), laplace.rows)
    v, _ = laplace.variance(values, local.f)
    by_eta = torch.where(laplace.there.unsqueeze(-1), local.slopes[..., list(laplace.layout.varying)], 0.0)
    left = torch.where(laplace.there, laplace.y - local.f, 0.0)
    scores = by_eta @ values.factor
    whole = scores @ scores.mT + torch.diag_embed(v)
    expected = left + (by_eta @ eta.unsqueeze(-1)).squeeze(-1)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(whole), expected.unsqueeze(-1), upper=False).squeeze(-1)
    series, place = laplace.there.nonzero(as_tuple=True)
    column = laplace.column[series, place]
    t = laplace.individuals.ts[series, laplace.time[series, place]]
    parts = (laplace.y, local.f, typical, left / v.sqrt(), white)
    return Weighted(series, column, t, *(x[series, place] for x in parts))
