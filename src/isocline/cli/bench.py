"""`isocline bench fit`: how good the fits are, on measured series."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from rich.table import Table as Grid

from isocline.bench.fitting import run
from isocline.bench.sets import named
from isocline.bench.table import write_tables
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
    console.print(shown(rows))
    say(f"{out / 'fit.md'}, {out / 'fit.json'}")
    return 0


def shown(rows: list[dict[str, Any]]) -> Grid:
    """A set a row, beside the best of the simple models."""
    grid = Grid()
    for head in ("set", "fits", "isocline fit", "best simple model", "", "in 95 %"):
        grid.add_column(head, justify="left" if head in ("set", "") else "right")
    for row in rows:
        own = row["error"][1]
        known = {name: v for name, v in row["rivals"].items() if v is not None}
        name = min(known, key=lambda m: known[m], default="")
        best = known.get(name)
        cells = ["–" if v is None else f"{v:.3g}" for v in (own, best)]
        if own is not None and (best is None or own < best):
            cells[0] = f"[bold]{cells[0]}[/bold]"
        inside = row["inside"]["95"]
        grid.add_row(
            row["set"],
            str(row["parts"] * row["seeds"]),
            *cells,
            name,
            "–" if inside is None else f"{100 * inside:.0f} %",
        )
    return grid
