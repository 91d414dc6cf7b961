"""The outcome of a fit: values, standard errors, correlations, intervals; as numbers and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isocline.equations.errors import meant
from isocline.equations.identify import Undetermined, correlated
from isocline.equations.profile import BetterFitError, Profile, profile

if TYPE_CHECKING:
    from isocline.equations.inference import Optimum, Search

LEVEL = 0.95
PASSES = 4  # over the profiles of all parameters, where one comes upon a better fit


@dataclass(frozen=True)
class Estimate:
    """One fitted number.

    Attributes:
        name, unit: of a parameter, or "x(0)" of a starting state.
        value: the maximum-likelihood estimate.
        error: standard error; inf where the data do not determine it, nan where there are too few of them, or at a bound.
        interval: its profile-likelihood interval, once asked for.
        bound: the bound it has come to lie at.
        fixed: it was not fitted.
    """

    name: str
    value: float
    error: float
    unit: str = ""
    interval: Profile | None = None
    bound: float | None = None
    fixed: bool = False

    @property
    def relative(self) -> float:
        """Standard error by value."""
        return self.error / abs(self.value) if self.value else math.inf

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.4g} ± {self.error:.2g}{' ' + self.unit if self.unit else ''}"


@dataclass
class Estimates:
    """What `estimate` found.

    Attributes:
        entries: parameters, fixed ones last, then starting states.
        correlation: (k, k) of what was fitted, in the order of `fitted`.
        covariance: (k, k) likewise.
        noise: by column, the standard deviation of the residuals, of their logarithm with noise="log"; corrected for the
            number of parameters.
        count: numbers measured; `freedom` what is left of them (networks count with the share of their weights that the
            data, not the prior, determine).
        log_likelihood, aic: of the fit.
        messages: what to know before the numbers are used: undetermined or hardly determined combinations, bounds,
            a search that did not end.
        converged: the search ended because nothing changed any more.

    `fit["k"]` is an `Estimate`. `str(fit)` is a table.

    Example:
        >>> from isocline.equations import Equations, Measured, estimate
        >>> field = Equations("dx = a; x(0) = b")
        >>> fit = estimate(field, Measured([0.0, 1.0, 2.0, 3.0], {"x": [1.1, 1.9, 3.2, 3.8]}))
        >>> print(fit)
        parameter  value  ± error
        a           0.94  0.09055
        b           1.09   0.1694
        noise: x 0.202; 4 observations, 2 degrees of freedom, AIC 1.802
        >>> print(fit.profile("a"))
        a: 95 % interval 0.5503 to 1.33
    """

    entries: dict[str, Estimate]
    fitted: tuple[str, ...]
    covariance: Tensor
    correlation: Tensor
    noise: dict[str, float]
    count: int
    freedom: float
    log_likelihood: float
    aic: float
    messages: list[str]
    converged: bool
    search: Search = field(repr=False)
    best: Optimum = field(repr=False)
    raw_errors: Tensor = field(repr=False)

    @staticmethod
    def of(search: Search, best: Optimum) -> Estimates:
        """From where a search ended."""
        misfit = search.misfit
        model, names, count = misfit.field, misfit.names, len(best.residuals)
        undetermined = Undetermined.of(search, best)
        covariance, effective = _covariance(search, best, undetermined.entries)
        freedom = count - effective
        slopes = torch.ones(len(names), dtype=torch.float64)
        for i, p in enumerate(model.free):
            slopes[i] = torch.as_tensor(p.slope(best.x[i]))
        raw = covariance.diagonal().clamp(min=0).sqrt()[: len(names)]
        raw[undetermined.entries[: len(names)]] = math.inf
        raw[_held(search, best)[: len(names)]] = math.nan
        if freedom <= 1e-9:
            raw = torch.full_like(raw, math.nan)
        natural = covariance[: len(names), : len(names)] * slopes.unsqueeze(1) * slopes
        sd = natural.diagonal().clamp(min=1e-300).sqrt()
        correlation = (natural / sd / sd.unsqueeze(1)).clamp(-1, 1)
        values = [p.value(float(u)) for p, u in zip(model.free, best.x, strict=False)]
        values += best.x[len(model.free) : len(names)].tolist()
        entries = {}
        for i, (name, value) in enumerate(zip(names, values, strict=True)):
            p = model.free[i] if i < len(model.free) else None
            error = float(raw[i] * slopes[i].abs()) if raw[i].isfinite() else float(raw[i])
            entries[name] = Estimate(name, value, error, p.unit if p else "", None, p.bound(value) if p else None)
        fixed = {p.name: Estimate(p.name, p.begin, 0.0, p.unit, fixed=True) for p in model.fixed}
        entries = {n: e for n, e in entries.items() if n in model.names} | fixed | entries
        columns = misfit.data.columns
        inflation = count / freedom if freedom > 1e-9 else math.nan
        noise = {c: float((v * inflation).sqrt()) for c, v in zip(columns, best.variances, strict=True)}
        twice = count * (1 + math.log(2 * math.pi)) + float((misfit.data.counts * best.variances.log()).sum())
        for kind, c in zip(misfit.data.noise, range(len(columns)), strict=True):
            if kind == "log":  # of the numbers, not of their logarithms
                twice += 2 * float(misfit.data.values[misfit.data.column == c].sum())
        messages = list(undetermined.sentences) + _remarks(entries, correlation, names, undetermined, best, freedom)
        return Estimates(
            entries, tuple(names), natural, correlation, noise, count, freedom, -twice / 2,
            twice + 2 * (effective + len(columns)), messages, best.converged, search, best, raw,
        )  # fmt: skip

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.entries:
            raise KeyError(f"{name}{meant(name, self.entries)}; there are {', '.join(self.entries)}")
        return self.entries[name]

    @property
    def values(self) -> dict[str, float]:
        """By name."""
        return {name: e.value for name, e in self.entries.items()}

    def profile(self, name: str, level: float = LEVEL) -> Profile:
        """The profile-likelihood interval of a number, kept in `entries`.

        Where the profile comes upon a better fit, that one is taken: the values here and in the field change, and a message
        says so.

        Raises:
            KeyError: for a name that was not fitted.
            ValueError: for a level outside (0, 1), or with no degrees of freedom left.
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level}: expected a share between 0 and 1, such as 0.95")
        entry = self[name]
        if entry.fixed:
            raise KeyError(f"{name} is fixed: it has no interval")
        if self.freedom <= 1e-9:
            raise ValueError(
                f"{self.count} observations and as many fitted numbers: nothing is left to tell the noise from; "
                f"fix parameters, or measure more"
            )
        index = self.fitted.index(name)
        for _ in range(5):
            try:
                found = profile(
                    self.search, self.best, index, float(self.raw_errors[index]), self.threshold(level), level
                )
                break
            except BetterFitError as better:
                self._move(better.x)
        else:
            raise ValueError(f"{name}: every profile finds a better fit; give better starting values, or starts=8")
        self.search.misfit.put(self.best.x)
        self.entries[name] = replace(self[name], interval=found)
        return found

    def profiles(self, names: Sequence[str] | None = None, level: float = LEVEL) -> list[Profile]:
        """Those of all parameters that were fitted, or of some names."""
        wanted = list(self.search.misfit.field.names if names is None else names)
        for _ in range(PASSES):
            # A better fit that one profile comes upon makes those before it void.
            void = [name for name in wanted if not self._has(name, level)]
            for name in void:
                self.profile(name, level)
            if not void:
                break
        return [entry.interval for entry in map(self.__getitem__, wanted) if entry.interval is not None]

    def _has(self, name: str, level: float) -> bool:
        interval = self[name].interval
        return interval is not None and interval.level == level

    def threshold(self, level: float) -> float:
        """How far above the best the loss may be."""
        from scipy.stats import t

        quantile = float(t.ppf((1 + level) / 2, self.freedom))
        return self.count * math.log1p(quantile**2 / self.freedom)

    def _move(self, x: Tensor) -> None:
        """Takes a better fit that a profile came upon."""
        again = Estimates.of(self.search, self.search.run(x))
        again.messages.append("a profile came upon a better fit than the search had ended at; it was taken")
        self.__dict__.update(again.__dict__)

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain numbers, None where there is none: what goes into a report."""

        def plain(x: float) -> float | None:
            return x if math.isfinite(x) else None

        found = []
        for e in self.entries.values():
            p = e.interval
            row: dict[str, Any] = {"name": e.name, "value": e.value, "unit": e.unit, "fixed": e.fixed}
            row |= {"error": None if e.fixed else plain(e.error), "bound": e.bound}
            if p is not None:
                row |= {"level": p.level, "low": plain(p.low), "high": plain(p.high)}
                row |= {"open_low": p.open_low, "open_high": p.open_high}
                row["profile"] = {"values": list(p.values), "losses": list(p.losses), "threshold": p.threshold}
            found.append(row)
        return found

    def __str__(self) -> str:
        from isocline.equations.table import table

        return table(self)


def _covariance(search: Search, best: Optimum, undetermined: Tensor) -> tuple[Tensor, float]:
    """Of x, from the expected information; and how many numbers the data determine.

    Undetermined directions are left out (pseudo-inverse): their entries get an infinite error.
    """
    count = len(best.residuals)
    _, jacobian = search.weighted((best.residuals, best.jacobian), best.x, best.variances)
    keep = (~_held(search, best)).nonzero().squeeze(1)
    jacobian = jacobian[:, keep]
    data = jacobian[:count]
    length = jacobian.norm(dim=0).clamp(min=1e-300)
    scaled = jacobian / length
    information = scaled.mT @ scaled
    inverse = torch.linalg.pinv(information, rtol=1e-12, hermitian=True)
    own = (data / length).mT @ (data / length)
    effective = float((own @ inverse).diagonal().sum()) if search.misfit.weights else float(len(keep) - _lost(scaled))
    share = (count - effective) / count
    if share > 1e-9:
        inverse = torch.linalg.pinv(own * share + (information - own), rtol=1e-12, hermitian=True)
    covariance = torch.zeros(len(best.x), len(best.x), dtype=torch.float64)
    covariance[keep.unsqueeze(1), keep] = inverse / length / length.unsqueeze(1)
    return covariance, effective


def _held(search: Search, best: Optimum) -> Tensor:
    """Which entries of x are parameters at a bound: the others' errors are for these values."""
    found = torch.zeros(len(best.x), dtype=torch.bool)
    for i, p in enumerate(search.misfit.field.free):
        found[i] = p.bound_of(best.x[i]) is not None
    return found


def _lost(scaled: Tensor) -> int:
    """Directions that change nothing."""
    if not scaled.shape[1]:
        return 0
    values = torch.linalg.svdvals(scaled)
    return scaled.shape[1] - int((values > 1e-6 * values.max()).sum())


def _remarks(
    entries: dict[str, Estimate],
    correlation: Tensor,
    names: Sequence[str],
    undetermined: Undetermined,
    best: Optimum,
    freedom: float,
) -> list[str]:
    """What else to know."""
    told = []
    if freedom <= 1e-9:
        told.append("as many numbers were fitted as were measured: there are no standard errors")
    if not best.converged:
        told.append("the search did not end: the values may not be the best; start nearer, or allow more evaluations")
    for e in entries.values():
        if e.bound is not None:
            told.append(
                f"{e.name} lies at its bound {e.bound:g}: it has no standard error, and those of the others are for this value"
            )
    clear = [i for i in range(len(names)) if not undetermined.entries[i]]
    told += correlated([names[i] for i in clear], correlation[clear][:, clear])
    return told
