"""Writes gallery.md, a picture of every experiment, from the records in results/: `python docs/gallery.py`."""

from __future__ import annotations

from pathlib import Path

from experiments import last_run, sentence, took

from isocline import experiments

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Gallery

A picture of every experiment, as the last full run left it. Each is made by one command, `isocline reproduce NAME`, from one
file. The names lead to the [tables](experiments.md): the published number, ours, the date, the machine.

:::::{container} tiles
"""
FIRST = {
    "article-figures": "article-figures-4-5-chains.png",
    "spiral": "spiral-training.gif",
    "linear-spiral": "linear-spiral-training.gif",
    "cubic-spiral": "cubic-spiral-training.gif",
}


def tile(name: str) -> list[str]:
    """An experiment's picture, name, title and time."""
    run, experiment = last_run(name), experiments.find(name)
    if run is None or not run["pictures"]:
        return []
    title = sentence(experiment.title) + ("" if experiment.title[-1] in ".?!" else ".")
    picture = FIRST.get(name, run["pictures"][0])
    return [
        "::::{container} tile",
        f"![{experiment.title}](../results/pictures/{picture})",
        "",
        f"[{name}](experiments.md#{name})",
        "",
        f"{title} {took(run)}.",
        "::::",
        "",
    ]


def page() -> str:
    """The whole page."""
    lines = [line for name in experiments.names() for line in tile(name)]
    return "\n".join([HEAD, *lines, ":::::", ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.name}: {len(experiments.names())} experiments")
