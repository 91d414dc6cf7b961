"""Which solves the fused engine takes: one list of reasons, raised with engine="fused", logged with engine="auto"."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.utils import _pytree as pytree

from isocline.engines.fused.build import NoMachineError
from isocline.engines.fused.counts import Counted
from isocline.engines.fused.lanes import CannotFuseError
from isocline.engines.fused.watch import home
from isocline.gradients import Backprop, Backsolve, Checkpointed, Gradient
from isocline.inputs import Signal
from isocline.solution import Count, Solution, SolveError, Status, failed
from isocline.solvers import snake_case
from isocline.transforms import transformed

logger = logging.getLogger("isocline")
noted: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()  # by field: what was logged
others_noted: set[str] = set()  # of fields that cannot be looked up
missing: list[NoMachineError] = []  # the machine, in this process


@dataclass(frozen=True)
class Attempt:
    """The engine of a solve that goes to the eager one where the fused one does not take it.

    Attributes:
        alone: that samples step on their own is the engine's choice, not the caller's.
    """

    alone: bool


def check(y0: Any, batching: str, way_back: Gradient) -> None:
    """CannotFuseError naming what the fused engine does not have, as far as it shows before the field is looked at."""
    if transformed():
        raise CannotFuseError(
            "engine='fused': a native call cannot be looked into by torch.func or forward-mode differentiation; "
            "take engine='eager'"
        )
    if batching != "per_sample":
        raise CannotFuseError(
            "engine='fused': every sample steps on its own; pass batching='per_sample', with a batch dimension"
        )
    elsewhere = [x.device for x in pytree.tree_leaves(y0) if isinstance(x, Tensor) and x.device.type != "cpu"]
    if elsewhere:
        raise CannotFuseError(f"engine='fused': it runs on the processor, y0 is on {elsewhere[0]}; take engine='eager'")
    if not isinstance(way_back, (Checkpointed, Backprop, Backsolve)):
        name = snake_case(type(way_back).__name__)
        raise CannotFuseError(
            f"engine='fused': its gradients are 'checkpointed', the exact one, and 'backsolve'; take engine='eager' for "
            f"{name!r}"
        )


def either(
    run: Callable[[Any, str], Solution], field: Callable[..., Any], y0: Any, ts: Any, batching: str | None
) -> Solution:
    """A solve by the fused engine, or by the eager one, after a logged line, where that is not to be had.

    Args:
        run: solves with an engine and a batching.
        field, y0, ts: of the solve.
        batching: asked for; None leaves it to the engine: samples on their own where it is the fused one.
    """
    alone = batching is None and has_samples(y0, ts)
    if not missing:
        try:
            if alone:
                return of_whole_batch(partial(run, Attempt(True), "per_sample"))
            return run(Attempt(False), batching or "shared")
        except SolveError:
            raise
        except Exception as error:  # of the field itself too: the eager engine meets it again, and says it better
            note(field, error)
    return run("eager", batching or "shared")


def has_samples(y0: Any, ts: Any) -> bool:
    """Whether a state may be a batch of samples with times in common."""
    common = ts.dim() == 1 if isinstance(ts, Tensor) else isinstance(ts, Sequence) and not hasattr(ts[0], "__len__")
    leaves = [y0] if isinstance(y0, Tensor) else pytree.tree_leaves(y0)
    if not common or not all(isinstance(x, Tensor) and x.dim() for x in leaves):
        return False
    return len({len(x) for x in leaves}) == 1 and len(leaves[0]) > 0 and any(x.dim() > 1 for x in leaves)


def of_each(inputs: Any, y0: Any) -> bool:
    """Whether all signals there are have a row for each sample of a state, beyond doubt."""
    signals = [] if inputs is None else pytree.tree_leaves(inputs)
    count = len(next((x for x in pytree.tree_leaves(y0) if isinstance(x, Tensor) and x.dim()), ()))
    return all(isinstance(s, Signal) and s.batch == count and not s.unclear for s in signals)


def of_whole_batch(run: Callable[[], Solution]) -> Solution:
    """A solve whose samples step on their own, told as that of one batch; so are its errors."""
    try:
        solution = run()
    except SolveError as error:
        together(error.solution)
        error.status = error.solution.status
        raise
    together(solution)
    return solution


def together(solution: Solution) -> None:
    """Statistics and status of a whole batch in place of its samples'."""
    stats, status = solution.stats, solution.status
    if isinstance(stats, Counted):
        stats.together = True
    else:
        for name in ("evaluations", "accepted", "rejected", "jacobians"):
            setattr(stats, name, Count.of(getattr(stats, name)))
    if isinstance(status, Tensor):
        solution.status = Status(int(status[failed(status)][0])) if solution.message else Status.SUCCESS


def note(field: Callable[..., Any], error: Exception) -> None:
    """One line that says why the eager engine does it; once for a field and a reason."""
    reason = str(error) if isinstance(error, (CannotFuseError, NoMachineError)) else f"{type(error).__name__}: {error}"
    reason = reason.removeprefix("engine='fused': ").removesuffix("; take engine='eager'").split("\n")[0]
    kind = re.sub(r"\d+", "#", reason)
    try:
        seen = noted.setdefault(home(field)[0], set())
    except TypeError:
        seen, kind = others_noted, f"{type(field).__name__} {kind}"
    if isinstance(error, NoMachineError):
        missing.append(error)
    if kind in seen:
        return
    seen.add(kind)
    level = logging.WARNING if isinstance(error, NoMachineError) else logging.INFO
    name = getattr(field, "__name__", type(field).__name__)
    logger.log(level, "engine='auto': %s is solved by the eager engine, not the fused one: %s", name, reason)
