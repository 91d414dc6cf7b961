"""`isocline fit`: options, progress on the screen, Ctrl-C."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Grid
from rich.text import Text

from isocline.cli import fail
from isocline.engines.fused.threads import alone_with
from isocline.fit import Config, UserError
from isocline.fit.beside import Here, beside
from isocline.fit.group import ALONE, Group, LostError, several
from isocline.fit.reading.reader import name_of, paths_of
from isocline.fit.reading.table import Table
from isocline.fit.recipe import CHECKPOINT, Recipe
from isocline.fit.run import fit as fit_table
from isocline.fit.run import resume as resume_run
from isocline.fit.scale import Scales

console = Console(highlight=False)
TITLES = {"NRMSE": "nrmse", "MASE": "mase", "skill": "skill"}
PHASES = {
    "choosing": "choosing by held-out blocks",
    "calibrating": "calibrating bands by held-out blocks",
    "trying a season": "trying a season on held-out blocks",
    "leaving out": "leaving out whole series",
    "fitting": "fitting the record",
}


def fit_command(
    tables: list[Path],
    out: Path | None,
    resume: Path | None,
    config: Path | None,
    options: dict[str, Any],
    overwrite: bool,
) -> int:
    """0 when the run is done, 130 after Ctrl-C, 1 where another process was lost; exits with 2 on bad input."""
    given = {k: v for k, v in options.items() if v is not None}
    with native_threads() as cores, beside(cores > 1 and not several(), "isocline.report") as aside:
        return _fit(tables, out, resume, config, given, overwrite, aside)


@contextmanager
def native_threads() -> Iterator[int]:
    """PyTorch takes one thread, since the matrices are small, and more would only wait for each other; solves take as many as
    it would have taken: all cores, or what `OMP_NUM_THREADS` says, which is one where torchrun started several processes."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    with alone_with(count):
        yield count


def _fit(
    tables: list[Path],
    out: Path | None,
    resume: Path | None,
    config: Path | None,
    given: dict[str, Any],
    overwrite: bool,
    aside: Here,
) -> int:
    group, folder = ALONE, resume
    try:
        group = Group.of_environment()
        if resume is not None:
            if config is not None or given or out is not None or overwrite:
                raise UserError(
                    "--resume takes all settings from the run: give it alone, or with the table if that has moved"
                )
            return run(lambda **kw: resume_run(resume, tables or None, group=group, aside=aside, **kw), resume, group)
        resolved, name = settled(tables, config, given, "fit", " (or --resume RUN)")
        folder = out or Path(f"{name}-fit")
        command = shlex.join(["isocline", *sys.argv[1:]])
        how = {"overwrite": overwrite, "command": command, "group": group, "aside": aside}
        return run(lambda **kw: fit_table(tables, resolved, folder, **how, **kw), folder, group)
    except LostError as error:
        if group.speaks():
            saved = folder is not None and (folder / CHECKPOINT).exists()
            hint = f"; go on from what was saved with:  {_again(group.size)} fit --resume {shlex.quote(str(folder))}"
            print(f"isocline: {error}{hint if saved else ''}", file=sys.stderr)
        return 1
    except UserError as error:
        if group.speaks():
            fail(str(error))
        return 2
    finally:
        group.leave()


def _again(size: int) -> str:
    return "isocline" if size == 1 else f"torchrun --nproc-per-node {size} -m isocline"


def settled(
    tables: list[Path], config: Path | None, options: dict[str, Any], command: str, instead: str = ""
) -> tuple[Config, str]:
    """The settings of a file and of options over it, and what a folder for their result is named after.

    Raises:
        UserError: without a table, and for settings that there are not.
    """
    if not tables:
        raise UserError(f"give a table to {command}, for example: isocline {command} lynx.csv{instead}")
    settings = {**(Config.read(config) if config else {}), **{k: v for k, v in options.items() if v is not None}}
    if isinstance(settings.get("hold_out"), str) and not str(settings["hold_out"]).startswith("series:"):
        settings["hold_out"] = _share(str(settings["hold_out"]))
    return Config.make(**settings), _named(tables)


def _named(tables: list[Path]) -> str:
    """Of a file its name, of several that of the folder they are in."""
    paths = paths_of(tables) or []
    return (
        name_of(paths[0])
        if len(paths) == 1
        else Path(os.path.commonpath([p.resolve().parent for p in paths])).name or "tables"
    )


def _share(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def run(start: Any, folder: Path, group: Group = ALONE) -> int:
    """Runs a training with the screen and the keyboard attached; of a group the first process has the screen."""
    with interruptible(group) as stop, Screen() as screen:
        shown = {"tell": screen.tell, "notify": screen.notify} if group.leads else {}
        report = start(**shown, stop=stop)
    if not group.leads:
        return 0  # whatever happened: torchrun would end the first process, which has still to write
    show(report, folder)
    if report["stopped"] == "interrupted":
        again = f"{_again(group.size)} fit --resume {shlex.quote(str(folder))}"
        say(f"Interrupted and saved. Go on with:  {again}")
        return 130
    return 0


@contextmanager
def interruptible(group: Group = ALONE) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; a second one does what the first would have done."""
    interrupted: list[bool] = []

    def on_interrupt(*_: object) -> None:
        if interrupted and group.size == 1:  # torchrun passes Ctrl-C on, which the terminal has sent already
            raise KeyboardInterrupt
        interrupted.append(True)

    # torchrun ends the others with SIGTERM where one was lost: they go on to the next step, and find that out.
    signals = (signal.SIGINT, signal.SIGTERM) if group.size > 1 else (signal.SIGINT,)
    before = [signal.signal(number, on_interrupt) for number in signals]
    try:
        yield lambda: bool(interrupted)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


class Screen:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console) if console.is_terminal else None
        self.table: Table | None = None
        self.task: Any = None
        self.phase = ""
        self.told: tuple[str, str] | None = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def notify(self, what: str, value: Any) -> None:
        """What is known so far."""
        if what == "table":
            self.table = value
        elif what == "scales" and self.table is not None:
            roles(self.table, value)
        elif what == "trial":
            changed = ", ".join(f"{name} {_setting(v)}" for name, v in value["settings"].items()) or "as given"
            errors = f"error {value['error']:.3g}, lowest {value['best']:.3g}"
            say(f"trial {value['trial']} of {value['of']}: {errors} ({changed})")
        elif what == "judging" and self.progress is not None:
            self.progress.stop()

    def tell(self, recipe: Recipe) -> None:
        """After every step: a bar for each phase, or a line for each stage."""
        trainer = recipe.trainer
        (done, total), seconds = trainer.progress, trainer.history.seconds[-1]
        stage = trainer.stages[trainer.history.stage[-1]].title(recipe.config.window)
        what = f"misfit {trainer.history.misfit[-1]:.3g}"
        if self.progress is not None:
            self.progress.start()
            if recipe.phase != self.phase:
                self.phase = recipe.phase
                self.task = self.progress.add_task(PHASES[recipe.phase], total=total, loss="")
            self.progress.update(self.task, completed=done, total=total, loss=f"{stage}  {what}")
        elif (recipe.phase, stage) != self.told:
            self.told = (recipe.phase, stage)
            print(f"{PHASES[recipe.phase]}: {stage}  step {done}/{total}  {what}  {seconds:.0f} s", flush=True)


def roles(table: Table, scales: Scales) -> None:
    """What the columns were taken for, before anything is fitted."""
    say(f"{table.path}: {table.rows} rows, {len(table.series)} series")
    grid = Grid()
    for name in ("column", "role", "unit", "scale"):
        grid.add_column(name)
    unit = table.clock.unit or table.time.unit or table.time.name
    grid.add_row(Text(table.time.header), "time", Text(table.time.unit), Text(f"1 unit = {scales.tau:.3g} {unit}"))
    if table.id:
        grid.add_row(Text(table.id.header), "id")
    for header, role in table.others:
        grid.add_row(Text(header), role)
    for k, (column, scale, hidden) in enumerate(zip(table.states, scales.states, table.hidden, strict=True)):
        role = "earlier value" if k >= len(table.own) else "hidden state" if hidden else "state"
        grid.add_row(Text(column.header), role, Text(column.unit), scale.kind)
    for column in table.inputs:
        grid.add_row(Text(column.header), "input", Text(column.unit), "linear")
    for header, why in table.ignored:
        grid.add_row(Text(header), Text(f"ignored: {why}"))
    console.print(grid)
    for note in table.notes:
        say(f"  {note}")


def say(message: str, style: str = "") -> None:
    """A line as it is: no markup, not broken."""
    console.print(Text(message), style=style, soft_wrap=True)


def show(report: dict[str, Any], folder: Path) -> None:
    """How it was chosen, the scores, how good the bands are, and where everything is."""
    chosen, bands = report["chosen"], report["bands"]
    if report["tuning"]:
        say(tuning(report["tuning"]))
    if chosen and len(chosen["errors"]) > 1:
        errors = ", ".join(f"{_penalty(e['penalty'])}: {e['error']:.3g}" for e in chosen["errors"])
        say(
            f"penalty {_penalty(chosen['penalty'])}, by {chosen['blocks']} held-out blocks (error by penalty: {errors})"
        )
    if chosen and chosen.get("season"):
        say(season(chosen["season"]))
    if report["scores"]:
        console.print(scores(report["scores"]))
    for line in report["absent"]:
        say(f"  {line}", "dim")
    if bands and bands["coverage"]:
        shares = " and ".join(f"{bands['coverage'][level]:.0%} ({level} %)" for level in ("80", "95"))
        say(f"observations of the held-out part inside the bands: {shares}")
    conclusion(report, folder)


def season(found: dict[str, Any]) -> str:
    """Whether the blocks spoke for a clock, in a sentence."""
    period = f"{found['period']:.4g} {found['unit']}"
    errors = f"{found['error']:.3g}; without it {found['without']:.3g}"
    if found["taken"]:
        return f"season of {period}: a clock that the networks are given, for the blocks are forecast better with it (error {errors})"
    return f"no season: with a clock of {period} the blocks are not forecast clearly better (error {errors})"


def _penalty(value: float | None) -> str:
    """As text; None is an infinite one."""
    return "without networks" if value is None else f"{value:g}"


def tuning(found: dict[str, Any]) -> str:
    """What a search was over and what it found, in a sentence."""
    over = f"{found['trials']} trials over {', '.join(found['over'])}, judged by held-out blocks"
    if not found["settings"]:
        return f"tuned by {over}: none clearly better than the settings as given (error {found['given']:.3g})"
    chosen = ", ".join(f"{name} {_setting(v)}" for name, v in found["settings"].items())
    return f"tuned by {over}: {chosen} (error {found['best']:.3g}; as given {found['given']:.3g})"


def _setting(value: Any) -> str:
    values = value if isinstance(value, (list, tuple)) else [value]
    return "x".join(f"{v:.3g}" for v in values)


def conclusion(report: dict[str, Any], folder: Path) -> None:
    """What ends a fit, and `isocline show`: parameters, warnings, the verdict, where the page is."""
    if "parameters" in report:
        if report["parameters"]["rows"]:
            console.print(parameters(report["parameters"]["rows"]))
        for note in report["parameters"]["notes"]:
            say(f"  {note}")
    for warning in report["warnings"]:
        say(f"warning: {warning}")
    say(report["verdict"], "bold")
    if report["reach"]:
        say(report["reach"])
    say(f"report: {folder / 'report.html'}")


def parameters(rows: list[dict[str, Any]]) -> Grid:
    """A parameter of the equations a row: value, standard error, interval."""
    grid = Grid(title="parameters", title_justify="left")
    profiled = next((row["level"] for row in rows if "level" in row), None)
    interval = [f"{100 * profiled:g} % interval"] if profiled is not None else []
    between = ["between series", "shrinkage"] if any(row.get("sd") is not None for row in rows) else []
    members = ["± by members"] if any("by_members" in row for row in rows) else []
    for name in ("parameter", "value", "± error", *members, *interval, *between, "unit"):
        grid.add_column(name, justify="left" if name in ("parameter", "unit") else "right")
    for row in rows:
        error = "fixed" if row["fixed"] else "–" if row["error"] is None else f"{row['error']:.2g}"
        cells = [Text(row["name"]), f"{row['value']:.4g}", error]
        if members:
            cells.append(f"{row['by_members']:.2g}" if "by_members" in row else "")
        if interval:
            low, high = ("open" if row.get(f"open_{end}") else _digits(row.get(end)) for end in ("low", "high"))
            cells.append(f"{low} to {high}" if "level" in row else "")
        if between:
            sd, shrinkage = row["sd"], row["shrinkage"]
            cells += ["", ""] if sd is None else [f"{sd:.3g}", "–" if shrinkage is None else f"{100 * shrinkage:.0f} %"]
        grid.add_row(*cells, Text(row["unit"]))
    return grid


def _digits(x: float | None) -> str:
    return "open" if x is None else f"{x:.4g}"


def scores(rows: list[dict[str, Any]], title: str = "held-out part") -> Grid:
    """A model a row; a model a column where there are many states."""
    columns = {f"RMSE {name}": [row["rmse"][name] for row in rows] for name in rows[0]["rmse"]}
    columns |= {head: [row[key] for row in rows] for head, key in TITLES.items() if key in rows[0]}
    cells = {name: ["–" if x is None else f"{x:.3g}" for x in values] for name, values in columns.items()}
    models = [row["model"] for row in rows]
    upright = len(rows[0]["rmse"]) > 3
    grid = Grid("" if upright else "model", title=title, title_justify="left")
    for name in models if upright else cells:
        grid.add_column(Text(name), justify="right")
    if upright:
        for name, values in cells.items():
            grid.add_row(Text(name), *values)
    else:
        for i, model in enumerate(models):
            grid.add_row(model, *(values[i] for values in cells.values()))
    return grid
