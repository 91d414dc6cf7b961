"""Equations as a vector field: a module whose parameters are named, bounded and fitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isocline.equations.errors import meant
from isocline.equations.evaluate import Evaluation, Jet, NetJet, folded
from isocline.equations.net import Remainder
from isocline.equations.parameters import Parameter, declared
from isocline.equations.system import System
from isocline.equations.tree import Name, Tree


class Equations(nn.Module):
    """A vector field written as equations, with named parameters and, where it says net(…), networks.

    A line is a derivative, `dx = …` or `dx/dt = …`; a definition, `rate = k*x/(K + x)`, in any order; a state at time 0,
    `x(0) = …`; `f(x) = …`, the share of a dose into x that arrives; or `lag(x) = …`, the time until it does. Expressions have
    numbers, + - * / ^, functions (exp log sqrt sin … min max), `where(condition, a, b)`, `t`, `pi`, states, inputs, covariates,
    definitions, parameters (every other name) and `net(a, b, width=32, depth=1)`.
    Nets with names of their own (`net1`, `net_growth`) are functions that may be used several times. Lines end at ";" too.

    Args:
        text: the equations. They are read by a parser of their own; nothing in them is ever run as Python.
        states: names in the order of the state's last dimension; None: in the order of their equations.
        inputs: names of the columns of u.
        covariates: names of numbers that are constant in a series, such as a body weight.
        parameters: declarations such as "k = 0.3 in [0, 5] unit 1/h" (start, bounds, unit), "k > 0 per series",
            "g = 9.81 fixed", or `Parameter` objects. What is not declared starts at 1 without bounds.
        seed: of the networks' weights.
        dtype: of parameters and weights.

    Shapes:
        t 0-d or broadcasting against y, y (..., states), u (..., inputs), covariates (..., covariates) -> (..., states).
        u and covariates may also be dicts by name. In `solve`, u comes from `inputs=`, covariates from `args=`.

    Attributes:
        system: the equations, resolved.
        raw: (P,) the free parameters in the unbounded coordinates in which they are learned.

    Raises:
        EquationError: pointing at the character; it is a ValueError.
        ValueError: for names that play two roles.

    Example:
        >>> import isocline
        >>> field = Equations("dx = -k*x + net(x, width=4)", parameters="k = 0.5 in [0, 5] unit 1/h")
        >>> print(field)
        dx/dt = -k*x + net(x, width=4)
        k = 0.5 in [0, 5] unit 1/h
        >>> sol = isocline.solve(field, torch.ones(3, 1, dtype=torch.float64), [0.0, 1.0], engine="auto", batching="per_sample")
        >>> sol.ys.shape
        torch.Size([2, 3, 1])
    """

    def __init__(
        self,
        text: str,
        *,
        states: Sequence[str] | None = None,
        inputs: Sequence[str] = (),
        covariates: Sequence[str] = (),
        parameters: str | Parameter | Iterable[str | Parameter] = (),
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if not isinstance(text, str):
            raise TypeError(f"text: expected equations such as 'dx = -k*x', got {type(text).__name__}")
        self.system = System.of(text, states, inputs, covariates, declared(parameters))
        self.free = tuple(p for p in self.system.parameters if not p.fixed)
        self.fixed = tuple(p for p in self.system.parameters if p.fixed)
        raw = torch.tensor([p.raw(p.begin) for p in self.free], dtype=dtype)
        self.raw = nn.Parameter(raw) if self.free else None
        self.register_buffer("constants", torch.tensor([p.begin for p in self.fixed], dtype=dtype))
        self.nets = nn.ModuleDict(
            {
                name: Remainder(net.inputs, net.width, net.depth, net.activation, 1000 * seed + i, dtype)
                for i, (name, net) in enumerate(self.system.nets.items())
            }
        )
        self._trees: dict[str, Tree] = {name: folded(tree) for name, tree in self.system.definitions.items()}
        self._rates = {name: folded(tree) for name, tree in self.system.rates.items()}
        self._initial = {name: folded(tree) for name, tree in self.system.initial.items()}
        self._shares = {name: folded(tree) for name, tree in self.system.shares.items()}
        self._lags = {name: folded(tree) for name, tree in self.system.lags.items()}

    # ---- names --------------------------------------------------------------------------------------------------------
    @property
    def states(self) -> tuple[str, ...]:
        """In the order of the state's last dimension."""
        return self.system.states

    @property
    def names(self) -> tuple[str, ...]:
        """Of the free parameters, in the order of `raw`."""
        return tuple(p.name for p in self.free)

    @property
    def values(self) -> dict[str, float]:
        """All parameters as they are now, fixed ones too."""
        found = {p.name: p.begin for p in self.fixed}
        if self.raw is not None:
            raw = self.raw.detach().double().cpu()
            found |= {p.name: p.value(float(x)) for p, x in zip(self.free, raw, strict=True)}
        return {p.name: found[p.name] for p in self.system.parameters}

    def assign(self, values: Mapping[str, float]) -> None:
        """Gives free parameters new values.

        Raises:
            ValueError: for a name that is no free parameter, and a value outside its bounds.

        Example:
            >>> field = Equations("dx = -k*x")
            >>> field.assign({"k": 0.25})
            >>> field.values
            {'k': 0.25}
        """
        for name, value in values.items():
            if name not in self.names:
                raise ValueError(
                    f"{name}: no free parameter{meant(name, self.names)}; there are {', '.join(self.names)}"
                )
            p = self.free[self.names.index(name)]
            if not p.low <= value <= p.high:
                raise ValueError(f"{name} = {value}: expected a number between {p.low:g} and {p.high:g}")
            assert self.raw is not None
            with torch.no_grad():
                self.raw[self.names.index(name)] = p.raw(float(value))

    # ---- evaluation ---------------------------------------------------------------------------------------------------
    def forward(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        """dy/dt; `args` are u, where there are inputs, and covariates, where there are any."""
        u, covariates = self.split(args)
        evaluation = self.evaluation(t, y, u, covariates)
        return torch.stack([self._full(x, y) for x, _ in self.rates(evaluation)], -1)

    def observe(self, names: Sequence[str], t: Tensor, y: Tensor, *args: Any) -> Tensor:
        """States and definitions at given states, (..., len(names)); arguments as for the field.

        Example:
            >>> field = Equations("dx = -k*x; level = 2*x")
            >>> field.observe(["level"], torch.tensor(0.0), torch.ones(3, 1, dtype=torch.float64)).flatten().tolist()
            [2.0, 2.0, 2.0]
        """
        evaluation = self.evaluation(t, y, *self.split(args))
        return torch.stack([self._full(x, y) for x, _ in self.observed(evaluation, names)], -1)

    def evaluation(
        self,
        t: Tensor | None,
        y: Tensor,
        u: Any = None,
        covariates: Any = None,
        tangents: Sequence[Tensor] | None = None,
        parameters: Mapping[str, Jet] | None = None,
        nets: Mapping[str, NetJet] | None = None,
    ) -> Evaluation:
        """What expressions are evaluated with; `tangents` of the states, jets of `parameters` and `nets` where wanted."""
        jets: dict[str, Jet] = {}
        if t is not None:
            jets["t"] = (t.squeeze(-1) if t.dim() and t.dim() == y.dim() else t), None
        for i, name in enumerate(self.states):
            jets[name] = y[..., i], None if tangents is None else tangents[i]
        if t is not None:  # without a time there is no input: X(0) is asked for
            jets |= _columns("u", u, self.system.inputs, y)
        jets |= _columns("covariates", covariates, self.system.covariates, y)
        jets |= self.parameter_jets(y) if parameters is None else parameters
        return Evaluation(jets, self._nets(y) if nets is None else nets, y)

    def parameter_jets(self, like: Tensor) -> dict[str, Jet]:
        """The parameters' values, in the dtype of a state."""
        found: dict[str, Jet] = {}
        if self.raw is not None:
            raw = self.raw if self.raw.dtype == like.dtype else self.raw.to(like.dtype)
            found = {p.name: (p.natural(raw[i]), None) for i, p in enumerate(self.free)}
        constants = self.constants if self.constants.dtype == like.dtype else self.constants.to(like.dtype)
        return found | {p.name: (constants[i], None) for i, p in enumerate(self.fixed)}

    def rates(self, evaluation: Evaluation) -> list[Jet]:
        """dX/dt of all states."""
        return self._evaluated(evaluation, self._rates, self.system.rates)

    def observed(self, evaluation: Evaluation, names: Sequence[str]) -> list[Jet]:
        """States and definitions by name."""
        for name in names:
            if name not in self._trees and name not in self.states:
                known = [*self.states, *self._trees]
                raise ValueError(
                    f"{name}: neither a state nor a definition{meant(name, known)}; there are {', '.join(known)}"
                )
        trees: dict[str, Tree] = {name: Name(name) for name in names}
        return self._evaluated(evaluation, trees, trees)

    def initial(self, evaluation: Evaluation) -> dict[str, Jet]:
        """X(0) of the states for which it is given."""
        return dict(zip(self._initial, self._evaluated(evaluation, self._initial, self.system.initial), strict=True))

    def shares(self, evaluation: Evaluation) -> dict[str, Jet]:
        """f(X), the share of a dose into X that arrives, of the states for which it is given."""
        return dict(zip(self._shares, self._evaluated(evaluation, self._shares, self.system.shares), strict=True))

    def lags(self, evaluation: Evaluation) -> dict[str, Jet]:
        """lag(X), the time until a dose into X arrives, of the states for which it is given."""
        return dict(zip(self._lags, self._evaluated(evaluation, self._lags, self.system.lags), strict=True))

    def _evaluated(self, evaluation: Evaluation, trees: dict[str, Tree], written: dict[str, Tree]) -> list[Jet]:
        for tree in written.values():
            for name in self.system.needs(tree):
                if name not in evaluation.jets:
                    evaluation.jets[name] = evaluation(self._trees[name])
        return [evaluation(tree) for tree in trees.values()]

    def _nets(self, y: Tensor) -> dict[str, NetJet]:
        lead = y.shape[:-1]
        return {name: lambda parts, net=net: net.jet(parts, lead, y, None, 0) for name, net in self.remainders.items()}

    @property
    def remainders(self) -> dict[str, Remainder]:
        """The networks by name."""
        return {name: net for name, net in self.nets.items() if isinstance(net, Remainder)}

    @staticmethod
    def _full(value: Tensor | float, y: Tensor) -> Tensor:
        """A number for every sample."""
        if not isinstance(value, Tensor):
            return torch.full(y.shape[:-1], value, dtype=y.dtype, device=y.device)
        return value.expand(y.shape[:-1])

    def split(self, args: tuple[Any, ...]) -> tuple[Any, Any]:
        """(u, covariates) of what a field was called with behind t and y, None where there are none."""
        wanted = [name for name, there in (("u", self.system.inputs), ("covariates", self.system.covariates)) if there]
        if len(args) != len(wanted):
            expected = ", ".join(["t", "y", *wanted])
            raise TypeError(
                f"Equations: called with {len(args)} arguments behind t and y, expected ({expected}): in solve, u comes from "
                f"inputs=… and covariates from args=(…,)"
            )
        given = dict(zip(wanted, args, strict=True))
        return given.get("u"), given.get("covariates")

    def adapt(self, t: Tensor, y: Tensor, *args: Any, slopes: Tensor | None = None) -> None:
        """Brings what goes into the networks, and what comes out, to size one, from states that were measured.

        Args:
            t, y, *args: rows of data as the field would get them, y (N, states).
            slopes: dy/dt there, as far as it is known, (N, states): a network's gain is then what makes the rates as large
                as these; without them it stays.

        Example:
            >>> field = Equations("dx = net(x)")
            >>> x = torch.linspace(0.0, 400.0, 9, dtype=torch.float64).unsqueeze(1)
            >>> field.adapt(torch.tensor(0.0), x, slopes=0.1 * x)
            >>> float(field.nets["net"].center), round(float(field.nets["net"].gain), 2)
            (200.0, 23.8)
        """
        count = len(self.nets)
        columns: dict[str, Tensor] = {}

        def watched(i: int, name: str) -> NetJet:
            def jet(parts: Sequence[Jet]) -> Jet:
                columns[name] = torch.stack([self._full(v, y) for v, _ in parts], -1)
                return y.new_zeros(y.shape[:-1]), torch.eye(count, dtype=y.dtype)[i].expand(*y.shape[:-1], count)

            return jet

        with torch.no_grad():
            u, covariates = self.split(args)
            nets = {name: watched(i, name) for i, name in enumerate(self.nets)}
            rates = self.rates(self.evaluation(t, y, u, covariates, nets=nets))
            for i, (name, net) in enumerate(self.remainders.items()):
                if name not in columns:
                    continue
                flat = columns[name].reshape(-1, columns[name].shape[-1])
                net.center.copy_(flat.mean(0))
                spread = flat.std(0, unbiased=False)
                net.spread.copy_(
                    torch.where(spread > 1e-12 * flat.abs().mean(0), spread, flat.abs().mean(0).clamp(min=1e-12))
                )
                reach = [None if d is None else d[..., i].square().mean().sqrt() for _, d in rates]
                if slopes is not None:
                    wanted = slopes.reshape(-1, len(reach)).square().mean(0).sqrt()
                    gains = [
                        w / r
                        for w, r in zip(wanted, reach, strict=True)
                        if r is not None and bool(r > 0) and bool(w > 0)
                    ]
                    net.gain.copy_(torch.stack(gains).min() if gains else net.gain)

    # ---- text ---------------------------------------------------------------------------------------------------------
    def text(self, values: bool = False, digits: int = 6) -> str:
        """The equations, one a line; with `values` numbers in the place of the parameters' names.

        Example:
            >>> Equations("dx = a - k*x", parameters=["k = 0.25", "a = -2"]).text(values=True)
            'dx/dt = -2 - 0.25*x'
        """
        return "\n".join(self.system.lines(self.values, digits) if values else self.system.lines())

    def declarations(self, digits: int = 17) -> list[str]:
        """The parameters as they are now, as they are declared."""
        values = self.values
        return [p.at(values[p.name]).written(digits) for p in self.system.parameters]

    def __str__(self) -> str:
        return "\n".join([*self.system.lines(), *self.declarations(digits=6)])

    def extra_repr(self) -> str:
        return "; ".join([*self.system.lines(), *self.declarations(digits=6)])


def _columns(what: str, given: Any, names: tuple[str, ...], y: Tensor) -> dict[str, Jet]:
    """Values by name from a tensor (..., len(names)), a single number, or a dict."""
    if not names:
        return {}
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing:
            raise ValueError(f"{what}: no {missing[0]} in it{meant(missing[0], given)}, expected {', '.join(names)}")
        return {name: (_number(given[name], y), None) for name in names}
    if not isinstance(given, Tensor):
        raise TypeError(f"{what}: expected a tensor (..., {len(names)}) or a dict by name, got {type(given).__name__}")
    if len(names) == 1 and (given.dim() < y.dim() or given.shape[-1] == 1):
        return {names[0]: (_number(given, y), None)}
    if not given.dim() or given.shape[-1] != len(names):
        raise ValueError(f"{what}: shape {tuple(given.shape)}, expected (..., {len(names)}): {', '.join(names)}")
    return {name: (given[..., i], None) for i, name in enumerate(names)}


def _number(value: Any, y: Tensor) -> Tensor:
    """One number a sample: what has the state's dimensions ends with a dimension of size one."""
    value = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=y.dtype, device=y.device)
    return value.squeeze(-1) if value.dim() and value.dim() == y.dim() else value
