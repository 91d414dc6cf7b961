"""Events: where along a solution a condition crosses zero, and what happens there.

`Event` is what a user writes. `Conditions` evaluates the conditions on flat states; `Watch` looks at every accepted
step for a crossing and locates it on the step's interpolant. The engine then takes that step again, to end at the
event, so an event is as accurate as a step and not as the interpolant; `Watch.correct` is the Newton step that closes
the difference between the two.

Everything here is vectorised over rows: one row where the whole state shares its steps, one a sample otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from isocline._types import Float, Tensor
from isocline.field import Layout

INNER = (0.25, 0.5, 0.75)  # where, inside a step, the conditions are looked at
CLOSE = 64  # spacings of time within which a condition that starts at zero may not cross back


@dataclass(frozen=True)
class Event:
    """Something that happens where `condition` crosses zero along the solution.

    Args:
        condition: `condition(t, y, *args)`, real and continuous: a tensor with one number, or (B,) with per-sample
            batching (`t` is then (B, 1, …, 1), as the field gets it). What it reaches is differentiable like what the
            field reaches.
        terminal: whether the solve (of that sample) ends there. None: yes, unless there is a `reset`.
        direction: +1 for crossings from negative to positive along the solve (backwards in time too), −1 for the
            others, 0 for both.
        reset: `reset(t, y, *args)` returns the state the solve goes on from, in the structure of `y`. None: it goes on
            from where it is.
        name: for messages.

    Raises:
        TypeError, ValueError: naming the setting that is wrong.

    Example:
        >>> import torch, isocline
        >>> fall = lambda t, y: torch.stack([y[1], torch.full_like(y[1], -9.8)])
        >>> ground = isocline.Event(lambda t, y: y[0], direction=-1)
        >>> y0 = torch.tensor([4.9, 0.0], dtype=torch.float64)
        >>> sol = isocline.solve(fall, y0, [0.0, 5.0], events=[ground])
        >>> sol.status.name, round(sol.event_ts[0].item(), 9), round(sol.event_ys[0, 1].item(), 9)
        ('EVENT', 1.0, -9.8)
    """

    condition: Callable[..., Any]
    terminal: bool | None = None
    direction: int = 0
    reset: Callable[..., Any] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for what in ("condition", "reset"):
            value = getattr(self, what)
            if not (callable(value) or (what == "reset" and value is None)):
                raise TypeError(
                    f"Event: {what} = {value!r}, expected a callable {what}(t, y, *args)"
                    f"{' or None' if what == 'reset' else ''}"
                )
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"Event: direction={self.direction!r}, expected +1, -1 or 0")
        if self.terminal and self.reset is not None:
            raise ValueError("Event: terminal=True and a reset; a solve that ends has no next state: drop one of them")
        object.__setattr__(self, "terminal", self.reset is None if self.terminal is None else bool(self.terminal))

    def label(self, index: int) -> str:
        """What messages call it."""
        return f"events[{index}]" if self.name is None else f"event {self.name!r}"


class Conditions:
    """The conditions and resets of all events on flat states.

    Args:
        events: E of them.
        layout: of the state.
        args: further arguments, those of the field. With per-sample batching they stay those of the whole batch, and
            so do tensors a condition has captured: conditions are always asked about the whole batch.
    """

    def __init__(self, events: Sequence[Event], layout: Layout, args: tuple[Any, ...]) -> None:
        self.events, self.layout, self.args = list(events), layout, args

    def _time(self, t: Tensor) -> Tensor:
        time = t.to(self.layout.time_dtype)
        return time.view(-1, *self.layout.time_tail) if t.dim() else time

    def value(
        self, index: int, t: Float[Tensor, "*batch"], y: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch"]:
        """Condition `index` at `t` (0-d or (B,)) on flat `y`; differentiable.

        Raises:
            ValueError: naming the event, what it returned and what was expected.
        """
        c = self.events[index].condition(self._time(t), self.layout.unflatten(y), *self.args)
        if not isinstance(c, Tensor) or not c.is_floating_point() or c.numel() != t.numel():
            got = f"{tuple(c.shape)} of {c.dtype}" if isinstance(c, Tensor) else type(c).__name__
            want = (
                "a tensor with one real number" if t.dim() == 0 else f"real numbers of shape ({len(t)},), one a sample"
            )
            raise ValueError(
                f"{self.events[index].label(index)}: its condition returned {got}, expected {want}, zero at the event "
                f"(write x - x_event, not x < x_event)"
            )
        return c.reshape(t.shape)

    def reset(
        self, index: int, t: Float[Tensor, "*batch"], y: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch state"]:
        """The state after event `index`, flat; differentiable."""
        reset = self.events[index].reset
        if reset is None:
            return y
        after = reset(self._time(t), self.layout.unflatten(y), *self.args)
        return self.layout.flatten(after, f"reset of {self.events[index].label(index)}")

    def rate(
        self, index: int, t: Float[Tensor, "*batch"], y: Float[Tensor, "*batch state"], slope: Tensor
    ) -> Float[Tensor, "*batch"]:
        """dc/dt along the solution, ∂c/∂t + ∂c/∂y · f, in float64; zero where autograd cannot see through it."""
        by_t = by_y = None
        with torch.inference_mode(False), torch.enable_grad():
            t, y = t.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
            try:
                c = self.value(index, t, y)
                if c.requires_grad:
                    by_t, by_y = torch.autograd.grad(c.sum(), [t, y], allow_unused=True)
            except RuntimeError:  # it has worked without autograd, so that is what it cannot do
                pass
        rate = torch.zeros_like(t.detach(), dtype=torch.float64)
        if by_t is not None:
            rate = rate + by_t
        return rate if by_y is None else rate + (by_y * slope).sum(-1)


class Stretch(NamedTuple):
    """An accepted step of R rows: from `t` to `t1` (R,), `y` to `y1` (R, N), stages h·k (s, R, N), b_i(θ) as a function."""

    t: Tensor
    t1: Tensor
    y: Tensor
    y1: Tensor
    hk: Tensor
    weights: Callable[[Tensor], Tensor]

    def time(self, theta: Tensor) -> Tensor:
        """Of the fraction θ (R,) of the step; exactly t1 at 1."""
        return torch.lerp(self.t, self.t1, theta.to(self.t.dtype))

    def state(self, theta: Tensor) -> Tensor:
        """The interpolant there: (R, N)."""
        return self.y + torch.einsum("rs,srn->rn", self.weights(theta.to(self.y.dtype)), self.hk)


class Found(NamedTuple):
    """Crossings in one step.

    Attributes:
        rows: (R,) where there is one.
        t: (R,) the time of the first.
        fired: (E, R) the events that happen then; several where they coincide to rounding.
        stuck: (R,) where an event follows itself faster than time can resolve.
    """

    rows: Tensor
    t: Tensor
    fired: Tensor
    stuck: Tensor


class Watch:
    """Looks at each accepted step for the first crossing of every row.

    The sign of each condition is followed through the values at the ends of the step and at `INNER` points of its
    interpolant; where |c| has a minimum among them, also at the minimum. So two crossings closer than a quarter of a
    step may be missed where c has no visible minimum between (limit max_step then).

    Where a condition is zero at the start of the stretch, as after an event, its sign is that of its rate of change,
    so neither a root the solve starts at is reported again nor the next one missed.

    Args:
        conditions: of all events.
        fired: (E, B) the events this solve was started after; None for none.
        residual: (E, B) values of the conditions at that event.
    """

    def __init__(self, conditions: Conditions, fired: Tensor | None = None, residual: Tensor | None = None) -> None:
        self.conditions = conditions
        self.count = len(conditions.events)
        self.fired, self.residual = fired, residual
        self.ids: Tensor | None = None  # which samples the rows are; None: all of them
        self.sign: Tensor | None = None  # (E, R); None before the first step
        self.at_zero: Tensor | None = None  # (E, R) where the row has not moved yet from a zero it starts at
        self.value: Tensor
        self.inner: Tensor | None = None  # weights of the interpolant at the inner points
        self.thetas: Tensor
        self.base: tuple[Tensor, Tensor]
        self.direction: Tensor

    def keep(self, rows: Tensor, ids: Tensor) -> None:
        """Only `rows` stay, the samples `ids`."""
        self.ids = ids
        if self.sign is not None:
            self.sign, self.value = self.sign.index_select(1, rows), self.value.index_select(1, rows)
            self.at_zero = None if self.at_zero is None else self.at_zero.index_select(1, rows)

    # ---- evaluation -----------------------------------------------------------------------------------------------
    def _whole(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As the conditions take them: 0-d and (N,), or of the whole batch."""
        if self.conditions.layout.batch is None:
            return t[0], y[0]
        if self.ids is None:
            return t, y
        return self.base[0].index_copy(0, self.ids, t), self.base[1].index_copy(0, self.ids, y)

    def _rows(self, value: Tensor) -> Tensor:
        """Back to the rows present, in float64."""
        value = value.detach().to(torch.float64).reshape(-1)
        return value if self.ids is None else value.index_select(0, self.ids)

    def one(self, index: int, t: Tensor, y: Tensor) -> Tensor:
        """Condition `index` of the rows: (R,)."""
        return self._rows(self.conditions.value(index, *self._whole(t, y)))

    def all(self, t: Tensor, y: Tensor) -> Tensor:
        """All conditions: (E, R)."""
        whole = self._whole(t, y)
        return torch.stack([self._rows(self.conditions.value(i, *whole)) for i in range(self.count)])

    def rate(self, index: int, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        """dc/dt along the solution: (R,)."""
        at_t, at_y = self._whole(t, y)
        _, slope = self._whole(t, slope)
        return self._rows(self.conditions.rate(index, at_t, at_y, slope))

    def resolution(self, t: Tensor, t1: Tensor) -> Tensor:
        """To what an event is located: four spacings of time in the precision states are carried in, (R,)."""
        return 4 * torch.finfo(self.conditions.layout.dtype).eps * torch.maximum(t.abs(), t1.abs())

    def close(self, step: Stretch) -> Tensor:
        """How long after a zero it starts at a condition may still be zero to rounding, (R,)."""
        return CLOSE / 4 * self.resolution(step.t, step.t1)

    # ---- one step -------------------------------------------------------------------------------------------------
    def begin(self, t: Tensor, y: Tensor) -> None:
        """All B rows at their start; what a condition sees of samples no longer present."""
        self.base = t, y.nan_to_num(0.0, 0.0, 0.0)
        self.thetas = torch.tensor([0.0, *INNER, 1.0], dtype=torch.float64, device=t.device)
        self.direction = torch.tensor(
            [float(e.direction) for e in self.conditions.events], dtype=torch.float64, device=t.device
        ).unsqueeze(1)

    def look(self, step: Stretch, active: Tensor | None = None, final: Tensor | None = None) -> Found | None:
        """The first crossing of every row in its step, or None.

        Args:
            step: just accepted, by some rows at least.
            active: (R,) rows that accepted it; None for all.
            final: (R,) rows whose solve ends with it: a zero there counts as a crossing.
        """
        with torch.no_grad():
            return self._look(step, active, final)

    def _look(self, step: Stretch, active: Tensor | None, final: Tensor | None) -> Found | None:
        if self.sign is None:
            self.start(step)
        assert self.sign is not None
        values = torch.cat([self.value.unsqueeze(0), self._ahead(step)])
        ahead = values * self.sign
        quiet, dips = ahead[1:] > 0, (ahead[1:-1] < ahead[:-2]) & (ahead[1:-1] < ahead[2:])
        if active is not None:
            quiet, dips = quiet | ~active, dips & active
        is_quiet, dipping = torch.stack([quiet.all(), dips.any()]).tolist()
        thetas = self.thetas.view(-1, 1, 1).expand_as(values)
        if dipping:
            thetas, values = self._with_minima(step, thetas, values, dips)
            is_quiet = False
        if is_quiet:
            self._advance(step, active, values[-1], self.sign)
            return None
        taken, left, right, sign = self._scan(thetas, values, final)
        if active is not None:
            taken = taken & active
        stuck = torch.zeros_like(taken)
        if self.at_zero is not None:
            taken, left, right, stuck = self._leave_zero(step, self.at_zero, taken, left, right)
        self._advance(step, active, values[-1], sign)  # all: who has an event is not looked at again
        return self._locate(step, taken, left, right, stuck) if bool((taken | stuck).any()) else None

    def _ahead(self, step: Stretch) -> Tensor:
        """All conditions at the inner points and the end of the step, as few operations as possible: (4, E, R)."""
        if self.inner is None:
            self.inner = step.weights(self.thetas[1:-1].to(step.y.dtype))
        inner = torch.einsum("ms,srn->mrn", self.inner, step.hk).add_(step.y)
        states = torch.cat([inner, step.y1.unsqueeze(0)])
        times = torch.lerp(step.t, step.t1, self.thetas[1:, None].to(step.t.dtype))
        if self.conditions.layout.batch is None:
            times, states = times.squeeze(1), states.squeeze(1)
        values = []
        for t, y in zip(times.unbind(0), states.unbind(0), strict=True):
            whole = (t, y) if t.dim() == 0 else self._whole(t, y)
            values += [self.conditions.value(i, *whole) for i in range(self.count)]
        stacked = torch.stack(values).to(torch.float64).view(len(times), self.count, -1)
        return stacked if self.ids is None else stacked.index_select(2, self.ids)

    def _advance(self, step: Stretch, active: Tensor | None, value: Tensor, sign: Tensor) -> None:
        """The rows `active` are at the end of their step."""
        assert self.sign is not None
        if active is not None:
            value, sign = torch.where(active, value, self.value), torch.where(active, sign, self.sign)
        if self.at_zero is not None:
            # After a step of a few spacings a condition is still zero to rounding: its sign is not to be trusted yet.
            stays = self.at_zero & ((step.t1 - step.t).abs() <= self.close(step))
            if active is not None:
                stays = stays | (self.at_zero & ~active)
            sign = torch.where(stays, self.sign, sign)
            self.at_zero = stays if bool(stays.any()) else None
        self.value, self.sign = value, sign

    @torch.no_grad()
    def start(self, step: Stretch) -> None:
        """Before the first step: value and sign, and where a condition is zero as far as can be told."""
        self.value = self.all(step.t, step.y)
        slope = step.hk[0] / (step.t1 - step.t).to(step.y.dtype).unsqueeze(1)
        rate = torch.stack([self.rate(i, step.t, step.y, slope) for i in range(self.count)])
        size = self.value.abs()
        zero = size <= rate.abs() * self.close(step)
        if self.fired is not None and self.residual is not None:
            zero = zero | (self._picked(self.fired) & (size <= 4 * self._picked(self.residual).abs()))
        ahead = rate.sign() * (step.t1 - step.t).sign()  # the sign it is about to take, whichever way time runs
        self.sign = torch.where(zero, ahead, self.value.sign()).nan_to_num(0.0)
        self.at_zero = zero

    def _picked(self, by_sample: Tensor) -> Tensor:
        return by_sample if self.ids is None else by_sample.index_select(1, self.ids)

    def _scan(self, thetas: Tensor, values: Tensor, final: Tensor | None) -> tuple[Tensor, Any, Any, Tensor]:
        """The first wanted change of sign of each condition: where, (θ, c) on its two sides, and the sign at the end."""
        assert self.sign is not None
        sign = self.sign
        last = left = right = thetas[0], values[0]
        taken = torch.zeros_like(sign, dtype=torch.bool)
        for j in range(1, len(values)):
            here = values[j].sign().nan_to_num(0.0)
            if j == len(values) - 1 and final is not None:
                here = torch.where((here == 0) & final, -sign, here)
            take = (here * sign < 0) & (self.direction * here >= 0) & ~taken
            left = torch.where(take, last[0], left[0]), torch.where(take, last[1], left[1])
            right = torch.where(take, thetas[j], right[0]), torch.where(take, values[j], right[1])
            taken = taken | take
            moved = here != 0
            last = torch.where(moved, thetas[j], last[0]), torch.where(moved, values[j], last[1])
            sign = torch.where(moved, here, sign)
        return taken, left, right, sign

    def _with_minima(self, step: Stretch, thetas: Tensor, values: Tensor, dips: Tensor) -> tuple[Tensor, Tensor]:
        """One more point a condition: the first minimum of |c| among the points, by three parabolas.

        A minimum that touches zero to rounding is left as touching.
        """
        assert self.sign is not None
        first = dips.to(torch.int8).argmax(0).unsqueeze(0)  # (1, E, R): the minimum is at point first + 1
        where = dips.any(0)
        x = [thetas.gather(0, first + k)[0] for k in range(3)]
        c = [(values * self.sign).gather(0, first + k)[0] for k in range(3)]
        noise = 16 * torch.finfo(self.conditions.layout.time_dtype).eps * torch.maximum(c[0].abs(), c[2].abs())
        for _ in range(3):
            d1, d2 = (x[1] - x[0]) * (c[1] - c[2]), (x[1] - x[2]) * (c[1] - c[0])
            vertex = x[1] - 0.5 * ((x[1] - x[0]) * d1 - (x[1] - x[2]) * d2) / (d1 - d2)
            vertex = torch.where(where & vertex.isfinite(), vertex, x[1])
            vertex = torch.minimum(torch.maximum(vertex, x[0]), x[2])
            value = self._each(step, vertex) * self.sign
            value = torch.where(where, value, c[1])
            right = vertex > x[1]
            lower = value < c[1]
            x = [
                torch.where(right, torch.where(lower, x[1], x[0]), torch.where(lower, x[0], vertex)),
                torch.where(lower, vertex, x[1]),
                torch.where(right, torch.where(lower, x[2], vertex), torch.where(lower, x[1], x[2])),
            ]
            c = [
                torch.where(right, torch.where(lower, c[1], c[0]), torch.where(lower, c[0], value)),
                torch.where(lower, value, c[1]),
                torch.where(right, torch.where(lower, c[2], value), torch.where(lower, c[1], c[2])),
            ]
            where = where & (c[1] > 0) & (x[2] > x[0])
            if not bool(where.any()):
                break
        lowest = torch.where(c[1] < -noise, c[1], c[1].clamp(min=0.0)) * self.sign
        at_point = values.gather(0, first + 1)
        touches = dips.any(0) & (at_point * self.sign < 0) & (at_point.abs() <= noise)
        values = values.scatter(0, first + 1, torch.where(touches, 0.0, at_point))
        thetas, order = torch.cat([thetas, x[1].unsqueeze(0)]).sort(dim=0, stable=True)
        return thetas, torch.cat([values, lowest.unsqueeze(0)]).gather(0, order)

    def _each(self, step: Stretch, theta: Tensor) -> Tensor:
        """Every condition at its own θ (E, R)."""
        return torch.stack([self.one(i, step.time(x), step.state(x)) for i, x in enumerate(theta)])

    def _leave_zero(
        self, step: Stretch, at_zero: Tensor, taken: Tensor, left: Any, right: Any
    ) -> tuple[Tensor, Any, Any, Tensor]:
        """Brackets that begin at the zero the stretch starts from: moved off it, towards the crossing."""
        assert self.sign is not None
        stuck = torch.zeros_like(taken)
        close = self.close(step) / (step.t1 - step.t).abs()
        taken = taken & ~(at_zero & (close >= 1))
        open_ = taken & at_zero & (left[0] == 0)
        while bool(open_.any()):
            theta = torch.where(open_, right[0] / 8, left[0])
            value = torch.where(open_, self._each(step, theta), left[1])
            inside = open_ & (value * self.sign > 0)
            left = torch.where(inside, theta, left[0]), torch.where(inside, value, left[1])
            open_ = open_ & ~inside
            right = torch.where(open_, theta, right[0]), torch.where(open_, value, right[1])
            too_close = open_ & (theta < close)
            stuck, open_ = stuck | too_close, open_ & ~too_close
        taken = taken & ~stuck
        # Only what has just happened can be said to happen again at once.
        again = torch.zeros_like(stuck) if self.fired is None else self._picked(self.fired)
        return taken, left, right, stuck & again

    def _locate(self, step: Stretch, taken: Tensor, left: Any, right: Any, stuck: Tensor) -> Found:
        h = (step.t1 - step.t).abs()
        tolerance = (self.resolution(step.t, step.t1) / h).to(torch.float64)
        at = torch.full_like(left[0], torch.inf)
        for i in taken.any(1).nonzero().squeeze(1).tolist():
            bracket = left[0][i], right[0][i], left[1][i], right[1][i]
            root = find_root(lambda x, i=i: self.one(i, step.time(x), step.state(x)), *bracket, tolerance, taken[i])
            at[i] = torch.where(taken[i], root, torch.inf)
        first = at.amin(0)
        fired = taken & (at <= first + 2 * tolerance)
        rows = taken.any(0) & ~stuck.any(0)
        t = step.time(torch.where(rows, first, 1.0))
        return Found(rows, self.after(step.t, step.t1, t), fired & rows, stuck.any(0))

    @staticmethod
    def after(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
        """`t`, but at least one spacing after `start` and not beyond `end`."""
        low = torch.nextafter(start, end)
        return torch.minimum(torch.maximum(t, torch.minimum(low, end)), torch.maximum(low, end))

    def correct(self, found: Found, t: Tensor, y: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Newton's step to the zero on the solution itself, from the states `y` (R, N) where a step to `t` ended.

        Returns:
            t again, improved where that is more than rounding, and whether it was: (R,) both.
        """
        with torch.no_grad():
            delta = torch.zeros_like(t, dtype=torch.float64)
            first = found.fired.to(torch.int8).argmax(0)
            for i in range(self.count):
                here = found.rows & (first == i)
                if bool(here.any()):
                    move = -self.one(i, t, y) / self.rate(i, t, y, slope)
                    delta = torch.where(here & move.isfinite(), move, delta)
            moves = found.rows & (delta.abs() > self.resolution(t, t))
            return torch.where(moves, t + delta.to(t.dtype), t), moves


def find_root(
    f: Callable[[Tensor], Tensor],
    a: Float[Tensor, " rows"],
    b: Float[Tensor, " rows"],
    fa: Float[Tensor, " rows"],
    fb: Float[Tensor, " rows"],
    tolerance: Float[Tensor, " rows"],
    active: Tensor,
) -> Float[Tensor, " rows"]:
    """A zero of every row's function between a and b, where it changes sign, to `tolerance` in x.

    Inverse quadratic interpolation where that is safe, bisection elsewhere; the bracket always closes, however flat f.

    Source: T. R. Chandrupatla, Advances in Engineering Software 28 (1997) 145–149.

    Example:
        >>> x = torch.tensor([1.0, 1.0], dtype=torch.float64)
        >>> f = lambda x: x**3 - torch.tensor([0.5, 0.001], dtype=x.dtype)
        >>> find_root(f, 0 * x, x, f(0 * x), f(x), 1e-12 * x, x > 0).round(decimals=9)
        tensor([0.7937, 0.1000], dtype=torch.float64)
    """
    x1, f1, x2, f2 = b, fb, a, fa
    t = torch.full_like(a, 0.5)
    going = active & (fb != 0)
    # Bisection alone needs 53; the interpolation can at worst double that.
    for _ in range(110):
        if not bool(going.any()):
            break
        x = torch.where(going, x1 + t * (x2 - x1), x1)
        fx = torch.where(going, f(x), f1)
        same = fx.sign() == f1.sign()
        x3, f3 = torch.where(same, x1, x2), torch.where(same, f1, f2)
        x2, f2 = torch.where(going & ~same, x1, x2), torch.where(going & ~same, f1, f2)
        x1, f1 = x, fx
        share = 0.5 * tolerance / (x2 - x1).abs()
        going = going & (share < 0.5) & (f1 != 0)
        xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
        smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        step = f1 / (f2 - f1) * f3 / (f2 - f3) + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
        t = torch.where(smooth & step.isfinite(), step, 0.5)
        t = torch.minimum(torch.maximum(t, share), 1 - share)
    return torch.where(f1.abs() <= f2.abs(), x1, x2)
