"""Work–precision: isocline's solvers beside SciPy's and torchdiffeq's on named problems; writes work_precision.md.

taskset -c 1 python benchmarks/work_precision.py [--quick] [--minutes N] [--rungs N] [--repeats N] [--limit S]
    [--out FILE]

All adaptive solvers of isocline's registry take part: the explicit ones on the non-stiff problems, the implicit ones on
the stiff. What has been measured is kept in work_precision.json until the page is complete: a run that was stopped, or
whose --minutes ran out, goes on there.
"""

from __future__ import annotations

import os

# Before anything starts a pool of threads.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from classics import CLASSICS, Classic
from common import digits, origin, table
from detest import DETEST, Named
from scipy.integrate import solve_ivp

import isocline as ic
from isocline.solvers import Solver

Work = Classic | Named
GOALS = {False: (1e-4, 1e-7, 1e-10), True: (1e-3, 1e-5, 1e-7)}  # by whether the problem is stiff
EVERYWHERE = {"auto_switch", "LSODA"}  # they find out for themselves whether a problem is stiff
# Their second solution is what makes them reversible; they are compared in gradients, not here.
LEFT_OUT = {"reversible", "reversible_heun"}
LOWEST_ORDER = 3  # below, on stiff and non-stiff problems alike, a solver cannot keep up with these goals
SCIPY = {False: ("RK45", "DOP853", "LSODA"), True: ("Radau", "BDF", "LSODA")}
TORCHDIFFEQ = {False: ("dopri5", "dopri8", "bosh3", "adaptive_heun"), True: ()}  # it has no adaptive implicit method
POINTS, MIDDLE = 21, 1e-6
MOST_STEPS, MOST_CALLS = 10_000, 60_000  # of one solve: more, and it is lost (past the Moon, say), or beyond its limit


@dataclass(frozen=True)
class Settings:
    problems: tuple[Work, ...] = (*CLASSICS, *DETEST)
    solvers: tuple[str, ...] | None = None  # of isocline; None: all
    rungs: float = 1  # tolerances a decade, of the classics; one every second decade for DETEST
    limit: float = 2.0  # seconds beyond which the next rung is expected, so that the ladder ends; three times if stiff
    repeats: int = 5


# ---- the packages -------------------------------------------------------------------------------------------------------
@dataclass
class Method:
    """One solver on one problem.

    Attributes:
        run: (tol, times (T,)) to the states there (T, n) and the evaluations of f, a Jacobian counted as n.
    """

    package: str
    solver: str
    run: Callable[[float, np.ndarray], tuple[np.ndarray, int]]

    @property
    def name(self) -> str:
        return f"{self.package} {self.solver}"


def atol(work: Work, tol: float) -> Any:
    """Of a stiff problem, whose components differ by powers of ten, relative to where each of them ends."""
    return tol * np.abs(work.reference) if work.stiff else tol


@torch.no_grad()
def by_isocline(solver: str, work: Work, tol: float, times: np.ndarray) -> tuple[np.ndarray, int]:
    absolute = torch.as_tensor(atol(work, tol)) if work.stiff else tol
    settings: dict[str, Any] = {"solver": solver, "rtol": tol, "atol": absolute, "max_steps": MOST_STEPS}
    sol = ic.solve(work.torch, torch.tensor(work.y0), times.tolist(), **settings)
    return sol.ys.numpy(), int(sol.stats.evaluations) + len(work.y0) * int(sol.stats.jacobians)


class Counted:
    """f, its calls counted; too many of them are an error."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, t: Any, y: Any) -> Any:
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise RuntimeError(f"more than {MOST_CALLS} evaluations")
        return self.f(t, y)


def by_scipy(solver: str, work: Work, tol: float, times: np.ndarray) -> tuple[np.ndarray, int]:
    """With the Jacobian by differences, as the user gets it who gives f alone."""
    f = Counted(work.numpy)
    at = None if len(times) == 2 else times
    found = solve_ivp(f, (times[0], times[-1]), work.y0, method=solver, t_eval=at, rtol=tol, atol=atol(work, tol))
    if not found.success:
        raise RuntimeError(found.message)
    return found.y.T[[0, -1]] if at is None else found.y.T, f.calls


@torch.no_grad()
def by_torchdiffeq(solver: str, work: Work, tol: float, times: np.ndarray) -> tuple[np.ndarray, int]:
    import torchdiffeq

    f = Counted(work.torch)
    ys = torchdiffeq.odeint(f, torch.tensor(work.y0), torch.tensor(times), method=solver, rtol=tol, atol=tol)
    return ys.numpy(), f.calls


def ours(stiff: bool, chosen: tuple[str, ...] | None) -> Iterator[str]:
    """isocline's adaptive solvers for such a problem, from its registry."""
    for name in sorted(Solver.registry):
        solver = Solver.named(name)
        if name in LEFT_OUT or not solver.error_order or (chosen is not None and name not in chosen):
            continue
        fits = name in EVERYWHERE or solver.tableau.explicit is not stiff
        if fits and max(solver.tableau.order, solver.error_order) >= LOWEST_ORDER:
            yield name


def methods(work: Work, settings: Settings) -> Iterator[Method]:
    for solver in ours(work.stiff, settings.solvers):
        yield Method("isocline", solver, partial(by_isocline, solver, work))
    for solver in SCIPY[work.stiff]:
        yield Method("SciPy", solver, partial(by_scipy, solver, work))
    for solver in TORCHDIFFEQ[work.stiff]:
        yield Method("torchdiffeq", solver, partial(by_torchdiffeq, solver, work))


# ---- one ladder of tolerances -------------------------------------------------------------------------------------------
@dataclass
class Curve:
    """A solver on a problem at ever tighter tolerances; those it did not get through are left out."""

    tolerances: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)  # at the end
    evaluations: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    along: float = math.nan  # at MIDDLE, the largest error at the points of the path, relative to that at the end

    def at(self, goal: float, what: str) -> float | None:
        """Evaluations or seconds at which the error at the end is `goal`, between two rungs as a power law.

        After the last rung that misses the goal, so that no lucky hit counts; None where no rung reaches it.
        """
        cost = getattr(self, what)
        missed = [i for i, e in enumerate(self.errors) if not e <= goal]
        if not missed:
            return cost[0] if cost else None
        i = missed[-1]
        if i + 1 == len(cost):
            return None
        (e0, e1), (c0, c1) = self.errors[i : i + 2], cost[i : i + 2]
        share = math.log(e0 / goal) / math.log(e0 / max(e1, 1e-17)) if math.isfinite(e0) else 1.0
        return c0 * (c1 / c0) ** share


def points(work: Work) -> np.ndarray:
    """Where the path is looked at: evenly in time, or in its logarithm where that is what the problem takes place in."""
    if work.t1 > 1e6:
        return np.concatenate([[work.t0], np.geomspace(1e-6 * work.t1, work.t1, POINTS - 1)])
    return np.linspace(work.t0, work.t1, POINTS)


def path(work: Work) -> np.ndarray:
    """The states at `points` from SciPy at its tightest, stepping to each of them; the last is the reference."""
    times, y, rows = points(work), work.y0, [work.y0]
    tight = {"rtol": 1e-11, "atol": 1e-11 * np.abs(work.reference), "method": "Radau"}
    if not work.stiff:
        tight = {"rtol": 1e-13, "atol": 1e-14, "method": "DOP853"}
    for a, b in itertools.pairwise(times):
        y = solve_ivp(work.numpy, (a, b), y, **tight).y[:, -1]
        rows.append(y)
    rows[-1] = work.reference
    return np.stack(rows)


def error(work: Work, ys: np.ndarray, exact: np.ndarray) -> float:
    """The largest of |Δ|/(1 + |y|); of a stiff problem relative to every component's own size."""
    scale = np.maximum(np.abs(exact), np.abs(work.reference)) if work.stiff else 1 + np.abs(exact)
    worst = float(np.max(np.abs(ys - exact) / scale))
    return worst if math.isfinite(worst) else math.inf


def ladder(work: Work, settings: Settings) -> list[float]:
    every = settings.rungs if isinstance(work, Classic) else 0.5
    last = 10 if work.stiff else 12
    return [10 ** (-k / every) for k in range(round(2 * every), round(last * every) + 1)]


def climb(work: Work, method: Method, exact: np.ndarray | None, settings: Settings) -> Curve:
    """One curve; seconds are the least of several runs, of this process on the processor. `exact`: the path to judge."""
    curve, ends = Curve(), np.array([work.t0, work.t1])
    for tol in ladder(work, settings):
        try:
            took, tries = math.inf, 0
            while not tries or (tries < settings.repeats and tries * took < 0.2):
                begun = time.process_time()
                ys, evaluations = method.run(tol, ends)
                took, tries = min(took, time.process_time() - begun), tries + 1
        except Exception:  # too tight or too loose to get through: what a package raises is its own
            if curve.errors:
                break
            continue
        row = (tol, error(work, ys[-1], work.reference), evaluations, took)
        for into, value in zip(vars(curve).values(), row, strict=False):
            into.append(value)
        # Where the first of two was lost on its way, their ratio says little.
        growth = min(4.0, took / curve.seconds[-2]) if len(curve.seconds) > 1 else 1.0
        if took * growth > settings.limit * (3 if work.stiff else 1):
            break
    if exact is not None and curve.tolerances and min(curve.tolerances) <= MIDDLE:
        with suppress(Exception):
            here = min(range(len(curve.errors)), key=lambda i: abs(math.log(curve.tolerances[i] / MIDDLE)))
            curve.along = error(work, method.run(curve.tolerances[here], points(work))[0], exact) / curve.errors[here]
    return curve


# ---- everything, in pieces that are kept ------------------------------------------------------------------------------
@dataclass
class Kept:
    """Curves by name, in a file until the page is written; no new ones once the time is over."""

    file: Path
    until: float = math.inf
    complete: bool = True

    def curves(self, work: Work, settings: Settings) -> dict[str, Curve]:
        found = json.loads(self.file.read_text()) if self.file.exists() else {}
        curves, exact = {}, None
        for method in methods(work, settings):
            key = f"{work.name}, {method.name}, {settings.rungs}, {settings.repeats}"
            if key not in found:
                if time.monotonic() > self.until:
                    self.complete = False
                    continue
                if exact is None and isinstance(work, Classic):
                    exact = path(work)
                found[key] = vars(climb(work, method, exact, settings))
                self.file.write_text(json.dumps(found))
            curves[method.name] = Curve(**found[key])
        print(work.name, *(f"{n} {len(c.errors)}" for n, c in curves.items()), sep="; ", flush=True)
        return curves


Results = dict[str, dict[str, Curve]]


def best(curves: dict[str, Curve], goal: float, what: str, packages: tuple[str, ...]) -> tuple[str, float] | None:
    costs = {name: c.at(goal, what) for name, c in curves.items() if name.split()[0] in packages}
    reached = {name: cost for name, cost in costs.items() if cost is not None}
    return min(reached.items(), key=lambda pair: pair[1]) if reached else None


def shown(value: float, what: str) -> str:
    return f"{value:.0f}" if what == "evaluations" else digits(value * 1e3)


def summary(results: Results, works: tuple[Work, ...], what: str) -> str:
    """Cheapest of isocline, of all peers and of torchdiffeq at equal error; a ratio above 1 in bold: a peer is cheaper."""
    rows = []
    for work in works:
        for goal in GOALS[work.stiff]:
            mine = best(results[work.name], goal, what, ("isocline",))
            row: list[Any] = [work.name, f"{goal:.0e}"]
            row += [mine[0].removeprefix("isocline "), shown(mine[1], what)] if mine else ["not reached", "—"]
            for packages in (("SciPy", "torchdiffeq"), ("torchdiffeq",)):
                peer = best(results[work.name], goal, what, packages)
                tried = any(name.split()[0] in packages for name in results[work.name])
                row += [peer[0], shown(peer[1], what)] if peer else ["not reached" if tried else "—", "—"]
                text = f"{mine[1] / peer[1]:.2f}" if mine and peer else "—"
                row.append(f"**{text}**" if mine and peer and mine[1] > peer[1] else text)
            rows.append(row)
    unit = "evaluations" if what == "evaluations" else "ms"
    columns = [unit, "ratio"]
    return table(
        ["problem", "error", "isocline's best", unit, "best peer", *columns, "torchdiffeq's best", *columns], rows
    )


def detail(results: Results, works: tuple[Work, ...]) -> str:
    """Every solver of the classics."""
    rows = []
    for work in works:
        for name, curve in results[work.name].items():
            row: list[Any] = [work.name, name]
            for goal in GOALS[work.stiff]:
                costs = [curve.at(goal, what) for what in ("evaluations", "seconds")]
                row += ["—" if c is None else shown(c, w) for c, w in zip(costs, ("evaluations", "s"), strict=True)]
            rows.append([*row, f"{curve.along:.2g}" if math.isfinite(curve.along) else "—"])
    head = ["problem", "solver"]
    for which in ("low", "middle", "high"):
        head += [f"evaluations, {which}", f"ms, {which}"]
    return table([*head, "along the path"], rows)


PAGE = """# Work and precision

{origin}
Made by `benchmarks/work_precision.py`. Every solver takes a ladder of tolerances, rtol = 1e-2 to 1e-12 (stiff: 1e-10),
{rungs} for the named problems and one every second decade for DETEST, until a solve is expected to take more than
{limit:g} s (stiff: three times that): *not reached* is within that time. atol = rtol, on stiff problems rtol times the
size each component ends with. An error is that at the end: the largest |Δ|/(1 + |y|), on stiff problems |Δ| relative to
every component's own size. The costs at equal error are interpolated between two rungs as a power law, after the last
rung that misses the goal. **A ratio above 1, where a peer is cheaper, is in bold.** torchdiffeq has no adaptive implicit
solver.

- *Evaluations* are calls of f from start to end without output between; a Jacobian counts as n, as it costs SciPy,
  which takes it by differences (isocline's are exact).
- Time is processor time on one core, the least of {repeats} or fewer runs, of one trajectory: a step of a PyTorch solver costs
  tens of µs however small the system, one of SciPy's f in NumPy costs a few. A batch of thousands costs the former little
  more ([the peers](peers.md)), the latter a thousand times as much.
- Each package gets f in its own arrays: the same formulas, checked against each other in `tests/benchmarks`.
- References: `tests/references.py`, in extended precision.

{unfinished}## At equal error: evaluations

{evaluations}
## At equal error: time

{seconds}
## Every solver on the named problems

Goals: {low}. The last column is the largest error at {points}
points along the path, interpolated, relative to the error at the end, at rtol = {middle:.0e}.

{details}
## Pictures

{pictures}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few problems and solvers: to see that it runs")
    parser.add_argument("--minutes", type=float, default=math.inf, help="measure no longer than this")
    parser.add_argument(
        "--repeats", type=int, default=Settings.repeats, help="runs of a solve, the least of which counts"
    )
    parser.add_argument(
        "--rungs", type=float, default=Settings.rungs, help="tolerances a decade, of the named problems"
    )
    parser.add_argument(
        "--limit", type=float, default=Settings.limit, help="seconds after which tolerances go no tighter"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of tolerances beyond what a package reaches
    settings = Settings(rungs=options.rungs, limit=options.limit, repeats=options.repeats)
    if options.quick:
        few = tuple(p for p in (*CLASSICS, *DETEST) if p.name in ("Brusselator", "HIRES", "B1"))
        settings = Settings(few, ("tsit5", "dopri8", "rodas5_p"), rungs=0.5, limit=0.5, repeats=1)
    kept = Kept(options.out.with_suffix(".json"), time.monotonic() + 60 * options.minutes)
    results = {work.name: kept.curves(work, settings) for work in settings.problems}
    from pictures import draw_all

    works = tuple(w for w in settings.problems if results[w.name])
    named = tuple(w for w in works if isinstance(w, Classic))
    left = "The run was stopped before all curves were measured; what is missing is left out.\n\n"
    page = PAGE.format(
        origin=origin(("scipy", "torchdiffeq")),
        repeats=settings.repeats,
        unfinished="" if kept.complete else left,
        evaluations=summary(results, works, "evaluations"),
        seconds=summary(results, works, "seconds"),
        low="; ".join(
            f"{'stiff' if stiff else 'non-stiff'} {', '.join(f'{g:.0e}' for g in goals)}"
            for stiff, goals in GOALS.items()
        ),
        points=POINTS - 1,
        middle=MIDDLE,
        rungs="each decade" if settings.rungs == 1 else f"{settings.rungs:g} a decade",
        limit=settings.limit,
        details=detail(results, named),
        pictures="\n".join(f"![{title}]({file.name})\n" for title, file in draw_all(results, works, options.out)),
    )
    options.out.write_text(page)
    if kept.complete:
        kept.file.unlink()
    print(page)


if __name__ == "__main__":
    main()
