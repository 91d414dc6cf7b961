"""A second process beside a fit, for what neither needs the training nor is needed by it: simple models, the page's libraries.

PyTorch and all that belongs to it takes two seconds to load, so the process is forked off this one before its threads begin.
What it gives are the numbers this one would have found; where it is lost, this one finds them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from isocline.engines.fused.threads import alone_with

T = TypeVar("T")
logger = logging.getLogger("isocline")
LOST = (EOFError, OSError)  # of a pipe whose other end is gone


class Here:
    """No second process: what is asked for is done where its answer is wanted.

    Example:
        >>> answer = Here().ask(pow, 2, 10)
        >>> answer()
        1024
    """

    def ask(self, act: Callable[..., T], *args: Any) -> Callable[[], T]:
        """What gives `act(*args)`."""
        return lambda: act(*args)


HERE = Here()


class Beside(Here):
    """A process that does one thing after the other.

    Args:
        pipe: to it.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.waiting: list[list[Any]] = []  # boxes for answers that are to come, the next first

    def ask(self, act: Callable[..., T], *args: Any) -> Callable[[], T]:
        """Has `act(*args)` done; what waits for the result. `act` is of a module, its arguments and result can be pickled; where
        they cannot, where it fails, and where the process is lost, this one does it again."""
        box: list[Any] = []
        try:
            self._collect()  # or two processes might wait for each other to read
            self.pipe.send((act, args))
            self.waiting.append(box)
        except (*LOST, pickle.PicklingError, TypeError, AttributeError):
            box.append(None)

        def answer() -> T:
            while not box:
                self._receive()
            return act(*args) if box[0] is None else box[0][0]

        return answer

    def _collect(self) -> None:
        while self.waiting:
            self._receive()

    def _receive(self) -> None:
        try:
            self.waiting[0].append(self.pipe.recv())
        except LOST:
            logger.info("the process beside this one is lost: what it was doing is done here")
            for box in self.waiting:
                box.append(None)
        self.waiting = [box for box in self.waiting if not box]


@contextmanager
def beside(several: bool, ahead: str) -> Iterator[Here]:
    """A second process where that is wanted and can be had without danger: on Linux, with no thread but this one.

    Args:
        several: whether more than one core may be used.
        ahead: a module that it loads after its first answer: what is asked for later needs it.
    """
    if not (several and sys.platform == "linux" and threading.active_count() == 1):
        yield HERE
        return
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(here, there, ahead), daemon=True)
    try:
        process.start()
    except OSError as error:
        logger.info("no process beside this one (%s): all is done here", error)
        yield HERE
        return
    there.close()
    try:
        yield Beside(here)
    finally:
        here.close()  # which it ends at
        process.terminate()
        process.join()


def _serve(other: Connection, pipe: Connection, ahead: str) -> None:
    other.close()  # or the end of that process would not be seen here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the other one decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with alone_with(1), Path(os.devnull).open("w") as nothing:
        sys.stdout = sys.stderr = nothing
        try:
            while True:
                act, args = pipe.recv()
                pipe.send(_tried(act, args))
                import_module(ahead)
        except LOST:
            return


def _tried(act: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any] | None:
    """The result; None where there is none that can be handed over: the other process does it again, and says why."""
    try:
        found = (act(*args),)
        pickle.dumps(found)
    except Exception:
        return None
    return found
