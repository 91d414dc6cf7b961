"""Exogenous inputs u(t): signals known at knots, and what `solve` needs to know of their kinks.

All of them are piecewise polynomials in the time since the last knot. Their coefficients are computed from the values
once a solve, with a graph; what `f` is evaluated with is a look-up and Horner's rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from isocline._types import Tensor
from isocline.field import REAL_OF, Layout, VectorField


class Signal:
    """u(t) given by values at knots: `ZeroOrderHold`, `LinearInterpolation` or `CubicHermite`.

    Before the first knot the first value is held, after the last knot the last.

    Args:
        ts: knots, strictly increasing: (K,), or (B, K) one row a sample, NaN as padding at the end of a row.
        values: u there, floating point or complex: (K, …), or (B, K, …) one row a sample.
        per_sample: whether the first dimension of `values` is a batch. None: as the shapes say, (K, …) where they say
            both; `solve` asks for this where that may be wrong, with per-sample batching of K samples.

    Raises:
        TypeError, ValueError: naming the argument, what came, what was expected, what to try.

    Called with t, a number, a 0-d tensor, (T,) or (B, 1, …, 1): what `f` gets as its time. Returns, with V the shape
    of one value, V, (T, *V) or (B, …, *V) with dimensions of size 1 between, so that it broadcasts as t does. With a
    row a sample: (B, *V) for a 0-d t; otherwise every row is asked at its own time, (B,) or (B, 1, …, 1).
    Differentiable with respect to the values, the knots (not those of a hold) and t.

    Example:
        >>> u = ZeroOrderHold([0.0, 1.0, 3.0], torch.tensor([5.0, 7.0, 9.0]))
        >>> u(torch.tensor([-1.0, 0.0, 0.9, 1.0, 9.0]))
        tensor([5., 5., 5., 7., 9.])
    """

    def __init__(self, ts: Any, values: Any, per_sample: bool | None = None) -> None:
        self.values = as_values("values", values)
        self.ts = as_times(ts).to(self.values.device)
        self.per_sample, self.unclear = is_per_sample("values", self.ts, self.values, per_sample)
        check_times(self.ts, "ts")
        if not bool((self.values.detach().isfinite() | ~self._along(self.present)).all()):
            where = (~self.values.detach().isfinite() & self._along(self.present)).nonzero()[0].tolist()
            raise ValueError(f"values{where} is not finite: leave that knot out, signals do not fill gaps")

    @property
    def batch(self) -> int | None:
        """The number of samples of a signal with a row a sample, else None."""
        return len(self.values) if self.per_sample else None

    @property
    def shape(self) -> torch.Size:
        """Of one value."""
        return self.values.shape[2 if self.per_sample else 1 :]

    @property
    def present(self) -> Tensor:
        """Which knots are not padding, (K,) or (B, K)."""
        return ~self.ts.detach().isnan()

    def _along(self, x: Tensor) -> Tensor:
        """(K,) or (B, K), ready to be broadcast against the values."""
        return x.view(*x.shape, *[1] * len(self.shape))

    def kinks(self) -> tuple[Tensor, bool]:
        """The knots where u or a low derivative jumps, shaped as `ts`, and whether `f` must be asked on both sides."""
        # A knot that moves does what a jump does: ∂u/∂(knot) is one thing before it and another after.
        return self.ts.detach(), self.ts.requires_grad

    def table(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Knots (R, K) in `dtype`, inf as padding, and coefficients (R, K + 1, degree + 1, *V); R is 1 or B.

        Row 0 holds before the first knot, row k + 1 from knot k on, in powers of the time since.
        """
        ts = self.ts if self.ts.dim() == 2 else self.ts.unsqueeze(0)
        values = self.values if self.per_sample else self.values.unsqueeze(0)
        ts = ts.expand(len(values), -1)
        missing = ts.isnan()
        knots = torch.where(missing, torch.inf, ts).to(dtype).contiguous()
        last = (~missing).sum(1, keepdim=True) - 1
        # Padding goes on where the row ends, so that all arithmetic stays finite.
        column = torch.arange(ts.shape[1], device=ts.device)
        source = torch.minimum(column, last)
        ts = ts.gather(1, source) + (column - last).clamp(min=0).to(ts.dtype)
        tail = [1] * len(self.shape)
        index = source.view(*source.shape, *tail).expand(values.shape[0], -1, *self.shape)
        values = values.gather(1, index)
        pieces = self._pieces(ts, values, last.squeeze(1))
        inside = (column[:-1] < last).view(len(ts), -1, *tail)
        zeros = torch.zeros_like(values[:, :1])
        rows = [torch.cat([values[:, :1], values], 1)]
        rows += [torch.cat([zeros, torch.where(inside, piece, 0.0), zeros], 1) for piece in pieces]
        return knots, torch.stack(rows, 2)

    def _pieces(self, ts: Tensor, values: Tensor, last: Tensor) -> list[Tensor]:
        """Coefficients of (t − t_k), (t − t_k)², … between neighbouring knots, (R, K − 1, *V) each."""
        raise NotImplementedError

    def __call__(self, t: Any) -> Tensor:
        t = torch.as_tensor(t, device=self.values.device)
        if not t.is_floating_point():
            t = t.to(torch.float64)
        if any(size != 1 for size in t.shape[1:]):
            raise ValueError(f"t: shape {tuple(t.shape)}, expected a number, (T,) or (B, 1, …, 1)")
        if self.batch is not None and t.dim() and t.shape[0] != self.batch:
            raise ValueError(
                f"t: shape {tuple(t.shape)} for a signal of {self.batch} samples, expected a number or one time a "
                f"sample; for common times ask one after the other: torch.stack([signal(t) for t in ts])"
            )
        return evaluate(*self.table(t.dtype), t, self.per_sample)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(ts: {tuple(self.ts.shape)}, values: {tuple(self.values.shape)})"


class ZeroOrderHold(Signal):
    """u(t) = values[k] from knot k up to, not including, knot k + 1: a switch, a table of set points.

    In a `solve` its knots are jumps (`jump_ts`): stepped to exactly, `f` asked on the right side of each, in either
    direction of time.

    Args:
        ts, values, per_sample: as for every `Signal`; `ts` must not require grad.

    Raises:
        ValueError: also where `ts` requires grad: u does not depend on its knots between them.

    Example:
        >>> import isocline
        >>> heater = ZeroOrderHold([0.0, 1.0], torch.tensor([2.0, 0.0], dtype=torch.float64))
        >>> y0 = torch.zeros(1, dtype=torch.float64)
        >>> sol = isocline.solve(lambda t, y, u: u.expand(1), y0, [0.0, 3.0], inputs=heater)
        >>> round(sol.ys[-1].item(), 12)
        2.0
    """

    def __init__(self, ts: Any, values: Any, per_sample: bool | None = None) -> None:
        super().__init__(ts, values, per_sample)
        if self.ts.requires_grad:
            raise ValueError(
                "ts: the knots of a ZeroOrderHold have no gradient; use ts.detach(), or a LinearInterpolation with a "
                "steep ramp for a switch whose time is to be learned"
            )

    def kinks(self) -> tuple[Tensor, bool]:
        """All but the first knot: before that its value is held too."""
        return self.ts[..., 1:], True

    def _pieces(self, ts: Tensor, values: Tensor, last: Tensor) -> list[Tensor]:
        return []


class LinearInterpolation(Signal):
    """u(t) on straight lines between the values at the knots (a first-order hold).

    In a `solve` its knots are stepped to exactly (`step_ts`).

    Args:
        ts, values, per_sample: as for every `Signal`; both may require grad.

    Example:
        >>> u = LinearInterpolation([0.0, 2.0], torch.tensor([[0.0, 1.0], [4.0, 1.0]]))
        >>> u(0.5), u(torch.tensor([[1.0], [7.0]]))
        (tensor([1., 1.]), tensor([[2., 1.],
                [4., 1.]]))
    """

    def _pieces(self, ts: Tensor, values: Tensor, last: Tensor) -> list[Tensor]:
        return [_secants(ts, values)[1]]


class CubicHermite(Signal):
    """u(t) on cubics with the values and the slopes du/dt at the knots: continuously differentiable.

    In a `solve` its knots are stepped to exactly (`step_ts`): d²u/dt² jumps there.

    Args:
        ts, values, per_sample: as for every `Signal`.
        slopes: du/dt at the knots, shaped as `values`. None: of the parabola through a knot and its neighbours, third
            order in the spacing. "backward": of the straight line from the knot before: u(t) then depends on no value
            later than the knot that follows t, as is asked for where values arrive one by one.

    Source: C. de Boor, A Practical Guide to Splines (1978), chapter IV; the causal choice: J. Morrill, P. Kidger,
    L. Yang, T. Lyons, Neural Controlled Differential Equations for Online Prediction Tasks (2021), section 3.4.

    Example:
        >>> ts = torch.linspace(0, 3, 7, dtype=torch.float64)
        >>> CubicHermite(ts, ts**2)(torch.tensor(0.7, dtype=torch.float64))
        tensor(0.4900, dtype=torch.float64)
    """

    def __init__(self, ts: Any, values: Any, slopes: Any = None, per_sample: bool | None = None) -> None:
        super().__init__(ts, values, per_sample)
        if isinstance(slopes, str) and slopes != "backward":
            raise ValueError(f"slopes: {slopes!r}, expected None, 'backward' or a tensor shaped as values")
        if slopes is not None and not isinstance(slopes, str):
            slopes = as_values("slopes", slopes)
            if slopes.shape != self.values.shape or slopes.dtype != self.values.dtype:
                raise ValueError(
                    f"slopes: shape {tuple(slopes.shape)}, {slopes.dtype}, expected those of values, "
                    f"{tuple(self.values.shape)}, {self.values.dtype}"
                )
        self.slopes = slopes

    def _pieces(self, ts: Tensor, values: Tensor, last: Tensor) -> list[Tensor]:
        h, secants = _secants(ts, values)
        if isinstance(self.slopes, Tensor):
            slopes = self.slopes if self.per_sample else self.slopes.unsqueeze(0)
            slopes = torch.where(self._along(self.present), slopes, 0.0)
        elif self.slopes is None:
            slopes = _parabolic_slopes(h, secants, last)
        else:
            slopes = torch.cat([secants[:, :1], secants], 1)
        left, right = slopes[:, :-1], slopes[:, 1:]
        return [left, (3 * secants - 2 * left - right) / h, (left + right - 2 * secants) / h**2]


def _secants(ts: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Spacings, ready to be broadcast, and slopes of the straight lines between knots."""
    h = ts.diff(dim=1).to(REAL_OF.get(values.dtype, values.dtype))
    h = h.view(*h.shape, *[1] * (values.dim() - 2))
    return h, values.diff(dim=1) / h


def _parabolic_slopes(h: Tensor, secants: Tensor, last: Tensor) -> Tensor:
    """(R, K, …) slopes of the parabola through each knot and its neighbours, at both ends through the nearest three."""
    if secants.shape[1] < 2:
        return (
            torch.cat([secants[:, :1], secants], 1)
            if secants.shape[1]
            else secants.new_zeros(secants.shape[0], 1, *secants.shape[2:])
        )
    bend = secants.diff(dim=1) / (h[:, :-1] + h[:, 1:])  # second divided differences
    inner = secants[:, :-1] + h[:, :-1] * bend
    first = secants[:, :1] - h[:, :1] * bend[:, :1]
    slopes = torch.cat([first, inner, secants[:, -1:] + h[:, -1:] * bend[:, -1:]], 1)
    # Rows that end before the table does, and those with two knots, through which there is only a line.
    column = torch.arange(slopes.shape[1], device=h.device)
    row = torch.arange(len(slopes), device=h.device)
    segment, knot = (last - 1).clamp(min=0), (last - 2).clamp(min=0)
    h = h.expand(len(slopes), *h.shape[1:])
    end = secants[row, segment] + h[row, segment] * bend[row, knot]
    tail = [1] * (slopes.dim() - 2)
    at_end = (column == last.unsqueeze(1)).view(len(slopes), -1, *tail)
    line = (last < 2).view(-1, 1, *tail)
    return torch.where(line, secants[:, :1], torch.where(at_end, end.unsqueeze(1), slopes))


def evaluate(knots: Tensor, coefficients: Tensor, t: Tensor, per_sample: bool) -> Tensor:
    """u at `t` from a `Signal.table`; shapes as `Signal` says.

    Args:
        knots: (R, K), in the dtype of `t`: rounded as times are, so that a time rounded onto a knot lies at it.
        coefficients: (R, K + 1, degree + 1, *V).
        t: 0-d, (T,) or (B, 1, …, 1).
        per_sample: row i of the table belongs to row i of t.
    """
    shape, degree = coefficients.shape[3:], coefficients.shape[2] - 1
    times = t.reshape(-1).contiguous()
    if per_sample:
        times = times.expand(len(knots)).unsqueeze(1)
        index = torch.searchsorted(knots, times.contiguous(), right=True)
        flat = coefficients.flatten(2)
        row = flat.gather(1, index.unsqueeze(2).expand(-1, -1, flat.shape[2])).view(-1, degree + 1, *shape)
    else:
        index = torch.searchsorted(knots[0], times, right=True)
        row = coefficients[0].index_select(0, index)
    u = row.select(1, degree)
    if degree:
        start = (index - 1).clamp_(min=0)
        start = knots.gather(1, start) if per_sample else knots[0].index_select(0, start)
        since = (times - start).to(REAL_OF.get(u.dtype, u.dtype)).view(-1, *[1] * len(shape))
        for power in range(degree - 1, -1, -1):
            u = u * since + row.select(1, power)
    if not t.dim():
        return u if per_sample else u.squeeze(0)
    return u.view(-1, *[1] * (t.dim() - 1 - len(shape)), *shape)


@dataclass
class Kinks:
    """Where inputs make `f` jump or bend.

    Attributes:
        step_ts, jump_ts: common to all samples.
        row_step_ts, row_jump_ts: (B, J) by sample, NaN as padding, or None.
    """

    step_ts: list[float]
    jump_ts: list[float]
    row_step_ts: Tensor | None = None
    row_jump_ts: Tensor | None = None


def drive(f: Callable[..., Any], inputs: Any, layout: Layout, args: tuple[Any, ...]) -> tuple[VectorField, Kinks]:
    """`f(t, y, u, *args)` as a field, and the kinks of u; without inputs `f(t, y, *args)`, and none.

    The tables of the signals become the first argument of the field: gradients and the picking of samples then treat
    them as they treat `args`.

    Raises:
        TypeError, ValueError: naming the signal of `inputs` that does not fit.
    """
    kinks = Kinks([], [])
    if inputs is None:
        return VectorField(f, layout, args), kinks
    signals, spec = pytree.tree_flatten(inputs)
    tables, forms = [], []
    rows: dict[bool, list[Tensor]] = {False: [], True: []}
    for i, signal in enumerate(signals):
        name = "inputs" if len(signals) == 1 else f"inputs, signal {i}"
        if not isinstance(signal, Signal):
            raise TypeError(
                f"{name}: expected a ZeroOrderHold, LinearInterpolation or CubicHermite, got {type(signal).__name__}; "
                f"what is constant goes into args, and f can call a function of t itself"
            )
        if signal.values.device != layout.device:
            raise ValueError(f"{name}: on {signal.values.device}, expected the device of y0, {layout.device}")
        if layout.batch is not None and signal.batch not in (None, layout.batch):
            raise ValueError(f"{name}: {signal.batch} samples, expected the {layout.batch} of y0")
        if signal.unclear and layout.batch == signal.ts.shape[-1]:
            raise ValueError(
                f"{name}: values of shape {tuple(signal.values.shape)} may be one row a knot or one a sample; say which "
                f"with per_sample=False or per_sample=True"
            )
        tables.append(signal.table(layout.time_dtype))
        forms.append(signal.per_sample)
        times, jumps = signal.kinks()
        if layout.batch is not None and times.dim() == 2:
            rows[jumps].append(times.to(layout.device, layout.clock_dtype))
        else:
            common = sorted(set(times[~times.isnan()].double().tolist()))
            (kinks.jump_ts if jumps else kinks.step_ts).extend(common)
    if rows[False]:
        kinks.row_step_ts = torch.cat(rows[False], 1)
    if rows[True]:
        kinks.row_jump_ts = torch.cat(rows[True], 1)
    field = VectorField(Driven(f, spec, tuple(forms)), layout, (tuple(tables), *args))
    if layout.batch is not None:
        field.batch_args = frozenset(j for i, own in enumerate(forms) if own for j in (2 * i, 2 * i + 1))
    return field, kinks


@dataclass(frozen=True, eq=False)
class Driven:
    """`field(t, y, u, *args)` as one of the tables of its signals instead of their values u.

    Attributes:
        spec: the structure of u.
        forms: which signals have a row a sample.
    """

    field: Callable[..., Any]
    spec: pytree.TreeSpec
    forms: tuple[bool, ...]

    def values(self, t: Tensor, tables: Any) -> list[Tensor]:
        """u at t, signal by signal."""
        return [evaluate(knots, table, t, own) for (knots, table), own in zip(tables, self.forms, strict=True)]

    def __call__(self, t: Tensor, y: Any, tables: Any, *args: Any) -> Any:
        return self.field(t, y, pytree.tree_unflatten(self.values(t, tables), self.spec), *args)


# ---- what comes in ------------------------------------------------------------------------------------------------
def as_values(name: str, value: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected a tensor or a sequence of numbers, got {type(value).__name__}") from error
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise TypeError(f"{name}: dtype {tensor.dtype}, expected floating point or complex; use .float() or .double()")
    return tensor


def as_times(ts: Any) -> Tensor:
    if not isinstance(ts, Tensor):
        try:
            ts = torch.as_tensor(ts, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"ts: expected a tensor or a sequence of numbers, got {type(ts).__name__}") from error
    if ts.is_complex() or ts.dtype == torch.bool:
        raise TypeError(f"ts: dtype {ts.dtype}, expected real numbers")
    ts = ts if ts.is_floating_point() else ts.double()
    if ts.dim() not in (1, 2) or not ts.numel():
        raise ValueError(f"ts: shape {tuple(ts.shape)}, expected (K,) or (B, K) with at least one time")
    return ts


def is_per_sample(name: str, ts: Tensor, values: Tensor, said: bool | None) -> tuple[bool, bool]:
    """Whether `values` has a row a sample, and whether that is a guess; ValueError where the shapes do not fit."""
    count = ts.shape[-1]
    as_rows = values.dim() >= 2 and values.shape[1] == count and (ts.dim() == 1 or values.shape[0] == ts.shape[0])
    as_common = ts.dim() == 1 and values.dim() >= 1 and values.shape[0] == count
    rows = not as_common if said is None else said
    if not (as_rows if rows else as_common):
        want = f"({count}, …) or (B, {count}, …)" if ts.dim() == 1 else f"({ts.shape[0]}, {count}, …)"
        raise ValueError(
            f"{name}: shape {tuple(values.shape)} with ts of shape {tuple(ts.shape)}, expected {want}"
            + (f"; or leave out per_sample={said}" if said is not None else "")
        )
    return rows, said is None and as_rows and as_common


def check_times(ts: Tensor, name: str) -> None:
    """Strictly increasing rows, finite, NaN at their ends only; ValueError naming the entry that is wrong."""
    rows = ts.detach().reshape(-1, ts.shape[-1])
    missing = rows.isnan()
    allowed = ts.dim() == 2
    ordered = (rows.diff(dim=1) > 0) | missing[:, 1:]
    good = ordered.all(1) & ~(missing[:, :-1] & ~missing[:, 1:]).any(1) & ~missing[:, 0] & ~rows.isinf().any(1)
    good &= allowed | ~missing.any(1)
    if bool(good.all()):
        return
    i = int((~good).nonzero()[0])
    row = rows[i].tolist()
    place = f"{name}[{i}]" if allowed else name
    for k, t in enumerate(row):
        if t in (float("inf"), -float("inf")) or (t != t and (not allowed or k == 0)):
            raise ValueError(f"{place}[{k}] = {t}: expected a finite number")
        if k and t == t and row[k - 1] != row[k - 1]:
            raise ValueError(f"{place}: NaN is padding and may only follow the last time; found {row}")
        if k and not (t > row[k - 1] or t != t):
            raise ValueError(
                f"{place}: must be strictly increasing, but {row[k - 1]:g} is followed by {t:g} at position {k}; sort "
                f"the times and drop repeats"
            )
    raise AssertionError(row)
