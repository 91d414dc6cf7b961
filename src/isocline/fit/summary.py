"""report.json: all that the report shows, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from isocline import audit
from isocline.fit.compare import digest
from isocline.fit.config import Config
from isocline.fit.diagram import over_first_input
from isocline.fit.drive import Drive
from isocline.fit.ensemble import Ensemble
from isocline.fit.equilibria import equilibria
from isocline.fit.flow import flow_of
from isocline.fit.forecast import anchor, settled
from isocline.fit.judge import Judgement, number
from isocline.fit.reading.table import Series, Table
from isocline.fit.recipe import Recipe
from isocline.fit.residuals import residuals
from isocline.fit.scale import Scales
from isocline.fit.split import Split
from isocline.fit.verdict import looks_back, reach, verdict
from isocline.solution import SolveError
from isocline.solve import solve

MAX_POINTS = 2000  # of a series that the report carries
MAX_SERIES, MAX_PIECES = 12, 40  # series it shows, and fitted pieces of each
FINE, SPREAD = 600, 120  # points of a path, and of one of a member
GRID = 22
FEW = 4  # states of which earlier values are advised
PASS = 400  # rows of the longest series over which the solver is watched


def summary(
    table: Table, split: Split, scales: Scales, recipe: Recipe, ensemble: Ensemble, reason: str, kept: dict[str, Any],
    judged: Judgement, warnings: list[str],
) -> dict[str, Any]:  # fmt: skip
    """The report of a run; all numbers finite or None.

    Args:
        recipe: when its training is over; `ensemble` what it left.
        kept: config.json.
        judged: of the held-out part.
        warnings: of everything.
    """
    model = ensemble.model
    paths = _paths(ensemble, split, scales, recipe)
    solver = _solver(model, split, scales, recipe)
    if (solver["reconstruction"] or 0.0) > 1e-2:
        warnings = [
            *warnings,
            "integrated forwards and back, the fitted path does not return to its start: it contracts onto an attractor, "
            "so the field is known near the data only",
        ]
    scores = judged.scores
    sentence, won = verdict(scores)
    if recipe.refuge is not None:
        sentence, won = (
            f"No network stayed within reach of the data, so {recipe.refuge[1]} takes their place. {sentence}",
            False,
        )
    elif looks_back(scores) and _sees_the_present(recipe.config, len(table.states)):
        sentence += " What went before seems to tell more than what is: --lags 2 gives the network earlier values, too."
    still = _undriven(model, split.train, scales)
    shown = list(zip(split.train, split.held, split.learned, strict=True))[:MAX_SERIES]
    return {
        "isocline": kept["isocline"],
        "command": kept["command"],
        "created": kept["created"],
        "table": described(table, scales),
        "series": [series_of(*parts) for parts in shown],
        "model_path": paths,
        "config": kept["config"],
        "history": _history(recipe),
        "stages": [{k: plain(v) for k, v in stage.items()} for stage in recipe.told()],
        "chosen": _chosen(recipe, table.clock.unit or table.time.unit or table.time.name),
        "tuning": kept.get("tuning"),
        "bands": _bands(ensemble, judged),
        "held_out": digest([h.own for h in split.held], [c.header for c in table.own]),
        "scores": scores,
        "absent": judged.absent,
        "horizons": judged.horizons,
        "reach": reach(judged.horizons, scores[0]["model"], table.clock.unit or table.time.unit) if scores else None,
        "score_scale": "NRMSE: root mean square error in the scaled coordinates the model works in, all states together",
        "verdict": sentence,
        "won": won,
        "phase": _phase(still, split.train, scales, table, paths),
        "equilibria": []
        if table.lags or "begin" in getattr(model, "takes", ())
        else equilibria(still, split.taught, scales),
        "bifurcation": None if table.lags else over_first_input(model, recipe.config, split.taught, scales),
        "residuals": residuals(ensemble.flow, recipe, split.taught, scales),
        "solver": solver,
        "stopped": reason,
        "seconds": round(recipe.before, 2),
        "warnings": warnings,
    }


def _sees_the_present(config: Config, states: int) -> bool:
    """Whether the model is given the states as they are, few enough that earlier values of all could be added."""
    return states <= FEW and not (config.lags or config.hidden_states or config.equations or config.doses)


def plain(values: Any) -> Any:
    """Nested lists for JSON, None where not finite."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        return [plain(v) for v in values]
    return number(values) if isinstance(values, float) else values


def _history(recipe: Recipe) -> dict[str, Any]:
    """Misfit of the model over the steps, from where it is one of states: gradient matching has slopes."""
    trainer = recipe.trainer
    history = trainer.history
    names = [trainer.stages[i].title(trainer.config.window) for i in history.stage]
    rows = [i for i, stage in enumerate(history.stage) if trainer.stages[stage].kind != "matching"]
    return {
        "iteration": [i + 1 for i in rows],
        "stage": [names[i] for i in rows],
        "train": [number(history.misfit[i]) for i in rows],
        "seconds": [history.seconds[i] for i in rows],
    }


def _chosen(recipe: Recipe, unit: str) -> dict[str, Any] | None:
    """How the penalty was chosen, None for an infinite one (no networks), and whether a season; None where there were no blocks."""
    if recipe.choice is None:
        return None
    tried = recipe.choices[1:]
    pairs = zip(recipe.choice.penalties, recipe.choice.errors, strict=True)
    return {
        "blocks": len(recipe.folds),
        "penalty": number(recipe.choice.penalty),
        "errors": [{"penalty": number(p), "error": number(e)} for p, e in pairs],
        "season": {
            "period": tried[0].season,
            "unit": unit,
            "taken": recipe.choice.season is not None,
            "error": number(tried[0].error),
            "without": number(recipe.choices[0].error),
        }
        if tried
        else None,
    }


def _bands(ensemble: Ensemble, judged: Judgement) -> dict[str, Any] | None:
    if ensemble.bands is None:
        return None
    described = {k: plain(v) for k, v in asdict(ensemble.bands).items()}
    coverage = {level: row["coverage"] for level, row in judged.bands.items()} if judged.bands else None
    return {"members": len(ensemble.members), **described, "coverage": coverage, "held_out": judged.bands}


def described(table: Table, scales: Scales) -> dict[str, Any]:
    given = [{"name": c, "role": role} for c, role in table.others if role == "covariate" or role.startswith("dose")]
    notes = [*table.notes, *(f"ignored: {column} ({why})" for column, why in table.ignored)]
    return {
        "path": table.path,
        "sha256": table.sha256,
        "rows": table.rows,
        "time": {"name": table.time.name, "unit": table.time.unit},
        "id": table.id.header if table.id else None,
        "states": [
            {"name": c.name, "unit": c.unit, "scale": {"kind": s.kind, "mean": s.mean, "sd": s.sd}}
            for c, s in zip(table.own, scales.states, strict=False)
        ],
        "earlier": [{"name": c.name, "unit": c.unit} for c in table.states[len(table.own) :]],
        "inputs": [{"name": c.name, "unit": c.unit} for c in table.inputs],
        "notes": notes,
        **({"given": given} if given else {}),
    }


def series_of(train: Series, held: Series, learned: bool) -> dict[str, Any]:
    t, y = np.concatenate([train.t, held.t]), np.concatenate([train.y, held.y])
    thin = max(1, math.ceil(len(t) / MAX_POINTS))
    split = float((train.t[-1] + held.t[0]) / 2) if len(held.t) else None
    shown = {"id": train.id, "t": plain(t[::thin]), "y": plain(y[::thin]), "split": split, "held_out": not learned}
    if train.u is not None and train.u.u.shape[1]:
        shown["u"] = {"y": plain(train.u.at(t[::thin])), "hold": train.u.hold}
    return shown


# ---- paths ------------------------------------------------------------------------------------------------------------
def _paths(ensemble: Ensemble, split: Split, scales: Scales, recipe: Recipe) -> list[dict[str, Any]]:
    """The fitted windows from their trained starts, then from the settled state through validation and held-out part."""
    flow, record, trainer = ensemble.flow, recipe.record, recipe.trainer
    starts = trainer.objective.starts(trainer.theta)[trainer.best].detach()
    taught = [i for i, yes in enumerate(split.learned) if yes]
    first_knot = np.cumsum([0, *(len(k) for k in record.knots)])
    out = []
    for number_, (train, held) in enumerate(zip(split.train, split.held, strict=True)):
        if number_ >= MAX_SERIES:
            break
        segments = [k for k, i in enumerate(record.series) if taught[i] == number_][:MAX_PIECES]
        for k in segments:
            begin, end = record.begin[k], record.begin[k] + record.t[k][-1] * scales.tau
            state = starts[first_knot[k]]
            out.append(_fine(flow, train, state, begin, begin, end, FINE // len(segments), scales, "fit"))
        start = anchor(train, scales)
        state = settled(flow, [start], scales)[0]
        reached = max((record.begin[k] + record.t[k][-1] * scales.tau for k in segments), default=start.t[0])
        if reached < train.t[-1]:
            out.append(_fine(flow, start, state, start.t[0], max(reached, start.t[0]), train.t[-1], 100, scales, "fit"))
        if len(held.t):
            end = held.t[min(len(held.t), MAX_POINTS) - 1]
            out.append(_fine(flow, start, state, start.t[0], train.t[-1], end, FINE, scales, "forecast"))
            if ensemble.bands is not None:
                away = None if split.learned[number_] else ensemble.distance(train, scales)
                out[-1] |= _bounds(ensemble, start, out[-1], scales, away)
    return out


def _bounds(
    ensemble: Ensemble, start: Series, path: dict[str, Any], scales: Scales, distance: float | None
) -> dict[str, Any]:
    """The bands about a forecast, and the members' own."""
    t, y = np.array(path["t"]), np.array(path["y"])
    whole = np.concatenate([[start.t[0]], t[t > start.t[0]]])
    ts, states = torch.tensor((whole - whole[0]) / scales.tau), ensemble.settled(start, scales)
    drive = Drive.of([start], [whole], scales).repeat(len(states))
    paths = ensemble.crowd(states, ts.expand(len(states), -1), drive).movedim(1, 0).numpy()[:, -len(t) :]
    bounds = ensemble.intervals(scales.scaled(y), ensemble.spread_of(paths), scales, distance)
    some = np.unique(np.linspace(0, len(t) - 1, SPREAD).round().astype(int))
    members = {"t": t[some].tolist(), "y": [plain(scales.unscaled(path[some])) for path in paths]}
    return {**{name: plain(values) for name, values in bounds.items()}, "members": members}


def _fine(
    flow: Any,
    series: Series,
    state: torch.Tensor,
    begin: float,
    shown: float,
    end: float,
    points: int,
    scales: Scales,
    part: str,
) -> dict[str, Any]:
    """A path of a series from a state at `begin`, shown from `shown` to `end`, as far as it is finite."""
    grid = np.linspace(shown, end, max(points, 2))
    grid = grid[np.unique((grid - begin) / scales.tau, return_index=True)[1]]  # a span of few digits has fewer times
    whole = np.concatenate([[begin], grid[grid > begin]])
    ts = torch.tensor((whole - begin) / scales.tau)[None]
    y = scales.unscaled(flow(state[None], ts, Drive.of([series], [whole], scales))[:, 0].numpy())
    y = y if shown <= begin else y[1:]
    good = np.isfinite(y).all(1)
    return {"id": series.id, "part": part, "t": grid[good].tolist(), "y": y[good].tolist()}


# ---- field and solver -------------------------------------------------------------------------------------------------
def _phase(
    field: Callable[..., torch.Tensor], train: list[Series], scales: Scales, table: Table, paths: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """The learned field over two states, the others at their median; in the table's units.

    The first two that were measured, or the one that was and a hidden one, whose values are those of the fitted path.
    """
    x = scales.scaled(np.concatenate([s.y for s in train]))
    seen = [bool(np.isfinite(x[:, k]).any()) for k in range(len(scales.states))]
    pair = sorted(range(len(seen)), key=lambda k: not seen[k])[:2]
    fits = [path for path in paths if path["part"] == "fit" and path["y"]]
    if len(pair) < 2 or not any(seen) or not (all(seen) or fits):
        return None
    ranges = [x[:, i] for i in range(len(seen))]
    if not all(seen):
        path = scales.scaled(np.concatenate([path["y"] for path in fits]))
        ranges = [column if seen[i] else path[:, i] for i, column in enumerate(ranges)]
    i, j = pair
    low, high = ([end(ranges[k]) for k in pair] for end in (np.nanmin, np.nanmax))
    points = np.broadcast_to([np.nanmedian(column) for column in ranges], (GRID, GRID, len(seen))).copy()
    held = scales.unscaled(points[0, :1])[0]
    points[..., i], points[..., j] = np.meshgrid(
        *(np.linspace(a - 0.3, b + 0.3, GRID) for a, b in zip(low, high, strict=True))
    )
    with torch.no_grad():
        slope = field(torch.tensor(0.0), torch.tensor(points)).numpy() / scales.tau
    y = scales.unscaled(points)
    velocity = [slope[..., k] * scales.states[k].rate(y[..., k]) for k in (i, j)]
    fit = fits[0]["y"] if fits else []
    return {
        "axes": [i, j],
        "x": table.states[i].header,
        "y": table.states[j].header,
        "gx": y[0, :, i].tolist(),
        "gy": y[:, 0, j].tolist(),
        "dx": plain(velocity[0]),
        "dy": plain(velocity[1]),
        "log": [scales.states[k].kind == "log" for k in (i, j)],
        "path_x": [row[i] for row in fit],
        "path_y": [row[j] for row in fit],
        "held": held.tolist(),
        "span": float(max(s.t[-1] - s.t[0] for s in train)),
    }


def _undriven(model: nn.Module, train: list[Series], scales: Scales) -> Callable[..., torch.Tensor]:
    """f(t, x) with the inputs, and the time of equations, at their median."""
    takes = getattr(model, "takes", ())
    if not takes:
        return model
    given = {"begin": torch.tensor([float(np.median(np.concatenate([s.t for s in train])))], dtype=torch.float64)}
    if train[0].u is not None:
        rows = np.concatenate([scales.scaled_inputs(s.u.at(s.t)) for s in train if s.u is not None])
        given["u"] = torch.tensor(np.median(rows, 0))
    return lambda t, x: model(t, x, {name: given[name] for name in takes})


def _solver(model: nn.Module, split: Split, scales: Scales, recipe: Recipe) -> dict[str, Any]:
    """What one pass over the longest series costs, and whether it can be run backwards."""
    objective = recipe.trainer.objective
    longest = max(split.taught, key=lambda s: len(s.t))
    ends = longest.t[longest.first :][:PASS][[0, -1]]
    ts = torch.tensor((ends - ends[0]) / scales.tau)[None]
    y0 = settled(flow_of(model), [longest.rows(slice(longest.first, longest.first + 12))], scales).requires_grad_()
    inputs = Drive.of([longest], [ends], scales).given(model)
    options: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6, "batching": "per_sample", "inputs": inputs}
    sol = solve(model, y0, ts, engine="auto", throw=False, **options)
    back = None
    if sol.success:
        sol.ys[-1].sum().backward()
        model.zero_grad()
        try:
            back = audit.reconstruction(model, y0.detach(), ts, **options)
        except SolveError:
            back = None
    return {
        "solver": f"tsit5, rtol 1e-6, atol 1e-7 (training: rk4, steps of at most {objective.max_step:g} scaled time units)",
        "evaluations": int(sol.stats.evaluations),
        "evaluations_backward": int(sol.stats.evaluations_backward),
        "accepted": int(sol.stats.accepted),
        "rejected": int(sol.stats.rejected),
        "reconstruction": number(back),
        "evaluations_training": objective.evaluations,
    }
