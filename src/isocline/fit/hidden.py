"""First guesses of states that were never observed: the path of a model that has them, through what was observed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from isocline.fit.flow import Flow, settle
from isocline.fit.smooth import smoothed
from isocline.fit.windows import Record

Rates = Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]  # states (R, d), what drives them -> slopes (R, d)


def followed(record: Record, flow: Flow, rates: Rates) -> Record:
    """A record whose hidden states have the values and slopes of a model's path through what was observed.

    Such a guess is smooth, and there is a field that has it: what a network learns from slopes is that field and what it
    leaves. A guess made of slopes of noisy data would be noise. Where the model cannot follow, the record stays as it is.
    """
    windows = record.windows(record.levels - 1)  # one a segment
    states = settle(flow, windows.ts, windows.y, record.starts()[windows.start], windows.drive)
    paths = flow(states, windows.ts, windows.drive).numpy()
    whole = [paths[: len(t), i] for i, t in enumerate(record.t)]
    if not all(np.isfinite(x).all() for x in whole):
        return record
    return _filled(record, np.concatenate(whole), rates(np.concatenate(whole), record.given()))


def standardized(record: Record) -> Record:
    """The same with hidden states of mean 0 and standard deviation 1: what a network sees, as of every other state."""
    values, slopes = (np.concatenate(part) for part in zip(*record.smooth, strict=True))
    spread = np.maximum(values.std(0), 1e-9)
    return _filled(record, (values - values.mean(0)) / spread, slopes / spread)


def unexplained(record: Record) -> Record:
    """Hidden states made of slopes that no linear field of the known states and the inputs explains.

    The first is their main direction over all measured states, the next the same with the first among the known. In a
    linear system these are combinations of its states: where the search for a linear ODE begins.
    """
    given = record.given()
    known = [int(k) for k in np.flatnonzero(~record.hidden)]
    bounds = np.cumsum([len(t) for t in record.t])[:-1]
    for k in np.flatnonzero(record.hidden):
        values, slopes = (np.concatenate(part) for part in zip(*record.smooth, strict=True))
        driven = [given["u"]] if "u" in given else []
        design = torch.tensor(np.concatenate([values[:, known], *driven, np.ones((len(values), 1))], 1))
        target = torch.tensor(slopes[:, known])
        left = target - design @ torch.linalg.lstsq(design, target, driver="gelsd").solution
        guess = (left @ torch.linalg.eigh(left.mT @ left)[1][:, -1]).numpy()
        spread = guess.std()
        guess = guess / spread if spread > 1e-9 else np.zeros_like(guess)
        again = [smoothed(t, part[:, None]) for t, part in zip(record.t, np.split(guess, bounds), strict=True)]
        values[:, k], slopes[:, k] = (np.concatenate(part)[:, 0] for part in zip(*again, strict=True))
        record = _filled(record, values, slopes)
        known.append(int(k))
    return record


def _filled(record: Record, values: np.ndarray, slopes: np.ndarray) -> Record:
    """With these hidden states (R, d) and their slopes."""
    bounds = np.cumsum([len(t) for t in record.t])[:-1]
    new = zip(np.split(values, bounds), np.split(slopes, bounds), strict=True)
    smooth = [
        tuple(np.where(record.hidden, fresh, old) for fresh, old in zip(pair, before, strict=True))
        for pair, before in zip(new, record.smooth, strict=True)
    ]
    return replace(record, smooth=[(value, slope) for value, slope in smooth])
