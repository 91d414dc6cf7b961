"""What a solve returns: times, states, statistics, status; and the error it raises."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from isocline._types import Float, Tensor
from isocline.field import Layout


class Status(enum.IntEnum):
    """How a solve (of one sample, with per-sample batching) ended.

    Example:
        >>> Status.SUCCESS.message
        'reached the end'
    """

    SUCCESS = 0
    NON_FINITE = 1
    BLOW_UP = 2
    STEP_TOO_SMALL = 3
    MAX_STEPS = 4
    EVENT = 5
    EVENTS_ACCUMULATE = 6
    MAX_EVENTS = 7

    @property
    def success(self) -> bool:
        """Whether it is no failure: the end, or a terminal event, was reached."""
        return self in (Status.SUCCESS, Status.EVENT)

    @property
    def message(self) -> str:
        """One plain phrase."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.SUCCESS: "reached the end",
    Status.NON_FINITE: "the field or the state became NaN or infinite",
    Status.BLOW_UP: "the solution grew without bound",
    Status.STEP_TOO_SMALL: "the step became too small to advance time",
    Status.MAX_STEPS: "max_steps was used up",
    Status.EVENT: "ended at a terminal event",
    Status.EVENTS_ACCUMULATE: "an event follows itself faster than time can resolve",
    Status.MAX_EVENTS: "max_events was used up",
}


def failed(status: Any) -> Tensor:
    """Where a status, or a tensor of them, is a failure."""
    status = torch.as_tensor(status)
    return (status != int(Status.SUCCESS)) & (status != int(Status.EVENT))


class Count(int):
    """The largest of the counts of several samples, and all of them.

    Attributes:
        each: (B,) of every sample; None where they were not counted apart.

    Example:
        >>> count = Count.of(torch.tensor([7, 13]))
        >>> count, count + 1, count.each
        (13, 14, tensor([ 7, 13]))
    """

    each: Tensor | None = None

    @staticmethod
    def of(each: Any) -> Any:
        """From a tensor of counts; a number stays one."""
        if not isinstance(each, Tensor):
            return each
        found = Count(max(each.tolist()) if len(each) < 100 else int(each.max()))
        found.each = each
        return found


@dataclass
class Stats:
    """Counts of one solve; with per-sample batching int64 tensors of shape (B,), else integers. Where `engine="auto"` chose that
    samples step on their own they are integers too, the largest of any sample, with those of all as `Count.each`.

    Attributes:
        evaluations: of `f` on the way forward, those of rejected steps and of the first step's rule included.
        evaluations_backward: of `f` (each with its vector-Jacobian product) on the way back, all backward passes
            added up; an int in either batching. 0 before `backward()`, and for plain backpropagation.
        accepted, rejected: steps.
        jacobians: evaluated (implicit solvers).

    Example:
        >>> import torch, isocline
        >>> isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], solver="rk4", step=0.5).stats.evaluations
        8
    """

    evaluations: Any = 0
    accepted: Any = 0
    rejected: Any = 0
    evaluations_backward: int = 0
    jacobians: Any = 0


@dataclass
class Solution:
    """The result of `solve`.

    Attributes:
        ts: observation times, (T,) or with ragged per-sample batching (B, T).
        ys: states there, time axis first: (T, *y0.shape), a tensor or the pytree of `y0`. Where a solve stopped early
            (`throw=False`) or a time is padding, NaN.
        stats: counts.
        status: a `Status`; with per-sample batching an int64 tensor (B,) of them.
        accepted_ts: with `dense=True` the ends of the accepted steps, t0 first: a tensor (n + 1,), or a list of
            B such tensors.
        message: the diagnosis, empty after success.
        event_ts: times of all events, in order: (K,), or (K, B) with per-sample batching, NaN where a sample had fewer.
            Differentiable, as is everything that depends on them.
        event_ys: states there, before any reset: (K, *y0.shape), a tensor or the pytree of `y0`.
        saved: what was asked for with `save`: a `Saved(ts, values)`, or a dict of them.
        event_index: int64 (K,) or (K, B): which of `events` each was, −1 where there was none. None without `events`.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -y, torch.ones(2), [0.0, 1.0], dense=True)
        >>> sol.ys.shape, sol.at(0.5).shape, sol.at(torch.linspace(0, 1, 7)).shape
        (torch.Size([2, 2]), torch.Size([2]), torch.Size([7, 2]))
    """

    ts: Tensor
    ys: Any
    stats: Stats
    status: Any
    message: str = ""
    accepted_ts: Any = None
    event_ts: Any = None
    event_ys: Any = None
    event_index: Any = None
    saved: Any = None
    _dense: DensePath | None = field(default=None, repr=False)
    _alike: Any = field(default=None, repr=False, compare=False)  # what it was resolved to, for the next

    @property
    def success(self) -> bool:
        """Whether every sample reached its end, or a terminal event."""
        return not bool(failed(self.status).any())

    def at(self, t: Any) -> Any:
        """The state at any time of the interval, from the interpolant of the step it lies in.

        Args:
            t: a number, a 0-d tensor, or a vector (M,) of times, in any order; with per-sample batching they are
                common to all samples.

        Returns:
            The state, with a leading axis M for a vector; differentiable with respect to `t` and to whatever the
            solve is. With per-sample batching NaN where `t` is outside a sample's interval.

        Raises:
            ValueError: without `dense=True`, or for a time outside the interval solved.
        """
        return self._interpolate(t, derivative=False)

    def derivative(self, t: Any) -> Any:
        """dy/dt of the interpolant at `t`, shaped as `at(t)`.

        Example:
            >>> import torch, isocline
            >>> sol = isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], dense=True)
            >>> bool((sol.derivative(0.5) + sol.at(0.5)).abs() < 1e-4)
            True
        """
        return self._interpolate(t, derivative=True)

    def _interpolate(self, t: Any, derivative: bool) -> Any:
        if self._dense is None:
            raise ValueError("Solution.at needs the steps between the observations: call solve(..., dense=True)")
        layout = self._dense.layout
        times = torch.as_tensor(t, dtype=layout.clock_dtype, device=layout.device)
        if times.dim() > 1:
            raise ValueError(f"t: shape {tuple(times.shape)}, expected a number or a vector of times")
        if torch.isnan(times).any():
            raise ValueError("t: contains NaN")
        flat = self._dense.evaluate(times.reshape(-1), derivative)
        return self._dense.layout.unflatten(flat if times.dim() else flat[0])


class DensePath:
    """All accepted steps of one solve, ready to be interpolated.

    Args:
        layout: of the state.
        weights: θ (M, …) -> b_i(θ) (M, …, s) and the same for their derivatives.
        starts, ends: of the steps, (n,) on the clock, or (B, n) padded with NaN.
        y: states at the starts: (n, N), or (n_total, N).
        hk: h·k of the stages: (n, s, N), or (n_total, s, N).
        rows: per-sample batching: (B, n) index of a sample's step into the first dimension of `y` and `hk`.
    """

    def __init__(
        self,
        layout: Layout,
        weights: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
        starts: Tensor,
        ends: Tensor,
        y: Tensor,
        hk: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        self.layout = layout
        self.weights = weights
        self.starts, self.ends, self.y, self.hk, self.rows = starts, ends, y, hk, rows

    def evaluate(self, t: Float[Tensor, " times"], derivative: bool) -> Float[Tensor, "times *batch state"]:
        """(M,) times to (M, N) or (M, B, N)."""
        if self.rows is None:
            return self._shared(t, derivative)
        step, inside = self._locate_rows(t)
        index = self.rows.gather(1, step).t()  # (M, B)
        start, end = self.starts.gather(1, step).t(), self.ends.gather(1, step).t()
        values = self._combine(t[:, None], start, end, index, derivative)
        return torch.where(inside.t()[..., None], values, torch.nan)

    def _shared(self, t: Tensor, derivative: bool) -> Tensor:
        sign = 1.0 if len(self.ends) == 0 or self.ends[-1] >= self.starts[0] else -1.0
        first, last = (self.starts[0], self.ends[-1]) if len(self.ends) else (t.new_tensor(0.0), t.new_tensor(-1.0))
        outside = ((t - first) * sign < 0) | ((t - last) * sign > 0)
        if outside.any():
            raise ValueError(
                f"t: {t[outside][0].item():g} is outside the interval that was solved, [{first.item():g}, {last.item():g}]"
            )
        step = torch.searchsorted(self.ends * sign, (t * sign).detach()).clamp(max=len(self.ends) - 1)
        return self._combine(t, self.starts[step], self.ends[step], step, derivative)

    def _combine(self, t: Tensor, start: Tensor, end: Tensor, index: Tensor, derivative: bool) -> Tensor:
        h = end - start
        theta = ((t - start) / h).to(self.y.dtype)
        if derivative:
            weights = self.weights[1](theta) / h.to(self.y.dtype)[..., None]
            return torch.einsum("...s,...sn->...n", weights, self.hk[index])
        return self.y[index] + torch.einsum("...s,...sn->...n", self.weights[0](theta), self.hk[index])

    def _locate_rows(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Step of every (sample, time) and whether the time lies in the sample's interval: (B, M) both."""
        sign = torch.where(self.ends[:, :1] >= self.starts[:, :1], 1.0, -1.0)
        ends = torch.nan_to_num(self.ends * sign, nan=torch.inf)
        times = (t.detach() * sign).expand(len(ends), -1).contiguous()
        last = (~self.ends.isnan()).sum(1, keepdim=True) - 1
        step = torch.minimum(torch.searchsorted(ends, times), last.clamp(min=0))
        final = torch.where(last >= 0, ends.gather(1, last.clamp(min=0)), -torch.inf)
        return step, (times >= (self.starts * sign)[:, :1]) & (times <= final)


class SolveError(RuntimeError):
    """A solve that did not reach its end.

    Attributes:
        status: a `Status`, or the int64 tensor (B,) of all samples' statuses.
        solution: the partial `Solution`: rows reached are right, the others NaN.

    Example:
        >>> import torch, isocline
        >>> try:
        ...     isocline.solve(lambda t, y: y * y, torch.ones(1), [0.0, 2.0])
        ... except SolveError as error:
        ...     print(error.status.name, error.solution.ys[0].item())
        BLOW_UP 1.0
    """

    def __init__(self, message: str, status: Any, solution: Solution) -> None:
        super().__init__(message)
        self.status = status
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:
        """For processes that hand their errors on."""
        return type(self), (str(self), self.status, self.solution)
