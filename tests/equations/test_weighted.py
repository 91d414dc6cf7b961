"""Weighted residuals of a population fit, against closed forms."""

import pytest
import torch

from isocline import Equations
from isocline.equations import Measured, population
from isocline.equations.weighted import weighted

F64 = torch.float64
T = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=F64)


def test_of_a_random_intercept_they_are_those_of_the_linear_mixed_model():
    """Conditional ones are L⁻¹ (y - X β), L Lᵀ = ω² 11ᵀ + σ² I, whatever the intercepts are taken for."""
    draw = torch.Generator().manual_seed(0)
    y = (
        5.0
        + torch.randn(10, 1, generator=draw, dtype=F64)
        + 0.8 * T
        + 0.4 * torch.randn(10, 4, generator=draw, dtype=F64)
    )
    y[3, 2] = torch.nan
    data = [Measured(T, {"x": row}, id=str(i)) for i, row in enumerate(y)]
    fit = population(Equations("dx = b; x(0) = a", parameters="a = 4 per series"), data)
    left = weighted(fit)
    a, b, noise = fit["a"], fit["b"].value, fit.noise["x"]["additive"]
    for i, row in enumerate(y):
        mine, there = left.series == i, ~row.isnan()
        covariance = a.sd**2 + noise**2 * torch.eye(int(there.sum()), dtype=F64)
        rest = (row - a.value - b * T)[there]
        white = torch.linalg.solve(torch.linalg.cholesky(covariance), rest)
        torch.testing.assert_close(left.conditional[mine], white, rtol=1e-5, atol=1e-6)
        own = fit.individuals[str(i)]["a"] + b * T[there]
        torch.testing.assert_close(left.individual[mine], own, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(left.own[mine], (row[there] - own) / noise, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(left.population[mine], a.value + b * T[there], rtol=1e-6, atol=1e-6)
        assert left.t[mine].tolist() == T[there].tolist() and left.observed[mine].tolist() == row[there].tolist()
    assert float(left.conditional.square().mean()) == pytest.approx(1.0, abs=0.02)  # of the maximum of the likelihood
