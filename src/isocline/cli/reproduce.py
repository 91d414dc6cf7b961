"""`isocline reproduce`: published experiments, resumable, with a record of what came out."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Grid

from isocline import experiments
from isocline.cli import fail
from isocline.cli.fit import console
from isocline.experiments.lab import Job, record
from isocline.experiments.lab.job import Interrupted
from isocline.fit import UserError
from isocline.fit.files import write


def reproduce_command(
    name: str | None,
    quick: bool,
    seed: int,
    out: Path,
    data: Path | None,
    threads: int | None,
    fresh: bool,
    device: str = "cpu",
) -> int:
    """0 when done, 130 after Ctrl-C; exits with 2 on bad input."""
    if name is None:
        _list()
        return 0
    if name != "all" and name not in experiments.names():
        fail(f"no experiment {name!r}; there are {', '.join(experiments.names())} (or all)")
    if data is not None and not data.is_dir():
        fail(f"--data {data}: expected a folder")
    if threads is not None and threads < 1:
        fail(f"--threads {threads}: expected 1 or more")
    _check_device(device, name)
    failed: list[str] = []
    try:
        for one in experiments.names() if name == "all" else [name]:
            if name == "all" and not fresh and (state(out, one, quick, seed, device) / "done").exists():
                console.print(f"{one}: done before (--fresh runs it again)")
                continue
            try:
                reproduce(one, quick, seed, out, data, threads, fresh, device)
            except (UserError, FloatingPointError) as error:
                if name != "all":
                    fail(str(error))
                failed.append(one)
                console.print(f"{error}\n", style="red")
    except KeyboardInterrupt as stopped:
        kept = "All that was done is kept; the" if isinstance(stopped, Interrupted) else "The"
        console.print(f"\nInterrupted. {kept} same command goes on.")
        return 130
    if failed:
        fail(f"not reproduced: {', '.join(failed)}; why stands above")
    return 0


def _check_device(device: str, name: str) -> None:
    """Exits with 2 where it is not there, or the experiment would not use it."""
    if device == "cpu":
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        fail(f"--device {device}: not there ({str(error).splitlines()[0]})")
    able = [one for one in experiments.names() if torch.device(device).type in experiments.find(one).devices]
    if name not in able:
        fail(f"--device {device}: {name} runs on the processor alone; on this device: {', '.join(able) or 'none'}")


def state(out: Path, name: str, quick: bool, seed: int, device: str = "cpu") -> Path:
    """The folder of what a break must not lose; in it `done` once the run is recorded. Runs on another device have their own:
    what a kernel there computes, a processor would not go on with to the same bits."""
    where = "" if device == "cpu" else f"-{device.replace(':', '-')}"
    return out / "state" / f"{name}{'-quick' if quick else ''}-{seed}{where}"


def _list() -> None:
    grid = Grid(box=None, padding=(0, 2, 0, 0))
    for header in ("experiment", "what", "after"):
        grid.add_column(header)
    for name in experiments.names():
        experiment = experiments.find(name)
        grid.add_row(name, experiment.title, experiment.source)
    console.print(grid)
    console.print("\nisocline reproduce NAME [--quick]")


def reproduce(
    name: str,
    quick: bool,
    seed: int,
    out: Path,
    data: Path | None,
    threads: int | None,
    fresh: bool,
    device: str = "cpu",
) -> dict[str, Any]:
    """Runs one experiment to its end and appends to its record."""
    experiment = experiments.find(name)
    torch.set_num_threads(threads or experiment.threads or os.cpu_count() or 1)
    folder = state(out, name, quick, seed, device)
    if folder.exists() and (fresh or (folder / "done").exists()):
        shutil.rmtree(folder)
    console.print(f"{name}: {experiment.title} ({experiment.source})", style="bold")
    label = f"{name}-quick" if quick else name
    with Screen() as screen:
        job = Job(
            folder, quick=quick, seed=seed, data=data, pictures=out / "pictures", label=label,
            device=device, tell=screen.tell, stop=screen.stopped,
        )  # fmt: skip
        clock = Clock(folder / "seconds.txt")
        if clock.before[0]:
            console.print(f"going on after {clock.before[0]:.0f} s of an earlier run (--fresh begins again)")
        try:
            rows = list(experiment.run(job))
        finally:
            clock.keep()
    command = shlex.join(["isocline", *sys.argv[1:]])
    run = record.run_of(name, quick, seed, (clock.seconds, clock.processor), rows, job.drawn, command, device)
    record.append(out / f"{name}.json", run)
    (folder / "done").touch()
    _show(run)
    console.print(
        f"{clock.seconds:.0f} s; record: {out / f'{name}.json'}; pictures: {', '.join(job.drawn) or 'none'}\n"
    )
    return run


class Clock:
    """Seconds of a run over all its sessions: as they pass, and of processor time."""

    def __init__(self, path: Path) -> None:
        self.path, self.began = path, (time.monotonic(), time.process_time())
        self.before = [float(word) for word in path.read_text().split()] if path.exists() else [0.0, 0.0]

    @property
    def seconds(self) -> float:
        """So far."""
        return self.before[0] + time.monotonic() - self.began[0]

    @property
    def processor(self) -> float:
        """Of processor time, so far."""
        return self.before[1] + time.process_time() - self.began[1]

    def keep(self) -> None:
        """For a later session."""
        write(self.path, f"{self.seconds:.1f} {self.processor:.1f}")


class Screen:
    """Progress: a bar on a terminal, a line every ten seconds elsewhere. The first Ctrl-C asks, the second breaks off."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"))
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        self.task: Any = None
        self.last = time.monotonic()
        self.asked = False

    def __enter__(self) -> Screen:
        self.before = signal.signal(signal.SIGINT, self._interrupt)
        if console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)
        if console.is_terminal:
            self.bar.stop()

    def _interrupt(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def stopped(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self.asked

    def tell(self, what: str, done: int, total: int, loss: float | None) -> None:
        """Shows how far something is."""
        text = "" if loss is None else f"{loss:.4g}"
        if console.is_terminal:
            if self.task is None or self.bar.tasks[self.task].description != what:
                if self.task is not None:
                    self.bar.remove_task(self.task)
                self.task = self.bar.add_task(what, total=total, loss=text)
            self.bar.update(self.task, completed=done, total=total, loss=text)
        elif time.monotonic() - self.last > 10.0 or (done == total > 1):
            self.last = time.monotonic()
            print(f"{what}: {done}/{total}{' loss ' + text if text else ''}", flush=True)


def _show(run: dict[str, Any]) -> None:
    grid = Grid()
    grid.add_column("")
    for header in ("published", "bound", "ours"):
        grid.add_column(header, justify="right")
    grid.add_column("")
    for row in run["rows"]:
        numbers = ["" if row.get(k) is None else f"{row[k]:.4g}" for k in ("published", "bound", "ours")]
        grid.add_row(row["what"], *numbers, row.get("unit", ""))
    console.print(grid)
