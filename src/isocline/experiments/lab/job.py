"""A run of an experiment: where its files are, and what of it is already done."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isocline.fit.files import write


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after everything was saved."""


class Job:
    """What an experiment is handed.

    Args:
        folder: for what a break must not lose: finished cells, checkpoints.
        quick: a few minutes instead of the real thing.
        seed: of everything random.
        data: folder with data sets, as the user gave it; None looks elsewhere, see `datasets`.
        pictures: folder for pictures; their names begin with `label`.
        label: of the pictures.
        device: where an experiment that has a choice computes, by PyTorch's name.
        tell: called with (what is being done, steps done, steps in all, loss or None).
        stop: asked between steps; True saves and raises `Interrupted`.

    Example:
        >>> import tempfile
        >>> job = Job(Path(tempfile.mkdtemp()))
        >>> job.cell("sum", lambda: {"value": 1 + 1})["value"], job.cell("sum", lambda: 1 / 0)["value"]
        (2, 2)
    """

    def __init__(
        self,
        folder: Path,
        *,
        quick: bool = False,
        seed: int = 0,
        data: Path | None = None,
        pictures: Path | None = None,
        label: str = "picture",
        device: str = "cpu",
        tell: Callable[[str, int, int, float | None], None] = lambda what, done, total, loss: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.quick, self.seed, self.data = folder, quick, seed, data
        self.tell, self.stop = tell, stop
        self.pictures = pictures or folder
        self.label, self.device = label, device
        self.drawn: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def cell(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A part of the experiment: made once, then read. JSON types only; `seconds`, by `clock`, is added."""
        path = self.folder / f"{_plain(key)}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        if self.stop():
            raise Interrupted
        self.tell(key, 0, 1, None)
        began = self.clock()
        made = make()
        made = {"seconds": self.clock() - began, **made}
        write(path, json.dumps(made))
        self.tell(key, 1, 1, None)
        return json.loads(path.read_text(encoding="utf-8"))  # as a resumed run will find it

    def clock(self) -> float:
        """Seconds: the process's own, of all its threads, so that what else the machine does is not in them; on another
        device than the processor as they pass."""
        return time.process_time() if self.device == "cpu" else time.monotonic()

    def checkpoint(self, key: str) -> Path:
        """Where the state of a training is kept."""
        return self.folder / f"{_plain(key)}.pt"

    def picture(self, name: str) -> Path:
        """Where a picture goes, "flow.png"; it is listed with the results."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        path = self.pictures / f"{self.label}-{name}"
        if path.name not in self.drawn:
            self.drawn.append(path.name)
        return path

    def draw_seed(self, *what: object) -> int:
        """A seed for a part or a step, the same in a resumed run: from the job's and the names given."""
        return zlib.crc32(repr((self.seed, *what)).encode())


def _plain(key: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in key)
