"""Gradients with respect to times, the same for every method.

With g_i = ∂L/∂y(t_i) and the cotangent a(t) of the state,

    dL/dt_i = ⟨g_i, f(t_i, y_i)⟩ for i ≥ 1,      dL/dt_0 = −⟨a(t_0⁺), f(t_0, y_0)⟩,

a without the jump that an observation at t_0 itself makes (Chen et al. 2018, algorithm 2; their eq. 52 has the sign of
the first term wrong). So two identities suffice, one on the way in and one on the way out.

Both formulas are first derivatives: as identities they hide how the cotangents of y0 and of the parameters change with
a time, so second derivatives are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from isocline._types import Float, Tensor
from isocline.autocast import uncast
from isocline.control.schedule import jumps_at
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


def beside(
    field: VectorField, t: Tensor, towards: Tensor | float, jump_ts: Sequence[float], row_jump_ts: Tensor | None = None
) -> Tensor:
    """`t`, where f jumps the number next to it on the side of `towards`: where f is to be asked; with the gradient of t.

    Args:
        t: 0-d or (T,); with a row a sample (B,) or (T, B). `towards` broadcasts against it.
        jump_ts, row_jump_ts: common ones, and those of each sample, (B, J).
    """
    if not jump_ts and row_jump_ts is None:
        return t
    now, dtype = t.detach(), field.time_dtype
    rows = now.reshape(1, -1) if row_jump_ts is None else now.reshape(-1, len(row_jump_ts)).t()
    jumps = jumps_at(rows, jump_ts, row_jump_ts, dtype).t().reshape(now.shape)
    towards = torch.as_tensor(towards, dtype=dtype, device=t.device)
    moved = torch.nextafter(now.to(dtype), towards.expand_as(now)).to(t.dtype)
    return t + torch.where(jumps, moved - now, 0.0)


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: VectorField, t0: Tensor, y0: Tensor) -> Tensor:
        ctx.field = field
        ctx.save_for_backward(t0, y0)
        return y0.view_as(y0)

    @staticmethod
    @uncast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        (a,) = cotangents
        _refuse_second_order()
        t0, y0 = (x.detach() for x in ctx.saved_tensors)  # f may ask whether a graph hangs on them
        slope = ctx.field.at(t0, y0)
        return None, -(a * slope).sum(-1).to(t0.dtype), a


class _Observations(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: VectorField, ts: Tensor, ys: Tensor) -> Tensor:
        ctx.field = field
        ctx.save_for_backward(ts, ys)
        return ys.view_as(ys)

    @staticmethod
    @uncast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        (grads,) = cotangents
        _refuse_second_order()
        ts, ys = (x.detach() for x in ctx.saved_tensors)
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
