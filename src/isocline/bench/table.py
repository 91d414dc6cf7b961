"""The table that the lines of a benchmark make: medians and quartiles over seeds, failures counted, simple models beside."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isocline._version import __version__
from isocline.bench.fitting import Line
from isocline.bench.sets import SETS
from isocline.experiments.lab.record import commit, machine
from isocline.fit.files import write
from isocline.fit.judge import NEURAL
from isocline.fit.rivals import AUTO, LAST, LINEAR, MEAN, SEASON

RIVALS = (LAST, MEAN, SEASON, AUTO, LINEAR)
LOST = 1e300  # in the place of an infinite error, with which quantiles cannot count


def summarized(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """A set a row: errors of a seed are means over the set's parts, of seeds the median and the quartiles.

    A seed without all parts does not count, and a part that failed makes its seed's error infinite.
    """
    rows = []
    for one in SETS:
        own = [line for line in lines if line["set"] == one.name]
        parts = list(dict.fromkeys(line["part"] for line in own))
        whole = [
            mine
            for seed in sorted({line["seed"] for line in own})
            if len(mine := [line for line in own if line["seed"] == seed]) == len(parts)
        ]
        if not whole:
            continue
        per_seed = [_mean([line["error"][NEURAL] for line in mine]) for mine in whole]
        fits = [line for mine in whole for line in mine]
        rows.append(
            {
                "set": one.name,
                "what": one.what,
                "parts": len(parts),
                "seeds": len(whole),
                "failed": sum(line["failed"] for line in fits),
                "error": _quartiles(per_seed),
                "rivals": {m: _mean([line["error"].get(m, math.nan) for line in whole[0]]) for m in RIVALS},
                "inside": {
                    level: _finite(
                        np.mean([line["inside"][level] for line in fits if line.get("inside")] or [math.nan])
                    )
                    for level in ("80", "95")
                },
                "seconds": float(np.median([line["seconds"] for line in fits])),
                "by_part": {
                    part: {
                        "error": _quartiles([_number(line["error"][NEURAL]) for line in fits if line["part"] == part]),
                        "rivals": next(line["error"] for line in fits if line["part"] == part),
                    }
                    for part in parts
                },
            }
        )
    return rows


def _number(x: float | None) -> float:
    return math.inf if x is None else x


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def _mean(errors: Sequence[float | None]) -> float | None:
    """None where one was not finite, and where a model is not in all of them."""
    values = [math.inf if e is None else e for e in errors]
    return _finite(float(np.mean(values)))


def _quartiles(errors: Sequence[float | None]) -> list[float | None]:
    """First quartile, median, third, the quartiles outwards to the next error: of three they are the best and the worst. None
    where that is infinite."""
    values = np.minimum([_number(e) for e in errors], LOST)
    found = (np.quantile(values, q, method=m) for q, m in ((0.25, "lower"), (0.5, "linear"), (0.75, "higher")))
    return [None if q >= LOST / 1000 else float(q) for q in found]


def write_tables(lines: Sequence[Line], folder: Path, command: str, date: str) -> list[dict[str, Any]]:
    """fit.json and fit.md in a folder; returns the rows."""
    rows, where = summarized(lines), {**machine(), "isocline": commit() or __version__}
    write(folder / "fit.json", json.dumps({"command": command, "date": date, **where, "sets": rows}, indent=1) + "\n")
    write(folder / "fit.md", markdown(rows, command, date, where))
    return rows


def markdown(rows: Sequence[dict[str, Any]], command: str, date: str, where: dict[str, Any]) -> str:
    """The table as a page."""
    cells = [_cells(row) for row in rows]
    heads = ["set", "fits", "isocline fit", "failed", *RIVALS, "in 80 %", "in 95 %", "s a fit"]
    lines = [
        "# How good the fits are",
        "",
        "Forecasts of what a table did not hold, by `isocline fit` as it comes: no setting was chosen by what is forecast. Errors: "
        "root mean square over the standard deviation of the training part (of lynx and hare: of the natural logarithms; of the "
        "Silverbox: in millivolts). "
        "Of seeds the median, and in brackets the quartiles, outwards to the next fit; of the parts of a set the mean. Bold: the lowest of a row. Failed: "
        "fits whose forecast is not finite. In 80 % and 95 %: the share of what was measured then inside the bands (of van der Pol, of "
        "the truth with its noise, which is what a band is for: of the truth alone it holds more); one forecast has few values that do "
        "not depend on each other, and its share is far from exact. Seconds: the median, "
        "as they passed, with whatever else the machine had to do.",
        "",
        f"`{command}`, {date}; " + f"{where['cpu']}, one core; isocline {where['isocline']}, torch {where['torch']}.",
        "",
        _row(heads),
        _row(["---", *["---:"] * (len(heads) - 1)]),
        *(_row(c) for c in cells),
        "",
        "What is forecast from what:",
        "",
        *(f"- {row['set']}: {row['what']}" for row in rows),
    ]
    for row in rows:
        if row["parts"] > 1:
            used = [m for m in RIVALS if all(m in p["rivals"] for p in row["by_part"].values())]
            lines += [
                "",
                f"## {row['set'][0].upper()}{row['set'][1:]}, part by part",
                "",
                _row(["part", "isocline fit", *used]),
            ]
            lines += [_row(["---", *["---:"] * (len(used) + 1)])]
            lines += [
                _row([name, *_bold([part["error"][1], *(part["rivals"][m] for m in used)])])
                for name, part in row["by_part"].items()
            ]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    low, middle, high = row["error"]
    own, *others = _bold([middle, *(row["rivals"][m] for m in RIVALS)])
    around = f" [{_short(low)}, {_short(high)}]" if row["seeds"] > 1 else ""
    fits = f"{row['parts']} × {row['seeds']}" if row["parts"] > 1 else str(row["seeds"])
    inside = ["–" if v is None else f"{100 * v:.0f} %" for v in row["inside"].values()]
    return [row["set"], fits, f"{own}{around}", str(row["failed"]), *others, *inside, f"{row['seconds']:.0f}"]


def _bold(values: Sequence[float | None]) -> list[str]:
    """Written short, the lowest in bold."""
    least = min((v for v in values if v is not None), default=None)
    return [f"**{_short(v)}**" if v is not None and v == least else _short(v) for v in values]


def _short(x: float | None) -> str:
    return "–" if x is None else f"{x:.3g}" if x < 1000 else f"{x:.0e}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
