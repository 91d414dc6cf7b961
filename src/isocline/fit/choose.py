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
from isocline.fit.equation_rows import guessed
from isocline.fit.flow import flow_of_rows
from isocline.fit.forecast import forecast
from isocline.fit.group import ALONE, Group
from isocline.fit.loop import Trainer
from isocline.fit.networks import Networks
from isocline.fit.scale import Scales
from isocline.fit.windows import Record

EACH = 3  # networks for each penalty and fold: one on the data, the others on data with noise added
SHARE = 0.5  # of the steps of the final training: enough to tell penalties apart
LOST = (
    3.0  # standard deviations at which an error stops counting more: a path that runs away is lost, not infinitely bad
)
CLOSE = 0.03  # relative difference of errors that does not matter: the larger penalty is then the better choice


@dataclass
class Choice:
    """What the held-out blocks say.

    Attributes:
        penalty: the chosen one.
        errors: by penalty, as configured: root mean square error on the blocks, in scaled units.
        noise: (d,) of an observation, scaled; the perturbation of the final members.
        ratios: (n,) |error| / √(spread² + noise²) of the chosen penalty, on all points of all blocks.
    """

    penalty: float
    errors: list[float]
    noise: list[float]
    ratios: np.ndarray

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {**vars(self), "ratios": torch.tensor(self.ratios)}

    @staticmethod
    def of_state(state: dict[str, Any]) -> Choice:
        """From a checkpoint."""
        return Choice(**{**state, "ratios": state["ratios"].numpy()})


def candidates(
    config: Config, folds: Sequence[Fold], scales: Scales, networks: Networks, group: Group = ALONE
) -> Trainer:
    """A training of `EACH` networks for every penalty and fold, ordered by network, penalty, fold."""
    records = [guessed(Record.of(f.taught, scales, config.window), networks) for f in folds]
    members = [r for _ in config.penalty for r in records]
    noisy = [
        r.perturbed(r.noise(), 1000 * config.seed + 100 * j + k % len(records))
        for j in range(1, EACH)
        for k, r in enumerate(members)
    ]
    penalty = torch.tensor(config.penalty, dtype=torch.float64).repeat_interleave(len(records)).repeat(EACH)
    seeds = [config.seed * 1000 + j for j in range(EACH) for _ in members]
    batch = Batch([*members, *noisy])
    return Trainer(config, batch, penalty, seeds, lead=len(members), share=SHARE, networks=networks, group=group)


def choose(config: Config, folds: Sequence[Fold], scales: Scales, trainer: Trainer) -> Choice:
    """Forecasts every block with the networks that have not seen it.

    Args:
        trainer: as `candidates` made it, trained.
    """
    shape = (EACH, len(config.penalty), len(folds))
    theta = trainer.objective.network(trainer.theta).view(*shape, -1)
    noise = trainer.objective.noise(trainer.theta).view(*shape, -1)[0].mean(1)  # (penalties, d)
    misfit = trainer.misfit.view(shape)
    errors, ratios = [], []
    for p in range(len(config.penalty)):
        parts = [
            _errors(trainer, theta[:, p, k], kept(misfit[:, p, k]).numpy(), fold, scales)
            for k, fold in enumerate(folds)
        ]
        error = np.concatenate([e for e, _ in parts])
        total = np.sqrt(np.concatenate([s for _, s in parts]) ** 2 + noise[p].numpy() ** 2)
        seen = ~np.isnan(error)
        errors.append(math.sqrt(float(np.square(np.minimum(error[seen], LOST)).mean())))
        ratios.append((error / total)[seen])
    near = [p for p, e in enumerate(errors) if e <= (1 + CLOSE) * min(errors)]
    chosen = max(near, key=lambda p: config.penalty[p])
    return Choice(config.penalty[chosen], errors, noise[chosen].tolist(), ratios[chosen])


def _errors(
    trainer: Trainer, theta: torch.Tensor, good: np.ndarray, fold: Fold, scales: Scales
) -> tuple[np.ndarray, np.ndarray]:
    """|error| of the mean path and the spread of all good networks (n, d) on a fold; NaN where nothing was observed."""
    theta = theta[torch.tensor(good)]
    series, count = len(fold.blocks), len(theta)
    rows = theta.repeat_interleave(series, 0)
    flow = flow_of_rows(trainer.networks, rows)
    paths = forecast(flow, fold.before * count, [b.t for b in fold.blocks] * count, scales)
    out = []
    for i, block in enumerate(fold.blocks):
        own = np.stack(paths[i::series])
        own = np.where(np.isfinite(own), own, np.inf)
        with np.errstate(invalid="ignore"):
            error = np.abs(own.mean(0) - scales.scaled(block.y))
        out.append((np.where(np.isnan(block.compared), np.nan, np.nan_to_num(error, nan=np.inf)), spread_of(own)))
    return np.concatenate([e for e, _ in out]), np.concatenate([s for _, s in out])
