"""The recipe: choose by held-out blocks, then fit everything; a checkpoint every few seconds, the same numbers after a break.

Where the blocks show that a record repeats itself, networks with a clock are tried on them, too. Before everything is
fitted some series are left out as wholes, for bands of series that nobody has learned from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isocline.fit.bands import Bands, kept
from isocline.fit.batch import Batch
from isocline.fit.blocks import folds, without_series
from isocline.fit.choose import EASES, Choice, candidates, choose
from isocline.fit.config import Config
from isocline.fit.ensemble import Ensemble
from isocline.fit.equation_rows import guessed, networks_of
from isocline.fit.errors import UserError
from isocline.fit.files import place
from isocline.fit.group import ALONE, Group
from isocline.fit.loop import Trainer
from isocline.fit.reach import FreeRuns, refuge
from isocline.fit.reading.table import Series
from isocline.fit.repeats import helps, period_to_try
from isocline.fit.scale import Scales
from isocline.fit.unseen import learned_rows, newcomers, unseen_ratios
from isocline.fit.windows import Record

CHECKPOINT = "checkpoint.pt"
SAVE_EVERY = 2.0  # seconds between checkpoints
MISFIT = 3.0  # times the noise that the smoothing spline leaves, above which a fit is not good
FEWEST = 3  # members without which there are no bands
ALIKE = 1.1  # times the misfit (root mean square) of the best start, up to which another one fits about as well


class Recipe:
    """Trains candidates on the record without its blocks, chooses, then trains starts and members on all of it.

    Args:
        config: of the run.
        series: what is trained on, in the table's units.
        scales: of states and time.
        folder: where the checkpoint goes; None keeps nothing.
        group: processes that train together; the first of them keeps the checkpoint.
        seconds: in a unit of the table's time; None where that is not known.

    Attributes:
        records: of all training rows, in scaled units, by what is taken of the smoothing spline's penalty; `record` the first.
        trainer: the training that is under way.
        periods: of the clocks whose networks the blocks are to judge, in the table's unit; None without a clock.
        choices: what the blocks said of those, so far.
        choice: the better of them; None before, and where there are none.
        stages: of the training of candidates, and without some of the series, once they are over.
        holds: (M,) which networks stay within reach of the data when they run freely, once the training is over.
        refuge: what takes the place of the networks, a row of theirs and its name, where none of the starts does.
    """

    def __init__(
        self,
        config: Config,
        series: Sequence[Series],
        scales: Scales,
        folder: Path | None = None,
        group: Group = ALONE,
        seconds: float | None = None,
    ) -> None:
        self.config, self.scales, self.folder, self.group, self.seconds = config, scales, folder, group, seconds
        plain = Record.of(series, scales, config.window)
        self.folds = folds(series, config.blocks) if config.blocks else []
        self.without = without_series(series) if self.folds and config.members else []
        self.periods = [config.season if isinstance(config.season, float) else None]
        self.choices = list[Choice]()
        self.networks = networks_of(config, scales, plain, self.periods[0])
        self.records = [guessed(plain.eased(share), self.networks) for share in EASES]
        self.record = self.records[0]
        self.choice: Choice | None = None
        self.stages: list[dict[str, Any]] = []
        self.series = series
        self.holds: Tensor | None = None
        self.refuge: tuple[Tensor, str] | None = None
        self.before = 0.0  # seconds of earlier sessions
        self.trainer = self._next()

    @property
    def choosing(self) -> bool:
        """Whether networks without a part of the record are trained: where a penalty is to be chosen, or bands calibrated."""
        if self.choice is None:
            return bool(self.folds) and (len(self.config.penalty) > 1 or self.config.members > 0)
        return bool(self.without) and self.choice.unseen is None

    def _next(self) -> Trainer:
        """What is to be trained, after what is known."""
        period = self.periods[len(self.choices)] if self.choice is None else self.choice.season
        if period != (self.networks.season and self.networks.season.period):
            self.networks = networks_of(self.config, self.scales, self.record, period)
        if not self.choosing:
            return self._final()
        if self.choice is None:
            return candidates(self.config, self.folds, self.scales, self.networks, self.group)
        return newcomers(self.config, self.choice, self.without, self.scales, self.networks, self.group)

    def _final(self) -> Trainer:
        """Starts on the data as they are, members on the data with noise added, all in turn from splines of several penalties."""
        config, choice = self.config, self.choice
        noise = torch.tensor(choice.noise, dtype=torch.float64) if choice else self.record.noise()
        count = config.starts + config.members
        records = [self.records[m % len(self.records)] for m in range(count)]
        noisy = [r.perturbed(noise, 1_000_000 + 1000 * config.seed + m) for m, r in enumerate(records[config.starts :])]
        penalty = torch.full((count,), choice.penalty if choice else config.penalty[0], dtype=torch.float64)
        seeds = [config.seed * 1000 + m for m in range(count)]
        batch = Batch([*records[: config.starts], *noisy])
        return Trainer(config, batch, penalty, seeds, lead=config.starts, networks=self.networks, group=self.group)

    # ---- one run --------------------------------------------------------------------------------------------------
    def run(self, tell: Callable[[Recipe], None], stop: Callable[[], bool] = lambda: False) -> str:
        """Goes on to the end; returns how it ended: "done" or "interrupted".

        Args:
            tell: called after every step.
            stop: asked before every step.
        """
        began = saved = time.monotonic()
        reason = "done"
        while self.choosing or not self.trainer.done:
            if self.trainer.done:
                self.stages = self.told()
                self.periods, self.choices, self.choice = self.group.told(self._judged)
                self.trainer = self._next()
                continue
            if self.group.any(stop()):
                reason = "interrupted"
                break
            self.trainer.advance()
            now = time.monotonic()
            self.trainer.history.seconds.append(self.before + now - began)
            tell(self)
            if now - saved > SAVE_EVERY:
                self.save(self.before + now - began)
                saved = now
        self.before += time.monotonic() - began
        self.save(self.before)
        if not self.choosing and self.trainer.done:
            self._look_ahead()
        if self.choosing:  # nothing of the candidates is a model of the record: what a second can give
            if self.choice is not None:
                self.stages, self.without = self.told(), []
            self.trainer = self._final()
            while not self.trainer.done and self.trainer.now.kind == "matching":
                self.trainer.advance()
                self.trainer.history.seconds.append(self.before)
        return reason

    def _look_ahead(self) -> None:
        """Starts that run away lead no longer; where all do, something simpler takes their place.

        Of those that fit about as well as the best the one that runs on as most networks do is the model: the misfit does not say
        which of them is right about what comes, but one that is alone with it mostly is not.
        """
        trainer, config = self.trainer, self.config
        networks = trainer.objective.network(trainer.theta).detach()
        runs = FreeRuns(trainer.networks, networks, self.series, self.scales)
        self.holds = runs.holds
        starts, trainer.chosen = self.holds[: config.starts], None
        if bool(starts.any()):
            trainer.loss[: config.starts] = torch.where(starts, trainer.loss[: config.starts], torch.inf)
            if not config.equations:
                leads = torch.arange(len(self.holds)) < config.starts
                alike = self.holds & leads & (trainer.misfit <= ALIKE**2 * trainer.misfit[trainer.best])
                good = self.holds & kept(trainer.misfit) & ~leads
                trainer.chosen = runs.typical(alike, alike | good)
        elif not config.equations and not self.record.hidden.any():
            self.refuge = refuge(trainer.networks, config, self.record, self.series, self.scales)

    def told(self) -> list[dict[str, Any]]:
        """All stages so far, with the phase they belong to."""
        return self.stages + [{"phase": self.phase, **s} for s in self.trainer.told()]

    def _judged(self) -> tuple[list[float | None], list[Choice], Choice | None]:
        """`periods`, `choices` and `choice` with what the networks say that were just trained."""
        if self.choice is not None:
            unseen = unseen_ratios(self.choice, self.without, self.scales, self.trainer)
            return self.periods, self.choices, replace(self.choice, unseen=unseen)
        said = choose(self.config, self.folds, self.scales, self.trainer)
        if not self.choices and self.config.season == "auto" and not self.config.equations:
            period = period_to_try(self.series, self.folds, self.scales, said.error, self.seconds)
            if period is not None:
                return [*self.periods, period], [said], None
        first = (self.choices or [said])[0]
        better = said.season and helps(said.season, said.error, first.error, self.seconds)
        return self.periods, [*self.choices, said], said if better else first

    @property
    def phase(self) -> str:
        """What the present step is for: "choosing" a penalty by blocks, "calibrating" bands by them, where there is but one,
        "trying a season" on them, "leaving out" whole series, or "fitting"."""
        if not self.choosing:
            return "fitting"
        if self.choice is not None:
            return "leaving out"
        if self.choices:
            return "trying a season"
        return "choosing" if len(self.config.penalty) > 1 else "calibrating"

    def ensemble(self) -> Ensemble:
        """The start that was chosen as the model, the good members as its company."""
        trainer, config = self.trainer, self.config
        networks = trainer.objective.network(trainer.theta).detach()
        model = trainer.networks.module(networks[trainer.best] if self.refuge is None else self.refuge[0])
        good = networks[config.starts :][self._good()]
        layout, rows = trainer.networks.plain(good)
        if len(good) < FEWEST:
            return Ensemble(model, layout, rows[:0], None)
        learned = learned_rows(self.series, self.scales)
        if self.choice is None:
            left = trainer.objective.noise(trainer.theta).detach()[trainer.best]
            # Where few rows are followed closely less is left than there is noise; the members were fitted to this much.
            bands = Bands.of_few(torch.maximum(left, self.record.noise()).tolist(), len(good))
        else:  # with the noise of the ratios: what whole records leave is more than what the pieces between blocks do
            bands = Bands.calibrated(self.choice.ratios, self.choice.noise, self.choice.unseen or ())
        return Ensemble(model, layout, rows, bands, learned)

    def _good(self) -> Tensor:
        """Which members (bool) fit well, and stay within reach as the model does."""
        good = (
            kept(self.trainer.misfit[self.config.starts :]) if self.config.members else torch.zeros(0, dtype=torch.bool)
        )
        if self.refuge is not None:
            return torch.zeros_like(good)
        return good if self.holds is None else good & self.holds[self.config.starts :]

    def warnings(self) -> list[str]:
        """What the report should say of starts and members that did not end well."""
        trainer, config, record, out = self.trainer, self.config, self.record, list[str]()
        if len(record.t) < record.whole:
            out.append(
                f"trained on {len(record.t)} of {record.whole} stretches of the record ({record.rows} rows), spread evenly over "
                f"all of it"
            )
        if self.choice is not None and math.isinf(self.choice.penalty):
            out.append(
                "the networks in the equations are left out (they give 0): held-out blocks were not forecast better with them by "
                "more than chance; a single penalty in the configuration keeps them"
            )
        if not trainer.done:
            return out
        starts = trainer.misfit[: config.starts]
        bad = ~kept(starts)
        if bool(bad.any()):
            curve = torch.arange(config.starts) % len(self.records)  # as `_final` hands them out
            others = bool((curve[bad] != curve[starts.nan_to_num(torch.inf).argmin()]).all())
            why = ", all of them from other smoothings of the record than the best" if others else ""
            out.append(
                f"{int(bad.sum())} of {config.starts} starts ended in a much worse fit{why}; the model is one of the others"
            )
        what, noisier = ("fits", "fits to") if config.equations else ("networks", "networks fitted to")
        away = 0 if self.holds is None else int((~self.holds[: config.starts]).sum())
        left = "left the data by more than their range when they ran freely"
        if self.refuge is not None:
            out.append(f"all {config.starts} networks {left}: the model is {self.refuge[1]}, which does not")
        elif away == config.starts:
            out.append(f"all fits {left}: do not trust a forecast far beyond the record")
        elif away:
            out.append(f"{away} of {config.starts} {what} {left}; the model is one of the others")
        good = int(self._good().sum())
        if config.members > 0 and good < FEWEST:
            out.append(f"no bands: {good} of {config.members} {noisier} noisier data ended well, {FEWEST} are needed")
        noise, smooth = trainer.objective.noise(trainer.theta)[trainer.best], self.record.noise()
        if bool((noise > MISFIT * smooth).any()):
            out.append(
                f"the misfit of a state is more than {MISFIT:.0f} times what a smooth curve leaves: something moves it that "
                f"the other states do not tell (an input, a hidden state), or the model has not found the dynamics"
            )
        return out

    # ---- keeping --------------------------------------------------------------------------------------------------
    def save(self, seconds: float) -> None:
        """The whole state, written aside and moved into place; the same for any number of processes."""
        if self.folder is None or not self.group.leads:
            return
        whole = {
            "trainer": self.trainer.state(),
            "periods": self.periods,
            "choices": [choice.state() for choice in self.choices],
            "choice": self.choice and self.choice.state(),
            "stages": self.stages,
            "seconds": seconds,
        }
        place(self.folder / CHECKPOINT, lambda aside: torch.save(whole, aside))

    def load(self) -> None:
        """Goes on from the checkpoint of the folder, where there is one."""
        if self.folder is None or not self.group.told((self.folder / CHECKPOINT).exists):
            return
        if not (self.folder / CHECKPOINT).exists():
            raise UserError(
                f"{self.folder / CHECKPOINT}: the first of {self.group.size} processes has it, this one does not see it; expected "
                f"a folder that all processes share"
            )
        whole: dict[str, Any] = torch.load(self.folder / CHECKPOINT, weights_only=True)
        self.before, self.stages = whole["seconds"], whole["stages"]
        self.periods, self.choices = whole["periods"], [Choice.of_state(state) for state in whole["choices"]]
        if whole["choice"]:
            self.choice = Choice.of_state(whole["choice"])
        if self.choices:
            self.trainer = self._next()
        self.trainer.load(whole["trainer"])
