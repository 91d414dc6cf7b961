"""Writes experiments.md from the records in results/: `python docs/experiments.py`. Nothing on that page is typed by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from isocline import experiments

PAGE = Path(__file__).with_suffix(".md")
RESULTS = Path(__file__).parents[1] / "results"
SOURCE = "../src/isocline/experiments"
ENGINES = Path(__file__).parents[1] / "benchmarks" / "engines.json"

HEAD = """# The experiments: published and ours

Every experiment is one file that reads like a section of a paper (data, model, training, published number, ours) and one
command: `isocline reproduce NAME`, with `--quick` for a small version of it. A run that was broken off goes on with the
same command. This page is written by `docs/experiments.py` from the records that the commands left in
[results/](../results/): the last full run of each.

*published* is the number in the source. *bound* is what a perfect model would score where that is known: an entropy, a noise
level, a closed form. Times are processor time, on the machine and the threads named, which had other work beside. *Both
engines*: processor time of a whole run with `engine="auto"`, the models' default, and with the eager engine in its place, one
after the other ([the table](../benchmarks/engines.md)), where that was measured.
"""


def last_run(name: str) -> dict[str, Any] | None:
    """The last full run of an experiment."""
    path = RESULTS / f"{name}.json"
    runs = [run for run in json.loads(path.read_text(encoding="utf-8")) if not run["quick"]] if path.exists() else []
    return runs[-1] if runs else None


def number(value: float | None) -> str:
    """To four digits; empty where there is none."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1e4 and value == round(value) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """In the unit a person would say."""
    if seconds < 120:
        return f"{seconds:.0f}\u00a0s"
    return f"{seconds / 60:.0f}\u00a0min" if seconds < 5400 else f"{seconds / 3600:.1f}\u00a0h"


def took(run: dict[str, Any]) -> str:
    """Processor time of a run; the time that passed, and that it is this, on a GPU and of a record without the other."""
    if "processor_seconds" in run and "device" not in run["machine"]:
        return duration(run["processor_seconds"])
    return f"{duration(run['seconds'])} by the clock"


def cell(text: str, note: str) -> str:
    """What stands in a table, and in a line below it what there is to say of it: a column of notes has no place on a phone."""
    both = text + (f"<br><small>{plainly(note)}</small>" if note else "")
    return both.replace("|", "\\|").replace("->", "→")  # a line may end after the hyphen of an arrow


def sentence(title: str) -> str:
    """A title as the beginning of a sentence; names that are written small stay so."""
    return title if title.startswith("torchdiffeq") else title[:1].upper() + title[1:]


def plainly(note: str) -> str:
    """Numbers of ordinary size without an exponent: 3, not 3e+00."""
    return re.sub(r"\d(\.\d+)?e\+00", lambda found: found[0].removesuffix("e+00"), note)


def contents(runs: dict[str, dict[str, Any] | None]) -> list[str]:
    """The list of all experiments."""
    lines = ["| experiment | what, after whom | time | both engines |", "|---|---|---|---|"]
    both = json.loads(ENGINES.read_text(encoding="utf-8"))["full"]
    for name, run in runs.items():
        experiment = experiments.find(name)
        what = cell(experiment.title, experiment.source)
        auto_eager = " and ".join(map(duration, both[name][:2])) if name in both else ""
        lines.append(f"| [{name}](#{name}) | {what} | {took(run) if run else 'not run yet'} | {auto_eager} |")
    return lines


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The numbers of one experiment. What no row has is no column, for the sake of phones."""
    kinds = [kind for kind in ("published", "bound", "ours") if any(row.get(kind) is not None for row in rows)]
    units = any(row.get("unit") for row in rows)
    lines = [f"| | {' | '.join(kinds)} |" + " |" * units, f"|---|{'--:|' * len(kinds)}" + "---|" * units]
    for row in rows:
        numbers = [f"**{number(row[kind])}**" if kind == "ours" else number(row.get(kind)) for kind in kinds]
        cells = [cell(row["what"], row.get("note", "")), *numbers, *[row.get("unit", "")] * units]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def section(name: str, run: dict[str, Any] | None) -> list[str]:
    """One experiment."""
    experiment = experiments.find(name)
    file = f"{name.replace('-', '_')}.py"
    lines = [f"## {name}", "", f"{sentence(experiment.title)} ({experiment.source}): [{file}]({SOURCE}/{file}).", ""]
    if run is None:
        return [*lines, f"No full run is on record: `isocline reproduce {name}`.", ""]
    lines += table(run["rows"])
    machine = run["machine"]
    command = re.sub(r" --out \S+", "", run["command"])  # where somebody else's machine wrote it
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    lines += [
        "",
        f"`{command}`: {took(run)} on {machine.get('device', machine['cpu'])}, {threads}, PyTorch {machine['torch']}, "
        f"seed {run['seed']}, {run['date'][:10]}, commit {run['commit']}.",
        "",
    ]
    for picture in run["pictures"]:
        shown = Path(picture).stem.removeprefix(name).replace("-", " ").strip()
        lines += [f"![{experiment.title}: {shown}](../results/pictures/{picture})", ""]
    return lines


def page() -> str:
    """The whole page."""
    runs = {name: last_run(name) for name in experiments.names()}
    lines = [HEAD, *contents(runs), ""]
    for name, run in runs.items():
        lines += section(name, run)
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.name}: {len(experiments.names())} experiments")
