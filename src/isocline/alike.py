"""Solves alike: of one field, from states of one shape, at the same times, with the same settings.

What was checked and resolved for one of them is so for the next, and what an engine laid out for it can be taken again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from isocline.control import Controller
from isocline.engines.eager import Problem
from isocline.engines.eager.diagnosis import report
from isocline.engines.fused import Fused
from isocline.engines.fused.watch import home
from isocline.field import Layout, VectorField
from isocline.fusing import Attempt, of_whole_batch
from isocline.gradients import Gradient
from isocline.solution import Solution, SolveError, Status
from isocline.solvers import RungeKutta
from isocline.times import as_times
from isocline.transforms import transformed

F = TypeVar("F", bound=Callable[..., Any])
MOST = 256  # of a field
MOST_TIMES = 1000
PLAIN, NUMBERS, TENSORS = {type(None), bool, int, float, str}, {int, float}, {Tensor, nn.Parameter}
SETTINGS = frozenset({
    "solver", "controller", "gradient", "engine", "batching", "args", "rtol", "atol", "step", "max_step", "max_steps", "throw",
})  # fmt: skip
KNOWN: WeakKeyDictionary[Any, dict[Any, Resolved]] = WeakKeyDictionary()  # by field; they go with it


@functools.cache
def _engine() -> Any:
    """With what traces fields, which takes a second."""
    from isocline.gradients import fused

    return fused


@dataclass
class Resolved:
    """What `solve` makes of its arguments but for the field and the state, for the fused engine.

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
    fused: Fused
    throw: bool
    kept: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(problem: Problem, way_back: Gradient, attempt: Attempt | None, fused: Fused, throw: bool) -> Resolved:
        """From a problem whose engine is to keep what it lays out."""
        ts = problem.ts[:1].clone().expand(len(problem.ts), -1)  # not the caller's own, which may change in place
        open_ = attempt is not None, attempt is not None and attempt.alone
        settings = problem.solver, problem.controller, way_back, problem.max_steps, *open_, fused, throw
        found = Resolved(problem.field.layout, ts, *settings)
        problem.alike = found.kept
        return found

    def again(self, f: Callable[..., Any], y0: Tensor, ts: Any, args: tuple[Any, ...]) -> Solution:
        """A solve alike."""
        if not self.alone:
            return self._again(f, y0, ts, args)
        return of_whole_batch(functools.partial(self._again, f, y0, ts, args))

    def _again(self, f: Callable[..., Any], y0: Tensor, ts: Any, args: tuple[Any, ...]) -> Solution:
        engine = _engine()
        layout, given = self.layout, ts if type(ts) is Tensor else as_times(ts, ragged=False)

        def problem() -> Problem:
            field = VectorField(f, layout, args)
            field.optional, field.common_times = self.optional, given if self.alone else None
            return Problem(field, self.ts, self.solver, self.controller, max_steps=self.max_steps, alike=self.kept)

        matrix = y0.dim() == 2
        flat = y0 if matrix and y0.is_contiguous() else y0.reshape(len(y0), layout.size).contiguous()
        run, others = engine.run_alike(self.kept.get("fused"), problem, f, args, flat, self.fused)
        ys = engine.observed(run, self.way_back, flat, others)
        status = run.counts.status if run.failures or not self.alone else Status.SUCCESS
        solution = Solution(given, ys if matrix else layout.unflatten(ys), run.stats, status)
        if run.failures:
            report(run.problem, run.trajectory(ys), flat.detach(), solution, self.throw)
        return solution


def like_before(solve: F) -> F:
    """`solve`, which resolves what it is given once for all solves alike."""

    @functools.wraps(solve)
    def called(field: Any, y0: Any, ts: Any, **settings: Any) -> Any:
        if torch.compiler.is_compiling() or isinstance(settings.get("engine"), Attempt):  # whose caller keeps it
            return solve(field, y0, ts, **settings)
        known, key, found = _place(field, y0, ts, settings) or ({}, None, None)
        if found is not None:
            try:
                return found.again(field, y0, ts, settings.get("args", ()))
            except SolveError:
                raise
            except Exception:
                if not found.optional:
                    raise
                # Else the whole way goes to the other engine, and says why.
        solution = solve(field, y0, ts, **settings)
        resolved, solution._alike = solution._alike, None
        if resolved is not None and key is not None:
            if len(known) >= MOST:
                known.clear()
            known[key] = resolved
        return solution

    return cast(F, called)


def _place(f: Any, y0: Any, ts: Any, settings: dict[str, Any]) -> Any:
    """Where a solve is looked up, by what, and what is found there; None where it cannot be told from others by what it is given."""
    engine = settings.get("engine")
    if type(engine) is not Fused and engine != "auto" and engine != "fused":
        return None
    if type(y0) not in TENSORS or not y0.is_cpu or transformed() or torch.is_autocast_enabled("cpu"):
        return None
    if not settings.keys() <= SETTINGS:
        if any(value is not None and value is not False for name, value in settings.items() if name not in SETTINGS):
            return None
        settings = {name: value for name, value in settings.items() if name in SETTINGS}
    row, args = _row(ts), settings.get("args", ())
    told = tuple(map(_told, args)) if type(args) is tuple else (None,)
    values = [value for name, value in settings.items() if name != "args"]
    if row is None or None in told or not (PLAIN.issuperset(map(type, values)) or all(map(_settled, values))):
        return None
    try:
        thing, more = home(f)
        key = more, y0.shape, y0.dtype, row, told, torch.get_default_dtype(), *settings, *values
        known = KNOWN.setdefault(thing, {})
        return known, key, known.get(key)
    except TypeError:  # what cannot be referred to weakly, or be a key
        return None


def _row(ts: Any) -> Any:
    if type(ts) is Tensor:
        shape = ts.shape
        plain = len(shape) == 1 and shape[0] <= MOST_TIMES and ts.is_floating_point() and not ts.requires_grad
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
