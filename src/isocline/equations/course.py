"""The course of several series, solved side by side: states, and their sensitivities where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.equations.measured import Measured
from isocline.equations.regimen import Regimen
from isocline.equations.sensitivity import Sensitivities
from isocline.solve import solve


@dataclass
class Settings:
    """How the solves are done: the options of `isocline.solve` that make a difference here."""

    solver: Any = "tsit5"
    rtol: float = 1e-8
    atol: float = 1e-9  # of each state's size
    max_steps: int = 2_000  # or twenty for each time: what takes more is stiff, and a wild guess of the search


@dataclass
class Course:
    """Solves series from given starts.

    Args:
        both: the field with its sensitivities.
        series: all of them.
        settings: of the solves.
        scale: (n,) how large each state becomes.
    """

    both: Sensitivities
    series: Sequence[Measured]
    settings: Settings
    scale: Tensor

    def __post_init__(self) -> None:
        self.regimen = Regimen.of(self.series, self.both.field.states)
        self.fields: dict[
            int, torch.nn.Module
        ] = {}  # with infusions, by the number of directions: one program for all solves

    def __call__(
        self,
        rows: Sequence[int],
        ts: Tensor,
        y0: Tensor,
        s0: Tensor | None,
        shares: tuple[Tensor, Tensor],
        args: Sequence[Any],
        rtol: float | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """States (T, R, n) and sensitivities (T, R, n, P); NaN from where a solve did not go on.

        Args:
            rows: the series of each of R samples, which share their inputs.
            ts: (R, T) times, the first that of the start, NaN padded.
            y0, s0: (R, n) starts, and (R, n, P) their derivatives; None without sensitivities.
            shares: (R, n) of a dose into each state that arrives, and (R, n, P) their derivatives.
            args: what the field takes behind t, y and the inputs.
            rtol: None: that of the settings.
        """
        both, settings = self.both, self.settings
        rtol = settings.rtol if rtol is None else rtol
        directions = both.directions if s0 is not None else 0
        ts = ts[:, : int((~ts.isnan()).sum(1).max())]
        if ts.shape[1] == 1:  # nothing but the start
            return y0[None], None if s0 is None else s0[None]
        field = both if s0 is not None else both.field
        start = y0 if s0 is None else both.join(y0, s0)
        atol = rtol * settings.atol / settings.rtol * self.scale
        atol = torch.cat([atol, atol.repeat_interleave(directions)])
        options: dict[str, Any] = {}
        inputs = self.series[rows[0]].inputs
        if inputs:
            options["inputs"] = {name: inputs[name] for name in both.field.system.inputs}
        regimen, size = self.regimen, start.shape[-1]
        if regimen is not None:
            options["doses"] = regimen.dose(rows, shares[0], None if s0 is None else shares[1], start)
            if directions not in self.fields:
                self.fields[directions] = regimen.field(field, y0.shape[-1], directions)
            field, start = self.fields[directions], regimen.widened(start, directions)
            atol = torch.cat([atol, atol.new_ones(start.shape[-1] - size)])
        with torch.no_grad():
            solution = solve(
                field,
                start,
                ts,
                solver=settings.solver,
                engine="auto",
                batching="per_sample",
                args=tuple(args),
                rtol=rtol,
                atol=atol,
                max_steps=max(settings.max_steps, 20 * ts.shape[1]),
                throw=False,
                **options,
            )
        ys = solution.ys[..., :size]
        return (ys, None) if s0 is None else both.split(ys)
