"""Accepted steps as they are recorded, and how each is taken again: forwards, with a graph, and backwards.

`SharedStep` is a step of the whole state; `RowStep` one of those samples that accepted it. Gradients treat them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.engines.eager.observations import Inner
from isocline.field import VectorField
from isocline.solvers.memory import Remembering
from isocline.solvers.runge_kutta import RungeKutta


def stage_times(c: Sequence[float], t: float, t1: float, low: float, high: float) -> list[float]:
    """t + c_i h, never outside [low, high]: the node c = 1 is `high` exactly, not t + h with its rounding.

    A method with a node beyond 1 asks there.
    """
    h = t1 - t
    nearest = min if h > 0 else max
    return [low if ci == 0 else high if ci == 1 else nearest(t + ci * h, high) if ci < 1 else t + ci * h for ci in c]


class Segment(NamedTuple):
    """The graph of one step, kept from the way forward: from `y`, and from `k1` where that is a leaf, to `y1` and `ks`."""

    y: Tensor
    k1: Tensor
    y1: Tensor
    ks: Sequence[Tensor | None]

    def of_last_stage(self, stages: int, fsal: bool) -> Segment:
        """Without the stages that nothing but y₁ depends on: all, or all but the last, with which the next step begins."""
        return self._replace(ks=[*[None] * (stages - 1), self.ks[stages - 1] if fsal else None])

    @property
    def shares_slope(self) -> bool:
        """k₁ is the last stage of the step before, whose cotangent is handed on to it."""
        return self.k1.is_leaf


class SharedStep(NamedTuple):
    """From `t` to `t1`; `f` sees times from `low` to `high` (moved inside at jumps).

    Observations first … last − 1 lie in it: those strictly inside have `weights` b_i(θ), (m, s); the rest is at its end.
    `y` is the state at its start, None where a checkpoint was dropped. `segment` is its graph, where that was kept.
    Of a solver that remembers, `y` is the whole state, `fresh` whether its memory was begun there, and `note` what the
    workspace noted.
    """

    t: float
    t1: float
    low: float
    high: float
    first: int
    last: int
    weights: Tensor | None
    y: Tensor | None
    segment: Segment | None
    fresh: bool = False
    note: Any = None

    @property
    def accepted(self) -> int:
        """How many rows of the dense output it makes."""
        return 1

    @property
    def interpolates(self) -> bool:
        """Whether an observation lies inside it."""
        return self.weights is not None

    def times(self, field: VectorField, c: Sequence[float]) -> Sequence[Tensor]:
        """The time handed to each stage."""
        return field.times(stage_times(c, self.t, self.t1, self.low, self.high))

    def replay(
        self, field: VectorField, solver: RungeKutta, y: Tensor, dense: bool
    ) -> tuple[Tensor, list[Tensor], float]:
        """The step again from `y` with a graph: y₁, the stages, and the factor that turns a stage into h·k.

        Without `dense` those that only the interpolant or the next step needs are missing.
        """
        h = self.t1 - self.t
        times = self.times(field, solver.tableau.c)
        if isinstance(solver, Remembering):
            state = solver.begin(y[0]) if self.fresh else y
            k1 = field(times[0], solver.anchor(state))
            after, ks = solver.retaken(field, times, h, state, k1, None, self.note, dense)
            if dense and solver.tableau.extra_c:
                ks += solver.taken_extra(field, self.times(field, solver.tableau.extra_c), h, state, ks)
            return after, ks, h
        y1, ks = solver.recorded(field, times, h, y, field(times[0], y), last_stage=dense)
        if dense and solver.tableau.extra_c:
            ks = solver.recorded_extra(field, self.times(field, solver.tableau.extra_c), h, y, ks)
        return y1, ks, h

    def advance(self, field: VectorField, solver: RungeKutta, state: Tensor) -> Tensor:
        """The step again without a graph, by the kernel of the way forward: the next step's start, to the bit."""
        if isinstance(solver, Remembering):
            return self.replay(field, solver, state, dense=False)[0]
        workspace = solver.workspace(state, field)
        times = self.times(field, solver.tableau.c)
        field.fill(times[0], field.shaped(state), workspace.rows[0])
        return workspace.step(field.fill, times, self.t1 - self.t, state)

    def undo(self, field: VectorField, solver: Any, state: Tensor) -> Tensor:
        """The state at its start from that at its end, of a solver that can."""
        return solver.undone(field, self.times(field, solver.tableau.c), self.t1 - self.t, state)

    def start(self, state: Tensor) -> Tensor:
        """The part of the state that takes this step: all of it."""
        return state

    def merge(self, state: Tensor, part: Tensor) -> Tensor:
        """The state after that part has changed."""
        return part

    def observations(self, y: Tensor, y1: Tensor, hk: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the flat output it writes, and what it writes there."""
        index = torch.arange(self.first, self.last, device=y.device)
        inner = 0 if self.weights is None else len(self.weights)
        rows = [] if self.weights is None else [torch.addmm(y, self.weights, hk)]
        return index, torch.cat([*rows, y1.expand(self.last - self.first - inner, -1)])

    def pull_back(self, grad_ys: Tensor) -> tuple[Any, Any, Any]:
        """Cotangents of the observations -> of y, of h·k (s, N), of y₁; None where there are none."""
        if self.last == self.first:
            return None, None, None
        grads = grad_ys[self.first : self.last]
        if self.weights is None:
            return None, None, grads.sum(0)
        inner = len(self.weights)
        at_end = grads[inner:].sum(0) if len(grads) > inner else None
        return grads[:inner].sum(0), self.weights.t() @ grads[:inner], at_end

    def dense(self, y: Tensor, hk: Tensor) -> tuple[Tensor, Tensor]:
        """Its rows of the dense output: (1, N) and (1, s, N)."""
        return y[None], hk[None]

    def pull_back_dense(self, grad_y: Tensor, grad_hk: Tensor) -> tuple[Tensor, Tensor]:
        """Their cotangents -> of y and of h·k."""
        return grad_y[0], grad_hk[0]


class RowStep(NamedTuple):
    """One step of the samples `rows`, each with its own t, t1 (r,); at jumps `f` sees times from low to high.

    `inner` are the observations inside; or, where every step ends at one, `ends` are (position in `rows`, row of the
    flat output) of those at its end. `y` is (r, N), or the whole batch (B, N) where checkpoints are thinned
    (`whole`). Of a solver that remembers it is the state, (1 + M, r, N) or (1 + M, B, N); `fresh` (r,) says whose memory
    was begun there, `moved` (r,) who took the step at all, and `note` is what the workspace noted.
    """

    rows: Tensor
    t: Tensor
    t1: Tensor
    low: Tensor
    high: Tensor
    inner: Inner | None
    ends: tuple[Tensor, Tensor] | None
    whole: bool
    y: Tensor | None
    segment: None = None  # steps of samples are always taken again
    fresh: Any = None
    moved: Any = None
    note: Any = None

    @property
    def accepted(self) -> int:
        """How many rows of the dense output it makes."""
        return len(self.rows)

    @property
    def interpolates(self) -> bool:
        """Whether an observation lies inside it, or at the end of one of its rows."""
        return self.inner is not None

    def times(self, field: VectorField, c: Sequence[float]) -> Sequence[Tensor]:
        """The time handed to each stage."""
        return row_times(field, stage_nodes(c, self.t), self.t, self.t1, self.low, self.high)

    def replay(
        self, field: VectorField, solver: RungeKutta, y: Tensor, dense: bool
    ) -> tuple[Tensor, list[Tensor], float]:
        """The step again from `y` (r, N) with a graph: y₁, the stages (h·k already), and 1; `dense` as above."""
        field = field.of_rows(self.rows)
        times = self.times(field, solver.tableau.c)
        h = (self.t1 - self.t).to(y.dtype).unsqueeze(1)
        if isinstance(solver, Remembering):
            state = torch.where(self.fresh.unsqueeze(1), solver.begin(y[0]), y)
            k1 = field(times[0], solver.anchor(state)) * h
            after, ks = solver.retaken(field, times, 1.0, state, k1, h, self.note, dense)
            if dense and solver.tableau.extra_c:
                ks += solver.taken_extra(field, self.times(field, solver.tableau.extra_c), 1.0, state, ks, h)
            return torch.where(self.moved.unsqueeze(1), after, state), ks, 1.0
        y1, ks = solver.recorded(field, times, 1.0, y, field(times[0], y) * h, h, last_stage=dense)
        if dense and solver.tableau.extra_c:
            ks = solver.recorded_extra(field, self.times(field, solver.tableau.extra_c), 1.0, y, ks, h)
        return y1, ks, 1.0

    def advance(self, field: VectorField, solver: RungeKutta, state: Tensor) -> Tensor:
        """The step again without a graph; `state` is (B, N)."""
        y = self.start(state)
        if isinstance(solver, Remembering):
            return self.merge(state, self.replay(field, solver, y, dense=False)[0])
        part = field.of_rows(self.rows)
        workspace = solver.workspace(y, part)
        times = self.times(part, solver.tableau.c)
        h = workspace.paces(self.t1 - self.t)
        part.fill(times[0], field.shaped(y), workspace.rows[0], h)
        return self.merge(state, workspace.step(part.fill, times, 1.0, y, h))

    def undo(self, field: VectorField, solver: Any, state: Tensor) -> Tensor:
        """The whole state at its start from that at its end, of a solver that can."""
        after, field = self.start(state), field.of_rows(self.rows)
        h = (self.t1 - self.t).to(state.dtype).unsqueeze(1)
        before = solver.undone(field, self.times(field, solver.tableau.c), 1.0, after, h)
        return self.merge(state, before if self.moved is None else torch.where(self.moved.unsqueeze(1), before, after))

    def start(self, state: Tensor) -> Tensor:
        """The rows that take this step, of a (…, B, N) tensor."""
        return state.index_select(-2, self.rows)

    def merge(self, state: Tensor, part: Tensor) -> Tensor:
        """The (…, B, N) tensor after those rows have changed."""
        return state.index_copy(-2, self.rows, part)

    def observations(self, y: Tensor, y1: Tensor, hk: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the flat output (T·B, N) it writes, and what it writes there."""
        index, values = [], []
        if self.inner is not None:
            sample, row, weights = self.inner.value
            index.append(row)
            values.append(y[sample] + torch.einsum("ms,smn->mn", weights, hk[:, sample]))
        if self.ends is not None:
            index.append(self.ends[1])
            values.append(y1[self.ends[0]])
        if not index:
            return self.rows[:0], y[:0]
        return torch.cat(index), torch.cat(values)

    def pull_back(self, grad_ys: Tensor) -> tuple[Any, Any, Any]:
        """Cotangents of the observations -> of y, of h·k (s, r, N), of y₁; None where there are none."""
        flat = grad_ys.reshape(-1, grad_ys.shape[-1])
        gy = ghk = gy1 = None
        if self.inner is not None:
            sample, row, weights = self.inner.value
            grads = flat[row]
            gy = flat.new_zeros(len(self.rows), flat.shape[1]).index_add_(0, sample, grads)
            ghk = flat.new_zeros(weights.shape[1], *gy.shape)
            ghk.index_add_(1, sample, torch.einsum("ms,mn->smn", weights, grads))
        if self.ends is not None:
            gy1 = flat.new_zeros(len(self.rows), flat.shape[1]).index_add_(0, self.ends[0], flat[self.ends[1]])
        return gy, ghk, gy1

    def dense(self, y: Tensor, hk: Tensor) -> tuple[Tensor, Tensor]:
        """Its rows of the dense output: (r, N) and (r, s, N)."""
        return y, hk.transpose(0, 1)

    def pull_back_dense(self, grad_y: Tensor, grad_hk: Tensor) -> tuple[Tensor, Tensor]:
        """Their cotangents -> of y and of h·k."""
        return grad_y, grad_hk.transpose(0, 1)


def stage_nodes(c: Sequence[float], t: Tensor) -> Tensor:
    """c as a column, in the dtype of the clock."""
    return t.new_tensor(c).unsqueeze(1)


def row_times(field: VectorField, c: Tensor, t: Tensor, t1: Tensor, low: Tensor, high: Tensor) -> Sequence[Tensor]:
    """The time handed to each stage, (r, 1, …, 1) in the field's dtype; all stages at once.

    `lerp` ends at t1 exactly, where t + 1·(t1 − t) would round; at jumps the result is held inside [low, high].
    """
    times = torch.lerp(t, t1, c)
    if low is not t or high is not t1:
        first, last = torch.minimum(low, high), torch.maximum(low, high)
        times = torch.where((c < 0) | (c > 1), times, times.maximum(first).minimum(last))
    return times.to(field.time_dtype).view(*times.shape, *field.time_tail).unbind(0)
