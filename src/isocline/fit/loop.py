"""The training loop: Adam on windows that grow, a checkpoint every few seconds, the same numbers after a break."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isocline.fit.config import Config
from isocline.fit.files import place
from isocline.fit.warm_start import match_slopes
from isocline.fit.windows import Record, Windows, choose
from isocline.nn import MLP
from isocline.solve import solve

CHECK_EVERY = 20  # iterations between looks at the validation part
SAVE_EVERY = 2.0  # seconds between checkpoints
BOUND = 20.0  # standard deviations a state may reach in a window before it counts as lost
MAX_STEP = 0.6  # in scaled time, where an oscillation turns by 0.6 rad: RK4 then errs by 6e-4 rad a step in phase
GROWING = 0.75  # share of the iterations in which windows grow; the rest is for the longest


@dataclass
class History:
    """Losses over the iterations; validation where it was looked at, else None."""

    iteration: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    valid: list[float | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def network(dim: int, config: Config, seed: int = 0) -> MLP:
    """The field of a run, as it is before training. In double precision: at this size it costs nothing."""
    return MLP((dim, *config.hidden, dim), seed=seed, last_gain=0.2, dtype=torch.float64)


class Bounded(nn.Module):
    """The learned field, held finite far from the data: a window that runs away costs much, not everything."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.inner = field

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        return self.inner(t, y.clamp(-BOUND, BOUND))


class Trainer:
    """Trains one field on one record.

    Several networks start (`config.starts`); after a third of the iterations, when windows have doubled once or twice,
    the one with the lowest training misfit goes on. Some starts end in a path that lies flat through the data, and the
    misfit shows it by then; the validation part is too short to ask.

    Args:
        config: of the run.
        record: what is trained on, in scaled units.
        validate: loss of a field on the validation part; None without one.
        folder: where the checkpoint goes; None keeps nothing.
    """

    def __init__(
        self,
        config: Config,
        record: Record,
        validate: Callable[[nn.Module], float] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.config, self.record, self.validate, self.folder = config, record, validate, folder
        self.levels = record.levels
        self.trial = 0
        self.rival: dict[str, Any] | None = None  # the best of the earlier starts: its state and misfit
        self.before = 0.0  # seconds of earlier sessions
        self.evaluations = 0
        self._begin()

    def _begin(self) -> None:
        """A new start: weights of its own, matched to the slopes of the smoothed record."""
        seed = self.config.seed * self.config.starts + self.trial
        self.model = network(self.record.y[0].shape[1], self.config, seed)
        match_slopes(self.model, self.record, self.config.penalty)
        self.field = Bounded(self.model)
        self.starts = nn.Parameter(self.record.starts())
        groups = [{"params": list(self.model.parameters())}, {"params": [self.starts]}]
        self.optimizer = torch.optim.Adam(groups, lr=self.config.learning_rate)
        self.iteration = 0
        self.history = History()
        self.best: dict[str, Any] = {"iteration": 0, "valid": math.inf}

    # ---- one run --------------------------------------------------------------------------------------------------
    def run(self, tell: Callable[[Trainer], None], stop: Callable[[], bool] = lambda: False) -> str:
        """Trains to the end; returns why it ended: "iterations", "early stopping" or "interrupted".

        Args:
            tell: called after every iteration.
            stop: asked before every iteration.
        """
        began = saved = time.monotonic()
        reason = "iterations"
        windows: tuple[int, Windows] | None = None
        while self.iteration < self.config.iterations:
            if self.trial < self.config.starts and self.iteration == self.screening:
                self._compare()
            if self._stale:
                reason = "early stopping"
                break
            if stop():
                reason = "interrupted"
                break
            if windows is None or windows[0] != self.level:
                windows = (self.level, self.record.windows(self.level))
            self._step(windows[1])
            now = time.monotonic()
            self.history.seconds.append(self.before + now - began)
            tell(self)
            if self.folder and now - saved > SAVE_EVERY:
                self.save(self.before + now - began)
                saved = now
        self.before += time.monotonic() - began
        if self.folder:
            self.save(self.before)
        return reason

    @property
    def screening(self) -> int:
        """Iterations after which starts are compared; none where there is one start."""
        return max(1, self.config.iterations // 3) if self.config.starts > 1 else -1

    def _compare(self) -> None:
        """Keeps the better of this start and the best before it; begins the next, or goes on with the winner."""
        recent = self.history.train[-CHECK_EVERY:]
        misfit = sum(recent) / len(recent)
        if self.rival is None or misfit < self.rival["misfit"]:
            self.rival = {"misfit": misfit, "state": self._state()}
        self.trial += 1
        if self.trial < self.config.starts:
            self._begin()
        else:
            self._restore(self.rival["state"])
            self.rival = None

    @property
    def progress(self) -> tuple[int, int]:
        """(iterations done, in all), those of all starts counted."""
        extra = max(0, self.screening)
        trials = self.config.starts - 1
        return min(self.trial, trials) * extra + self.iteration, trials * extra + self.config.iterations

    @property
    def level(self) -> int:
        """How often the windows have doubled."""
        return min(self.iteration // self._per_level, self.levels - 1)

    @property
    def _per_level(self) -> int:
        return max(1, int(GROWING * self.config.iterations) // self.levels)

    @property
    def _grown(self) -> int:
        """The iteration from which windows have their full length."""
        return self._per_level * (self.levels - 1)

    @property
    def _stale(self) -> bool:
        """At full length and without a better validation loss for `patience` iterations."""
        return self.iteration - max(self.best["iteration"], self._grown) >= self.config.patience

    def _step(self, windows: Windows) -> None:
        for group in self.optimizer.param_groups:
            share = self.iteration / self.config.iterations
            group["lr"] = self.config.learning_rate * (0.55 + 0.45 * math.cos(math.pi * share))
        # A generator of its own for every iteration: a resumed run draws what the unbroken one drew.
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.iteration)
        self.optimizer.zero_grad()
        loss, misfit = self.loss(choose(windows, generator))
        loss.backward()
        norm = nn.utils.clip_grad_norm_([*self.model.parameters(), self.starts], 10.0)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
        self.iteration += 1
        self.history.iteration.append(self.iteration)
        self.history.train.append(misfit)
        self.history.valid.append(None)
        if self.iteration % CHECK_EVERY == 0 or self.iteration == self.config.iterations:
            self._look(misfit)

    def _look(self, misfit: float) -> None:
        """Keeps the best field, by validation where there is a validation part, else the last."""
        value = misfit if self.validate is None else self.validate(self.model)
        self.history.valid[-1] = value if self.validate and math.isfinite(value) else None
        # Until windows span the record the latest field is the best: on a short validation part an early one wins by luck.
        growing = self.best["iteration"] <= self._grown
        if value < self.best["valid"] or growing or self.validate is None:
            self.best = {"iteration": self.iteration, "valid": value, **self._parameters()}

    def _parameters(self) -> dict[str, Any]:
        model = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        return {"model": model, "starts": self.starts.detach().clone()}

    def take_best(self) -> None:
        """Puts the best field in place, after the last checkpoint was saved."""
        if self.best["iteration"] > 0:
            self.model.load_state_dict(self.best["model"])
            with torch.no_grad():
                self.starts.copy_(self.best["starts"])

    def loss(self, windows: Windows) -> tuple[Tensor, float]:
        """The training loss and the plain misfit (mean square, scaled units) of some windows."""
        start, common = self.starts[windows.start], windows.common
        # The graphs of these short solves fit in memory, and stepping together saves half the time where it can be done.
        options = {"solver": "rk4", "max_step": MAX_STEP, "gradient": "backprop", "engine": "auto", "throw": False}
        if common is None:
            sol = solve(self.field, start, windows.ts, batching="per_sample", **options)
        else:
            sol = solve(self.field, start, common, batching=None, **options)
        self.evaluations += int(torch.as_tensor(sol.stats.evaluations).sum())
        ys = sol.ys
        seen = ~windows.y.isnan() & ~ys.isnan()
        error = torch.where(seen, ys.nan_to_num(0.0) - windows.y.nan_to_num(0.0), 0.0)
        misfit = error.square().sum() / seen.sum().clamp(min=1)
        inner = (windows.end >= 0).nonzero().squeeze(1)
        gap = ys.new_zeros(())
        if len(inner):
            arrived = ys[windows.last[inner], inner].nan_to_num(BOUND)
            gap = (arrived - self.starts[windows.end[inner]]).square().mean()
        penalty = torch.stack([p.square().sum() for p in self.model.parameters()]).sum()
        return misfit + self.config.continuity * gap + self.config.penalty * penalty, float(misfit.detach())

    # ---- keeping --------------------------------------------------------------------------------------------------
    def _state(self) -> dict[str, Any]:
        """Of the current start; a copy."""
        state = {
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "starts": self.starts.detach(),
            "optimizer": self.optimizer.state_dict(),
            "history": vars(self.history),
            "best": self.best,
        }
        return copy.deepcopy(state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.iteration = state["iteration"]
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            self.starts.copy_(state["starts"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.best = History(**state["history"]), state["best"]

    def save(self, seconds: float) -> None:
        """The whole state, written aside and moved into place."""
        assert self.folder is not None
        whole = {
            **self._state(), "trial": self.trial, "rival": self.rival, "seconds": seconds, "evaluations": self.evaluations,
        }  # fmt: skip
        place(self.folder / "checkpoint.pt", lambda aside: torch.save(whole, aside))

    def load(self) -> None:
        """Goes on from the checkpoint of the folder."""
        assert self.folder is not None
        whole = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self._restore(whole)
        self.trial, self.rival = whole["trial"], whole["rival"]
        self.before, self.evaluations = whole["seconds"], whole["evaluations"]
