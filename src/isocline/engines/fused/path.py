"""The accepted steps of a solve on the machine, for whoever looks between observations: their stages are evaluated once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.engines.eager.problem import Trajectory
from isocline.engines.eager.steps import RowStep
from isocline.engines.fused.played import Played
from isocline.field import VectorField
from isocline.inputs import evaluate

AT_ONCE = 8192  # steps: a graph of all would be that of plain backpropagation


def field_of(run: Any, others: Sequence[Tensor]) -> VectorField:
    """The program of a run as a field in PyTorch's operations.

    Args:
        run: a `Run`.
        others: the tensors beside y0 that its result depends on: tables of its signals, further numbers of each sample, leaves.
    """
    knots = [knots for knots, _ in run.signals]
    driven, further = len(knots), len(run.shapes)
    played = Played(run.traced.program, driven + further)
    own = [i for i, ts in enumerate(knots) if len(ts) > 1]

    def field(t: Tensor, y: Tensor, *given: Tensor) -> Tensor:
        rows, tables, rest = given[: len(own)], given[len(own) : len(own) + driven], given[len(own) + driven :]
        at = dict(zip(own, rows, strict=True))
        pairs = [(at.get(i, ts), table, i in at) for i, (ts, table) in enumerate(zip(knots, tables, strict=True))]
        values = [evaluate(ts, table, t, each) for ts, table, each in pairs]
        return played(t, y, *(u.expand(len(y), *u.shape[1:]) for u in values), *rest)

    flat = VectorField(field, run.problem.field.layout, (*(knots[i] for i in own), *others))
    first = len(own)
    by_sample = [*range(first), *(first + i for i in own), *range(first + driven, first + driven + further)]
    flat.batch_args = frozenset(by_sample)
    return flat


class Steps:
    """Accepted steps, sample by sample.

    Args:
        run: the solve, done, with its tape.

    Attributes:
        rows, t, t1: (n,) whose each is, and from when to when.
        y: (n, N), where they began.
        first: (B,), where the steps of each sample begin.
    """

    def __init__(self, run: Any) -> None:
        self.solver, self.dtype = run.problem.solver, run.problem.field.time_dtype
        self.first, self.t, self.t1, leaves, meets, self.y = run.path()
        self.rows = torch.arange(run.counts.samples).repeat_interleave(run.counts.accepted)
        self.low, self.high = self.t, self.t1
        if bool((leaves | meets).any()):  # f is asked beside a jump
            ends = self.t.to(self.dtype), self.t1.to(self.dtype)
            inside = [torch.nextafter(*x).to(self.t.dtype) for x in (ends, ends[::-1])]
            self.low, self.high = torch.where(leaves, inside[0], self.t), torch.where(meets, inside[1], self.t1)

    def _taken(self, at: Tensor | slice, field: VectorField, y: Tensor) -> Tensor:
        """h·k of some steps, (r, s, N)."""
        step = RowStep(self.rows[at], self.t[at], self.t1[at], self.low[at], self.high[at], None, None, False, y)
        _, hk, _ = step.replay(field, self.solver, y, dense=True)
        return torch.stack(hk, 1)

    @torch.no_grad()
    def hk(self, run: Any, others: Sequence[Tensor]) -> Tensor:
        """h·k of the stages of all, (n, s, N)."""
        field, stages = field_of(run, others), self.solver.tableau.dense_stages
        run.counts.evaluations += run.counts.accepted * stages
        found = self.y.new_empty(len(self.y), stages, self.y.shape[1])
        for start in range(0, len(self.y), AT_ONCE):
            at = slice(start, start + AT_ONCE)
            found[at] = self._taken(at, field, self.y[at])
        return found

    @torch.enable_grad()
    def pull_back(self, run: Any, others: Sequence[Tensor], grad_hk: Tensor) -> list[Tensor]:
        """Cotangents of h·k -> of `y`, and of each of `others`."""
        sources = [x.detach().requires_grad_(x.requires_grad) for x in others]
        field, wanted = field_of(run, sources), [x for x in sources if x.requires_grad]
        grad_y, totals = torch.zeros_like(self.y), [torch.zeros_like(x) for x in wanted]
        asked = (grad_hk != 0).flatten(1).any(1).nonzero().squeeze(1)
        for at in asked.split(AT_ONCE) if len(asked) else ():
            y = self.y[at].requires_grad_()
            of_y, *parts = torch.autograd.grad(
                self._taken(at, field, y), [y, *wanted], grad_hk[at], materialize_grads=True
            )
            grad_y[at] = of_y
            for total, part in zip(totals, parts, strict=True):
                total += part
        each = iter(totals)
        return [grad_y, *(next(each) if x.requires_grad else torch.zeros_like(x) for x in sources)]


def look_between(trajectory: Trajectory, steps: Steps, y: Tensor, hk: Tensor) -> Trajectory:
    """A trajectory with its steps, as the eager engine leaves them with `dense`."""
    trajectory.steps, trajectory.dense_y, trajectory.dense_hk = [(steps.rows, steps.t, steps.t1)], [y], [hk]
    return trajectory
