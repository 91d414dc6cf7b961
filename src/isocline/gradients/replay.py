"""A fused solve once more by plain backpropagation: for derivatives that the native way back does not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from isocline._types import Tensor
from isocline.engines.fused.path import field_of
from isocline.engines.fused.solve import Run
from isocline.gradients.backprop import Backprop


def pull_back(run: Run, tensors: Sequence[Tensor], cotangent: Tensor, graph: bool) -> list[Tensor]:
    """The cotangents of a fused solve's tensors, themselves differentiable with `graph`, and mapped over where it is.

    Args:
        run: the solve.
        tensors: y0, the tables of its signals, its further numbers of each sample, then the leaves, with their graphs.
        cotangent: of the observations (T, B, N).
        graph: whether second derivatives are wanted.
    """
    problem = run.problem
    wanted = [i for i, x in enumerate(tensors) if x.requires_grad]
    with torch.enable_grad():
        y0, *others = (x if graph else x.detach().requires_grad_(x.requires_grad) for x in tensors)
        ys = Backprop().run(replace(problem, field=field_of(run, others), start=None), y0).ys
        sources = [(y0, *others)[i] for i in wanted]
        found = torch.autograd.grad(
            ys, sources, cotangent.to(ys.dtype), create_graph=graph, materialize_grads=True, retain_graph=graph
        )
    parts = dict(zip(wanted, found, strict=True))
    return [parts.get(i, torch.zeros_like(x)) for i, x in enumerate(tensors)]


def mapped(x: Tensor) -> bool:
    """Whether it stands for several, as with `is_grads_batched`."""
    return torch._C._functorch.is_batchedtensor(x) or torch._C._functorch.is_legacy_batchedtensor(x)
