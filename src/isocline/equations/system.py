"""From statements to a system: which name is what, in which order parts are computed, what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isocline.equations.errors import EquationError, meant, near
from isocline.equations.evaluate import NotFiniteError, folded
from isocline.equations.functions import FUNCTIONS
from isocline.equations.parameters import Parameter
from isocline.equations.parser import NET, Statement, parse
from isocline.equations.tree import Call, Name, Tree, names, quoted, walk, written

CONSTANTS = ("pi",)


@dataclass(frozen=True)
class Net:
    """What a net of the equations is made like.

    Attributes:
        inputs: numbers it depends on.
        width, depth: of its hidden layers.
        activation: between them.
    """

    inputs: int
    width: int = 32
    depth: int = 1
    activation: str = "tanh"


@dataclass(frozen=True)
class System:
    """Equations with every name resolved.

    Attributes:
        states: in the order of the state's last dimension.
        inputs, covariates: columns that drive it, and what is constant in a series.
        rates: dX/dt by state.
        definitions: intermediate results, each after those it uses.
        initial: X(0) by state, where it is given.
        shares: f(X) by state, where it is given: how much of a dose into it arrives.
        lags: lag(X) by state, where it is given: after which time a dose into it arrives.
        parameters: declared ones first.
        nets: by name.
    """

    states: tuple[str, ...]
    inputs: tuple[str, ...]
    covariates: tuple[str, ...]
    rates: dict[str, Tree]
    definitions: dict[str, Tree]
    initial: dict[str, Tree]
    shares: dict[str, Tree]
    lags: dict[str, Tree]
    parameters: tuple[Parameter, ...]
    nets: dict[str, Net]

    @staticmethod
    def of(
        text: str,
        states: Sequence[str] | None = None,
        inputs: Sequence[str] = (),
        covariates: Sequence[str] = (),
        parameters: Iterable[Parameter] = (),
    ) -> System:
        """Reads and resolves a text; arguments and errors as for `Equations`."""
        return _Resolver(text, states, inputs, covariates, list(parameters)).system()

    def needs(self, tree: Tree) -> list[str]:
        """The definitions that a tree rests on, in the order of computation."""
        wanted, left = set(), names(tree)
        while left:
            name = left.pop()
            if name in self.definitions and name not in wanted:
                wanted.add(name)
                left += names(self.definitions[name])
        return [name for name in self.definitions if name in wanted]

    @property
    def timed(self) -> bool:
        """Whether a rate depends on the time t."""
        return any("t" in names(tree) for tree in (*self.rates.values(), *self.definitions.values()))

    def lines(self, values: dict[str, float] | None = None, digits: int = 17) -> list[str]:
        """The equations as text that reads as the same system."""
        derivative = [f"d{quoted(s)}" + ("/dt" if quoted(s) == s else "") for s in self.states]
        found = [f"{quoted(name)} = {written(tree, values, digits)}" for name, tree in self.definitions.items()]
        found += [
            f"{d} = {written(self.rates[s], values, digits)}" for d, s in zip(derivative, self.states, strict=True)
        ]
        found += [f"{quoted(name)}(0) = {written(tree, values, digits)}" for name, tree in self.initial.items()]
        found += [f"f({quoted(name)}) = {written(tree, values, digits)}" for name, tree in self.shares.items()]
        found += [f"lag({quoted(name)}) = {written(tree, values, digits)}" for name, tree in self.lags.items()]
        return found


def article(noun: str) -> str:
    """A noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


class _Resolver:
    """The text being resolved: who is who, and the errors."""

    def __init__(
        self,
        text: str,
        states: Sequence[str] | None,
        inputs: Sequence[str],
        covariates: Sequence[str],
        parameters: list[Parameter],
    ) -> None:
        self.text, self.statements, self.parameters = text, parse(text), parameters
        self.inputs, self.covariates = tuple(inputs), tuple(covariates)
        self.states = tuple(states) if states is not None else self.found_states()
        self.check_given()
        rates: dict[str, Statement] = {}
        self.definitions: dict[str, Statement] = {}
        self.initial: dict[str, Statement] = {}
        self.shares: dict[str, Statement] = {}
        self.lags: dict[str, Statement] = {}
        groups = {
            "rate": rates, "initial": self.initial, "share": self.shares, "lag": self.lags, "plain": self.definitions,
        }  # fmt: skip
        for statement in self.statements:
            kind, name = self.kind(statement)
            group = groups[kind]
            if name in group:
                what = {"rate": f"d{name}/dt", "initial": f"{name}(0)", "share": f"f({name})", "lag": f"lag({name})"}
                raise self.fail(statement, f"{what.get(kind, name)} is given twice, expected once")
            group[name] = statement
        self.rates = rates

    def fail(self, where: Statement | Tree, message: str) -> EquationError:
        return EquationError("equation", self.text, where.at, where.end, message)

    def found_states(self) -> tuple[str, ...]:
        """Those of the derivatives: dx/dt, and dx where no expression uses a name dx."""
        used = {name for s in self.statements for name in names(s.expression)}
        found = []
        for s in self.statements:
            if s.kind == "rate":
                found.append(s.name)
            elif s.kind == "plain" and s.name.startswith("d") and len(s.name) > 1 and s.name not in used:
                found.append(s.name[1:])
        if not found:
            raise self.fail(self.statements[0], "no derivative among the equations, expected for example dx = -k*x")
        return tuple(dict.fromkeys(found))

    def check_given(self) -> None:
        """Names given apart from the text: each in one role, each writable."""
        roles: dict[str, str] = {}
        groups = {"state": self.states, "input": self.inputs, "covariate": self.covariates}
        groups["parameter"] = tuple(p.name for p in self.parameters)
        for role, group in groups.items():
            for name in group:
                if not isinstance(name, str) or not name or "`" in name or "\n" in name:
                    raise ValueError(f"{role} {name!r}: expected a name without backticks and line ends")
                if name == "t":
                    raise ValueError(f"{role} t: t is the time in equations; rename the column")
                if name in roles:
                    raise ValueError(f"{name}: {article(roles[name])} and {article(role)}, expected one of both")
                roles[name] = role

    def kind(self, statement: Statement) -> tuple[str, str]:
        """What a statement gives: ("rate" | "initial" | "share" | "lag" | "plain", of which name)."""
        kind, name = statement.kind, statement.name
        if kind != "plain":
            if name not in self.states:
                raise self.fail(
                    statement, f"{name} is no state{meant(name, self.states)}; there are {', '.join(self.states)}"
                )
            return kind, name
        if name.startswith("d") and name[1:] in self.states:
            return "rate", name[1:]
        taken = {"state": self.states, "input": self.inputs, "covariate": self.covariates}
        taken["parameter"] = tuple(p.name for p in self.parameters)
        for role, group in taken.items():
            if name in group:
                hint = f"; its derivative is written d{quoted(name)} = …" if role == "state" else ""
                raise self.fail(
                    statement, f"{name} is {article(role)}, expected a name of its own for what is defined{hint}"
                )
        if name in (*FUNCTIONS, *CONSTANTS, "t") or NET.fullmatch(name):
            raise self.fail(statement, f"{name} means something already, expected another name")
        return "plain", name

    def system(self) -> System:
        self.check_complete()
        order = self.ordered()
        used = self.used_names()
        known = {p.name for p in self.parameters}
        extra = [Parameter(name) for name in used if name not in known]
        for p in self.parameters:
            if p.name not in used:
                raise ValueError(
                    f"parameter {p.name}: no equation uses it{meant(p.name, used)}; leave it out, or write it in"
                )
        self.check_constant()
        return System(
            self.states,
            self.inputs,
            self.covariates,
            {s: self.checked(self.rates[s]) for s in self.states},
            {name: self.checked(self.definitions[name]) for name in order},
            {name: self.checked(s) for name, s in self.initial.items()},
            {name: self.checked(s) for name, s in self.shares.items()},
            {name: self.checked(s) for name, s in self.lags.items()},
            (*self.parameters, *extra),
            self.nets(),
        )

    def checked(self, statement: Statement) -> Tree:
        """Its expression, of which no part that is made of numbers alone is infinite or no number."""
        try:
            folded(statement.expression)
        except NotFiniteError as error:
            raise self.fail(error.tree, f"{written(error.tree)} is {error.value:g}, expected a finite number") from None
        return statement.expression

    def check_complete(self) -> None:
        """Every state has its equation; what looks like a derivative of something else is none."""
        used = {name for s in self.statements for name in names(s.expression)}
        for name, s in self.definitions.items():
            if name.startswith("d") and name[1:] in used and name not in used and name[1:] not in self.definitions:
                raise self.fail(
                    s, f"{name[1:]} is no state{meant(name[1:], self.states)}; there are {', '.join(self.states)}"
                )
        for state in self.states:
            if state in self.rates:
                continue
            for name, s in self.definitions.items():
                if name not in used and near(name, [f"d{state}"]):
                    raise self.fail(s, f"{name} is the derivative of no state{meant(name, [f'd{state}'])}")
            last = self.statements[-1]
            raise EquationError(
                "equation", self.text, last.at, last.end,
                f"no equation for the state {state}, expected one such as d{quoted(state)} = net({', '.join(map(quoted, self.states))})",
            )  # fmt: skip

    def used_names(self) -> list[str]:
        """Names that can only be parameters, in the order they appear; a near miss of a known name is an error."""
        declared = [p.name for p in self.parameters]
        roles = [*self.states, *self.inputs, *self.covariates, *self.definitions]
        found: dict[str, None] = {}
        for s in self.statements:
            for part in walk(s.expression):
                if not isinstance(part, Name) or part.name in (*roles, "t"):
                    continue
                name = part.name
                if name not in declared and name in CONSTANTS:
                    continue
                if name not in declared:
                    if name in FUNCTIONS or NET.fullmatch(name):
                        raise self.fail(part, f"{name} is a function, expected its argument in brackets: {name}(x)")
                    self.check_near(part, [*roles, *declared])
                found[name] = None
        return list(found)

    def check_near(self, part: Name, known: Sequence[str]) -> None:
        name = part.name
        if name.startswith("d") and name[1:] in self.states:
            raise self.fail(part, f"{name} is a derivative; define what it is (rate = …) and use that on both sides")
        guess = near(name, known)
        if guess:
            raise self.fail(
                part, f"{name} is not known; did you mean {guess}? If it is a parameter, declare it: {quoted(name)} = 1"
            )

    def ordered(self) -> list[str]:
        """Definitions, each after those it uses; EquationError for a circle."""
        order: list[str] = []
        for first in self.definitions:
            stack = [(first, iter(names(self.definitions[first].expression)))]
            open_names = [first]
            while stack and first not in order:
                name, rest = stack[-1]
                following = next((n for n in rest if n in self.definitions and n not in order), None)
                if following is None:
                    order.append(name)
                    stack.pop()
                    open_names.pop()
                elif following in open_names:
                    circle = " → ".join([*open_names[open_names.index(following) :], following])
                    raise self.fail(self.definitions[following], f"{following} is defined by itself: {circle}")
                else:
                    stack.append((following, iter(names(self.definitions[following].expression))))
                    open_names.append(following)
        return order

    def check_constant(self) -> None:
        """X(0), f(X) and lag(X) rest on parameters, covariates and numbers only."""
        named = [(f"{s.name}(0)", s) for s in self.initial.values()]
        named += [(f"f({s.name})", s) for s in self.shares.values()]
        named += [(f"lag({s.name})", s) for s in self.lags.values()]
        for what, s in named:
            left, seen = [s.expression], set()
            while left:
                for part in walk(left.pop()):
                    if isinstance(part, Call) and NET.fullmatch(part.name):
                        raise self.fail(part, f"{what} cannot be a net; use parameters and covariates")
                    if isinstance(part, Name) and part.name in (*self.states, *self.inputs, "t"):
                        raise self.fail(s, f"{what} rests on {part.name}, expected parameters, covariates and numbers")
                    if isinstance(part, Name) and part.name in self.definitions and part.name not in seen:
                        seen.add(part.name)
                        left.append(self.definitions[part.name].expression)

    def nets(self) -> dict[str, Net]:
        """The nets by name: one function each, so all calls of a name must agree."""
        found: dict[str, tuple[Net, Call]] = {}
        for s in self.statements:
            for part in walk(s.expression):
                if not isinstance(part, Call) or not NET.fullmatch(part.name):
                    continue
                given = dict(part.options)
                net = Net(
                    len(part.arguments),
                    int(given.get("width", 32)),
                    int(given.get("depth", 1)),
                    str(given.get("activation", "tanh")),
                )
                if net.activation not in ("tanh", "softplus", "sigmoid"):
                    raise self.fail(part, f"activation={net.activation}, expected tanh, softplus or sigmoid")
                if part.name in found:
                    self.check_again(part, net, *found[part.name])
                else:
                    found[part.name] = (net, part)
        return {name: net for name, (net, _) in found.items()}

    def check_again(self, part: Call, net: Net, before: Net, first: Call) -> None:
        if part.name == "net":
            raise self.fail(
                part,
                "net is written twice: name two networks net1(…) and net2(…), or define one, r = net(…), and use r twice",
            )
        if net.inputs != before.inputs:
            raise self.fail(
                part, f"{part.name} of {net.inputs} numbers here and of {before.inputs} before, expected one function"
            )
        if part.options and part.options != first.options:
            raise self.fail(part, f"{part.name} has other options before, expected them once")
