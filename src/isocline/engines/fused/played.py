"""A tile program as a field."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from isocline.engines.fused.program import Program, execute


class Played:
    """A tile program as a field, in PyTorch's operations.

    Args:
        program: of t, y and `further` inputs.
        further: how many tensors are handed over before the leaves.

    Example:
        >>> import torch
        >>> from isocline.engines.fused.trace import trace
        >>> program = trace(lambda t, y: torch.sin(y) * t, torch.zeros(3, 1), torch.ones(3, 2)).program
        >>> Played(program, 0)(torch.ones(5, 1), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, program: Program, further: int) -> None:
        self.program, self.further = program, further

    def __call__(self, t: Tensor, y: Tensor, *others: Any) -> Tensor:
        rows = len(y)
        names = [name for name, _, _ in self.program.inputs]
        given = (t.expand(rows, *t.shape[1:]) if t.dim() else t.expand(rows), y, *others[: self.further])
        inputs = {name: x.reshape(rows, -1).to(y.dtype) for name, x in zip(names, given, strict=True)}
        leaves = [leaf.reshape(-1).to(y.dtype) for leaf in others[self.further :]]
        return execute(self.program, inputs, leaves)[0]["dy"].reshape(y.shape)
