"""The fused engine beside torchdiffeq and diffrax: writes fused.md.

pip install -c constraints.txt -e ".[bench]"
python benchmarks/fused.py [--rows TEXT ...] [--methods TEXT] [--without NAME ...] [--rounds N] [--quick] [--out FILE]

What was measured is kept in fused.json beside the table, so that `--rows TEXT` measures some rows again (those of that
name, or else those whose names contain it) and the table is made of all; `--rows none` only makes the table. With
`--methods TEXT` only some take part, and their numbers are shown, not kept.
"""

from __future__ import annotations

import os

# Before anything starts a pool of threads, which then all share one core.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", JAX_PLATFORMS="cpu")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import origin, table
from fused_cases import LEFT_OUT, PEERS, Case, Method, cases, methods, present, truth
from fused_more import MORE
from fused_timing import Settings, digits, interleaved
from torch import Tensor

from isocline.engines.fused.build import vector_bytes

OURS = ("fused", "specialised")
# What a target is against: the best of these groups of methods.
GROUPS = {
    "diffrax shared": ("diffrax shared",),
    "diffrax vmap": ("diffrax vmap",),
    "diffrax": ("diffrax shared", "diffrax vmap"),
    "jax": ("diffrax shared", "diffrax vmap", "scan"),
    "torchdiffeq": ("torchdiffeq",),
    "peers": ("diffrax shared", "diffrax vmap", "scan", "torchdiffeq"),
}
WRONG = 0.01  # an error with which a method does not count
WORKS = {"forward": "forward", "both": "forward + backward"}


def missing() -> str:
    """One line: what is not installed, and how to install it; empty where all is."""
    absent = [name for name in PEERS if not present(name)]
    if not absent:
        return ""
    return (
        f"Left out, or not installed: {', '.join(absent)}. "
        "To include: `.venv/bin/python -m pip install -c constraints.txt -e '.[bench]'`\n"
    )


def made() -> str:
    told = origin([name for name in (*PEERS, "jax") if present(name)])
    return told.replace(", one thread.", f", vectors of {8 * vector_bytes()} bits, one thread.")


# ---- measuring --------------------------------------------------------------------------------------------------------
def errors(result: Any, exact: tuple[Tensor, Sequence[Tensor]]) -> list[float]:
    """Of the path, relative to its largest entry; of gradients the worst of y0 and the parameters, in norm."""
    if not isinstance(result, tuple):
        return [float((result - exact[0]).abs().max() / exact[0].abs().max())]
    worst = max(float((g - e).norm() / e.norm()) for g, e in zip(result[1], exact[1], strict=True))
    return [*errors(result[0], exact), worst]


def measure(case: Case, settings: Settings, chosen: str) -> dict[str, Any]:
    """All methods on one case, as it is kept."""
    exact = truth(case)
    found: list[Method] = list(methods(case, chosen))
    rows = []
    for work in WORKS:
        taking = [m for m in found if work in m.works]
        judged = {m.name: errors(m.read(m.works[work]()), exact) for m in taking}
        seconds = interleaved({m.name: m.works[work] for m in taking}, settings)
        for m in taking:
            spent = seconds[m.name]
            rows.append(
                {
                    "work": work,
                    "group": m.group,
                    "method": m.name,
                    "ms": spent.middle * 1e3,
                    "least": min(spent.cpu) * 1e3,
                    "wall": min(spent.wall) * 1e3,
                    "rounds": len(spent.cpu),
                    "errors": judged[m.name],
                    "compiling": m.compiled.get(work),
                    "stats": m.stats() if m.stats else None,
                }
            )
    return {"origin": made(), "rows": rows}


# ---- the table --------------------------------------------------------------------------------------------------------
def best(rows: Sequence[dict[str, Any]], work: str, groups: Sequence[str]) -> dict[str, Any] | None:
    """The fastest that is right: Backsolve loses a chaotic system's path, and its gradient with it."""
    right = [r for r in rows if r["work"] == work and r["group"] in groups and max(r["errors"]) <= WRONG]
    return min(right, key=lambda r: r["ms"], default=None)


def summary(kept: dict[str, Any]) -> str:
    """The fastest method of every group, ratios to the fused engine, and the targets."""
    rows = []
    for name, case in cases().items():
        if name not in kept:
            continue
        for work, title in WORKS.items():
            taken = kept[name]["rows"]
            ours = {group: best(taken, work, (group,)) for group in OURS}
            fused = ours["fused"]
            if fused is None:
                continue
            ratio: dict[str, float] = {}
            for group, members in GROUPS.items():
                peer = best(taken, work, members)
                if peer is not None:
                    ratio[group] = peer["ms"] / fused["ms"]
            asked = {group: value for (kind, group), value in case.targets.items() if kind == work}
            met = [
                f"{group} {value:g}×: " + ("—" if group not in ratio else "yes" if ratio[group] >= value else "**no**")
                for group, value in asked.items()
            ]
            special = ours["specialised"]
            row = [name, title, digits(fused["ms"]), digits(special["ms"] if special else None)]
            row += [digits(ratio.get(g)) for g in ("diffrax shared", "diffrax vmap")]
            if any(r["group"] == "scan" for r in taken):
                row[-1] += f" (jax, best: {digits(ratio.get('jax'))})"
            rows.append([*row, digits(ratio.get("torchdiffeq")), "; ".join(met)])
    head = ["field, batch", "work", "fused, ms", "specialised, ms", "diffrax, shared step", "diffrax, vmap"]
    return table([*head, "torchdiffeq", "target, met"], rows)


def details(taken: dict[str, Any]) -> str:
    rows = []
    for work, title in WORKS.items():
        fused = best(taken["rows"], work, ("fused",))
        for r in (r for r in taken["rows"] if r["work"] == work):
            errs = [f"{e:.1e}" for e in r["errors"]]
            numbers = [digits(r["ms"]), digits(r["least"]), digits(r["wall"])]
            numbers.append(digits(r["ms"] / fused["ms"]) if fused else "—")
            last = [r["rounds"], digits(r["compiling"])]
            rows.append([title, r["method"], *numbers, *errs, *["—"] * (2 - len(errs)), *last])
    head = ["work", "method", "ms", "least", "on the wall", "of fused", "error of y", "error of gradient", "rounds"]
    return table([*head, "compiling, s"], rows)


PAGE = """# The fused engine

{origin}
Made by `benchmarks/fused.py`; the ratios are what carries over to another machine. All methods take turns in one
process, {rounds} rounds at most, slow ones three at least; numbers are medians, in single precision. All threads of all
packages share one core, and time is that of all of them on the processor: nothing can be hidden on a second core, jax's
own threads count, other jobs of the computer do not. What is waited for is not in it; the least time on the wall beside
it shows that this is next to nothing.

Dopri5 and Tsit5 of isocline and of diffrax are both measured, and the faster counts; of torchdiffeq its Dopri5, of its
two gradients the faster. rtol = 1e-6, atol = 1e-8. isocline's Dopri5 judges a step by Dormand and Prince's own estimate of
its error, which is 1.5 times that of the two others (Shampine's weights): it gets 1.5 times the tolerances, with which it
takes the steps that they take. Errors are in the tables of all methods.

diffrax is compiled for the shapes (compiling is in no number): the batch with shared steps, the way back by
`RecursiveCheckpointAdjoint` or `BacksolveAdjoint`, the faster counting; or mapped over samples, each with its own steps, as
in the fused engine. The gradient is by y0 and all parameters, for normal cotangents of ten observations from 0 to 1 (of
Lorenz and the flow: of the ends). The trace of the flow: isocline's as `CNF` takes it, in closed form; torchdiffeq's by two
rows of autograd, diffrax's by both tangents at once; in the row below all are given the closed form.

{missing}## In short

How many times the fused engine's time the others take, and what was asked for. 2-50-2 is torchdiffeq's demonstration,
trained on its cubic spiral, from rings of 0.5 to 1.5; of random features, with an outer layer fitted to the same spiral, it
takes more than twice as many steps: rows without targets, which earlier editions of this page had in their place (atol 1e-6).

{summary}
{more}## All methods

Errors are against a solution in double precision at 1e-10: of the path relative to its largest entry, of the gradient
the worst relative error in norm among y0 and the parameters. Above {wrong:g} a method does not count.

{details}"""


def page(kept: dict[str, Any], settings: Settings, top: str) -> str:
    parts = [f"### {name}\n\n{kept[name]['origin']}\n{details(kept[name])}" for name in cases() if name in kept]
    return PAGE.format(
        origin=top,
        rounds=settings.rounds,
        wrong=WRONG,
        missing=f"{missing()}\n" if missing() else "",
        summary=summary(kept),
        more="".join(f"{section.title}\n\n{section.show(kept)}\n" for name, section in MORE.items() if name in kept),
        details="\n".join(parts),
    )


def keep(file: Path, name: str = "", taken: Any = None) -> dict[str, Any]:
    """What has been measured, by row; with one more of it."""
    kept = json.loads(file.read_text()) if file.exists() else {}
    if name:
        kept[name] = taken
        file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=[""], help="measure those of this name, or whose names contain it")
    parser.add_argument("--methods", default="", help="only those whose name contains this; shown, not kept")
    parser.add_argument("--without", choices=PEERS, nargs="*", default=[], help="leave these packages out")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one round: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), help="file to write")
    options = parser.parse_args()
    LEFT_OUT.update(options.without)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of peers about their own dependencies
    logging.getLogger("jax").setLevel(logging.CRITICAL)
    settings = Settings(1, 0.0, 0.0) if options.quick else Settings(options.rounds)
    print(missing(), end="", flush=True)
    file = options.out.with_suffix(".json")
    kept = keep(file)
    every = [*cases(), *MORE]
    wanted = {n for text in options.rows for n in every if n == text or (text not in every and text in n)}
    for name, case in cases().items():
        if name not in wanted:
            continue
        taken = measure(case, settings, options.methods)
        print(f"{name}\n{details(taken)}", flush=True)
        if not options.methods:
            kept = keep(file, name, taken)
    for name, section in MORE.items():
        if name in wanted and not options.methods:
            kept = keep(file, name, {"origin": made(), "found": section.measure(settings)})
            print(f"{name}\n{section.show(kept)}", flush=True)
    if not options.methods:
        # A table that is only made anew says where its first row was measured.
        top = made() if wanted or not kept else next(iter(kept.values()))["origin"]
        options.out.write_text(page(kept, settings, top))
        print(summary(kept))


if __name__ == "__main__":
    main()
