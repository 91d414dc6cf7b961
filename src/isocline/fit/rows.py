"""Minimizers for many independent problems at once: every row of a matrix is one, and none waits for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# (rows (B, P), which problems they are (B,)) -> (values (B,), gradients (B, P))
Value = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

MEMORY = 20  # pairs that L-BFGS keeps
SUFFICIENT, SHORTENED = 1e-4, 15  # Armijo's constant, and trials before a row gives up
ENOUGH, LATELY = 1e-4, 10  # a row is done once its value falls by less than 1e-4 in the last 10 iterations


class Adam:
    """Adam (Kingma & Ba 2015) with the gradient of every row clipped, and rows without a finite one left alone.

    Args:
        theta: (M, P), changed in place.
        clip: longest gradient of a row.
    """

    def __init__(self, theta: Tensor, clip: float = 10.0) -> None:
        self.theta, self.clip = theta, clip
        self.first, self.second = torch.zeros_like(theta), torch.zeros_like(theta)
        self.count = 0

    def step(self, gradient: Tensor, rate: float) -> None:
        """One step."""
        norm = gradient.norm(dim=1, keepdim=True)
        good = norm.isfinite()
        g = torch.where(good, gradient * (self.clip / norm.clamp(min=self.clip)), 0.0)
        self.count += 1
        self.first.mul_(0.9).add_(g, alpha=0.1)
        self.second.mul_(0.999).addcmul_(g, g, value=0.001)
        size = self.first / (1 - 0.9**self.count)
        scale = (self.second / (1 - 0.999**self.count)).sqrt() + 1e-8
        self.theta.sub_(torch.where(good, rate * size / scale, 0.0))

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"first": self.first, "second": self.second, "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.first, self.second, self.count = state["first"].clone(), state["second"].clone(), state["count"]


class Pair:
    """How every row moved (M, P), how its gradient changed, and (M, 1) what follows of both: 1/sᵀy, and sᵀy/yᵀy."""

    def __init__(self, s: Tensor, y: Tensor) -> None:
        self.s, self.y = s, y
        dot = (s * y).sum(1, keepdim=True)
        self.rho = torch.where(dot > 0, 1 / dot.clamp(min=1e-300), 0.0)
        self.scale = dot / y.square().sum(1, keepdim=True).clamp(min=1e-300)


class LBFGS:
    """Limited-memory BFGS with a backtracking line search, row by row; only rows still searching are evaluated again.

    Args:
        theta: (M, P), changed in place; no row ever gets worse.
        value: of some rows, with their gradients.
        enough: a row is done once its value falls by less in the last 10 iterations.

    Source:
        Nocedal & Wright (2006), Numerical Optimization, algorithms 7.4 (two loops), 7.5 and section 3.5 (interpolation).
    """

    def __init__(self, theta: Tensor, value: Value, enough: float = ENOUGH) -> None:
        self.theta, self.value, self.enough = theta, value, enough
        self.pairs: list[Pair] = []
        self.loss, self.gradient = value(theta, torch.arange(len(theta)))
        self.done = ~(self.loss.isfinite() & self.gradient.isfinite().all(1))
        self.past = [self.loss.clone()]

    def step(self) -> None:
        """One iteration of every row that is not done."""
        if bool(self.done.all()):
            return
        direction = self._direction()
        slope = (direction * self.gradient).sum(1)
        uphill = slope >= 0
        direction = torch.where(uphill[:, None], -self.gradient, direction)
        slope = torch.where(uphill, -self.gradient.square().sum(1), slope)
        before, gradient = self.theta.clone(), self.gradient.clone()
        moved = self._search(direction, slope)
        self.done |= ~moved
        if len(self.past) == LATELY:
            self.done |= self.past[0] - self.loss < self.enough
        self.past = [*self.past, self.loss.clone()][-LATELY:]
        s, y = self.theta - before, self.gradient - gradient
        curved = (s * y).sum(1) > 1e-10 * s.norm(dim=1) * y.norm(dim=1)
        keep = (curved & moved)[:, None]
        self.pairs = [*self.pairs, Pair(torch.where(keep, s, 0.0), torch.where(keep, y, 0.0))][-MEMORY:]

    def _direction(self) -> Tensor:
        """−H g; a pair that is zero in a row plays no role there."""
        q, alphas = self.gradient.clone(), []
        for pair in reversed(self.pairs):
            alphas.append(pair.rho * (pair.s * q).sum(1, keepdim=True))
            q.addcmul_(alphas[-1], pair.y, value=-1)
        # The newest pair that a row has scales its first guess; a row without one begins with a step of length one at most.
        scale = 1 / self.gradient.norm(dim=1, keepdim=True).clamp(min=1.0)
        for pair in self.pairs:
            scale = torch.where(pair.rho > 0, pair.scale, scale)
        q.mul_(scale)
        for pair, alpha in zip(self.pairs, reversed(alphas), strict=True):
            q.addcmul_(alpha - pair.rho * (pair.y * q).sum(1, keepdim=True), pair.s)
        return q.neg_()

    def _search(self, direction: Tensor, slope: Tensor) -> Tensor:
        """Moves each row to a point that is lower enough; which rows found one."""
        start, base = self.theta.clone(), self.loss.clone()
        length = torch.ones_like(base)
        active = (~self.done).nonzero().squeeze(1)
        moved = torch.zeros_like(self.done)
        for _ in range(SHORTENED):
            trial = start[active] + length[active, None] * direction[active]
            loss, gradient = self.value(trial, active)
            good = (
                loss.isfinite()
                & gradient.isfinite().all(1)
                & (loss <= base[active] + SUFFICIENT * length[active] * slope[active])
            )
            found = active[good]
            self.theta[found], self.loss[found], self.gradient[found] = trial[good], loss[good], gradient[good]
            moved[found] = True
            active, loss = active[~good], loss[~good]
            if not len(active):
                break
            # The lowest point of the parabola through what is known, held between a tenth and a half.
            bend = loss - base[active] - length[active] * slope[active]
            best = -slope[active] * length[active] / (2 * bend)
            best = torch.where(best.isfinite(), best, 0.1).clamp(0.1, 0.5)
            length[active] = length[active] * best
        return moved

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "s": [pair.s for pair in self.pairs],
            "y": [pair.y for pair in self.pairs],
            "loss": self.loss,
            "gradient": self.gradient,
            "done": self.done,
            "past": self.past,
        }

    @classmethod
    def resumed(cls, theta: Tensor, state: dict[str, Any]) -> LBFGS:
        """From a checkpoint; `value` is to be set before the next step."""
        self = cls.__new__(cls)
        self.enough = ENOUGH
        self.theta, self.past = theta, list(state["past"])
        self.pairs = [Pair(s, y) for s, y in zip(state["s"], state["y"], strict=True)]
        self.loss, self.gradient, self.done = (state[k] for k in ("loss", "gradient", "done"))
        return self
