"""Parameters from measurements: maximum likelihood with noise of each column, standard errors, correlations.

The residuals of column c are taken to be normal with a standard deviation σ_c that is estimated too. For given σ the
likelihood is a sum of squares, minimised by the trust-region least squares of SciPy with the exact Jacobian of the forward
sensitivities; σ_c² = RSS_c/n_c then follows, and so on until neither changes. With one column this is ordinary nonlinear least
squares, σ² = RSS/(n - p) its estimate of the variance, as in R's `nls`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.equations.estimates import Estimates
from isocline.equations.measured import Measured
from isocline.equations.misfit import Misfit, Settings
from isocline.equations.module import Equations

ROUGH, FINE, WITH_NETS = 1e-3, 1e-9, 1e-6  # relative changes of the sum of squares that end a round
FINE_HELD = 1e-8  # along a profile, whose ends are sought to a thousandth
SAME, SAME_HELD = 1e-6, 1e-4  # relative changes of σ² that end the rounds
FAR = 12.0  # in an unbounded coordinate
HELD = 60  # evaluations of a search with one entry held, which starts near its end


def estimate(
    field: Equations,
    data: Measured | Sequence[Measured],
    *,
    noise: str | Mapping[str, str] = "additive",
    initial: str = "free",
    starts: int = 1,
    prior: float = 1.0,
    solver: Any = "tsit5",
    rtol: float = 1e-8,
    max_evaluations: int = 200,
    seed: int = 0,
    tell: Callable[[int, float], None] = lambda evaluations, loss: None,
) -> Estimates:
    """Fits the free parameters of equations to series that were measured; the field then has the fitted values.

    Maximum likelihood with normal noise whose standard deviation is estimated for each column. Standard errors are those of
    the expected information (Gauss-Newton, with exact sensitivities); see `Estimates` for profile-likelihood intervals.
    Networks in the equations are fitted along, with a normal prior on their weights, and widen the errors of the parameters.

    Args:
        field: the model; changed in place.
        data: one series or several that share the parameters.
        noise: "additive": the same deviation at all values; "log": the same relative deviation, for positive columns; or by
            column.
        initial: starting states that no X(0) gives: "free": fitted; "first": the first observation, taken for true.
        starts: fits from so many starts, the declared one and random ones: evenly between two bounds, else around the
            declared one by a standard normal number in the unbounded coordinate; the best is kept.
        prior: standard deviation of the networks' weights.
        solver, rtol: of the solves, as for `isocline.solve`; absolute tolerances are a tenth of it, times each state's size.
        max_evaluations: of the model and its sensitivities, for each start.
        seed: of the random starts.
        tell: called after every evaluation with their number and the sum of squares.

    Raises:
        ValueError: naming what does not fit, or where the model cannot be solved from its start.
        ImportError: without SciPy.

    Source: G. A. F. Seber & C. J. Wild, Nonlinear Regression (1989), 2.1, 2.8; D. M. Bates & D. G. Watts (1988), 2.

    Example:
        >>> import torch
        >>> t = torch.linspace(0, 4, 9, dtype=torch.float64)
        >>> noise = 0.01 * torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> field = Equations("dx = -k*x; x(0) = 2", parameters="k > 0 unit 1/h")
        >>> fit = estimate(field, Measured(t, {"x": 2 * torch.exp(-0.7 * t) + noise}))
        >>> print(f"{fit['k'].value:.2f} ± {fit['k'].error:.3f}")
        0.71 ± 0.005
    """
    apart = [p.name for p in field.free if p.per_series]
    if apart:
        raise ValueError(
            f"{apart[0]}: declared per series, but estimate fits numbers that all series share; use population, or leave "
            f"per series out"
        )
    misfit = Misfit(field, data, noise, initial, Settings(solver, rtol, rtol / 10))
    if misfit.size == 0:
        raise ValueError("nothing to estimate: all parameters are fixed")
    search = Search(misfit, prior, max_evaluations, tell)
    first = misfit.start()
    generator = torch.Generator().manual_seed(seed)
    found: list[Optimum] = []
    failure: ValueError | None = None
    for k in range(max(1, starts)):
        x = first.clone()
        if k:
            x[: len(field.free)] = _drawn(field, x, generator)
        try:
            found.append(search.run(x))
        except ValueError as error:
            failure = failure or error
    if not found:
        assert failure is not None
        raise failure
    best = min(found, key=lambda optimum: optimum.loss)
    misfit.put(best.x)
    return Estimates.of(search, best)


def _drawn(field: Equations, x: Tensor, generator: torch.Generator) -> Tensor:
    """A random start of the free parameters."""
    count = len(field.free)
    normal = x[:count] + torch.randn(count, generator=generator, dtype=x.dtype)
    even = torch.logit(torch.rand(count, generator=generator, dtype=x.dtype), eps=1e-3)
    return torch.where(torch.tensor([p.kind == "between" for p in field.free], dtype=torch.bool), even, normal)


@dataclass(frozen=True)
class Optimum:
    """Where a search ended.

    Attributes:
        x: as `Misfit` has it.
        variances: (C,) maximum-likelihood σ² of each column.
        loss: minus twice the logarithm of the likelihood (and the prior), without constants.
        residuals, jacobian: there.
        converged: the search ended because nothing changed.
    """

    x: Tensor
    variances: Tensor
    loss: float
    residuals: Tensor
    jacobian: Tensor
    converged: bool


class Search:
    """Minimises the loss over all of x, or over all but one entry that is held.

    Args:
        misfit: residuals and their derivative.
        prior: standard deviation of weights.
        max_evaluations: for each search.
        tell: as for `estimate`.
    """

    def __init__(
        self,
        misfit: Misfit,
        prior: float = 1.0,
        max_evaluations: int = 200,
        tell: Callable[[int, float], None] = lambda evaluations, loss: None,
    ) -> None:
        if not prior > 0:
            raise ValueError(f"prior={prior}, expected a positive standard deviation")
        self.misfit, self.prior, self.max_evaluations, self.tell = misfit, prior, max_evaluations, tell

    def run(self, x: Tensor, held: int | None = None, variances: Tensor | None = None) -> Optimum:
        """The optimum that is reached from x.

        Args:
            x: start; where `held` is given, that entry stays.
            variances: of the columns, to begin with.

        Raises:
            ValueError: where the model cannot be solved at x.
        """
        at_start = self.misfit(x)
        if at_start is None:
            self.misfit.put(x)
            values = ", ".join(f"{k} = {v:.4g}" for k, v in self.misfit.field.values.items())
            if self.misfit.course.trouble:
                raise ValueError(f"with {values} {self.misfit.course.trouble}")
            raise ValueError(
                f"the equations cannot be solved over the data with {values}: a state or a rate becomes infinite or no "
                f"number (a root or logarithm of a negative number?), or the steps become too small; give other starting "
                f"values, or guard the expression, for example sqrt(max(x, 0))"
            )
        data = self.misfit.data
        if variances is None:
            variances = self.variances(at_start[0])
        # One column without networks: its σ scales all residuals alike and moves nothing.
        alone = len(data.counts) == 1 and not self.misfit.weights
        end = self.misfit.solves + (self.max_evaluations if held is None else HELD)
        point, result, converged, change = x, at_start, False, math.inf
        while not converged and self.misfit.solves < end:
            # While σ still moves, an exact minimum for it is for nothing.
            sharp, before = alone or change < 0.1, self.misfit.solves
            tolerance = ROUGH if not sharp else WITH_NETS if self.misfit.weights else FINE
            if held is not None and sharp:
                tolerance = max(tolerance, FINE_HELD if alone else WITH_NETS)
            point, result, ended = self._squares(point, result, variances, held, tolerance, end - self.misfit.solves)
            again = self.variances(result[0])
            change = float(((again - variances).abs() / again.clamp(min=1e-300)).max())
            variances = again
            converged = ended and (alone or (sharp and change < (SAME if held is None else SAME_HELD)))
            if self.misfit.solves == before:
                break
        return Optimum(point, variances, self.loss(point, variances), *result, converged)

    def variances(self, residuals: Tensor) -> Tensor:
        """(C,) mean squares, kept above rounding's reach."""
        data = self.misfit.data
        squares = torch.zeros(len(data.columns), dtype=torch.float64).index_add_(0, data.column, residuals.square())
        sizes = torch.zeros(len(data.columns), dtype=torch.float64).index_add_(0, data.column, data.values.square())
        return (squares / data.counts).clamp(min=(1e-20 * sizes / data.counts).clamp(min=1e-300))

    def loss(self, x: Tensor, variances: Tensor) -> float:
        """n_c log σ_c², summed, and the squares of the weights."""
        weights = x[len(x) - self.misfit.weights :]
        return float((self.misfit.data.counts * variances.log()).sum() + (weights / self.prior).square().sum())

    def weighted(self, result: tuple[Tensor, Tensor], x: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals in standard deviations, those of the prior behind them, and their derivative."""
        residuals, jacobian = result
        scale = variances.sqrt()[self.misfit.data.column]
        residuals, jacobian = residuals / scale, jacobian / scale.unsqueeze(1)
        weights = self.misfit.weights
        if weights:
            prior = torch.zeros(weights, len(x), dtype=torch.float64)
            prior[:, len(x) - weights :] = torch.eye(weights, dtype=torch.float64) / self.prior
            residuals = torch.cat([residuals, x[len(x) - weights :] / self.prior])
            jacobian = torch.cat([jacobian, prior])
        return residuals, jacobian

    def _wild(self, x: Tensor, there: Tensor) -> bool:
        """Whether a bounded parameter is to change by a factor of 10⁵: a step of the search that only costs time."""
        free = self.misfit.field.free
        moved = (there - x).abs()[: len(free)].tolist()
        return any(m > FAR and p.kind != "identity" for m, p in zip(moved, free, strict=True))

    def _squares(
        self,
        x: Tensor,
        result: tuple[Tensor, Tensor],
        variances: Tensor,
        held: int | None,
        ftol: float,
        evaluations: int,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], bool]:
        """Least squares with σ as it is; where it ended, what it found there, and whether nothing changed any more."""
        keep = [i for i in range(len(x)) if i != held]
        if not keep:
            return x, result, True
        least_squares = _least_squares()
        seen: dict[bytes, tuple[Tensor, Tensor] | None] = {x[keep].numpy().tobytes(): result}

        def whole(part: Any) -> Tensor:
            full = x.clone()
            full[keep] = torch.as_tensor(part, dtype=torch.float64)
            return full

        def look(part: Any) -> tuple[Tensor, Tensor] | None:
            key = part.tobytes()
            if key not in seen:
                if len(seen) > 4:
                    seen.clear()
                there = whole(part)
                seen[key] = None if self._wild(x, there) else self.misfit(there)
            return seen[key]

        def residuals(part: Any) -> Any:
            found = look(part)
            if found is None:
                return torch.full((len(result[0]) + self.misfit.weights,), torch.inf, dtype=torch.float64).numpy()
            weighted = self.weighted(found, whole(part), variances)[0]
            self.tell(self.misfit.solves, float(weighted.square().sum()))
            return weighted.numpy()

        def jacobian(part: Any) -> Any:
            found = look(part)
            assert found is not None
            return self.weighted(found, whole(part), variances)[1][:, keep].numpy()

        done = least_squares(
            residuals, x[keep].numpy(), jacobian, method="trf", x_scale=self._scale(keep, jacobian(x[keep].numpy())),
            ftol=ftol, xtol=1e-9, gtol=1e-12,
            max_nfev=max(1, evaluations),
        )  # fmt: skip
        end = look(done.x)
        assert end is not None
        return whole(done.x), end, done.status > 0

    def _scale(self, keep: list[int], jacobian: Any) -> Any:
        """Of steps: by the Jacobian; but where that says of a bounded parameter that it hardly matters, 1 in its unbounded coordinate.

        By the Jacobian alone such a parameter takes all of a step, to where nothing can be solved, and as steps get shorter
        until it can, the others hardly move: the search would end where it began.
        """
        free = self.misfit.field.free
        bounded = torch.tensor([i < len(free) and free[i].kind != "identity" for i in keep])
        sizes = 1.0 / torch.as_tensor(jacobian).norm(dim=0).clamp(min=1e-150)
        if not bool((sizes[bounded] > 1.0).any()):
            return "jac"
        return torch.where(bounded, sizes.clamp(max=1.0), sizes).numpy()


def _least_squares() -> Callable[..., Any]:
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise ImportError("estimates need SciPy: pip install 'isocline[app]'") from error
    return least_squares
