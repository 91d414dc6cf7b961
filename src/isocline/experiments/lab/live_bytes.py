"""The memory of a computation, counted and not guessed from the size of the process."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """The bytes of all tensors made inside and still alive, and their peak.

    Every operation passes here below autograd, those of the way back included, so what autograd saves in C++ is seen
    as well as what Python holds. A storage counts once, from the first tensor on it until it is freed; what an operation
    allocates and frees within itself is not seen. Unlike the size of the process this does not depend on the allocator.

    Example:
        >>> import torch
        >>> with LiveBytes() as live:
        ...     x = torch.zeros(100) + 1.0
        >>> live.now, live.peak
        (400, 800)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in tree_leaves((args, kwargs)):  # not made inside: the inputs
            self._see(given, 0)
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            self._see(made, None)
        return out

    def _see(self, x: Any, size: int | None) -> None:
        if not isinstance(x, Tensor):
            return
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        nbytes = storage.nbytes() if size is None else size

        def freed(_: Any) -> None:
            self.now -= nbytes
            del self.known[key]

        self.known[key] = weakref.ref(storage, freed)
        self.now += nbytes
        self.peak = max(self.peak, self.now)


def peak_bytes(run: Callable[[], Tensor]) -> int:
    """The peak of `run`, which returns a 0-d loss, and of the way back from it."""
    with LiveBytes() as live:
        run().backward()
    return live.peak
