"""How fused.py measures: all threads on one core, one task after the other."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common import median


@dataclass
class Settings:
    rounds: int = 15
    least: float = 0.02  # seconds a measurement
    most: float = 6.0  # seconds a task, all rounds together


@dataclass
class Times:
    """Seconds of a call, round by round.

    Attributes:
        cpu: all threads of this process on the processor. They share one core, so that none of it is done at the same
            time; other processes do not count.
        wall: the same by the clock, with what was waited for, and with other processes.
    """

    cpu: list[float]
    wall: list[float]

    @property
    def middle(self) -> float:
        return median(self.cpu)


def once(task: Callable[[], Any], loops: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(loops):
        task()
    return (time.process_time() - cpu) / loops, (time.perf_counter() - wall) / loops


def interleaved(tasks: dict[Any, Callable[[], Any]], settings: Settings) -> dict[Any, Times]:
    """One task after the other in each round: a drift of the clock meets all alike. Slow ones sit later rounds out."""
    loops, rounds = {}, {}
    for name, task in tasks.items():
        task()
        spent = max(1e-6, once(task, 1)[0])
        loops[name] = max(1, round(settings.least / spent))
        rounds[name] = min(settings.rounds, max(3, int(settings.most / (spent * (loops[name] + 1)))))
    found = {name: Times([], []) for name in tasks}
    for turn in range(settings.rounds):
        gc.collect()
        gc.disable()
        for name, task in tasks.items():
            if turn < rounds[name]:
                if loops[name] > 1:
                    task()  # what others left in the caches is not charged to it
                cpu, wall = once(task, loops[name])
                found[name].cpu.append(cpu)
                found[name].wall.append(wall)
        gc.enable()
    return found


def digits(value: float | None) -> str:
    """Three of them."""
    if value is None:
        return "—"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
