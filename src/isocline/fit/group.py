"""Processes that fit one model together: those that torchrun started, each with its share of the training windows.

Every process reads the table and keeps all parameters and the optimizer; it solves its share of the windows, of all
members and series in a row, and gradients and losses are summed over all. So all take the same steps, a checkpoint says
nothing of how many there were, and only the first writes and prints.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from isocline.fit.errors import UserError

PATIENCE = datetime.timedelta(minutes=30)  # for a process that does not answer; one that has ended is missed at once
T = TypeVar("T")


def several() -> bool:
    """Whether torchrun started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and dist.is_available()


class LostError(UserError):
    """Another process of the group has ended, or does not answer."""


class Group:
    """One process alone: nothing is shared, nothing summed.

    Attributes:
        rank, size: which of how many processes this is.

    Example:
        >>> Group().share(8), Group().leads
        (slice(0, 8, None), True)
    """

    rank, size = 0, 1

    def __repr__(self) -> str:
        return f"<process {self.rank + 1} of {self.size}>"

    @staticmethod
    def of_environment() -> Group:
        """The processes that torchrun started; this one alone where it did not.

        Raises:
            LostError: where the others do not come.
        """
        return Several() if several() else ALONE

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Of so many, those that are this process's."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def summed(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Over all processes; the same bits in each."""
        return parts

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag

    def agree(self, what: str, value: str) -> None:
        """Makes sure that all processes have the same.

        Raises:
            UserError: where they do not.
        """

    def told(self, value: Callable[[], T]) -> T:
        """What the first process finds; the others wait for it."""
        return value()

    def speaks(self) -> bool:
        """Whether this process is to say what went wrong: the first that asks is."""
        return True

    def leave(self) -> None:
        """Ends what the processes share."""


class Several(Group):
    """Of the processes that torchrun started; over gloo, as the numbers are on the processor."""

    def __init__(self) -> None:
        try:
            self.store, self.rank, self.size = next(dist.rendezvous("env://", timeout=PATIENCE))
            dist.init_process_group("gloo", store=self.store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise LostError(f"the processes that torchrun started do not find each other: {_line(error)}") from error
        # Each takes its steps by itself, and decides by digits that another processor may round in another way.
        self.agree(
            "the machine", f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
        )

    def summed(self, *parts: Tensor) -> tuple[Tensor, ...]:
        whole = torch.cat([p.flatten() for p in parts])
        self._together(lambda: dist.all_reduce(whole))
        sizes = [p.numel() for p in parts]
        return tuple(w.view_as(p) for w, p in zip(whole.split(sizes), parts, strict=True))

    def any(self, flag: bool) -> bool:
        whole = torch.tensor([int(flag)])
        self._together(lambda: dist.all_reduce(whole))
        return bool(whole)

    def agree(self, what: str, value: str) -> None:
        values = [value] * self.size
        self._together(lambda: dist.all_gather_object(values, value))
        other = next((v for v in values if v != values[0]), None)
        if other is not None:
            raise UserError(
                f"{what} of process 1 is {values[0]!r}, that of another {other!r}; expected the same in all processes"
            )

    def told(self, value: Callable[[], T]) -> T:
        box: list[T | None] = [value() if self.leads else None]
        self._together(lambda: dist.broadcast_object_list(box, 0))
        found: Sequence[T] = box  # pyrefly: ignore[bad-assignment]
        return found[0]

    def speaks(self) -> bool:
        try:
            return self.store.add("isocline spoke", 1) == 1
        except RuntimeError:  # the store went with the process that kept it
            return True

    def leave(self) -> None:
        dist.destroy_process_group()

    def _together(self, act: Callable[[], object]) -> None:
        try:
            act()
        except RuntimeError as error:
            raise LostError(
                f"one of {self.size} processes was lost, or has not answered for {PATIENCE.total_seconds() / 60:.0f} minutes "
                f"({_line(error)})"
            ) from error


def _line(error: Exception) -> str:
    """What gloo says of it, without the place in its sources."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"\[[^\]]*\.cc:\d+\]\s*", "", first).split(". ")[0]


ALONE = Group()
