"""A mixture of normal distributions fitted by expectation maximisation: what a density model has to beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

RIDGE = 1e-3  # added to the variances: without it a component that collapses on a point has an unbounded likelihood


def fit_mixture(x: Tensor, components: int, iterations: int = 60) -> MixtureSameFamily:
    """Components with full covariance matrices; one of them is the normal distribution of best likelihood.

    Args:
        x: (rows, D), standardised.
        components: how many; their first means are rows drawn from torch's global generator.
        iterations: of expectation and maximisation.

    Example:
        >>> x = torch.cat([torch.randn(500, 1) - 5, torch.randn(500, 1) + 5])
        >>> fit_mixture(x, 2).component_distribution.mean.flatten().sort().values.round()
        tensor([-5.,  5.])
    """
    rows, dim = x.shape
    eye = torch.eye(dim, dtype=x.dtype)
    means = x[torch.randperm(rows)[:components]]
    covariances = (torch.cov(x.T).reshape(dim, dim) + RIDGE * eye).expand(components, dim, dim)
    weights = torch.full((components,), 1 / components, dtype=x.dtype)
    for _ in range(iterations if components > 1 else 1):
        # Expectation: whose is each row?
        factors = torch.linalg.cholesky(covariances)
        apart = torch.linalg.solve_triangular(factors, x.T - means.unsqueeze(-1), upper=False)
        log_p = -0.5 * apart.square().sum(1) - factors.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True)
        shares = torch.softmax(log_p + weights.log().unsqueeze(1) - 0.5 * dim * math.log(2 * math.pi), 0)
        # Maximisation: weights, means and covariances of what is theirs.
        total = shares.sum(1) + 1e-8
        weights, means = total / total.sum(), shares @ x / total.unsqueeze(1)
        second = torch.stack([(share.unsqueeze(1) * x).T @ x for share in shares]) / total[:, None, None]
        covariances = second - means.unsqueeze(2) * means.unsqueeze(1) + RIDGE * eye
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))
