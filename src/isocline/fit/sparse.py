"""Sparse equations for what a run has learned: of its whole field, or of the networks that stand in its equations."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isocline.equations import Equations
from isocline.equations.evaluate import Jet, NetJet
from isocline.equations.net import Remainder
from isocline.equations.parser import parse_expression
from isocline.equations.tree import Call, Name, Tree, number, quoted, rebuilt, walk, written
from isocline.fit import scores as of
from isocline.fit import sindy
from isocline.fit.blocks import folds
from isocline.fit.config import Config
from isocline.fit.errors import UserError
from isocline.fit.files import read_run
from isocline.fit.fitted import Fitted
from isocline.fit.flow import flow_of
from isocline.fit.forecast import forecast
from isocline.fit.judge import MAX_HORIZON
from isocline.fit.physics import Physics, equations_of, full
from isocline.fit.polynomials import term
from isocline.fit.reading.column import Column
from isocline.fit.reading.table import Series
from isocline.fit.run import read_as
from isocline.fit.scale import Scales
from isocline.fit.smooth import smoothed
from isocline.fit.split import Split
from isocline.fit.verdict import CLOSE

POINTS = 1000  # rows of the record at which the field is asked, and as many around them
# Of the way to another row, at most, that those lie off, within the hull of the data. A field is known near the data only: on a
# cycle of Lotka and Volterra its slopes are 7 % off at the rows, and 21 % with a quarter of the way, which hides the true terms.
AROUND = 0.05
DEGREE, TERMS = 3, 200  # highest power that is tried, and monomials of a library that is not too large for it
THRESHOLDS = tuple(np.geomspace(0.01, 0.6, 10).tolist())  # share of a rate's size that a term has at least
DIGITS = 6  # of the coefficients that are written, and judged
BLOCKS = 4
SLACK = 0.05  # standard deviations of a forecast that count as none: numbers read off slopes are a little off, and fitting mends it


@dataclass(frozen=True)
class SparseEquations:
    """Equations that stand for a learned field.

    Attributes:
        equations: with a parameter for every number that was found.
        terms: how many there are; `degree` their highest power, `threshold` what they were found with.
        r2: by state (or network): the share of the variance of what was learned that they explain, along the data and around.
        error, field_error: of forecasts of blocks inside the training part, by the equations and by the field they stand for:
            root mean square, in the run's scaled coordinates.
        good: whether those of the equations are as good.
        held_out: the same two errors on the held-out part, which nothing was chosen by; None where nothing is held out.
        tried: (degree, threshold, terms, error) of all that were compared.
        command: `isocline fit …` that fits the numbers to the data themselves.
    """

    equations: Equations
    terms: int
    degree: int
    threshold: float
    r2: dict[str, float]
    error: float
    field_error: float
    good: bool
    held_out: tuple[float, ...] | None
    tried: tuple[tuple[int, float, int, float], ...]
    command: str

    def __str__(self) -> str:
        """With the numbers in them, as `isocline.Equations` reads it."""
        return self.equations.text(values=True, digits=DIGITS)


def sparse_equations(folder: str | Path, *, degree: int = DEGREE) -> SparseEquations:
    """Sparse polynomial equations for the learned field of a run, in the table's units, by PySINDy.

    The field is asked for its slopes at the rows of the training part and around them, within the hull of the data; so nothing is
    differentiated numerically. Sequentially thresholded least squares then leaves a few terms, for every degree up to `degree`
    and a ladder of thresholds. Each set of equations forecasts four blocks inside the training part, and of those that do it as
    well as the field itself (or as the best, where none does) the one with the fewest terms is taken: as well as so many
    observations can tell, and a twentieth of a standard deviation, which fitting the numbers to the data mends. The held-out
    part plays no role in this; it is forecast at the end.

    Of a run with equations it is the networks in them that are replaced, by polynomials of what they depend on.

    Terms are judged by their share in the size of the rate when the states have their typical size (root mean square), so that
    units play no role. A state that the run takes in logarithms counts by its relative rate.

    Args:
        folder: of the run.
        degree: the highest power of the library, 1 to 5.

    Raises:
        UserError: where there is no run, PySINDy is missing, or the run has nothing that polynomials of its columns could
            replace: equations without a network, a field that depends on time, hidden states (whose coordinates are arbitrary).

    Source:
        Brunton, Proctor & Kutz (2016), PNAS 113, 3932-3937; Rackauckas et al. (2020), arXiv:2001.04385 (for networks in
        equations).

    Example:
        >>> found = sparse_equations("lynx_hare-fit", degree=2)  # doctest: +SKIP
        >>> print(found)  # doctest: +SKIP
        dhare/dt = 0.55*hare - 0.028*hare*lynx
        dlynx/dt = -0.84*lynx + 0.026*hare*lynx
        >>> from isocline.equations import Equations
        >>> Equations(str(found)).states  # doctest: +SKIP
        ('hare', 'lynx')
    """
    folder = Path(folder)
    if not 1 <= degree <= 5:
        raise UserError(f"degree={degree}: expected a highest power from 1 to 5")
    fitted = Fitted.read(folder)
    if not sindy.installed():
        raise UserError("sparse equations need PySINDy, which is not installed: pip install 'isocline[sparse]'")
    config, scales = fitted.config, fitted.scales
    frame = _frame(fitted)
    kept = read_run(folder)
    split = Split.of(read_as(kept["table"], config), config.hold_out)
    blocks = folds(split.taught, BLOCKS) or folds(split.taught, 1)
    if not blocks:
        raise UserError(f"{fitted.table}: too few rows to tell sparse equations apart by their forecasts")
    pieces = _pieces(fitted.field, frame, *_points(split.taught, scales), scales)

    def error(model: nn.Module) -> float:
        return float(sindy.block_errors(flow_of(model), blocks, scales)[0])

    own = error(fitted.field)
    candidates = _candidates(pieces, degree)
    errors = [error(Physics(c.put(frame, pieces), scales)) for c in candidates]
    count = sum(int(np.isfinite(b.y).sum()) for f in blocks for b in f.blocks)
    close = 1 + max(CLOSE, 1 / math.sqrt(count))
    near = [i for i, e in enumerate(errors) if e <= math.hypot(close * max(own, min(errors)), SLACK)]
    best = min(near, key=lambda i: (candidates[i].terms, errors[i]))
    chosen, equations = candidates[best], candidates[best].put(frame, pieces)
    r2 = [p.explained(c, k) for p, c, k in zip(pieces, chosen.coefficients, chosen.powers, strict=True)]
    return SparseEquations(
        equations=equations,
        terms=chosen.terms,
        degree=chosen.highest,
        threshold=chosen.threshold,
        r2=dict(zip([p.name for p in pieces], r2, strict=True)),
        error=errors[best],
        field_error=own,
        good=errors[best] <= math.hypot(close * own, SLACK),
        held_out=_held_out([Physics(equations, scales), fitted.field], split, scales),
        tried=tuple((c.degree, c.threshold, c.terms, e) for c, e in zip(candidates, errors, strict=True)),
        command=_command(kept["table"], config, equations),
    )


# ---- what is to be found ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Piece:
    """A function of some columns that polynomials are to stand for: a state's rate, or a network.

    Attributes:
        name: of the state, or of the network.
        call: how it stands in the equations.
        values: (n, k) of its arguments at the points.
        target: (n,) its value there; `weight` (n,) of each.
    """

    name: str
    call: Call
    values: np.ndarray
    target: np.ndarray
    weight: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """(k,) typical sizes of the arguments."""
        size = np.sqrt(np.square(self.values).mean(0))
        return np.where(size > 0, size, 1.0)

    def design(self, powers: np.ndarray) -> np.ndarray:
        """(n, K) monomials of the arguments over their sizes."""
        return np.stack([np.prod((self.values / self.size) ** p, 1) for p in powers], 1)

    def found(self, powers: np.ndarray, thresholds: Sequence[float]) -> list[np.ndarray]:
        """(K,) coefficients of the monomials of the arguments themselves, for each threshold; rounded as they are written."""
        target = self.weight * self.target
        whole = math.sqrt(np.square(target).mean()) or 1.0
        design, size = self.weight[:, None] * self.design(powers), np.prod(self.size**powers, 1)
        # A weight of one over a state makes its own term a constant: rates and terms are compared where it counts one.
        unit = 1.0 / math.sqrt(np.square(self.weight).mean())
        found = [sindy.thresholded(unit * design, target / whole, c) for c in thresholds]
        return [np.array([float(f"{c:.{DIGITS}g}") for c in unit * whole * one / size]) for one in found]

    def explained(self, coefficients: np.ndarray, powers: np.ndarray) -> float:
        """R² at the points; 1 of a function that is the same everywhere and hit."""
        target = self.weight * self.target
        left = target - self.weight * (self.design(powers) @ (coefficients * np.prod(self.size**powers, 1)))
        spread = np.square(target - target.mean()).sum()
        return float(1 - np.square(left).sum() / spread) if spread > 0 else 1.0


@dataclass(frozen=True)
class _Candidate:
    """What one degree and threshold make of all pieces: coefficients (K,) of each, and the exponents they belong to."""

    degree: int
    threshold: float
    powers: tuple[np.ndarray, ...]
    coefficients: tuple[np.ndarray, ...]

    @property
    def terms(self) -> int:
        return sum(int(np.count_nonzero(c)) for c in self.coefficients)

    @property
    def highest(self) -> int:
        """Power of what is left."""
        return max((int(p[c != 0].sum(1).max(initial=0)) for p, c in zip(self.powers, self.coefficients, strict=True)))

    @property
    def support(self) -> frozenset[tuple[int, ...]]:
        """Which terms there are: what tells candidates apart."""
        pairs = enumerate(zip(self.powers, self.coefficients, strict=True))
        return frozenset((i, *row) for i, (p, c) in pairs for row in p[c != 0].tolist())

    def put(self, equations: Equations, pieces: Sequence[_Piece]) -> Equations:
        """The equations with the networks replaced, and a parameter for every coefficient."""
        taken = {*equations.states, *equations.system.inputs, *equations.system.definitions, *equations.values}
        prefix = next(p for p in (*"kcpb", "number_") if not any(re.fullmatch(rf"{p}\d+", n) for n in taken))
        trees: dict[str, Tree] = {}
        values: list[str] = []
        for piece, powers, coefficients in zip(pieces, self.powers, self.coefficients, strict=True):
            text = ""
            for c, power in zip(coefficients, powers, strict=True):
                if c:
                    values.append(f"{prefix}{len(values) + 1} = {number(abs(float(c)))}")
                    sign = ("-" if c < 0 else "") if not text else (" - " if c < 0 else " + ")
                    product = term(power, [f"z{j}" for j in range(len(power))])
                    text += sign + f"{prefix}{len(values)}" + (f"*{product}" if product else "")
            arguments = {f"z{j}": tree for j, tree in enumerate(piece.call.arguments)}
            trees[piece.call.name] = _changed(parse_expression(text or "0"), arguments)
        system = equations.system
        lines = [f"{quoted(name)} = {written(_replaced(tree, trees))}" for name, tree in system.definitions.items()]
        lines += [f"{_rate(name)} = {written(_replaced(tree, trees))}" for name, tree in system.rates.items()]
        return Equations(
            "\n".join(lines),
            states=system.states,
            inputs=system.inputs,
            parameters=[*equations.declarations(), *values],
        )


def _candidates(pieces: Sequence[_Piece], degree: int) -> list[_Candidate]:
    """Every set of terms that a degree and a threshold leave, once."""
    found: dict[frozenset[tuple[int, ...]], _Candidate] = {}
    for highest in range(1, degree + 1):
        powers = [sindy.monomials(piece.values.shape[1], highest) for piece in pieces]
        most = max(map(len, powers))
        if highest > 1 and (most > TERMS or most > len(pieces[0].target) / 3):
            break
        each = [piece.found(p, THRESHOLDS) for piece, p in zip(pieces, powers, strict=True)]
        for threshold, coefficients in zip(THRESHOLDS, zip(*each, strict=True), strict=True):
            candidate = _Candidate(highest, threshold, tuple(powers), coefficients)
            found.setdefault(candidate.support, candidate)
    return list(found.values())


def _rate(state: str) -> str:
    return f"d{quoted(state)}" + ("/dt" if quoted(state) == state else "")


def _changed(tree: Tree, put: dict[str, Tree]) -> Tree:
    """With names replaced by trees."""
    return rebuilt(tree, lambda part: put.get(part.name, part) if isinstance(part, Name) else part)


def _replaced(tree: Tree, put: dict[str, Tree]) -> Tree:
    """With calls of networks replaced by trees."""
    return rebuilt(tree, lambda part: put.get(part.name, part) if isinstance(part, Call) else part)


# ---- of a run ---------------------------------------------------------------------------------------------------------
def _frame(fitted: Fitted) -> Equations:
    """The equations of a run, networks for what is to be found: its own, or one for the rate of every state."""
    config, model = fitted.config, fitted.field
    if config.hidden_states:
        raise UserError(
            f"{fitted.folder}: the run has hidden states, whose coordinates are arbitrary: equations that are sparse in some "
            f"are not in others"
        )
    if config.lags:
        raise UserError(
            f"{fitted.folder}: the run has earlier values as states (--lags), of which no equations of the system are made"
        )
    if isinstance(model, Physics):
        if "begin" in model.takes:
            raise UserError(f"{fitted.folder}: the run's equations depend on the time t, which polynomials do not have")
        if not model.equations.remainders:
            raise UserError(
                f"{fitted.folder}: the run has equations without a network, so there is nothing to be found; isocline show "
                f"{fitted.folder} prints them"
            )
        return model.equations
    if "begin" in getattr(model, "takes", ()):
        raise UserError(
            f"{fitted.folder}: the run's networks have a clock (a season), which polynomials do not have; fit with --season none"
        )
    headers = [*config.states, *config.inputs]
    columns = [Column.of(header).name for header in headers]
    names = columns if len(set(columns)) == len(columns) else headers
    every = ", ".join(map(quoted, names))
    lines = [f"{_rate(name)} = net_{i}({every})" for i, name in enumerate(names[: len(config.states)])]
    return equations_of(config.model_copy(update={"equations": tuple(lines)}))


def _points(taught: Sequence[Series], scales: Scales) -> tuple[np.ndarray, np.ndarray]:
    """(n, states) and (n, inputs), scaled: rows of the training part, and as many a part of the way from one to another.

    Empty cells are those of the smoothing spline.
    """
    rows = []
    for s in taught:
        x = scales.scaled(s.y)
        if np.isnan(x).any():
            x = np.where(np.isnan(x), smoothed(s.t, x)[0], x)
        rows.append(np.concatenate([x, np.zeros((len(x), 0)) if s.u is None else scales.scaled_inputs(s.u.at(s.t))], 1))
    stacked = np.concatenate(rows)
    stacked = stacked[np.unique(np.linspace(0, len(stacked) - 1, POINTS).round().astype(int))]
    rng = np.random.default_rng(0)
    other = stacked[rng.permutation(len(stacked))]
    around = stacked + rng.uniform(0, AROUND, (len(stacked), 1)) * (other - stacked)
    points = np.concatenate([stacked, around])
    return points[:, : len(scales.states)], points[:, len(scales.states) :]


def _pieces(model: nn.Module, frame: Equations, x: np.ndarray, u: np.ndarray, scales: Scales) -> list[_Piece]:
    """What is to be found, at scaled points."""
    calls = {
        part.name: part
        for tree in (*frame.system.definitions.values(), *frame.system.rates.values())
        for part in walk(tree)
        if isinstance(part, Call) and part.name in frame.remainders
    }
    y = scales.unscaled(x)
    inputs = np.stack([u[:, j] * s.sd + s.mean for j, s in enumerate(scales.inputs)], 1) if scales.inputs else u
    if isinstance(model, Physics):
        return _networks(model.equations, calls, torch.tensor(y), torch.tensor(inputs))
    given = [{"u": torch.tensor(u)}] if scales.inputs else []
    with torch.no_grad():
        slopes = model(torch.tensor(0.0), torch.tensor(x), *given).numpy() / scales.tau
    columns = np.concatenate([y, inputs], 1)
    return [
        _Piece(
            frame.states[i],
            calls[f"net_{i}"],
            columns,
            slopes[:, i] * s.rate(y[:, i]),
            1.0 / y[:, i] if s.kind == "log" else np.ones(len(y)),
        )
        for i, s in enumerate(scales.states)
    ]


def _networks(equations: Equations, calls: dict[str, Call], y: Tensor, u: Tensor) -> list[_Piece]:
    """The networks of equations, with what they are given and what they give."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watched(name: str, net: Remainder) -> NetJet:
        def jet(parts: Sequence[Jet]) -> Jet:
            value, tangent = net.jet(parts, y.shape[:-1], y, None, 0)
            seen[name] = torch.stack([full(v, y) for v, _ in parts], -1), full(value, y)
            return value, tangent

        return jet

    with torch.no_grad():
        nets = {name: watched(name, net) for name, net in equations.remainders.items()}
        equations.rates(equations.evaluation(torch.tensor(0.0), y, u if u.shape[1] else None, nets=nets))
    ones = np.ones(len(y))
    return [_Piece(name, calls[name], v.numpy(), f.numpy(), ones) for name, (v, f) in seen.items()]


def _held_out(models: Sequence[nn.Module], split: Split, scales: Scales) -> tuple[float, ...] | None:
    """Errors of models on the held-out part, as the run's scores are made; None where nothing is held out."""
    chosen = [i for i, h in enumerate(split.held) if len(h.t)]
    if not chosen:
        return None
    trains, held = [split.train[i] for i in chosen], [split.held[i].rows(slice(MAX_HORIZON)) for i in chosen]
    seen = scales.scaled(np.concatenate([h.y for h in held]))
    paths = [np.concatenate(forecast(flow_of(m), trains, [h.t for h in held], scales)) for m in models]
    return tuple(of.pooled(of.rmse(path, seen)) for path in paths)


# ---- the command that goes on -----------------------------------------------------------------------------------------
def _command(paths: str | list[str], config: Config, equations: Equations) -> str:
    """`isocline fit …` with the equations, reading the table as the run did."""
    words = ["isocline", "fit", *([paths] if isinstance(paths, str) else paths)]

    def option(name: str, value: Any) -> None:
        words.extend([f"--{name}", str(value)])

    for name in ("time", "id"):
        for header in (getattr(config, name) or "").split("+") if getattr(config, name) else []:
            option(name, header)
    for name, headers in (
        ("state", config.states),
        ("input", config.inputs),
        ("ignore", config.ignore),
        ("log", config.log),
    ):
        for header in headers:
            option(name, header)
    for name in ("hold", "variable", "value", "replicates", "time_unit", "sheet", "scale", "hold_out"):
        value = getattr(config, name)
        if value is not None and value != Config.model_fields[name].default:
            option(name.replace("_", "-"), value)
    for line in equations.text().splitlines():
        option("equation", line)
    for line in equations.declarations(DIGITS):
        option("parameter", line)
    return shlex.join(words)
