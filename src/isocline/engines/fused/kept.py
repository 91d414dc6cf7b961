"""A field's program from solve to solve, and what tells whether it still is the field's."""

from __future__ import annotations

import operator
import types
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from isocline.engines.fused.nodes import attribute
from isocline.engines.fused.traced import Traced
from isocline.engines.fused.watch import UnwatchedError, Watch

KIND, DTYPE = operator.attrgetter("dtype", "shape", "device"), operator.attrgetter("dtype")
MISSES = 3  # a field whose state is another in every call is watched no longer


@dataclass
class Kept:
    """A program that is kept, or why there is none.

    Attributes:
        traced: the program.
        reached: the leaves of autograd's graph that the field reached when it was made.
        refused: why it is none.
        sizes: the batches it was compared with the field at.
        worth: by batch, whether the machine is the quicker engine.
        watch: what tells whether the field is still the same, None where nothing can; of which `f` it is.
        misses: how often it said no.
    """

    traced: Traced | None = None
    reached: frozenset[int] = frozenset()
    refused: str = ""
    sizes: set[int] = field(default_factory=set)
    worth: dict[int, bool] = field(default_factory=dict)
    watch: Watch | None = None
    f: Callable[[], Any] | None = None
    misses: int = 0

    def __post_init__(self) -> None:
        self.direct: list[Tensor] | None = None  # the leaves, where they are what the field holds
        self.held, self.kinds = [], []
        if self.traced is None:
            return
        graph, leaves = self.traced.graph, self.traced.leaves
        if all(leaf.index is None and leaf.node.op == "get_attr" for leaf in leaves):
            self.direct = [attribute(graph, str(leaf.node.target)) for leaf in leaves]
        self.held = self.traced.held()
        self.kinds = list(map(KIND, self.held))

    def look(self, f: Callable[..., Any]) -> None:
        """Begins to watch `f`; nothing where that cannot be done."""
        self.watch = None
        if self.misses >= MISSES:
            return
        try:
            self.f, self.watch = (
                weakref.ref(f) if not isinstance(f, types.MethodType) else weakref.WeakMethod(f),
                Watch(f),
            )
        except (UnwatchedError, TypeError):
            self.misses = MISSES

    def sure(self, f: Callable[..., Any]) -> bool:
        """Whether `f` is known to be what it was."""
        if self.watch is None or self.f is None or self.f() != f:
            return False
        if self.watch.holds():
            return list(map(KIND, self.held)) == self.kinds
        self.watch, self.misses = None, self.misses + 1
        return False

    def leaves(self, shared: Sequence[Tensor]) -> list[Tensor]:
        """The program's leaves as they are now."""
        assert self.traced is not None
        if self.direct is not None and {self.traced.dtype}.issuperset(map(DTYPE, self.direct)):
            return self.direct
        return self.traced.prologue(shared)
