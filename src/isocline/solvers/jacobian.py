"""The Jacobian of a field, one of every sample, and the linear systems I − h A ⊗ J that implicit methods make of it.

The state is looked at as (R, D), R samples with a Jacobian (D, D) each: the rows where samples step on their own; with
shared steps the leading dimensions of a single tensor, as long as a probe shows that `f` treats them alone; else all of
it as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.inputs import Driven

# Up to this many unknowns a sample the inverse is formed: one product an iteration in place of two triangular solves.
SMALL = 16
Given = Callable[..., Tensor]  # fn(t, y, *args), a Jacobian a sample


def under_transform() -> bool:
    """Whether a transform of `torch.func` looks on: its tensors pass through `torch.func.vjp`, not `autograd.grad`."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def pullback(
    field: VectorField, time: Any, y: Tensor, create_graph: bool = False
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f at (time, y), and w ↦ wᵀ ∂f/∂y there; a differentiable map with `create_graph`."""
    if under_transform():
        f, pull_all, *_ = torch.func.vjp(lambda x: field(time, x), y)
        return f, lambda w: pull_all(w)[0]
    with torch.enable_grad():
        x = y if create_graph and y.requires_grad else y.detach().requires_grad_()
        f = field(time, x)

    def pull(w: Tensor) -> Tensor:
        if not f.requires_grad:
            return torch.zeros_like(w)
        options: dict[str, Any] = {"retain_graph": True, "create_graph": create_graph, "allow_unused": True}
        (back,) = torch.autograd.grad(f, x, w, **options)
        return torch.zeros_like(w) if back is None else back

    return f, pull


class Jacobians:
    """∂f/∂y of every sample, (R, D, D).

    Args:
        field: on flat buffers.
        y: a state, for its shape, dtype and device.
        given: the user's own Jacobian; compared once with a product of the field's.

    Attributes:
        grid: (R, D) as a shape for `view`.
    """

    def __init__(self, field: VectorField, y: Tensor, given: Given | None = None) -> None:
        self.field, self.given = field, given
        shape = field.shaped(y).shape
        alone = y.dim() == 1 and len(shape) > 1
        self.grid: tuple[int, int] = (1, y.numel())
        if alone or y.dim() == 2:
            width = shape[-1] if alone else y.shape[1]
            self.grid = (y.numel() // max(width, 1), width)
        self.probed = not alone and given is None
        self._basis: list[Tensor] | None = None

    def at(self, time: Any, y: Tensor) -> Tensor:
        """The Jacobians at (time, y), without a graph."""
        if self.given is not None:
            return self._of_given(time, y).detach()
        return self.with_slope(time, y)[1].detach()

    def with_slope(self, time: Any, y: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """f and the Jacobians at (time, y), with a graph if wanted."""
        f, pull = pullback(self.field, time, y, create_graph)
        if self.given is not None:
            return f, self._of_given(time, y)
        if not self.probed:
            self._probe(pull, y)
        return f, self._rows(pull, y)

    def _rows(self, pull: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """Row by row, for all samples at once."""
        size = self.grid[1]
        if self._basis is None:
            eye = torch.eye(size, dtype=y.dtype, device=y.device)
            # Each a tensor of its own: complex views of pieces of one would not always be aligned.
            self._basis = [row.repeat(self.grid[0], 1).view(y.shape) for row in eye.unbind(0)]
        return torch.stack([pull(w).reshape(self.grid) for w in self._basis], 1)

    def _probe(self, pull: Callable[[Tensor], Tensor], y: Tensor) -> None:
        """Whether the samples are alone: the product of Jᵀ with a random vector tells the blocks from the whole.

        Samples without a finite Jacobian say nothing: if the others seem alone, the question stays open.
        """
        w = _random(y)
        want = pull(w).detach().reshape(self.grid)
        got = torch.einsum("rij,ri->rj", self._rows(pull, y).detach(), w.view(self.grid))
        finite = (want.isfinite() & got.isfinite()).all(1)
        if torch._C._functorch.is_batchedtensor(finite):  # under vmap, which shows no numbers
            self.grid, self._basis, self.probed = (1, y.numel()), None, True
            return
        self.probed = bool(finite.all())
        want, got = want[finite], got[finite]
        if len(want) and not torch.allclose(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max())):
            self.grid, self._basis, self.probed = (1, y.numel()), None, True

    # ---- the user's own -------------------------------------------------------------------------------------------
    def _of_given(self, time: Any, y: Tensor) -> Tensor:
        assert self.given is not None
        field, layout = self.field, self.field.layout
        call = self.given
        if isinstance(field.f, Driven):  # it gets the inputs too
            call = replace(field.f, field=self.given)
        lead = y.shape[:-1] if layout.plain else ()
        found = call(time, field.shaped(y) if layout.plain else layout.unflatten(y), *field.args)
        rows, size = self.grid
        whole = (y.shape[-1], y.shape[-1])
        alone = (*field.shaped(y).shape[:-1], size, size) if not lead else (rows, size, size)
        shape = tuple(found.shape) if isinstance(found, Tensor) else None
        if shape == whole and y.dim() == 1:
            self.grid = (1, y.numel())
        elif shape not in (alone, (rows, size, size)):
            came = f"shape {shape}" if shape is not None else type(found).__name__
            raise ValueError(
                f"jacobian: returned {came}, expected ∂f_i/∂y_j as [..., i, j] of every sample, {alone}"
                f"{'' if y.dim() == 2 or alone == whole else f', or of the whole state, {whole}'}"
            )
        found = found.to(y.dtype).reshape(self.grid[0], self.grid[1], self.grid[1])
        if not self.probed:
            self._check(time, y, found.detach())
        return found

    def _check(self, time: Any, y: Tensor, found: Tensor) -> None:
        """Against one product of the field's own, with a random vector."""
        w = _random(y)
        want = pullback(self.field, time, y)[1](w).detach().reshape(self.grid)
        if not bool(want.isfinite().all()):
            return
        self.probed = True

        def gap(equation: str) -> float:
            return float((torch.einsum(equation, found, w.view(self.grid)) - want).abs().max())

        size, eps = float(want.abs().max()), torch.finfo(y.dtype).eps
        slack = max(1e-6, eps**0.5) * max(size, float(found.abs().max()))
        if not gap("rij,ri->rj") <= slack:
            guess = "; it looks transposed: [..., i, j] is ∂f_i/∂y_j" if gap("rij,rj->ri") <= slack else ""
            raise ValueError(
                f"jacobian: its product with a random vector differs by {gap('rij,ri->rj'):.3g} from that of the field's "
                f"derivative, which is of size {size:.3g}, at the first step{guess}. Leave jacobian out to have it found"
            )


def _random(y: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)


class Factors:
    """I − h A ⊗ J of every sample, factorised: (R, mD, mD) for blocks of m stages.

    Args:
        a: (m, m).
        jacobians: (R, D, D), or of every stage (m, R, D, D).
        h: a number, or (R, 1).
    """

    def __init__(self, a: Tensor, jacobians: Tensor, h: Any) -> None:
        stages, self.width = len(a), jacobians.shape[-1]
        size = stages * self.width
        if stages == 1:
            product = jacobians.view(-1, size, size) * a
        elif jacobians.dim() == 3:
            product = torch.einsum("ij,rkl->rikjl", a, jacobians).reshape(-1, size, size)
        else:
            product = torch.einsum("ij,jrkl->rikjl", a, jacobians).reshape(-1, size, size)
        eye = torch.eye(size, dtype=a.dtype, device=a.device)
        matrix = eye - product * (h.unsqueeze(-1) if isinstance(h, Tensor) else h)
        self.inverse: Tensor | None = None
        if size <= SMALL:
            inverse, info = torch.linalg.inv_ex(matrix)
            self.inverse = inverse.masked_fill((info != 0).view(-1, 1, 1), torch.nan)
        else:
            self.factors = torch.linalg.lu_factor_ex(matrix)[:2]

    def solved(self, right: Tensor) -> Tensor:
        """The solution for right-hand sides (m, R, D)."""
        stages, rows, width = right.shape
        columns = right.transpose(0, 1).reshape(rows, stages * width, 1)
        if self.inverse is not None:
            found = torch.bmm(self.inverse, columns)
        else:
            found = torch.linalg.lu_solve(*self.factors, columns)
        return found.view(rows, stages, width).transpose(0, 1)
