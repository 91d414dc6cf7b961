"""Record the accepted steps, replay them one at a time on the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import torch
from torch import Tensor

from isocline.autocast import uncast
from isocline.engines import eager
from isocline.engines.eager import Problem, Trajectory
from isocline.gradients.base import Gradient, GradientError, Inputs, add_up
from isocline.solution import Stats
from isocline.solvers.memory import Remembering, embedded, visible


@dataclass(frozen=True)
class Checkpointed(Gradient):
    """The default: exact like `Backprop`, in the memory of the trajectory plus one step, and of what `graphs` allows.

    The way forward keeps each accepted step's start (t, h, y). The way back takes the steps from last to first,
    evaluates one again with a graph, and differentiates it: one extra forward in all. Every replay starts from the
    recorded state, so rounding does not drift. With shared steps, the first ones keep their graph, each its own, while
    that fits into `graphs`: they need not be evaluated again.

    Args:
        graphs: budget in bytes for the graphs of steps kept from the way forward, estimated from what the first
            evaluation saves; 0 takes every step again. Not used together with `memory`, nor with samples that step on
            their own.
        memory: budget in bytes for the recorded states, None for no limit. Beyond it only every second, fourth, …
            state is kept, and the missing ones are recomputed on the way back with the freed room, split binomially
            (unknown length: every second is dropped when full).
            The graph of one step and the observations themselves come on top.

    Second derivatives are right: with `create_graph=True` the whole trajectory is replayed as one graph (the memory of
    `Backprop`); third derivatives are refused.

    Source: A. Griewank, A. Walther, Algorithm 799: revolve, ACM Trans. Math. Softw. 26 (2000), under a budget.

    Example:
        >>> import torch, isocline
        >>> y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
        >>> isocline.solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=Checkpointed(memory=100)).ys[-1].sum().backward()
        >>> round(y0.grad.item(), 6)
        0.367879
    """

    memory: int | None = None
    graphs: int = 64 * 2**20

    def __post_init__(self) -> None:
        if not (isinstance(self.graphs, int) and self.graphs >= 0):
            raise ValueError(f"Checkpointed: graphs={self.graphs!r}, expected a number of bytes, 0 for none")
        if self.memory is not None and not (isinstance(self.memory, int) and self.memory > 0):
            raise ValueError(f"Checkpointed: memory={self.memory!r}, expected a positive number of bytes or None")

    def run(self, problem: Problem, y0: Tensor) -> Trajectory:
        inputs = Inputs.of(problem, y0)
        if not (y0.requires_grad or inputs.tensors):
            return eager.integrate(problem, y0)
        rows = len(problem.solver.begin(y0)) if isinstance(problem.solver, Remembering) else 1
        slots = None if self.memory is None else max(1, self.memory // max(1, rows * y0.numel() * y0.element_size()))
        problem.whole_states = slots is not None
        stages = problem.solver.tableau.dense_stages
        state = y0.numel() * y0.element_size()
        replayed = slots is not None or problem.field.layout.batch is not None or problem.solver.remembers
        segments = 0 if replayed else self.graphs // (stages * (inputs.saved + 2 * state) + 1)
        return run_plan(Plan(problem, inputs, Record(slots), segments), y0)


def run_plan(plan: Plan, y0: Tensor) -> Trajectory:
    """Solves by the plan; the way back takes its recorded steps again."""
    ys, dense_y, dense_hk = _Replayed.apply(plan, y0, *plan.inputs.tensors)
    trajectory, plan.trajectory = plan.trajectory, None
    assert trajectory is not None
    trajectory.ys = ys
    if plan.problem.dense:
        trajectory.dense_y, trajectory.dense_hk = [dense_y], [dense_hk]
    return trajectory


class Record:
    """The accepted steps of one solve; under a budget, with the states of every `stride`-th only."""

    def __init__(self, slots: int | None) -> None:
        self.slots = slots
        self.stride = 1
        self.steps: list[Any] = []

    def add(self, step: Any) -> None:
        index = len(self.steps)
        if self.slots is not None:
            if index % self.stride == 0 and index // self.stride >= self.slots:
                self.stride *= 2
                self.steps = [s if i % self.stride == 0 else s._replace(y=None) for i, s in enumerate(self.steps)]
            if index % self.stride:
                step = step._replace(y=None)
        self.steps.append(step)

    def end(self, trajectory: Trajectory) -> None:
        """Called once, when the last step has been added."""

    def backwards(self, advance: Any) -> Iterator[tuple[Any, Any]]:
        """(step, state at its start) from the last step to the first.

        Args:
            advance: `advance(step, y)` recomputes the start of the following step.
        """
        end = len(self.steps)
        for start in range((end - 1) // self.stride * self.stride, -1, -self.stride):
            free = end if self.slots is None else self.slots - start // self.stride - 1
            yield from self._segment(start, end, self.steps[start].y, free, advance)
            self.steps[start] = self.steps[start]._replace(y=None) if self.slots is not None else self.steps[start]
            end = start

    def _segment(self, start: int, end: int, y: Any, free: int, advance: Any) -> Iterator[tuple[Any, Any]]:
        """Steps start … end − 1 backwards, from the state at `start`, with room for `free` more states."""
        while end - start > 1:
            middle = start + split(end - start, free)
            z = y
            for i in range(start, middle):
                z = advance(self.steps[i], z)
            if free <= 0:
                yield self.steps[middle], z
            else:
                yield from self._segment(middle, end, z, free - 1, advance)
            end = middle
        yield self.steps[start], y


def split(length: int, free: int) -> int:
    """Where to put the next checkpoint in a run of `length` steps with `free` places left (Griewank & Walther 2000).

    Example:
        >>> split(10, 20), split(10, 3), split(10, 0)
        (1, 5, 9)
    """
    if free <= 0:
        return length - 1
    if free >= length - 1:
        return 1
    repeats = 0
    while comb(free + 1 + repeats, repeats) < length:
        repeats += 1
    return max(1, min(comb(free + repeats, repeats - 1), length - 1))


class Plan:
    """What the way forward leaves for the way back; it must not hold the outputs, or the graph would never be freed."""

    def __init__(self, problem: Problem, inputs: Inputs, record: Record | None = None, segments: int = 0) -> None:
        self.problem, self.inputs, self.segments = problem, inputs, segments
        self.solver = problem.solver
        self.record = record or Record(None)
        self.stats = Stats()
        self.trajectory: Trajectory | None = None

    def solve(self, y0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The way forward; the trajectory is handed over through `self`."""
        problem = self.problem
        if self.segments:
            problem = replace(problem, field=self.inputs.field)
            self.problem.start = None  # the loop takes it from its own problem, and drops the graph
        trajectory = eager.integrate(problem, y0, self.record.add, self.segments)
        self.inputs.field.batch_args = self.problem.field.batch_args
        self.stats, self.trajectory = trajectory.stats, trajectory
        self.record.end(trajectory)
        empty = y0.new_empty(0)
        dense = (
            (torch.cat(trajectory.dense_y), torch.cat(trajectory.dense_hk)) if trajectory.dense_y else (empty, empty)
        )
        trajectory.dense_y, trajectory.dense_hk = [], []
        return self.problem.field.shaped(trajectory.ys), *dense

    def pull_back(self, grad_ys: Tensor, grad_dense: tuple[Tensor, Tensor] | None) -> list[Tensor | None]:
        """Cotangents of y0 and of every source, from those of the observations and of the dense output."""
        field = self.inputs.field
        count = field.evaluations
        totals: list[Tensor | None] = [None] * len(self.inputs.sources)
        a, a_slope = torch.zeros_like(self._begin(grad_ys[0])), None
        offset = sum(step.accepted for step in self.record.steps)
        for step, state in self.record.backwards(lambda step, state: step.advance(field, self.solver, state)):
            offset -= step.accepted
            dense = None if grad_dense is None else [g[offset : offset + step.accepted] for g in grad_dense]
            gy, ghk, gy1 = step.pull_back(grad_ys)
            if dense is not None:
                dense_y, dense_hk = step.pull_back_dense(*dense)
                gy, ghk = _add(gy, dense_y), _add(ghk, dense_hk)
            if step.segment is None:
                a, parts = self._pull_step(step, state, a, gy, ghk, gy1)
            else:
                a, a_slope, parts = self._pull_segment(step, _add(a, gy1), a_slope, gy, ghk)
            add_up(totals, parts)
        self.stats.evaluations_backward += field.evaluations - count
        # Of a state no cotangent of the memory is left: the first step makes it of y.
        return [visible(a, grad_ys[0]) + self._at_start(grad_ys), *totals]

    def _begin(self, y: Tensor) -> Tensor:
        """The state where the solve starts: y, or that of a solver that remembers."""
        return self.solver.begin(y) if isinstance(self.solver, Remembering) else y

    def _pull_step(
        self, step: Any, state: Tensor, a: Tensor, gy: Any, ghk: Any, gy1: Any
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """One step back: the cotangent of the state after it to that before it, and the sources' share."""
        with torch.enable_grad():
            y = state if getattr(step, "whole", True) is False else step.start(state)
            y = y.detach().requires_grad_()
            y1, ks, scale = step.replay(self.inputs.field, self.solver, y, dense=ghk is not None)
            outputs, cotangents = [y1], [_add(step.start(a), embedded(gy1, y1))]
            if ghk is not None:
                used = [i for i, k in enumerate(ks) if k.requires_grad]
                outputs += [ks[i] for i in used]
                cotangents += [ghk[i] * scale for i in used]
            # retain_graph: the graph may run on into tensors that f captured, which the other steps need too.
            back, *parts = torch.autograd.grad(
                outputs, [y, *self.inputs.sources], cotangents, allow_unused=True, retain_graph=True
            )
        return step.merge(a, _add(back, embedded(gy, back))), parts

    def _pull_segment(
        self, step: Any, a: Tensor | None, a_slope: Tensor | None, gy: Any, ghk: Any
    ) -> tuple[Tensor, Tensor | None, Sequence[Tensor | None]]:
        """The same for a step that kept its graph; `a_slope` is the cotangent of its last stage, the next step's k₁."""
        segment = step.segment
        weights: list[Any] = [None] * len(segment.ks) if ghk is None else list((ghk * (step.t1 - step.t)).unbind(0))
        if a_slope is not None:
            last = self.solver.tableau.stages - 1
            weights[last] = _add(weights[last], a_slope)
        targets, first = [segment.y, *self.inputs.sources], None
        if segment.shares_slope:
            targets.append(segment.k1)
            first, weights[0] = weights[0], None
        used = [
            i for i, (k, w) in enumerate(zip(segment.ks, weights, strict=True)) if w is not None and k.requires_grad
        ]
        # retain_graph: as above, and for a second way back.
        back, *parts = torch.autograd.grad(
            [segment.y1, *(segment.ks[i] for i in used)],
            targets,
            [a, *(weights[i] for i in used)],
            allow_unused=True,
            retain_graph=True,
        )
        slope = _add(parts.pop(), first) if segment.shares_slope else None
        return _add(back, gy), slope, parts

    def _at_start(self, grad_ys: Tensor) -> Tensor:
        """Cotangent of the observations at t0 itself, which are y0."""
        ts = self.problem.ts
        if isinstance(ts, list):
            return grad_ys[0]
        here = (ts == ts[:, :1]).t().unsqueeze(2)
        return torch.where(here, grad_ys, 0.0).sum(0)

    def rebuild(self, y0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The whole trajectory again as one graph from `y0`: (ys, dense y, dense h·k)."""
        state, dense_y, dense_hk = self._begin(y0), [], []
        ys = self._rows_at_start(y0)
        index, values = [], []
        for step in self.record.steps:
            y = step.start(state)
            dense = step.interpolates or self.problem.dense
            after, ks, scale = step.replay(self.inputs.field, self.solver, y, dense)
            y, y1, hk = visible(y, y0), visible(after, y0), torch.stack(ks) * scale
            for into, part in zip((index, values), step.observations(y, y1, hk), strict=True):
                into.append(part)
            if self.problem.dense:
                for into, part in zip((dense_y, dense_hk), step.dense(y, hk), strict=True):
                    into.append(part)
            state = step.merge(state, after)
        if index:
            ys = ys.reshape(-1, y0.shape[-1]).index_copy(0, torch.cat(index), torch.cat(values)).view(ys.shape)
        empty = y0.new_empty(0)
        return ys, *((torch.cat(dense_y), torch.cat(dense_hk)) if dense_y else (empty, empty))

    def _rows_at_start(self, y0: Tensor) -> Tensor:
        ts = self.problem.ts
        if isinstance(ts, list):
            return torch.cat([y0[None], y0.new_full((len(ts) - 1, *y0.shape), torch.nan)])
        return torch.where((ts == ts[:, :1]).t().unsqueeze(2), y0, torch.nan)


class _Replayed(torch.autograd.Function):
    """(y0, args, parameters) -> (ys, dense y, dense h·k)."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, y0: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.plan = plan
        # Saved to notice changes in place between the two ways, parameters included.
        ctx.save_for_backward(y0, *tensors)
        return plan.solve(y0.detach())

    @staticmethod
    @uncast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        grad_ys, grad_y, grad_hk = cotangents
        plan: Plan = ctx.plan
        y0, *tensors = ctx.saved_tensors
        grad_ys = grad_ys.reshape(-1, *y0.shape)
        if torch.is_grad_enabled():
            grads = _SecondOrder.apply(plan, grad_ys, grad_y, grad_hk, y0, *tensors)
        else:
            grads = plan.pull_back(grad_ys, (grad_y, grad_hk) if plan.problem.dense else None)
        return (None, *grads)


class _SecondOrder(torch.autograd.Function):
    """The first derivative as a differentiable operation: from one graph of the whole trajectory.

    Replaying step by step with create_graph would treat the recorded states as constants and be silently wrong.
    The graph starts at stand-ins of y0 and the args, which may depend on each other outside of the solve.
    """

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, grad_ys: Tensor, grad_y: Tensor, grad_hk: Tensor, y0: Tensor, *tensors: Tensor
    ) -> Any:
        with torch.enable_grad():
            cotangents = [g.detach().requires_grad_() for g in (grad_ys, grad_y, grad_hk)]
            start = y0.detach().requires_grad_()
            count = plan.inputs.field.evaluations
            outputs = plan.rebuild(start)
            plan.stats.evaluations_backward += plan.inputs.field.evaluations - count
            pairs = [(o, g) for o, g in zip(outputs, cotangents, strict=True) if o.requires_grad]
            ctx.sources = [start, *plan.inputs.sources]
            ctx.cotangents = cotangents
            ctx.grads = torch.autograd.grad(
                [torch.where(o.isnan(), 0.0, o) for o, _ in pairs],
                ctx.sources,
                [g for _, g in pairs],
                create_graph=True,
                allow_unused=True,
            )
        return tuple(
            torch.zeros_like(s) if g is None else g.detach() for g, s in zip(ctx.grads, ctx.sources, strict=True)
        )

    @staticmethod
    @uncast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise GradientError("Checkpointed has first and second derivatives; for third ones use gradient='backprop'")
        pairs = [(g, c) for g, c in zip(ctx.grads, cotangents, strict=True) if g is not None and g.requires_grad]
        targets = [*ctx.cotangents, *ctx.sources]
        if not pairs:
            return (None, *[None] * len(targets))
        grads = torch.autograd.grad(
            [g for g, _ in pairs], targets, [c for _, c in pairs], allow_unused=True, retain_graph=True
        )
        return (None, *grads)


def _add(a: Any, b: Any) -> Any:
    """a + b, None meaning zero."""
    return b if a is None else a if b is None else a + b
