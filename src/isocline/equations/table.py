"""Estimates as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isocline.equations.estimates import Estimate, Estimates


def table(fit: Estimates) -> str:
    """Aligned columns: value, error, interval and unit where there are any; the noise, and what to know."""
    return "\n".join([*aligned(*cells(fit)), summary(fit), *(f"note: {m}" for m in fit.messages)])


def aligned(head: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table, names and units flush left."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    left = {0, len(head) - 1} if head[-1] == "unit" else {0}
    lines = [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    ]
    return [line.rstrip() for line in lines]


def cells(fit: Estimates) -> tuple[list[str], list[list[str]]]:
    """The head of a table of estimates and its rows."""
    entries = list(fit.entries.values())
    profiled = next((e.interval for e in entries if e.interval is not None), None)
    units = any(e.unit for e in entries)
    head = ["parameter", "value", "± error"]
    head += [f"{100 * profiled.level:g} % interval"] if profiled is not None else []
    head += ["unit"] if units else []
    rows = []
    for e in entries:
        row = [e.name, f"{e.value:.4g}", error(e)]
        row += [interval(e)] if profiled is not None else []
        rows.append(row + ([e.unit] if units else []))
    return head, rows


def error(e: Estimate) -> str:
    """A standard error."""
    if e.fixed:
        return "fixed"
    return "–" if math.isnan(e.error) else "∞" if math.isinf(e.error) else f"{e.error:.4g}"


def interval(e: Estimate) -> str:
    """An interval, with ends that are none of the data's as inequalities."""
    p = e.interval
    if p is None:
        return ""
    low = "open" if p.open_low else f"{p.low:.4g}"
    high = "open" if p.open_high else f"{p.high:.4g}"
    return f"{low} to {high}"


def summary(fit: Estimates) -> str:
    """The noise and the counts."""
    noise = ", ".join(
        f"{name} {sd:.3g}{' (relative)' if kind == 'log' else ''}"
        for (name, sd), kind in zip(fit.noise.items(), fit.search.misfit.data.noise, strict=True)
    )
    return f"noise: {noise}; {fit.count} observations, {fit.freedom:.4g} degrees of freedom, AIC {fit.aic:.4g}"
