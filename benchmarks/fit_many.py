"""Many series in one run: what `isocline fit` takes for tables of up to a million rows; writes fit_many.json and fit_many.md.

python benchmarks/fit_many.py [series …]
python benchmarks/fit_many.py --shared [series]

The second compares one process with two that torchrun starts.

Damped pendulums from random starts, angle and angular velocity at 100 times, noise of 3 % of their standard deviations; all
settings of the fit are the defaults. Each table is fitted in a process of its own, so that its peak of memory is its own; each
is kept as it ends. Seconds are those of the processor: with one thread those on the wall of a machine that does nothing else.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import origin, table

from isocline.fit import Config
from isocline.fit.group import Group
from isocline.fit.recipe import Recipe
from isocline.fit.run import FIGURES, fit
from isocline.report import write_figures

HERE = Path(__file__).parent
SIZES = (300, 1000, 10_000)
IDLE = 0.5  # load up to which the wall clock is worth telling
SHARED = "shared"  # key of the comparison of one process and two
SHORTER = {"matching": 100, "iterations": 10, "polish": 20}  # of its trainings
TIMES, STEP, DAMPING, NOISE = 100, 0.15, 0.15, 0.03
NOTE = """The neural ODE is far from the noise. Whole records are hard here: of pendulums that pass the top slowly a small error of the
field decides in which well the path ends, and a few paths in the wrong well outweigh all others. Trained by Adam alone, on a choice
of windows at a time, it was behind the autoregression (0.193); now L-BFGS polishes on all of them."""
PHASES = ("reading", "preparing", "choosing", "leaving out", "fitting", "judging and writing")


def pendulums(count: int, path: Path) -> None:
    """A CSV of so many series, one under the other."""
    rng = np.random.default_rng(0)
    y = np.stack([rng.uniform(-2.5, 2.5, count), rng.uniform(-2.0, 2.0, count)])

    def slope(y: np.ndarray) -> np.ndarray:
        return np.stack([y[1], -np.sin(y[0]) - DAMPING * y[1]])

    rows, h = [y], STEP / 5
    for _ in range(TIMES - 1):
        for _ in range(5):
            a = slope(y)
            b = slope(y + h / 2 * a)
            c = slope(y + h / 2 * b)
            y = y + h / 6 * (a + 2 * b + 2 * c + slope(y + h * c))
        rows.append(y)
    clean = np.stack(rows, 1)  # (2, times, series)
    noisy = clean + NOISE * clean.std((1, 2), keepdims=True) * rng.standard_normal(clean.shape)
    with path.open("w", encoding="utf-8") as file:
        file.write("series,t,angle,velocity\n")
        for i in range(count):
            file.writelines(f"p{i},{STEP * k:.2f},{noisy[0, k, i]:.5f},{noisy[1, k, i]:.5f}\n" for k in range(TIMES))


def fitted(count: int, folder: Path) -> dict[str, Any]:
    """One fit in this process."""
    torch.set_num_threads(1)
    pendulums(count, folder / "table.csv")
    seconds, last = dict.fromkeys(PHASES, 0.0), [time.process_time()]

    def passed(phase: str) -> None:
        now = time.process_time()
        seconds[phase] += now - last[0]
        last[0] = now

    def notify(what: str, value: Any) -> None:
        passed("reading" if what in ("table", "scales") else recipes[-1].phase if what == "judging" else PHASES[-1])

    def tell(recipe: Recipe) -> None:
        passed(recipe.phase if recipes else "preparing")
        recipes.append(recipe)

    recipes: list[Recipe] = []
    run = folder / "run"
    report = fit(folder / "table.csv", Config(), run, tell=tell, notify=notify)
    write_figures(report, run / FIGURES)
    passed(PHASES[-1])
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "rows": count * TIMES,
        "trained": recipes[-1].record.rows,
        "seconds": seconds,
        "steps": len(recipes),
        "peak": kilobytes / 1024,
        "page": (run / "report.html").stat().st_size,
        "checkpoint": (run / "checkpoint.pt").stat().st_size,
        "scores": {row["model"]: row["nrmse"] for row in report["scores"]},
    }


def shared(count: int) -> dict[str, Any]:
    """One process, then two, on the same table: seconds of the processor in each process and on the wall."""
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        pendulums(count, Path(folder) / "table.csv")
        for size in (1, 2):
            start = ["-m", "torch.distributed.run", "--nproc-per-node", str(size)] if size > 1 else []
            command = [sys.executable, *start, __file__, "--part", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            parts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            assert len(parts) == size
            out[str(size)] = parts
    return out


def part(folder: Path) -> None:
    """What one process of a group does, and what it takes until the training is over."""
    torch.set_num_threads(1)
    group = Group.of_environment()
    began, wall, ends = time.process_time(), time.monotonic(), list[tuple[float, float]]()

    def tell(recipe: Recipe) -> None:
        ends.append((time.process_time() - began, time.monotonic() - wall))

    try:
        config = Config(**SHORTER)
        report = fit(folder / "table.csv", config, folder / f"run{group.size}", tell=tell, group=group, page=False)
    finally:
        group.leave()
    first, last = ends[0], ends[-1]
    score = report["scores"][0]["nrmse"] if report else None
    told = {"rank": group.rank, "training": last[0] - first[0], "wall": last[1] - first[1], "steps": len(ends)}
    print(json.dumps({**told, "all": time.process_time() - began, "nrmse": score}), flush=True)


def of_processes(found: dict[str, Any]) -> str:
    """The paragraph about one process and two; of the wall where nothing else was on the machine."""
    lines = []
    for count, r in found.items():
        alone, two, busy = r["1"][0], r["2"], r["load"]
        longest, wall = max(p["training"] for p in two), max(p["wall"] for p in two)
        lines.append(
            f"`torchrun --nproc-per-node 2`, {count} series, training cut to {alone['steps']} steps: {alone['training']:.0f} s of the "
            f"processor alone, {' and '.join(str(round(p['training'])) for p in two)} s in each of two, which is "
            f"{alone['training'] / longest:.2f} times as fast. "
            + (
                f"On the wall {alone['wall']:.0f} s and {wall:.0f} s."
                if busy <= IDLE
                else f"Not timed on the wall: others worked on the machine (load {busy:.1f}, {os.cpu_count()} cores)."
            )
        )
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def written(found: dict[str, Any]) -> str:
    """The page."""
    rows, models = [], []
    sizes = {count: r for count, r in found.items() if count.isdigit()}
    for count, r in sizes.items():
        total = sum(r["seconds"].values())
        rows.append(
            [count, r["rows"], r["trained"], *(f"{s:.0f}" for s in r["seconds"].values()), f"{total:.0f}",
             f"{r['rows'] / total:.0f}", f"{r['peak']:.0f}", f"{r['page'] / 1e6:.1f}", f"{r['checkpoint'] / 1e6:.1f}"]
        )  # fmt: skip
        models.append([count, *(f"{v:.4f}" if v is not None else "" for v in r["scores"].values())])
    head = ["series", "rows", "trained on", *PHASES, "all", "rows a second", "peak, MiB", "page, MB", "checkpoint, MB"]
    names = list(next(iter(sizes.values()))["scores"])
    return (
        "# Many series in one run\n\n"
        "Seconds of the processor by phase of `isocline fit` with its default settings (36 networks to choose the penalty, 12 to "
        "fit). Made by `benchmarks/fit_many.py`.\n\n"
        + table(head, rows)
        + "\nDamped pendulums from random starts, 100 times, noise of 3 %; one in ten goes over the top and comes to rest a turn "
        "away, so the field has three wells. The last fifth of every series is held out. Of more "
        "than 20,000 rows to learn from, whole series spread evenly over the table are taken: what a step costs does not grow "
        "with the table. Normalized root mean square error on the held-out part, of at most 200 series; the noise alone is "
        f"{NOISE}:\n\n"
        + table(["series", *names], models)
        + "\n"
        + NOTE
        + "\n"
        + of_processes(found.get(SHARED, {}))
        + "\n"
        + "\n\n".join(dict.fromkeys(found["made"].values()))
        + "\n"
    )


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(fitted(int(sys.argv[2]), Path(folder))))
        return
    if sys.argv[1:2] == ["--part"]:
        part(Path(sys.argv[2]))
        return
    if sys.argv[1:2] == ["--shared"]:
        busy = os.getloadavg()[0]
        count = sys.argv[2] if sys.argv[2:] else "1000"
        keep(
            SHARED,
            {count: {**shared(int(count)), "load": busy}},
        )
        return
    for count in map(int, sys.argv[1:] or SIZES):
        print(f"{count} series …", flush=True)
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(count)], stdout=subprocess.PIPE, text=True, check=True
        )
        keep(str(count), json.loads(done.stdout.splitlines()[-1]))


def keep(name: str, result: dict[str, Any]) -> None:
    """Adds a result to what other runs have kept, and writes the page."""
    kept = HERE / "fit_many.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    made = {**found.pop("made", {}), name: origin().strip()}
    found[name] = result
    found = {n: found[n] for n in sorted(found, key=lambda n: (not n.isdigit(), n.zfill(9)))} | {"made": made}
    kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (HERE / "fit_many.md").write_text(written(found), encoding="utf-8")


if __name__ == "__main__":
    main()
