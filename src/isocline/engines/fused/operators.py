"""The fused engine's solves as operators of PyTorch: what `torch.compile` and `torch.export` put into their graphs whole.

An operator is told by a text what it solves (described.py). A graph that holds one runs in any process that has imported
isocline, without the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SOLVE = "(Tensor y0, Tensor ts, Tensor[] further, Tensor[] leaves, str what, bool tape) -> (Tensor, Tensor, Tensor)"
PULL_BACK = (
    "(Tensor cotangents, Tensor y0, Tensor ts, Tensor[] further, Tensor[] leaves, Tensor token, str what) -> Tensor[]"
)


@torch.library.custom_op("isocline::tile_solve", mutates_args=(), schema=SOLVE)
def tile_solve(
    y0: Tensor, ts: Tensor, further: Sequence[Tensor], leaves: Sequence[Tensor], what: str, tape: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A solve from y0 (B, …) over the times (T,) or (B, T).

    Returns:
        The states (T, B, …); status, accepted and rejected steps and evaluations of every sample (4, B), int64; a token
        that stands for the tape, where one is wanted.
    """
    from isocline.engines.fused import described  # with what traces fields, which takes a second

    return described.solve(y0, ts, further, leaves, what, tape)


@tile_solve.register_fake
def _(y0: Any, ts: Any, further: Any, leaves: Any, what: str, tape: bool) -> tuple[Tensor, Tensor, Tensor]:
    counts = y0.new_empty((4, y0.shape[0]), dtype=torch.int64)
    return y0.new_empty((ts.shape[-1], *y0.shape)), counts, y0.new_empty((1,), dtype=torch.int64)


@torch.library.custom_op("isocline::tile_pull_back", mutates_args=(), schema=PULL_BACK)
def tile_pull_back(
    cotangents: Tensor,
    y0: Tensor,
    ts: Tensor,
    further: Sequence[Tensor],
    leaves: Sequence[Tensor],
    token: Tensor,
    what: str,
) -> list[Tensor]:
    """The cotangents of y0, of `further` and of the leaves from those of the states.

    Where the token is a copy, and its tape gone, the solve is done again.
    """
    from isocline.engines.fused import described

    return described.pull_back(cotangents, y0, ts, further, leaves, token, what)


@tile_pull_back.register_fake
def _(cotangents: Any, y0: Any, ts: Any, further: Any, leaves: Any, token: Any, what: str) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (y0, *further, *leaves)]
