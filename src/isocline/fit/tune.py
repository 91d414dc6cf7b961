"""Tuning: a search for the settings whose networks best forecast the held-out blocks of the training part.

The held-out end takes no part in it. What is searched is what was seen to matter: width and depth of the network (32 × 2 is best on
some series and fails on others), its penalty, the length of the first windows; the weight of the gaps, which mattered little; and the
learning rate where records are so long that Adam trains.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isocline.fit.blocks import folds
from isocline.fit.choose import CLOSE, EACH, candidates, choose
from isocline.fit.config import Config
from isocline.fit.equation_rows import networks_of
from isocline.fit.errors import UserError
from isocline.fit.loop import SHORT
from isocline.fit.physics import equations_of
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales
from isocline.fit.windows import MAX_RECORD, Record

JOURNAL = "tuning.log"  # in the run's folder: every trial, as it ends
WIDTHS = ("8", "16", "32", "64", "16, 16", "32, 32")  # of the hidden layers
RANGES: dict[str, tuple[float, float]] = {
    "penalty": (1e-5, 10.0),
    "window": (3, 20),
    "continuity": (0.1, 10.0),
    "learning_rate": (1e-3, 1e-2),  # beyond, more starts fail
}
FEWEST = 2  # trials: the settings as they were given, and others


def searched(config: Config, series: Sequence[Series]) -> list[str]:
    """Names of the settings that a search changes: those that were not given, and mean something for this run.

    Args:
        config: as given; a setting that was named in it stays.
        series: the training part.

    Raises:
        UserError: without optuna, blocks to judge by, or a setting to search.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError("tune: needs a package that is not installed: pip install 'isocline[tune]'")
    if config.tune < FEWEST:
        raise UserError(f"tune={config.tune}: expected {FEWEST} trials or more")
    if not config.blocks:
        raise UserError("tune: trials are judged by held-out blocks; expected blocks above 0")
    if not folds(series, config.blocks):
        raise UserError("tune: the training part is too short for held-out blocks to judge trials by; fit without it")
    over = ["hidden", *RANGES]
    if config.equations:
        over.remove("hidden")  # the equations say how wide their networks are
        if not equations_of(config).remainders:
            over.remove("penalty")
    rows = min(sum(len(s.t) for s in series), MAX_RECORD)
    if EACH * config.blocks * rows <= SHORT:
        over.remove("learning_rate")  # Adam has no part in it
    over = [name for name in over if name not in config.model_fields_set]
    if not over:
        raise UserError(
            "tune: every setting it could search is given; leave out one of hidden, penalty, window, continuity"
        )
    return over


def tune(
    config: Config,
    over: Sequence[str],
    series: Sequence[Series],
    scales: Scales,
    folder: Path,
    notify: Callable[[str, Any], None] = lambda what, value: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Searches; goes on where an earlier search in the folder was broken off, to the same end.

    The first trial has the settings as they are, with all their penalties; the others a penalty each. The given settings stay
    where no trial is better by more than 3 %.

    Args:
        config: of the run; `config.tune` trials are made.
        over: as `searched` gave it.
        series: the training part, in the table's units; nothing else is looked at.
        scales: of the run.
        folder: of the run.
        notify: called with ("trial", dict) after each.
        stop: asked before every step of a training.

    Returns:
        "trials" (how many), "over" (names), "settings" (those to change; none where the given ones stay), "given" and "best" (root
        mean square errors on the blocks, scaled units), "seconds". None where it was stopped.

    Source:
        Bergstra, Bardenet, Bengio & Kégl (2011), NeurIPS 24 (tree-structured Parzen estimator), as optuna has it.
    """
    import optuna  # pyrefly: ignore[missing-import]
    from optuna.storages import JournalStorage  # pyrefly: ignore[missing-import]
    from optuna.storages.journal import JournalFileBackend  # pyrefly: ignore[missing-import]
    from optuna.trial import TrialState  # pyrefly: ignore[missing-import]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    study = optuna.create_study(study_name="tuning", storage=storage, load_if_exists=True)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # broken off: tried again, from its beginning
        study.tell(trial.number, state=TrialState.FAIL)

    def done() -> list[Any]:
        return study.get_trials(states=(TrialState.COMPLETE,))

    spaces = _distributions(over)
    while (k := len(done())) < config.tune:
        # A sampler of its own for every trial: a search that was broken off draws what the unbroken one drew.
        study.sampler = optuna.samplers.TPESampler(seed=config.seed + k, n_startup_trials=max(3, config.tune // 3))
        trial = study.ask(spaces) if k else None
        settings = {} if trial is None else _settings(trial.params)
        began = time.monotonic()
        found = _judged(config.model_copy(update=settings), series, scales, stop)
        if found is None:
            if trial is not None:
                study.tell(trial, state=TrialState.FAIL)
            return None
        error, penalty = found
        about = {"settings": settings, "seconds": time.monotonic() - began}
        if trial is None:  # as the search would have asked for it
            params = {
                n: _plain(min(penalty, RANGES["penalty"][1]) if n == "penalty" else getattr(config, n)) for n in over
            }
            made = optuna.trial.create_trial(params=params, distributions=spaces, value=error, user_attrs=about)
            study.add_trial(made)
        else:
            for name, value in about.items():
                trial.set_user_attr(name, value)
            study.tell(trial, error)
        best = min(t.value for t in done())
        notify("trial", {"trial": k + 1, "of": config.tune, "error": error, "best": best, "settings": settings})
    trials = done()
    given, best = trials[0].value, min(trials, key=lambda t: t.value)
    settings = best.user_attrs["settings"] if best.value * (1 + CLOSE) < given else {}
    return {
        "trials": len(trials),
        "over": list(over),
        "settings": settings,
        "given": given,
        "best": best.value if settings else given,
        "seconds": round(sum(t.user_attrs["seconds"] for t in trials), 2),
    }


def tuned(config: Config, found: dict[str, Any]) -> Config:
    """The settings of a run after its search."""
    return Config.make(**{**config.model_dump(), **found["settings"]})


def _distributions(over: Sequence[str]) -> dict[str, Any]:
    """What optuna draws from."""
    from optuna.distributions import (  # pyrefly: ignore[missing-import]
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    def of(name: str) -> Any:
        if name == "hidden":
            return CategoricalDistribution(WIDTHS)
        low, high = RANGES[name]
        return (IntDistribution if name == "window" else FloatDistribution)(low, high, log=True)

    return {name: of(name) for name in over}


def _settings(params: dict[str, Any]) -> dict[str, Any]:
    """Of `Config`, from what optuna drew."""
    settings = dict(params)
    if "hidden" in params:
        settings["hidden"] = tuple(int(n) for n in params["hidden"].split(","))
    if "penalty" in params:
        settings["penalty"] = (params["penalty"],)
    return settings


def _plain(value: Any) -> Any:
    """As optuna draws it: widths as a word."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def _judged(
    config: Config, series: Sequence[Series], scales: Scales, stop: Callable[[], bool]
) -> tuple[float, float] | None:
    """Trains networks on the record without each of its blocks: the error on the blocks, and the penalty that is best there.

    None where it was stopped.
    """
    period = config.season if isinstance(config.season, float) else None
    networks = networks_of(config, scales, Record.of(series, scales, config.window), period)
    parts = folds(series, config.blocks)
    trainer = candidates(config, parts, scales, networks)
    while not trainer.done:
        if stop():
            return None
        trainer.advance()
    choice = choose(config, parts, scales, trainer)
    return choice.error, choice.penalty
