"""What a step costs outside the field, and a gradient at equal error, beside torchdiffeq: writes overhead.md.

python benchmarks/overhead.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchdiffeq
from common import Cheap, Counted, Net, Operations, interleaved, median, origin, starts, table
from torch import Tensor, nn

import isocline as ic

FIELDS: dict[str, type[nn.Module]] = {"cheap": Cheap, "2-50-2": Net}
TOLERANCE = 1e-5
END = 5.0
OUTPUTS = 10


@dataclass
class Settings:
    batches: tuple[int, ...] = (1, 20, 1000)
    rounds: int = 21
    ladder: int = 8  # tolerances a decade


def times() -> Tensor:
    return torch.linspace(0.0, END, OUTPUTS, dtype=torch.float64)


# ---- a step outside the field -----------------------------------------------------------------------------------------
def forward_runs(ts: Tensor) -> dict[str, Callable[[nn.Module, Tensor], Any]]:
    tolerance = {"rtol": TOLERANCE, "atol": TOLERANCE}
    return {
        "torchdiffeq": lambda f, y: torchdiffeq.odeint(f, y, ts, method="dopri5", **tolerance),
        "shared": lambda f, y: ic.solve(f, y, ts, solver="dopri5", **tolerance),
        "per_sample": lambda f, y: ic.solve(f, y, ts, solver="dopri5", batching="per_sample", **tolerance),
    }


def attempted(name: str, calls: int, solution: Any) -> int:
    """Steps of the loop, rejected ones included. torchdiffeq: 6 calls each, 2 to choose the first."""
    if name == "torchdiffeq":
        return (calls - 2) // 6
    return int((torch.as_tensor(solution.stats.accepted) + torch.as_tensor(solution.stats.rejected)).max())


@dataclass
class Cost:
    """One solver on one case."""

    steps: int
    calls: int
    operations: float  # a step, outside f
    waits: float  # a step
    outside: list[float] = field(default_factory=list)  # seconds a step outside f, one for each round
    whole: float = 0.0  # seconds


@torch.no_grad()
def step_costs(kind: type[nn.Module], batch: int, rounds: int) -> tuple[float, dict[str, Cost]]:
    """(seconds of one evaluation, costs)."""
    f, y0, ts = kind().float(), starts(batch).float(), times()
    runs = forward_runs(ts)
    costs, calls = {}, {}
    t = torch.tensor(0.5)
    with Operations() as once:
        f(t, y0)
    for name, run in runs.items():
        counted = Counted(f)
        solution = run(counted, y0)
        calls[name] = counted.calls
        total = sum(counted.calls.values())
        steps = attempted(name, total, solution)
        with Operations() as seen:
            run(f, y0)
        costs[name] = Cost(steps, total, (seen.operations - total * once.operations) / steps, seen.waits / steps)
    # The field alone, on every number of rows it was asked for (finished rows leave), in the same rounds.
    sizes = sorted({rows for counter in calls.values() for rows in counter})
    parts = {n: y0[:n].clone() for n in sizes}
    tasks: dict[Any, Callable[[], Any]] = {n: (lambda y=y: f(t, y)) for n, y in parts.items()}
    tasks |= {name: (lambda run=run: run(f, y0)) for name, run in runs.items()}
    seconds = interleaved(tasks, rounds)
    for name, cost in costs.items():
        for i, whole in enumerate(seconds[name]):
            inside = sum(count * seconds[rows][i] for rows, count in calls[name].items())
            cost.outside.append((whole - inside) / cost.steps)
        cost.whole = median(seconds[name])
    return median(seconds[batch]), costs


def overhead_tables(settings: Settings) -> str:
    rows, counts = [], []
    for title, kind in FIELDS.items():
        for batch in settings.batches:
            one, costs = step_costs(kind, batch, settings.rounds)
            base = costs["torchdiffeq"].outside
            row = [title, batch, f"{one * 1e6:.1f}"]
            for name, cost in costs.items():
                row.append(f"{median(cost.outside) * 1e6:.0f}")
                if name != "torchdiffeq":
                    row.append(f"{median([a / b for a, b in zip(cost.outside, base, strict=True)]):.3f}")
                per_step = f"{cost.operations:.0f}", f"{cost.waits:.2f}"
                counts.append([title, batch, name, cost.steps, cost.calls, *per_step, f"{cost.whole * 1e3:.2f}"])
            rows.append(row)
    first = table(
        ["field", "batch", "f, µs", "torchdiffeq, µs", "shared, µs", "ratio", "per sample, µs", "ratio"], rows
    )
    second = table(
        ["field", "batch", "solver", "steps", "calls of f", "operations a step", "waits a step", "whole solve, ms"],
        counts,
    )
    return f"{first}\n{second}"


# ---- gradients at equal error -----------------------------------------------------------------------------------------
@dataclass
class Outcome:
    solution: float
    gradient: float
    evaluations: int
    backward: int


Run = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


def isocline_run(gradient: Any, solver: str) -> Run:
    return lambda f, y, ts, tol: ic.solve(f, y, ts, solver=solver, rtol=tol, atol=tol, gradient=gradient).ys


def torchdiffeq_backprop(f: nn.Module, y: Tensor, ts: Tensor, tol: float) -> Tensor:
    return torchdiffeq.odeint(f, y, ts, method="dopri5", rtol=tol, atol=tol)


def torchdiffeq_adjoint(f: nn.Module, y: Tensor, ts: Tensor, tol: float) -> Tensor:
    return torchdiffeq.odeint_adjoint(f, y, ts, method="dopri5", rtol=tol, atol=tol)


def torchdiffeq_seminorm(f: nn.Module, y: Tensor, ts: Tensor, tol: float) -> Tensor:
    return torchdiffeq.odeint_adjoint(
        f, y, ts, method="dopri5", rtol=tol, atol=tol, adjoint_options={"norm": "seminorm"}
    )


def gradients(run: Run, f: nn.Module, y0: Tensor, ts: Tensor, tol: float) -> tuple[Tensor, list[Tensor]]:
    """The path and the gradients, by y0 and by every parameter, of the mean square of the path."""
    y = y0.detach().requires_grad_()
    path = run(f, y, ts, tol)
    grads = torch.autograd.grad(path.square().mean(), [y, *f.parameters()])
    return path.detach(), list(grads)


def truth(kind: type[nn.Module], batch: int) -> tuple[Tensor, list[Tensor]]:
    return gradients(isocline_run(ic.Checkpointed(), "dopri8"), kind(), starts(batch), times(), 1e-11)


def judge(run: Run, kind: type[nn.Module], batch: int, tol: float, exact: tuple[Tensor, list[Tensor]]) -> Outcome:
    """Errors relative to the largest entry of the path, and to the largest of each gradient; calls of f."""
    counted = Counted(kind().float())
    y = starts(batch).float().requires_grad_()
    path = run(counted, y, times(), tol)
    forward = sum(counted.calls.values())
    grads = torch.autograd.grad(path.square().mean(), [y, *counted.parameters()])
    backward = sum(counted.calls.values()) - forward
    error = float((path.detach() - exact[0]).abs().max() / exact[0].abs().max())
    worst = max(float((g - e).norm() / e.norm()) for g, e in zip(grads, exact[1], strict=True))
    return Outcome(error, worst, forward, backward)


def matched(
    run: Run, kind: type[nn.Module], batch: int, goal: Outcome, exact: tuple[Tensor, list[Tensor]], ladder: int
) -> tuple[float, Outcome]:
    """The loosest tolerance whose errors, and those of the next tighter one, are no larger than the goal's.

    Two in a row, so that no lucky hit is taken.
    """
    tried: list[tuple[float, Outcome]] = []
    for rung in range(-2 * ladder, 3 * ladder):
        tol = TOLERANCE * 10 ** (-rung / ladder)
        try:
            outcome = judge(run, kind, batch, tol, exact)
        except RuntimeError:  # a reconstruction that was refused: too loose
            tried.clear()
            continue
        good = outcome.solution <= goal.solution and outcome.gradient <= goal.gradient
        if not good:
            tried.clear()
            continue
        tried.append((tol, outcome))
        if len(tried) == 2:
            return tried[0]
    raise RuntimeError(f"no tolerance down to {tol:g} reaches {goal}")


def gradient_table(peer: str, peer_run: Run, ours: dict[str, Run], settings: Settings) -> str:
    rows = []
    for title, kind in FIELDS.items():
        for batch in settings.batches:
            exact = truth(kind, batch)
            goal = judge(peer_run, kind, batch, TOLERANCE, exact)
            chosen = {peer: (peer_run, TOLERANCE, goal)}
            for name, run in ours.items():
                chosen[name] = (run, *matched(run, kind, batch, goal, exact, settings.ladder))
            f, y0, ts = kind().float(), starts(batch).float(), times()
            tasks: dict[str, Callable[[], Any]] = {
                name: partial(gradients, run, f, y0, ts, tol) for name, (run, tol, _) in chosen.items()
            }
            seconds = interleaved(tasks, settings.rounds)
            for name, (_, tol, outcome) in chosen.items():
                ratio = median([a / b for a, b in zip(seconds[name], seconds[peer], strict=True)])
                errors = f"{tol:.1e}", f"{outcome.solution:.1e}", f"{outcome.gradient:.1e}"
                spent = outcome.evaluations, outcome.backward, f"{median(seconds[name]) * 1e3:.1f}"
                rows.append([title, batch, name, *errors, *spent, f"{ratio:.2f}"])
    header = ["field", "batch", "method", "tolerance", "error of y", "error of gradient", "calls forward"]
    return table([*header, "calls backward", "ms", "ratio"], rows)


# ---- the page ---------------------------------------------------------------------------------------------------------
PAGE = """# Overhead

{origin}
Made by `benchmarks/overhead.py`; the ratios are what carries over to another machine. All solvers take turns in one
process, {rounds} rounds; numbers are medians (processor time), ratios medians of the ratios within a round. Fields: *cheap*, one 2×2
product; *2-50-2*, tanh of a linear map of y³. {outputs} observations on [0, {end:g}], float32.

## A step outside the field

(whole solve − calls of f × the time of f alone) / attempted steps; Dopri5, rtol = atol = {tolerance:g}, no gradient.
The ratio is to torchdiffeq's shared stepping. With per-sample stepping a step is one turn of the loop for all samples.
Where f takes most of the time (2-50-2 at batch 1000) the difference of two large numbers is less certain than on the
cheap field.

{overhead}
*Operations* are those dispatched to the device, f's not counted; *waits* are moments when the host needs a value from
it (scalar reads, `tolist`, shapes that depend on values). Start and observations are included in both.

## Gradients at equal error

Forward and backward for the mean square of the path, by y0 and all parameters. torchdiffeq runs at {tolerance:g};
isocline at the loosest tolerance (of {ladder} a decade) at which, there and at the next tighter one, neither the error
of the path nor that of the gradient exceeds torchdiffeq's. Errors against a float64 solution at 1e-11: of the path
relative to its largest entry, of the gradient the worst relative error in norm among y0 and the parameters. For
backpropagation the calls of the way back are 0: it differentiates the forward ones.

{gradients}
## The continuous adjoint

The same for `Backsolve` against `odeint_adjoint`, with its default norm and with its seminorm.

{adjoint}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small batches, one round: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Backsolve at tolerances tried on the way to the right one
    settings = Settings(batches=(2,), rounds=1, ladder=1) if options.quick else Settings()
    default = {
        f"isocline Checkpointed, {solver}": isocline_run(ic.Checkpointed(), solver) for solver in ("dopri5", "tsit5")
    }
    backsolve = {"isocline Backsolve, dopri5": isocline_run(ic.Backsolve(), "dopri5")}
    page = PAGE.format(
        origin=origin(["torchdiffeq"]),
        rounds=settings.rounds,
        outputs=OUTPUTS,
        end=END,
        tolerance=TOLERANCE,
        ladder=settings.ladder,
        overhead=overhead_tables(settings),
        gradients=gradient_table("torchdiffeq backprop", torchdiffeq_backprop, default, settings),
        adjoint=gradient_table("torchdiffeq adjoint", torchdiffeq_adjoint, backsolve, settings)
        + "\n"
        + gradient_table("torchdiffeq adjoint, seminorm", torchdiffeq_seminorm, backsolve, settings),
    )
    options.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
