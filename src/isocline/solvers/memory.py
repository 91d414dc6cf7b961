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
from isocline.control import PID
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
        dense, dense_order: polynomials in θ without constant term, of the interpolant; or with `dense_center`, in θ minus that.
        extra_c: nodes of further rows, made by `Remembering.taken_extra` for the interpolant alone.

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
    extra_c: tuple[float, ...] = ()
    dense_center: float = 0.0
    fsal: bool = field(default=True, init=False)

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def dense_stages(self) -> int:
        return len(self.b) + len(self.extra_c)

    @property
    def a(self) -> Rows:
        return tuple((0.0,) * i for i in range(1, self.stages))

    @property
    def extra_a(self) -> Rows:
        return tuple((0.0,) * i for i in range(self.stages, self.dense_stages))


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

    def retaken(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        state: Tensor,
        k1: Tensor,
        paces: Tensor | None,
        note: Any,
        dense: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """A recorded step, as by `taken`; without `dense` rows that only the interpolant needs may be missing at the end."""
        return self.taken(field, times, scale, state, k1, paces, note)

    def taken_extra(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        state: Tensor,
        rows: Sequence[Tensor],
        paces: Tensor | None = None,
    ) -> list[Tensor]:
        """The rows that the interpolant needs beyond those of the step; arguments as above, `times` are theirs."""
        raise NotImplementedError

    def note_after(self, note: Any, h: float) -> Any:
        """The note of the step after a fixed one of length h that had `note`, None the first; where it follows from these."""
        return None

    def workspace(self, y: Tensor, field: VectorField) -> MemoryWorkspace:
        return MemoryWorkspace(self, y, field)


class MemoryWorkspace(Workspace):
    """The buffer of one solve without a graph, and the memory.

    Attributes:
        state: at the start of the step, (1 + M, …), as the step before left it; None before the first.
        fresh: whether the memory is to be begun there; a bool, or (R,) of the rows.
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
        self.any_fresh = True
        self.note: tuple[Any, ...] | None = None

    def at(self, y: Tensor) -> Tensor:
        """The state there, its memory begun anew where that is due."""
        if not self.any_fresh:
            assert self.state is not None
            return self.state
        begun = self.solver.begin(y)
        return begun if self.state is None or not self.by_row else torch.where(self.fresh[:, None], begun, self.state)

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
        stages = len(rows)
        self.K[1:stages].copy_(torch.stack(rows[1:]))
        last = self.rows[stages - 1]
        self.last = last if paces is None else last / torch.where(paces == 0, 1.0, paces)
        return self.after[0]

    def step_extra(
        self,
        f: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor],
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        paces: Tensor | None = None,
    ) -> None:
        """As `Workspace.step_extra`."""
        column, stages = None if paces is None else paces.reshape(len(y), -1)[:, :1], self.solver.tableau.stages
        rows = self.solver.taken_extra(self.field, times, scale, self.at(y), self.K[:stages].unbind(0), column)
        self.K[stages:].copy_(torch.stack(rows))

    def record(self, y: Tensor) -> dict[str, Any]:
        """What a recorded step keeps of the start of the step just taken."""
        return {"y": self.solver.begin(y) if self.state is None else self.state, "fresh": self.fresh, "note": self.note}

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

    def steer(self, factor: Any, ratio: Any, accepted: Any, controller: PID) -> Any:
        """The change of h after the step just tried, before it is accepted, for methods that know better than the controller.

        Args:
            factor: the controller's own.
            ratio: the norm of the error over its tolerance.
            accepted: whether the step will be; these three numbers, or (R,) of the rows.
            controller: its settings.
        """
        return factor

    def accept(self, y: Tensor, accepted: Tensor | None = None) -> None:
        """The step just taken from `y` becomes the past, of those rows."""
        assert self.after is not None
        if accepted is None:
            self.state, self.any_fresh = self.after, False
            self.fresh = torch.zeros_like(self.fresh) if self.by_row else False
        else:
            before = self.solver.begin(y) if self.state is None else self.state
            self.state = torch.where(accepted.unsqueeze(1), self.after, before)
            self.fresh = self.fresh & ~accepted

    def forget(self, rows: Tensor | None = None) -> None:
        """The memory is begun anew, of those rows."""
        self.fresh = True if rows is None else self.fresh | rows
        self.any_fresh = True

    # For methods that step some rows otherwise than others: the engine tells, before a step, whether f treats rows alone.
    undecided = False

    def decide(self, alone: bool) -> None:
        """What was `undecided`."""

    def calls_missed(self) -> Tensor | None:
        """How many calls of f were not for a row, (R,); None: all were for all."""
        return None

    def go_on(self, before: MemoryWorkspace, rows: Tensor) -> None:
        """Takes over the memory of another workspace, of those rows of it."""
        if before.state is not None:
            self.state = before.state.index_select(1, rows)
        self.fresh, self.any_fresh = before.fresh.index_select(0, rows), before.any_fresh


def visible(state: Tensor, like: Tensor) -> Tensor:
    """y of a state; the state itself where that is all there is, as `like` has the dimensions of y."""
    return state if state.dim() == like.dim() else state[0]


def embedded(y: Tensor | None, like: Tensor) -> Tensor | None:
    """A cotangent of y as one of the state `like`."""
    if y is None or y.dim() == like.dim():
        return y
    return torch.cat((y[None], torch.zeros_like(like[1:])))
