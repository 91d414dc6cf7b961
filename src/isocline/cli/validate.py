"""`isocline validate`: fold after fold on the screen, then a table of all."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.table import Table as Grid
from rich.text import Text

from isocline.cli import fail
from isocline.cli.fit import Screen, console, interruptible, native_threads, say, scores, settled
from isocline.fit import UserError, validate
from isocline.fit.recipe import Recipe
from isocline.fit.validate import PAGE, RESULT

MANY = 4  # columns beyond which the table of folds has only the error of all together


def validate_command(
    tables: list[Path],
    out: Path | None,
    resume: Path | None,
    config: Path | None,
    options: dict[str, Any],
    overwrite: bool,
    *,
    plan: dict[str, Any],
) -> int:
    """0 when all folds are done, 1 when one failed, 130 after Ctrl-C; exits with 2 on bad input."""
    try:
        if resume is not None:
            raise UserError("--resume: expected none; the same command goes on where a validation was broken off")
        resolved, name = settled(tables, config, options, "validate")
        folder = out or Path(f"{name}-validation")
        command = shlex.join(["isocline", *sys.argv[1:]])
        with native_threads(), interruptible() as stop, FoldScreen() as screen:
            found = validate(
                tables, resolved, folder, **plan,
                tell=screen.tell, notify=screen.notify, stop=stop, overwrite=overwrite, command=command,
            )  # fmt: skip
    except UserError as error:
        fail(str(error))
    show_validation(found, folder)
    if found["stopped"] == "interrupted":
        say("Interrupted and saved. The same command goes on.")
        return 130
    return int(found["failed"] > 0)


class FoldScreen:
    """A screen as of a fit for every fold, between a line that says what it does and one that says what came of it."""

    def __init__(self) -> None:
        self.screen = Screen()
        self.told = False

    def __enter__(self) -> FoldScreen:
        return self

    def __exit__(self, *_: object) -> None:
        self.screen.__exit__()

    def notify(self, what: str, value: Any) -> None:
        """What is known so far; the roles of the columns once."""
        if what == "fold":
            self.screen.__exit__()
            self.screen = Screen()
            say(
                f"fold {value['fold']} of {value['of']}, {value['name']}: {value['trained']} rows teach, {value['held']} judge"
            )
        elif what == "scored":
            say(f"  failed: {value['failed']}" if value["failed"] else f"  error {_short(value['scores'][0]['nrmse'])}")
        elif what in ("table", "scales") and self.told:
            return
        else:
            self.told |= what == "scales"
            self.screen.notify(what, value)

    def tell(self, recipe: Recipe) -> None:
        """After every step."""
        self.screen.tell(recipe)


def show_validation(found: dict[str, Any], folder: Path) -> None:
    """Fold by fold, all models over all folds, the verdict."""
    if found["folds"]:
        console.print(by_fold(found))
    if found["skill"]:
        console.print(skills(found))
    if found["scores"]:
        console.print(scores(found["scores"], "all folds together"))
    say(found["verdict"], "bold")
    say(f"page: {folder / PAGE}; runs of the folds and all numbers beside it, in {RESULT}")


def by_fold(found: dict[str, Any]) -> Grid:
    """A fold a row: error in the unit of every column, share inside the bands, seconds; last all together."""
    done = [line for line in found["folds"] if not line["failed"]]
    columns = list(done[0]["scores"][0]["rmse"]) if done else []
    if len(columns) > MANY:  # all together are told of every model, below
        columns = []
    banded = bool(found["coverage"])
    grid = Grid(title="fold by fold", title_justify="left")
    heads = ["rows", "held", *(f"RMSE {c}" for c in columns), "NRMSE", *(["in 80 %", "in 95 %"] if banded else []), "s"]
    grid.add_column("fold")
    for head in heads:
        grid.add_column(Text(head), justify="right")

    def cells(of: dict[str, Any]) -> list[str]:
        row, shares = of["scores"][0], of["coverage"] or {}
        inside = [_percent(shares.get(level)) for level in ("80", "95")] if banded else []
        return [*(_short(row["rmse"][c]) for c in columns), _short(row["nrmse"]), *inside, f"{of['seconds']:.0f}"]

    for line in found["folds"]:
        rows = [f"{line['trained']}", f"{line['held']}"]
        grid.add_row(Text(line["name"]), *rows, *(["failed"] if line["failed"] else cells(line)))
    if done:
        grid.add_section()
        grid.add_row("all", "", str(sum(line["held"] for line in done)), *cells(found), style="bold")
    return grid


def skills(found: dict[str, Any]) -> Grid:
    """How much lower the model's error is than those of simple models, fold by fold and of all together."""
    grid = Grid(title="error lower than that of", title_justify="left")
    grid.add_column("fold")
    for name in found["skill"]:
        grid.add_column(name, justify="right")
    for line in found["folds"]:
        if not line["failed"]:
            grid.add_row(Text(line["name"]), *(_percent(line["skill"].get(name)) for name in found["skill"]))
    grid.add_section()
    grid.add_row("all", *map(_percent, found["skill"].values()), style="bold")
    return grid


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %" if share > -10 else "< -999 %"


def _short(x: float | None) -> str:
    return "–" if x is None else f"{x:.3g}"
