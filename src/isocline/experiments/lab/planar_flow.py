"""The normalizing flow that continuous ones are compared with: a stack of planar layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class PlanarFlow(nn.Module):
    """x -> x + u tanh(w·x + b), one unit a layer, with log |det| = log |1 + u·w (1 - tanh²)|.

    u is replaced by u + (softplus(w·u) - 1 - w·u) w/|w|², which keeps u·w above -1 and every layer invertible. The inverse
    has no closed form: a flow has a density where its layers lead to the base, and samples where they lead from it.

    Source: Rezende & Mohamed, Variational Inference with Normalizing Flows (ICML 2015), eq. 10 to 13 and appendix A.1.

    Args:
        layers: K.
        dim: D.

    Example:
        >>> x, log_det = PlanarFlow(4)(torch.ones(5, 2))
        >>> x.shape, log_det.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, layers: int, dim: int = 2) -> None:
        super().__init__()
        w = torch.randn(layers, dim)
        # At first nearly the identity: w·u = ln(e - 1) is where the replacement of u by u + … vanishes with its part along w.
        u = math.log(math.e - 1) * w / w.square().sum(1, keepdim=True) + 0.1 * torch.randn(layers, dim)
        self.u, self.w = nn.Parameter(u), nn.Parameter(w)
        self.b = nn.Parameter(torch.randn(layers))

    def forward(self, x: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """(N, D) through the layers from `first` on, and the log of the volume they stretch it by, (N,)."""
        wu = (self.w * self.u).sum(1, keepdim=True)
        u = self.u + (softplus(wu) - 1 - wu) * self.w / self.w.square().sum(1, keepdim=True)
        uw = (u * self.w).sum(1)
        slopes = []
        for k in range(first, len(u)):
            h = torch.tanh(torch.addmv(self.b[k], x, self.w[k]))
            x = torch.addcmul(x, h.unsqueeze(1), u[k])
            slopes.append(h)
        if not slopes:
            return x, x.new_zeros(len(x))
        return x, torch.log1p(uw[first:, None] * (1 - torch.stack(slopes).square())).sum(0)
