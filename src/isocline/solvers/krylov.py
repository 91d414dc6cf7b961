"""I − h A ⊗ J without J: products with a vector alone, and GMRES of every sample at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.jacobian import under_transform

RESTART, CYCLES = 30, 20  # vectors kept, and how often it starts anew before it gives up
LOOK = 3  # after so many products each the residual is looked at
# How far a residual is reduced: to this share of what Newton looks for, or of what it was.
SHARE, REDUCTION = 0.1, 1e-3


class Products:
    """J v and Jᵀ w at one (time, y), by automatic differentiation: the Jacobian is never formed.

    J v is found going backwards twice: wᵀJ is linear in w, and v times its derivative is J v.
    """

    def __init__(self, field: VectorField, time: Any, y: Tensor) -> None:
        self.shape = y.shape
        if under_transform():
            of_y = lambda x: field(time, x)  # noqa: E731
            _, self._pull, *_ = torch.func.vjp(of_y, y)
            self._push = lambda v: torch.func.jvp(of_y, (y,), (v,))[1]
            return
        with torch.enable_grad():
            x = y.detach().requires_grad_()
            f = field(time, x)
            self.f, self.x = f, x
            if f.requires_grad:
                self.w = torch.zeros_like(f, requires_grad=True)
                (self.back,) = torch.autograd.grad(f, x, self.w, create_graph=True, allow_unused=True)

    def forwards(self, v: Tensor) -> Tensor:
        """J v."""
        if not hasattr(self, "f"):
            return self._push(v.view(self.shape)).view(v.shape)
        if not self.f.requires_grad or self.back is None or not self.back.requires_grad:
            return torch.zeros_like(v)
        (found,) = torch.autograd.grad(self.back, self.w, v.view(self.shape), retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if found is None else found.view(v.shape)

    def backwards(self, w: Tensor) -> Tensor:
        """Jᵀ w."""
        if not hasattr(self, "f"):
            return self._pull(w.view(self.shape))[0].view(w.shape)
        if not self.f.requires_grad:
            return torch.zeros_like(w)
        (found,) = torch.autograd.grad(self.f, self.x, w.view(self.shape), retain_graph=True, allow_unused=True)
        return torch.zeros_like(w) if found is None else found.view(w.shape)


class Krylov:
    """I − h A ⊗ J of every sample, solved with by GMRES (Saad & Schultz, SIAM J. Sci. Stat. Comput. 7 (1986)).

    Args:
        a: (m, m).
        products: with J, one for all stages or one a stage.
        h: a number, or (R, 1).
        grid: (R, D).
        unit: (R, D) of the tolerance, or None: then a right-hand side is reduced by `reduction`, else at most to a share
            of the unit.
        reduction: of the residual.
    """

    def __init__(
        self,
        a: Tensor,
        products: Sequence[Products],
        h: Any,
        grid: tuple[int, int],
        unit: Tensor | None = None,
        reduction: float = REDUCTION,
    ) -> None:
        self.a, self.products, self.h, self.grid = a, products, h, grid
        self.unit, self.reduction = unit, reduction

    def times(self, v: Tensor, transposed: bool = False) -> Tensor:
        """The matrix, or its transpose, times v (m, R, D)."""
        products = self.products if len(self.products) == len(v) else [self.products[0]] * len(v)
        if transposed:
            mixed = torch.einsum("ji,jrd->ird", self.a, v) * self.h
            return v - torch.stack([p.backwards(x) for p, x in zip(products, mixed.unbind(0), strict=True)])
        mixed = torch.stack([p.forwards(x) for p, x in zip(products, v.unbind(0), strict=True)])
        return v - self.h * torch.einsum("ij,jrd->ird", self.a, mixed)

    def solved(self, right: Tensor, transposed: bool = False) -> Tensor:
        """The solution for right-hand sides (m, R, D), as far as Newton needs it."""
        # In units of the tolerance the norm treats all components alike.
        unit = torch.ones_like(right[0]) if self.unit is None or transposed else self.unit
        least = 0.0 if self.unit is None else SHARE
        found, _ = gmres(lambda v: self.times(v * unit, transposed) / unit, right / unit, self.reduction, least)
        return found * unit


def gmres(product: Any, right: Tensor, reduction: float, least: float = 0.0) -> tuple[Tensor, bool]:
    """x with ‖product(x) − right‖ below reduction · ‖right‖, or below `least` as a root mean square, of every sample.

    Args:
        product: linear, (m, R, D) to the same, samples apart.
        right: (m, R, D).

    Returns:
        x, and whether all samples came that far.
    """
    if _hidden(right):
        raise RuntimeError(
            "linear='gmres' under vmap, which does not show whether it has converged: use linear='dense'"
        )
    x = torch.zeros_like(right)
    goal = torch.maximum(reduction * _norm(right), right.new_tensor(least * (right.numel() / right.shape[1]) ** 0.5))
    residual = right
    for _ in range(CYCLES):
        size = _norm(residual)
        if bool((~(size > goal)).all()):  # a NaN is not worth going on for
            return x, bool((size <= goal).all())
        x = x + _cycle(product, residual, size, goal)
        residual = right - product(x)
    return x, bool((_norm(residual) <= goal).all())


def _cycle(product: Any, residual: Tensor, size: Tensor, goal: Tensor) -> Tensor:
    """One run of Arnoldi's process up to RESTART vectors, and the best x in their span, (m, R, D)."""
    rows = residual.shape[1]
    tiny = torch.finfo(residual.dtype).tiny
    basis = [residual / size.clamp(min=tiny).unsqueeze(1)]
    h = residual.new_zeros(rows, RESTART + 1, RESTART)
    right = residual.new_zeros(rows, RESTART + 1)
    right[:, 0] = size
    best = right
    for k in range(RESTART):
        w = product(basis[k])
        for _ in range(2):  # twice is enough: once loses orthogonality with the digits that cancel
            known = torch.stack(basis)
            overlap = torch.einsum("kmrd,mrd->rk", known, w)
            w = w - torch.einsum("kmrd,rk->mrd", known, overlap)
            h[:, : k + 1, k] += overlap
        length = _norm(w)
        h[:, k + 1, k] = length
        # Where nothing is left the solution lies in the span; the zero column of the next vector does no harm.
        basis.append(w / length.clamp(min=tiny).unsqueeze(1) * (length > tiny).unsqueeze(1))
        part, wanted = h[:, : k + 2, : k + 1], right[:, : k + 2].unsqueeze(2)
        if k % LOOK and k + 1 < RESTART:
            continue
        if not bool(part.isfinite().all()):
            return residual * torch.nan
        best = torch.linalg.pinv(part) @ wanted
        if bool(((wanted - part @ best).flatten(1).norm(dim=1) <= goal).all()):
            break
    return torch.einsum("kmrd,rk->mrd", torch.stack(basis[: best.shape[1]]), best.squeeze(2))


def _hidden(x: Tensor) -> bool:
    """Whether vmap hides the numbers."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


def _norm(x: Tensor) -> Tensor:
    """Of every sample, (R,)."""
    return x.square().sum((0, 2)).sqrt()


class Inverse(torch.autograd.Function):
    """The solution of a system whose matrix is held constant, for right-hand sides that are zero to rounding.

    So is then the solution; only its derivatives need solving for: backwards with the transpose.
    """

    @staticmethod
    def forward(right: Tensor, system: Krylov, transposed: bool, value: bool) -> Tensor:
        return _solved(system, right, transposed) if value else torch.zeros_like(right)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, ctx.system, ctx.transposed, _ = inputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None, None]:
        return Inverse.apply(cotangents[0], ctx.system, not ctx.transposed, True), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _solved(ctx.system, tangents[0], ctx.transposed)


def _solved(system: Krylov, right: Tensor, transposed: bool) -> Tensor:
    reduction = 100 * torch.finfo(right.dtype).eps
    found, converged = gmres(lambda v: system.times(v, transposed), right, reduction)
    if not converged and bool(right.isfinite().all()):
        raise RuntimeError(
            f"linear='gmres': {RESTART * CYCLES} products did not solve for the derivative of a step to {reduction:.1g}; "
            f"shorten the steps (max_step, tighter tolerances), or use linear='dense'"
        )
    return found
