"""The page: a jinja2 template filled from report.json."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from isocline.report import figures
from isocline.report.svg import PALETTE


def write_report(report: dict[str, Any], path: str | Path) -> None:
    """Writes the HTML page of a run: self-contained, readable on a phone, safe for any column name.

    Args:
        report: the contents of `report.json`.
        path: of the page; written aside and moved into place.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(render(report), encoding="utf-8")
    aside.replace(path)


def render(report: dict[str, Any]) -> str:
    """The page as text."""
    return page("report.html", report=report, **_parts(report))


def page(template: str, **values: Any) -> str:
    """A template of this package, filled; everything is escaped but what `figures` drew."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    source = files("isocline.report").joinpath(template).read_text(encoding="utf-8")
    style = files("isocline.report").joinpath("style.css").read_text(encoding="utf-8")
    return environment.from_string(source).render(style=palette() + style, **values)


def palette() -> str:
    """The colours as CSS variables, for light and dark."""
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in PALETTE.items()) for i in (0, 1))
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def number(x: float | None) -> str:
    """Three digits, a dash where there is none."""
    if x is None:
        return "–"
    if x != 0 and not 1e-3 <= abs(x) < 1e5:
        return f"{x:.1e}"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def _parts(report: dict[str, Any]) -> dict[str, Any]:
    won = bool(report["scores"]) and report["verdict"].startswith("The neural ODE wins")
    best = min((s["nrmse"] for s in report["scores"] if s["nrmse"] is not None), default=None)
    return {
        "trajectories": figures.trajectories(report),
        "losses": figures.losses(report),
        "phase": figures.phase(report),
        "won": won,
        "best": best,
        "config": json.dumps(report["config"], indent=1),
        "name": Path(report["table"]["path"]).name,
    }
