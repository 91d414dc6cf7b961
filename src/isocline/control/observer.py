"""Looking on while a solve steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OnAttempt = Callable[[float, Any, float], None]


@dataclass(frozen=True)
class Observer:
    """Functions a solve calls as it steps, each with `(t, y, h)`.

    `t` and `y` are where the step begins, `y` in the form of `y0`; `h` is its length in units of time, negative
    backwards. Steps taken again on the way back of a gradient are not shown. For shared batching.

    Args:
        tried: before a step is evaluated.
        accepted, rejected: after it; one of the two follows each `tried`.

    Example:
        >>> import torch, isocline
        >>> starts = []
        >>> watch = Observer(accepted=lambda t, y, h: starts.append(t))
        >>> sol = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], solver="rk4", step=0.5, observer=watch)
        >>> starts
        [0.0, 0.5]
    """

    tried: OnAttempt | None = None
    accepted: OnAttempt | None = None
    rejected: OnAttempt | None = None
