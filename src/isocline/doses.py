"""Doses: known times at which the state jumps. A solve with them is ordinary solves from dose to dose.

No engine and no gradient method knows of doses. A dose acts on the state between two solves, so its amount gets its
gradient from autograd, and its time from the two identities that give every end and every start of a solve theirs
(`gradients.times`): with a the cotangent after the dose, ⟨Jᵀa, f(t, y⁻)⟩ − ⟨a, f(t, y⁺)⟩, J = ∂y⁺/∂y⁻.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.engines.eager import Problem, Trajectory
from isocline.engines.eager.problem import Failure
from isocline.events import Watch
from isocline.field import Layout
from isocline.gradients.times import attach_observations, attach_start, beside
from isocline.inputs import as_times, as_values, check_times, is_per_sample
from isocline.pieces import Run, SumOfStats
from isocline.solution import Status


class Dose:
    """At known times the state jumps: y(t⁺) = y(t⁻) + amount, or jump(y(t⁻), amount).

    An observation at exactly the time of a dose shows the state before it. A dose at the start of a solve is given, and
    `ys[0]` is still y0; those at its end or outside of it are not. A solve with doses must go forwards in time.

    With events in the same solve: an event at exactly the time of a dose comes first, and a condition that a dose carries
    across zero is no event, since the solution does not pass through zero; its next crossing is one.

    Args:
        ts: times, strictly increasing: (D,), or with per-sample batching also (B, D), NaN as padding at the end.
        amounts: (D, …), or (B, D, …) one row a sample; what is left of the shape broadcasts to the state (without its
            batch, with per-sample batching). For a state that is a pytree, a pytree of them like it; with `jump`
            any pytree.
        jump: `jump(y, amount)` returns the state after the dose; y is the state as `f` gets it. None: y + amount.
        per_sample: whether the first dimension of `amounts` is a batch. None: as the shapes say, (D, …) where they say
            both; `solve` asks for this where that may be wrong.

    Differentiable with respect to amounts, times and what `jump` reaches.

    Raises:
        TypeError, ValueError: naming the argument, what came, what was expected, what to try.

    Example:
        >>> import isocline
        >>> y0 = torch.zeros(1, dtype=torch.float64)
        >>> twice = Dose([0.0, 1.0], torch.tensor([1.0, 1.0], dtype=torch.float64))
        >>> sol = isocline.solve(lambda t, y: -y, y0, [0.0, 1.0, 2.0], doses=twice)
        >>> [round(y, 6) for y in sol.ys[:, 0].tolist()]
        [0.0, 0.367879, 0.503215]
    """

    def __init__(
        self, ts: Any, amounts: Any, jump: Callable[..., Any] | None = None, per_sample: bool | None = None
    ) -> None:
        self.ts = as_times(ts)
        check_times(self.ts, "ts")
        leaves, self.spec = pytree.tree_flatten(amounts) if not _is_numbers(amounts) else ([amounts], None)
        self.amounts = [as_values("amounts", leaf) for leaf in leaves]
        self.ts = self.ts.to(self.amounts[0].device) if self.amounts else self.ts
        readings = [is_per_sample("amounts", self.ts, leaf, per_sample) for leaf in self.amounts]
        self.rows, self.unclear = [rows for rows, _ in readings], any(guess for _, guess in readings)
        if jump is not None and not callable(jump):
            raise TypeError(f"jump: expected a callable jump(y, amount) or None, got {type(jump).__name__}")
        self.jump = jump

    def check(self, layout: Layout) -> None:
        """ValueError where it does not fit a state."""
        count, batch = self.ts.shape[-1], layout.batch
        if self.jump is None and len(self.amounts) != len(layout.shapes):
            raise ValueError(
                f"doses: amounts for {len(self.amounts)} tensors, but the state has {len(layout.shapes)}; give one for each "
                f"(zeros where nothing changes), or a jump(y, amount)"
            )
        if batch is None and (self.ts.dim() == 2 or any(self.rows)):
            raise ValueError("doses: a row a sample needs batching='per_sample'")
        if batch is not None and self.ts.dim() == 2 and len(self.ts) != batch:
            raise ValueError(f"doses: ts for {len(self.ts)} samples, expected the {batch} of y0")
        for leaf, rows in zip(self.amounts, self.rows, strict=True):
            if rows and len(leaf) != batch:
                raise ValueError(f"doses: amounts for {len(leaf)} samples, expected the {batch} of y0")
            if leaf.device != layout.device:
                raise ValueError(f"doses: amounts on {leaf.device}, expected the device of y0, {layout.device}")
        if self.unclear and batch == count:
            raise ValueError(
                f"doses: amounts of shape {tuple(self.amounts[0].shape)} may be one row a dose or one a sample; say which "
                f"with per_sample=False or per_sample=True"
            )

    def after(self, layout: Layout, y: Tensor, index: int | Tensor) -> Tensor:
        """The flat state after dose `index`, or after dose index[i] of sample i."""
        state = layout.unflatten(y)
        parts = []
        for i, (leaf, rows) in enumerate(zip(self.amounts, self.rows, strict=True)):
            if isinstance(index, int):
                parts.append(leaf[index])
                continue
            sample = torch.arange(len(index), device=leaf.device)
            amount = leaf[sample, index] if rows else leaf.index_select(0, index)
            like = len(layout.shapes[i]) if self.jump is None else len(layout.time_tail)
            parts.append(amount.view(len(index), *[1] * (like - amount.dim() + 1), *amount.shape[1:]))
        amount = parts[0] if self.spec is None else pytree.tree_unflatten(parts, self.spec)
        if self.jump is not None:
            return layout.flatten(self.jump(state, amount), "doses: jump")
        states = [state] if layout.spec is None else pytree.tree_leaves(state)
        total = [s + a for s, a in zip(states, parts, strict=True)]
        return layout.flatten(
            total[0] if layout.spec is None else pytree.tree_unflatten(total, layout.spec), "doses: y + amount"
        )

    def around(self, run: Run) -> Run:
        """What solves a whole problem with doses, from what solves one without."""
        return functools.partial(_solve, self, run)

    def __repr__(self) -> str:
        return f"Dose(ts: {tuple(self.ts.shape)}, amounts: {[tuple(a.shape) for a in self.amounts]})"


def _is_numbers(amounts: Any) -> bool:
    """A tensor, or a list of numbers, which a pytree would take apart."""
    return isinstance(amounts, Tensor) or (
        isinstance(amounts, (list, tuple)) and all(isinstance(a, (int, float, complex, list)) for a in amounts)
    )


def _solve(dose: Dose, run: Run, problem: Problem, y0: Tensor) -> Trajectory:
    kind = _Shared if isinstance(problem.ts, list) else _Rows
    return kind(dose, run, problem).solve(y0)


@dataclass
class _Pieces:
    dose: Dose
    run: Run
    problem: Problem
    parts: list[Trajectory] = field(default_factory=list)

    def piece(self, ts: Any, y: Tensor) -> tuple[Trajectory, Tensor]:
        """One ordinary solve, and its states (…, N)."""
        used = sum(part.stats.accepted + part.stats.rejected for part in self.parts)
        left = self.problem.max_steps - int(used.max() if isinstance(used, Tensor) else used)
        settings = {"max_steps": max(0, left), "progress": self.progress(), "watch": self.watch()}
        part = self.run(replace(self.problem, ts=ts, start=None, **settings), y)
        self.parts.append(part)
        return part, part.ys.reshape(-1, *y.shape)

    def watch(self) -> Watch | None:
        """What the next piece watches for: nothing of the state before a dose is known to it."""
        watch = self.problem.watch
        return watch if watch is None or not self.parts else Watch(watch.conditions)

    def progress(self) -> Any:
        """That of the whole solve, seen from one piece."""
        raise NotImplementedError

    def trajectory(self, ys: Tensor, y_end: Tensor, status: Any, failure: Failure | None) -> Trajectory:
        """The parts as one."""
        whole = Trajectory(ys, y_end, SumOfStats([part.stats for part in self.parts]), status, failure=failure)
        for part in self.parts:
            whole.steps += part.steps
            whole.dense_y += part.dense_y
            whole.dense_hk += part.dense_hk
        return whole

    def moved_end(self, t: Tensor, start: Tensor | float, y: Tensor) -> Tensor:
        """y again, the end of a piece from `start` to `t`: its cotangent also gives `t` its gradient."""
        t = self.beside(t, start)
        ts, ys = torch.stack([t.detach(), t]), torch.stack([y.detach(), y])
        return attach_observations(self.problem.field, ts, ys)[1]

    def moved_start(self, t: Tensor | None, end: Tensor | float, y: Tensor) -> Tensor:
        """The same at the start of a piece from `t` to `end`; nothing where `t` is None."""
        return y if t is None else attach_start(self.problem.field, self.beside(t, end), y)

    def beside(self, t: Tensor, towards: Tensor | float) -> Tensor:
        """Where f is to be asked for the gradient of `t`."""
        return beside(self.problem.field, t, towards, self.problem.jump_ts, self.problem.row_jump_ts)

    @property
    def times_move(self) -> bool:
        return self.dose.ts.requires_grad and torch.is_grad_enabled()


class _Shared(_Pieces):
    """One clock for the whole state."""

    def solve(self, y0: Tensor) -> Trajectory:
        ts: list[float] = self.problem.ts
        _refuse_backwards(ts[-1] < ts[0])
        times = [float(t) for t in self.dose.ts.tolist()]
        given: Sequence[int | None] = [k for k, t in enumerate(times) if ts[0] <= t < ts[-1]]
        rows, seen, t, y = [y0[None]], 1, ts[0], y0
        moving: Tensor | None = None
        part: Trajectory | None = None
        for k in [*given, None]:
            end = ts[-1] if k is None else times[k]
            if end > t or (part is None and k is None):
                inner = [x for x in ts[seen:] if x < end]
                saves = len(inner) + (seen + len(inner) < len(ts) and ts[seen + len(inner)] == end)
                piece = [t, *inner, end] if end > t else [t]
                part, ys = self.piece(piece, self.moved_start(moving, end, y))
                if part.status is Status.EVENT:
                    return self.until_event(part, torch.cat([*rows, ys[1:]]), piece[-1])
                rows.append(ys[1 : 1 + saves])
                t, y, seen = end, ys[-1], seen + saves
                if part.status is not Status.SUCCESS:
                    break
            if k is not None:
                if self.times_move:
                    moving = self.dose.ts[k]
                    y = self.moved_end(moving, ts[0], y)
                y = self.dose.after(self.problem.field.layout, y, k)
        assert part is not None
        rows.append(y0.new_full((len(ts) - seen, *y0.shape), torch.nan))
        return self.trajectory(torch.cat(rows), part.y_end, part.status, part.failure)

    def until_event(self, part: Trajectory, ys: Tensor, t: float) -> Trajectory:
        """The parts up to the event at `t` that the last one ended at; the problem's times then end there, as it asks."""
        ts: list[float] = self.problem.ts
        ts[:] = [*(x for x in ts if x < t), t]
        whole = self.trajectory(ys, part.y_end, part.status, part.failure)
        whole.event = part.event
        return whole

    def progress(self) -> Any:
        show, ts = self.problem.progress, self.problem.ts
        if show is None:
            return None
        before = sum(part.stats.accepted for part in self.parts)
        return lambda _, t, steps: show((t - ts[0]) / (ts[-1] - ts[0]), t, before + steps)


class _Rows(_Pieces):
    """A clock a sample. Piece p of a sample goes from its dose p − 1 to its dose p; who has no such piece stands still."""

    def solve(self, y0: Tensor) -> Trajectory:
        ts: Tensor = self.problem.ts
        batch = len(ts)
        start, last = ts[:, :1], ts.gather(1, (~ts.isnan()).sum(1, keepdim=True) - 1)
        _refuse_backwards(bool((last < start).any()))
        times = self.dose.ts.to(device=ts.device, dtype=ts.dtype).expand(batch, -1)
        first = (times < start).sum(1, keepdim=True)
        count = (times < last).sum(1, keepdim=True) - first
        sample = torch.arange(batch, device=ts.device).unsqueeze(1)
        seen = (ts == start).sum(1, keepdim=True)
        fine = torch.ones_like(start, dtype=torch.bool)
        index, values = [], []
        self._note(index, values, sample, torch.zeros_like(seen), seen, y0.expand(ts.shape[1], -1, -1))
        y, y_end, moving = y0, y0.detach(), None
        self.moved = torch.zeros(batch, dtype=torch.bool, device=ts.device)
        status: Any = torch.zeros(batch, dtype=torch.int64, device=ts.device)
        failure: Failure | None = None
        event: Tensor | None = None
        ends = torch.full_like(start, torch.inf)  # where a sample's event ends its times
        self.total = 1 + int(count.max())
        for p in range(self.total):
            which = (first + p).clamp(max=times.shape[1] - 1)
            giving = fine & (p < count)
            end = torch.where(fine, torch.where(giving, times.detach().gather(1, which), last), start)
            reach = torch.where(fine, (ts <= end).sum(1, keepdim=True), seen)
            piece = self._times(start, end, seen, reach)
            part, ys = self.piece(piece, self.moved_start(moving, end.squeeze(1), y))
            if part.event is not None:
                event = part.event if event is None else event | part.event
                hit = fine & part.event.any(0).unsqueeze(1)
                at = (~piece.isnan()).sum(1, keepdim=True) - 1
                ends = torch.where(hit, piece.gather(1, at), ends)
                # Observations before the event, and it itself in the row of the first one that is not.
                column = (ts < ends).sum(1, keepdim=True)
                reach = torch.where(hit, column, reach)
                last_ys = ys[at.squeeze(1), sample.squeeze(1)][None]
                self._note(index, values, sample, column, column + hit.long(), last_ys)
            self._note(index, values, sample, seen, reach, ys[1:])
            if part.failure is not None:
                failure = part.failure if failure is None else _later(fine.squeeze(1), part.failure, failure)
            moved = fine & (end > start)
            self.moved = self.moved | moved.squeeze(1)
            y = torch.where(moved & (part.status == 0).unsqueeze(1), ys[-1], y)
            y_end = torch.where(fine, part.y_end, y_end)
            status = torch.where(fine.squeeze(1), part.status, status)
            fine, start, seen = fine & (part.status == 0).unsqueeze(1), end, reach
            giving = giving & fine
            if bool(giving.any()):
                if self.times_move:
                    at = times.gather(1, which)
                    moving = torch.where(giving, at, end).squeeze(1)
                    y = torch.where(giving, self.moved_end(moving, ts[:, 0], y), y)
                y = torch.where(giving, self.dose.after(self.problem.field.layout, y, which.squeeze(1)), y)
        out = y0.new_full((ts.shape[1] * batch, y0.shape[1]), torch.nan)
        out = out.index_copy(0, torch.cat(index), torch.cat(values)).view(-1, *y0.shape)
        whole = self.trajectory(out, y_end, status, failure)
        whole.event = event
        if event is not None:
            place, column = torch.arange(ts.shape[1], device=ts.device), (ts < ends).sum(1, keepdim=True)
            cut = torch.where(place == column, ends, ts.masked_fill(place > column, torch.nan))
            ts.copy_(torch.where(ends.isfinite(), cut, ts))
        return whole

    def watch(self) -> Watch | None:
        watch, before = super().watch(), self.problem.watch
        if watch is None or before is None or not self.parts or before.fired is None:
            return watch
        # Who has not moved yet still stands at the event that this solve was started after.
        still = self.moved.logical_not()
        return Watch(watch.conditions, before.fired & still, before.residual)

    def _times(self, start: Tensor, end: Tensor, seen: Tensor, reach: Tensor) -> Tensor:
        """Start, observations seen … reach − 1, end; the end repeated as padding."""
        ts = self.problem.ts
        column = seen + torch.arange(int((reach - seen).max()), device=ts.device)
        inner = torch.where(column < reach, ts.gather(1, column.clamp(max=ts.shape[1] - 1)), end)
        return torch.cat([start, inner, end], 1)

    def _note(
        self, index: list[Tensor], values: list[Tensor], sample: Tensor, seen: Tensor, reach: Tensor, ys: Tensor
    ) -> None:
        """Row j of `ys` (…, B, N) is observation seen + j; those before `reach` are kept."""
        column = torch.arange(int((reach - seen).max()), device=seen.device)
        row, j = (column < reach - seen).nonzero(as_tuple=True)
        index.append((seen[row, 0] + j) * len(seen) + sample[row, 0])
        values.append(ys[j, row])

    def progress(self) -> Any:
        show, done, total = self.problem.progress, len(self.parts), self.total
        return None if show is None else lambda part, t, steps: show((done + part) / total, t, steps)


def _later(fine: Tensor, new: Failure | None, old: Failure) -> Failure:
    """By sample: where it stands now, or where it stopped before."""
    assert new is not None
    y = torch.where(fine.unsqueeze(1), new.y, old.y)
    return Failure(torch.where(fine, new.t, old.t), y, torch.where(fine, new.h, old.h))


def _refuse_backwards(backwards: bool) -> None:
    if backwards:
        raise ValueError(
            "doses: ts decreases, but what a dose did cannot in general be undone; solve forwards, or apply the inverse "
            "jumps yourself between solves"
        )
