"""The verdict: scores on the held-out part beside the baselines, and all that the report shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from isocline import audit
from isocline.fit.baselines import LinearODE, last_values, rmse
from isocline.fit.config import Config
from isocline.fit.loop import Trainer, settle
from isocline.fit.scale import Scales
from isocline.fit.table import Series, Table
from isocline.fit.windows import Record
from isocline.solution import SolveError
from isocline.solve import solve

if TYPE_CHECKING:
    from isocline.fit.run import Split

MAX_POINTS = 2000  # of a series that the report carries
MAX_SERIES = 12
NEURAL, LAST, LINEAR = "neural ODE", "persistence", "linear ODE"


def judge(
    table: Table, split: Split, scales: Scales, config: Config, trainer: Trainer, reason: str, kept: dict[str, Any]
) -> dict[str, Any]:
    """The report of a trained run, as `report.json` has it."""
    from isocline.fit.run import path_of, settled

    model = trainer.model
    warnings: list[str] = []
    linear = LinearODE(len(scales.states)).fit(
        Record.of([s for s, yes in zip(split.train, split.learned, strict=True) if yes], scales, config.window)
    )
    forecasts: dict[str, list[np.ndarray]] = {NEURAL: [], LAST: [], LINEAR: []}
    paths = []
    for number, (train, held) in enumerate(zip(split.train, split.held, strict=True)):
        t, y = train.t[-12:], train.y[-12:]
        state, _ = settled(model, t, y, scales)
        if number < MAX_SERIES:
            paths += _paths(model, train, held, state, scales)
        if not len(held.t):
            continue
        ts = torch.tensor((np.concatenate([t, held.t]) - t[0]) / scales.tau)
        try:
            with torch.no_grad():
                ahead = path_of(model, state, ts)[len(t) :]
        except SolveError as error:
            ahead = error.solution.ys[len(t) :]
            warnings.append(f"the forecast{f' of series {held.id!r}' if held.id else ''} cannot go on: {error}")
        x = torch.tensor(scales.scaled(y), dtype=torch.float32)
        guess = torch.tensor(np.nan_to_num(scales.scaled(y)[0]), dtype=torch.float32)
        straight, _ = settle(lambda s, times: linear.path(s, times), x, ts[: len(t)], guess)
        forecasts[NEURAL].append(ahead.double().numpy())
        forecasts[LINEAR].append(linear.path(straight, ts)[len(t) :].detach().double().numpy())
        forecasts[LAST].append(np.broadcast_to(last_values(scales.scaled(train.y)), (len(held.t), len(scales.states))))
    scores = _scores([h for h in split.held if len(h.t)], forecasts, scales, table)
    solver = _solver(trainer, split, scales)
    if solver["reconstruction"] is not None and solver["reconstruction"] > 1e-2:
        warnings.append(
            "integrating forwards and back does not return to the start: the path contracts, or the tolerance is loose; "
            "read the field off the data's neighbourhood only"
        )
    return {
        "isocline": kept["isocline"],
        "command": kept["command"],
        "created": kept["created"],
        "table": _described(table, scales),
        "series": [_series(s, h, yes) for s, h, yes in list(zip(split.train, split.held, split.learned, strict=True))[:MAX_SERIES]],
        "model_path": paths,
        "config": kept["config"],
        "history": {k: _plain(v) for k, v in vars(trainer.history).items()},
        "scores": scores,
        "score_scale": "NRMSE: root mean square error in the scaled coordinates the model works in, all states together",
        "verdict": verdict(scores),
        "phase": _phase(model, split.train, scales, table, paths),
        "solver": solver,
        "stopped": reason,
        "best_iteration": trainer.best["iteration"],
        "seconds": round(trainer.before, 2),
        "warnings": warnings,
    }


def verdict(scores: list[dict[str, Any]]) -> str:
    """Who wins on the held-out part, in one plain sentence; it may say no."""
    if not scores:
        return "Nothing was held out, so there is no verdict: hold out a tail or a series to learn whether the model predicts."
    by = {s["model"]: s["nrmse"] for s in scores}
    neural, rival = by[NEURAL], min((LAST, LINEAR), key=lambda m: by[m] if by[m] is not None else math.inf)
    best = by[rival]
    if neural is None:
        return f"The neural ODE's forecast is not finite on the held-out part; {rival} (error {best:.3g}) is the better model here."
    if best is None or neural < 0.97 * best:
        margin = f"{1 - neural / best:.0%} lower than that of the {rival}" if best else "finite, unlike the baselines"
        return f"The neural ODE wins on the held-out part: its error ({neural:.3g}) is {margin}."
    if neural <= 1.03 * best:
        return f"On the held-out part the neural ODE ({neural:.3g}) is no better than {_the(rival)} ({best:.3g}): prefer the simpler model."
    return (
        f"The neural ODE does not beat {_the(rival)} on the held-out part: its error is {neural:.3g} against {best:.3g}. "
        f"More data, or the simpler model."
    )


def _the(model: str) -> str:
    return f"the {model}" if model == LINEAR else model


def _scores(held: list[Series], forecasts: dict[str, list[np.ndarray]], scales: Scales, table: Table) -> list[dict[str, Any]]:
    if not held:
        return []
    scaled = [scales.scaled(h.y) for h in held]
    pooled = {m: float(np.sqrt((rmse(f, scaled) ** 2).mean())) for m, f in forecasts.items()}
    out = []
    for m, f in forecasts.items():
        columns = rmse([scales.unscaled(x) for x in f], [h.y for h in held])
        out.append(
            {
                "model": m,
                "rmse": {c.header: _number(v) for c, v in zip(table.states, columns, strict=True)},
                "nrmse": _number(pooled[m]),
                "skill": _number(1 - pooled[m] / pooled[LAST]) if pooled[LAST] else None,
            }
        )
    return out


def _paths(model: torch.nn.Module, train: Series, held: Series, anchor: torch.Tensor, scales: Scales) -> list[dict[str, Any]]:
    """The fitted path over the training part and the forecast after it, on fine grids."""
    from isocline.fit.run import settled

    out = []
    length = min(len(train.t), 400)
    t = train.t[:length]
    start, _ = settled(model, t, train.y[:length], scales)
    out.append(_fine(model, start, t[0], t[-1], train.id, "fit", scales))
    if len(held.t):
        begin = train.t[-12:][0]
        path = _fine(model, anchor, begin, held.t[-1], held.id, "forecast", scales)
        later = [i for i, x in enumerate(path["t"]) if x >= train.t[-1]]
        out.append({**path, "t": [path["t"][i] for i in later], "y": [path["y"][i] for i in later]})
    return out


def _fine(
    model: torch.nn.Module, state: torch.Tensor, begin: float, end: float, name: str, part: str, scales: Scales
) -> dict[str, Any]:
    grid = np.linspace(begin, end, 400)
    with torch.no_grad():
        sol = solve(model, state, torch.tensor((grid - begin) / scales.tau), throw=False, rtol=1e-5, atol=1e-6, max_steps=20_000)
    y = scales.unscaled(sol.ys.double().numpy())
    good = np.isfinite(y).all(1)
    return {"id": name, "part": part, "t": grid[good].tolist(), "y": y[good].tolist()}


def _series(train: Series, held: Series, learned: bool) -> dict[str, Any]:
    t, y = np.concatenate([train.t, held.t]), np.concatenate([train.y, held.y])
    thin = max(1, math.ceil(len(t) / MAX_POINTS))
    split = None if not len(held.t) else float((train.t[-1] + held.t[0]) / 2)
    return {"id": train.id, "t": t[::thin].tolist(), "y": _plain(y[::thin]), "split": split, "held_out": not learned}


def _described(table: Table, scales: Scales) -> dict[str, Any]:
    return {
        "path": table.path,
        "sha256": table.sha256,
        "rows": table.rows,
        "time": {"name": table.time.name, "unit": table.time.unit},
        "id": table.id.header if table.id else None,
        "states": [
            {"name": c.name, "unit": c.unit, "scale": {"kind": s.kind, "mean": s.mean, "sd": s.sd}}
            for c, s in zip(table.states, scales.states, strict=True)
        ],
        "notes": table.notes,
    }


def _phase(model: torch.nn.Module, train: list[Series], scales: Scales, table: Table, paths: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The learned field over the first two states, the others at their median; in the table's units."""
    if len(scales.states) < 2:
        return None
    x = scales.scaled(np.concatenate([s.y for s in train]))
    low, high = np.nanmin(x, 0) - 0.3, np.nanmax(x, 0) + 0.3
    grids = [np.linspace(low[i], high[i], 22) for i in (0, 1)]
    points = np.broadcast_to(np.nanmedian(x, 0), (22, 22, x.shape[1])).copy()
    points[..., 0], points[..., 1] = np.meshgrid(*grids)
    with torch.no_grad():
        slope = model(torch.tensor(0.0), torch.tensor(points, dtype=torch.float32)).double().numpy() / scales.tau
    y = scales.unscaled(points)
    velocity = [slope[..., i] * s.sd * (y[..., i] if s.kind == "log" else 1.0) for i, s in enumerate(scales.states)]
    fit = next((p for p in paths if p["part"] == "fit"), None)
    return {
        "x": table.states[0].header,
        "y": table.states[1].header,
        "gx": y[0, :, 0].tolist(),
        "gy": y[:, 0, 1].tolist(),
        "dx": velocity[0].tolist(),
        "dy": velocity[1].tolist(),
        "log": [s.kind == "log" for s in scales.states[:2]],
        "path_x": [row[0] for row in fit["y"]] if fit else [],
        "path_y": [row[1] for row in fit["y"]] if fit else [],
    }


def _solver(trainer: Trainer, split: Split, scales: Scales) -> dict[str, Any]:
    """What one pass over the longest series costs, and whether it can be run backwards."""
    longest = max(split.train, key=lambda s: len(s.t))
    length = min(len(longest.t), 400)
    ts = torch.tensor((longest.t[[0, length - 1]] - longest.t[0]) / scales.tau)
    y0 = torch.tensor(np.nan_to_num(scales.scaled(longest.y[0])), dtype=torch.float32, requires_grad=True)
    sol = solve(trainer.model, y0, ts, throw=False)
    if sol.success:
        sol.ys[-1].sum().backward()
    try:
        back: float | None = audit.reconstruction(trainer.model, y0.detach(), ts)
    except SolveError:
        back = None
    return {
        "solver": "tsit5, rtol 1e-5, atol 1e-6 (training: rk4, one step an observation)",
        "evaluations": int(sol.stats.evaluations),
        "evaluations_backward": int(sol.stats.evaluations_backward),
        "accepted": int(sol.stats.accepted),
        "rejected": int(sol.stats.rejected),
        "reconstruction": _number(back),
        "evaluations_training": trainer.evaluations,
    }


def _number(x: float | None) -> float | None:
    return None if x is None or not math.isfinite(x) else float(x)


def _plain(values: Any) -> Any:
    """Lists without NaN or inf, for JSON."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        return [_plain(v) for v in values]
    return _number(values) if isinstance(values, float) else values
