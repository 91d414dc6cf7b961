"""The outcome of a population fit: what all series have in common, how they differ, and each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from isocline.equations.errors import meant
from isocline.equations.individuals import Individuals
from isocline.equations.laplace import NOISES, Found, Laplace, Layout
from isocline.equations.measured import Measured, Observations
from isocline.equations.module import Equations
from isocline.equations.parameters import Parameter
from isocline.equations.posterior import Posterior, drawn, posteriors

LEVEL, NORMAL = 0.95, 1.959963984540054  # of the intervals, and their quantile
TOGETHER = 0.98  # correlation of effects from which they count as one
GONE = 0.02  # of the second derivative that an effect seen in all series has: below, there is none
DISTRIBUTIONS = {"identity": "normal", "above": "log-normal", "below": "log-normal", "between": "logit-normal"}


@dataclass(frozen=True)
class PopulationEstimate:
    """A parameter of the population.

    Attributes:
        name, unit: of it.
        value: of the population: the median of the series.
        error: its standard error; nan where the data do not give one, or at a bound.
        low, high: its 95 % interval, normal in the unbounded coordinate, so within the bounds; nan likewise.
        fixed: it was not fitted.
        sd: standard deviation between series, in the unbounded coordinate: of a log-normal parameter that of its logarithm,
            about its coefficient of variation; None where it is the same in all.
        sd_error: its standard error; nan where the data do not give one.
        shrinkage: 1 less the ratio of the standard deviation of the series' own estimates to `sd`: near 1 the data say
            little about single series.
        distribution: "normal", "log-normal" or "logit-normal" between series; "" where it is the same in all.
        bound: the bound it has come to lie at.
    """

    name: str
    value: float
    error: float
    low: float
    high: float
    unit: str = ""
    fixed: bool = False
    sd: float | None = None
    sd_error: float = math.nan
    shrinkage: float = math.nan
    distribution: str = ""
    bound: float | None = None

    def __str__(self) -> str:
        between = "" if self.sd is None else f", between series {self.sd:.2g} ({self.distribution})"
        return f"{self.name} = {self.value:.4g} ± {self.error:.2g}{' ' + self.unit if self.unit else ''}{between}"


@dataclass(frozen=True)
class Curves:
    """What series show, with parameters of the population or their own.

    Attributes:
        model, layout, psi: the equations, and the numbers of the population.
        individuals: of some series; others are solved alike.
    """

    model: Equations
    layout: Layout
    psi: Tensor
    individuals: Individuals

    def individual(self, series: Measured) -> dict[str, float]:
        """As `Population.individual`, of a series with a number measured."""
        return self.named(self.posterior(series))

    def named(self, own: Posterior) -> dict[str, float]:
        """The likeliest parameters of a series by name, fixed ones too."""
        found = {p.name: p.begin for p in self.model.fixed}
        found |= {p.name: p.value(x) for p, x in zip(self.model.free, own.raw.tolist(), strict=True)}
        return {p.name: found[p.name] for p in self.model.system.parameters}

    def posterior(self, series: Measured) -> Posterior:
        """What the numbers of a series, at least one, say of its parameters.

        Raises:
            ValueError: where the equations cannot be solved over the series.
        """
        columns = self.individuals.columns
        data = Observations.of(self.model, [series], "additive")
        unknown = [c for c in data.columns if c not in columns]
        if unknown:
            raise ValueError(f"{unknown[0]}: not among the columns of the fit, {', '.join(columns)}")
        order = torch.tensor([columns.index(c) for c in data.columns])
        laplace = Laplace(self.individuals.alike([series], data.ts), data, self.layout)
        laplace.column = order[laplace.column]
        eta = torch.zeros(1, len(self.layout.varying), dtype=torch.float64)
        if self.model.system.lags and self.layout.varying:
            eta = laplace.sought(self.psi, eta)
        found = laplace.modes(self.psi, eta)
        if found is None:
            raise ValueError(f"series {series.id or 1}: the equations cannot be solved over it")
        return posteriors(laplace, self.psi, *found)[0]

    def predict(self, series: Measured, ts: Any | None, values: Mapping[str, float]) -> dict[str, Tensor]:
        """As `Population.predict`, with all parameters."""
        wanted = torch.as_tensor(series.ts if ts is None else ts, dtype=torch.float64).reshape(-1)
        raw = torch.tensor([p.raw(values[p.name]) for p in self.model.free], dtype=torch.float64)
        found = self._courses(series, wanted, raw[None])[0]
        return {name: found[:, c] for c, name in enumerate(self.individuals.columns)}

    def _courses(self, series: Measured, wanted: Tensor, raw: Tensor) -> Tensor:
        """(M, T, C) columns with parameters (M, P)."""
        if bool((wanted < 0).any()) or not bool(wanted.isfinite().all()):
            raise ValueError("ts: expected finite times from 0 on, where the equations give the state")
        times = torch.cat([torch.zeros(1, dtype=torch.float64), wanted]).unique()
        found, _ = self.individuals.alike([series], times[None])(raw, [0] * len(raw))
        return found[:, torch.searchsorted(times, wanted)]

    def simulate(
        self,
        series: Measured,
        ts: Any,
        covariance: Tensor,
        own: Posterior | None,
        count: int,
        seed: int,
        apart: bool = True,
    ) -> dict[str, Tensor]:
        """As `Population.simulate`, with the covariance of ψ.

        Args:
            own: None: a series of which nothing is known.
            apart: whether the noise at each time is its own; else that of a draw is the same at all times, whose quantiles at a
                time are as likely, and smooth from one time to the next.
        """
        generator = torch.Generator().manual_seed(seed)
        draws = drawn(self.layout, self.psi, covariance, own, count, generator)
        f = self._courses(series, torch.as_tensor(ts, dtype=torch.float64).reshape(-1), draws.raw)
        sd = (draws.additive.square().unsqueeze(1) + (draws.proportional.unsqueeze(1) * f).square()).sqrt()
        shape = f.shape if apart else (count, 1, f.shape[2])
        y = f + sd * torch.randn(shape, generator=generator, dtype=f.dtype)
        return {name: y[..., c] for c, name in enumerate(self.individuals.columns)}


@dataclass
class Population:
    """What `population` found.

    Attributes:
        entries: the parameters, in the order of the equations.
        noise: by column, {"additive": a} or {"proportional": b} or both.
        noise_errors: their standard errors, likewise.
        individuals: by series, the parameters that its own numbers and the population make most likely (empirical Bayes).
        correlation: (q, q) of the effects of `varying`.
        varying: names of the parameters that differ from series to series.
        covariance: (size, size) of the numbers of the population, unbounded; NaN where the data do not give it.
        log_likelihood, aic: of the fit; `count` numbers measured.
        messages: what to know before the numbers are used.
        converged: the search ended because nothing changed any more.

    `fit["cl"]` is a `PopulationEstimate`. `str(fit)` is a table.
    """

    entries: dict[str, PopulationEstimate]
    noise: dict[str, dict[str, float]]
    noise_errors: dict[str, dict[str, float]]
    individuals: dict[str, dict[str, float]]
    correlation: Tensor
    varying: tuple[str, ...]
    log_likelihood: float
    aic: float
    count: int
    messages: list[str]
    converged: bool
    model: Equations = field(repr=False)
    laplace: Laplace = field(repr=False)
    psi: Tensor = field(repr=False)
    covariance: Tensor = field(repr=False)

    @staticmethod
    def of(
        model: Equations, laplace: Laplace, psi: Tensor, found: Found, hessian: Tensor, converged: bool
    ) -> Population:
        """From where a search ended."""
        layout = laplace.layout
        covariance, messages = _covariance(model, layout, psi, hessian, len(laplace.rows))
        if not converged:
            messages.insert(0, "the search did not end: the values may not be the best; give better starting values")
        errors = covariance.diagonal().sqrt()
        sds, sd_errors = _sds(layout, psi, covariance)
        shrinkage = 1.0 - found.eta.std(0) / sds if len(layout.varying) else sds
        entries = {}
        for i, p in enumerate(model.free):
            own = layout.varying.index(i) if i in layout.varying else None
            entries[p.name] = _entry(p, psi[i], float(errors[i]), own, sds, sd_errors, shrinkage)
        fixed = {p.name: PopulationEstimate(p.name, p.begin, 0.0, p.begin, p.begin, p.unit, True) for p in model.fixed}
        entries = {p.name: (entries | fixed)[p.name] for p in model.system.parameters}
        noise, noise_errors = _noise(laplace, psi, errors)
        factor = layout.values(psi).factor
        return Population(
            entries, noise, noise_errors, _named(model, laplace, psi, found.eta),
            factor @ factor.mT / sds / sds.unsqueeze(1), tuple(model.free[i].name for i in layout.varying),
            -found.loss / 2, found.loss + 2 * layout.size, laplace.total, messages, converged, model, laplace, psi,
            covariance,
        )  # fmt: skip

    @property
    def curves(self) -> Curves:
        """What predicts."""
        return Curves(self.model, self.laplace.layout, self.psi, self.laplace.individuals)

    def __getitem__(self, name: str) -> PopulationEstimate:
        if name not in self.entries:
            raise KeyError(f"{name}{meant(name, self.entries)}; there are {', '.join(self.entries)}")
        return self.entries[name]

    @property
    def values(self) -> dict[str, float]:
        """Of the population, by name."""
        return {name: e.value for name, e in self.entries.items()}

    def individual(self, series: Measured) -> dict[str, float]:
        """The parameters of a series that the fit need not have seen, from its numbers and the population (empirical Bayes).

        Without a number measured they are those of the population.

        Raises:
            ValueError: where the equations cannot be solved over the series.
        """
        return self.curves.individual(series) if series.count else self.values

    def predict(
        self, series: Measured, ts: Any | None = None, parameters: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        """What a series is to show, by column (T,).

        Args:
            series: what drives it: covariates, doses, inputs.
            ts: (T,) times; None: those of the series.
            parameters: by name, such as `individual` gives; None: those of the population.

        Example:
            >>> t = [1.0, 2.0, 3.0]
            >>> data = [Measured(t, {"x": [2.1 * a, 1.1 * a, 0.5 * a]}, id=str(a)) for a in (1.0, 1.2, 0.8, 1.1)]
            >>> from isocline.equations import population
            >>> fit = population(Equations("dx = -k*x; x(0) = a", parameters="k > 0; a > 0 per series"), data)
            >>> fit.predict(data[0], [0.0], {"a": 2.0})["x"].tolist()
            [2.0]
        """
        return self.curves.predict(series, ts, {**self.values, **(parameters or {})})

    def simulate(
        self, series: Measured, ts: Any | None = None, *, count: int = 400, seed: int = 0
    ) -> dict[str, Tensor]:
        """What a series may show, by column (count, T): drawn from all that is not known of it, noise of a measurement included.

        That are the numbers of the population (normal, by their covariance), the parameters of the series (given its own
        numbers, or without any of any series) and the noise. Quantiles of it are bands. NaN where a draw cannot be solved.

        Args:
            series: what drives it, and what was measured of it.
            ts: (T,) times; None: those of the series.
            count, seed: of the draws.

        Raises:
            ValueError: where the equations cannot be solved over the series.

        Example:
            >>> t = [1.0, 2.0, 3.0]
            >>> data = [Measured(t, {"x": [2.1 * a, 1.1 * a, 0.5 * a]}, id=str(a)) for a in (1.0, 1.2, 0.8, 1.1)]
            >>> from isocline.equations import population
            >>> fit = population(Equations("dx = -k*x; x(0) = a", parameters="k > 0; a > 0 per series"), data)
            >>> fit.simulate(data[0], [1.5], count=50)["x"].shape
            torch.Size([50, 1])
        """
        own = self.curves.posterior(series) if series.count else None
        return self.curves.simulate(series, series.ts if ts is None else ts, self.covariance, own, count, seed)

    def rows(self) -> list[dict[str, Any]]:
        """The parameters as plain numbers, None where there is none: what goes into a report."""

        def plain(x: float | None) -> float | None:
            return x if x is not None and math.isfinite(x) else None

        return [
            {"name": e.name, "value": e.value, "unit": e.unit, "fixed": e.fixed, "bound": e.bound,
             "error": None if e.fixed else plain(e.error), "sd": e.sd, "sd_error": plain(e.sd_error),
             "shrinkage": plain(e.shrinkage), "distribution": e.distribution,
             **({"level": LEVEL, "low": plain(e.low), "high": plain(e.high), "open_low": "", "open_high": ""}
                if e.bound is None else {})}
            for e in self.entries.values()
        ]  # fmt: skip

    def __str__(self) -> str:
        from isocline.equations.table import aligned

        head = ["parameter", "value", "± error", "95 % interval", "between series", "± error", "shrinkage", "unit"]
        rows = []
        for e in self.entries.values():
            error = "fixed" if e.fixed else _text(e.error)
            interval = "" if e.fixed or not math.isfinite(e.error) else f"{e.low:.4g} to {e.high:.4g}"
            between = ["", "", ""] if e.sd is None else [f"{e.sd:.3g}", _text(e.sd_error), f"{100 * e.shrinkage:.0f} %"]
            rows.append([e.name, f"{e.value:.4g}", error, interval, *between, e.unit])
        parts = [f"{name} {kind} {value:.3g}" for name, own in self.noise.items() for kind, value in own.items()]
        last = (
            f"noise: {', '.join(parts)}; {self.count} observations of {len(self.individuals)} series, "
            f"log-likelihood {self.log_likelihood:.4f}, AIC {self.aic:.4g}"
        )
        return "\n".join([*aligned(head, rows), last, *(f"note: {m}" for m in self.messages)])


def _text(x: float) -> str:
    return f"{x:.3g}" if math.isfinite(x) else "–"


def _entry(
    p: Parameter, raw: Tensor, error: float, own: int | None, sds: Tensor, sd_errors: Tensor, shrinkage: Tensor
) -> PopulationEstimate:
    value, bound = p.value(float(raw)), p.bound_of(raw)
    if bound is not None:
        error = math.nan
    low, high = (p.value(float(raw) + sign * NORMAL * error) for sign in (-1, 1))
    if p.kind == "below":
        low, high = high, low
    natural = error * abs(float(torch.as_tensor(p.slope(raw))))
    if own is None:
        return PopulationEstimate(p.name, value, natural, low, high, p.unit, bound=bound)
    return PopulationEstimate(
        p.name, value, natural, low, high, p.unit, False, float(sds[own]), float(sd_errors[own]),
        float(shrinkage[own]), DISTRIBUTIONS[p.kind], bound,
    )  # fmt: skip


def _named(model: Equations, laplace: Laplace, psi: Tensor, eta: Tensor) -> dict[str, dict[str, float]]:
    """All parameters of every series."""
    raw = laplace.raw(psi[: laplace.layout.count], eta)
    fixed = {p.name: p.begin for p in model.fixed}
    found = {}
    for b, (s, row) in enumerate(zip(laplace.individuals.series, raw.tolist(), strict=True)):
        own = fixed | {p.name: p.value(x) for p, x in zip(model.free, row, strict=True)}
        found[s.id or str(b)] = {p.name: own[p.name] for p in model.system.parameters}
    return found


def _covariance(
    model: Equations, layout: Layout, psi: Tensor, hessian: Tensor, series: int
) -> tuple[Tensor, list[str]]:
    """(size, size) of ψ, NaN for what the data do not give, and what is to be told of it."""
    messages = []
    keep = torch.ones(layout.size, dtype=torch.bool)
    for k, i in enumerate(layout.varying):
        at = layout.count + k
        if float(hessian[at, at]) < GONE * 4.0 * series:
            keep[at] = False
            messages.append(
                f"{model.free[i].name}: no difference between series can be told from the noise; leave out per series"
            )
    for i, p in enumerate(model.free):
        bound = p.bound_of(psi[i])
        if bound is not None:
            keep[i] = False
            messages.append(
                f"{p.name} lies at its bound {bound:g}: it has no standard error, and those of the others are for this value"
            )
    together, sentences = _together(model, layout, psi)
    keep[together] = False
    messages += sentences
    covariance = torch.full_like(hessian, math.nan)
    index = keep.nonzero().squeeze(1)
    part = hessian[index][:, index]
    if not bool(part.isfinite().all()):
        return covariance, [*messages, "no standard errors: the likelihood cannot be computed around the estimates"]
    size = part.diagonal().abs().clamp(min=1e-300).sqrt()
    scaled = part / size / size.unsqueeze(1)
    values, directions = torch.linalg.eigh(scaled)
    if float(values[0]) < 1e-7:
        names = _names(model, layout)
        worst = directions[:, 0].abs()
        several = [names[int(index[i])] for i in worst.argsort(descending=True) if worst[i] > 0.3 * worst.max()]
        return covariance, [
            *messages,
            f"no standard errors: the data do not determine {' and '.join(several)} separately",
        ]
    inverse = torch.linalg.inv(scaled) / size / size.unsqueeze(1)
    covariance[index.unsqueeze(1), index] = 2.0 * inverse
    return covariance, messages


def _together(model: Equations, layout: Layout, psi: Tensor) -> tuple[list[int], list[str]]:
    """Where in ψ the correlations are of an effect that goes with another, and what is to be told of it."""
    factor = layout.values(psi).factor
    factor = factor / factor.norm(dim=1, keepdim=True)
    correlation = factor @ factor.mT
    rows, columns = layout.pairs
    pairs = [(i, j) for i, j in zip(rows, columns, strict=True) if abs(float(correlation[i, j])) > TOGETHER]
    names = [model.free[i].name for i in layout.varying]
    told = [
        f"{names[j]} and {names[i]} vary together (correlation {float(correlation[i, j]):.3f}): one of them per series, or "
        f"correlated=False, would do; their correlations have no standard errors"
        for i, j in pairs
    ]
    first = layout.count + len(factor)
    bound = {i for i, _ in pairs}
    return [first + k for k, i in enumerate(rows) if i in bound], told


def _names(model: Equations, layout: Layout) -> list[str]:
    """Of the numbers in ψ."""
    varying = [model.free[i].name for i in layout.varying]
    found = [p.name for p in model.free] + [f"the spread of {name}" for name in varying]
    rows, columns = layout.pairs
    pairs = [f"the correlation of {varying[j]} and {varying[i]}" for i, j in zip(rows, columns, strict=True)]
    found += pairs
    return found + ["the noise"] * (layout.size - len(found))


def _sds(layout: Layout, psi: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """(q,) standard deviations of the effects, and their standard errors."""
    own = psi.detach().clone().requires_grad_()
    sds = layout.values(own).factor.norm(dim=1)
    errors = torch.full_like(sds, math.nan).detach()
    for k in range(len(sds)):
        slope = torch.autograd.grad(sds[k], own, retain_graph=True)[0]
        used = (slope.abs() > 1e-9 * slope.abs().max()).nonzero().squeeze(1)
        errors[k] = (slope[used] @ covariance[used][:, used] @ slope[used]).sqrt()
    return sds.detach(), errors


def _noise(
    laplace: Laplace, psi: Tensor, errors: Tensor
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """By column and part, and the standard errors likewise."""
    layout = laplace.layout
    values, spread, at = {}, {}, layout.effects.stop
    for name, kind in zip(laplace.individuals.columns, layout.noise, strict=True):
        values[name], spread[name] = {}, {}
        for part, there in zip(("additive", "proportional"), NOISES[kind], strict=True):
            if there:
                values[name][part] = math.exp(float(psi[at]))
                spread[name][part] = values[name][part] * float(errors[at])
                at += 1
    return values, spread
