"""`Save`: what else a solve returns, at its own times or after its own steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.solution import Solution
from isocline.times import as_times, check_row


@dataclass(frozen=True)
class Save:
    """A group of outputs beside the states at `ts`: `solve(..., save=Save(...))`, or a dict of several.

    Args:
        ts: times, in any order, within those of the solve; a tensor (M,) or a sequence; they get gradients.
        every: instead, after every so many accepted steps, and at the start and the end; with shared steps.
        fn: `fn(t, y)`, t 0-d: what to keep of a state, any pytree of tensors; None: the state.

    Raises:
        ValueError: where not exactly one of `ts` and `every` is given, or that is out of range.

    Example:
        >>> import torch, isocline
        >>> energy = isocline.Save(ts=torch.linspace(0, 1, 11), fn=lambda t, y: y.square().sum())
        >>> sol = isocline.solve(lambda t, y: -y, torch.ones(2), [0.0, 1.0], save={"energy": energy, "steps": Save(every=1)})
        >>> sol.ys.shape, sol.saved["energy"].values.shape, len(sol.saved["steps"].ts) == sol.stats.accepted + 1
        (torch.Size([2, 2]), torch.Size([11]), True)
    """

    ts: Any = None
    every: int | None = None
    fn: Callable[[Tensor, Any], Any] | None = None

    def __post_init__(self) -> None:
        if (self.ts is None) == (self.every is None):
            raise ValueError("Save: give exactly one of ts and every")
        if self.every is not None and not (isinstance(self.every, int) and self.every > 0):
            raise ValueError(f"Save: every={self.every!r}, expected a positive number of steps")
        if self.fn is not None and not callable(self.fn):
            raise TypeError(f"Save: fn: expected a callable fn(t, y), got {type(self.fn).__name__}")


class Saved(NamedTuple):
    """What a `Save` kept: times (M,), and values with a leading axis M; NaN where the solve did not get."""

    ts: Tensor
    values: Any


def solve_and_save(run: Callable[[Any, bool], Solution], ts: Any, dense: bool, save: Any) -> Solution:
    """One solve over the times of all groups, then shared out.

    Args:
        run: the solve, of times and whether to keep the steps.
        ts: the times of its own.
        dense: whether the steps are wanted anyway.
        save: a `Save`, or a mapping of them.
    """
    groups: dict[Any, Save] = dict(save) if isinstance(save, Mapping) else {None: save}
    for name, group in groups.items():
        if not isinstance(group, Save):
            raise TypeError(f"{_of(name)}: expected a Save, got {type(group).__name__}")
    own = _times(ts, "ts")
    check_row(own.detach().double().tolist(), "ts", padded=False)
    wanted = {name: _times(group.ts, f"{_of(name)}: ts") for name, group in groups.items() if group.every is None}
    for name, times in wanted.items():
        _check_inside(times.detach(), own.detach(), _of(name))
    everything = torch.cat([times.to(own.device, torch.float64) for times in (own, *wanted.values())])
    distinct, place = everything.detach().unique(return_inverse=True)
    if own[-1] < own[0]:
        place = len(distinct) - 1 - place
    first: dict[int, int] = {}
    for i, row in enumerate(place.tolist()):
        first.setdefault(row, i)
    steps = any(group.every is not None for group in groups.values())
    solution = run(everything[[first[row] for row in range(len(distinct))]], dense or steps)
    mine, *theirs = place.split([len(own), *map(len, wanted.values())])
    rows, states = dict(zip(wanted, theirs, strict=True)), solution.ys
    saved = {}
    for name, group in groups.items():
        if group.every is None:
            times, found = wanted[name], _picked(states, rows[name])
        else:
            times = _after_steps(solution, group.every, _of(name))
            found = solution.at(times)
        saved[name] = Saved(times, _kept(group, times, found))
    solution.ts, solution.ys = own, _picked(states, mine)
    if not dense:
        solution._dense, solution.accepted_ts = None, None
    solution.saved = saved if isinstance(save, Mapping) else saved[None]
    return solution


def _of(name: Any) -> str:
    return "save" if name is None else f"save[{name!r}]"


def _times(ts: Any, name: str) -> Tensor:
    times = as_times(ts, ragged=False, name=name)
    if times.dim() != 1 or not len(times):
        raise ValueError(f"{name}: shape {tuple(times.shape)}, expected (M,); with save, times are common to all")
    return times


def _check_inside(times: Tensor, own: Tensor, name: str) -> None:
    low, high = sorted((float(own[0]), float(own[-1])))
    outside = ~((times >= low) & (times <= high))
    if bool(outside.any()):
        t = times[outside][0].item()
        raise ValueError(f"{name}: ts: {t:g} is outside the interval of the solve, [{low:g}, {high:g}]")


def _after_steps(solution: Solution, every: int, name: str) -> Tensor:
    ends = solution.accepted_ts
    if not isinstance(ends, Tensor):
        raise ValueError(
            f"{name}: every={every}: samples step on their own with batching='per_sample'; give ts instead"
        )
    last = [] if (len(ends) - 1) % every == 0 else [ends[-1:]]
    return torch.cat([ends[::every], *last])


def _picked(states: Any, rows: Tensor) -> Any:
    return pytree.tree_map(lambda leaf: leaf.index_select(0, rows.to(leaf.device)), states)


def _kept(group: Save, times: Tensor, states: Any) -> Any:
    if group.fn is None:
        return states
    kept = [group.fn(t, pytree.tree_map(lambda leaf, i=i: leaf[i], states)) for i, t in enumerate(times)]
    leaves = [pytree.tree_leaves(one) for one in kept]
    stacked = [torch.stack([torch.as_tensor(x) for x in column]) for column in zip(*leaves, strict=True)]
    return pytree.tree_unflatten(stacked, pytree.tree_structure(kept[0]))
