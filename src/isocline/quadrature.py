"""A running loss inside the solve: ∫ ℓ dt as one more state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Integral(nn.Module):
    """A field on (y, q) with dq/dt = ℓ; made by `integral`.

    Example:
        >>> import torch
        >>> field = Integral(lambda t, y: -y, lambda t, y, slope: slope**2)
        >>> field(torch.tensor(0.0), (torch.tensor([2.0]), torch.tensor([0.0])))
        (tensor([-2.]), tensor([4.]))
    """

    def __init__(self, field: Callable[..., Any], loss: Callable[..., Any]) -> None:
        super().__init__()
        self.field, self.loss = field, loss

    def forward(self, t: Any, state: tuple[Any, Any], *args: Any) -> tuple[Any, Any]:
        y, _ = state
        slope = self.field(t, y, *args)
        return slope, self.loss(t, y, slope, *args)


def integral(field: Callable[..., Any], loss: Callable[..., Any]) -> Integral:
    """A field that also integrates a running loss: its state is (y, q), q(t) = q₀ + ∫ ℓ(τ, y(τ)) dτ.

    It is an ordinary field: every solver, batching and gradient method takes it, and the gradient of the integral is as
    exact as that of y. The integral has its share in the error norm.

    Args:
        field: `f(t, y, *args)`, as for `solve`.
        loss: `ℓ(t, y, slope, *args)`, slope being f(t, y, *args), which need not be evaluated again. It returns the
            shape and dtype of q: () or (B,) for one number (a sample), or a pytree of several.

    Returns:
        An `Integral`, a module that holds `field` and `loss`. Start it from `(y0, q0)`, q0 of zeros; `ys` is then the pair
        (y, q) at all times. With per-sample batching q0 has the batch first: (B,). With `inputs`, ℓ gets their values as
        its first argument after slope, as the field does.

    With shared steps implicit solvers see y and q as one state with one Jacobian; with per-sample batching as one a
    sample.

    Source: the augmentation with the cost as a state is in L. S. Pontryagin et al., The Mathematical Theory of Optimal
    Processes (1962). The kinetic energy ∫ ‖f‖² dt below, which keeps learned dynamics easy to solve: C. Finlay,
    J.-H. Jacobsen, L. Nurbekyan, A. M. Oberman, How to Train Your Neural ODE: the World of Jacobian and Kinetic
    Regularization (RNODE), ICML 2020, eq. 10.

    Example:
        >>> import torch, isocline
        >>> field = isocline.nn.MLP((2, 16, 2), seed=0)
        >>> def kinetic(t, y, slope):
        ...     return slope.square().sum(-1)
        >>> y0 = torch.randn(8, 2)
        >>> y, q = isocline.solve(isocline.integral(field, kinetic), (y0, torch.zeros(8)), [0.0, 1.0]).ys
        >>> loss = (y[-1] - 1.0).square().sum(-1).mean() + 0.01 * q[-1].mean()
        >>> loss.backward()
        >>> q[-1].shape, bool((q[-1] > 0).all()), bool(field.layers[0].weight.grad.isfinite().all())
        (torch.Size([8]), True, True)
    """
    for name, value, form in (("field", field, "f(t, y, *args)"), ("loss", loss, "ℓ(t, y, slope, *args)")):
        if not callable(value):
            raise TypeError(f"{name}: expected a callable {form}, got {type(value).__name__}")
    return Integral(field, loss)
