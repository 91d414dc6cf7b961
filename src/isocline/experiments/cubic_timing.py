"""Five hundred steps on thirty points: the timing of the SciML benchmarks, with torchdiffeq in the same run.

Data. The cubic spiral dy/dt = A y³ from (2, 0) at 30 times over [0, 1.5], all of them in every step.

Model. y³ -> 50 tanh -> 2, Xavier-uniform: 252 parameters.

Training. Adam, 0.05, 500 steps, sum of squared errors. The contestants take turns, ten steps each, from equal weights, on
one thread: torchdiffeq's `odeint_adjoint` (Dopri5 at its default tolerances, as published), the same in isocline
(`backsolve`), isocline's defaults at those tolerances, and isocline as one would set it for such points (one RK4 step
between neighbours, differentiated directly). Losses are those of each one's own solver at the end, and of a tight solve.

Published (2019, hardware not stated): torchdiffeq 289 s, loss 0.0596; DiffEqFlux in Julia 7.4 s, 0.0490; tuned 2.7 s,
0.0276. Times of another machine are no measure of ours; the ratio to torchdiffeq in one run is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isocline.experiments.cubic_spiral import Cubic, truth
from isocline.experiments.lab import Experiment, Job, Row
from isocline.experiments.lab.pictures import COLOURS, panels, save, title
from isocline.solve import solve

T1, POINTS, TURN = 1.5, 30, 10
TIGHT: dict[str, Any] = {"solver": "dopri8", "rtol": 1e-9, "atol": 1e-10}
DEFAULTS: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-9}  # torchdiffeq's
OURS: dict[str, dict[str, Any]] = {
    "isocline, backsolve": {"solver": "dopri5", "gradient": "backsolve", **DEFAULTS},
    "isocline, defaults at these tolerances": DEFAULTS,
    "isocline, one RK4 step a point": {"solver": "rk4", "step": T1 / (POINTS - 1), "gradient": "backprop"},
}
PUBLISHED = {"torchdiffeq, adjoint": (288.965871, 0.0596)}

Path = Callable[[nn.Module, Tensor, Tensor], Any]


def contestants() -> dict[str, Path]:
    """Name -> (field, y0, ts) -> states. Without torchdiffeq installed, ours alone."""
    out: dict[str, Path] = {}
    try:
        from torchdiffeq import odeint_adjoint

        out["torchdiffeq, adjoint"] = lambda field, y0, ts: odeint_adjoint(field, y0, ts, method="dopri5")
    except ImportError:
        pass
    for name, options in OURS.items():
        out[name] = lambda field, y0, ts, options=options: solve(field, y0, ts, **options).ys
    return out


def network(seed: int) -> Cubic:
    """The student, Xavier-uniform."""
    torch.manual_seed(seed)
    field = Cubic()
    for p in field.parameters():
        if p.ndim > 1:
            nn.init.xavier_uniform_(p)
    return field


def race(job: Job, iterations: int) -> dict[str, Any]:
    """All contestants in turns; seconds and losses of each."""
    ts = torch.linspace(0.0, T1, POINTS)
    y0 = torch.tensor([2.0, 0.0])
    true = solve(truth, y0.double(), ts.double(), **TIGHT).ys.float()
    paths = contestants()
    fields = {name: network(job.draw_seed("weights")) for name in paths}
    optimizers = {name: torch.optim.Adam(field.parameters(), lr=0.05) for name, field in fields.items()}
    seconds = dict.fromkeys(paths, 0.0)
    losses: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(-1, iterations // TURN):  # the first is to warm up
        for name, path in paths.items():
            field, optimizer = (fields[name], optimizers[name]) if turn >= 0 else (network(0), None)
            began = time.process_time()
            for _ in range(TURN if optimizer else 1):
                field.zero_grad()
                loss = (path(field, y0, ts) - true).square().sum()
                loss.backward()
                if optimizer:
                    optimizer.step()
                    losses[name].append(loss.item())
            if optimizer:
                seconds[name] += time.process_time() - began
        job.tell("race", (turn + 1) * TURN, iterations, losses[next(iter(paths))][-1] if turn >= 0 else None)
    with torch.no_grad():
        own = {name: float((path(fields[name], y0, ts) - true).square().sum()) for name, path in paths.items()}
        tight = {
            name: float((solve(field.double(), y0.double(), ts.double(), **TIGHT).ys - true).square().sum())
            for name, field in fields.items()
        }
    return {
        name: {"seconds": seconds[name], "loss": own[name], "tight": tight[name], "losses": losses[name]}
        for name in paths
    }


def run(job: Job) -> list[Row]:
    """The race, its table and its picture."""
    iterations = 20 if job.quick else 500
    found = job.cell("race", lambda: race(job, iterations))
    found.pop("seconds")
    peer = found.get("torchdiffeq, adjoint")
    rows = []
    for name, one in found.items():
        published = PUBLISHED.get(name, (None, None))
        ratio = f"{peer['seconds'] / one['seconds']:.3g} times torchdiffeq's speed" if peer and one is not peer else ""
        old = "published on other hardware in 2019" if published[0] else ""
        rows.append(Row(f"{name}: {iterations} steps", one["seconds"], "s", published[0], note=ratio or old))
        rows.append(Row(f"{name}: loss", one["loss"], "", published[1], 0.0, f"of a tight solve {one['tight']:.3g}"))
    figure, ((axes,),) = panels(1, 1, (5.2, 3.2))
    for colour, (name, one) in zip(COLOURS, found.items(), strict=False):
        passed = [one["seconds"] * (i + 1) / len(one["losses"]) for i in range(len(one["losses"]))]
        axes.loglog(passed, one["losses"], color=colour, lw=1.4, label=name)
    axes.set(xlabel="seconds", ylabel="sum of squared errors")
    axes.legend(frameon=False, fontsize=8)
    title(axes, f"{iterations} Adam steps")
    save(figure, job.picture("race.png"))
    return rows


EXPERIMENT = Experiment(
    title="500 Adam steps on the cubic spiral, timed beside torchdiffeq",
    source="Rackauckas (2019), SciML timing of neural ODEs",
    run=run,
)
