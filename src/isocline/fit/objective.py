"""What training makes small: the misfit in units of the noise, gaps between windows, and the size of the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.fit.batch import Batch, of_members
from isocline.fit.forecast import ROWS
from isocline.fit.group import ALONE, Group
from isocline.fit.networks import BOUND, Networks
from isocline.fit.windows import Windows
from isocline.solve import solve

MAX_STEP = 0.6  # of RK4 at first, in scaled time, where an oscillation turns by 0.6 rad: it errs by 6e-4 rad a step
# Windows that step together; of more the graph takes gigabytes, and the fused engine, which keeps none, a quarter of the time.
TOGETHER = 4096
PICKED = 4  # choices of members whose windows are kept
SPAN = 2.3  # a learned noise stays within e^±2.3, a factor of ten, of what the smoothing spline left


@dataclass
class Objective:
    """The loss of every member of a batch; a member's row of θ is [network | noise | starting states].

    With residuals e of the observations, σ the noise of their column, gaps g between where a window ends and where the
    next begins, and weights w:

        mean (e/σ)² + 2 mean log σ + continuity · mean (g/σ)² + penalty · Σ w² [+ mean (c/σ)²]

    the first two terms being twice the negative log-likelihood of an observation. σ = σ₀ exp(2.3 tanh s), s learned.

    The last is of networks with a clock. What a season does to a state that returns to it, and to one that leaves it, may be the
    same path: from a start that is free no window tells them apart, and only the forecasts of the one come true. So windows run
    from either side of their starts, as far as those of a forecast are uncertain (of `ROWS` observations), and c is how far from
    the path between them these are then.

    Args:
        networks: their layout.
        batch: whose windows.
        penalty: (M,), of the squared weights of each member; inf: they are 0 and stay there.
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
        self.moving = self.networks.moving(self.penalty)
        self._finite = torch.where(self.penalty.isinf(), 0.0, self.penalty)  # weights that are 0 cost nothing
        self.evaluations = 0
        self.max_step = MAX_STEP
        self._picked: tuple[Windows | None, dict[tuple[int, ...], Windows]] = None, {}

    def begin(self, networks: Tensor) -> Tensor:
        """θ (M, P) with these networks, the noise of the spline and the starting states on it."""
        starts = self.batch.starts().flatten(1)
        return torch.cat([networks * self.moving, torch.zeros_like(self.noise0), starts], 1)

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

    def _learned(self, theta: Tensor, members: Tensor, by_noise: Tensor) -> Tensor:
        """(M, d): derivatives by σ -> by what is learned of it."""
        if not self.learn_noise:
            return torch.zeros_like(by_noise)
        bent = torch.tanh(theta[:, self.networks.size : self.networks.size + self.batch.dim])
        return torch.ops.aten.tanh_backward(by_noise * self.noise0[members] * torch.exp(SPAN * bent) * SPAN, bent)

    def starts(self, theta: Tensor) -> Tensor:
        """(M, knots, d) of θ."""
        d = self.batch.dim
        return theta[:, self.networks.size + d :].view(len(theta), -1, d)

    def value(self, theta: Tensor, members: Tensor, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (B,), gradients (B, P) and plain mean squares (B,) of some members on their windows.

        The derivative is written out, but for that of the paths: of many operations on few numbers autograd takes as long as
        the solve.
        """
        loss, misfit, gradient = self._value(theta, members, windows, derivative=True)
        return loss, gradient, misfit

    def losses(self, theta: Tensor, members: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """The same without gradients, in a third of the time: losses (B,), mean squares (B,)."""
        loss, misfit, _ = self._value(theta, members, windows, derivative=False)
        return loss, misfit

    @torch.no_grad()
    def _value(
        self, theta: Tensor, members: Tensor, windows: Windows, derivative: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, mean squares, and gradients or nothing (B, 0)."""
        windows = self._of(members, windows)
        count, total, gaps, common = windows.count, windows.total, windows.gaps, windows.common
        if self.group.size > 1:  # this process's share, as parts of means over all
            windows = windows.pick(torch.arange(len(windows.start))[self.group.share(len(windows.start))])
        lead = float(self.group.leads)  # what no window has part in is the first process's
        network, noise = self.network(theta), self.noise(theta, members)
        starts, variance = self.starts(theta).flatten(0, 1), noise.square()
        aside = self._aside(noise, windows) if self.networks.season else None
        solved, sources = self._paths(network, starts, windows, common, derivative, aside)
        ys, apart = solved.detach().nan_to_num(BOUND, BOUND, -BOUND), None
        if aside is not None:
            one, other = ys.chunk(2, 1)
            ys, apart = (one + other) / 2, (one - other) / 2 * windows.seen
        error = (ys - windows.observed) * windows.seen
        squares = self._sum(error.square().sum(0), windows.member, len(theta))
        share, ratio = 1 / total[:, None], squares / variance
        loss = (ratio.sum(1) + 2 * lead * (count * noise.log()).sum(1)) / total
        by_ys = 2 * error * (share / variance).index_select(0, windows.member)
        by_noise = 2 * lead * share * count / noise - 2 * noise * (share * (ratio / variance))
        by_starts = torch.zeros_like(starts)
        end, knot, _ = windows.joints
        if len(end) and self.continuity:
            by_gaps, by_end = self._gaps(ys, starts, noise, windows, gaps)
            loss += by_gaps
            by_ys.flatten(0, 1).index_add_(0, end, by_end)
            by_starts.index_add_(0, knot, by_end, alpha=-1)
        if apart is not None:
            loss += (self._sum(apart.square().sum(0), windows.member, len(theta)) / variance).sum(1) / total
            by_apart = apart * (share / variance).index_select(0, windows.member)
            by_ys = torch.cat([by_ys / 2 + by_apart, by_ys / 2 - by_apart], 1)
        penalty, shrunk = lead * self._finite[members], self.networks.shrunk
        loss += penalty * (shrunk * network.square()).sum(1)
        if not derivative:
            loss, misfit = self.group.summed(loss, squares.sum(1) / total)
            return loss, misfit, loss.new_zeros(len(theta), 0)
        by_network = torch.zeros_like(network)
        if sources:
            by_rows, by_begin = _pulled(solved, by_ys * solved.isfinite(), sources)
            times = len(by_rows) // len(windows.start)
            by_network.index_add_(0, windows.member.repeat(times), by_rows)
            by_starts.index_add_(0, windows.start.repeat(times), by_begin)
        by_network += penalty[:, None] * shrunk * (2 * network)
        gradient = torch.cat(
            [
                by_network * self.moving[members],
                self._learned(theta, members, by_noise),
                by_starts.view(len(theta), -1),
            ],
            1,
        )
        loss, misfit, gradient = self.group.summed(loss, squares.sum(1) / total, gradient)
        return loss, misfit, gradient

    def _of(self, members: Tensor, windows: Windows) -> Windows:
        """Those of some members; as long as a search goes on with the same ones, found again."""
        if len(members) == len(self.batch.records):
            return windows
        if self._picked[0] is not windows:
            self._picked = windows, {}
        known, key = self._picked[1], tuple(members.tolist())
        found = known.pop(key, None)
        known[key] = of_members(windows, members, self.batch) if found is None else found
        if len(known) > PICKED:
            del known[next(iter(known))]  # what was not asked for the longest
        return known[key]

    def _gaps(
        self, ys: Tensor, starts: Tensor, noise: Tensor, windows: Windows, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B,) their part of the loss, and (J, d) its derivative by where windows end.

        Half-way through a doubling a gap is measured by the noise, which must not grow to make gaps cheap: it is held.
        """
        end, knot, member = windows.joints
        sd = noise.index_select(0, member)
        gap = (ys.flatten(0, 1).index_select(0, end) - starts.index_select(0, knot)) / sd
        mean = self._sum(gap.square().mean(1, keepdim=True), member, len(noise)).squeeze(1)
        weight = (self.continuity / count).index_select(0, member)[:, None] / gap.shape[1]
        return self.continuity * mean / count, 2 * gap * weight / sd

    def _aside(self, noise: Tensor, windows: Windows) -> Tensor:
        """(W, d): how far from its start a window is begun, on either side; signs of the states by the number of its knot."""
        knot = windows.start - windows.member * self.batch.knots
        sign = 1 - 2 * (knot[:, None] >> torch.arange(noise.shape[1])).bitwise_and(1)
        return sign * noise.index_select(0, windows.member) / math.sqrt(ROWS)

    def _paths(
        self,
        network: Tensor,
        starts: Tensor,
        windows: Windows,
        common: Tensor | None,
        derivative: bool,
        aside: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """(T, W, d), and the networks (W, size) and starts (W, d) that autograd leads them back to; none without windows.

        Args:
            network, starts: (B, size), and (B·knots, d).
            common: as of the windows of all processes, so that all step alike.
            aside: of the starts; then (T, 2 W, d), those on one side and those on the other.
        """
        if not len(windows.start):
            return network.new_zeros(*windows.y.shape), []
        rows, begin = network.index_select(0, windows.member), starts.index_select(0, windows.start)
        if aside is not None:
            windows, rows = windows.twice, rows.repeat(2, 1)
            begin = torch.cat([begin + aside, begin - aside])
        # The graphs of these short solves fit in memory, and stepping together saves half the time of a few where it can be done.
        options: dict[str, Any] = {
            "solver": "rk4",
            "max_step": self.max_step,
            "gradient": "backprop",
            "engine": "auto",
            "throw": False,
        }
        field, driven = windows.drive.into(self.networks.field)
        with torch.set_grad_enabled(derivative):
            args = self.networks.handed(rows.requires_grad_(derivative))
            begin.requires_grad_(derivative)
            own = any(driven.values())  # inputs and doses
            if own or common is None or len(begin) > TOGETHER:
                sol = solve(field, begin, windows.ts, args=args, batching="per_sample", **driven, **options)
            else:
                sol = solve(field, begin, common, args=args, batching=None, **options)
        self.evaluations += int(torch.as_tensor(sol.stats.evaluations).sum())
        return sol.ys, [rows, begin]

    @staticmethod
    def _sum(values: Tensor, member: Tensor, count: int) -> Tensor:
        """(W, d) summed over the windows of each member."""
        return values.new_zeros(count, values.shape[1]).index_add(0, member, values)


def _pulled(ys: Tensor, cotangents: Tensor, sources: list[Tensor]) -> tuple[Tensor, ...]:
    """Cotangents of paths -> of what they come from."""
    with torch.enable_grad():  # of a sum: handed cotangents, PyTorch loads a computer algebra to look at their sizes
        return torch.autograd.grad((ys * cotangents).sum(), sources, materialize_grads=True)
