"""The likelihood of a population: random effects integrated out by Laplace's approximation, with its exact gradient.

Series i has parameters θ + E η_i in their unbounded coordinates, η_i normal with covariance Ω; its numbers are normal about
f(θ + E η_i) with variance v = a² + b² f². With l(η) = -2 log p(y_i, η) and η̂ its minimum,

    -2 log p(y_i) ≈ l(η̂) + log|H|,   H = Σ_j (∂f ∂fᵀ/v + ½ ∂log v ∂log vᵀ) + Ω⁻¹,

H being the expected second derivative: the first-order conditional method with interaction (FOCEI). It is exact where f is
linear in η and v constant. The gradient takes into account how η̂ moves. Second derivatives of f, which it needs, are central
differences of exact first ones.

Source: Y. Wang, J. Pharmacokinet. Pharmacodyn. 34 (2007) 575, equations 12-16; J. Almquist, J. Leander & M. Jirstrand,
J. Pharmacokinet. Pharmacodyn. 42 (2015) 191.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.equations.individuals import Individuals
from isocline.equations.measured import Observations

NOISES = {"additive": (True, False), "proportional": (False, True), "combined": (True, True)}  # a, b
SETTLED = 1e-6  # decrease of l that another step towards η̂ promises
STEPS = 40
AROUND = 1.5  # standard deviations from the population's values that other searches for η begin at
REACH = 3.0  # standard deviations that η moves at once
SPACING = 0.02  # of differences, in standard errors of a series' own parameters
LARGEST = 0.05  # of a difference in an unbounded coordinate


@dataclass(frozen=True)
class Values:
    """The numbers of the population, unpacked.

    Attributes:
        theta: (P,) parameters in unbounded coordinates.
        factor: (q, q) lower triangle L with Ω = L Lᵀ.
        additive, proportional: (C,) a and b of each column.
    """

    theta: Tensor
    factor: Tensor
    additive: Tensor
    proportional: Tensor


@dataclass(frozen=True)
class Layout:
    """Where in a vector ψ the numbers of the population are: θ, then Ω, then a and b, all unbounded.

    Args:
        count: of parameters, P.
        varying: (q,) which of them differ from series to series.
        noise: of each column.
        correlated: which effects (their places in `varying`) may go together; the others are independent.
    """

    count: int
    varying: tuple[int, ...]
    noise: tuple[str, ...]
    correlated: tuple[int, ...] = ()

    @property
    def pairs(self) -> tuple[list[int], list[int]]:
        """Rows and columns below the diagonal of L that are not 0."""
        found = [(i, j) for i in self.correlated for j in self.correlated if j < i]
        return [i for i, _ in found], [j for _, j in found]

    @property
    def effects(self) -> slice:
        """The part of Ω: logarithms of the standard deviations, then what is below the diagonal of L, in parts of that.

        So a correlation that goes to one, as it often does, moves one number, and no standard deviation with it.
        """
        return slice(self.count, self.count + len(self.varying) + len(self.pairs[0]))

    @property
    def size(self) -> int:
        """Of ψ."""
        return self.effects.stop + sum(map(sum, (NOISES[kind] for kind in self.noise)))

    def values(self, psi: Tensor) -> Values:
        """The numbers, differentiable."""
        q, own = len(self.varying), psi[self.effects]
        scale = own[:q].exp()
        factor = torch.eye(q, dtype=psi.dtype)
        rows, columns = self.pairs
        if rows:
            factor = factor.index_put((torch.tensor(rows), torch.tensor(columns)), own[q:])
            factor = factor / factor.norm(dim=1, keepdim=True)
        parts = ([], [])
        at = self.effects.stop
        for kind in self.noise:
            for part, there in zip(parts, NOISES[kind], strict=True):
                part.append(psi[at].exp() if there else psi.new_zeros(()))
                at += there
        return Values(psi[: self.count], scale.unsqueeze(1) * factor, torch.stack(parts[0]), torch.stack(parts[1]))

    def joined(self, theta: Tensor, sds: Tensor, noise: Sequence[tuple[float, float]]) -> Tensor:
        """ψ of parameters, standard deviations of uncorrelated effects, and (a, b) of each column."""
        below = self.effects.stop - self.count - len(self.varying)
        logs = [
            math.log(x)
            for kind, pair in zip(self.noise, noise, strict=True)
            for x, there in zip(pair, NOISES[kind], strict=True)
            if there
        ]
        return torch.cat([theta, sds.log(), theta.new_zeros(below), theta.new_tensor(logs)])


@dataclass(frozen=True)
class Local:
    """f about the parameters of each series, to second order.

    Attributes:
        raw: (B, P) where.
        f, slopes, curves: (B, J), (B, J, P), (B, J, P, P); curves None where they are not known.
    """

    raw: Tensor
    f: Tensor
    slopes: Tensor
    curves: Tensor | None = None

    def at(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """f and its slopes near by."""
        if self.curves is None:
            return self.f, self.slopes
        step = (raw - self.raw).unsqueeze(1)
        bend = (self.curves @ step.unsqueeze(-1)).squeeze(-1)
        return self.f + ((self.slopes + 0.5 * bend) * step).sum(-1), self.slopes + bend


@dataclass(frozen=True)
class Found:
    """-2 log p and its gradient at ψ, and the effects (B, q) there.

    Attributes:
        terms: (B,) of each series.
        spread: (B, q, q) covariance of the effects of each series, given its numbers.
    """

    loss: float
    gradient: Tensor
    eta: Tensor
    terms: Tensor
    spread: Tensor
    local: Local


class Laplace:
    """-2 log-likelihood of all series as a function of ψ.

    Args:
        individuals: what the series predict.
        data: what was measured.
        layout: of ψ.
    """

    def __init__(self, individuals: Individuals, data: Observations, layout: Layout) -> None:
        self.individuals, self.layout = individuals, layout
        count = len(data.series)
        mine = [(data.sample == b).nonzero().squeeze(1) for b in range(count)]
        self.width = max(map(len, mine))

        def rows(x: Tensor) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence([x[m] for m in mine], batch_first=True)

        self.y, self.time, self.column = rows(data.values), rows(data.time), rows(data.column)
        self.there = rows(torch.ones(len(data.values), dtype=torch.bool))
        self.rows = list(range(count))
        self.total = len(data.values)

    # ---- predictions ----------------------------------------------------------------------------------------------
    def predicted(self, raw: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(R, J) and (R, J, P): what was measured of each series, as its parameters (R, P) have it."""
        values, slopes = self.individuals(raw, rows)
        place = torch.arange(len(rows)).unsqueeze(1)
        index = list(rows)
        where = place, self.time[index], self.column[index]
        return values[where], slopes[where]

    def raw(self, theta: Tensor, eta: Tensor) -> Tensor:
        """(B, P) parameters of each series."""
        return theta + eta @ torch.eye(self.layout.count, dtype=eta.dtype)[list(self.layout.varying)]

    def variance(self, values: Values, f: Tensor) -> tuple[Tensor, Tensor]:
        """(B, J) of what was measured, and its derivative by f."""
        a, b = values.additive[self.column], values.proportional[self.column]
        v = a.square() + (b * f).square()
        return torch.where(self.there, v, 1.0), 2.0 * b.square() * f

    # ---- of each series -------------------------------------------------------------------------------------------
    def joint(self, values: Values, eta: Tensor, f: Tensor) -> Tensor:
        """(B,) -2 log p(y, η)."""
        v, _ = self.variance(values, f)
        terms = torch.where(self.there, (self.y - f).square() / v + v.log() + math.log(2 * math.pi), 0.0)
        q = len(self.layout.varying)
        if not q:
            return terms.sum(1)
        white = torch.linalg.solve_triangular(values.factor, eta.T, upper=False)
        return terms.sum(1) + white.square().sum(0) + 2.0 * values.factor.diagonal().log().sum()

    def information(self, values: Values, f: Tensor, slopes: Tensor) -> Tensor:
        """(B, q, q) H."""
        v, dv = self.variance(values, f)
        by_eta = torch.where(self.there.unsqueeze(-1), slopes[..., list(self.layout.varying)], 0.0)
        weight = 1.0 / v + 0.5 * (dv / v).square()
        eye = torch.eye(len(self.layout.varying), dtype=f.dtype)
        inverse = torch.cholesky_solve(eye, values.factor)
        return by_eta.mT @ (weight.unsqueeze(-1) * by_eta) + inverse

    def slope(self, values: Values, eta: Tensor, f: Tensor, slopes: Tensor) -> Tensor:
        """(B, q) ½ ∂l/∂η."""
        v, dv = self.variance(values, f)
        r = self.y - f
        pull = torch.where(self.there, -r / v + 0.5 * (dv / v) * (1.0 - r.square() / v), 0.0)
        own = slopes[..., list(self.layout.varying)]
        own = torch.where(self.there.unsqueeze(-1), own, 0.0)
        prior = torch.cholesky_solve(eta.T, values.factor).T
        return (pull.unsqueeze(-1) * own).sum(1) + prior

    def modes(self, psi: Tensor, eta: Tensor) -> tuple[Tensor, Local] | None:
        """η̂ (B, q) from a guess, by Gauss and Newton with steps of each series' own length; None where f is no number."""
        values = self.layout.values(psi)
        raw = self.raw(values.theta, eta)
        f, slopes = self.predicted(raw, self.rows)
        loss = self.joint(values, eta, f)
        if not bool(loss.isfinite().all()):
            return None
        if not self.layout.varying:
            return eta, Local(raw, f, slopes)
        length = torch.ones(len(eta), 1, dtype=eta.dtype)
        for _ in range(STEPS):
            step, promise = self._step(values, eta, f, slopes)
            moving = (promise > SETTLED) & (length.squeeze(1) > 1e-6)
            if not bool(moving.any()):
                break
            trial = torch.where(moving.unsqueeze(1), eta + length * step, eta)
            there = self.raw(values.theta, trial)
            f_, slopes_ = self.predicted(there, self.rows)
            loss_ = self.joint(values, trial, f_)
            better = moving & loss_.isfinite() & (loss_ <= loss + 1e-12 * loss.abs())
            eta, loss = torch.where(better.unsqueeze(1), trial, eta), torch.where(better, loss_, loss)
            f, slopes = torch.where(better.unsqueeze(1), f_, f), torch.where(better[:, None, None], slopes_, slopes)
            length = torch.where(
                better.unsqueeze(1),
                (2.0 * length).clamp(max=1.0),
                torch.where(moving.unsqueeze(1), length / 4.0, length),
            )
        return eta, Local(self.raw(values.theta, eta), f, slopes)

    def sought(self, psi: Tensor, eta: Tensor) -> Tensor:
        """η (B, q) at the deepest minimum of each series that searches from around the population and a guess come to.

        With a lag a series may have several, one between any two of its rows.
        """
        q = len(self.layout.varying)
        factor = self.layout.values(psi).factor.detach()
        around = [torch.zeros(q, dtype=eta.dtype), *(AROUND * factor.T), *(-AROUND * factor.T)]
        best, least = eta, torch.full((len(eta),), math.inf, dtype=eta.dtype)
        for start in [eta, *(x.expand_as(eta) for x in around)]:
            found = self.modes(psi, start)
            if found is None:
                continue
            loss = self.joint(self.layout.values(psi), found[0], found[1].f)
            better = loss < least - SETTLED
            best, least = torch.where(better.unsqueeze(1), found[0], best), torch.where(better, loss, least)
        return best

    def _step(self, values: Values, eta: Tensor, f: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """The step of each series (B, q), not too long, and what decrease of l it promises (B,)."""
        gradient = self.slope(values, eta, f, slopes)
        step = -torch.linalg.solve(self.information(values, f, slopes), gradient.unsqueeze(-1)).squeeze(-1)
        promise = -(step * gradient).sum(1)
        far = torch.linalg.solve_triangular(values.factor, step.T, upper=False).norm(dim=0)
        return step * (REACH / far).clamp(max=1.0).unsqueeze(1), promise

    # ---- the population -------------------------------------------------------------------------------------------
    def __call__(self, psi: Tensor, eta: Tensor) -> Found | None:
        """At ψ, with a guess of the effects; None where the equations cannot be solved, or η̂ is no minimum."""
        psi = psi.detach()
        found = self.modes(psi, eta)
        if found is None:
            return None
        eta, local = found[0], self.curved(psi, found[1])
        if local is None:
            return None
        eta = self._polished(psi, eta, local)
        psi = psi.clone().requires_grad_()
        eta = eta.clone().requires_grad_()

        def of(which: Callable[[Values, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
            values = self.layout.values(psi)
            f, slopes = local.at(self.raw(values.theta, eta))
            return which(values, f, slopes, eta)

        terms = of(lambda values, f, slopes, eta: self._marginal(values, eta, f, slopes))
        if not self.layout.varying:
            gradient = torch.autograd.grad(terms.sum(), psi)[0]
            return self._checked(terms, gradient, eta, local, psi)
        by_psi, by_eta = torch.autograd.grad(terms.sum(), (psi, eta))
        joint = of(lambda values, f, slopes, eta: self.joint(values, eta, f))
        pull = torch.autograd.grad(joint.sum(), eta, create_graph=True)[0]
        curve = torch.stack(
            [torch.autograd.grad(pull[:, k].sum(), eta, retain_graph=True)[0] for k in range(eta.shape[1])], 1
        )
        # η̂ moves with ψ: dη̂/dψ = -(∂²l/∂η²)⁻¹ ∂²l/∂η∂ψ.
        weights = torch.linalg.solve(curve, by_eta.unsqueeze(-1)).squeeze(-1)
        moved = torch.autograd.grad((pull * weights.detach()).sum(), psi)[0]
        return self._checked(terms, by_psi - moved, eta, local, psi)

    def _checked(self, terms: Tensor, gradient: Tensor, eta: Tensor, local: Local, psi: Tensor) -> Found | None:
        if not bool(terms.isfinite().all() and gradient.isfinite().all()):
            return None
        with torch.no_grad():
            values = self.layout.values(psi)
            f, slopes = local.at(self.raw(values.theta, eta))
            spread = torch.linalg.inv(self.information(values, f, slopes))
            settled = Local(self.raw(values.theta, eta), f, slopes)
        return Found(float(terms.detach().sum()), gradient, eta.detach(), terms.detach(), spread, settled)

    def _marginal(self, values: Values, eta: Tensor, f: Tensor, slopes: Tensor) -> Tensor:
        """(B,) -2 log p(y)."""
        loss = self.joint(values, eta, f)
        return loss + torch.logdet(self.information(values, f, slopes)) if self.layout.varying else loss

    def curved(self, psi: Tensor, local: Local) -> Local | None:
        """With the second derivatives of f, from solves at both sides of every parameter."""
        count, series = self.layout.count, len(self.rows)
        values = self.layout.values(psi)
        v, _ = self.variance(values, local.f)
        strength = torch.where(self.there, local.slopes.square().movedim(-1, 0) / v, 0.0).sum((1, 2)) / series
        size = local.raw.abs().amax(0).clamp(min=1.0)
        width = torch.minimum(SPACING / strength.sqrt().clamp(min=1e-300), LARGEST * size)
        steps = torch.diag(width)
        both = torch.cat([local.raw + s for s in (*steps, *-steps)])
        _, slopes = self.predicted(both, self.rows * (2 * count))
        ahead, behind = slopes.view(2, count, series, self.width, count)
        curves = ((ahead - behind) / (2.0 * width[:, None, None, None])).permute(1, 2, 0, 3)
        curves = torch.where(self.there[..., None, None], curves, 0.0)
        if not bool(curves.isfinite().all()):
            return None
        return Local(local.raw, local.f, local.slopes, 0.5 * (curves + curves.mT))

    def _polished(self, psi: Tensor, eta: Tensor, local: Local) -> Tensor:
        """η̂ to rounding's width, with f as it is to second order: three steps without a solve."""
        values = self.layout.values(psi)
        for _ in range(3 if self.layout.varying else 0):
            f, slopes = local.at(self.raw(values.theta, eta))
            eta = eta + self._step(values, eta, f, slopes)[0]
        return eta
