"""What drives a system: inputs u(t) that are known and not predicted, held between the rows they were recorded at; and doses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from isocline.fit.dosing import Given, Regimen, flowing
from isocline.inputs import CubicHermite, LinearInterpolation, Signal, ZeroOrderHold

if TYPE_CHECKING:
    from isocline.fit.reading.table import Series
    from isocline.fit.scale import Scales

HOLDS: dict[str, type[Signal]] = {"zoh": ZeroOrderHold, "linear": LinearInterpolation, "cubic": CubicHermite}
MARGIN = 2  # knots kept beyond each end of a stretch: what the slopes of a cubic there rest on


@dataclass(frozen=True)
class Inputs:
    """The inputs of one series: u (K, m) at the times t (K,), strictly increasing, held as `hold` says; and what it is given.

    Example:
        >>> pump = Inputs(np.array([0.0, 4.0, 8.0]), np.array([[1.0], [3.0], [2.0]]), "linear")
        >>> pump.at(np.array([2.0, 8.0, 9.0]))[:, 0]
        array([2., 2., 2.])
    """

    t: np.ndarray
    u: np.ndarray
    hold: str = "zoh"
    doses: Regimen | None = None

    @staticmethod
    def none(t: np.ndarray, doses: Regimen | None = None) -> Inputs:
        """No inputs (m = 0), for doses alone."""
        return Inputs(t, np.zeros((len(t), 0)), doses=doses)

    def at(self, t: np.ndarray) -> np.ndarray:
        """u (n, m) at times (n,); the last value after the last row."""
        if not self.u.shape[1]:
            return np.zeros((len(t), 0))
        return HOLDS[self.hold](torch.tensor(self.t), torch.tensor(self.u), per_sample=False)(torch.tensor(t)).numpy()

    def stretch(self, begin: float, end: float) -> Inputs:
        """The knots that u between two times rests on."""
        first = int(np.searchsorted(self.t, begin, side="right")) - 1 - MARGIN
        last = int(np.searchsorted(self.t, end, side="left")) + 1 + MARGIN
        rows = slice(max(0, first), max(1, last))
        return Inputs(self.t[rows], self.u[rows], self.hold, self.doses and self.doses.stretch(begin, end))

    def so_far(self, t: np.ndarray) -> np.ndarray | float:
        """(n, d) that was given before times (n,); 0 without doses."""
        return 0.0 if self.doses is None else self.doses.so_far(t)

    def shifted(self, begin: float) -> Inputs:
        """The time counted from `begin`."""
        doses = self.doses and replace(self.doses, t=self.doses.t - begin)
        return Inputs(self.t - begin, self.u, self.hold, doses)

    def scaled(self, begin: float, scales: Scales) -> Inputs:
        """In scaled units, the time counted from `begin`."""
        sd = np.array([s.sd for s in scales.states])
        doses = self.doses and self.doses.scaled(begin, sd, scales.tau)
        return Inputs((self.t - begin) / scales.tau, scales.scaled_inputs(self.u), self.hold, doses)

    def then(self, later: Inputs) -> Inputs:
        """These up to where others begin, then those; of doses the later ones alone, where they say any."""
        keep = self.t < later.t[0]
        t, u = np.concatenate([self.t[keep], later.t]), np.concatenate([self.u[keep], later.u])
        return Inputs(t, u, self.hold, self.doses if later.doses is None else later.doses)


@dataclass(frozen=True)
class Drive:
    """What drives a batch of samples, each on a clock of its own that is 0 where it begins.

    Attributes:
        begin: (B,) the table's time there.
        knots: (B, K) scaled times of the inputs from there on, NaN padded; `values` (B, K, m), scaled; None without inputs.
        hold: between them.
        doses: what the states are given; None where nothing is.
    """

    begin: Tensor
    knots: Tensor | None = None
    values: Tensor | None = None
    hold: str = "zoh"
    doses: Given | None = None

    @staticmethod
    def of(series: Sequence[Series], ts: Sequence[np.ndarray], scales: Scales) -> Drive:
        """Of stretches of series from the first to the last of some times (table's unit)."""
        begin = [float(t[0]) for t in ts]
        parts = [
            s.u.stretch(t[0], t[-1]).scaled(t[0], scales) for s, t in zip(series, ts, strict=True) if s.u is not None
        ]
        return Drive.stacked(begin, parts)

    @staticmethod
    def stacked(begin: Sequence[float], parts: Sequence[Inputs]) -> Drive:
        """Of scaled inputs of each sample, on its clock; of no inputs at all."""
        starts = torch.tensor(begin, dtype=torch.float64)
        if not parts:
            return Drive(starts)
        knots, values = ([torch.tensor(x) for x in which] for which in zip(*((p.t, p.u) for p in parts), strict=True))
        doses = Given.of([p.doses for p in parts if p.doses is not None])
        return Drive(starts, _padded(knots, torch.nan), _padded(values, 0.0), parts[0].hold, doses)

    def pick(self, rows: Tensor) -> Drive:
        """Some of the samples."""
        if self.knots is None or self.values is None:
            return Drive(self.begin[rows])
        doses = self.doses and self.doses.pick(rows)
        return Drive(self.begin[rows], self.knots[rows], self.values[rows], self.hold, doses)

    def repeat(self, count: int) -> Drive:
        """All samples several times, one after another."""
        return self if count == 1 else self.pick(torch.arange(len(self.begin)).repeat(count))

    @staticmethod
    def joined(parts: Sequence[Drive]) -> Drive:
        """The samples of several."""
        begin = torch.cat([p.begin for p in parts])
        if parts[0].knots is None:
            return Drive(begin)
        knots = _padded([row for p in parts if p.knots is not None for row in p.knots], torch.nan)
        values = _padded([row for p in parts if p.values is not None for row in p.values], 0.0)
        return Drive(begin, knots, values, parts[0].hold, Given.joined([p.doses for p in parts]))

    @cached_property
    def signals(self) -> dict[str, Signal]:
        """By name what a field may take: the inputs "u" (B, m), and where its clock begins, "begin" (B, 1)."""
        start = self.begin[:, None]
        found: dict[str, Signal] = {"begin": ZeroOrderHold(torch.zeros_like(start), start[..., None], per_sample=True)}
        if self.knots is not None and self.values is not None and self.values.shape[-1]:
            found["u"] = HOLDS[self.hold](self.knots, self.values, per_sample=True)
        return found

    def given(self, field: Any) -> dict[str, Signal] | None:
        """What a field takes (its attribute `takes`); None where it takes nothing."""
        return {name: self.signals[name] for name in getattr(field, "takes", ())} or None

    def into(self, field: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], dict[str, Any]]:
        """The field to solve, with what flows into its states, and the options of `solve` that say what drives it."""
        inputs, doses = self.given(field), self.doses
        if doses is None:
            return field, {"inputs": inputs}
        if doses.flowing is not None:
            field, inputs = flowing(field), {**(inputs or {}), "flowing": doses.flowing}
        return field, {"inputs": inputs, "doses": doses.dose}


def _padded(rows: Sequence[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
