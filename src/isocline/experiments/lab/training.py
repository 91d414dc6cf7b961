"""The loop of all trainings: it can be killed at any time and ends in the numbers of an unbroken run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from isocline.experiments.lab.job import Interrupted, Job
from isocline.fit.files import place

SAVE_EVERY = 15.0  # seconds between checkpoints
TELL_EVERY = 0.5
LOST = 20  # iterations without a finite gradient after which a training has failed


@dataclass
class History:
    """Losses by iteration, and the seconds up to each by `Job.clock`, over all sessions."""

    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def recent(self, count: int = 20) -> float:
        """The mean of the last losses."""
        last = self.loss[-count:]
        return sum(last) / max(1, len(last))


class Kept(list[Any]):
    """A list that is a part of a training: what `look` puts into it (numbers, tensors, lists of them) outlives a break."""

    def state_dict(self) -> dict[str, Any]:
        """Its items."""
        return {"items": list(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the items of an earlier session."""
        self[:] = state["items"]


def train(
    job: Job,
    key: str,
    parts: Mapping[str, Any],
    iterations: int,
    step: Callable[[int], Tensor],
    *,
    clip: float | None = None,
    look: Callable[[int, float], None] | None = None,
) -> History:
    """Minimises; goes on where an earlier session left the same key.

    Before every iteration the global random state is set from the seed, the key and the iteration, so that what `step`
    draws does not depend on breaks.

    Args:
        job: of the experiment.
        key: of this training within it.
        parts: what is saved: objects with `state_dict` and `load_state_dict`. "optimizer" steps after each iteration, and
            "schedule", if given, after it; a `Kept` list outlives a break.
        iterations: in all.
        step: iteration -> loss, a 0-d tensor with a graph.
        clip: of the norm of the gradient.
        look: called with (iteration, loss) after each step, for pictures and validation; its time is not counted.

    Raises:
        FloatingPointError: after 20 iterations in a row without a finite gradient.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> w = torch.nn.Linear(1, 1)
        >>> parts = {"model": w, "optimizer": torch.optim.SGD(w.parameters(), 0.1)}
        >>> job = Job(Path(tempfile.mkdtemp()))
        >>> history = train(job, "line", parts, 50, lambda i: (w(torch.ones(1)) - 3).square().sum())
        >>> history.loss[-1] < 1e-3
        True
    """
    optimizer, schedule = parts["optimizer"], parts.get("schedule")
    history, path = History(), job.checkpoint(key)
    if path.exists():
        kept = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(kept["parts"][name])
        history = History(**kept["history"])
    before = history.seconds[-1] if history.seconds else 0.0
    weights = [p for group in optimizer.param_groups for p in group["params"]]

    def save() -> None:
        states = {name: part.state_dict() for name, part in parts.items()}
        place(path, lambda aside: torch.save({"parts": states, "history": vars(history)}, aside))

    saved = told = time.monotonic()
    began = job.clock()
    lost = 0
    for i in range(len(history.loss), iterations):
        torch.manual_seed(job.draw_seed(key, i))
        optimizer.zero_grad()
        loss = step(i)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, clip or float("inf"))
        if bool(norm.isfinite()):
            optimizer.step()
            lost = 0
        else:
            lost += 1
            if lost == LOST:
                raise FloatingPointError(
                    f"{key}: no finite gradient in {LOST} iterations up to {i}; the training has failed"
                )
        if schedule is not None:
            schedule.step()
        history.loss.append(loss.item())
        used = job.clock()
        history.seconds.append(before + used - began)
        if look is not None:
            look(i, history.loss[-1])
            began += job.clock() - used
        now = time.monotonic()
        if job.stop():
            save()
            raise Interrupted
        if now - saved > SAVE_EVERY:
            save()
            saved = now
        if now - told > TELL_EVERY:
            job.tell(key, i + 1, iterations, history.loss[-1])
            told = now
    save()
    job.tell(key, iterations, iterations, history.recent())
    return history
