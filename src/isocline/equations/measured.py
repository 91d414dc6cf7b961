"""What was measured: series of times and columns, as equations are compared with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from isocline.equations.errors import meant
from isocline.equations.module import Equations
from isocline.inputs import Signal


@dataclass(frozen=True)
class Given:
    """One dose: into which state, when, how much, over how long; and at which interval before, 0 where it was not."""

    state: str
    t: float
    amount: float
    duration: float = 0.0
    interval: float = 0.0


@dataclass(frozen=True)
class Measured:
    """One series.

    Args:
        ts: times (T,), not decreasing; equal ones are replicates.
        columns: by the name of a state or a definition, what was measured, (T,), NaN where it was not.
        covariates: numbers of this series, by name.
        inputs: a `Signal` for each input, by name, with values (K,).
        doses: by state, times (D,) and amounts (D,) by which the state jumps there; or times, amounts and durations: what is
            given over a duration flows in at a constant rate. An observation at the time of a dose is the one before it.
            Intervals behind the durations, where they are not 0, say of a dose that the same was given before it at such an
            interval for ever: whatever was before, the states are then in that steady state.
        resets: times (R,) at which all states are again what the equations say of time 0, and what still flows in or has not
            arrived yet is lost; a dose at such a time comes after it.
        starts: by state, where the search for its value at the first time begins, of states that were not measured.
        id: for messages and tables.

    Raises:
        ValueError: naming what does not fit.

    Example:
        >>> import torch
        >>> subject = Measured([0.0, 1.0, 2.0], {"conc": [0.0, 5.1, float("nan")]}, covariates={"dose": 4.0})
        >>> subject.count
        2
    """

    ts: Any
    columns: Mapping[str, Any]
    covariates: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, Signal] = field(default_factory=dict)
    doses: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    starts: Mapping[str, float] = field(default_factory=dict)
    id: str = ""
    resets: Any = ()

    def __post_init__(self) -> None:
        ts = torch.as_tensor(self.ts, dtype=torch.float64).reshape(-1)
        columns = {k: torch.as_tensor(v, dtype=torch.float64).reshape(-1) for k, v in self.columns.items()}
        where = f"series {self.id}: " if self.id else ""
        if not bool(ts.isfinite().all()) or bool((ts.diff() < 0).any()):
            raise ValueError(f"{where}ts: expected finite times in order; sort the rows by time")
        if not columns:
            raise ValueError(f"{where}columns: none, expected at least one that was measured")
        for name, values in columns.items():
            if len(values) != len(ts):
                raise ValueError(f"{where}{name}: {len(values)} values for {len(ts)} times")
            if bool(values.isinf().any()):
                raise ValueError(f"{where}{name}: an infinite value; write NaN where nothing was measured")
        resets = torch.as_tensor(self.resets, dtype=torch.float64).reshape(-1)
        if not bool(resets.isfinite().all()):
            raise ValueError(f"{where}resets: expected finite times")
        object.__setattr__(self, "resets", resets)
        object.__setattr__(self, "ts", ts)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "doses", {name: _given(f"{where}doses: {name}", d) for name, d in self.doses.items()})
        steady = self.steady
        for first, second in itertools.pairwise(steady):
            if first.t == second.t:
                raise ValueError(
                    f"{where}doses: two steady states at {first.t:g}, of {first.state} and {second.state}, expected one"
                )

    @property
    def given(self) -> list[Given]:
        """The doses, one by one."""
        columns = {name: [x.tolist() for x in d] for name, d in self.doses.items()}
        return [Given(name, *row) for name, d in columns.items() for row in zip(*d, strict=True)]

    @property
    def steady(self) -> list[Given]:
        """Those before which the same was given for ever, in order."""
        return sorted((d for d in self.given if d.interval > 0), key=lambda d: d.t)

    @property
    def count(self) -> int:
        """Numbers that were measured."""
        return sum(int((~v.isnan()).sum()) for v in self.columns.values())


def _given(where: str, dose: Any) -> tuple[Tensor, ...]:
    """Times, amounts, and perhaps durations and intervals, (D,) each."""
    if not isinstance(dose, (tuple, list)) or len(dose) not in (2, 3, 4):
        raise ValueError(
            f"{where}: expected (times, amounts), (times, amounts, durations) or these and intervals, got {dose!r}"
        )
    parts = tuple(torch.as_tensor(x, dtype=torch.float64).reshape(-1) for x in dose)
    if len({len(x) for x in parts}) > 1:
        raise ValueError(f"{where}: {' and '.join(str(len(x)) for x in parts)} numbers, expected as many of each")
    if not all(bool(x.isfinite().all()) for x in parts):
        raise ValueError(f"{where}: expected finite numbers")
    for what, part in zip(("duration", "interval"), parts[2:], strict=False):
        if bool((part < 0).any()):
            none = {"duration": "at once", "interval": "no steady state"}[what]
            raise ValueError(f"{where}: {what} {float(part.min()):g}, expected 0 ({none}) or more")
    return parts


NOISES = ("additive", "log")


@dataclass(frozen=True)
class Observations:
    """All measured numbers of several series in one row, and how the solver gets to them.

    Attributes:
        series: as given.
        columns: names, in the order of `column`.
        noise: "additive" or "log" for each.
        ts: (B, T) times of each series from its start on, NaN padded.
        values: (n,) what was measured; logarithms where the noise is.
        time, sample, column: (n,) where in `ts` and in which series and column.
        begin: (B,) time at which the states start.
    """

    series: tuple[Measured, ...]
    columns: tuple[str, ...]
    noise: tuple[str, ...]
    ts: Tensor
    values: Tensor
    time: Tensor
    sample: Tensor
    column: Tensor

    @staticmethod
    def of(model: Equations, data: Measured | Sequence[Measured], noise: str | Mapping[str, str]) -> Observations:
        """Series brought together, checked against a model.

        Raises:
            ValueError: naming the series and what does not fit.
        """
        series = (data,) if isinstance(data, Measured) else tuple(data)
        if not series:
            raise ValueError("data: no series, expected at least one")
        columns = tuple(dict.fromkeys(name for s in series for name in s.columns))
        kinds = noises(columns, noise, NOISES)
        _check(model, series, columns)
        rows: list[Tensor] = []
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for b, s in enumerate(series):
            begin = 0.0 if model.system.initial else float(s.ts[0])
            if s.ts[0] < begin:
                raise ValueError(
                    f"series {s.id or b}: starts at {float(s.ts[0]):g}, before 0, where the equations give the state"
                )
            times = torch.cat([torch.tensor([begin], dtype=torch.float64), s.ts]).unique()
            rows.append(times)
            at = torch.searchsorted(times, s.ts)
            for c, (name, kind) in enumerate(zip(columns, kinds, strict=True)):
                if name not in s.columns:
                    continue
                seen = (~s.columns[name].isnan()).nonzero().squeeze(1)
                values = s.columns[name][seen]
                if kind == "log" and bool((values <= 0).any()):
                    raise ValueError(
                        f"{name}: {float(values.min()):g} in series {s.id or b}, expected positive numbers with noise='log'; "
                        f"write NaN for values below the limit of detection"
                    )
                ones = torch.ones(len(seen), dtype=torch.long)
                parts.append((values.log() if kind == "log" else values, at[seen], b * ones, c * ones))
        ts = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=math.nan)
        values, time, sample, column = (torch.cat([p[i] for p in parts]) for i in range(4))
        for c, name in enumerate(columns):
            if not bool((column == c).any()):
                raise ValueError(f"{name}: nothing measured in it, all is NaN; leave the column out")
        return Observations(series, columns, kinds, ts, values, time, sample, column)

    @property
    def counts(self) -> Tensor:
        """(C,) numbers in each column."""
        return torch.bincount(self.column, minlength=len(self.columns))

    def batches(self) -> list[list[int]]:
        """Series that can be solved together: all without inputs, and each of the others."""
        alone = [b for b, s in enumerate(self.series) if s.inputs]
        together = [b for b in range(len(self.series)) if b not in alone]
        return ([together] if together else []) + [[b] for b in alone]

    def first(self, name: str, b: int) -> float | None:
        """The first number of a column in a series."""
        values = self.series[b].columns.get(name)
        seen = values[~values.isnan()] if values is not None else []
        return float(seen[0]) if len(seen) else None


def noises(columns: Sequence[str], noise: str | Mapping[str, str], kinds: Collection[str]) -> tuple[str, ...]:
    """The kind of noise of every column: of one word for all, or by column, additive where nothing is said."""
    given = dict.fromkeys(columns, noise) if isinstance(noise, str) else {**dict.fromkeys(columns, "additive"), **noise}
    for name, kind in given.items():
        if name not in columns:
            raise ValueError(
                f"noise: {name} is no measured column{meant(name, columns)}; there are {', '.join(columns)}"
            )
        if kind not in kinds:
            raise ValueError(f"noise: {kind!r} for {name}, expected one of {', '.join(kinds)}")
    return tuple(given[name] for name in columns)


def _check(model: Equations, series: tuple[Measured, ...], columns: tuple[str, ...]) -> None:
    """ValueError where a series lacks what the equations need."""
    system = model.system
    known = [*system.states, *system.definitions]
    for name in columns:
        if name not in known:
            raise ValueError(
                f"{name}: measured, but neither a state nor a definition{meant(name, known)}; there are {', '.join(known)}"
            )
    for b, s in enumerate(series):
        for what, wanted, given in (
            ("covariates", system.covariates, s.covariates),
            ("inputs", system.inputs, s.inputs),
        ):
            for name in wanted:
                if name not in given:
                    raise ValueError(f"series {s.id or b}: {what}: no {name}, expected {', '.join(wanted)}")
        for name, given in s.doses.items():
            if name not in system.states:
                raise ValueError(f"doses: {name} is no state{meant(name, system.states)}")
            begin = 0.0 if system.initial else float(s.ts[0])
            if bool((given[0] < begin).any()):
                raise ValueError(
                    f"series {s.id or b}: doses: one at {float(given[0].min()):g}, before the states start at {begin:g}"
                )
        _check_steady(model, s, b)
        if len(s.resets) and set(system.initial) != set(system.states):
            raise ValueError(f"series {s.id or b}: resets: to what? Every state needs its X(0) in the equations")
        for name in s.inputs:
            if name not in system.inputs:
                raise ValueError(f"inputs: {name} is no input of the equations{meant(name, system.inputs)}")


def _check_steady(model: Equations, s: Measured, b: int) -> None:
    """ValueError where a steady state of doses is asked of equations that have none."""
    system = model.system
    if not s.steady:
        return
    where = f"series {s.id or b}: a steady state of doses at {s.steady[0].t:g}"
    if system.inputs:
        raise ValueError(f"{where}: equations with inputs have none ({', '.join(system.inputs)}); write the doses out")
    if system.timed:
        raise ValueError(f"{where}: equations in which t stands have none; write the doses out")
