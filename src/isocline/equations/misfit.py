"""How far a model is from what was measured, and the derivative of that by everything that is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.equations.course import Course, Settings
from isocline.equations.measured import Measured, Observations
from isocline.equations.module import Equations
from isocline.equations.sensitivity import Sensitivities

MAX_WEIGHTS = 2000  # directions that a solve can carry along in reasonable time


class Misfit:
    """Residuals of all observations as a function of one vector x.

    x has the free parameters in their unbounded coordinates, the starting states that are neither given by the equations nor
    fixed, series by series, and the networks' weights.

    Args:
        field: the model; its parameters are changed by every evaluation.
        data: what was measured.
        noise: as for `estimate`.
        initial: "free": a measured state that has no X(0) in the equations starts at a number that is fitted; "first": at
            its first observation.
        settings: of the solves.

    Attributes:
        names: of the entries of x but weights.
        free_states: those whose starting states are in x.
    """

    def __init__(
        self,
        field: Equations,
        data: Measured | Sequence[Measured],
        noise: Any = "additive",
        initial: str = "free",
        settings: Settings | None = None,
    ) -> None:
        if initial not in ("free", "first"):
            raise ValueError(f"initial={initial!r}, expected 'free' or 'first'")
        self.field, self.settings = field, settings or Settings()
        self.data = Observations.of(field, data, noise)
        self.weights = sum(net.count for net in field.remainders.values())
        if self.weights > MAX_WEIGHTS:
            raise ValueError(
                f"{self.weights:,} weights in the networks, expected at most {MAX_WEIGHTS:,} for inference; "
                f"write a smaller net(…, width=16)"
            )
        self.guess = self._guesses()
        open_states = [s for s in field.states if s not in field.system.initial]
        self.free_states = open_states if initial == "free" else []
        self.sensitivities = Sensitivities(field, len(self.free_states), self.weights > 0)
        ones = torch.ones(len(field.states), dtype=torch.float64)
        self.course = Course(self.sensitivities, self.data.series, self.settings, ones)
        self.course.scale = self._scale()
        self.solves = 0

    # ---- x ------------------------------------------------------------------------------------------------------------
    @property
    def names(self) -> list[str]:
        """Parameters, then starting states: "x(0)", or "x(0) [id]" of several series."""
        several = len(self.data.series) > 1
        found = list(self.field.names)
        for b, s in enumerate(self.data.series):
            found += [f"{name}(0)" + (f" [{s.id or b}]" if several else "") for name in self.free_states]
        return found

    @property
    def size(self) -> int:
        """Numbers in x."""
        return len(self.field.free) + len(self.free_states) * len(self.data.series) + self.weights

    def start(self) -> Tensor:
        """x as the model and the data are now."""
        raw = self.field.raw
        parts = [raw.detach().double()] if raw is not None else []
        order = [self.field.states.index(s) for s in self.free_states]
        parts.append(self.guess[:, order].reshape(-1))
        parts += [
            p.detach().double().reshape(-1) for net in self.field.remainders.values() for p in net.mlp.parameters()
        ]
        return torch.cat(parts)

    def put(self, x: Tensor) -> Tensor:
        """Gives the model its numbers; returns the starting states (B, free)."""
        count, rows = len(self.field.free), len(self.data.series)
        with torch.no_grad():
            if self.field.raw is not None:
                self.field.raw.copy_(x[:count])
            at = count + rows * len(self.free_states)
            starts = x[count:at].view(rows, len(self.free_states))
            for net in self.field.remainders.values():
                for p in net.mlp.parameters():
                    p.copy_(x[at : at + p.numel()].view(p.shape))
                    at += p.numel()
        return starts

    def _guesses(self) -> Tensor:
        """(B, states) first observations of the states, 0 where the equations give them."""
        guesses = torch.zeros(len(self.data.series), len(self.field.states), dtype=torch.float64)
        for b, s in enumerate(self.data.series):
            for j, name in enumerate(self.field.states):
                first = self.data.first(name, b)
                first = s.starts.get(name) if first is None else first
                if first is None and name not in self.field.system.initial:
                    raise ValueError(
                        f"{name}: not measured in series {s.id or b}, and no equation says where it starts; add one, for "
                        f"example {name}(0) = 0, or {name}(0) = {name}0 with a parameter, or give a first guess in starts"
                    )
                guesses[b, j] = 0.0 if first is None else first
        return guesses

    def _scale(self) -> Tensor:
        """(states,) how large each state becomes, from a rough solve at the start."""
        ys, _ = self._paths(self.put(self.start()), 1e-4, False)
        size = torch.stack([y.abs().nan_to_num(0.0).flatten(0, 1).amax(0) for y, _ in ys]).amax(0)
        return torch.where(size > 0, size, 1.0)

    # ---- solves -------------------------------------------------------------------------------------------------------
    def _paths(self, starts: Tensor, rtol: float, slopes: bool) -> tuple[list[tuple[Tensor, Tensor | None]], bool]:
        """By batch of series: states (T, B, n) and sensitivities (T, B, n, P); and whether all came to their ends."""
        found: list[tuple[Tensor, Tensor | None]] = []
        good = True
        for rows in self.data.batches():
            y, s = self._path(rows, starts, rtol, slopes)
            good &= bool((y.isfinite().all(-1) | self.data.ts[rows, : y.shape[0]].isnan().T).all())
            found.append((y, s))
        return found, good

    def _path(self, rows: list[int], starts: Tensor, rtol: float, slopes: bool) -> tuple[Tensor, Tensor | None]:
        covariates = self._covariates(rows)
        y0, s0 = self._begin(rows, starts, covariates)
        arrival = self.sensitivities.arrival(y0, covariates)
        args = (covariates,) if covariates else ()
        return self.course(rows, self.data.ts[rows], y0, s0 if slopes else None, arrival, args, rtol)

    def _begin(self, rows: list[int], starts: Tensor, covariates: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Starting states (B, n) and their derivatives (B, n, P)."""
        field, both = self.field, self.sensitivities
        y0 = self.guess[rows].clone()
        s0 = torch.zeros(*y0.shape, both.directions, dtype=y0.dtype)
        for i, name in enumerate(self.free_states):
            j = field.states.index(name)
            y0[:, j] = starts[rows, i]
            s0[:, j, len(field.free) + i] = 1.0
        with torch.no_grad():
            given = field.initial(both.evaluation(None, y0, None, None, covariates))
            if given:
                values, slopes = both.full(list(given.values()), y0)
                order = [field.states.index(name) for name in given]
                y0[:, order], s0[:, order] = values, slopes
        return y0, s0

    def _covariates(self, rows: list[int]) -> dict[str, Tensor]:
        names = self.field.system.covariates
        return {
            name: torch.tensor([float(self.data.series[b].covariates[name]) for b in rows], dtype=torch.float64)
            for name in names
        }

    # ---- residuals ----------------------------------------------------------------------------------------------------
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Observed minus computed, (n,), in the column's unit or its logarithm, and the derivative (n, size).

        None where a solve does not reach its end, or a number is not finite.
        """
        self.solves += 1
        paths, good = self._paths(self.put(x), self.settings.rtol, True)
        if not good:
            return None
        data = self.data
        values = torch.full_like(data.values, torch.nan)
        jacobian = torch.zeros(len(values), self.size, dtype=torch.float64)
        for rows, (y, s) in zip(data.batches(), paths, strict=True):
            computed, slopes = self._observed(rows, y, s)
            for i, b in enumerate(rows):
                mine = (data.sample == b).nonzero().squeeze(1)
                at, column = data.time[mine], data.column[mine]
                values[mine] = computed[at, i, column]
                self._place(jacobian, mine, slopes[at, i, column], b)
        for c, kind in enumerate(data.noise):
            if kind == "log":
                rows_of = data.column == c
                jacobian[rows_of] /= values[rows_of, None]
                values[rows_of] = values[rows_of].log()
        if not bool(values.isfinite().all() & jacobian.isfinite().all()):
            return None
        return data.values - values, -jacobian

    def _observed(self, rows: list[int], y: Tensor, s: Tensor | None) -> tuple[Tensor, Tensor]:
        """All columns (T, B, C) and their derivatives (T, B, C, P)."""
        ts = self.data.ts[rows, : y.shape[0]].T
        inputs = None
        if self.field.system.inputs:
            signals = self.data.series[rows[0]].inputs
            inputs = {name: signals[name](ts[:, 0]).reshape(-1, 1) for name in self.field.system.inputs}
        with torch.no_grad():
            evaluation = self.sensitivities.evaluation(ts, y, s, inputs, self._covariates(rows))
            return self.sensitivities.full(self.field.observed(evaluation, self.data.columns), y)

    def _place(self, jacobian: Tensor, mine: Tensor, slopes: Tensor, b: int) -> None:
        """A series' derivatives in their columns: the starting states of others do not matter to it."""
        count, free = len(self.field.free), len(self.free_states)
        jacobian[mine, :count] = slopes[:, :count]
        own = count + b * free
        jacobian[mine, own : own + free] = slopes[:, count : count + free]
        jacobian[mine, self.size - self.weights :] = slopes[:, count + free :]
