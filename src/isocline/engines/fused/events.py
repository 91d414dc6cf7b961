"""Events of fused solves.

The machine knows no conditions: it steps past the events, and leaves the steps it took. All of them are looked at together where
the eager engine looks at each, at its end and `INNER` points; one in which a condition may cross zero is then looked at as there,
by the same `Watch`, and taken again until it ends at the event. At last every sample is solved over the steps before its event
and the one that ends there, which is the solve that has gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.control import PID, Controller
from isocline.engines.eager.problem import Failure, Problem, Trajectory
from isocline.engines.eager.row_events import CORRECTIONS
from isocline.engines.fused.path import Steps
from isocline.events import INNER, Found, Stretch, Watch
from isocline.solution import Status
from isocline.solvers.tableau import Tableau

FAR = 1e300  # steps as long as may be
AHEAD, FURTHER = 32, 3  # steps attempted before the first look, and how many times as many before each other one
AT_ONCE = 1 << 18  # states shown to a condition


@dataclass(frozen=True)
class Given(Controller):
    """Steps from stop to stop."""


def until_event(run: Any, finish: Callable[[Any, Problem], Trajectory]) -> Trajectory:
    """A solve of which each sample ends at its first event; the problem's times are cut, in place, to end there.

    Args:
        run: a `Run` of it, not done yet.
        finish: does a `Run`, which steps where the first one did; and the problem that this one solves, for a way back that
            chooses its steps anew.
    """
    problem = run.problem
    plain = replace(problem, watch=None)
    with torch.no_grad():
        found, evaluations = _search(run)
    ended, status, rejected = found.hit | found.stuck, found.ahead.counts.status.clone(), found.ahead.counts.rejected
    if bool(ended.any()):
        status[found.hit], status[found.stuck] = int(Status.EVENT), int(Status.EVENTS_ACCUMULATE)
        ts, hit, cut = problem.ts, found.hit.unsqueeze(1), found.cut(problem.ts)
        through = (status == int(Status.SUCCESS)).unsqueeze(1)
        plain.ts = torch.where(through, ts, cut)
        whole = finish(run.over(found.again(plain.ts)), plain)
        reached = through | hit | (plain.ts == ts)
        if not bool(reached.all()):
            ys = whole.ys.reshape(-1, *whole.y_end.shape)
            whole.ys = torch.where(reached.t().unsqueeze(2), ys, torch.nan)
        ts.copy_(torch.where(hit, cut, ts))
        whole.status, whole.stats.rejected = status, rejected
    else:
        whole = finish(run.over(plain), plain)
    whole.stats.evaluations = whole.stats.evaluations + evaluations
    whole.event, whole.failure = found.fired, Failure(found.t, whole.y_end, found.h)
    return whole


def _search(run: Any) -> tuple[_Look, Tensor]:
    """Solves until the first event of every sample is behind it; what was found, and evaluations by sample."""
    problem, ahead, most, evaluations = run.problem, run, AHEAD, 0
    while True:
        most = ahead.call.control.max_steps = min(most, problem.max_steps)
        ahead.solve(want_tape=True)
        found = _Look(ahead)
        evaluations = evaluations + found.evaluations
        open_ = (ahead.counts.status == int(Status.MAX_STEPS)) & ~found.hit & ~found.stuck
        if most == problem.max_steps or not bool(open_.any()):
            return found, evaluations
        most, ahead = most * FURTHER, run.over(problem)


class _Look:
    """The first event of every sample in the steps that a solve took.

    Args:
        ahead: a `Run`, done, with its tape.

    Attributes:
        hit, stuck: (B,) who ends at an event, who at one that follows itself too fast.
        fired: (E, B) which of the events.
        t, h: (B,) when and with which step each sample ends.
        evaluations: (B,)
    """

    def __init__(self, ahead: Any) -> None:
        self.ahead, self.problem = ahead, ahead.problem
        self.watch = Watch(*(getattr(self.problem.watch, name) for name in ("conditions", "fired", "residual")))
        ts, batch = self.problem.ts, ahead.counts.samples
        self.start, self.y0 = ts[:, 0].clone(), ahead.y0
        self.end = ts.gather(1, (~ts.isnan()).sum(1, keepdim=True) - 1).squeeze(1)
        counts = ahead.counts
        self.t, self.h, self.evaluations = counts.t.to(ts.dtype), counts.h, counts.evaluations.clone()
        self.hit, self.stuck = torch.zeros(2, batch, dtype=torch.bool)
        self.fired = torch.zeros(self.watch.count, batch, dtype=torch.bool)
        self.in_step = torch.zeros(batch, dtype=torch.int64)  # which of its steps holds the event
        if not int(ahead.counts.accepted.max()) or not ahead.call.control.max_steps:
            return
        self.steps, self.place, self.ends = _table(ahead)
        self.curve = _curve(self.problem.solver.tableau, ahead.y0.dtype)
        starts, count = self.steps.t[self.place].unsqueeze(2), self.place.shape[1]
        times = torch.lerp(starts, self.ends.unsqueeze(2), self.curve.nodes.double()).flatten(1)
        again = ahead.over(self.again(torch.cat([self.start.unsqueeze(1), times], 1)))
        # (K, P, B, N): at the curve's points of every step.
        self.states = again.solve()[1:].unflatten(0, (count, -1))
        self.evaluations += again.counts.evaluations
        self.watch.begin(self.start, self.y0)
        every = len(self.curve.nodes) // (len(INNER) + 1)
        times = times.t().unflatten(0, (count, -1))
        self._find(self._values(*(x[:, every - 1 :: every].flatten(0, 1) for x in (times, self.states))))
        self._correct()

    def again(self, ts: Tensor) -> Problem:
        """The problem at other times, by the steps that were taken."""
        steps = {"step_ts": [], "row_step_ts": self.ends, "controller": Given()}
        return replace(self.problem, ts=ts, watch=None, **steps)

    def cut(self, ts: Tensor) -> Tensor:
        """Times (B, T), the first of each that is not before its end being that, and the last."""
        sign = torch.where(self.end >= self.start, 1.0, -1.0)
        before = (ts * sign.unsqueeze(1) < (self.t * sign).unsqueeze(1)).sum(1, keepdim=True)
        column = torch.arange(ts.shape[1])
        return torch.where(column == before, self.t.unsqueeze(1), ts.masked_fill(column > before, torch.nan))

    # ---- where ------------------------------------------------------------------------------------------------------
    def _values(self, t: Tensor, y: Tensor) -> Tensor:
        """All conditions at times (M, B), NaN where there is nothing, and states there: (M, E, B)."""
        conditions, count = self.watch.conditions, self.watch.count
        (t0, y0), none = self.watch.base, t.isnan()
        t, y = torch.where(none, t0, t), torch.where(none.unsqueeze(2), y0, y)

        def all_of(t: Tensor, y: Tensor) -> Tensor:
            return torch.stack([conditions.value(i, t, y) for i in range(count)]).to(torch.float64)

        try:
            return torch.func.vmap(all_of, chunk_size=max(1, AT_ONCE // t.shape[1]))(t, y)
        except RuntimeError:  # of what looks at numbers, or writes into tensors
            return torch.stack([all_of(*each) for each in zip(t, y, strict=True)])

    def _find(self, values: Tensor) -> None:
        """The first event of every sample, from the conditions (4K, E, B) inside and at the end of each of K steps."""
        watch, there = self.watch, ~self.ends.isnan().t()
        start = self._stretch(torch.zeros_like(self.in_step))
        slope = self.problem.field.at(self.steps.low[self.place[:, 0]], start.y)
        watch.start(start._replace(hk=(slope * (start.t1 - start.t).to(slope.dtype).unsqueeze(1)).unsqueeze(0)))
        values = values.view(len(there), len(INNER) + 1, *values.shape[1:])
        before = torch.cat([watch.value.unsqueeze(0), values[:-1, -1]])
        along = torch.cat([before.unsqueeze(1), values], 1)
        size = along.abs()
        dips = (size[:, 1:-1] < size[:, :-2]) & (size[:, 1:-1] < size[:, 2:])
        calm = ((along > 0).all(1) | (along < 0).all(1)) & ~dips.any(1)
        loud = there & ~calm.all(1)
        step, column = torch.zeros_like(self.in_step), torch.arange(len(there)).unsqueeze(1)
        while True:
            if watch.at_zero is not None:  # its sign is not to be trusted yet
                loud = loud | (there & (column == step) & watch.at_zero.any(0))
            waits = loud & (column >= step) & ~(self.hit | self.stuck)
            active = waits.any(0)
            if not bool(active.any()):
                return
            at = waits.to(torch.int8).argmax(0)
            step = torch.where(active, at + 1, step)
            watch.value = before.gather(0, at.expand(1, *before.shape[1:])).squeeze(0)
            stretch = self._stretch(at)
            found = watch.look(stretch, active, stretch.t1 == self.end)
            if found is not None:
                self._note(found, at, stretch)

    def _stretch(self, step: Tensor) -> Stretch:
        """A step of every sample."""
        sample = torch.arange(len(step))
        at, points = self.place[sample, step], self.states[step, :, sample].transpose(0, 1)
        y = self.steps.y[at]
        return Stretch(self.steps.t[at], self.steps.t1[at], y, points[-1], points - y, self.curve.weights)

    def _note(self, found: Found, step: Tensor, stretch: Stretch) -> None:
        self.hit, self.stuck = self.hit | found.rows, self.stuck | found.stuck
        self.fired = self.fired | (found.fired & found.rows)
        self.in_step = torch.where(found.rows, step, self.in_step)
        self.t = torch.where(found.rows, found.t, torch.where(found.stuck, stretch.t, self.t))

    def _correct(self) -> None:
        """Takes the steps that hold events again, until they end there; in several where one would not be accurate enough."""
        at = self.place.gather(1, self.in_step.unsqueeze(1)).squeeze(1)
        start, far, y0 = self.steps.t[at], self.steps.t1[at], self.steps.y[at]
        controller = self.problem.controller
        at_once = replace(controller, first_step=FAR) if isinstance(controller, PID) else Given()
        moves, parts = self.hit, self.ends[:, :0]
        for tries in reversed(range(CORRECTIONS)):
            if not bool(moves.any()):
                break
            ts = torch.stack([start, torch.where(moves, self.t, torch.nan)], 1)
            again = self.ahead.over(replace(self.again(ts), row_step_ts=ts[:, :0], controller=at_once), y0)
            y = again.solve(want_tape=True)[1]
            self.evaluations += again.counts.evaluations + moves
            if int(again.counts.accepted.max()) > 1:
                parts = torch.cat([parts, _table(again)[2]], 1)
            if not tries:
                break
            t, y = torch.where(moves, self.t, self.start), torch.where(moves.unsqueeze(1), y, self.y0)
            slope = self.problem.field.at(t, y)
            better, moves = self.watch.correct(Found(moves, t, self.fired, ~moves), t, y, slope)
            self.t = torch.where(moves, Watch.after(start, far, better), self.t)
            parts = parts.masked_fill(moves.unsqueeze(1), torch.nan)
        self.ends = torch.cat([self.ends, parts], 1)


def _table(run: Any) -> tuple[Steps, Tensor, Tensor]:
    """The accepted steps of a solve with its tape; which of them are those of each sample, and their ends, NaN for none: (B, K)."""
    steps, column = Steps(run), torch.arange(int(run.counts.accepted.max()))
    place = (steps.first.unsqueeze(1) + column).clamp(max=len(steps.t) - 1)
    return steps, place, steps.t1[place].masked_fill(column >= run.counts.accepted.unsqueeze(1), torch.nan)


class _Curve(NamedTuple):
    """A step's interpolant through its points: y(θ) = y(0) + Σ_j w_j(θ) (y(θ_j) − y(0)), w_j(θ) = Π_i (θ − θ_ji) / (θ_j − θ_ji).

    Attributes:
        nodes: θ_j (P,), evenly spaced, `INNER` among them, the last one 1; at least as many as the interpolant's degree.
        others: θ_ji, 0 and all nodes but θ_j: (P, P).
        gaps: θ_j − θ_ji.
    """

    nodes: Tensor
    others: Tensor
    gaps: Tensor

    def weights(self, theta: Tensor) -> Tensor:
        """w_j(θ) for θ (…): (…, P)."""
        return ((theta[..., None, None] - self.others) / self.gaps).prod(-1)


def _curve(tableau: Tableau, dtype: torch.dtype) -> _Curve:
    """Of a method's steps."""
    quarters = len(INNER) + 1
    return _kept_curve(-(-max(map(len, tableau.dense)) // quarters) * quarters, dtype)


@lru_cache
def _kept_curve(count: int, dtype: torch.dtype) -> _Curve:
    with torch.inference_mode(False):
        points = torch.arange(count + 1, dtype=dtype) / count
        others = torch.stack([torch.cat([points[:j], points[j + 1 :]]) for j in range(1, count + 1)])
        return _Curve(points[1:], others, points[1:, None] - others)
