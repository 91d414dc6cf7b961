"""Many series, each with parameters of its own: what they predict, and its derivatives, in one solve."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.equations.course import Course, Settings
from isocline.equations.evaluate import Jet
from isocline.equations.measured import Measured
from isocline.equations.module import Equations
from isocline.equations.sensitivity import Sensitivities


class OwnSensitivities(Sensitivities):
    """As `Sensitivities`, with free parameters of each sample: by name in unbounded coordinates, behind the other arguments.

    Args:
        field: the equations, without networks.
        more: directions behind those of the parameters.
    """

    def __init__(self, field: Equations, more: int = 0) -> None:
        super().__init__(field, more=more)

    def with_directions(self, more: int) -> OwnSensitivities:
        """As for all `Sensitivities`."""
        return OwnSensitivities(self.field, more)

    def own_parameters(self, own: Mapping[str, Tensor], like: Tensor) -> dict[str, Jet]:
        """The parameters of each sample with their directions."""
        field = self.field
        constants = field.constants.to(like.dtype)
        jets: dict[str, Jet] = {p.name: (constants[i], None) for i, p in enumerate(field.fixed)}
        for i, p in enumerate(field.free):
            raw, slope = own[p.name], p.slope(own[p.name])
            direction = self.one_hot[i].to(like.dtype)
            jets[p.name] = p.natural(raw), slope.unsqueeze(-1) * direction if isinstance(slope, Tensor) else direction
        return jets

    def forward(self, t: Tensor, flat: Tensor, *args: Any) -> Tensor:
        """(dy/dt, dS/dt) of samples whose parameters come last."""
        *rest, own = args
        y, s = self.split(flat)
        u, covariates = self.field.split(tuple(rest))
        evaluation = self.evaluation(t, y, s, u, covariates, self.own_parameters(own, y))
        return self.join(*self.full(self.field.rates(evaluation), y))


class Individuals:
    """Solves series, each with its own parameters, and observes them.

    Args:
        field: the equations, without networks, with an X(0) for every state.
        series: what drives each: covariates, doses, inputs.
        ts: (B, T) times, 0 first, NaN padded.
        columns: states and definitions that are observed.
        settings: of the solves.
        raw: (P,) parameters in unbounded coordinates at which the sizes of the states are taken.

    Attributes:
        solves: calls so far.
    """

    def __init__(
        self,
        field: Equations,
        series: Sequence[Measured],
        ts: Tensor,
        columns: Sequence[str],
        settings: Settings,
        raw: Tensor,
    ) -> None:
        self.field, self.series, self.ts, self.columns = field, tuple(series), ts, tuple(columns)
        self.both = OwnSensitivities(field)
        self.course = Course(self.both, self.series, settings, torch.ones(len(field.states), dtype=torch.float64))
        self.solves = 0
        rough = [self._path(rows, raw.expand(len(rows), -1), 1e-4)[0] for rows in self._together(range(len(series)))]
        size = torch.stack([y.abs().nan_to_num(0.0).flatten(0, 1).amax(0) for y in rough]).amax(0)
        self.course.scale = torch.where(size > 0, size, 1.0)

    def alike(self, series: Sequence[Measured], ts: Tensor) -> Individuals:
        """Of other series with the same equations, columns and settings; what was prepared of the field is taken again."""
        found = copy.copy(self)
        found.series, found.ts = tuple(series), ts
        found.course = Course(self.both, found.series, self.course.settings, self.course.scale)
        return found

    def __call__(self, raw: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Columns (R, T, C) at all times, and their derivatives by the parameters (R, T, C, P).

        Args:
            raw: (R, P) parameters of each sample.
            rows: of which series each is.
        """
        self.solves += 1
        count = len(self.columns)
        values = torch.full((len(rows), self.ts.shape[1], count), torch.nan, dtype=torch.float64)
        slopes = torch.full((*values.shape, raw.shape[1]), torch.nan, dtype=torch.float64)
        for places in self._together(rows):
            mine = [rows[i] for i in places]
            y, s = self._path(mine, raw[places], None)
            at = self.ts[mine, : y.shape[0]].T
            with torch.no_grad():
                evaluation = self._evaluation(mine, raw[places], at, y, s)
                found, derived = self.both.full(self.field.observed(evaluation, self.columns), y)
            values[places, : y.shape[0]], slopes[places, : y.shape[0]] = found.movedim(0, 1), derived.movedim(0, 1)
        return values, slopes

    def _together(self, rows: Sequence[int]) -> list[list[int]]:
        """Places in `rows` that can be solved side by side: all without inputs, and those of each series with some."""
        groups: dict[int, list[int]] = {}
        for place, b in enumerate(rows):
            groups.setdefault(b if self.series[b].inputs else -1, []).append(place)
        return list(groups.values())

    def _path(self, rows: list[int], raw: Tensor, rtol: float | None) -> tuple[Tensor, Tensor]:
        field, both = self.field, self.both
        covariates, own = self._covariates(rows), self._own(raw)
        y0 = torch.zeros(len(rows), len(field.states), dtype=torch.float64)
        s0 = torch.zeros(*y0.shape, both.directions, dtype=torch.float64)
        parameters = both.own_parameters(own, y0)
        with torch.no_grad():
            given = field.initial(both.evaluation(None, y0, None, None, covariates, parameters))
            order = [field.states.index(name) for name in given]
            y0[:, order], s0[:, order] = both.full(list(given.values()), y0)
        arrival = both.arrival(y0, covariates, parameters)
        args = (*((covariates,) if covariates else ()), own)
        y, s = self.course(rows, self.ts[rows], y0, s0, arrival, args, rtol)
        assert s is not None
        return y, s

    def _evaluation(self, rows: list[int], raw: Tensor, at: Tensor, y: Tensor, s: Tensor) -> Any:
        signals = self.series[rows[0]].inputs
        inputs = {k: signals[k](at[:, 0]).reshape(-1, 1) for k in self.field.system.inputs} if signals else None
        parameters = self.both.own_parameters(self._own(raw), y)
        return self.both.evaluation(at, y, s, inputs, self._covariates(rows), parameters)

    def _own(self, raw: Tensor) -> dict[str, Tensor]:
        return {p.name: raw[:, i] for i, p in enumerate(self.field.free)}

    def _covariates(self, rows: Sequence[int]) -> dict[str, Tensor]:
        return {
            name: torch.tensor([float(self.series[b].covariates[name]) for b in rows], dtype=torch.float64)
            for name in self.field.system.covariates
        }
