"""Who wins on the held-out part, in plain words that may say no."""

from __future__ import annotations

import math
from typing import Any

from isocline.fit.rivals import AUTO, LAST, SEASON

CLOSE = 0.03  # errors that differ by less than this share count as equal, however many observations there are


def verdict(scores: list[dict[str, Any]], where: str = "on the held-out part") -> tuple[str, bool]:
    """Who wins on what was held out, in one plain sentence that may say no; and whether the model does, whose scores come first.

    The relative standard error of a root mean square of n independent errors is 1/√(2n), of the ratio of two 1/√n (at
    least: errors of neighbouring times are alike): a difference below that is no difference. Between models that cannot be
    told apart the one with fewer fitted numbers is the simpler.
    """
    if not scores:
        return (
            "Nothing was held out, so nothing is known of how well the model predicts: hold out a tail or a series to learn it.",
            False,
        )
    ours, (own, best, rival) = scores[0], _errors(scores)
    name, count = ours["model"], ours["observations"]
    if own == math.inf:
        return (
            f"The {name}'s forecast does not stay finite {where}: {the(rival)} is the better model here "
            f"(error {best:.3g}).",
            False,
        )
    if best == math.inf:
        return f"The {name} wins {where}: its error ({own:.3g}) is finite, unlike the baselines'.", True
    if _alike(own, best, count):
        return (
            f"{where[0].upper()}{where[1:]} the {name} (error {own:.3g}) and {the(rival)} ({best:.3g}) cannot be told apart "
            f"by {count} observations: {_simpler(ours, rival)}.",
            False,
        )
    if own < best:
        return (
            f"The {name} wins {where}: its error ({own:.3g}) is {1 - own / best:.0%} lower than that "
            f"of {the(rival)} ({best:.3g}).",
            True,
        )
    simpler = ours["parameters"] > rival["parameters"]
    advice = (
        f"Prefer the simpler model ({_numbers(rival)} against {ours['parameters']}), or measure more."
        if simpler
        else f"The {name} is the simpler one ({_numbers(ours)} against {rival['parameters']}), but something is missing in it, "
        "or more is to be measured."
    )
    return (
        f"The {name} does not beat {the(rival)} {where}: its error is {own:.3g} against {best:.3g}. {advice}",
        False,
    )


def looks_back(scores: list[dict[str, Any]]) -> bool:
    """Whether what is better than the model, whose scores come first, is one that knows earlier values than the present.

    Example:
        >>> rows = [("neural ODE", 0.9), ("persistence", 0.8), ("autoregression", 0.5)]
        >>> looks_back([{"model": name, "nrmse": error, "observations": 30} for name, error in rows])
        True
    """
    if not scores:
        return False
    own, best, rival = _errors(scores)
    worse = best < own < math.inf and not _alike(own, best, scores[0]["observations"])
    return worse and rival["model"] in (AUTO, SEASON)


def _errors(scores: list[dict[str, Any]]) -> tuple[float, float, dict[str, Any]]:
    """That of the model, the lowest of the others, and whose that is."""
    own, *others = (math.inf if s["nrmse"] is None else s["nrmse"] for s in scores)
    best = min(others)
    return own, best, scores[1 + others.index(best)]


def _alike(own: float, best: float, count: int) -> bool:
    """Whether so many observations cannot tell two errors apart; both may be 0."""
    return abs(own - best) <= max(CLOSE, 1 / math.sqrt(count)) * best


def _simpler(ours: dict[str, Any], rival: dict[str, Any]) -> str:
    """Which of two models that are equally good to prefer."""
    own, other = ours["parameters"], rival["parameters"]
    if own == other:
        return f"both have {_numbers(ours)}, so prefer the one that explains more"
    if own > other:
        return f"prefer the simpler model, {the(rival)} ({_numbers(rival)} against {own})"
    return f"prefer the simpler model, which is the {ours['model']} ({_numbers(ours)} against {other})"


def _numbers(row: dict[str, Any]) -> str:
    count = row["parameters"]
    return "no fitted number" if count == 0 else f"{count} fitted number{'s' * (count != 1)}"


def reach(horizons: dict[str, Any] | None, name: str, unit: str) -> str | None:
    """How far ahead the model is better than the last value, in a sentence; None where that was not looked at.

    Args:
        horizons: of `judge`.
        name: of the model.
        unit: of time, for the reader; may be empty.
    """
    if horizons is None:
        return None
    rows, skills = horizons["rows"], horizons["skill"][name]
    better = [s is not None and s > 0 for s in skills]

    def far(*which: int) -> str:
        numbers = [str(rows[k]) for k in which]
        listed = " and ".join(filter(None, [", ".join(numbers[:-1]), numbers[-1]]))
        time = f" ({horizons['time'][which[0]]:.3g} {unit})" if unit and len(which) == 1 else ""
        return f"{listed} row{'s' * (numbers != ['1'])} ahead{time}"

    end, held = len(rows) - 1, "better than the last value, held"
    if all(better):
        gain = f"by {_percent(skills[0])} at first and {_percent(skills[-1])} at the end"
        if len(rows) == 1:
            return f"{far(0)[0].upper()}{far(0)[1:]} its forecasts are {held}: by {_percent(skills[0])}."
        return f"From one row to {far(end)} its forecasts are {held}: {gain}."
    if not any(better):
        return f"At no horizon up to {far(end)} are its forecasts {held}."
    where = [k for k, yes in enumerate(better) if yes]
    if where == list(range(len(where))):
        return f"Its forecasts are {held}, up to {far(where[-1])}, and not beyond."
    if where == list(range(where[0], len(rows))):
        return f"Its forecasts are {held}, from {far(where[0])} on; nearer, the last value is the better guess."
    return f"Its forecasts are {held}, {far(*where)}; elsewhere they are not."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def the(row: dict[str, Any]) -> str:
    if row["model"] == LAST:
        return "persistence (the last observed value)"
    if row["model"] == SEASON:
        return f"the value {row['period']} rows ago (seasonal naive)" if "period" in row else "the seasonal naive"
    return f"the {row['model']}"
