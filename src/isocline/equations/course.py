"""The course of several series, solved side by side: states, and their sensitivities where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from isocline.doses import Dose
from isocline.equations.measured import Measured
from isocline.equations.regimen import Arrival, Regimen
from isocline.equations.sensitivity import Sensitivities
from isocline.equations.steady import Steady
from isocline.solve import solve


@dataclass
class Settings:
    """How the solves are done: the options of `isocline.solve` that make a difference here."""

    solver: Any = "tsit5"
    rtol: float = 1e-8
    atol: float = 1e-9  # of each state's size
    # Or twenty for each time, and a hundred for each dose: what takes more is stiff, and a wild guess of the search.
    max_steps: int = 2_000


@dataclass
class Course:
    """Solves series from given starts.

    Args:
        both: the field with its sensitivities.
        series: all of them.
        settings: of the solves.
        scale: (n,) how large each state becomes.

    Attributes:
        trouble: why series of the last call have no course, where that was their doses.
    """

    both: Sensitivities
    series: Sequence[Measured]
    settings: Settings
    scale: Tensor
    trouble: str = field(default="", init=False)

    def __post_init__(self) -> None:
        equations = self.both.field
        self.regimen = Regimen.of(self.series, equations.states, tuple(equations.system.lags))
        self.fields: dict[tuple[bool, int], nn.Module] = {}  # one program for all solves
        self.steady = Steady.of(self)

    def __call__(
        self,
        rows: Sequence[int],
        ts: Tensor,
        y0: Tensor,
        s0: Tensor | None,
        arrival: Arrival,
        args: Sequence[Any],
        rtol: float | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """States (T, R, n) and sensitivities (T, R, n, P); NaN from where a solve did not go on.

        An observation at the time of a dose in steady state is that of the steady state, before the dose.

        Args:
            rows: the series of each of R samples, which share their inputs.
            ts: (R, T) times, the first that of the start, NaN padded.
            y0, s0: (R, n) starts, and (R, n, P) their derivatives; None without sensitivities.
            arrival: of doses.
            args: what the field takes behind t, y and the inputs.
            rtol: None: that of the settings.
        """
        both = self.both
        self.trouble = ""
        ts = ts[:, : int((~ts.isnan()).sum(1).max())]
        start = y0 if s0 is None else both.join(y0, s0)
        size, regimen, directions = start.shape[-1], self.regimen, 0 if s0 is None else both.directions
        if ts.shape[1] == 1 and self.steady is None:  # nothing but the start
            return y0[None], s0 if s0 is None else s0[None]
        if regimen is None:
            ys = self.solved(None if s0 is None else both, ts, start, args, rtol, rows)
            return (ys, None) if s0 is None else both.split(ys)
        early = ((arrival.lag < 0) | ~arrival.lag.isfinite()).any(1)
        if bool(early.any()):
            lag = arrival.lag[early].flatten().tolist()
            self.trouble = f"a lag of {min(lag):.4g}, expected 0 or more; give its parameter a bound, as in tlag > 0"
            arrival = replace(arrival, lag=torch.where(early.unsqueeze(1), 0.0, arrival.lag))
        start = regimen.widened(start, directions)
        begin = [start]
        if self.steady is not None:
            begin += self.steady(rows, y0, directions, arrival, args, rtol)
        whole = None if s0 is None else both
        dose = regimen.dose(rows, arrival, begin, None if s0 is None else self.rates(both, rows, args))
        ys = self.solved(whole, ts, start, args, rtol, rows, dose)
        for i, b in enumerate(rows):
            for k, d in enumerate(self.series[b].steady):
                ys[ts[i] == d.t, i] = begin[1 + k][i]
        ys = torch.where(early.unsqueeze(-1), torch.nan, ys)[..., :size]
        return (ys, None) if s0 is None else both.split(ys)

    def rates(self, both: Sensitivities, rows: Sequence[int], args: Sequence[Any]) -> Any:
        """f for `Regimen.dose`: (R, 1) and whole states with their sensitivities -> (R, n)."""
        whole, signals, count = self.whole(both), self.series[rows[0]].inputs, len(both.field.states)

        def rates(t: Tensor, y: Tensor) -> Tensor:
            u = ({k: signals[k](t.squeeze(1)) for k in both.field.system.inputs},) if signals else ()
            with torch.no_grad():
                return whole(t, y, *u, *args)[..., :count]

        return rates

    def whole(self, both: Sensitivities | None) -> nn.Module:
        """The field with what flows in; None: without sensitivities."""
        equations = self.both.field
        inner = equations if both is None else both
        if self.regimen is None:
            return inner
        key = both is None, 0 if both is None else both.directions
        if key not in self.fields:
            self.fields[key] = self.regimen.field(inner, len(equations.states), key[1])
        return self.fields[key]

    def solved(
        self,
        both: Sensitivities | None,
        ts: Tensor,
        start: Tensor,
        args: Sequence[Any],
        rtol: float | None,
        rows: Sequence[int],
        dose: Dose | None = None,
    ) -> Tensor:
        """(T, R, N) from whole starts (R, N), at times (R, T)."""
        settings = self.settings
        rtol = settings.rtol if rtol is None else rtol
        if ts.shape[1] == 1:
            return start[None].clone()
        atol = rtol * settings.atol / settings.rtol * self.scale
        atol = torch.cat([atol, atol.repeat_interleave(0 if both is None else both.directions)])
        atol = torch.cat([atol, atol.new_ones(start.shape[-1] - len(atol))])
        signals = self.series[rows[0]].inputs
        inputs = {name: signals[name] for name in self.both.field.system.inputs} if signals else None
        with torch.no_grad():
            return solve(
                self.whole(both),
                start,
                ts,
                solver=settings.solver,
                engine="auto",
                batching="per_sample",
                args=tuple(args),
                inputs=inputs,
                doses=dose,
                rtol=rtol,
                atol=atol,
                max_steps=max(settings.max_steps, 20 * ts.shape[1]) + 100 * (0 if dose is None else dose.ts.shape[-1]),
                throw=False,
            ).ys
