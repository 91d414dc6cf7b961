"""Whether the machine is the quicker engine for a field: what an evaluation costs it, and what it costs PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from isocline.engines.fused.build import vector_bytes
from isocline.engines.fused.program import UNARY, Program

aten = torch.ops.aten
# About how many cycles the machine takes: between two evaluations, for an instruction, for one of its vectors.
BETWEEN, CALLED = 250, 20
QUICK = {"neg", "abs", "sign", "sqrt", "rsqrt", "reciprocal", "not"}
COSTS = {op: 15 for op in (*UNARY, "pow", "atan2") if op not in QUICK}
# About how many cycles PyTorch takes: for an operation, for a number that one returns, for a multiply-add.
OPERATION, NUMBER, PRODUCT = 6000, 0.5, 1 / 16
PRODUCTS = {aten.mm: 0, aten.bmm: 0, aten.mv: 0, aten.addmm: 1, aten.baddbmm: 1}  # which argument is the first factor
MARGIN = 0.8  # estimates may be off by as much


def cycles(program: Program, lanes: int) -> tuple[float, float]:
    """About how many cycles an evaluation takes of a tile with rows of one vector of `lanes` numbers, and of a tile of one lane."""
    tile = alone = BETWEEN
    for one in program.code:
        each, vectors = COSTS.get(one.op, 1), -(-one.count // lanes)
        if one.op in ("linear", "linear^T"):
            each, vectors = one.width, 1.5 * vectors
        tile, alone = tile + CALLED + one.count * each, alone + 2 * CALLED + vectors * each
    return tile, alone


class Cycles(TorchDispatchMode):
    """About how many cycles of PyTorch what runs within takes, in `spent`."""

    def __init__(self) -> None:
        super().__init__()
        self.spent = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs it, and adds it up."""
        out = func(*args, **(kwargs or {}))
        self.spent += OPERATION
        if isinstance(out, Tensor) and func._schema.returns[0].alias_info is None:
            self.spent += NUMBER * out.numel()
            factor = PRODUCTS.get(func._overloadpacket)
            if factor is not None:
                self.spent += PRODUCT * out.numel() * args[factor].shape[-1]
        return out


@torch.no_grad()
def worth(program: Program, f: Callable[[], Tensor], samples: int, dtype: torch.dtype) -> bool:
    """Whether the machine is as quick as PyTorch, where f is evaluated at one time for all samples.

    The machine evaluates a field for each sample at its own time, so that what depends on the time alone (a hypernetwork's
    weights), or may be had of all samples together, is computed again and again.

    Args:
        program: the field's.
        f: evaluates the field for the whole batch.
        samples, dtype: of the batch.
    """
    lanes = vector_bytes() // dtype.itemsize
    tile, alone = cycles(program, lanes)
    with Cycles() as theirs:
        f()
    return theirs.spent >= MARGIN * min(-(-samples // lanes) * tile, samples * alone)
