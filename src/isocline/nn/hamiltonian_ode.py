"""The Hamiltonian neural ODE: a learned energy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from isocline._types import Float, Tensor
from isocline.nn.mechanics import Mechanics, derivative, like, on_leaves, split
from isocline.nn.neural_ode import NeuralODE


class Separable(nn.Module):
    """H(t, [q, p]) = T(t, p) + V(t, q), so that the symplectic solvers apply.

    Args:
        kinetic: T, `(t, p) -> (..., 1)` or `(...)`.
        potential: V, `(t, q) ->` the same.

    Shapes:
        [q, p] (..., 2n) -> as T and V return.

    Example:
        >>> import torch
        >>> from isocline.nn import MLP, Separable
        >>> Separable(MLP((2, 16, 1)), MLP((2, 16, 1)))(torch.tensor(0.0), torch.ones(5, 4)).shape
        torch.Size([5, 1])
    """

    def __init__(self, kinetic: Callable[..., Tensor], potential: Callable[..., Tensor]) -> None:
        super().__init__()
        self.kinetic, self.potential = kinetic, potential

    def forward(self, t: Float[Tensor, ...], y: Float[Tensor, "*batch state"]) -> Float[Tensor, ...]:
        """The energy."""
        q, p = y.chunk(2, -1)
        return self.kinetic(t, p) + self.potential(t, q)


class Hamiltonian(Mechanics):
    """The field dq/dt = ∂H/∂p, dp/dt = −∂H/∂q − D(t, q) ∂H/∂p + F(t, [q, p], *args).

    Arguments, shapes and source as of `HamiltonianODE`, which solves it; use this one alone to learn from derivatives.

    Example:
        >>> import torch
        >>> from isocline.nn.hamiltonian_ode import Hamiltonian
        >>> Hamiltonian(lambda t, y: y.square().sum(-1) / 2)(torch.tensor(0.0), torch.tensor([[1.0, 2.0]])).tolist()
        [[2.0, -1.0]]
    """

    def __init__(
        self,
        energy: Callable[..., Tensor],
        *,
        damping: float | Tensor | Callable[..., Tensor] | None = None,
        force: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__(energy, damping, force)

    def gradient(self, t: Tensor, y: Tensor) -> Tensor:
        """∂H/∂y, with a graph where one is wanted."""
        if (
            torch._C._are_functorch_transforms_active()
        ):  # there autograd.grad cannot be asked, elsewhere it is the faster
            return torch.func.grad(lambda y: self.summed(t, y))(y)
        with on_leaves(t, y) as (keep, (t, y)):
            return derivative(self.summed(t, y), y, keep)[0]

    def forward(self, t: Float[Tensor, ...], y: Any, *args: Any) -> Any:
        """dy/dt, in the form of y."""
        q, p = split(y, "HamiltonianODE")
        whole = torch.cat([q, p], -1)
        by_q, by_p = self.gradient(t, whole).chunk(2, -1)
        forces = self.forces(t, q, p, by_p, args)
        return like(y, by_p, -by_q if forces is None else forces - by_q)


class HamiltonianODE(NeuralODE):
    """(q₀, p₀) ↦ the solution of Hamilton's equations of a learned energy, as a module.

    dq/dt = ∂H/∂p, dp/dt = −∂H/∂q: the flow conserves H and volume whatever the network. With friction and a port,
    dp/dt = −∂H/∂q − D(t, q) ∂H/∂p + F(t, [q, p], u). The derivatives of H are taken inside the field, by autograd.

    Args:
        energy: H, `(t, y) -> (..., 1)` or `(...)` for y = [q, p] of (..., 2n), e.g. `MLP((2 * n, 200, 1))`; smooth, so no
            ReLU. A `Separable` one lets the symplectic solvers apply, on states that are pairs.
        damping: D ≥ 0: a number, a tensor (n,), or a callable D(t, q) of shape (..., n); None: none.
        force: F(t, y, *args) of shape (..., n); with `inputs` in the solve the first of args is u(t). None: none.
        returns, **options: as of `NeuralODE`.

    Shapes:
        y0 a tensor (..., 2n), positions first, or a pair (q, p) of (..., n) -> the same with T in front; without T for
        returns="end".

    Raises:
        ValueError: for a state that has no two halves; for an energy that is not one number a sample.

    Source: Greydanus, Dzamba & Yosinski, Hamiltonian Neural Networks, NeurIPS 2019, eq. 1–3; the solve inside of training
    and the separable form: Chen, Zhang, Arjovsky & Bottou, Symplectic Recurrent Neural Networks, ICLR 2020; friction and
    port: Zhong, Dey & Chakraborty, Dissipative SymODEN, 2020.

    Example:
        >>> import torch
        >>> from isocline.nn import MLP, HamiltonianODE, Separable
        >>> model = HamiltonianODE(Separable(MLP((1, 16, 1)), MLP((1, 16, 1))), solver="leapfrog", step=0.05)
        >>> q, p = model((torch.ones(8, 1), torch.zeros(8, 1)), torch.linspace(0, 10, 5))
        >>> energy = model.energy((q, p))
        >>> energy.shape, bool((energy - energy[0]).abs().max() < 1e-2)
        (torch.Size([5, 8]), True)
    """

    def __init__(
        self,
        energy: Callable[..., Tensor],
        *,
        damping: float | Tensor | Callable[..., Tensor] | None = None,
        force: Callable[..., Tensor] | None = None,
        returns: str = "path",
        **options: Any,
    ) -> None:
        super().__init__(Hamiltonian(energy, damping=damping, force=force), returns=returns, **options)

    def energy(self, y: Any, t: Any = 0.0) -> Float[Tensor, "*batch"]:
        """H of states, a tensor (..., 2n) or a pair."""
        q, p = split(y, "HamiltonianODE")
        field: Any = self.field
        value = field.scalar(torch.as_tensor(t).to(q), torch.cat([q, p], -1))
        return value.reshape(q.shape[:-1])
