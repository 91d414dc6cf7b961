"""The training loop: Adam on windows that grow, a checkpoint every few seconds, the same numbers after a break."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isocline.fit.config import Config
from isocline.fit.windows import Record, Windows, choose
from isocline.nn import MLP
from isocline.solution import SolveError
from isocline.solve import solve

CHECK_EVERY = 20  # iterations between looks at the validation part
SAVE_EVERY = 5.0  # seconds between checkpoints
BOUND = 20.0  # standard deviations a state may reach in a window before it counts as lost


@dataclass
class History:
    """Losses over the iterations; validation where it was looked at, else None."""

    iteration: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    valid: list[float | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Trainer:
    """Trains one field on one record.

    Args:
        config: of the run.
        record: what is trained on, in scaled units.
        validate: loss of a field on the validation part; None without one.
        folder: where the checkpoint goes; None keeps nothing.
    """

    def __init__(
        self, config: Config, record: Record, validate: Callable[[nn.Module], float] | None, folder: Path | None
    ) -> None:
        self.config, self.record, self.validate, self.folder = config, record, validate, folder
        dim = record.y[0].shape[1]
        self.model = MLP((dim, *config.hidden, dim), seed=config.seed, last_gain=0.2)
        self.starts = nn.Parameter(record.starts())
        groups = [{"params": list(self.model.parameters())}, {"params": [self.starts]}]
        self.optimizer = torch.optim.Adam(groups, lr=config.learning_rate)
        self.levels = record.levels + 1
        self.iteration = 0
        self.history = History()
        self.best: dict[str, Any] = {"iteration": 0, "valid": math.inf, "model": _copy(self.model), "starts": record.starts()}
        self.before = 0.0  # seconds of earlier sessions
        self.evaluations = 0

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
            if stop():
                reason = "interrupted"
                break
            level = self.level
            if windows is None or windows[0] != level:
                windows = (level, self.record.windows(level))
            self._step(windows[1])
            now = time.monotonic()
            self.history.seconds.append(self.before + now - began)
            tell(self)
            if self.folder and now - saved > SAVE_EVERY:
                self.save(self.before + now - began)
                saved = now
            full = self.level == self.levels - 1
            if full and self.iteration - max(self.best["iteration"], self._full_from) >= self.config.patience:
                reason = "early stopping"
                break
        self.before += time.monotonic() - began
        if self.folder:
            self.save(self.before)
        return reason

    @property
    def level(self) -> int:
        """How often the windows have doubled: the first three quarters of the run are shared between the lengths."""
        per_level = max(1, int(0.75 * self.config.iterations) // self.levels)
        return min(self.iteration // per_level, self.levels - 1)

    @property
    def _full_from(self) -> int:
        return max(1, int(0.75 * self.config.iterations) // self.levels) * (self.levels - 1)

    def _step(self, windows: Windows) -> None:
        for group in self.optimizer.param_groups:
            share = self.iteration / self.config.iterations
            group["lr"] = self.config.learning_rate * (0.55 + 0.45 * math.cos(math.pi * share))
        # A generator of its own for every iteration: a resumed run draws what the unbroken one drew.
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.iteration)
        self.optimizer.zero_grad()
        loss, misfit = self.loss(choose(windows, generator))
        loss.backward()
        parameters = [*self.model.parameters(), self.starts]
        norm = nn.utils.clip_grad_norm_(parameters, 10.0)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
        self.iteration += 1
        self.history.iteration.append(self.iteration)
        self.history.train.append(misfit)
        self.history.valid.append(None)
        if self.iteration % CHECK_EVERY == 0 or self.iteration == self.config.iterations:
            self._look(misfit)

    def _look(self, misfit: float) -> None:
        """Keeps the best field, by validation where there is a validation part."""
        value = misfit if self.validate is None else self.validate(self.model)
        self.history.valid[-1] = value if math.isfinite(value) else None
        if value < self.best["valid"] or self.iteration == CHECK_EVERY:
            self.best = {
                "iteration": self.iteration,
                "valid": value,
                "model": _copy(self.model),
                "starts": self.starts.detach().clone(),
            }

    def loss(self, windows: Windows) -> tuple[Tensor, float]:
        """The training loss and the plain misfit (mean square, scaled units) of some windows."""
        start = self.starts[windows.start]
        # One Runge-Kutta step from each observation to the next: in scaled time they are short.
        sol = solve(self.field, start, windows.ts, batching="per_sample", solver="rk4", max_step=0.5, throw=False)
        self.evaluations += int(sol.stats.evaluations.sum())
        ys = sol.ys
        seen = ~windows.y.isnan() & ~ys.isnan()
        error = torch.where(seen, ys.nan_to_num(0.0) - windows.y.nan_to_num(0.0), 0.0)
        misfit = error.square().sum() / seen.sum().clamp(min=1)
        inner = (windows.end >= 0).nonzero().squeeze(1)
        gap = ys.new_zeros(())
        if len(inner):
            arrived = ys[windows.last[inner], inner].nan_to_num(BOUND)
            gap = (arrived - self.starts[windows.end[inner]]).square().mean()
        penalty = sum(p.square().sum() for p in self.model.parameters())
        return misfit + self.config.continuity * gap + self.config.penalty * penalty, float(misfit.detach())

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        """The learned field, held finite far from the data: a window that runs away costs much, not everything."""
        return self.model(t, y.clamp(-BOUND, BOUND))

    # ---- keeping --------------------------------------------------------------------------------------------------
    def save(self, seconds: float) -> None:
        """The whole state, written aside and moved into place."""
        assert self.folder is not None
        state = {
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "starts": self.starts.detach(),
            "optimizer": self.optimizer.state_dict(),
            "history": vars(self.history),
            "best": self.best,
            "seconds": seconds,
            "evaluations": self.evaluations,
        }
        path = self.folder / "checkpoint.pt"
        aside = path.with_suffix(".tmp")
        torch.save(state, aside)
        os.replace(aside, path)

    def load(self) -> None:
        """Goes on from the checkpoint of the folder."""
        assert self.folder is not None
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.iteration = state["iteration"]
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            self.starts.copy_(state["starts"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = History(**state["history"])
        self.best, self.before, self.evaluations = state["best"], state["seconds"], state["evaluations"]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def settle(
    step: Callable[[Tensor, Tensor], Tensor], y: Tensor, ts: Tensor, guess: Tensor, iterations: int = 30
) -> tuple[Tensor, float]:
    """The state at ts[0] from which a fixed model best meets some observations, and the misfit (mean square).

    Args:
        step: (state (d,), times (T,)) -> path (T, d).
        y: (T, d), NaN where missing.
        ts: (T,).
        guess: (d,).
    """
    state = guess.clone().requires_grad_()
    seen = ~y.isnan()
    optimizer = torch.optim.LBFGS([state], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        path = step(state, ts)
        # A weak pull to the guess keeps unobserved components where they are known to be.
        loss = (path - y)[seen].square().mean() + 1e-3 * (state - guess).square().mean()
        loss.backward()
        return loss

    try:
        optimizer.step(closure)
        with torch.no_grad():
            path = step(state, ts)
            misfit = float((path - y)[seen].square().mean())
    except SolveError:
        return guess, math.inf
    if not math.isfinite(misfit):
        return guess, math.inf
    return state.detach(), misfit
