"""`isocline bench fit`: how good the fits are, on measured series."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path

import torch
from rich.table import Table as Grid

from isocline.bench.fitting import run
from isocline.bench.sets import named
from isocline.bench.table import RIVALS, write_tables
from isocline.cli import fail
from isocline.cli.fit import console, say
from isocline.fit import UserError


def bench_fit_command(names: list[str], seeds: int, data: Path | None, out: Path) -> int:
    """0 when done, 130 after Ctrl-C; exits with 2 on bad input."""
    torch.set_num_threads(1)  # as `isocline fit`, and so that times can be compared
    if seeds < 1:
        fail(f"--seeds {seeds}: expected 1 or more")
    if data is not None and not data.is_dir():
        fail(f"--data {data}: expected a folder")
    try:
        lines = run(named(names), seeds, out / "fit.jsonl", data, tell=say)
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        say(f"Interrupted. What was fitted is kept in {out / 'fit.jsonl'}; the same command goes on.")
        return 130
    command = shlex.join(["isocline", *sys.argv[1:]])
    rows = write_tables(lines, out, command, datetime.datetime.now(datetime.UTC).date().isoformat())
    grid = Grid()
    for head in ("set", "fits", "isocline fit", *RIVALS):
        grid.add_column(head, justify="left" if head == "set" else "right")
    for row in rows:
        values = [row["error"][1], *row["rivals"].values()]
        least = min((v for v in values if v is not None), default=None)
        cells = ["–" if v is None else f"[bold]{v:.3g}[/bold]" if v == least else f"{v:.3g}" for v in values]
        grid.add_row(row["set"], str(row["parts"] * row["seeds"]), *cells)
    console.print(grid)
    say(f"{out / 'fit.md'}, {out / 'fit.json'}")
    return 0
