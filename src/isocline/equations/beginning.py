"""Where the searches of a population fit begin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice, permutations, product

import torch
from torch import Tensor

from isocline.equations.inference import Search
from isocline.equations.laplace import Laplace
from isocline.equations.misfit import Misfit
from isocline.equations.module import Equations
from isocline.equations.parameters import Parameter
from isocline.equations.tree import names

INSIDE = 4.0  # logit of how near a bound a second search begins: 2 % of the way between two
SWEEPS = 6  # of the linearised model, before the search
# In the unbounded coordinates of what a lag rests on, from where it starts: of a lag, half and twice.
LAGS = (0.0, -0.7, 0.7)
TRIES, AWAY = 6, 2.5  # starts drawn for parameters of which none is said, and how far away at most, unbounded
MIRRORS = 150  # places at which some of them are exchanged that are looked at
# By which optima are told apart: in an unbounded coordinate a factor of two; and of the larger value, as near a bound the
# coordinate may move without end.
OTHER, OF_LARGER = 0.7, 0.4
AS_GOOD = 1.2  # times the least mean square of all series taken for one, up to which an optimum is one
OTHERS = 2  # of such optima that a search begins at


def as_one(misfit: Misfit, raw: Tensor) -> tuple[float, Tensor] | None:
    """Raw parameters with which all series, taken for one, are fitted best, and the loss there; None where that cannot be, or
    without SciPy.

    Least squares find their way from far away, where no effect of a series could be told from what is wrong with all.
    """
    start, free = misfit.start(), misfit.field.free
    start[: len(free)] = raw
    try:
        optimum = Search(misfit).run(start)
    except (ImportError, ValueError):
        return None
    return optimum.loss, _inside(free, optimum.x[: len(free)])


def _inside(free: Sequence[Parameter], raw: Tensor) -> Tensor:
    """Off the bounds, where nothing would move a parameter any more."""
    between = torch.tensor([p.kind == "between" for p in free], dtype=torch.bool)
    return torch.where(between, raw.clamp(-INSIDE, INSIDE), raw)


def drawn(misfit: Misfit, raw: Tensor, found: Tensor, stop: Callable[[], bool]) -> list[Tensor]:
    """Other raw parameters with which all series, taken for one, are fitted about as well as they can be, from starts drawn by
    lot; the best first.

    Args:
        raw: where a search began; parameters of which nobody said where they start are moved from there.
        found: where it ended.
        stop: asked before every start.
    """
    free = misfit.field.free
    moved = [i for i, p in enumerate(free) if p.start is None]
    draw, optima = torch.Generator().manual_seed(0), []
    for _ in range(TRIES if moved else 0):
        shift = torch.zeros_like(raw)
        shift[moved] = AWAY * (2 * torch.rand(len(moved), generator=draw, dtype=raw.dtype) - 1)
        optima += [optimum] if not stop() and (optimum := as_one(misfit, raw + shift)) else []
    optima.sort(key=lambda one: one[0])
    return _others(misfit, found, [there for loss, there in optima if loss <= optima[0][0] + _as_good(misfit)])


def mirrored(misfit: Misfit, found: Tensor, stop: Callable[[], bool]) -> list[Tensor]:
    """Raw parameters, of which those that nobody said the start of have changed places, and which fit all series, taken for one,
    about as well as where a search ended; those first that fit them most nearly as well.

    Args:
        found: where it ended.
        stop: asked before every solve.
    """
    free, search = misfit.field.free, Search(misfit)

    def loss(there: Tensor) -> float:
        x = misfit.start()
        x[: len(there)] = there
        result = None if stop() else misfit(x)
        return math.inf if result is None else search.loss(x, search.variances(result[0]))

    moved = [i for i, p in enumerate(free) if p.start is None and p.logarithmic]
    places = list(islice(exchanged(found, moved), MIRRORS))
    here = loss(found) if places else math.inf
    near = sorted(((abs(loss(x) - here), x) for x in places if math.isfinite(here)), key=lambda one: one[0])
    return _others(misfit, found, [_inside(free, x) for further, x in near if further <= _as_good(misfit)])


def _as_good(misfit: Misfit) -> float:
    return float(misfit.data.counts.sum()) * math.log(AS_GOOD)


def _others(misfit: Misfit, found: Tensor, places: list[Tensor]) -> list[Tensor]:
    """The first that are neither `found` nor each other."""
    others = [found]
    for there in places:
        if all(apart(misfit.field.free, there, one) for one in others):
            others.append(there)
    return others[1 : 1 + OTHERS]


def apart(free: Sequence[Parameter], raw: Tensor, other: Tensor) -> bool:
    """Whether some parameter has another value.

    Example:
        >>> share = Parameter.read("share in [0, 1]")
        >>> apart([share], torch.tensor([0.0]), torch.tensor([2.0])), apart([share], torch.tensor([9.0]), torch.tensor([12.0]))
        (True, False)
    """
    for p, x, y in zip(free, raw, other, strict=True):
        a, b = p.natural(x), p.natural(y)
        if abs(x - y) > OTHER and abs(a - b) > OF_LARGER * max(abs(a), abs(b)):
            return True
    return False


def exchanged(raw: Tensor, which: Sequence[int]) -> Iterator[Tensor]:
    """Logarithms of positive parameters with two of them in each other's place, a third taking what becomes of a product or
    a quotient; or with one in the place of the quotient of two others, as a rate ka in that of cl/v."""
    for i, j in combinations(which, 2):
        swapped, gap = raw.clone(), raw[i] - raw[j]
        swapped[[i, j]] = raw[[j, i]]
        yield swapped
        for k, sign in product((k for k in which if k not in (i, j)), (1, -1)):
            other = swapped.clone()
            other[k] += sign * gap
            yield other
    for i, j, k in permutations(which, 3):
        other = raw.clone()
        other[i], other[k] = raw[j] - raw[k], raw[j] - raw[i]
        yield other


def begun(laplace: Laplace, field: Equations, raw: Tensor, sds: Sequence[float]) -> tuple[Tensor, Tensor] | None:
    """As `begin`; with lags the best of several, as their likelihood has a valley between any two rows."""
    system = field.system
    used = {name for tree in system.lags.values() for name in (*names(tree), *system.needs(tree))}
    used |= {name for d in used & set(system.definitions) for name in names(system.definitions[d])}
    lags = torch.tensor([p.name in used for p in field.free], dtype=torch.bool)
    if not bool(lags.any()):
        return begin(laplace, raw, sds)
    found: list[tuple[float, tuple[Tensor, Tensor]]] = []
    for shift in LAGS:
        start = begin(laplace, raw + shift * lags, sds)
        if start is None:
            if shift == LAGS[0]:
                return None
            continue
        psi = start[0]
        eta = laplace.sought(psi, start[1]) if sds else start[1]
        value = laplace(psi, eta)
        if value is not None:
            found.append((value.loss, (psi, eta)))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def begin(laplace: Laplace, raw: Tensor, sds: Sequence[float]) -> tuple[Tensor, Tensor] | None:
    """ψ and effects near an optimum: the model linearised about every series' own parameters, solved, and so on.

    Each sweep takes θ by generalised least squares, and Ω and the noise by one step of expectation and maximisation. None
    where f is no number from the start.
    """
    layout, count = laplace.layout, len(laplace.rows)
    spread = torch.tensor(sds, dtype=torch.float64)
    eta = raw.new_zeros(count, len(sds))
    f, _ = laplace.predicted(laplace.raw(raw, eta), laplace.rows)
    if not bool(f.isfinite().all()):
        return None
    noise = _noise_of(laplace, f)
    theta, kept = raw, None
    for _ in range(SWEEPS):
        psi = layout.joined(theta, spread, noise)
        found = laplace.modes(psi, eta)
        if found is None:  # θ went where the equations have no solution: halfway back
            if kept is None:
                return None
            theta = 0.5 * (theta + kept[0][: layout.count])
            eta = kept[1]
            continue
        eta, local = found
        kept = psi, eta
        values = layout.values(psi)
        v, _ = laplace.variance(values, local.f)
        mask = laplace.there.unsqueeze(-1)
        slopes = torch.where(mask, local.slopes, 0.0) / v.sqrt().unsqueeze(-1)
        by_eta = slopes[..., list(layout.varying)]
        residual = torch.where(laplace.there, (laplace.y - local.f) / v.sqrt(), 0.0)
        target = residual + (by_eta @ eta.unsqueeze(-1)).squeeze(-1)
        omega = values.factor @ values.factor.mT
        whole = by_eta @ omega @ by_eta.mT + torch.eye(laplace.width, dtype=v.dtype)
        solved = torch.linalg.solve(whole, torch.cat([slopes, target.unsqueeze(-1)], -1))
        normal, right = slopes.mT @ solved[..., :-1], slopes.mT @ solved[..., -1:]
        step = (torch.linalg.pinv(normal.sum(0), hermitian=True) @ right.sum(0)).squeeze(-1)
        posterior = torch.linalg.inv(laplace.information(values, local.f, local.slopes))
        spread = (eta.square() + posterior.diagonal(dim1=1, dim2=2)).mean(0).sqrt()
        left = residual.square() + ((by_eta @ posterior) * by_eta).sum(-1)
        noise = _rescaled(laplace, noise, left)
        theta = theta + step * (1.0 / step.abs().max().clamp(min=1e-12)).clamp(max=1.0)
    return kept


def _noise_of(laplace: Laplace, f: Tensor) -> list[tuple[float, float]]:
    """(a, b) of each column from residuals of the population's own values: half their size, which is mostly of series."""
    found = []
    for c in range(len(laplace.layout.noise)):
        mine = laplace.there & (laplace.column == c)
        size = 0.5 * float((laplace.y - f)[mine].square().mean().sqrt())
        level = float(laplace.y[mine].square().mean().sqrt())
        size = max(size, 1e-6 * level, 1e-300)
        found.append((size, size / max(level, 1e-300)))
    return found


def _rescaled(laplace: Laplace, noise: list[tuple[float, float]], left: Tensor) -> list[tuple[float, float]]:
    """With which the mean square of what is left in each column becomes one."""
    factors = [
        float(left[laplace.there & (laplace.column == c)].mean().clamp(min=1e-12).sqrt()) for c in range(len(noise))
    ]
    return [(a * k, b * k) for (a, b), k in zip(noise, factors, strict=True)]
