"""A gradient held against one finite difference, along a random direction of everything at once."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def check_gradient(loss: Callable[[], Tensor], weights: Iterable[Tensor], rtol: float = 1e-5) -> None:
    """Of float64 weights; a central difference of step 1e-5 is good to about 1e-9 of a loss of order one."""
    weights = list(weights)
    grads = torch.autograd.grad(loss(), weights)
    with torch.no_grad():
        directions = [torch.randn_like(w) for w in weights]
        values = []
        for move in (1e-5, -2e-5):
            for w, d in zip(weights, directions, strict=True):
                w.add_(d, alpha=move)
            values.append(loss())
        slope = (values[0] - values[1]) / 2e-5
    found = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
    torch.testing.assert_close(found, slope, rtol=rtol, atol=1e-7)
    assert all(g.norm() > 0 for g in grads)
