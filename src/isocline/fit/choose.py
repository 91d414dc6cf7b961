"""Choosing by held-out blocks: which penalty forecasts them best, and how far the bands must reach to cover them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isocline.fit.bands import kept, spread_of
from isocline.fit.batch import Batch
from isocline.fit.blocks import Fold
from isocline.fit.config import Config
from isocline.fit.equation_rows import EquationRows, guessed
from isocline.fit.flow import flow_of_rows
from isocline.fit.forecast import forecast
from isocline.fit.group import ALONE, Group
from isocline.fit.loop import POLISHED, Trainer
from isocline.fit.networks import Networks
from isocline.fit.scale import Scales
from isocline.fit.windows import MAX_RECORD, Record

EACH = 3  # networks for each penalty and fold: one on the data, the others on data with noise added
# Shares of the spline's penalty that trainings begin with: what turns within a row or two passes for noise, and from what is left
# of a relaxation oscillation a training hardly finds back.
EASES = (1.0, 1e-2, 1e-4)
LEAST = 2000  # rows that each of them sees, of records that have so many
ROOM = 0.8  # of what L-BFGS polishes that they see together: whole segments are taken, and may be longer than others
SHARE = 0.5  # of the steps of the final training: enough to tell penalties apart
LOST = (
    3.0  # standard deviations at which an error stops counting more: a path that runs away is lost, not infinitely bad
)
CLOSE = 0.03  # relative difference of errors that does not matter: the larger penalty is then the better choice
BARE = math.inf  # the penalty of laws without their networks


@dataclass
class Choice:
    """What the held-out blocks say.

    Attributes:
        penalty: the chosen one; inf: the equations without their networks.
        penalties: those there were.
        errors: by penalty: root mean square error on the blocks, in scaled units.
        season: the period of a clock that the networks have, in the table's unit of time; None without.
        noise: (d,) of an observation, scaled; that of the ratios and of the bands, and the perturbation of the final members.
        ratios: (n, d) |error| / √(spread² + noise²) of the chosen penalty, on all rows of all blocks; NaN where nothing was
            observed.
        unseen: of every series that was left out as a whole (n, d) the same, with how far from all others it begins; None
            before they were.
    """

    penalty: float
    penalties: list[float]
    errors: list[float]
    noise: list[float]
    ratios: np.ndarray
    season: float | None = None
    unseen: list[np.ndarray] | None = None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        unseen = self.unseen and [torch.tensor(r) for r in self.unseen]
        return {**vars(self), "ratios": torch.tensor(self.ratios), "unseen": unseen}

    @staticmethod
    def of_state(state: dict[str, Any]) -> Choice:
        """From a checkpoint."""
        unseen = state["unseen"] and [r.numpy() for r in state["unseen"]]
        kept = {k: v for k, v in state.items() if k not in ("ratios", "unseen")}
        return Choice(**kept, ratios=state["ratios"].numpy(), unseen=unseen)

    @property
    def error(self) -> float:
        """Of the chosen penalty."""
        return self.errors[self.penalties.index(self.penalty)]


def penalties_of(config: Config, networks: Networks) -> tuple[float, ...]:
    """Those to choose from: of laws beside networks, where there is a choice, also the laws without the networks."""
    bare = isinstance(networks, EquationRows) and networks.count and networks.weights
    return (*config.penalty, BARE) if bare and len(config.penalty) > 1 else config.penalty


def candidates(
    config: Config,
    folds: Sequence[Fold],
    scales: Scales,
    networks: Networks,
    group: Group = ALONE,
    share: float = SHARE,
) -> Trainer:
    """A training of `EACH` networks for every penalty and fold, ordered by network, penalty, fold.

    Of long records each sees so much that L-BFGS can polish all of them: what the blocks judge must be trained as well as what
    then becomes the model.
    """
    penalties = penalties_of(config, networks)
    most = min(MAX_RECORD, max(LEAST, int(ROOM * POLISHED / (EACH * len(penalties) * len(folds)))))
    plain = [Record.of(f.taught, scales, config.window, most) for f in folds]
    records = [[guessed(r.eased(share), networks) for r in plain] for share in EASES]
    members = [r for _ in penalties for r in records[0]]
    noisy = [
        r.perturbed(r.followed(), 1000 * config.seed + 100 * j + k)
        for j in range(1, EACH)
        for _ in penalties
        for k, r in enumerate(records[j % len(EASES)])
    ]
    penalty = torch.tensor(penalties, dtype=torch.float64).repeat_interleave(len(folds)).repeat(EACH)
    seeds = [config.seed * 1000 + j for j in range(EACH) for _ in members]
    batch = Batch([*members, *noisy])
    return Trainer(config, batch, penalty, seeds, lead=len(members), share=share, networks=networks, group=group)


def choose(config: Config, folds: Sequence[Fold], scales: Scales, trainer: Trainer) -> Choice:
    """Forecasts every block with the networks that have not seen it.

    The largest penalty among those about as good as the best is chosen. Laws do without their networks unless these forecast
    the blocks better by more than the standard error of the difference: on few blocks, which all lie within one record, a
    network that has learned what is particular to it is often ahead by luck.

    Args:
        trainer: as `candidates` made it, trained.
    """
    penalties = penalties_of(config, trainer.networks)
    shape = (EACH, len(penalties), len(folds))
    best = trainer.misfit.view(shape).nan_to_num(torch.inf).argmin(0)  # (penalties, folds)
    places = torch.arange(shape[1])[:, None], torch.arange(shape[2])
    noise = trainer.objective.noise(trainer.theta).view(*shape, -1)[best, *places].mean(1)  # (penalties, d)
    errors, squares, ratios, count = [], [], [], len(folds)
    for p in range(len(penalties)):
        parts = [
            errors_of(trainer, p * count + k, len(penalties) * count, fold, scales) for k, fold in enumerate(folds)
        ]
        squares.append([_mean_square(error) for error, _ in parts])
        error, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
        error = np.minimum(error, LOST)
        errors.append(root_mean_square(error))
        ratios.append(error / np.sqrt(spread**2 + noise[p].numpy() ** 2))
    near = [p for p, e in enumerate(errors) if e <= (1 + CLOSE) * min(errors)]
    chosen = max(near, key=lambda p: penalties[p])
    if BARE in penalties and not beyond_chance(squares[penalties.index(BARE)], squares[chosen]):
        chosen = penalties.index(BARE)
    period = None if trainer.networks.season is None else trainer.networks.season.period
    return Choice(penalties[chosen], list(penalties), errors, noise[chosen].tolist(), ratios[chosen], period)


def root_mean_square(error: np.ndarray) -> float:
    """Of what was observed, errors that are lost counting as `LOST`."""
    return math.sqrt(_mean_square(error))


def _mean_square(error: np.ndarray) -> float:
    """Of what was observed; 0 where nothing was. An error that is lost counts no more than `LOST`."""
    return float(np.nansum(np.square(np.minimum(error, LOST)))) / max(1, int((~np.isnan(error)).sum()))


def beyond_chance(simple: Sequence[float], rich: Sequence[float]) -> bool:
    """Whether errors of a richer model are lower by more than the standard error of the difference, block by block.

    Args:
        simple, rich: mean squares of both models on the same blocks.

    Source:
        The one-standard-error rule of Breiman, Friedman, Olshen & Stone (1984), Classification and Regression Trees, section
        3.4.3, on paired differences.

    Example:
        >>> beyond_chance([1.0, 1.2, 1.1], [0.8, 0.9, 0.9]), beyond_chance([1.0, 1.2, 1.1], [0.2, 1.9, 1.0])
        (True, False)
    """
    gain = np.subtract(simple, rich)
    error = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return bool(gain.mean() > error)


def errors_of(trainer: Trainer, place: int, places: int, fold: Fold, scales: Scales) -> tuple[np.ndarray, np.ndarray]:
    """|error| of the mean path and `spread_of` (n, d) on a fold; NaN where nothing was observed, inf where the path is lost.

    Args:
        trainer: of `EACH` networks for so many places, ordered by network and place; of one the good ones count.
        place: of the networks that have not seen the fold's blocks.
    """
    every = trainer.objective.network(trainer.theta).view(EACH, places, -1)
    theta = every[:, place][kept(trainer.misfit.view(EACH, places)[:, place])]
    series, count = len(fold.blocks), len(theta)
    rows = theta.repeat_interleave(series, 0)
    flow, learned = flow_of_rows(trainer.networks, rows), scales.scaled(np.concatenate([s.y for s in fold.taught]))
    paths = forecast(flow, fold.before * count, [b.t for b in fold.blocks] * count, scales)
    out = []
    for i, block in enumerate(fold.blocks):
        own = np.stack(paths[i::series])
        own = np.where(np.isfinite(own), own, np.inf)
        with np.errstate(invalid="ignore"):
            error = np.abs(own.mean(0) - scales.scaled(block.y))
        error = np.where(np.isnan(block.compared), np.nan, np.where(np.isfinite(error), error, np.inf))
        lost = ~(error < LOST)  # far outside, of course: how far is no excuse
        out.append((error, np.where(lost, spread_of(own), spread_of(own, learned))))
    errors, spreads = (np.concatenate(part) for part in zip(*out, strict=True))
    return errors, spreads
