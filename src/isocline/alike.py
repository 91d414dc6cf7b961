"""Solves alike: of one field, from states of one shape, at the same times, with the same settings.

What was checked and resolved for one of them is so for the next, and what an engine laid out for it can be taken again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from isocline.control import Controller
from isocline.engines.eager import Problem
from isocline.engines.fused.watch import home
from isocline.field import Layout, VectorField
from isocline.fusing import Attempt
from isocline.gradients import Gradient
from isocline.solvers import RungeKutta
from isocline.transforms import transformed

MOST = 256  # of a field
MOST_TIMES = 1000
PLAIN, NUMBERS, TENSORS = {type(None), bool, int, float, str}, {int, float}, {Tensor, nn.Parameter}
KNOWN: WeakKeyDictionary[Any, dict[Any, Resolved]] = WeakKeyDictionary()  # by field; they go with it


@dataclass
class Resolved:
    """What `solve` makes of its arguments but for the field and the state.

    Attributes:
        ts: (B, T), as `Problem.ts`.
        optional, alone: an engine need not take the field; whether it chose that samples step on their own.
        kept: what engines laid out.
    """

    layout: Layout
    ts: Tensor
    solver: RungeKutta
    controller: Controller
    way_back: Gradient
    max_steps: int
    optional: bool
    alone: bool
    kept: dict[str, Any] = field(default_factory=dict)

    def problem(self, f: Callable[..., Any], given: Tensor, args: tuple[Any, ...]) -> Problem:
        """Of a field with further arguments, at times `given` as a tensor (T,)."""
        vector_field = VectorField(f, self.layout, args)
        vector_field.optional, vector_field.common_times = self.optional, given if self.alone else None
        return Problem(vector_field, self.ts, self.solver, self.controller, max_steps=self.max_steps, alike=self.kept)


@dataclass
class Place:
    """Where solves alike are looked up.

    Attributes:
        found: of one before.
    """

    known: dict[Any, Resolved]
    key: Any
    found: Resolved | None

    def keep(self, problem: Problem, way_back: Gradient, attempt: Attempt | None) -> dict[str, Any]:
        """What a solve was resolved to, for the next; and where engines may keep what they lay out."""
        row = problem.ts[:1].clone()  # not the caller's own, which may change in place
        ts = row.expand(len(problem.ts), -1)
        alone = attempt is not None and attempt.alone
        if len(self.known) >= MOST:
            self.known.clear()
        found = self.known[self.key] = Resolved(
            problem.field.layout,
            ts,
            problem.solver,
            problem.controller,
            way_back,
            problem.max_steps,
            attempt is not None,
            alone,
        )
        return found.kept


def place(f: Any, y0: Any, ts: Any, args: tuple[Any, ...], *settings: Any) -> Place | None:
    """The place of a solve; None where one cannot be told from others by what they are given.

    Args:
        f, y0, ts, args: as to `solve`.
        settings: all that its result depends on beside these and the numbers in tensors.
    """
    if type(y0) not in TENSORS or not y0.is_cpu or transformed():
        return None
    row, further = _row(ts), tuple(map(_told, args))
    if row is None or None in further or not (PLAIN.issuperset(map(type, settings)) or all(map(_settled, settings))):
        return None
    try:
        thing, more = home(f)
        known = KNOWN.setdefault(thing, {})
        key = more, y0.shape, y0.dtype, row, further, torch.get_default_dtype(), *settings
        return Place(known, key, known.get(key))
    except TypeError:  # what cannot be referred to weakly, or be a key
        return None


def _row(ts: Any) -> Any:
    if type(ts) is Tensor:
        plain = ts.dim() == 1 and len(ts) <= MOST_TIMES and ts.is_floating_point() and not ts.requires_grad
        return (ts.dtype, *ts.tolist()) if plain else None
    if type(ts) in (list, tuple) and len(ts) <= MOST_TIMES and NUMBERS.issuperset(map(type, ts)):
        return tuple(ts)
    return None


def _told(x: Any) -> Any:
    """What tells an argument of the field from another but for the numbers in it; None where that takes more."""
    if type(x) in TENSORS:
        return (x.shape, x.dtype, x.requires_grad, x.layout) if x.is_cpu else None
    return (type(x), x) if type(x) in PLAIN else None


def _settled(x: Any) -> bool:
    """Whether a setting is one for good: a name, a number, or an object of such; a tensor may change in place."""
    if type(x) in PLAIN:
        return True
    return (
        hasattr(x, "__dict__") and not isinstance(x, (type, Tensor)) and all(type(v) in PLAIN for v in vars(x).values())
    )
