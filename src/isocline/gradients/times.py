"""Gradients with respect to times, the same for every method.

With g_i = ∂L/∂y(t_i) and the cotangent a(t) of the state,

    dL/dt_i = ⟨g_i, f(t_i, y_i)⟩ for i ≥ 1,      dL/dt_0 = −⟨a(t_0⁺), f(t_0, y_0)⟩,

a without the jump that an observation at t_0 itself makes (Chen et al. 2018, algorithm 2; their eq. 52 has the sign of
the first term wrong). So two identities suffice, one on the way in and one on the way out.

Both formulas are first derivatives: as identities they hide how the cotangents of y0 and of the parameters change with
a time, so second derivatives are refused.
"""

from __future__ import annotations

from typing import Any

import torch

from isocline._types import Float, Tensor
from isocline.field import VectorField
from isocline.gradients.base import GradientError


def attach_start(
    field: VectorField, t0: Float[Tensor, "*batch"], y0: Float[Tensor, "*batch state"]
) -> Float[Tensor, "*batch state"]:
    """y0 again; its cotangent a(t_0⁺) also gives t0 its gradient. t0: 0-d, or (B,) with y0 (B, N)."""
    return _Start.apply(field, t0, y0)


def attach_observations(
    field: VectorField, ts: Float[Tensor, "times *batch"], ys: Float[Tensor, "times *batch state"]
) -> Float[Tensor, "times *batch state"]:
    """ys again; the cotangents g_i also give ts[i], i ≥ 1, their gradients. ts: (T,), or (T, B) with ys (T, B, N)."""
    return _Observations.apply(field, ts, ys)


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: VectorField, t0: Tensor, y0: Tensor) -> Tensor:
        ctx.field = field
        ctx.save_for_backward(t0, y0)
        return y0.view_as(y0)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        (a,) = cotangents
        _refuse_second_order()
        t0, y0 = ctx.saved_tensors
        slope = ctx.field.at(t0, y0)
        return None, -(a * slope).sum(-1).to(t0.dtype), a


class _Observations(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: VectorField, ts: Tensor, ys: Tensor) -> Tensor:
        ctx.field = field
        ctx.save_for_backward(ts, ys)
        return ys.view_as(ys)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        (grads,) = cotangents
        _refuse_second_order()
        ts, ys = ctx.saved_tensors
        rows = [ts.new_zeros(ts.shape[1:])]
        for t, y, g in zip(ts[1:], ys[1:], grads[1:], strict=True):
            reached = ~y.isnan().any(-1)
            if not bool(reached.any()):
                rows.append(torch.zeros_like(t))
                continue
            product = (g * ctx.field.at(torch.where(t.isnan(), 0.0, t), y)).sum(-1).to(t.dtype)
            rows.append(torch.where(reached, product, 0.0))
        return None, torch.stack(rows), grads


def _refuse_second_order() -> None:
    if torch.is_grad_enabled():
        raise GradientError(
            "second derivatives of a solve whose ts require grad are not available: pass ts.detach() for them, or take the "
            "first derivatives without create_graph"
        )
