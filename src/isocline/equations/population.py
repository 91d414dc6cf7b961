"""Population fits: parameters that differ from series to series (nonlinear mixed effects)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.equations.beginning import apart, as_one, begun, drawn, mirrored
from isocline.equations.course import Settings
from isocline.equations.errors import meant
from isocline.equations.individuals import Individuals
from isocline.equations.laplace import NOISES, Found, Laplace, Layout
from isocline.equations.measured import Measured, Observations, noises
from isocline.equations.misfit import Misfit
from isocline.equations.mixed_effects import Population
from isocline.equations.module import Equations

SPREAD = 0.5  # standard deviation, in a bounded parameter's unbounded coordinate, that a search begins with
SHARE = 0.3  # of the start of a parameter without bounds
FLAT = 1e-6  # decrease of -2 log-likelihood below which the search ends
STALLED = (5, 1e-3)  # iterations, and what they must gain together: less is a correlation on its way to one
LIKELY = 3.84  # of -2 log-likelihood, up to which another optimum is told of
MIRRORINGS = 2  # of the likeliest end
ROUNDS = 3  # of a search, where other minima of the series are looked for between
APART = 0.1  # standard errors between the gradients that give second derivatives


def population(
    field: Equations,
    data: Sequence[Measured],
    *,
    noise: str | Mapping[str, str] = "additive",
    correlated: bool | Sequence[str] = False,
    solver: Any = "tsit5",
    rtol: float = 1e-8,
    max_iterations: int = 100,
    tell: Callable[[int, float], None] = lambda iteration, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> Population:
    """Fits equations to series of which each has parameters of its own, around those of a population.

    A parameter declared "per series" is θ + η in its unbounded coordinate, θ that of the population, η normal about 0:
    so it is log-normal with a lower bound of 0, logit-normal between two bounds, normal without bounds. Maximum likelihood,
    the η integrated out by the first-order conditional method with interaction (FOCEI, Laplace's approximation); standard
    errors from the second derivatives of the likelihood. The field then has the population's values.

    Where the search fails from the declared values, or does not end, it begins again where all series, taken for one, have
    their optimum (SciPy finds it; without it there is no second search); the likelier of both ends counts. Where nobody said
    where some parameters start, and the optimum of all series as one is not alone, the search begins at others too: rates of
    absorption and elimination, say, may change places, which hardly shows in a curve, but in how far series differ.

    Args:
        field: the model, without networks; every state starts at an X(0), which may rest on parameters and covariates.
        data: two series or more.
        noise: of every column, or by column: "additive" (a standard deviation a), "proportional" (b times the value of the
            model), or "combined" (the square root of a² + b² value²).
        correlated: whether the η of different parameters may be correlated; or names of those that may.
        solver, rtol: of the solves, as for `estimate`.
        max_iterations: of the search.
        tell: called after every iteration with its number and -2 log-likelihood.
        stop: asked before every iteration; True ends the search where it is.

    Raises:
        ValueError: naming what does not fit, or where the model cannot be solved from its start.

    Source: M. J. Lindstrom & D. M. Bates, Biometrics 46 (1990) 673 (where the search begins); Y. Wang, J. Pharmacokinet.
    Pharmacodyn. 34 (2007) 575 (FOCEI).

    Example:
        >>> import torch
        >>> t = torch.linspace(0.5, 6, 6, dtype=torch.float64)
        >>> draw = torch.Generator().manual_seed(0)
        >>> rates = 0.5 * torch.exp(0.3 * torch.randn(8, generator=draw, dtype=torch.float64))
        >>> noise = 0.1 * torch.randn(8, 6, generator=draw, dtype=torch.float64)
        >>> data = [Measured(t, {"x": 4 * torch.exp(-k * t) + e}, id=str(i)) for i, (k, e) in enumerate(zip(rates, noise))]
        >>> fit = population(Equations("dx = -k*x; x(0) = 4", parameters="k > 0 per series"), data)
        >>> bool(abs(fit["k"].value - 0.5) < 3 * fit["k"].error), fit["k"].distribution
        (True, 'log-normal')
    """
    series = tuple(data)
    data_ = accepted(field, series, noise)
    kinds = noises(data_.columns, noise, NOISES)
    varying = tuple(i for i, p in enumerate(field.free) if p.per_series)
    assert field.raw is not None
    raw = field.raw.detach().double().clone()  # a misfit gives the field other numbers
    settings = Settings(solver, rtol, rtol / 10)
    individuals = Individuals(field, series, data_.ts, data_.columns, settings, raw)
    laplace = Laplace(individuals, data_, Layout(len(field.free), varying, kinds, together(field, correlated)))
    misfit = Misfit(field, series, "additive", "free", settings)
    sds = [_sd(field, i) for i in varying]

    def searched(raw: Tensor) -> Ended | None:
        start = begun(laplace, field, raw, sds)
        ended = None if start is None else Search(laplace, max_iterations, tell, stop).run(*start)
        for _ in range(ROUNDS if field.system.lags and varying else 0):
            eta = None if ended is None else laplace.sought(ended.psi, ended.found.eta)
            other = None if ended is None or eta is None else laplace(ended.psi, eta)
            if ended is None or other is None or stop() or other.loss > ended.found.loss - STALLED[1]:
                break
            ended = Search(laplace, max_iterations, tell, stop).run(ended.psi, other.eta)
        return ended

    def ended_from(starts: list[Tensor]) -> list[Ended]:
        return [end for start in starts if (end := searched(start))]

    def best() -> Tensor:
        return _likeliest(ends).theta(field) if ends else last

    found = searched(raw)
    trouble = individuals.course.trouble if found is None else ""
    ends, last = [found] if found else [], raw
    if not (found and found.converged) and not stop() and (again := as_one(misfit, raw)):
        last = again[1]
        ends += ended_from([last])
    ends += ended_from(drawn(misfit, raw, best(), stop))
    for _ in range(MIRRORINGS):
        before = best()
        ends += ended_from(mirrored(misfit, before, stop))
        if torch.equal(best(), before):
            break
    if not ends:
        values = ", ".join(f"{k} = {v:.4g}" for k, v in field.values.items())
        if trouble:
            raise ValueError(f"with {values} {trouble}")
        raise ValueError(
            f"the likelihood cannot be computed with {values}: the equations cannot be solved over the data, or what they "
            f"predict is 0 where the noise is proportional; give other starting values, or noise='combined'"
        )
    ended = _likeliest(ends)
    with torch.no_grad():
        field.raw.copy_(best())
    fit = Population.of(field, laplace, ended.psi, ended.found, ended.hessian, ended.converged)
    told = [best()]
    for end in sorted(ends, key=lambda end: end.found.loss):
        there, more = end.theta(field), end.found.loss - ended.found.loss
        if more < LIKELY and all(apart(field.free, there, one) for one in told):
            values = ", ".join(f"{p.name} = {p.value(float(x)):.4g}" for p, x in zip(field.free, there, strict=True))
            fit.messages.append(f"{values} is about as likely (-2 log-likelihood {more:.1f} higher)")
            told.append(there)
    return fit


def accepted(field: Equations, series: tuple[Measured, ...], noise: str | Mapping[str, str]) -> Observations:
    """The data brought together, refused where they are none for a population."""
    if field.remainders:
        raise ValueError("net(…): a population fit takes no networks; write the unknown part out, or use estimate")
    if not field.free:
        raise ValueError("nothing to estimate: all parameters are fixed")
    if len(series) < 2:
        raise ValueError(f"data: {len(series)} series, expected at least two; of one series use estimate")
    for name in field.states:
        if name not in field.system.initial:
            raise ValueError(
                f"{name}: no equation says where it starts; add one, for example {name}(0) = 0, or {name}(0) = {name}0 with "
                f"a parameter {name}0, which may differ from series to series"
            )
    found = Observations.of(field, series, "additive")
    counts = torch.bincount(found.sample, minlength=len(series))
    if bool((counts == 0).any()):
        b = int((counts == 0).nonzero()[0])
        raise ValueError(f"series {series[b].id or b}: nothing measured in it; leave it out")
    return found


def together(field: Equations, correlated: bool | Sequence[str]) -> tuple[int, ...]:
    """Places, among the parameters that vary, of those whose effects may go together.

    Raises:
        ValueError: for a name that is none of them, and for one alone.
    """
    varying = [p.name for p in field.free if p.per_series]
    if isinstance(correlated, bool):
        return tuple(range(len(varying))) if correlated else ()
    for name in correlated:
        if name not in varying:
            raise ValueError(
                f"correlated: {name} does not differ from series to series{meant(name, varying)}; expected some of "
                f"{', '.join(varying) or 'which there are none'}"
            )
    if len(set(correlated)) == 1:
        raise ValueError(f"correlated: {correlated[0]} alone, expected two parameters or more")
    return tuple(i for i, name in enumerate(varying) if name in correlated)


def _sd(field: Equations, i: int) -> float:
    """With which spread of a parameter a search begins."""
    p = field.free[i]
    return SPREAD if p.kind != "identity" else SHARE * abs(p.begin) or SPREAD


# ---- the search -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Ended:
    """Where a search ended: ψ, what was found there, second derivatives (of -2 log-likelihood), and whether nothing changed."""

    psi: Tensor
    found: Found
    hessian: Tensor
    converged: bool

    def theta(self, field: Equations) -> Tensor:
        """The raw parameters of the population."""
        return self.psi[: len(field.free)]


def _likeliest(ends: list[Ended]) -> Ended:
    return min(ends, key=lambda end: end.found.loss)


class Search:
    """Minimises -2 log-likelihood by the quasi-Newton method of Broyden, Fletcher, Goldfarb and Shanno.

    Args:
        laplace: the likelihood.
        max_iterations: most.
        tell, stop: as for `population`.
    """

    def __init__(
        self,
        laplace: Laplace,
        max_iterations: int,
        tell: Callable[[int, float], None],
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.laplace, self.max_iterations, self.tell, self.stop = laplace, max_iterations, tell, stop

    def run(self, psi: Tensor, eta: Tensor) -> Ended | None:
        """From ψ and a guess of the effects to the optimum; None where the likelihood cannot be computed at the start."""
        found = self.laplace(psi, eta)
        if found is None:
            return None
        inverse = self._first(psi, found)
        converged = False
        losses = [found.loss]
        for iteration in range(self.max_iterations):
            if self.stop():
                break
            step = -inverse @ found.gradient
            slope = float(step @ found.gradient)
            if slope >= 0.0:
                inverse = self._first(psi, found)
                step = -inverse @ found.gradient
                slope = float(step @ found.gradient)
            if -0.5 * slope < FLAT:
                converged = True
                break
            step = step * min(1.0, 1.0 / float(step.abs().max()))
            moved = self._along(psi, found, step, slope)
            if moved is None:
                converged = -0.5 * slope < 1e-3  # what is left is below the solver's tolerance
                break
            there, next_ = moved
            inverse = _updated(inverse, there - psi, next_.gradient - found.gradient)
            psi, found = there, next_
            self.tell(iteration + 1, found.loss)
            losses.append(found.loss)
            if len(losses) > STALLED[0] and losses[-1 - STALLED[0]] - losses[-1] < STALLED[1]:
                converged = True
                break
        return Ended(psi, found, self._hessian(psi, found, inverse), converged)

    def _along(self, psi: Tensor, found: Found, step: Tensor, slope: float) -> tuple[Tensor, Found] | None:
        length = 1.0
        for _ in range(12):
            there = psi + length * step
            next_ = self.laplace(there, found.eta)
            if next_ is not None and next_.loss <= found.loss + 1e-4 * length * slope:
                return there, next_
            length /= 3.0
        return None

    def _first(self, psi: Tensor, found: Found) -> Tensor:
        """The inverse of the second derivatives as they would be, were the model linear and the effects observed."""
        laplace, layout = self.laplace, self.laplace.layout
        values = layout.values(psi)
        f, slopes = found.local.f, found.local.slopes
        v, _ = laplace.variance(values, f)
        slopes = torch.where(laplace.there.unsqueeze(-1), slopes, 0.0) / v.sqrt().unsqueeze(-1)
        by_eta = slopes[..., list(layout.varying)] @ values.factor
        whole = by_eta @ by_eta.mT + torch.eye(laplace.width, dtype=v.dtype)
        normal = 2.0 * (slopes.mT @ torch.linalg.solve(whole, slopes)).sum(0)
        curvature = torch.zeros(layout.size, layout.size, dtype=v.dtype)
        curvature[: layout.count, : layout.count] = normal
        rest = torch.full((layout.size - layout.count,), 4.0 * len(laplace.rows), dtype=v.dtype)
        at = layout.effects.stop - layout.count
        numbers = [float((laplace.there & (laplace.column == c)).sum()) for c in range(len(layout.noise))]
        rest[at:] = torch.tensor([4.0 * n for n, k in zip(numbers, layout.noise, strict=True) for x in NOISES[k] if x])
        curvature[layout.count :, layout.count :] = torch.diag(rest)
        size = curvature.diagonal().clamp(min=1e-12).sqrt()
        scaled = curvature / size / size.unsqueeze(1) + 1e-6 * torch.eye(layout.size, dtype=v.dtype)
        return torch.linalg.inv(scaled) / size / size.unsqueeze(1)

    def _hessian(self, psi: Tensor, found: Found, inverse: Tensor) -> Tensor:
        """Second derivatives by central differences of the gradient; NaN where a side cannot be solved."""
        rows = []
        width = APART * (2.0 * inverse.diagonal()).clamp(min=1e-16).sqrt().clamp(max=1.0)
        for k, h in enumerate(width.tolist()):
            sides = []
            for sign in (1.0, -1.0):
                there = psi.clone()
                there[k] += sign * h
                side = self.laplace(there, found.eta)
                sides.append(torch.full_like(psi, math.nan) if side is None else side.gradient)
            rows.append((sides[0] - sides[1]) / (2.0 * h))
        hessian = torch.stack(rows)
        return 0.5 * (hessian + hessian.mT)


def _updated(inverse: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """BFGS: the inverse that maps the change of the gradient to the step; as it was where that would not be positive."""
    curvature = float(s @ y)
    if curvature <= 1e-10 * float(s.norm() * y.norm()):
        return inverse
    left = torch.eye(len(s), dtype=s.dtype) - torch.outer(s, y) / curvature
    return left @ inverse @ left.mT + torch.outer(s, s) / curvature
