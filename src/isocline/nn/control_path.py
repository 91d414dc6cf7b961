"""Paths through irregular, partly missing observations, for equations driven by data: dz = f(z) dX."""

from __future__ import annotations

from typing import Any

import torch

from isocline._types import Float, Tensor
from isocline.inputs import CubicHermite, LinearInterpolation, Signal, as_times, check_times

KINDS = ("hermite", "natural", "linear", "rectilinear")


def control_path(
    x: Tensor, ts: Any = None, lengths: Tensor | None = None, *, kind: str = "hermite", intensity: bool = False
) -> Signal:
    """A continuous X(s) with X(k) the k-th observation: what drives a `NeuralCDE`.

    s counts observations; time, if given, is the first channel of X. A solution of dz = f(z) dX does not depend on how
    fast its path is run through, and so samples observed at different times share their knots, and a sample that has
    ended stands still while others go on.

    Args:
        x: observations (K, B, C), time first, floating point; NaN where a channel is missing. What lies in padding does not matter.
        ts: their times, strictly increasing: (K,), or (B, K) with NaN as padding at the end of a row. None: no channel of
            time.
        lengths: (B,), observations of each sample, at least 1, where the padding of `ts` does not say it.
        kind: "hermite": cubics whose slope at an observation is that of the line from the one before; X up to s depends
            on no observation after ⌈s⌉. "natural": the natural cubic spline, smoothest, depends on everything. "linear".
            "rectilinear": first time moves on, then the values jump (as fast as s goes): X(2k) is the k-th observation,
            and X up to there depends on none after it.
        intensity: adds a channel to each channel of x, how often it has been observed.

    Returns:
        A signal of (B, C′) values in s from 0 to K − 1 (rectilinear: 2K − 2), C′ = C (+ 1 for time) (+ C for the counts) in
        the order time, x, counts. Missing values lie on the straight line (in time) between the observations of their
        channel before and after, and are held at the ends; for a rectilinear path they are those observed last, 0 before
        the first. A channel never observed is 0. Differentiable with respect to `x` and `ts`.

    Raises:
        TypeError, ValueError: naming the argument, what came, what was expected.

    Source: J. Morrill, P. Kidger, L. Yang, T. Lyons, Neural Controlled Differential Equations for Online Prediction Tasks
    (2021); counts as channels: P. Kidger, J. Morrill, J. Foster, T. Lyons, Neural Controlled Differential
    Equations for Irregular Time Series (NeurIPS 2020).

    Example:
        >>> x = torch.tensor([[[1.0]], [[float("nan")]], [[4.0]]])
        >>> path = control_path(x, [0.0, 1.0, 3.0], kind="linear")
        >>> path(torch.tensor(1.0)), path(torch.tensor(1.5))
        (tensor([[1., 2.]]), tensor([[2., 3.]]))
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}, expected one of {', '.join(KINDS)}")
    if kind == "rectilinear" and ts is None:
        raise ValueError("ts: a rectilinear path moves time and values in turn; give the times of the observations")
    if not (x.dim() == 3 and x.is_floating_point() and x.numel()):
        raise ValueError(
            f"x: shape {tuple(x.shape)}, {x.dtype}, expected floating point (observations, batch, channels)"
        )
    count, batch, _ = x.shape
    number = torch.arange(count, device=x.device)
    times, present = _times(ts, lengths, x)
    x = x.transpose(0, 1)
    last = present.sum(1, keepdim=True) - 1
    held = times.gather(1, torch.minimum(number, last))
    observed = present.unsqueeze(2) & ~x.detach().isnan()
    values = _held(x, observed) if kind == "rectilinear" else _filled(x, observed, held)
    counts = [observed.cumsum(1).to(x.dtype)] if intensity else []
    clock = [held.unsqueeze(2)] if ts is not None else []
    knots = number.to(torch.float64)
    if kind == "rectilinear":
        here = torch.cat([*clock, values, *counts], 2)
        ahead = torch.cat([*(c[:, 1:] for c in clock), *(c[:, :-1] for c in (values, *counts))], 2)
        both = torch.stack([here[:, :-1], ahead], 2).flatten(1, 2)
        whole = torch.cat([both, here[:, -1:]], 1)
        number, last = torch.arange(2 * count - 1, device=x.device), 2 * last
        knots = number.to(torch.float64)
    else:
        whole = torch.cat([*clock, values, *counts], 2)
    if bool((last < number[-1]).any()):
        knots = torch.where(number <= last, knots, torch.nan).expand(batch, -1)
    if kind == "hermite":
        return CubicHermite(knots, whole, "backward", per_sample=True)
    if kind == "natural":
        return CubicHermite(knots, whole, _natural_slopes(whole, last), per_sample=True)
    return LinearInterpolation(knots, whole, per_sample=True)


class Derivative(Signal):
    """dX/ds of a piecewise linear or cubic signal X, as a signal.

    Args:
        path: X.

    Example:
        >>> Derivative(LinearInterpolation([0.0, 2.0], torch.tensor([1.0, 5.0])))(1.0)
        tensor(2.)
    """

    def __init__(self, path: Signal) -> None:
        self.path = path
        self.ts, self.values, self.per_sample, self.unclear = path.ts, path.values, path.per_sample, path.unclear

    def kinks(self) -> tuple[Tensor, bool]:
        """The knots of X, the last too: there dX/ds falls to 0, however smooth X was."""
        return self.ts.detach(), True

    def table(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """As of every signal."""
        knots, coefficients = self.path.table(dtype)
        power = torch.arange(1, coefficients.shape[2], device=coefficients.device, dtype=coefficients.dtype)
        return knots, coefficients[:, :, 1:] * power.view(-1, *[1] * len(self.shape))


# ---- what comes in ------------------------------------------------------------------------------------------------
def _times(
    ts: Any, lengths: Tensor | None, x: Float[Tensor, "count batch channels"]
) -> tuple[Float[Tensor, "batch count"], Tensor]:
    """Times, or the numbers of the observations, 0 in padding; and which are not padding."""
    count, batch, _ = x.shape
    number = torch.arange(count, device=x.device)
    present = torch.ones(batch, count, dtype=torch.bool, device=x.device)
    if ts is None:
        times = number.to(x.dtype).expand(batch, -1)
    else:
        given = as_times(ts)
        if given.shape not in ((count,), (batch, count)):
            raise ValueError(
                f"ts: shape {tuple(given.shape)}, expected ({count},) or ({batch}, {count}) for x of shape {tuple(x.shape)}"
            )
        check_times(given, "ts")
        times = given.to(x.device, x.dtype).expand(batch, -1)
        present = present & ~times.detach().isnan()
    if lengths is not None:
        if lengths.shape != (batch,) or not bool(((lengths >= 1) & (lengths <= count)).all()):
            raise ValueError(f"lengths: {lengths.tolist()}, expected ({batch},) numbers from 1 to {count}")
        present = present & (number < lengths.to(x.device).unsqueeze(1))
    return torch.where(present, times, 0.0), present


def _held(x: Float[Tensor, "batch count channels"], observed: Tensor) -> Float[Tensor, "batch count channels"]:
    """The value observed last, 0 before the first."""
    known = torch.where(observed, x, 0.0)
    return known.gather(1, _before(observed).clamp(min=0))


def _filled(
    x: Float[Tensor, "batch count channels"], observed: Tensor, ts: Float[Tensor, "batch count"]
) -> Float[Tensor, "batch count channels"]:
    """Gaps on straight lines in time, the ends held."""
    count = x.shape[1]
    known, ts = torch.where(observed, x, 0.0), ts.unsqueeze(2).expand_as(x)
    before = _before(observed)
    after = count - 1 - _before(observed.flip(1)).flip(1)
    first, final = before < 0, after == count
    before, after = (
        torch.where(first, after, before).clamp(max=count - 1),
        torch.where(final, before, after).clamp(min=0),
    )
    left, right = known.gather(1, before), known.gather(1, after)
    start, end = ts.gather(1, before), ts.gather(1, after)
    between = after > before
    share = torch.where(between, (ts - start) / torch.where(between, end - start, 1.0), 0.0)
    return left + share * (right - left)


def _before(observed: Tensor) -> Tensor:
    """The number of the last observation of a channel up to each, −1 where there is none."""
    number = torch.arange(observed.shape[1], device=observed.device).view(1, -1, 1)
    return torch.where(observed, number, -1).cummax(1).values


def _natural_slopes(
    values: Float[Tensor, "batch count channels"], last: Tensor
) -> Float[Tensor, "batch count channels"]:
    """Of the spline with knots one apart and no curvature at the ends.

    m_{k−1} + 4 m_k + m_{k+1} = 3 (v_{k+1} − v_{k−1}) inside, 2 in place of 4 at the two ends: continuity of X″ (de Boor,
    A Practical Guide to Splines, 1978, chapter IV). Padding gets rows of the identity.
    """
    number = torch.arange(values.shape[1], device=values.device)
    joined = (number[:-1] < last).to(values.dtype)  # whether k and k + 1 belong together
    none = joined.new_zeros(len(values), 1)
    to_next, to_last = torch.cat([joined, none], 1), torch.cat([none, joined], 1)
    diagonal = (2 * (to_next + to_last)).clamp(min=1)
    secants = 3 * values.diff(dim=1) * joined.unsqueeze(2)
    ends = torch.zeros_like(values[:, :1])
    right = torch.cat([ends, secants], 1) + torch.cat([secants, ends], 1)
    # Elimination down the three diagonals, then up: a dense solve would take count³ of every sample.
    share, found = diagonal.new_zeros(len(values)), ends[:, 0]
    shares, rows = [], []
    for k in range(len(number)):
        pivot = diagonal[:, k] - to_last[:, k] * share
        share = to_next[:, k] / pivot
        found = (right[:, k] - to_last[:, k, None] * found) / pivot[:, None]
        shares.append(share)
        rows.append(found)
    for k in reversed(range(len(rows) - 1)):
        rows[k] = rows[k] - shares[k][:, None] * rows[k + 1]
    return torch.stack(rows, 1)
