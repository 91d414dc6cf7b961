"""The way back of the fused engine's operators, for autograd."""

from __future__ import annotations

from typing import Any

from isocline._types import Tensor
from isocline.engines.fused.operators import tile_pull_back, tile_solve
from isocline.gradients.base import GradientError


def _kept(ctx: Any, inputs: Any, output: Any) -> None:
    y0, ts, further, leaves, what, _ = inputs
    ctx.what, ctx.counts = what, (len(further), len(leaves))
    ctx.save_for_backward(y0, ts, output[2], *further, *leaves)
    ctx.set_materialize_grads(True)


def _pulled_back(ctx: Any, cotangent: Tensor, *_: Any) -> tuple[Any, ...]:
    y0, ts, token, *others = ctx.saved_tensors
    first = ctx.counts[0]
    grad_y0, *found = tile_pull_back(cotangent, y0, ts, others[:first], others[first:], token, ctx.what)
    return grad_y0, None, found[:first], found[first:], None, None


def _refused(ctx: Any, *_: Any) -> None:
    raise GradientError(
        "second derivatives of a solve by the fused engine are not available: take engine='eager' for them"
    )


tile_solve.register_autograd(_pulled_back, setup_context=_kept)
tile_pull_back.register_autograd(_refused)
