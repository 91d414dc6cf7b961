"""Whether a field treats the samples of a batch alone, so that some of them may leave it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.field import VectorField

logger = logging.getLogger("isocline")


def rows_are_independent(field: VectorField, t: Tensor, y: Tensor, slopes: Tensor, ids: Tensor, batch: int) -> bool:
    """Evaluates `f` on half of the rows: if their slopes change, rows must stay together.

    That is so with batch normalisation, with tensors of the batch's size caught in a closure, with noise. Arguments
    whose first dimension is the batch's may be per-sample or not: the reading that reproduces the slopes is right, and
    is left in `field.batch_args`. What stands there before is known to be per-sample and stays.

    Args:
        field: of the whole batch.
        t, y, slopes: (R,), (R, N), (R, N) of the rows present; `slopes` is f there.
        ids: (R,) which samples they are.
        batch: number of samples.
    """
    want, half = slopes[::2], ids[::2]
    size = float(want.nan_to_num(0.0, 0.0, 0.0).abs().max()) if want.numel() else 0.0
    leaves = pytree.tree_leaves(field.args)
    batched = frozenset(i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.dim() and x.shape[0] == batch)
    known = field.batch_args
    for reading in dict.fromkeys((batched | known, known)):
        field.batch_args = reading
        try:
            got = field.of_rows(half).at(t[::2], y[::2].contiguous())
        except (RuntimeError, ValueError, IndexError):
            continue
        if torch.allclose(got, want, rtol=1e-3, atol=1e-5 * size, equal_nan=True):
            return True
    field.batch_args = known
    logger.warning(
        "the field couples the samples of a batch (or captured a tensor of the batch's size): finished samples stay "
        "in the batch; hand per-sample tensors over in args to let them leave"
    )
    return False
