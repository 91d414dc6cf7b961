"""What the continuous adjoints share that go back along the stored solution: y(t) itself, and the way from jump to jump."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace

import torch

from isocline._types import Float, Tensor
from isocline.engines import eager
from isocline.engines.eager import Problem, Trajectory, shared
from isocline.engines.eager.dense import dense_path
from isocline.gradients.base import GradientError, Inputs
from isocline.gradients.intervals import Interval, intervals_before
from isocline.gradients.way_back import Plan, WayBack
from isocline.solution import DensePath, Status


class AlongPath(Plan):
    """The way forward with all its steps kept, and the way back along them; a subclass goes over one interval."""

    def __init__(self, method: WayBack, problem: Problem, inputs: Inputs) -> None:
        super().__init__(method, problem, inputs)
        self.solver = method.back_solver(problem)

    def solve(self, y0: Tensor) -> Tensor:
        trajectory = eager.integrate(replace(self.problem, dense=True), y0)
        self.problem.start = None
        self.inputs.field.batch_args = self.problem.field.batch_args
        self.path = Path(dense_path(self.problem, trajectory, y0)[0], self.problem)
        if not self.problem.dense:
            trajectory.steps, trajectory.dense_y, trajectory.dense_hk = [], [], []
        self.stats, self.trajectory = trajectory.stats, trajectory
        return trajectory.ys

    def pull_back(self, ys: Tensor, grad_ys: Tensor) -> list[Tensor | None]:
        """From the last observation to the first: jump, then solve to the one before."""
        a = torch.zeros_like(ys[0])
        totals: list[Tensor | None] = [None] * len(self.inputs.sources)
        count = self.inputs.field.evaluations
        for index in range(len(ys) - 1, 0, -1):
            a = a + torch.where(ys[index].isnan(), 0.0, grad_ys[index])  # the jump; nothing where not reached
            for interval in intervals_before(index, ys, self.problem):
                part = interval.part(a)
                if bool(part.any()):
                    a = interval.merge(a, self.back_over(interval, part, totals))
        self.stats.evaluations_backward += self.inputs.field.evaluations - count
        return [a + grad_ys[0], *totals]

    def back_over(self, interval: Interval, a: Tensor, totals: list[Tensor | None]) -> Tensor:
        """a from the interval's end to its start; the parameters' share is added to `totals`.

        The adjoint is linear in a: it is to be solved for a of size one, so that the gradient does not depend on the
        scale of the loss through the absolute tolerance.
        """
        raise NotImplementedError

    def integrate(self, interval: Interval, problem: Problem, start: Tensor) -> Trajectory:
        """The adjoint problem of an interval, solved; GradientError where that fails."""
        result = shared.integrate(problem, start)
        if result.status is not Status.SUCCESS:
            raise GradientError(
                f"{self.name}: integrating a(t) backwards from t = {interval.t1:.6g} to t = {interval.t0:.6g} failed: "
                f"{result.status.message}. Use gradient='checkpointed', or for a stiff system "
                f"GaussAdjoint with an implicit solver"
            )
        return result


class Path:
    """y(t) of the way forward, at one time, or at one of every sample.

    Args:
        dense: its steps.
        problem: they are of.
    """

    def __init__(self, dense: DensePath, problem: Problem) -> None:
        self.weights, self.y, self.hk = dense.weights[0], dense.y.detach(), dense.hk.detach()
        self.shared = dense.rows is None
        if dense.rows is None:
            index = torch.arange(len(dense.ends), device=self.y.device)
            starts, ends, self.index = dense.starts[None], dense.ends[None], index[None]
        else:
            starts, ends, self.index = dense.starts, dense.ends, dense.rows
        self.starts, self.ends = starts, ends
        self.sign = torch.where(ends[:, :1] >= starts[:, :1], 1.0, -1.0).to(ends.dtype)
        self.keys = (ends * self.sign).nan_to_num(nan=torch.inf)
        self.last = ((~ends.isnan()).sum(1, keepdim=True) - 1).clamp(min=0)
        self.times: list[float] = self.keys[0].tolist() if self.shared else []
        self.forward = self.times[0] if self.times else 0.0
        self.direction = float(self.sign[0]) if self.times else 1.0

    def of(self, interval: Interval) -> Path:
        """That of the samples an interval is of."""
        if self.shared:
            return self
        part = object.__new__(Path)
        part.__dict__.update(self.__dict__)
        for name in ("starts", "ends", "index", "sign", "keys", "last"):
            setattr(part, name, interval.part(getattr(self, name)))
        return part

    def at(self, t: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows state"]:
        """The interpolant, differentiable in t."""
        clock = t.reshape(-1, 1).to(self.keys.dtype)
        step = torch.minimum(torch.searchsorted(self.keys, (clock * self.sign).detach()), self.last)
        start, end = self.starts.gather(1, step), self.ends.gather(1, step)
        theta = ((clock - start) / (end - start)).to(self.y.dtype).squeeze(1)
        index = self.index.gather(1, step).squeeze(1)
        inside = torch.bmm(self.weights(theta).unsqueeze(1), self.hk.index_select(0, index)).squeeze(1)
        return (self.y.index_select(0, index) + inside).reshape(*t.shape, -1)

    def cuts(self, interval: Interval, s: float, s1: float) -> list[float]:
        """From s to s1 on the clock, cut so that no piece is longer than the steps of the way forward there.

        Where these are the samples' own there are no common cuts: as many pieces as the busiest sample has steps.
        """
        if self.shared:
            low, high = sorted((s * self.direction, s1 * self.direction))
            inside = self.times[bisect_right(self.times, low) : bisect_left(self.times, high)]
            inside = [t * self.direction for t in inside]
            return [s, *(reversed(inside) if s1 * self.direction < s * self.direction else inside), s1]
        clock = torch.tensor([s, s1], dtype=self.keys.dtype, device=self.keys.device)
        times = torch.stack([interval.time(x) for x in clock], -1).reshape(len(self.keys), 2)
        places = torch.searchsorted(self.keys, times * self.sign)
        count = 1 + int((places[:, 1] - places[:, 0]).abs().max())
        return [s + (s1 - s) * k / count for k in range(count)] + [s1]
