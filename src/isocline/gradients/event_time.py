"""The gradient of an event's time and state: the implicit function theorem.

An event at t*, y* is a zero of c(t, y(t; θ), θ), so with ċ = ∂c/∂t + ∂c/∂y · f

    dt*/dθ = −(∂c/∂θ + ∂c/∂y · ∂y/∂θ) / ċ,        dy*/dθ = ∂y/∂θ + f · dt*/dθ,

∂y/∂θ being that of the state at a time held fixed, which the solve up to the event gives (Chen, Amos & Nickel,
Learning Neural Event Functions for Ordinary Differential Equations, ICLR 2021, appendix A; with parameters of c and
without a small number added to ċ).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from isocline._types import Float, Tensor
from isocline.autocast import uncast
from isocline.gradients.base import GradientError

Rates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def attach_event(
    rates: Rates,
    t: Float[Tensor, "*batch"],
    y: Float[Tensor, "*batch state"],
    c: Float[Tensor, "*batch"],
    fired: Tensor,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch state"]]:
    """Time and state of an event again, differentiable.

    Args:
        rates: (t, y) to f (…, N) just before the event and ċ (…).
        t: the time found: 0-d, or (B,).
        y: the state at that fixed time, with its graph.
        c: the condition there, with its graph: zero to rounding.
        fired: where there is an event; elsewhere t has no gradient and y its own.
    """
    return _Event.apply(rates, t, y, c, fired)


class _Event(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rates: Rates, t: Tensor, y: Tensor, c: Tensor, fired: Tensor) -> tuple[Tensor, Tensor]:
        ctx.rates = rates
        ctx.save_for_backward(t, y, fired)
        return t.clone(), y.view_as(y)

    @staticmethod
    @uncast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        by_t, by_y = cotangents
        if torch.is_grad_enabled():
            raise GradientError(
                "second derivatives through an event are not available: take the first derivatives without create_graph"
            )
        t, y, fired = ctx.saved_tensors
        slope, rate = ctx.rates(t, y)
        # What depends on the event's time, and on its state, which moves along the solution with it.
        total = torch.where(fired, by_t + (by_y * slope).sum(-1), 0.0)
        grazes = (total != 0) & (rate == 0)
        if bool(grazes.any()):
            when = t[grazes].reshape(-1)[0].item()
            raise GradientError(
                f"the event at t = {when:.6g} only touches zero there (its condition does not change along the solution), or "
                f"autograd cannot see through the condition: its time has no derivative. Use a condition that crosses zero "
                f"with a slope and is made of differentiable operations, or detach event_ts and what comes after"
            )
        by_c = -torch.where(total == 0, 0.0, total / torch.where(total == 0, 1.0, rate))
        return None, None, by_y, by_c, None
