"""Methods that remember: what a step leaves for the next is more than y and the slope there.

The *state* of such a method is y and its memory, stacked: (1 + M, …), y first. A step takes it from one state to the
next; the engines see the rows of a step's buffer `K`, of which y₁, the error and the interpolant are sums as of any
method. They begin the memory anew, as a function of y, where a solve starts and where f jumps: such a step is *fresh*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.runge_kutta import RungeKutta, Workspace

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class StepRows:
    """What the engines read of the rows that a step with a memory leaves: as of a tableau, but nothing is computed by it.

    Args:
        c: where f may be asked, as fractions of a step, the first 0; these times are handed to the step.
        order, embedded_order: of the solution, and one less than that of the error estimate's power of h.
        b, b_error: y₁ = y + h Σ b_i K_i, and the error estimate h Σ b_error_i K_i; None: fixed steps alone.
        dense, dense_order: polynomials in θ without constant term, of the interpolant.

    Row 0 is the slope at the start of a step, the last one that at its end.
    """

    c: tuple[float, ...]
    order: int
    b: tuple[float, ...]
    dense: Rows
    dense_order: int
    b_error: tuple[float, ...] | None = None
    embedded_order: int = 0
    explicit: bool = True
    fsal: bool = field(default=True, init=False)
    extra_c: tuple[float, ...] = field(default=(), init=False)
    extra_a: Rows = field(default=(), init=False)
    dense_center: float = field(default=0.0, init=False)

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def dense_stages(self) -> int:
        return len(self.b)

    @property
    def a(self) -> Rows:
        return tuple((0.0,) * i for i in range(1, len(self.b)))


@dataclass(frozen=True)
class Remembering(RungeKutta, abstract=True):
    """Base of the methods with a memory.

    Example:
        >>> from isocline.solvers import ReversibleHeun, Tsit5
        >>> ReversibleHeun.remembers, Tsit5.remembers
        (True, False)
    """

    remembers: ClassVar[bool] = True

    def begin(self, y: Tensor) -> Tensor:
        """The state where a solve starts: y and the memory made of it, (1 + M, *y.shape)."""
        raise NotImplementedError

    def anchor(self, state: Tensor) -> Tensor:
        """Where the slope at the start of a step is asked: y."""
        return state[0]

    def taken(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        state: Tensor,
        k1: Tensor,
        paces: Tensor | None = None,
        note: Any = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """One step, in operations that autograd may record: the next state, and the rows of the step.

        Args:
            field: `field(time, y)`, flat in and out.
            times: the times at the nodes `c`.
            scale: h, or 1 where `paces` are given.
            state: at the start of the step.
            k1: f at `anchor(state)`, times `paces`.
            paces: the rows' step sizes (R, 1); the rows of the step are then times those.
            note: what the workspace noted when it took the step.
        """
        raise NotImplementedError

    def workspace(self, y: Tensor, field: VectorField) -> MemoryWorkspace:
        return MemoryWorkspace(self, y, field)


class MemoryWorkspace(Workspace):
    """The buffer of one solve without a graph, and the memory.

    Attributes:
        state: at the start of the step, (1 + M, …); None where the memory is to be begun.
        fresh: whether it has just been begun; a bool, or (R,) of the rows.
        note: of the step last tried: what else `Remembering.taken` needs to take it again, a tuple of anything, or where
            samples step on their own of tensors whose first dimension is the rows'; None: nothing.
    """

    def __init__(self, solver: Remembering, y: Tensor, field: VectorField) -> None:
        super().__init__(solver.tableau, y, field.shaped)
        self.solver, self.field = solver, field
        self.by_row = y.dim() == 2
        self.state: Tensor | None = None
        self.after: Tensor | None = None
        self.fresh: Any = torch.ones(len(y), dtype=torch.bool, device=y.device) if self.by_row else True
        self.note: tuple[Any, ...] | None = None

    def at(self, y: Tensor) -> Tensor:
        """The state there."""
        if self.state is None:
            self.state = self.solver.begin(y)
        return self.state

    def step(
        self,
        f: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor],
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        paces: Tensor | None = None,
    ) -> Tensor:
        """As `Workspace.step`; the memory stays as it is until the step is accepted."""
        column = None if paces is None else paces.reshape(len(y), -1)[:, :1]
        self.after, rows = self.solver.taken(self.field, times, scale, self.at(y), self.K[0], column, self.note)
        torch.stack(rows[1:], out=self.K[1:])
        self.last = self.rows[-1] if paces is None else self.rows[-1] / torch.where(paces == 0, 1.0, paces)
        return self.after[0]

    def record(self, y: Tensor) -> dict[str, Any]:
        """What a recorded step keeps of the start of the step just taken."""
        return {"y": self.at(y), "fresh": self.fresh, "note": self.note}

    @staticmethod
    def picked(record: dict[str, Any], rows: Tensor) -> dict[str, Any]:
        """The same of those rows."""
        note = record["note"]
        return {
            "y": record["y"].index_select(1, rows),
            "fresh": record["fresh"].index_select(0, rows),
            "note": None if note is None else tuple(x.index_select(0, rows) for x in note),
        }

    def anchor(self, y: Tensor) -> Tensor:
        """Where the slope at the start of a step is asked."""
        return self.solver.anchor(self.at(y))

    def accept(self, accepted: Tensor | None = None) -> None:
        """The step just taken becomes the past, of those rows."""
        assert self.after is not None and self.state is not None
        if accepted is None:
            self.state = self.after
            self.fresh = torch.zeros_like(self.fresh) if self.by_row else False
        else:
            self.state = torch.where(accepted.unsqueeze(1), self.after, self.state)
            self.fresh = self.fresh & ~accepted

    def forget(self, y: Tensor, rows: Tensor | None = None) -> None:
        """Begins the memory anew, of those rows."""
        begun = self.solver.begin(y)
        if rows is None or self.state is None:
            self.state, self.fresh = begun, torch.ones_like(self.fresh) if self.by_row else True
        else:
            self.state, self.fresh = torch.where(rows.unsqueeze(1), begun, self.state), self.fresh | rows

    def go_on(self, before: MemoryWorkspace, rows: Tensor) -> None:
        """Takes over the memory of another workspace, of those rows of it."""
        if before.state is not None:
            self.state = before.state.index_select(1, rows)
        self.fresh = before.fresh.index_select(0, rows)


def visible(state: Tensor, like: Tensor) -> Tensor:
    """y of a state; the state itself where that is all there is, as `like` has the dimensions of y."""
    return state if state.dim() == like.dim() else state[0]


def embedded(y: Tensor | None, like: Tensor) -> Tensor | None:
    """A cotangent of y as one of the state `like`."""
    if y is None or y.dim() == like.dim():
        return y
    return torch.cat((y[None], torch.zeros_like(like[1:])))
