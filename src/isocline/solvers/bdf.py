"""Backward differentiation formulas, for steps of any length and of an order that follows the solution.

With θ from 0 to 1 over a step of length h, the polynomial of degree k through y₁ at θ = 1 and y at the last k steps' ends
x_0 = 0 > x_1 > … has the slope h f(t₁, y₁) at θ = 1 (Hairer, Nørsett & Wanner I, III.1 and III.5). In the unknown z = y₁ − y
and the differences d_j = y − y_{n−j} that are remembered, with ℓ_j the Lagrange polynomials of these points,

    α z − Σ_j d_j ℓ_j′(1) = h f(t₁, y + z),    α = ℓ_*′(1) = Σ_{j<k} 1/(1 − x_j).

z_p is the value at θ = 1 of the polynomial through the k + 1 last points of the past: the first guess, and z − z_p is what
the error is estimated by. Where steps are chosen, −κ γ_k (z − z_p) is added on the left, γ_k = Σ_{j≤k} 1/j, which allows
steps a quarter longer: the numerical differentiation formulas of Shampine & Reichelt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import factorial, isfinite
from typing import Any, NamedTuple

import torch

from isocline._types import Float, Int, Tensor
from isocline.control import PID
from isocline.field import VectorField
from isocline.solvers.adams import nodes
from isocline.solvers.implicit import attached
from isocline.solvers.memory import MemoryWorkspace, Remembering, StepRows
from isocline.solvers.newton import Newton
from isocline.solvers.radau_iia5 import RadauIIA5

HIGHEST = 5
KAPPA = (0.0, -0.1850, -1 / 9, -0.0823, -0.0415, 0.0)  # by order; Shampine & Reichelt, table 2
GAMMA = (0.0, 1.0, 3 / 2, 11 / 6, 25 / 12, 137 / 60, 49 / 20)
LOST = 0.5  # the change of h where Newton finds nothing
CENTER = 0.5
EQUAL = 1e-6  # relative difference of steps that count as equal
ONE = ((1.0,),)


@dataclass(frozen=True)
class BDF(Remembering):
    """Backward differentiation of orders 1 to 5, the order and the step chosen as the solution allows; implicit.

    One implicit equation a step whatever the order, so one Newton matrix of the size of y: for large or expensive stiff
    systems, at moderate tolerances. With per-sample batching each sample has its own order and step. Orders 1 and 2 are
    A-stable, 5 is A(51.8°)-stable: not for stiff oscillations.

    A step is accepted by its own error, and its length kept for as many steps as the order has, so that the next order
    and length are chosen by errors that mean something; of `PID` the tolerances, bounds, `safety` and `norm` count. A solve
    begins, and begins anew at jumps, with order 1. Between the ends of a step lies the polynomial of the formula.

    Fixed steps are all of order `max_order`, started by Radau IIA steps of order 5 and without the κ term. Gradients are
    those of the implicit equations, with respect to all that is remembered; never through Newton's iterations.

    Args:
        max_order: 1 to 5.

    Source: L. F. Shampine & M. W. Reichelt, The MATLAB ODE Suite, SIAM J. Sci. Comput. 18 (1997), section 2, here for
    steps of any length; G. D. Byrne & A. C. Hindmarsh, ACM Trans. Math. Softw. 1 (1975).

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -1000 * (y - torch.cos(t)), torch.zeros(1), [0.0, 1.0], solver="bdf")
        >>> round(sol.ys[-1].item(), 3), sol.stats.accepted < 100
        (0.541, True)
    """

    max_order: int = 5

    def __post_init__(self) -> None:
        if not (isinstance(self.max_order, int) and 1 <= self.max_order <= HIGHEST):
            raise ValueError(f"BDF: max_order={self.max_order!r}, expected a whole number from 1 to {HIGHEST}")

    @cached_property
    def tableau(self) -> StepRows:  # pyrefly: ignore[bad-override]
        q = self.max_order
        zeros = (0.0,) * q
        return StepRows(
            c=RadauIIA5.tableau.c,
            order=q,
            embedded_order=1,  # the first step is of order 1; then the workspace knows better
            b=(0.0, *zeros[1:], 1.0, 0.0, 0.0),
            b_error=(0.0, *zeros, 1.0, 0.0),
            dense=((0.0,), *lagrange(q), (0.0,), (0.0,)),
            dense_order=min(q, RadauIIA5.tableau.dense_order),
            dense_center=CENTER,
            explicit=False,
        )

    @property
    def memory(self) -> int:
        """How many differences are kept: those of the highest order's error, one order up."""
        return self.max_order + 1

    def begin(self, y: Tensor) -> Tensor:
        return torch.cat((y[None], y.new_zeros(self.memory, *y.shape)))

    def workspace(self, y: Tensor, field: VectorField) -> BDFWorkspace:
        return BDFWorkspace(self, y, field)

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
        """As `Remembering.taken`; the note is the steps before, the last one first: numbers, or (R, M) with zeros where there
        were none; and before these, where steps are chosen, the order: a number, or (R,)."""
        return self.advanced(Newton(field, state[0]), times, scale, state, k1, paces, note, attach=True)

    def advanced(
        self,
        newton: Newton,
        times: Sequence[Any],
        scale: float,
        state: Tensor,
        k1: Tensor,
        paces: Tensor | None,
        note: Any,
        attach: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """The same by an iteration that may be kept from step to step; `attach` gives the solution its derivatives."""
        y, past = state[0], state[1:]
        steps, chosen = note[-1], note[0] if len(note) == 2 else None
        if chosen is None and paces is None and len(steps) < self.max_order - 1:
            z, rows = self._started(newton.field, times, scale, y, k1, paces)
        elif chosen is None:
            z, rows, starting = self._fixed(newton, times, scale, y, k1, past, paces, steps, attach)
            if starting is not None and paces is not None:
                begins = starting.unsqueeze(1)
                h = torch.where(begins, paces, 0.0)
                z_start, rows_start = self._started(newton.field, times, scale, y, torch.where(begins, k1, 0.0), h)
                z = torch.where(begins, z_start, z)
                rows = [torch.where(begins, a, b) for a, b in zip(rows_start, rows, strict=True)]
        else:
            # Before the first step lies one along the slope there.
            first: Any = not steps if paces is None else (steps[:, :1] == 0)
            slope = k1 * scale
            if paces is None:
                past = torch.cat((slope[None], past[1:])) if first else past
                steps = steps or (scale,)
            else:
                past = torch.cat((torch.where(first, slope, past[0])[None], past[1:]))
                steps = torch.cat((torch.where(first, paces, steps[:, :1]), steps[:, 1:]), 1)
            weights = Weights.of(self.max_order, chosen, chosen, steps, scale if paces is None else paces, kappa=True)
            z, rows = self._solved(newton, times, scale, y, k1, past, paces, weights, attach)
        return torch.cat(((y + z)[None], z[None], past[:-1] + z)), rows

    def _fixed(
        self,
        newton: Newton,
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        k1: Tensor,
        past: Tensor,
        paces: Tensor | None,
        steps: Any,
        attach: bool,
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """A step of the highest order; and which rows have no past for it."""
        q = self.max_order
        if paces is None:
            known = min(q, len(steps))
            weights = Weights.of(q, q, known, steps, scale, kappa=False)
            return *self._solved(newton, times, scale, y, k1, past, None, weights, attach), None
        count = (steps != 0).sum(1)
        starting = count < q - 1
        any_starts = bool(starting.any())
        order = torch.where(starting, 1, q)
        h = torch.where(starting.unsqueeze(1), 0.0, paces)
        weights = Weights.of(q, order, torch.where(starting, 0, count.clamp(max=q)), steps, h, kappa=False)
        z, rows = self._solved(newton, times, scale, y, k1, past, h, weights, attach)
        return z, rows, starting if any_starts else None

    def _solved(
        self,
        newton: Newton,
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        k1: Tensor,
        past: Tensor,
        paces: Tensor | None,
        weights: Weights,
        attach: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """z and the rows, of the implicit equation z = c f(t₁, y + z) + g."""
        h: Any = scale if paces is None else paces
        predicted, g, *inner = weights.of_past(past)
        c = h / weights.alpha
        base, guess = (y + g)[None], (predicted - g)[None]
        with torch.no_grad():
            newton.begin(times[0], y.detach(), c)
            found = newton.solved(times[-1:], ONE, base.detach(), guess.detach())
        if attach and bool(found.isfinite().all()):
            found = attached(newton, times[-1:], ONE, base, found, *((c, None) if paces is None else (1.0, c)))
        z = g + found[0]
        # The rows are per unit of `scale`.
        rows = [
            torch.addcmul(row, lead, z) if isinstance(lead, Tensor) else row + lead * z
            for row, lead in zip(inner, weights.lead, strict=True)
        ]
        error = weights.error * (z - predicted)
        rows = [*rows, z, error]
        last = found[0] * weights.alpha
        if paces is None:
            return z, [k1, *(row / scale for row in rows), last / scale]
        return z, [k1, *rows, last]

    def _started(
        self, field: VectorField, times: Sequence[Any], scale: float, y: Tensor, k1: Tensor, paces: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The same, of a step of Radau IIA."""
        y1, ks = RadauIIA5().recorded(field, times, scale, y, k1, paces)
        values = torch.stack(ks)
        inner = torch.tensordot(y.new_tensor(radau_inside(self.max_order)), values, 1)
        return y1 - y, [k1, *inner.unbind(0), torch.zeros_like(y), ks[-1]]


@cache
def lagrange(count: int) -> tuple[tuple[float, ...], ...]:
    """ℓ_i of 0 and the nodes after it, the first left out, as polynomials in θ − ½ counted from θ = 0.

    Example:
        >>> lagrange(1)
        ((1.0,),)
    """
    at = (0.0, *nodes(count + 1))
    polynomials = []
    for c in at[1:]:
        polynomial = [1.0]
        for other in at:
            if other != c:
                shift, unit = other - CENTER, 1 / (c - other)
                raised = zip([0.0, *polynomial], [*polynomial, 0.0], strict=True)
                polynomial = [(up - shift * same) * unit for up, same in raised]
        polynomials.append(tuple(polynomial[1:]))
    return tuple(polynomials)


@cache
def radau_inside(count: int) -> tuple[tuple[float, ...], ...]:
    """b_i(θ) of Radau IIA at the nodes of a step's rows; at the last one its weights."""
    tableau = RadauIIA5.tableau

    def at(theta: float) -> tuple[float, ...]:
        return tuple(sum(a * theta**power for power, a in enumerate(row, start=1)) for row in tableau.dense)

    return (*(at(c) for c in nodes(count + 1)[:-1]), tuple(tableau.b))


class Weights(NamedTuple):
    """Of one step.

    Attributes:
        past: of d_1 … d_M: rows of z_p, of g, and of the polynomial at the nodes between; (m, M), or (m, R, M) of rows.
        alpha: by which h f is divided, a number or (R, 1).
        lead: of z, at the nodes between; numbers or (R, 1) each.
        error: of z − z_p, the error.
    """

    past: Tensor
    alpha: Any
    lead: list[Any]
    error: Any

    def of_past(self, past: Tensor) -> list[Tensor]:
        """The sums over what is remembered, (M, …)."""
        if self.past.dim() == 2:
            return list((self.past.to(past) @ past).unbind(0))
        return list(torch.einsum("irm,mrn->irn", self.past, past).unbind(0))

    @staticmethod
    def of(q: int, order: Any, known: Any, steps: Any, h: Any, kappa: bool) -> Weights:
        """After these steps.

        Args:
            q: the highest order.
            order: k, a number or (R,).
            known: of the polynomial that predicts; alike.
            steps: the last one first: numbers, or (R, M) with zeros where there were none.
            h: this one: a number, or (R, 1).
            kappa: whether the κ term is wanted.
        """
        if isinstance(h, Tensor):
            return Weights._of_rows(q, order, known, steps, h, kappa)
        padded = torch.tensor([[*steps, *(0.0,) * (q + 1 - len(steps))]], dtype=torch.float64)
        k, p = torch.tensor([order]), torch.tensor([known])
        found = Weights._of_rows(q, k, p, padded, padded.new_tensor([[h]]), kappa)
        lead = [float(x) for x in found.lead]
        return Weights(found.past[:, 0], float(found.alpha), lead, float(found.error))

    @staticmethod
    def _of_rows(
        q: int,
        order: Int[Tensor, " rows"],
        known: Int[Tensor, " rows"],
        steps: Float[Tensor, "rows memory"],
        h: Float[Tensor, "rows 1"],
        kappa: bool,
    ) -> Weights:
        still = h == 0  # their weights nobody uses, but they must be finite
        relative = torch.where(still | (steps == 0), 1.0, steps / torch.where(still, 1.0, h))
        x = -torch.cat((torch.zeros_like(h), relative.cumsum(1)), 1)  # (R, M + 1)
        place = torch.arange(x.shape[1], device=x.device)
        used, predicts = place < order[:, None], place <= known[:, None]
        before, since = 1 - x, x[:, :, None] - x[:, None, :]
        same = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)

        def others(points: Tensor, values: Tensor) -> Tensor:
            """Of every point j: the product over the others that are there of values_l / (x_j − x_l)."""
            ratios = values[:, None, :] / torch.where(same, 1.0, since)
            return torch.where(points[:, None, :] & ~same, ratios, 1.0).prod(2).where(points, 0.0)

        alpha = torch.where(used, 1 / before, 0.0).sum(1, keepdim=True)
        predict = -others(predicts, before)
        beta = -others(used, before) / before
        error = 1 / before.gather(1, order[:, None])
        if kappa:
            shift = (x.new_tensor(KAPPA) * x.new_tensor(GAMMA[: HIGHEST + 1]))[order][:, None]
            alpha, beta, error = alpha - shift, beta - shift * predict, error + shift
        rows, lead = [predict, beta / alpha], []
        for c in nodes(q + 1)[:-1]:
            away = c - x
            rows.append(-others(used, away) * ((1 - c) / before))
            lead.append(torch.where(used, away / before, 1.0).prod(1, keepdim=True))
        return Weights(torch.stack(rows)[:, :, 1:], alpha, lead, error)


def difference(order: Int[Tensor, " rows"], steps: Float[Tensor, "rows points"]) -> Float[Tensor, "rows points"]:
    """Weights of d_1, d_2, … whose sum is ∇^order y, generalised to steps of any length: order! times the divided difference.

    Args:
        order: (R,).
        steps: the last one first, in units of the last one; at least `order` of them.

    Example:
        >>> difference(torch.tensor([2]), torch.ones(1, 3))  # y_n − 2y_{n−1} + y_{n−2}
        tensor([[ 2., -1., -0.]])
    """
    x = -torch.cat((torch.zeros_like(steps[:, :1]), steps.cumsum(1)), 1)
    place = torch.arange(x.shape[1], device=x.device)
    used = place <= order[:, None]
    apart = used[:, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    products = torch.where(apart, x[:, :, None] - x[:, None, :], 1.0).prod(2)
    factorials = x.new_tensor([float(factorial(n)) for n in range(HIGHEST + 3)])[order][:, None]
    return -torch.where(used, factorials / products, 0.0)[:, 1:]


class BDFWorkspace(MemoryWorkspace):
    """The buffer, Newton's iteration, and what chooses the order.

    Attributes:
        order: of the next step, a number or (R,).
        equal: how many steps of this order and length there were.
        steps: before the next one, the last one first: numbers, or (R, M) with zeros where there were none.
        pace: the step last tried, a number or (R,).
    """

    def __init__(self, solver: BDF, y: Tensor, field: VectorField) -> None:
        super().__init__(solver, y, field)
        self.bdf, self.newton = solver, Newton(field, y)
        self.order: Any = 1
        self.equal: Any = 0
        self.steps: Any = ()
        self.pace: Any = 0.0
        if self.by_row:
            self.order = torch.ones(len(y), dtype=torch.int64, device=y.device)
            self.equal, self.pace = torch.zeros_like(self.order), y.new_zeros(len(y))
            self.steps = y.new_zeros(len(y), solver.memory)

    def step(self, f: Any, times: Sequence[Any], scale: float, y: Tensor, paces: Tensor | None = None) -> Tensor:
        column = None if paces is None else paces.reshape(len(y), -1)[:, :1]
        adaptive = self.tolerance is not None
        pace: Any = scale if column is None else column[:, 0]
        if adaptive and self.by_row:
            kept = (pace - self.pace).abs() <= EQUAL * pace.abs()
            self.equal = torch.where(kept, self.equal, 0)
        elif adaptive and abs(pace - self.pace) > EQUAL * abs(pace):
            self.equal = 0
        self.pace, self.newton.tolerance = pace, self.tolerance
        self.note = (self.order, self.steps) if adaptive else (self.steps,)
        self.after, rows = self.bdf.advanced(self.newton, times, scale, self.at(y), self.K[0], column, self.note)
        self.K[1:].copy_(torch.stack(rows[1:]))
        self.last = self.rows[-1] if paces is None else self.rows[-1] / torch.where(paces == 0, 1.0, paces)
        return self.after[0]

    @property
    def jacobians(self) -> int:
        return self.newton.count

    def steer(self, factor: Any, ratio: Any, accepted: Any, controller: PID) -> Any:
        """The order of the next step, and its length: each kept until as many equal steps tell more."""
        if self.by_row:
            return self._steer_rows(ratio, accepted, controller)
        order = self.order
        if not accepted:
            self.equal = 0
            wanted = controller.safety * ratio ** (-1 / (order + 1)) if isfinite(ratio) else LOST
            return min(max(wanted, controller.min_factor), controller.safety)
        self.equal += 1
        if self.equal < order + 1:
            return 1.0
        errors = {order: ratio}
        assert self.after is not None
        unit = self.tolerance.scale(self.after[0].abs())
        steps = torch.tensor([self._relative()], dtype=torch.float64)
        for other, seen in ((order - 1, order), (order + 1, order + 2)):
            if 1 <= other <= self.bdf.max_order:
                weights = difference(torch.tensor([seen]), steps)[0].to(unit)
                size = self.tolerance.shared(weights @ self.after[1 : 1 + len(weights)] / unit)
                errors[other] = _constant(other) * size
        factors = {k: max(error, 1e-10) ** (-1 / (k + 1)) for k, error in errors.items()}
        self.order = max(factors, key=lambda k: factors[k])
        self.equal = 0
        return min(controller.safety * factors[self.order], controller.max_factor)

    def _relative(self) -> list[float]:
        """The steps, the one just tried first, in units of it."""
        before = self.steps or (self.pace,)
        lengths = (self.pace, *before, *(self.pace,) * self.bdf.memory)
        return [length / self.pace for length in lengths[: self.bdf.memory]]

    def _steer_rows(self, ratio: Tensor, accepted: Tensor, controller: PID) -> Tensor:
        order, q = self.order, self.bdf.max_order
        assert self.after is not None
        small = controller.safety * ratio.nan_to_num(nan=torch.inf) ** (-1 / (order + 1))
        small = torch.where(ratio.isfinite(), small, LOST).clamp(controller.min_factor, controller.safety)
        equal = torch.where(accepted, self.equal + 1, 0)
        choosing = accepted & (equal > order)
        h = torch.where(self.pace == 0, 1.0, self.pace)[:, None]
        before = torch.where(self.steps == 0, h, self.steps)
        steps = torch.cat((torch.ones_like(h), before[:, :-1] / h), 1)
        unit = self.tolerance.scale(self.after[0].abs())
        factors = [ratio.clamp(min=1e-10) ** (-1 / (order + 1))]
        constants = ratio.new_tensor([_constant(k) for k in range(q + 1)])
        for other, seen in ((order - 1, order), (order + 1, order + 2)):
            weights = difference(seen.clamp(max=self.bdf.memory), steps)
            size = self.tolerance.rows(torch.einsum("rm,mrn->rn", weights, self.after[1:]) / unit)
            error = (constants[other.clamp(max=q)] * size).clamp(min=1e-10)
            factors.append(torch.where((other >= 1) & (other <= q), error ** (-1 / (other + 1)), 0.0))
        best, which = torch.stack(factors).nan_to_num(0.0).max(0)
        chosen = order + torch.tensor([0, -1, 1], device=order.device)[which]
        self.order = torch.where(choosing, chosen, order)
        self.equal = torch.where(choosing, 0, equal)
        grown = torch.where(choosing, (controller.safety * best).clamp(max=controller.max_factor), 1.0)
        return torch.where(accepted, grown, small)

    def accept(self, y: Tensor, accepted: Tensor | None = None) -> None:
        super().accept(y, accepted)
        adaptive, kept = self.tolerance is not None, self.bdf.memory
        if not self.by_row:
            before = self.steps or ((self.pace,) if adaptive else ())
            self.steps = (self.pace, *before)[:kept]
            return
        pace = self.pace[:, None]
        first = torch.where(self.steps[:, :1] == 0, pace, self.steps[:, :1]) if adaptive else self.steps[:, :1]
        steps = torch.cat((pace, first, self.steps[:, 1:]), 1)[:, :kept]
        self.steps = steps if accepted is None else torch.where(accepted[:, None], steps, self.steps)

    def forget(self, rows: Tensor | None = None) -> None:
        super().forget(rows)
        if rows is None:
            self.order, self.equal, self.steps = 1, 0, ()
        else:
            self.order, self.equal = torch.where(rows, 1, self.order), torch.where(rows, 0, self.equal)
            self.steps = torch.where(rows[:, None], 0.0, self.steps)

    def go_on(self, before: MemoryWorkspace, rows: Tensor) -> None:
        super().go_on(before, rows)
        assert isinstance(before, BDFWorkspace)
        for name in ("order", "equal", "steps", "pace"):
            setattr(self, name, getattr(before, name).index_select(0, rows))


def _constant(order: int) -> float:
    """The error of an order as a multiple of ∇^{order+1} y, with equal steps."""
    return KAPPA[order] * GAMMA[order] + 1 / (order + 1)
