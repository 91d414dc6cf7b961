"""The sections of fused.md beside its table: first gradients, threads, growth, memory, the floor, a whole training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common import median, table
from fused_cases import Case, cases, isocline_solve, present, torch_works
from fused_demo import fused, torchdiffeq, train, train_diffrax
from fused_floor import floors, peak, tanh
from fused_timing import Settings, digits, interleaved

WORKS = {"forward": "forward", "both": "forward + backward"}


@dataclass
class Section:
    """What is measured, and how it is shown: from all that is kept."""

    title: str
    measure: Callable[[Settings], Any]
    show: Callable[[dict[str, Any]], str]


def alone(*arguments: str) -> Any:
    """From fused_alone.py, in a process of its own; where it weighs memory one whose freed memory goes back at once."""
    command = [sys.executable, str(Path(__file__).with_name("fused_alone.py")), *arguments]
    freed = {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "0"} if "memory" in arguments else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | freed)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- first gradients --------------------------------------------------------------------------------------------------
def measure_first(settings: Settings) -> dict[str, list[list[float]]]:
    packages = ["fused", *(["diffrax"] if present("diffrax") else [])]
    return {p: [alone("first", p) for _ in range(min(3, settings.rounds))] for p in packages}


def show_first(kept: dict[str, Any]) -> str:
    rows = []
    for package, runs in kept["first gradient"]["found"].items():
        later = [seconds for run in runs for seconds in run[1:]]
        met = ("yes" if median(later) <= 0.5 else "**no**") if package == "fused" else ""
        rows.append([package, digits(median([run[0] for run in runs])), digits(median(later)), digits(min(later)), met])
    return table(["package", "first of a process, s", "another, s", "least, s", "≤ 0.5 s"], rows)


# ---- threads ----------------------------------------------------------------------------------------------------------
def show_threads(kept: dict[str, Any]) -> str:
    rows = []
    for work, found in kept["threads"]["found"].items():
        middle, least = ([f(found[n]) for n in ("1", "2")] for f in (median, min))
        times = [f"{a * 1e3:.3g} ({b * 1e3:.3g})" for a, b in zip(middle, least, strict=True)]
        gain = middle[0] / middle[1]
        met = "yes" if gain >= 1.8 else "**no**"
        rows.append([WORKS[work], *times, f"{gain:.2f} ({least[0] / least[1]:.2f})", met])
    return table(["work", "1 thread, ms", "2 threads, ms", "gain", "≥ 1.8×"], rows)


# ---- growth -----------------------------------------------------------------------------------------------------------
def measure_growth(settings: Settings) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds by what grows, its size, and work."""
    all_cases = cases()
    net, lorenz = all_cases["2-50-2, batch 10,000"], next(c for c in all_cases.values() if c.steps)
    found: dict[str, dict[str, dict[str, float]]] = {}
    few = settings.rounds == 1
    tasks: dict[Any, Callable[[], Any]] = {}
    for batch in (100, 200) if few else (1250, 2500, 5000, 10_000):
        works = torch_works(
            isocline_solve(net, "dopri5", "fused"), net.field(), net.y0()[:batch], net.cotangents[:, :batch]
        )
        tasks |= {("samples", batch, work): run for work, run in works.items()}
    for steps in (50, 100) if few else (125, 250, 500, 1000):
        case = Case("", lorenz.field, lorenz.y0, lorenz.twin, lorenz.ts * steps / lorenz.steps, steps)
        works = torch_works(
            isocline_solve(case, "rk4", "fused"), case.field(), case.y0()[:1024], case.cotangents[:, :1024]
        )
        tasks |= {("steps", steps, work): run for work, run in works.items()}
    for (what, size, work), seconds in interleaved(tasks, settings).items():
        found.setdefault(what, {}).setdefault(str(size), {})[work] = seconds.middle
    return found


def show_growth(kept: dict[str, Any]) -> str:
    rows = []
    names = {"samples": "2-50-2, samples", "steps": "Lorenz, 1,024 samples, steps"}
    for what, sizes in kept["growth"]["found"].items():
        for size, seconds in sizes.items():
            each = [f"{seconds[work] * 1e3:.3g} ({seconds[work] * 1e6 / int(size):.3g})" for work in WORKS]
            rows.append([names[what], f"{int(size):,}", *each])
    return table(["what grows", "number", *(f"{title}, ms (µs for each)" for title in WORKS.values())], rows)


# ---- memory -----------------------------------------------------------------------------------------------------------
def measure_memory(settings: Settings) -> dict[str, dict[str, float]]:
    packages = ["fused", *(["torchdiffeq"] if present("torchdiffeq") else [])]
    return {package: alone("memory", package) for package in packages}


def show_memory(kept: dict[str, Any]) -> str:
    found = kept["memory"]["found"]
    names = list(found["fused"])
    rows = [[package, *(digits(values[name]) for name in names)] for package, values in found.items()]
    return table(["bytes a step and sample", *names], rows)


# ---- the floor --------------------------------------------------------------------------------------------------------
def measure_floor(settings: Settings) -> dict[str, float]:
    return {"peak": peak(), "tanh": tanh()}


def show_floor(kept: dict[str, Any]) -> str:
    found = kept["floor"]["found"]
    rows = []
    for name, case in cases().items():
        taken = [r for r in kept.get(name, {}).get("rows", ()) if r["group"] == "fused"]
        methods = {r["method"]: r for r in taken if r["work"] == "forward" and r.get("stats")}
        if not methods:
            continue
        forward = min(methods.values(), key=lambda r: r["ms"])
        (both,) = [r for r in taken if r["work"] == "both" and r["method"] == forward["method"]]
        least = floors(case.ours(), forward["stats"], found["peak"], found["tanh"])
        if least is None:
            continue
        samples = len(case.y0())
        counts = [f"{forward['stats'][key] / samples:.1f}" for key in ("evaluations", "accepted", "rejected")]
        spent = [forward["ms"], both["ms"] - forward["ms"]]
        ratios = [f"{ms / (1e3 * low):.2f}" for ms, low in zip(spent, least, strict=True)]
        times = [f"{ms:.3g} / {1e3 * low:.3g}" for ms, low in zip(spent, least, strict=True)]
        rows.append([name, forward["method"], *counts, times[0], ratios[0], times[1], ratios[1]])
    line = f"{found['peak'] / 1e9:.1f} · 10⁹ multiply-adds a second, {found['tanh'] * 1e9:.2f} ns a tanh.\n"
    head = ["field, batch", "method", "evaluations", "accepted", "rejected", "forward / floor, ms", "ratio"]
    return f"{line}\n{table([*head, 'backward / floor, ms', 'ratio'], rows)}" if rows else line


# ---- a whole training -------------------------------------------------------------------------------------------------
def measure_demo(settings: Settings) -> dict[str, Any]:
    few = settings.rounds == 1
    count = 40 if few else 2000
    runs: dict[str, Callable[[int], dict[str, float]]] = {"fused": partial(train, fused)}
    if present("diffrax"):
        runs["diffrax"] = train_diffrax
    if present("torchdiffeq"):
        runs["torchdiffeq"] = partial(train, torchdiffeq)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for turn in range(1 if few else 3):
        for name, run in runs.items():
            if turn == 0 or name != "torchdiffeq":
                found[name].append(run(count))
    return {"iterations": count, "runs": found}


def show_demo(kept: dict[str, Any]) -> str:
    found = kept["ode_demo"]["found"]
    middle = {name: median([r["seconds"] for r in runs]) for name, runs in found["runs"].items()}
    rows = []
    for name, runs in found["runs"].items():
        compiling = median([r["compiling"] for r in runs]) if "compiling" in runs[0] else None
        losses = [digits(r["loss"]) for r in runs]
        cells = [digits(middle[name]), digits(middle[name] / middle["fused"]), digits(compiling), losses[0], len(runs)]
        rows.append([name, *cells])
    head = ["package", "s", "of fused", "of it compiling, s", "distance in the end", "runs"]
    return f"{found['iterations']:,} iterations.\n\n{table(head, rows)}"


MORE = {
    "first gradient": Section(
        """## The first gradient of a new field

Seconds from making a field (2-H-2, 20 samples, Dopri5) to its first gradient, in fresh processes, the machine built and
all packages imported: the first field of a process, with what PyTorch's tracer still imports and sets up itself, or jax;
and three further ones of other widths, medians. Nothing compiled is taken from a cache.""",
        measure_first,
        show_first,
    ),
    "threads": Section(
        """## Two threads

2-50-2 at batch 10,000, Dopri5, in a process with all cores, the two in turns; medians, in brackets the least of nine.
Other jobs of the computer take from the second number first.""",
        lambda settings: alone("threads"),
        show_threads,
    ),
    "growth": Section(
        """## Growth with samples and steps""",
        measure_growth,
        show_growth,
    ),
    "memory": Section(
        """## Memory of the record

What a graph holds for one more accepted step of one sample: the growth of the process between a short solve and one four
times as long, divided by the steps; beside it torchdiffeq's `odeint`.""",
        measure_memory,
        show_memory,
    ),
    "floor": Section(
        """## The distance to the floor

A solve cannot be faster than its multiply-adds at the core's peak (independent sums in registers, by a small C++ program)
plus its tanhs, one at what it costs the machine (from two fields that differ by eight tanhs). Forward: the evaluations
that were made. Backward: of every accepted step six stages again, and for each multiply-add two more. Evaluations and
steps are means of a sample.""",
        measure_floor,
        show_floor,
    ),
    "ode_demo": Section(
        """## A whole training

torchdiffeq's demonstration (`benchmarks/fused_demo.py`) from its first line to its last, all that is compiled included;
medians of the runs.""",
        measure_demo,
        show_demo,
    ),
}
