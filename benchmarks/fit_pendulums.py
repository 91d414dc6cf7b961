"""Two measured pendulums: `isocline fit` beside the same network trained by plain single shooting, PySINDy and linear models, with
the energy of their forecasts; writes fit_pendulums.json and fit_pendulums.md.

python benchmarks/fit_pendulums.py [--quick] [--out PAGE]

The sets, what teaches and what is forecast are those of `isocline bench fit`, one seed. Every model starts its forecasts from a
state settled on the same twelve rows, so that models differ by their training alone. The data are looked for in the folder
ISOCLINE_DATA, by default ../shared/data beside the repository.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import origin, table
from torch import nn

from isocline.bench.sets import Task, located, named
from isocline.fit import Config, sindy
from isocline.fit.fitted import Fitted
from isocline.fit.forecast import padded
from isocline.fit.networks import BOUND, Field
from isocline.fit.reading.lags import Lags, past
from isocline.fit.reading.table import Series
from isocline.fit.rivals import SPARSE, Forecaster, Rivals, all_equal, model_forecaster
from isocline.fit.run import fit, read_as
from isocline.fit.scale import Scales
from isocline.fit.split import Split
from isocline.solve import solve

HERE = Path(__file__).parent
ADAM, RATE, CLIP = 1000, 1e-2, 10.0  # steps of plain single shooting, its first learning rate, longest gradient
MAX_STEP = 0.6  # of RK4 in its training, as in that of a fit
OWN, DELAYED, PLAIN = (
    "isocline fit",
    "isocline fit --lags 2, the angle alone",
    "the same network, plain single shooting",
)
QUICK = {"matching": 20, "iterations": 1, "polish": 2, "starts": 1, "blocks": 0, "penalty": (1e-2,)}

Energy = Callable[[np.ndarray, np.ndarray], np.ndarray]  # times (n,), states (n, d) -> (n,), 0 at rest


# ---- energies ---------------------------------------------------------------------------------------------------------
def double_energy(t: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) joule above rest of two arms at angles from upright, with their rates.

    Source:
        Kaheman, Fasel, Bramburger, Strom, Kutz & Brunton (2022), arXiv 2205.06231: the constants that its authors fitted.
    """
    m1, m2, a1, a2, length, i1, i2, g = (
        0.093844, 0.137596, 0.108565, 0.116779, 0.172719, 0.000437529, 0.00126883, 9.80858,
    )  # fmt: skip
    q1, q2, w1, w2 = y.T
    kinetic = 0.5 * (i1 + m1 * a1**2 + m2 * length**2) * w1**2 + 0.5 * (i2 + m2 * a2**2) * w2**2
    kinetic = kinetic + m2 * length * a2 * np.cos(q1 - q2) * w1 * w2
    return kinetic + (m1 * a1 + m2 * length) * g * (1 + np.cos(q1)) + m2 * a2 * g * (1 + np.cos(q2))


def swing_energy(stiffness: float) -> Energy:
    """Of one arm by its angle in degrees from hanging down, over its moment of inertia; the rate is that of the angle.

    Args:
        stiffness: k in d²θ/dt² = −k sin θ − c dθ/dt.
    """

    def energy(t: np.ndarray, y: np.ndarray) -> np.ndarray:
        angle = np.radians(y[:, 0])
        return 0.5 * np.gradient(angle, t) ** 2 + stiffness * (1 - np.cos(angle))

    return energy


def stiffness_of(taught: Sequence[Series]) -> float:
    """k of the training part, by least squares on central differences."""
    rows, slopes = [], []
    for s in taught:
        angle, rate = np.radians(s.y[:, 0]), np.radians(s.y[:, 1])
        rows.append(np.stack([np.sin(angle), rate], 1)[1:-1])
        slopes.append(np.gradient(rate, s.t)[1:-1])
    return float(-np.linalg.lstsq(np.concatenate(rows), np.concatenate(slopes), rcond=None)[0][0])


# ---- models -----------------------------------------------------------------------------------------------------------
def single_shooting(taught: Sequence[Series], scales: Scales, hidden: Sequence[int], steps: int) -> nn.Module:
    """The network of a fit, scaled as there, trained as is usually written: every series from its first row to its end.

    Adam on the mean square of all rows, the learning rate falling along a cosine, the gradient clipped; the weights with the
    lowest loss are kept.
    """
    field = Field(len(scales.states), hidden)
    ts = padded([(s.t - s.t[0]) / scales.tau for s in taught])
    y = padded([scales.scaled(s.y) for s in taught]).movedim(0, 1)
    seen, start = ~y.isnan(), y[0]
    options: dict[str, Any] = {"solver": "rk4", "max_step": MAX_STEP, "gradient": "backprop", "throw": False}
    adam = torch.optim.Adam(field.parameters(), lr=RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps, RATE / 10)
    best, kept = float("inf"), field.state_dict()
    for _ in range(steps):
        ys = solve(field, start, ts, batching="per_sample", engine="auto", **options).ys
        loss = (ys.nan_to_num(BOUND, BOUND, -BOUND).clamp(-BOUND, BOUND) - y)[seen].square().mean()
        if loss.item() < best:
            best, kept = loss.item(), {k: v.clone() for k, v in field.state_dict().items()}
        adam.zero_grad()
        loss.backward()
        if bool(nn.utils.clip_grad_norm_(field.parameters(), CLIP).isfinite()):
            adam.step()
        falling.step()
    field.load_state_dict(kept)
    return field


def learned(task: Task, settings: dict[str, Any], folder: Path) -> tuple[Fitted, list[Series], float]:
    """A fit as `isocline fit` makes it, what it was trained on, and its seconds of the processor."""
    path, out = folder / "train.csv", folder / "run"
    task.train.to_csv(path, index=False)
    states = tuple(task.train.columns[2:])
    config = Config.make(time="time", id="id", states=states, hold_out=0.0, members=0, **settings)
    began = time.process_time()
    fit(path, config, out, overwrite=True, page=False)
    seconds = time.process_time() - began
    fitted = Fitted.read(out)
    return fitted, Split.of(read_as(path, fitted.config), 0.0).taught, seconds


# ---- scores -----------------------------------------------------------------------------------------------------------
def scored(
    paths: Sequence[np.ndarray], task: Task, angles: int, truth: Sequence[np.ndarray], energy: Energy
) -> dict[str, float]:
    """Error of the angles in the table's unit; and of the energy, at the end of a forecast and over all of it, in shares of that at
    its start: inf where a path is lost."""
    off = np.concatenate([p[:, :angles] - y[:, :angles] for p, (_, y) in zip(paths, task.later, strict=True)])
    ends, all_ = [], []
    for path, (t, _), measured in zip(paths, task.later, truth, strict=True):
        own, real = energy(t, path), energy(t, measured)
        ends.append((own[-1] - real[-1]) / real[0])
        all_.append((own - real) / real[0])
    return {"angle": _root(off), "energy_end": _root(np.array(ends)), "energy": _root(np.concatenate(all_))}


def _root(x: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(np.clip(x, -1e9, 1e9))))) if np.isfinite(x).all() else float("inf")


def compared(name: str, task: Task, truth: Sequence[np.ndarray], quick: bool) -> dict[str, dict[str, float]]:
    """Every model of one task."""
    settings = QUICK if quick else {}
    angles = 2 if name.startswith("double") else 1
    later = [t for t, _ in task.later]
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        fitted, taught, seconds = learned(task, settings, Path(folder))
        energy = double_energy if angles == 2 else swing_energy(stiffness_of(taught))
        scales = fitted.scales

        def keep(model: Forecaster, seconds: float, records: Sequence[Series] = task.records) -> None:
            paths = [fitted.scales.unscaled(p) for p in model.forecast(records, later)]
            found[model.name] = {**scored(paths, task, angles, truth, energy), "seconds": seconds}
            print(name, task.part, model.name, found[model.name], flush=True)

        keep(model_forecaster(OWN, fitted.field, scales), seconds)
        began = time.process_time()
        plain = single_shooting(taught, scales, fitted.config.hidden, 5 if quick else ADAM)
        keep(model_forecaster(PLAIN, plain, scales), time.process_time() - began)
        equal = all_equal(task.records, [Series("", t, y) for t, y in task.later])
        others = Rivals.of(taught, scales, fitted.config.window, equal, sparse=False)
        began = time.process_time()
        others = replace(others, sparse=sindy.rival(taught, scales))
        seconds = time.process_time() - began
        for rival in others.forecasters(scales):
            keep(rival, seconds if rival.name == SPARSE else 0.0)
        if angles == 1:
            alone = replace(task, train=task.train.drop(columns="velocity"))
            fitted, _, seconds = learned(alone, {**settings, "lags": "2"}, Path(folder))
            delays = Lags.of(str(fitted.config.lags)).times(1.0)
            step = float(np.median(np.diff(task.records[0].t)))
            records = [past(replace(s, y=s.y[:, :1]), delays, step) for s in task.records]
            keep(model_forecaster(DELAYED, fitted.field, fitted.scales), seconds, records)
    return found


def truths(name: str, path: Path, task: Task) -> list[np.ndarray]:
    """(n, d) what was measured at the times of all forecasts, rates included."""
    if not name.startswith("double"):
        return [y for _, y in task.later]
    with np.load(path) as file:
        t, y = file["t"], file["y"].astype(np.float64)
    return [y[np.searchsorted(t, times)] for times, _ in task.later]


# ---- page -------------------------------------------------------------------------------------------------------------
UNITS = {
    "double pendulum": ("rad", "the next second, 24 forecasts in 8 segments"),
    "free-swing pendulum": ("°", "to the end of the record"),
}
NOTES = f"""All from one seed. *Plain single shooting*: the network and the scales (of states and of time) of the fit, every series from its
first row to its end, mean square error, Adam {ADAM} steps from {RATE:g} on a cosine: what the usual example does, but for the
scales, which it lacks. PySINDy: polynomials of degree 2, as in every report of a fit; with sines in its library, which one has to
know of, it would be another model. Nothing was chosen by what is forecast.

Energy: of the forecast, minus that of what was measured then, root mean square, as a share of the measured energy where the
forecast starts. Of the double pendulum by the constants that its authors fitted, of the free-swinging one by the angle and its
central difference, for all models alike. Both lose energy by friction, so that a model is to lose it, too: what is shown is the
difference. No model knows of an energy; persistence keeps what there was, and is right about it while little is lost. The release
from 135° is the one to which the others are no guide: its swings are larger than all that was learned from."""


def written(found: dict[str, Any]) -> str:
    """The page."""
    parts = [
        "# Two pendulums, and their energy\n\nThe two measured pendulums of `isocline bench fit`, one seed: forecasts by the model of a fit, "
        "by the same network trained plainly, and by simpler models. Made by `benchmarks/fit_pendulums.py`.\n"
    ]
    for name, tasks in found.items():
        unit, ahead = UNITS[name]
        parts.append(f"\n## {name[0].upper()}{name[1:]}, {ahead}\n\n")
        head = [
            "part",
            "model",
            f"angle, RMSE [{unit}]",
            "energy at the end, error [%]",
            "over the path [%]",
            "processor time",
        ]
        rows = []
        whole = {"mean": means(tasks)} if len(tasks) > 1 else {}
        for part, models in {**tasks, **whole}.items():
            for model, row in sorted(models.items(), key=lambda pair: pair[1]["angle"]):
                angle = "lost" if row["angle"] == float("inf") else f"{row['angle']:.3g}"
                shares = [_share(row[key]) for key in ("energy_end", "energy")]
                seconds = f"{row['seconds']:.0f} s" if row["seconds"] else ""
                rows.append([part or "all", model, angle, *shares, seconds])
        parts.append(table(head, rows))
    return "".join(parts) + "\n" + NOTES + "\n\n" + origin(("pysindy",) if sindy.installed() else ()) + "\n"


def means(tasks: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Of every model over the parts of a set."""
    parts = list(tasks.values())
    return {
        model: {key: float(np.mean([part[model][key] for part in parts])) for key in row}
        for model, row in parts[0].items()
        if all(model in part for part in parts)
    }


def _share(x: float) -> str:
    return "lost" if x == float("inf") else "> 999" if x > 9.99 else f"{100 * x:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "fit_pendulums.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = Path(os.environ.get("ISOCLINE_DATA", HERE.parent.parent / "shared" / "data"))
    kept = asked.out.with_suffix(".json")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() and not asked.quick else {}
    for one in named(["free-swing"] if asked.quick else ["free-swing", "double"]):
        path = located(one.file, data)
        tasks = list(one.tasks(path))
        for task in tasks[:1] if asked.quick else tasks:
            if task.part in found.get(one.name, {}):
                continue
            found.setdefault(one.name, {})[task.part] = compared(
                one.name, task, truths(one.name, path, task), asked.quick
            )
            kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    asked.out.write_text(written(found), encoding="utf-8")


if __name__ == "__main__":
    main()
