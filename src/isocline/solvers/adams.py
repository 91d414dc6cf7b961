"""The Adams step: the integral of a polynomial through slopes of the past, at whatever times they are.

With θ from 0 to 1 over a step of length h, slopes f_0 (at its start), f_1, f_2, … are known at x_0 = 0 > x_1 > x_2 > …, the
steps before it in units of h. P interpolates q of them:

    P(θ) = Σ_j ℓ_j(θ) f_j,    y₁ = y + h ∫₀¹ P    (Hairer, Nørsett & Wanner I, III.1 and III.5).

The ℓ_j come as products of differences of times: each is accurate to a few roundings, whatever the steps. What the
engines see of P are its values at fixed nodes in [0, 1], of which y₁ and the interpolant are fixed sums.

With the slope f* that is then found at the end, P becomes P + δ Ω, δ = f* − P(1): with Ω zero at x_0 … x_{q−1}, one at 1,
the polynomial through one point more; with Ω zero at x_0 … x_{q−2} alone, the corrector.

Where the past is too short, at the start and after a jump, an explicit Runge–Kutta step makes it: the interpolant of
order p, asked at p nodes, has slopes through which goes one of order p + 1 ("bootstrapping", W. H. Enright, K. R. Jackson,
S. P. Nørsett & P. G. Thomsen, ACM Trans. Math. Softw. 12 (1986)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import cos, pi, prod
from typing import Any

import torch

from isocline._types import Float, Tensor
from isocline.control import PID
from isocline.field import VectorField
from isocline.solvers.interpolants import interpolating
from isocline.solvers.memory import MemoryWorkspace, Remembering, StepRows

HIGHEST = 12
CENTER = 0.5  # of the nodes: polynomials of degree 12 in θ − ½ lose two digits, in θ six
GROWTH = 2.0  # of h in one step: beyond it the products of differences amplify what is in the past
# Gauss–Legendre on [0, 1], 7 nodes, exact for polynomials of degree 13.
GAUSS = (
    (0.02544604382862074, 0.06474248308443485),
    (0.12923440720030278, 0.13985269574463833),
    (0.2970774243113014, 0.19091502525255947),
    (0.5, 0.2089795918367347),
    (0.7029225756886986, 0.19091502525255947),
    (0.8707655927996972, 0.13985269574463833),
    (0.9745539561713793, 0.06474248308443485),
)


@dataclass(frozen=True)
class Adams(Remembering, abstract=True):
    """Base of the two families; a subclass says what is done with the slope found at the end of a step.

    Example:
        >>> from isocline.solvers import AdamsBashforth
        >>> AdamsBashforth(order=6).tableau.order, AdamsBashforth(order=6).tableau.explicit
        (6, True)
    """

    order: int = 4  # pyrefly: ignore[bad-override]
    start: int | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        for setting, value in (("order", self.order), ("start", self.first)):
            if not (isinstance(value, int) and 1 <= value <= (HIGHEST if setting == "order" else self.order)):
                most = HIGHEST if setting == "order" else f"order={self.order}"
                raise ValueError(f"{name}: {setting}={value!r}, expected a whole number from 1 to {most}")

    @property
    def first(self) -> int:
        """The order of the step that makes the past."""
        return self.order if self.start is None else self.start

    @cached_property
    def tableau(self) -> StepRows:  # pyrefly: ignore[bad-override]
        b = means(self.order)
        return StepRows(
            c=(0.0, *(c for p in range(2, self.first + 1) for c in nodes(p)), 1.0),
            order=min(self.order, self.first + 1),
            embedded_order=self.order,
            b=(*b, 0.0, 0.0),
            b_error=(*(0.0 for _ in b), 1.0, 0.0),
            dense=(*integrals(self.order), (0.0,), (0.0,)),
            dense_order=min(self.order, self.first),
            dense_center=CENTER,
        )

    def begin(self, y: Tensor) -> Tensor:
        return torch.cat((y[None], y.new_zeros(self.order - 1, *y.shape)))

    def note_after(self, note: Any, h: float) -> tuple[float, ...]:
        return (h, *(note or ()))[: self.order - 1]

    def workspace(self, y: Tensor, field: VectorField) -> AdamsWorkspace:
        return AdamsWorkspace(self, y, field)

    def taken(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        state: Tensor,
        k1: Tensor,
        paces: Tensor | None = None,
        note: Any = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """As `Remembering.taken`; the note is the steps before, the last one first: numbers, or (R, order − 1) with zeros
        where there were none, and then, unless everybody's past is complete, who is to start."""
        y = state[0]
        h: Any = scale if paces is None else paces
        slope = k1 if paces is None else k1 / torch.where(paces == 0, 1.0, paces)
        slopes = torch.cat((slope[None], state[1:]))
        if paces is None:
            steps = note or ()
            if len(steps) < self.first - 1:
                y1, inner, error, last = self._start(field, times, h, y, slope)
            else:
                past: Any = Past(self.order, [step / scale for step in steps], slopes[: len(steps) + 1])
                y1, inner, error, last = self._step(field, times[-1], h, y, slope, past)
        else:
            steps, *starting = note
            past = PastOfRows(steps, paces, slopes, complete=not starting)
            y1, inner, error, last = self._step(field, times[-1], h, y, slope, past)
            if starting:
                # Who does not start takes a start of no length: what is thrown away stays finite.
                begins = starting[0].unsqueeze(1)
                begun = self._start(field, times, torch.where(begins, h, 0.0), y, slope)
                pairs = zip(begun, (y1, inner, error, last), strict=True)
                y1, inner, error, last = (torch.where(begins, new, old) for new, old in pairs)
        after = torch.cat((y1[None], slopes[: self.order - 1]))
        rows = [*inner.unbind(0), error, last]
        return after, [k1, *(rows if paces is None else (row * paces for row in rows))]

    def _step(
        self, field: VectorField, time: Any, h: Any, y: Tensor, slope: Tensor, past: Past | PastOfRows
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From the slopes of the past: y₁, P at the nodes after the first, the error a unit of h, the slope at the end."""
        raise NotImplementedError

    def advanced(self, y: Tensor, h: Any, slope: Tensor, inner: Tensor) -> Tensor:
        """y + h ∫ P, of P at the first and at the other nodes."""
        first = means(self.order)[0]
        mean = self._weighted(inner, _later_means, self.order)
        mean = torch.add(mean, slope, alpha=first) if first else mean
        return torch.add(y, mean, alpha=h) if isinstance(h, float) else torch.addcmul(y, mean, h)

    def _start(
        self, field: VectorField, times: Sequence[Any], h: Any, y: Tensor, slope: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `_step`, without a past."""
        values, at, mean = slope[None], 1, slope
        for p in range(1, self.first):
            mean = self._weighted(values, _means_of_start, p)
            asked = y + h * self._weighted(values, partial_integrals, p)
            values = torch.stack([slope, *(field(times[at + i], x) for i, x in enumerate(asked.unbind(0)))])
            at += p
        error = self._weighted(values, _means_of_start, self.first) - mean
        inner = self._weighted(values, transfer, self.first, self.order)
        y1 = self.advanced(y, h, slope, inner)
        return y1, inner, error, field(times[-1], y1)

    @staticmethod
    def _weighted(values: Tensor, function: Any, *orders: int) -> Tensor:
        """Sums of `values` with weights that depend on orders alone; of a single row of weights the one sum."""
        weights = constant(function, *orders, dtype=values.dtype, device=values.device)
        return weighted(weights if weights.dim() == 2 else weights[None], values)[
            0 if weights.dim() == 1 else slice(None)
        ]


@cache
def nodes(count: int) -> tuple[float, ...]:
    """Those after the first of `count` nodes in [0, 1], the extrema of a Chebyshev polynomial; of one node, the end.

    Example:
        >>> nodes(1), nodes(2), nodes(3)
        ((1.0,), (1.0,), (0.49999999999999994, 1.0))
    """
    return (*((1 - cos(pi * i / (count - 1))) / 2 for i in range(1, count - 1)), 1.0)


def all_nodes(count: int) -> tuple[float, ...]:
    """The nodes of the rows of a step; the first row of a single one has no weight."""
    return nodes(1) if count == 1 else (0.0, *nodes(count))


@cache
def integrals(count: int) -> tuple[tuple[float, ...], ...]:
    """∫₀^θ ℓ_i of the rows of a step, as polynomials in θ − ½ counted from θ = 0."""
    polynomials = interpolating([c - CENTER for c in all_nodes(count)])
    return ((0.0,), *polynomials) if count == 1 else polynomials


@cache
def means(count: int) -> tuple[float, ...]:
    """∫₀¹ ℓ_i.

    Example:
        >>> means(1), means(2)
        ((0.0, 1.0), (0.5, 0.5))
    """
    return tuple(_over(row, 1.0) for row in integrals(count))


def _later_means(count: int) -> tuple[float, ...]:
    return means(count)[1:]


def _means_of_start(count: int) -> tuple[float, ...]:
    return means(count)[count == 1 :]


def _over(polynomial: Sequence[float], theta: float) -> float:
    """Its increase from 0 to θ."""
    return sum(a * ((theta - CENTER) ** power - (-CENTER) ** power) for power, a in enumerate(polynomial, start=1))


@cache
def partial_integrals(count: int) -> tuple[tuple[float, ...], ...]:
    """∫₀^c ℓ_i over the `count` values of a start's polynomial, at the nodes c of the next one."""
    polynomials = integrals(count)[count == 1 :]
    return tuple(tuple(_over(row, c) for row in polynomials) for c in nodes(count + 1))


@cache
def transfer(count: int, into: int) -> tuple[tuple[float, ...], ...]:
    """The values at the nodes of `into` after the first, from those at the `count` nodes of a start."""
    if count == into:
        return tuple(tuple(float(i == j + 1) for i in range(count)) for j in range(count - 1)) or ((1.0,),)
    known = (0.0, *nodes(count)) if count > 1 else (0.0,)
    return tuple(tuple(prod((c - b) / (a - b) for b in known if b != a) for a in known) for c in nodes(into))


class Past:
    """Where the slopes of the past are, and what follows of it for one step.

    Args:
        order: of the method.
        steps: before this one, the last one first, in units of h.
        like: past slopes (q, …), for dtype and device.
    """

    def __init__(self, order: int, steps: Sequence[float], like: Tensor) -> None:
        self.at, self.like = nodes(order), like
        self.x = [0.0]
        for step in steps:
            self.x.append(self.x[-1] - step)

    def extrapolated(self) -> Tensor:
        """P at the nodes after the first, (m, …)."""
        turned = [prod(a - b for b in self.x if b != a) for a in self.x]
        weights = []
        for c in self.at:
            whole = prod(c - a for a in self.x)
            weights.append([whole / ((c - a) * w) for a, w in zip(self.x, turned, strict=True)])
        return weighted(self.like.new_tensor(weights), self.like)

    def error(self) -> float:
        """∫ Ω, Ω zero at all points of the past."""
        return sum(w * _omega(g, self.x) for g, w in GAUSS)

    def corrector(self) -> tuple[Tensor, float]:
        """Its Ω at the nodes after the first, and the share of δ that is its error (Milne)."""
        *points, last = self.x
        lift = self.like.new_tensor([_omega(c, points) for c in self.at])
        share = sum(w * (g - 1) * _omega(g, points) for g, w in GAUSS) / (1 - last)
        return lift.view(-1, *[1] * (self.like.dim() - 1)), share


def _omega(theta: float, points: Sequence[float]) -> float:
    return prod((theta - a) / (1 - a) for a in points)


class PastOfRows:
    """The same of rows, each with its own.

    Args:
        steps: (R, order − 1), zeros where there were none.
        h: (R, 1).
        like: past slopes (order, R, N).
        complete: whether there are no zeros among the steps of rows that move.
    """

    def __init__(self, steps: Tensor, h: Tensor, like: Tensor, complete: bool) -> None:
        self.like, self.constants = like, Constants.of(len(like), like.dtype, like.device)
        still = h == 0  # their weights nobody uses, but they must be finite
        steps = torch.where(still, 1.0, steps / torch.where(still, 1.0, h))
        self.x = torch.cat((torch.zeros_like(h), steps.cumsum(1).neg_()), 1)
        self.there = None if complete else torch.cat((torch.ones_like(still), steps != 0), 1)

    def extrapolated(self) -> Float[Tensor, "nodes rows state"]:
        there = None if self.there is None else self.there[:, None, :]
        between = self.x[:, :, None] - self.x[:, None, :]
        between = torch.where(self.constants.same if there is None else self.constants.same | ~there, 1.0, between)
        away = self.constants.at[:, None] - self.x[:, None, :]
        whole = (away if there is None else torch.where(there, away, 1.0)).prod(2, keepdim=True)
        weights = whole / (away * between.prod(2)[:, None, :])
        weights = weights if there is None else torch.where(there, weights, 0.0)
        return torch.bmm(weights, self.like.transpose(0, 1)).transpose(0, 1)

    def error(self) -> Float[Tensor, "rows 1"]:
        return (self._omega(self.constants.gauss, self.there) @ self.constants.share)[:, None]

    def corrector(self) -> tuple[Float[Tensor, "nodes rows 1"], Float[Tensor, "rows 1"]]:
        constants, points = self.constants, self.x[:, :-1]
        fewer, last = None, self.x[:, -1:]
        if self.there is not None:
            index = self.there.sum(1, keepdim=True) - 1
            points, fewer, last = self.x, self.there & (constants.place < index), self.x.gather(1, index)
        lift = self._omega(constants.at, fewer, points)
        milne = (self._omega(constants.gauss, fewer, points) * (constants.gauss - 1)) @ constants.share
        return lift.t()[:, :, None], milne[:, None] / (1 - last)

    def _omega(self, theta: Tensor, there: Tensor | None, points: Tensor | None = None) -> Tensor:
        """∏ (θ − x_j)/(1 − x_j) over the points that are there, (R, m)."""
        x = (self.x if points is None else points)[:, None, :]
        ratios = (theta[:, None] - x) / (1 - x)
        return (ratios if there is None else torch.where(there[:, None, :], ratios, 1.0)).prod(2)


@dataclass(frozen=True)
class Constants:
    """Nodes and weights as tensors."""

    at: Tensor
    gauss: Tensor
    share: Tensor
    same: Tensor  # (q, q)
    place: Tensor  # (q,)

    @staticmethod
    @cache
    def of(order: int, dtype: torch.dtype, device: torch.device) -> Constants:
        with torch.inference_mode(False):
            values = (nodes(order), *zip(*GAUSS, strict=True))
            at, gauss, share = (torch.tensor(v, dtype=dtype, device=device) for v in values)
            same, place = torch.eye(order, dtype=torch.bool, device=device), torch.arange(order, device=device)
            return Constants(at, gauss, share, same, place)


@cache
def constant(function: Any, *sizes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights that depend on orders alone, as a tensor."""
    with torch.inference_mode(False):
        return torch.tensor(function(*sizes), dtype=dtype, device=device)


def weighted(weights: Float[Tensor, "some values"], values: Float[Tensor, "values *state"]) -> Tensor:
    """Σ_j w_ij v_j, (some, *state)."""
    return weights @ values if values.dim() == 2 else (weights @ values.flatten(1)).view(-1, *values.shape[1:])


class AdamsWorkspace(MemoryWorkspace):
    """The buffer, and the lengths of the steps before.

    Attributes:
        pace: the step last tried, a number or (R,).
        complete: whether every row's past is known to be; where it is not, some may have to start.
    """

    def __init__(self, solver: Adams, y: Tensor, field: VectorField) -> None:
        super().__init__(solver, y, field)
        self.adams = solver
        self.pace: Any = 0.0
        self._set(y.new_zeros(len(y), solver.order - 1) if self.by_row else None)

    def _set(self, before: Tensor | None) -> None:
        """The steps before, of rows."""
        if before is None:
            self.note = ()
            return
        self.before, first = before, self.adams.first
        complete = self.adams.order == 1 or bool((before[:, -1] != 0).all())
        if complete:
            self.note = (before,)
        else:
            starting = before[:, first - 2] == 0 if first > 1 else torch.zeros_like(self.fresh)
            self.note = (before, starting)

    def step(self, f: Any, times: Sequence[Any], scale: float, y: Tensor, paces: Tensor | None = None) -> Tensor:
        self.pace = scale if paces is None else paces.reshape(len(y), -1)[:, 0]
        return super().step(f, times, scale, y, paces)

    def steer(self, factor: Any, ratio: Any, accepted: Any, controller: PID) -> Any:
        return factor.clamp(max=GROWTH) if self.by_row else min(factor, GROWTH)

    def accept(self, y: Tensor, accepted: Tensor | None = None) -> None:
        super().accept(y, accepted)
        if not self.by_row:
            self.note = self.adams.note_after(self.note, self.pace)
            return
        after = torch.cat((self.pace.unsqueeze(1), self.before), 1)[:, : self.adams.order - 1]
        after = after if accepted is None else torch.where(accepted.unsqueeze(1), after, self.before)
        if len(self.note or ()) == 1:  # complete, and stays so
            self.before, self.note = after, (after,)
        else:
            self._set(after)

    def forget(self, rows: Tensor | None = None) -> None:
        super().forget(rows)
        self._set(None if rows is None else torch.where(rows.unsqueeze(1), 0.0, self.before))

    def go_on(self, before: MemoryWorkspace, rows: Tensor) -> None:
        super().go_on(before, rows)
        assert isinstance(before, AdamsWorkspace)
        self._set(before.before.index_select(0, rows))
