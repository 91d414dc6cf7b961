"""What training makes small: the misfit in units of the noise, gaps between windows, and the size of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.fit.batch import Batch, of_members
from isocline.fit.group import ALONE, Group
from isocline.fit.networks import BOUND, Networks
from isocline.fit.windows import Windows
from isocline.solve import solve

MAX_STEP = 0.6  # of RK4 at first, in scaled time, where an oscillation turns by 0.6 rad: it errs by 6e-4 rad a step
PICKED = 4  # choices of members whose windows are kept
SPAN = 2.3  # a learned noise stays within e^±2.3, a factor of ten, of what the smoothing spline left


@dataclass
class Objective:
    """The loss of every member of a batch; a member's row of θ is [network | noise | starting states].

    With residuals e of the observations, σ the noise of their column, gaps g between where a window ends and where the
    next begins, and weights w:

        mean (e/σ)² + 2 mean log σ + continuity · mean (g/σ)² + penalty · Σ w²

    the first two terms being twice the negative log-likelihood of an observation. σ = σ₀ exp(2.3 tanh s), s learned.

    Args:
        networks: their layout.
        batch: whose windows.
        penalty: (M,), of the squared weights of each member.
        continuity: weight of the gaps.
        learn_noise: False leaves σ at σ₀.
        group: processes that share the windows.

    Attributes:
        noise0: (M, d) σ₀, what the smoothing spline left.
        max_step: of the solver; halved where networks learn its error.
        evaluations: of the field, so far; by this process.
    """

    networks: Networks
    batch: Batch
    penalty: Tensor
    continuity: float
    learn_noise: bool = True
    group: Group = ALONE

    def __post_init__(self) -> None:
        self.noise0 = self.batch.noise()
        self.evaluations = 0
        self.max_step = MAX_STEP
        self._picked: tuple[Windows | None, dict[tuple[int, ...], Windows]] = None, {}

    def begin(self, networks: Tensor) -> Tensor:
        """θ (M, P) with these networks, the noise of the spline and the starting states on it."""
        starts = self.batch.starts().flatten(1)
        return torch.cat([networks, torch.zeros_like(self.noise0), starts], 1)

    def network(self, theta: Tensor) -> Tensor:
        """(M, size) of θ."""
        return theta[..., : self.networks.size]

    def noise(self, theta: Tensor, members: Tensor | None = None) -> Tensor:
        """σ (M, d) of θ, in scaled units."""
        noise0 = self.noise0 if members is None else self.noise0[members]
        if not self.learn_noise:
            return noise0
        free = theta[:, self.networks.size : self.networks.size + noise0.shape[1]]
        return noise0 * torch.exp(SPAN * torch.tanh(free))

    def starts(self, theta: Tensor) -> Tensor:
        """(M, knots, d) of θ."""
        d = self.batch.dim
        return theta[:, self.networks.size + d :].view(len(theta), -1, d)

    def value(self, theta: Tensor, members: Tensor, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (B,), gradients (B, P) and plain mean squares (B,) of some members on their windows."""
        own = self._of(members, windows)
        theta = theta.detach().requires_grad_()
        losses, misfit = self._losses(theta, members, own)
        losses.sum().backward()
        assert theta.grad is not None
        losses, gradient, misfit = self.group.summed(losses.detach(), theta.grad, misfit)
        return losses, gradient, misfit

    def _of(self, members: Tensor, windows: Windows) -> Windows:
        """Those of some members; as long as a search goes on with the same ones, found again."""
        if len(members) == len(self.batch.records):
            return windows
        if self._picked[0] is not windows:
            self._picked = windows, {}
        known, key = self._picked[1], tuple(members.tolist())
        found = known.pop(key, None)
        known[key] = of_members(windows, members, len(self.batch.records)) if found is None else found
        if len(known) > PICKED:
            del known[next(iter(known))]  # what was not asked for the longest
        return known[key]

    def _losses(self, theta: Tensor, members: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """Those of this process's share of the windows, as parts of means over all; what no window has part in is the first's."""
        count, gaps = windows.count, windows.gaps
        total = count.sum(1).clamp(min=1)
        common = windows.common
        if self.group.size > 1:
            windows = windows.pick(torch.arange(len(windows.start))[self.group.share(len(windows.start))])
        # Knots are numbered through all members of the batch; here through those that are asked.
        shift = (windows.member - members[windows.member]) * self.batch.knots
        starts, noise = self.starts(theta).flatten(0, 1), self.noise(theta, members)
        ys = self._paths(theta, starts[windows.start + shift], windows, common).nan_to_num(BOUND, BOUND, -BOUND)
        error = (ys - windows.observed) * windows.seen
        squares = self._sum(error.square().sum(0), windows.member, len(theta))
        lead = float(self.group.leads)
        # Half-way through a doubling a gap is measured by the noise, which must not grow to make gaps cheap: detached.
        fit = ((squares / noise.square()).sum(1) + 2 * lead * (count * noise.log()).sum(1)) / total
        inner = windows.inner
        if len(inner) and self.continuity:
            gap = ys[windows.last[inner], inner] - starts[windows.end[inner] + shift[inner]]
            gap = (gap / noise.detach()[windows.member[inner]]).square().mean(1)
            fit = fit + self.continuity * self._sum(gap[:, None], windows.member[inner], len(theta)).squeeze(1) / gaps
        size = (self.networks.shrunk * self.network(theta).square()).sum(1)
        return fit + lead * self.penalty[members] * size, (squares.sum(1) / total).detach()

    def _paths(self, theta: Tensor, starts: Tensor, windows: Windows, common: Tensor | None) -> Tensor:
        """(T, W, d); `common` as of the windows of all processes, so that all step alike."""
        if not len(starts):
            return theta.new_zeros(*windows.y.shape)
        parts = tuple(self.networks.parts(self.network(theta)[windows.member]))
        # The graphs of these short solves fit in memory, and stepping together saves half the time where it can be done.
        options: dict[str, Any] = {
            "solver": "rk4",
            "max_step": self.max_step,
            "gradient": "backprop",
            "engine": "auto",
            "throw": False,
        }
        field, driven = windows.drive.into(self.networks.field)
        if common is None or any(driven.values()):  # each window has inputs and doses of its own
            sol = solve(field, starts, windows.ts, args=parts, batching="per_sample", **driven, **options)
        else:
            sol = solve(field, starts, common, args=parts, batching=None, **options)
        self.evaluations += int(torch.as_tensor(sol.stats.evaluations).sum())
        return sol.ys

    @staticmethod
    def _sum(values: Tensor, member: Tensor, count: int) -> Tensor:
        """(W, d) summed over the windows of each member."""
        return values.new_zeros(count, values.shape[1]).index_add(0, member, values)
