"""Whether a program computes what its field does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def reached(x: Tensor) -> frozenset[int]:
    """The identities of the leaves of autograd's graph that a tensor hangs on.

    Example:
        >>> a, b = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        >>> reached(a * 2) == {id(a)}, reached((a + b).detach())
        (True, frozenset())
    """
    waiting, seen, found = [x.grad_fn], set(), set()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [before for before, _ in node.next_functions]
    return frozenset(found)


def near(ours: Sequence[Tensor], exact: Sequence[Tensor], pulled: float = 0.0) -> bool:
    """Whether tensors agree but for rounding: each in units of its own size, and what is nothing but the rounding of the
    largest of them left out.

    Args:
        ours, exact: the tensors.
        pulled: of gradients, the size of the cotangents they were pulled back from: what cancels leaves a rounding of it.

    Example:
        >>> near([torch.tensor([1e-6])], [torch.tensor([1.1e-6])]), near([torch.tensor(1.0)], [torch.tensor(1.00001)])
        (False, True)
    """
    sizes = [float(b.detach()[b.isfinite()].abs().max()) if bool(b.isfinite().any()) else 0.0 for b in exact]
    for a, b, size in zip(ours, exact, sizes, strict=True):
        eps = torch.finfo(b.dtype).eps
        slack = max(1e4 * eps * max(size, eps**0.5 * max(sizes)), eps * pulled)
        finite = b.isfinite()
        if not torch.equal(a.isfinite(), finite) or bool(((a - b)[finite].abs() > slack).any()):
            return False
    return True
