"""Training of a batch of members, stage by stage: slopes, windows that double, the whole record."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from isocline.fit.batch import Batch
from isocline.fit.config import Config
from isocline.fit.group import ALONE, Group
from isocline.fit.networks import Networks
from isocline.fit.objective import Objective
from isocline.fit.rows import LBFGS, Adam
from isocline.fit.warm_start import Slopes
from isocline.fit.windows import Windows

MATCHING_RATE = 1e-2  # of Adam on slopes, where it is safe; on windows it makes more starts fail
SHORT = 60_000  # observations of all members up to which L-BFGS sees all of them each time; beyond, Adam sees a choice
# Up to which L-BFGS polishes: it goes on where Adam's choices keep it from going. More than every default fit has, of 12 networks.
POLISHED = 300_000
LONGER = 5  # steps of Adam for one of L-BFGS
PARTS = 4  # of the polish: before each, and after the last, the solver's steps are judged
EXTRA = 3  # such parts at most that are added where steps had to be halved after the last
LEAST_STEP = 0.02  # of the solver, scaled time
OFF = 0.1  # relative change of the misfit with halved steps that is too much


@dataclass(frozen=True)
class Stage:
    """A part of the training: its kind ("matching", "shooting" or "polish"), its steps and the level of its windows."""

    kind: str
    steps: int
    level: int = 0
    adam: bool = True

    def title(self, window: int) -> str:
        """In words; `window` observations in the shortest window."""
        if self.kind == "matching":
            return "gradient matching"
        return f"windows of {window * 2**self.level}" if self.kind == "shooting" else "whole record"


@dataclass
class History:
    """By step: the number of the stage, the misfit (mean square, scaled units) of the best unperturbed member, seconds."""

    stage: list[int] = field(default_factory=list)
    misfit: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Trainer:
    """Trains all members of a batch together.

    Args:
        config: of the run.
        batch: their records.
        penalty: (M,) of the squared weights of each; inf: without them.
        seeds: of their first weights.
        lead: how many of the first members are the unperturbed ones, of which the best leads.
        share: of the steps of each stage.
        networks: their layout; None: that of `Networks`.
        group: processes that train together.
    """

    def __init__(
        self,
        config: Config,
        batch: Batch,
        penalty: Tensor,
        seeds: list[int],
        lead: int,
        share: float = 1.0,
        networks: Networks | None = None,
        group: Group = ALONE,
    ) -> None:
        self.config, self.batch, self.lead, self.group = config, batch, lead, group
        self.networks = Networks(batch.dim, config.hidden) if networks is None else networks
        self.objective = Objective(self.networks, batch, penalty, config.continuity, config.noise == "learned", group)
        self.stages = self._plan(share)
        self.theta = self.objective.begin(self.networks.begin(seeds))
        self.stage = self.step = self.extra = 0
        self.chosen: int | None = None
        self.loss = torch.full((len(seeds),), torch.inf, dtype=torch.float64)
        self.misfit = self.loss.clone()
        self.history = History()
        self.optimizer: Adam | LBFGS | None = None
        self._windows: tuple[int, Windows] | None = None

    def _plan(self, share: float) -> list[Stage]:
        config, levels = self.config, self.batch.levels
        adam, adam_polishes = self.batch.rows > SHORT, self.batch.rows > POLISHED
        shooting = math.ceil(share * config.iterations) * (LONGER if adam else 1)
        part = math.ceil(share * config.polish / PARTS) * (LONGER if adam_polishes else 1)
        stages = [Stage("matching", config.matching)]
        stages += [Stage("shooting", shooting, level, adam) for level in range(levels)]
        stages += [Stage("polish", part, levels - 1, adam_polishes)] * PARTS
        return [s for s in stages if s.steps]

    @cached_property
    def slopes(self) -> Slopes:
        """What gradient matching makes small: its penalty is in the units of the slopes, not of the noise."""
        penalty = self.objective.penalty * self.objective.noise0.square().mean(1)
        return Slopes(self.networks, self.batch, penalty, self.group)

    # ---- steps ----------------------------------------------------------------------------------------------------
    @property
    def done(self) -> bool:
        """Whether all stages are."""
        return self.stage == len(self.stages)

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done, and in all."""
        return sum(s.steps for s in self.stages[: self.stage]) + self.step, sum(s.steps for s in self.stages)

    @property
    def now(self) -> Stage:
        """The stage that the next step belongs to, or the last."""
        return self.stages[min(self.stage, len(self.stages) - 1)]

    @property
    def best(self) -> int:
        """The unperturbed member with the lowest loss, or the one that was chosen."""
        return self.chosen if self.chosen is not None else int(self.loss[: self.lead].nan_to_num(torch.inf).argmin())

    def advance(self) -> None:
        """One step of the present stage."""
        stage = self.now
        if stage.kind != "matching" and not self.step:
            self._judge_steps(stage)
        if stage.kind == "matching":
            self._match(stage)
        elif stage.adam:
            self._by_adam(stage)
        else:
            self._by_lbfgs(stage)
        self.history.stage.append(self.stage)
        self.history.misfit.append(float(self.misfit[self.best]))
        self.step += 1
        finished = isinstance(self.optimizer, LBFGS) and bool(self.optimizer.done.all())
        if self.step >= stage.steps or finished:
            self.stage, self.step = self.stage + 1, 0
            if self.done or self.now.kind != "polish" or stage.kind != "polish":
                self.optimizer = None  # else the parts of the polish go on with what L-BFGS knows
            if self.done and stage.kind == "polish" and self._judge_steps(stage) and self.extra < EXTRA:
                self.extra += 1
                self.stages.append(stage)

    def _judge_steps(self, stage: Stage) -> bool:
        """Halves the solver's steps where that changes the misfit: a network can learn to profit from their error.

        van der Pol's relaxation oscillation does: with RK4 steps of 0.2 the misfit is that of the noise, and forty times it
        for the field that was learned. The loss of every member is from then on the one with small steps.
        """
        windows, members = self.batch.some(self._of_level(stage.level), self.config.seed), torch.arange(len(self.theta))
        halved = False
        while True:
            _, misfit = self.objective.losses(self.theta, members, windows)
            self.objective.max_step /= 2
            self.loss, finer = self.objective.losses(self.theta, members, windows)
            off = (finer - misfit).abs() / misfit
            best = self.best
            if max(float(off.median()), float(off[best])) <= OFF or self.objective.max_step < LEAST_STEP:
                self.objective.max_step *= 2
                self.misfit = finer
                return halved
            halved, self.optimizer = True, None

    def _match(self, stage: Stage) -> None:
        networks = self.objective.network(self.theta)
        optimizer = self.optimizer = self.optimizer or Adam(networks)
        assert isinstance(optimizer, Adam)
        optimizer.theta = networks  # a view: θ itself is changed
        self.misfit, gradient = self.slopes.value(networks)
        self.loss = self.misfit
        optimizer.step(gradient, MATCHING_RATE * _falling(self.step / stage.steps))

    def _by_adam(self, stage: Stage) -> None:
        optimizer = self.optimizer = self.optimizer or Adam(self.theta)
        assert isinstance(optimizer, Adam)
        # A generator of its own for every step: a resumed run draws what the unbroken one drew.
        seed = self.config.seed * 1_000_003 + 10_007 * self.stage + self.step
        windows = self.batch.some(self._of_level(stage.level), seed)
        self.loss, gradient, self.misfit = self.objective.value(self.theta, torch.arange(len(self.theta)), windows)
        optimizer.step(gradient, self.config.learning_rate * _falling(self.step / stage.steps))

    def _by_lbfgs(self, stage: Stage) -> None:
        windows = self._of_level(stage.level)

        def value(theta: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
            loss, gradient, misfit = self.objective.value(theta, members, windows)
            self._tried[members] = misfit
            return loss, gradient

        self._tried = self.misfit.clone()
        if self.optimizer is None:
            self.optimizer = LBFGS(self.theta, value)
        optimizer = self.optimizer
        assert isinstance(optimizer, LBFGS)
        optimizer.theta, optimizer.value = self.theta, value
        optimizer.step()
        self.loss = optimizer.loss.clone()
        self.misfit = self._tried

    def _of_level(self, level: int) -> Windows:
        if self._windows is None or self._windows[0] != level:
            self._windows = (level, self.batch.windows(level))
        return self._windows[1]

    @property
    def title(self) -> str:
        """Of the present stage, in words."""
        return self.now.title(self.config.window)

    def told(self) -> list[dict[str, Any]]:
        """Stages so far: name, steps, seconds, and the misfit at their end."""
        out: list[dict[str, Any]] = []
        history, began = self.history, 0.0
        for i, misfit, seconds in zip(history.stage, history.misfit, history.seconds, strict=True):
            name = self.stages[i].title(self.config.window)
            if not out or out[-1]["name"] != name:
                began = out[-1]["until"] if out else history.seconds[0]
                out.append({"name": name, "steps": 0, "seconds": 0.0})
            out[-1] |= {"steps": out[-1]["steps"] + 1, "seconds": seconds - began, "until": seconds, "misfit": misfit}
        return [{k: v for k, v in stage.items() if k != "until"} for stage in out]

    # ---- keeping --------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """All that a resumed training needs; a copy."""
        optimizer = self.optimizer and {"adam": isinstance(self.optimizer, Adam), **self.optimizer.state()}
        state = {
            "theta": self.theta, "stage": self.stage, "step": self.step, "loss": self.loss, "misfit": self.misfit,
            "history": vars(self.history), "optimizer": optimizer, "evaluations": self.objective.evaluations,
            "extra": self.extra, "max_step": self.objective.max_step,
        }  # fmt: skip
        return copy.deepcopy(state)

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self.theta, self.loss, self.misfit = state["theta"], state["loss"], state["misfit"]
        self.stage, self.step, self.history = state["stage"], state["step"], History(**state["history"])
        self.objective.evaluations, self.objective.max_step = state["evaluations"], state["max_step"]
        self.extra = state["extra"]
        self.stages += self.stages[-1:] * self.extra
        kept = state["optimizer"]
        self.optimizer = None
        if kept and kept["adam"]:
            matching = self.now.kind == "matching"
            self.optimizer = Adam(self.objective.network(self.theta) if matching else self.theta)
            self.optimizer.load(kept)
        elif kept:
            self.optimizer = LBFGS.resumed(self.theta, kept)


def _falling(share: float) -> float:
    """From 1 to a tenth along a cosine."""
    return 0.55 + 0.45 * math.cos(math.pi * share)
