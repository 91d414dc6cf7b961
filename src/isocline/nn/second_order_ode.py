"""The second-order neural ODE: a learned acceleration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from isocline._types import Float, Tensor
from isocline.nn.neural_ode import NeuralODE
from isocline.second_order import second_order
from isocline.solution import Solution


class Force(nn.Module):
    """A network of one input as an acceleration: g(t, x, v) = net(t, [x, v]), or net(t, x).

    Args:
        net: `net(t, y)`, such as `MLP((2 * d, 32, d))`.
        velocity: False leaves v out: then `net` is `MLP((d, 32, d))`, and the symplectic solvers apply.

    Shapes:
        x, v (..., d) -> (..., d).

    Example:
        >>> import torch
        >>> from isocline.nn import MLP, Force
        >>> Force(MLP((4, 16, 2)))(torch.tensor(0.0), torch.ones(5, 2), torch.ones(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, net: Callable[..., Tensor], *, velocity: bool = True) -> None:
        super().__init__()
        self.net, self.velocity = net, velocity

    def forward(
        self, t: Float[Tensor, ...], x: Float[Tensor, "*batch d"], v: Float[Tensor, "*batch d"], *args: Any
    ) -> Float[Tensor, "*batch d"]:
        """The acceleration; `args` go on to the network."""
        return self.net(t, torch.cat([x, v], -1) if self.velocity else x, *args)


class SecondOrderODE(NeuralODE):
    """(x₀, v₀) ↦ the solution of x″ = g(t, x, x′), as a module.

    The state is the pair (x, v) with v = x′, solved as x′ = v, v′ = g. Where g does not depend on v, the symplectic
    solvers "symplectic_euler", "leapfrog" and "yoshida4" apply, with 1, 1 and 3 evaluations of g a step.

    Args:
        acceleration: `g(t, x, v, *args)`; `Force(MLP(…))` makes one of a network.
        velocity: x₀ ↦ v₀, e.g. a network, used where no velocity is given.
        returns, **options: as of `NeuralODE`.

    Shapes:
        x₀ (...), or a pair (x₀, v₀) of that shape -> a pair of (T, ...); without T for returns="end".

    Raises:
        TypeError: `acceleration` is not callable.
        ValueError: a start without velocity where there is no `velocity`; a velocity of another shape than x₀.

    Source: Norcliffe, Bodnar, Day, Simidjievski & Liò, On Second Order Behaviour in Augmented Neural ODEs, NeurIPS 2020,
    section 3.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from isocline.nn import MLP, Force, SecondOrderODE
        >>> model = SecondOrderODE(Force(MLP((4, 16, 2))), velocity=nn.Linear(2, 2))
        >>> x, v = model(torch.ones(8, 2), torch.linspace(0, 1, 5))
        >>> x.shape, torch.equal(v[0], model.velocity(x[0]))
        (torch.Size([5, 8, 2]), True)
        >>> spring = SecondOrderODE(Force(lambda t, x: -x, velocity=False), solver="leapfrog", step=0.01, returns="end")
        >>> x, v = spring((torch.ones(1), torch.zeros(1)), (0.0, 100.0))
        >>> round(x.item() ** 2 + v.item() ** 2, 3)
        1.0
    """

    def __init__(
        self,
        acceleration: Callable[..., Any],
        *,
        velocity: Callable[[Tensor], Tensor] | None = None,
        returns: str = "path",
        **options: Any,
    ) -> None:
        super().__init__(second_order(acceleration), returns=returns, **options)
        self.acceleration, self.velocity = acceleration, velocity

    def start(self, y0: Any) -> tuple[Any, Any]:
        """The pair (x₀, v₀)."""
        if not isinstance(y0, Tensor):
            return y0
        if self.velocity is None:
            raise ValueError("y0: a position alone; give the pair (x0, v0), or SecondOrderODE(…, velocity=network)")
        v0 = self.velocity(y0)
        if v0.shape != y0.shape:
            raise ValueError(f"velocity: returned shape {tuple(v0.shape)}, expected that of x0, {tuple(y0.shape)}")
        return y0, v0

    def solution(self, y0: Any, ts: Any = (0.0, 1.0), *args: Any, **options: Any) -> Solution:
        """The whole `Solution`, from x₀ or (x₀, v₀); `options` go over those of the model."""
        return super().solution(self.start(y0), ts, *args, **options)
