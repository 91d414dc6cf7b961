"""The Lagrangian neural ODE: a learned Lagrangian, and the Euler–Lagrange equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from isocline._types import Float, Tensor
from isocline.nn.mechanics import Mechanics, derivative, like, on_leaves, split
from isocline.nn.neural_ode import NeuralODE


class Mechanical(nn.Module):
    """L = ½ vᵀ M(q) v − V(q) with M(q) = C(q) C(q)ᵀ + εI from a network of the lower triangle C: M is never singular.

    Args:
        cholesky: `(t, q) -> (..., n (n + 1) / 2)`: the rows of C one after another; softplus is applied to its diagonal.
        potential: V, `(t, q) -> (..., 1)` or `(...)`.
        floor: ε, in units of mass.

    Shapes:
        [q, v] (..., 2n) -> (...).

    Raises:
        ValueError: when `cholesky` returns another number of entries.

    Source: Lutter, Ritter & Peters, Deep Lagrangian Networks, ICLR 2019, section 4.

    Example:
        >>> import torch
        >>> from isocline.nn import MLP, Mechanical
        >>> Mechanical(MLP((2, 16, 3)), MLP((2, 16, 1)))(torch.tensor(0.0), torch.ones(5, 4)).shape
        torch.Size([5])
    """

    def __init__(
        self, cholesky: Callable[..., Tensor], potential: Callable[..., Tensor], *, floor: float = 1e-3
    ) -> None:
        super().__init__()
        self.cholesky, self.potential, self.floor = cholesky, potential, floor

    def forward(self, t: Float[Tensor, ...], y: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch"]:
        """The Lagrangian."""
        q, v = y.chunk(2, -1)
        entries = self.cholesky(t, q)
        n = q.shape[-1]
        if entries.shape[-1] != n * (n + 1) // 2:
            raise ValueError(
                f"cholesky: returned {entries.shape[-1]} entries, expected {n * (n + 1) // 2} for {n} positions"
            )
        seen = []  # Cᵀv, column by column
        for j in range(n):
            column = [entries[..., i * (i + 1) // 2 + j] for i in range(j, n)]
            column[0] = nn.functional.softplus(column[0])
            seen.append((torch.stack(column, -1) * v[..., j:]).sum(-1))
        kinetic = (torch.stack(seen, -1).square().sum(-1) + self.floor * v.square().sum(-1)) / 2
        return kinetic - self.potential(t, q).reshape(kinetic.shape)


class EulerLagrange(Mechanics):
    """The field dq/dt = v, dv/dt = M⁻¹ (∂L/∂q − ∂²L/∂v∂q v − ∂²L/∂v∂t − D(t, q) v + F), M = ∂²L/∂v².

    Arguments, shapes and source as of `LagrangianODE`, which solves it; use this one alone to learn from derivatives.

    Example:
        >>> import torch
        >>> from isocline.nn.lagrangian_ode import EulerLagrange
        >>> spring = lambda t, y: y[..., 1] ** 2 / 2 - y[..., 0] ** 2 / 2
        >>> EulerLagrange(spring)(torch.tensor(0.0), torch.tensor([[1.0, 2.0]])).tolist()
        [[2.0, -1.0]]
    """

    def __init__(
        self,
        lagrangian: Callable[..., Tensor],
        *,
        damping: float | Tensor | Callable[..., Tensor] | None = None,
        force: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__(lagrangian, damping, force)

    def _by_autograd(self, t: Tensor, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """∂L/∂q, ∂²L/∂v∂q v + ∂²L/∂v∂t and M: the rows of both second derivatives by a pass back each."""
        with on_leaves(t, q, v) as (keep, (t, q, v)):
            by_q, momentum = derivative(self.summed(t, torch.cat([q, v], -1)), (q, v), True)
            rows = [derivative(each, (q, v), keep) for each in momentum.unbind(-1)]
            drift = torch.stack([(by_q_of_row * v).sum(-1) for by_q_of_row, _ in rows], -1)
            # ∂/∂t of every momentum, of all samples though they share one t: the derivative, by w, of ∂(w · momentum)/∂t.
            w = torch.zeros_like(momentum, requires_grad=True)
            drift = drift + derivative(derivative(momentum * w, t, True)[0], w, keep)[0]
            mass = torch.stack([by_v for _, by_v in rows], -2)
            return (by_q, drift, mass) if keep else (by_q.detach(), drift.detach(), mass.detach())

    def _by_transforms(self, t: Tensor, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same under torch.func, where autograd.grad cannot be asked: the momentum ∂L/∂v followed forward.

        While t and q move as they do and v stands still it drifts; while v alone moves, M shows.
        """
        slope = torch.func.grad(lambda t, q, v: self.summed(t, torch.cat([q, v], -1)), argnums=(1, 2))
        still, at_rest = torch.zeros_like(t), torch.zeros_like(q)
        moving: Any = torch.func.jvp(slope, (t, q, v), (torch.ones_like(t), v, at_rest))
        (by_q, _), (_, drift) = moving
        axes = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
        moves = [torch.func.jvp(slope, (t, q, v), (still, at_rest, axis.expand_as(v)))[1][1] for axis in axes]
        return by_q, drift, torch.stack(moves, -2)

    def forward(self, t: Float[Tensor, ...], y: Any, *args: Any) -> Any:
        """dy/dt, in the form of y."""
        q, v = split(y, "LagrangianODE")
        asked = self._by_transforms if torch._C._are_functorch_transforms_active() else self._by_autograd
        by_q, drift, mass = asked(t, q, v)
        right = by_q - drift
        forces = self.forces(t, q, v, v, args)
        if forces is not None:
            right = right + forces
        try:
            acceleration = torch.linalg.solve(mass, right.unsqueeze(-1)).squeeze(-1)
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                "LagrangianODE: the mass matrix ∂²L/∂v² is singular, so L does not determine the acceleration; take a "
                "smooth network (softplus, tanh), or Mechanical(…), whose mass matrix is positive definite"
            ) from error
        return like(y, v, acceleration)


class LagrangianODE(NeuralODE):
    """(q₀, v₀) ↦ the solution of the Euler–Lagrange equations of a learned Lagrangian, as a module.

    d/dt ∂L/∂v = ∂L/∂q − D(t, q) v + F(t, [q, v], u), solved for the acceleration,
    q″ = (∂²L/∂v²)⁻¹ (∂L/∂q − ∂²L/∂v∂q v − ∂²L/∂v∂t − D v + F). Coordinates may be any, angles for example; nothing needs
    to be known of momenta. The derivatives are taken inside the field by autograd: an evaluation is one of L, n + 1 passes
    back (two more where L depends on t) and a solve with an n × n matrix.

    Args:
        lagrangian: L, `(t, y) -> (..., 1)` or `(...)` for y = [q, v] of (..., 2n): `MLP((2 * n, 128, 1), "softplus")`, or
            `Mechanical(…)`, whose mass matrix is positive definite; twice differentiable, so no ReLU.
        damping: D, Rayleigh's friction: a number, a tensor (n,), or a callable D(t, q) of shape (..., n); None: none.
        force: F(t, y, *args) of shape (..., n); with `inputs` in the solve the first of args is u(t). None: none.
        returns, **options: as of `NeuralODE`.

    Shapes:
        y0 a tensor (..., 2n), positions first, or a pair (q, v) of (..., n) -> the same with T in front; without T for
        returns="end".

    Raises:
        ValueError: for a state that has no two halves; for a Lagrangian that is not one number a sample; when the mass
            matrix is singular.

    Source: Cranmer, Greydanus, Hoyer, Battaglia, Spergel & Ho, Lagrangian Neural Networks, 2020 (arXiv:2003.04630), eq. 6.

    Example:
        >>> import torch
        >>> from isocline.nn import LagrangianODE
        >>> pendulum = LagrangianODE(lambda t, y: y[..., 1] ** 2 / 2 + torch.cos(y[..., 0]))
        >>> path = pendulum(torch.tensor([[1.0, 0.0]]), torch.linspace(0, 10, 3))
        >>> energy = path[..., 1] ** 2 / 2 - torch.cos(path[..., 0])
        >>> [round(e, 3) for e in energy.flatten().tolist()]
        [-0.54, -0.54, -0.54]
    """

    def __init__(
        self,
        lagrangian: Callable[..., Tensor],
        *,
        damping: float | Tensor | Callable[..., Tensor] | None = None,
        force: Callable[..., Tensor] | None = None,
        returns: str = "path",
        **options: Any,
    ) -> None:
        super().__init__(EulerLagrange(lagrangian, damping=damping, force=force), returns=returns, **options)
