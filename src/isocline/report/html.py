"""The page: a jinja2 template filled from report.json."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from isocline.report import bifurcation, diagnostics, figures, population
from isocline.report.svg import PALETTE
from isocline.report.ticks import power

RIVALS = {
    "typical series": "The typical series has the parameters of the population: a forecast that no row of the series is known for.",
    "persistence": "Persistence holds the last observed value.",
    "mean": "The mean is that of the training part.",
    "linear ODE": "The linear ODE is dy/dt = A y{driven} + b, fitted to the same training part{given}.",
    "autoregression": "The autoregression takes each state from its own past, its order by Akaike’s criterion.",
    "seasonal naive": "The seasonal naive repeats the value {period} rows ago, the period of the training part’s autocorrelation.",
    "PySINDy model": "The PySINDy model is one of sparse polynomials of degree 2, fitted to smoothed finite differences, the threshold chosen by held-out blocks.",
}


def write_report(report: dict[str, Any], path: str | Path, module: str | None = None) -> None:
    """Writes the HTML page of a run: self-contained, readable on a phone, safe for any column name.

    Args:
        report: the contents of `report.json`.
        path: of the page; written aside and moved into place.
        module: the model as an ES module (`isocline.export.to_js`); a click on the phase portrait then starts a trajectory.
    """
    write_text(Path(path), render(report, module))


def write_text(path: Path, text: str) -> None:
    """Aside, and moved into place, so that there is never half a page."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def render(report: dict[str, Any], module: str | None = None) -> str:
    """The page as text."""
    return page("report.html", report=report, script=_script(module), **_parts(report))


def _script(module: str | None) -> str | None:
    """The model and what the portrait does with it, with nothing in it that ends a script."""
    if module is None:
        return None
    own = files("isocline.report").joinpath("portrait.js").read_text(encoding="utf-8")
    return f"{module}\n{own}".replace("</", "<\\/").replace("<!--", "<\\!--")


def page(template: str, **values: Any) -> str:
    """A template of this package, filled; everything is escaped but what `figures` drew."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "percent": percent}
    source = files("isocline.report").joinpath(template).read_text(encoding="utf-8")
    style = files("isocline.report").joinpath("style.css").read_text(encoding="utf-8")
    return environment.from_string(source).render(style=palette() + style, **values)


def palette() -> str:
    """The colours as CSS variables, for light and dark."""
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in PALETTE.items()) for i in (0, 1))
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def number(x: float | None) -> str:
    """Three digits, a dash where there is none.

    >>> [number(x) for x in (None, 0.0, 0.12345, 1.2, 1234, 1e-7)]
    ['–', '0', '0.123', '1.20', '1,234', '10⁻⁷']
    """
    if x is None:
        return "–"
    if isinstance(x, int) or x == 0 or 1000 <= abs(x) < 1e5:
        return f"{x:,.0f}".replace("-", "−")
    if 1e-3 <= abs(x) < 1000:
        return f"{x:#.3g}".rstrip(".").replace("-", "−")
    return power(x)


def percent(x: float | None) -> str:
    """A share in whole percent, a dash where there is none.

    >>> [percent(x) for x in (None, 0.254, -0.0384, -0.001, -48.0)]
    ['–', '25', '−4', '0', '< −999']
    """
    return "–" if x is None else "< −999" if x < -9.99 else f"{round(100 * x)}".replace("-", "−")


def _parts(report: dict[str, Any]) -> dict[str, Any]:
    scores = report["scores"]
    known = [s["nrmse"] for s in scores if s["nrmse"] is not None]
    phase = figures.phase(report)
    pieces = [p["id"] for p in report["model_path"] if p["part"] == "fit"]
    driven = " + B u" if report["table"].get("inputs") else ""
    given = " and given the same doses" if report["table"].get("given") else ""
    return {
        "cards": figures.trajectories(report),
        "losses": figures.losses(report),
        "horizons": figures.horizons(report) if report["horizons"] else None,
        "time_unit": "" if len(report["table"]["time"]["unit"] or "") > 12 else report["table"]["time"]["unit"],
        "rivals": [RIVALS[s["model"]].format(**s, driven=driven, given=given) for s in scores[1:]],
        "phase": phase,
        "residuals": diagnostics.residuals(report) if report["residuals"] else None,
        "checks": population.cards(report),
        "inside": [(column["name"], *population.inside(column)) for column in population.columns(report)],
        "alike": [
            state["name"]
            for state, noise in zip(
                report["table"]["states"], (report["residuals"] or {}).get("like_noise", []), strict=False
            )
            if noise is False
        ],
        "moved": bifurcation.picture(report) if report.get("bifurcation") else None,
        "members": diagnostics.members(report) if diagnostics.has_members(report) else None,
        "season": (report["chosen"] or {}).get("season"),  # not in reports of earlier versions
        "two": figures.dimension(report) == 2,
        "pair": [state["name"] for state in figures.shown_in(report)] if phase else [],
        "frame": json.dumps(phase.frame) if phase else None,
        "best": min(known, default=None),
        "worst": max(known, default=None),
        "thinned": max(len(s["t"]) for s in report["series"]) * len(report["table"]["states"]) > figures.MAX_DOTS,
        "pieces": len(pieces) > len(set(pieces)),
        "reconstructed": reconstructed(report["solver"]["reconstruction"]),
        "config": json.dumps(report["config"], indent=1),
        "name": Path(report["table"]["path"]).name,
    }


def reconstructed(error: float | None) -> str:
    """What a reconstruction error means.

    >>> reconstructed(1e-5)
    'Small: the solver follows the learned field, and the forecast is the field’s own.'
    """
    if error is None:
        return "Unknown: the way back could not be integrated, as happens when the path contracts strongly."
    if error < 1e-3:
        return "Small: the solver follows the learned field, and the forecast is the field’s own."
    if error < 1e-2:
        return "Small enough: below 0.01 the path remembers where it came from."
    return (
        "Large: the path does not remember where it came from. Either it contracts onto an attractor, where the way "
        "back is lost although the way forwards is right, or the tolerances are too loose; tighter ones tell which."
    )
