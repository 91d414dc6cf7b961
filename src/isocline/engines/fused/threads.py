"""How many threads the machine takes: as many as PyTorch, unless a program says otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PROCESSORS = os.cpu_count() or 1
WORTH = 500_000  # cycles of a solve from which another thread, which takes some 50 µs to begin, is worth it

_own: list[int] = []  # of programs that said so, the last counts


def threads(work: float) -> int:
    """Of a solve of about so many cycles; the numbers are the same for any."""
    if work < WORTH:
        return 1
    return max(1, min(_own[-1] if _own else torch.get_num_threads(), PROCESSORS))


@contextmanager
def alone_with(count: int) -> Iterator[None]:
    """Solves take at most `count` threads, whatever PyTorch does.

    A fit's other operations are on small matrices: with several threads they only wait for each other.

    Example:
        >>> with alone_with(1):
        ...     threads(1e9)
        1
    """
    _own.append(count)
    try:
        yield
    finally:
        _own.pop()
