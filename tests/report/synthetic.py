"""Reports for the tests, made from really integrated systems in the shape that `isocline fit` writes."""

import copy
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

Report = dict[str, Any]
TRUE, LEARNED = (0.55, 0.028, 0.84, 0.026), (0.56, 0.0284, 0.82, 0.0257)


def lotka_volterra(_t: float, y: np.ndarray, a: float, b: float, c: float, d: float) -> list[float]:
    return [y[0] * (a - b * y[1]), y[1] * (d * y[0] - c)]


def integrate(parameters: tuple[float, ...], y0: list[float], ts: np.ndarray) -> np.ndarray:
    """Path of shape (T, 2), solved to 1e-8."""
    solved = solve_ivp(lotka_volterra, (ts[0], ts[-1]), y0, t_eval=ts, args=parameters, rtol=1e-8, atol=1e-10)
    return solved.y.T


def nested(values: np.ndarray) -> list[Any]:
    """Lists with None where the number is not finite, as JSON has it."""
    return [[float(v) if np.isfinite(v) else None for v in row] for row in values]


def lynx_hare_report(seed: int = 0) -> Report:
    """One series, two states with units, a held-out tail, a phase portrait, one empty cell."""
    rng = np.random.default_rng(seed)
    years, fine = np.arange(1845.0, 1936.0), np.linspace(1845.0, 1935.0, 900)
    observed = integrate(TRUE, [33.0, 6.1], years) * np.exp(0.12 * rng.standard_normal((len(years), 2)))
    observed[17, 1] = np.nan
    path = integrate(LEARNED, [33.0, 6.1], fine)
    gx, gy = np.linspace(2, 100, 20), np.linspace(1, 62, 20)
    field = np.array([[lotka_volterra(0.0, np.array([x, y]), *LEARNED) for x in gx] for y in gy])
    iterations = np.arange(0, 1200, 10)
    train = 0.9 * np.exp(-iterations / 260) + 0.034 * np.exp(0.1 * rng.standard_normal(len(iterations)))
    half = 0.3 * path[720:]
    return {
        "isocline": "0.1.0",
        "command": "isocline fit lynx_hare.csv",
        "created": "2026-11-25T09:30:00+00:00",
        "table": {
            "path": "lynx_hare.csv",
            "sha256": "5f2c" * 16,
            "rows": 91,
            "time": {"name": "year", "unit": None},
            "id": None,
            "states": [
                {"name": "hare", "unit": "thousand pelts", "scale": {"kind": "log", "mean": 3.4, "sd": 0.8}},
                {"name": "lynx", "unit": "thousand pelts", "scale": {"kind": "log", "mean": 2.9, "sd": 0.9}},
            ],
            "notes": [
                "The time is the column year: it is the only one that never falls.",
                "hare and lynx are always positive and span more than a decade: fitted as logarithms.",
                "1 empty cell is left out of the loss (row 19, column lynx); nothing is filled in.",
            ],
        },
        "series": [{"id": "all", "t": years.tolist(), "y": nested(observed), "split": 1917.5, "held_out": False}],
        "model_path": [
            {"id": "all", "part": "fit", "t": fine[:720].tolist(), "y": nested(path[:720])},
            {"id": "all", "part": "forecast", "t": fine[720:].tolist(), "y": nested(path[720:])}
            | {
                f"{side}{level}": nested(path[720:] + sign * z * half)
                for level, z in ((80, 1.3), (95, 2.0))
                for side, sign in (("low", -1), ("high", 1))
            },
        ],
        "config": {
            "table": "lynx_hare.csv",
            "time": "year",
            "states": ["hare", "lynx"],
            "seed": 0,
            "model": {"hidden": [32, 32], "activation": "tanh"},
            "training": {"iterations": 3000, "learning_rate": 0.01, "window": 12, "patience": 400},
            "solver": {"solver": "tsit5", "rtol": 1e-4, "atol": 1e-5},
        },
        "history": {
            "iteration": iterations.tolist(),
            "train": train.tolist(),
            "stage": np.where(iterations < 600, "windows of 5", "whole record").tolist(),
            "seconds": (iterations * 0.03).tolist(),
        },
        "stages": [
            {"phase": phase, "name": name, "steps": 40, "seconds": 1.5, "misfit": 0.1}
            for phase in ("choosing", "fitting")
            for name in ("gradient matching", "windows of 5", "whole record")
        ],
        "chosen": {
            "blocks": 4,
            "penalty": 0.01,
            "errors": [{"penalty": 1e-4, "error": None}, {"penalty": 0.01, "error": 0.61}],
        },
        "bands": {
            "members": 8,
            "factors": [1.5, 2.4],
            "noise": [0.2, 0.3],
            "points": 88,
            "coverage": {"80": 0.78, "95": 0.94},
            "held_out": {
                "80": {"coverage": 0.78, "width": 1.1, "score": 1.9, "score_of_quantiles": 3.2},
                "95": {"coverage": 0.94, "width": 1.8, "score": 2.6, "score_of_quantiles": 4.8},
            },
        },
        "scores": [
            {
                "model": "neural ODE",
                "parameters": 166,
                "mase": 0.9,
                "rmse": {"hare": 11.9, "lynx": 7.4},
                "nrmse": 0.47,
                "skill": 0.61,
            },
            {
                "model": "persistence",
                "parameters": 0,
                "mase": 2.1,
                "rmse": {"hare": 38.1, "lynx": 21.6},
                "nrmse": 1.21,
                "skill": 0.0,
            },
            {
                "model": "linear ODE",
                "parameters": 6,
                "mase": 1.6,
                "rmse": {"hare": 23.4, "lynx": 14.2},
                "nrmse": 0.82,
                "skill": 0.32,
            },
        ],
        "horizons": {
            "rows": [1, 2, 5, 10],
            "time": [1.0, 2.0, 5.0, 10.0],
            "forecasts": [18, 17, 14, 9],
            "nrmse": {
                "neural ODE": [0.3, 0.4, 0.5, 0.52],
                "persistence": [0.5, 0.9, 1.4, 1.1],
                "linear ODE": [0.4, 0.6, None, 1e9],
            },
            "skill": {
                "neural ODE": [0.4, 0.56, 0.64, 0.53],
                "persistence": [0.0, 0.0, 0.0, 0.0],
                "linear ODE": [0.2, 0.33, None, -9e8],
            },
        },
        "reach": "From one row to 10 rows ahead its forecasts are better than the last value, held.",
        "score_scale": "NRMSE: root mean square error in the scaled coordinates the model works in, all states together",
        "won": True,
        "verdict": "The neural ODE wins on the held-out part: its error (0.47) is 43% lower than that of the linear ODE.",
        "phase": {
            "x": "hare",
            "y": "lynx",
            "gx": gx.tolist(),
            "gy": gy.tolist(),
            "dx": nested(field[..., 0]),
            "dy": nested(field[..., 1]),
            "path_x": path[:, 0].tolist(),
            "path_y": path[:, 1].tolist(),
        },
        "equilibria": [
            {
                "state": [31.9, 19.7],
                "kind": "centre",
                "stable": None,
                "eigenvalues": [[0.0, 0.68], [0.0, -0.68]],
                "period": 9.2,
            }
        ],
        "residuals": residuals_of(years[:73], 2),
        "solver": {
            "solver": "tsit5",
            "rtol": 1e-4,
            "atol": 1e-5,
            "evaluations": 1204,
            "evaluations_backward": 1098,
            "accepted": 171,
            "rejected": 12,
            "reconstruction": 3.1e-4,
        },
        "stopped": "done",
        "seconds": 41.3,
        "warnings": [],
    }


def residuals_of(ts: np.ndarray, count: int) -> Report:
    """What is left of white noise."""
    left = np.random.default_rng(2).standard_normal((len(ts), count))
    left[3, 0] = np.nan
    return {
        "t": ts.tolist(),
        "series": [0] * len(ts),
        "fitted": nested(np.cos(ts)[:, None] * np.ones(count)),
        "residual": nested(left),
        "sd": [1.0] * count,
        "autocorrelation": [[1.0, 0.1, -0.2, 0.05]] * count,
        "bound": 0.23,
        "like_noise": [True] * count,
    }


def with_states(count: int, names: list[str] | None = None) -> Report:
    """A report with `count` states: the two species and delayed, rescaled copies of them."""
    report = lynx_hare_report()
    names = names or [f"sensor {k + 1}" for k in range(count)]
    units = ["mg/L", "°C", None, "V"]
    report["table"]["states"] = [
        {"name": name, "unit": units[k % 4], "scale": {"kind": "linear", "mean": 0.0, "sd": 1.0}}
        for k, name in enumerate(names)
    ]
    for part in (*report["series"], *report["model_path"]):
        for values in part.keys() & {"y", "low80", "high80", "low95", "high95"}:
            rows = np.array(part[values], dtype=float)
            shift = len(rows) // 60
            columns = [np.roll(rows[:, k % 2], shift * k) * 10.0 ** (k % 7 - 3) for k in range(count)]
            part[values] = nested(np.stack(columns, axis=1))
    for score in report["scores"]:
        score["rmse"] = {name: 0.3 * (k + 1) * (1 + score["nrmse"]) for k, name in enumerate(names)}
    report["residuals"] = residuals_of(np.array(report["series"][0]["t"]), count)
    report["equilibria"] = [{**report["equilibria"][0], "state": [1.5] * count}] if count > 1 else []
    if count < 2:
        report["phase"] = None
    else:
        report["phase"] |= {"x": names[0], "y": names[1]}
    return report


def with_series(count: int) -> Report:
    """A report with `count` series of different lengths, the last quarter of them held out."""
    report = lynx_hare_report()
    report["series"], report["model_path"] = [], []
    report["table"]["id"] = "region"
    rng = np.random.default_rng(1)
    for k in range(count):
        ts = np.sort(rng.uniform(0.0, 20.0 + 3 * k, 30 + 4 * k))
        fine = np.linspace(ts[0], ts[-1], 300)
        y0 = [20.0 + 3 * k, 5.0 + k]
        noisy = integrate(TRUE, y0, ts) * np.exp(0.1 * rng.standard_normal((len(ts), 2)))
        held_out = k >= count - max(1, count // 4)
        report["series"].append(
            {"id": f"region {k + 1}", "t": ts.tolist(), "y": nested(noisy), "split": None, "held_out": held_out}
        )
        report["model_path"].append(
            {"id": f"region {k + 1}", "part": "fit", "t": fine.tolist(), "y": nested(integrate(LEARNED, y0, fine))}
        )
    return report


def bare_report() -> Report:
    """As little as a fit can say: no held-out part, no scores, no bands, no phase portrait."""
    report = copy.deepcopy(with_states(1))
    report["series"][0]["split"] = None
    for path in report["model_path"]:
        path["part"] = "fit"
    report["scores"] = []
    report["won"] = False
    report["verdict"] = "Nothing was held out, so nothing is compared."
    report["residuals"], report["equilibria"] = None, []
    report["chosen"] = report["bands"] = report["horizons"] = report["reach"] = None
    report["stages"] = report["stages"][3:]
    report["table"]["notes"] = []
    report["solver"] = {
        "solver": "rk4",
        "step": 0.5,
        "evaluations": 720,
        "evaluations_backward": None,
        "accepted": 180,
        "rejected": 0,
        "reconstruction": None,
    }
    report["warnings"] = ["Interrupted after 310 iterations; `isocline fit --resume` goes on from there."]
    report["stopped"] = "interrupted"
    return report
