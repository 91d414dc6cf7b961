"""`isocline show` and `isocline compare`: what runs have found, in the terminal."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table as Grid
from rich.text import Text

from isocline.cli import fail
from isocline.cli.fit import conclusion, console, say, scores, season, tuning
from isocline.cli.validate import show_validation
from isocline.fit import UserError, bifurcation
from isocline.fit.compare import compare, read_report
from isocline.fit.run import FIGURES
from isocline.fit.validate import RESULT, read_validation


def show_command(run: Path, figures: bool = False) -> int:
    """0 when shown, the figures written where they are asked for; exits with 2 where there is no finished run, and no validation."""
    try:
        if (run / RESULT).is_file():
            show_validation(read_validation(run), run)
            return 0
        report = read_report(run)
    except UserError as error:
        fail(str(error))
    table = report["table"]
    what = "equations" if "parameters" in report else "a neural ODE"
    say(
        f"{table['path']}: {table['rows']} rows; {what} fitted on {report['created'][:10]} in {report['seconds']:.0f} s"
    )
    if report["stopped"] == "interrupted":
        say(f"interrupted before the end; go on with: isocline fit --resume {run}")
    console.print(columns(table, report["config"]["hidden_states"]))
    for note in table["notes"]:
        say(f"  {note}")
    if report.get("tuning"):  # not in reports of earlier versions
        say(tuning(report["tuning"]))
    if (report["chosen"] or {}).get("season"):
        say(season(report["chosen"]["season"]))
    if report["scores"]:
        console.print(scores(report["scores"]))
    for line in report.get("absent", []):
        say(f"  {line}", "dim")
    if report["horizons"]:
        console.print(skills(report["horizons"]))
    if report["bands"] and report["bands"]["held_out"]:
        console.print(bands(report["bands"]["held_out"]))
    for line in report.get("parameters", {}).get("equations", []):
        say(f"  {line}")
    conclusion(report, run)
    if figures:
        from isocline.report import write_figures

        paths = write_figures(report, run / FIGURES)
        say(f"figures: {len(paths)} files in {run / FIGURES}")
    return 0


def columns(table: dict[str, Any], hidden: list[str]) -> Grid:
    """What the columns were taken for, and the states that none of them has."""
    grid = _grid("", "column", "role", "unit", "scale")
    grid.add_row(Text(table["time"]["name"]), "time", Text(table["time"]["unit"] or ""))
    if table["id"]:
        grid.add_row(Text(table["id"]), "id")
    for state in table["states"]:
        role = "hidden state" if state["name"] in hidden else "state"
        grid.add_row(Text(state["name"]), role, Text(state["unit"] or ""), state["scale"]["kind"])
    for column in table.get("given", []):
        grid.add_row(Text(column["name"]), Text(column["role"]))
    for column in table["inputs"]:
        grid.add_row(Text(column["name"]), "input", Text(column["unit"] or ""), "linear")
    return grid


def skills(horizons: dict[str, Any]) -> Grid:
    """Skill over persistence in percent, a model a row."""
    grid = _grid("skill over persistence, by rows ahead", "model", *(f"{h}" for h in horizons["rows"]), right=1)
    for name, values in horizons["skill"].items():
        if any(values):
            grid.add_row(
                name, *("–" if v is None else f"{100 * v:.0f} %" if v >= -9.99 else "< -999 %" for v in values)
            )
    return grid


def bands(levels: dict[str, dict[str, float | None]]) -> Grid:
    """How good the bands are."""
    grid = _grid("bands on the held-out part", "level", "inside", "width", "interval score", "of quantiles", right=1)
    for level, row in levels.items():
        share = row["coverage"]
        cells = [_short(row[k]) for k in ("width", "score", "score_of_quantiles")]
        grid.add_row(f"{level} %", "–" if share is None else f"{100 * share:.0f} %", *cells)
    return grid


# ---- equilibria over a number -----------------------------------------------------------------------------------------
def over_command(run: Path, name: str, low: float, high: float) -> int:
    """0 when drawn; exits with 2 where there is nothing to go over."""
    from isocline.report import write_bifurcation

    try:
        diagram = bifurcation(run, name, low, high)
        states = read_report(run)["table"]["states"]
    except UserError as error:
        fail(str(error))
    if not diagram["branches"]:
        say(f"no equilibrium near the data for {name} from {low:g} to {high:g}")
        return 0
    for branch in diagram["branches"]:
        values = branch["value"]
        parts = [
            f"{'stable' if yes else 'unstable'} {sum(1 for _ in group)}" for yes, group in groupby(branch["stable"])
        ]
        say(f"equilibria for {name} from {min(values):.4g} to {max(values):.4g}: {', '.join(parts)} points")
    grid = _grid("", "", name, *(s["name"] for s in states), "period", right=1)
    for point in diagram["points"]:
        grid.add_row(
            point["kind"], f"{point['value']:.4g}", *(f"{v:.4g}" for v in point["state"]), _short(point["period"])
        )
    if diagram["points"]:
        console.print(grid)
    path = run / ("bifurcation-" + re.sub(r"[^\w.-]+", "_", name) + ".svg")
    say(f"drawn: {write_bifurcation(diagram, states, path)}")
    return 0


# ---- compare ----------------------------------------------------------------------------------------------------------
def compare_command(runs: list[Path], out: Path | None) -> int:
    """0 when compared; exits with 2 where the runs do not share their held-out part."""
    from isocline.report.comparison import write_comparison

    path = out or Path("comparison.html")
    try:
        compared = compare(runs)
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--out {path}: expected a file in a folder that exists")
    except UserError as error:
        fail(str(error))
    console.print(comparison(compared))
    if not compared["scaled"]:
        say("the runs scale their states differently, so their NRMSE and skill cannot be compared")
    say(compared["sentence"], "bold")
    picture = write_comparison(compared, path)
    say(f"side by side: {path}, {picture}")
    return 0


def comparison(compared: dict[str, Any]) -> Grid:
    """A run a row, then the baselines of the first run."""
    rows = compared["rows"]
    measures = [m for m in ("nrmse", "mase", "skill") if m in rows[0]]
    titles = [m.upper() if m != "skill" else m for m in measures]
    banded = any(row["coverage"] for row in rows)
    inside = ["in 80 %", "in 95 %"] if banded else []
    grid = _grid("held-out part", "run", "fitted", *titles, *inside, "s", right=1)
    for i, row in enumerate(rows):
        cells = [_short(row[m]) for m in measures]
        if banded:
            shares = [(row["coverage"] or {}).get(level) for level in ("80", "95")]
            cells += ["" if share is None else f"{100 * share:.0f} %" for share in shares]
        cells.append("" if row["seconds"] is None else f"{row['seconds']:.0f}")
        best = "bold" if row["run"] is not None and row["run"] == compared["best"] else ""
        last = i + 1 < len(rows) and row["run"] is not None and rows[i + 1]["run"] is None
        grid.add_row(Text(row["run"] or row["model"]), f"{row['parameters']:,}", *cells, style=best, end_section=last)
    return grid


def _grid(title: str, *heads: str, right: int | None = None) -> Grid:
    """With the columns from `right` on flush right."""
    grid = Grid(title=title or None, title_justify="left")
    for i, head in enumerate(heads):
        grid.add_column(Text(head), justify="right" if right is not None and i >= right else "left")
    return grid


def _short(x: float | None) -> str:
    return "–" if x is None else f"{x:.3g}"
