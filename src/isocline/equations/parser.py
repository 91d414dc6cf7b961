"""The grammar, by recursive descent: one method a level of precedence. Nothing of Python's own reading is used.

statement  :=  head "=" condition
head       :=  NAME  |  NAME "/" "dt"  |  NAME "(" 0 ")"  |  ("f" | "lag") "(" NAME ")"
condition  :=  conjunction ("or" conjunction)*
conjunction:=  negation ("and" negation)*
negation   :=  "not" negation  |  comparison
comparison :=  sum (("<" | "<=" | ">" | ">=" | "==" | "!=") sum)?
sum        :=  product (("+" | "-") product)*
product    :=  sign (("*" | "/") sign)*
sign       :=  ("-" | "+") sign  |  power
power      :=  atom ("^" sign)?
atom       :=  NUMBER  |  NAME  |  NAME "(" arguments ")"  |  "(" condition ")"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from isocline.equations.errors import EquationError, meant
from isocline.equations.functions import FUNCTIONS, HABITS
from isocline.equations.tokens import Token, tokens
from isocline.equations.tree import CONDITIONS, WORDS, Call, Name, Number, Operation, Tree

NET = re.compile(r"net\d*|net_\w+")
OF_DOSES = {"f": "share", "lag": "lag"}  # what may stand before a state in brackets, and the kind of statement it makes
OPTIONS = {
    "width": "a whole number such as 32",
    "depth": "a whole number such as 2",
    "activation": "a name such as tanh",
}
# Far above what anyone writes, far below where Python's own calls end: a bracket takes a dozen of them.
MAX_DEPTH = 150  # operations within each other
MAX_NESTED = 25  # brackets within each other


@dataclass(frozen=True)
class Statement:
    """A line of a model.

    Attributes:
        kind: "rate" (dX/dt), "initial" (X(0)), "share" (f(X), of a dose), "lag" (lag(X), of a dose) or "plain": dX or a
            definition, which the other lines decide.
        name: X, or what is defined.
        at, end: where the head stands.
    """

    kind: str
    name: str
    expression: Tree
    at: int
    end: int


def parse(text: str) -> list[Statement]:
    """The statements of a text.

    Raises:
        EquationError: pointing at the first character that cannot be.

    Example:
        >>> [(s.kind, s.name) for s in parse("r = k*x; dx/dt = -r; x(0) = 1")]
        [('plain', 'r'), ('rate', 'x'), ('initial', 'x')]
    """
    return Parser(text).statements()


def parse_expression(text: str) -> Tree:
    """A single expression.

    Example:
        >>> from isocline.equations.tree import written
        >>> written(parse_expression("a - (b - c)"))
        'a - (b - c)'
    """
    parser = Parser(text)
    tree = parser.condition()
    parser.expect_end()
    return tree


class Parser:
    """Reads one text from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens(text)
        self.next = 0
        self.nested = 0
        self.depths: dict[int, int] = {}
        self.kept: list[Tree] = []  # so that no two trees share an id

    # ---- tokens -------------------------------------------------------------------------------------------------------
    @property
    def token(self) -> Token:
        return self.tokens[self.next]

    def take(self) -> Token:
        token = self.token
        self.next += token.kind != "end"
        return token

    def sees(self, *operators: str) -> bool:
        """Whether the next token is one of these operators or words."""
        token = self.token
        return token.text in operators and not token.quoted and token.kind in ("operator", "name")

    def fail(self, token: Token | Tree, message: str) -> EquationError:
        return EquationError("equation", self.text, token.at, token.end, message)

    def expect(self, operator: str, after: str) -> Token:
        if not self.sees(operator):
            raise self.fail(self.token, f"found {self.token.shown}, expected {operator!r} {after}")
        return self.take()

    def expect_end(self) -> None:
        token = self.token
        if token.kind in ("end", "separator"):
            return
        hint = ""
        if token.text == ")":
            hint = "; there is no '(' for it"
        elif token.text == "=":
            hint = "; compare with ==, and begin a new line (or ;) for a new equation"
        elif token.text == ",":
            hint = "; a decimal point is written ."
        elif token.kind in ("name", "number") or token.text == "(":
            hint = "; a product is written with *"
        raise self.fail(token, f"found {token.shown}, expected an operator or the end of the equation{hint}")

    # ---- statements ---------------------------------------------------------------------------------------------------
    def statements(self) -> list[Statement]:
        found = []
        while True:
            while self.token.kind == "separator":
                self.take()
            if self.token.kind == "end":
                break
            found.append(self.statement())
        if not found:
            raise self.fail(self.token, "no equation in it, expected for example dx = -k*x")
        return found

    def statement(self) -> Statement:
        kind, name, first, last = self.head()
        equals = self.token
        if not self.sees("="):
            hint = "; a derivative is written dx = … or dx/dt = …" if equals.text in ("/", "(") else ""
            raise self.fail(equals, f"found {equals.shown} behind {name}, expected '='{hint}")
        self.take()
        expression = self.condition()
        self.expect_end()
        return Statement(kind, name, self.numeric(expression), first.at, last.end)

    def head(self) -> tuple[str, str, Token, Token]:
        """Kind and name of what stands left of "=", its first and last token."""
        first = last = self.take()
        if first.kind != "name" or (first.text in WORDS and not first.quoted):
            raise self.fail(
                first, f"found {first.shown}, expected an equation such as dx = -k*x or a definition such as rate = k*x"
            )
        kind, name = "plain", first.text
        if name == "d" and not first.quoted and self.token.quoted and self.token.at == first.end:
            last = self.take()
            kind, name = "rate", last.text
        if self.sees("/"):
            slash = self.take()
            last = self.take()
            if last.text != "dt" or not (kind == "rate" or (name.startswith("d") and len(name) > 1)):
                raise self.fail(
                    slash, f"found '/' behind {name}, expected '='; a derivative is written dx = … or dx/dt = …"
                )
            kind, name = "rate", name if kind == "rate" else name[1:]
        elif self.sees("("):
            opened = self.take()
            zero = self.take()
            if name in OF_DOSES and zero.kind == "name":
                return OF_DOSES[name], zero.text, first, self.expect(")", f"behind {zero.text}")
            if kind == "rate" or zero.kind != "number" or float(zero.text) != 0:
                raise self.fail(
                    opened if kind == "rate" else zero,
                    f"found {zero.shown} in brackets behind {name}, expected 0: the state at time 0 is written x(0) = …, the "
                    f"share of a dose into x that arrives f(x) = …, the time until it does lag(x) = …",
                )
            last = self.expect(")", "behind the 0")
            kind = "initial"
        return kind, name, first, last

    # ---- expressions --------------------------------------------------------------------------------------------------
    def keep(self, tree: Tree, *parts: Tree) -> Tree:
        """Notes how deep a tree is; what is too deep is refused while that can still be said plainly."""
        depth = 1 + max((self.depths[id(part)] for part in parts), default=0)
        if depth > MAX_DEPTH:
            raise self.fail(tree, f"more than {MAX_DEPTH} operations within each other; define parts: rate = k*x")
        self.depths[id(tree)] = depth
        self.kept.append(tree)
        return tree

    def condition(self) -> Tree:
        return self.chain(("or",), self.conjunction)

    def conjunction(self) -> Tree:
        return self.chain(("and",), self.negation)

    def negation(self) -> Tree:
        if not self.sees("not"):
            return self.comparison()
        sign = self.deeper(self.take())
        inner = self.logical(self.negation())
        self.nested -= 1
        return self.keep(Operation("not", (inner,), sign.at, sign.end), inner)

    def comparison(self) -> Tree:
        left = self.sum()
        if not self.sees("<", "<=", ">", ">=", "==", "!="):
            return left
        sign = self.take()
        left, right = self.numeric(left), self.numeric(self.sum())
        if self.sees("<", "<=", ">", ">=", "==", "!="):
            raise self.fail(self.token, f"found a second comparison {self.token.text!r}; write a < b and b < c")
        return self.keep(Operation(sign.text, (left, right), sign.at, sign.end), left, right)

    def sum(self) -> Tree:
        return self.chain(("+", "-"), self.product)

    def product(self) -> Tree:
        return self.chain(("*", "/"), self.sign)

    def chain(self, operators: tuple[str, ...], operand: Callable[[], Tree]) -> Tree:
        """Operands with operators of one level between them, taken together from the left."""
        left = operand()
        while self.sees(*operators):
            sign = self.take()
            fit = self.logical if sign.text in WORDS else self.numeric
            left, right = fit(left), fit(operand())
            left = self.keep(Operation(sign.text, (left, right), sign.at, sign.end), left, right)
        return left

    def sign(self) -> Tree:
        if not self.sees("-", "+"):
            return self.power()
        sign = self.deeper(self.take())
        inner = self.numeric(self.sign())
        self.nested -= 1
        return self.keep(Operation("-", (inner,), sign.at, sign.end), inner) if sign.text == "-" else inner

    def power(self) -> Tree:
        base = self.atom()
        if not self.sees("^"):
            return base
        sign = self.deeper(self.take())
        base, exponent = self.numeric(base), self.numeric(self.sign())
        self.nested -= 1
        return self.keep(Operation("^", (base, exponent), sign.at, sign.end), base, exponent)

    def atom(self) -> Tree:
        token = self.take()
        if token.kind == "number":
            return self.keep(Number(float(token.text), token.at, token.end))
        if token.kind == "name" and (token.quoted or token.text not in WORDS):
            if self.sees("(") and not token.quoted:
                return self.call(token)
            return self.keep(Name(token.text, token.at, token.end))
        if token.kind == "operator" and token.text == "(":
            self.deeper(token)
            inner = self.condition()
            self.expect(")", f"for the '(' at position {token.at + 1}")
            self.nested -= 1
            return inner
        raise self.fail(token, f"found {token.shown}, expected a number, a name or '('")

    def deeper(self, token: Token) -> Token:
        self.nested += 1
        if self.nested > MAX_NESTED:
            raise self.fail(
                token, f"more than {MAX_NESTED} brackets or signs within each other; define parts: rate = k*x"
            )
        return token

    # ---- kinds --------------------------------------------------------------------------------------------------------
    def numeric(self, tree: Tree) -> Tree:
        """The tree, which must be a number."""
        if isinstance(tree, Operation) and tree.operator in CONDITIONS:
            raise self.fail(
                tree, f"found a condition ({tree.operator}), expected a number; write where(condition, 1, 0)"
            )
        return tree

    def logical(self, tree: Tree) -> Tree:
        """The tree, which must be a condition."""
        if not (isinstance(tree, Operation) and tree.operator in CONDITIONS):
            raise self.fail(tree, "found a number, expected a condition such as x > 1")
        return tree

    # ---- functions and nets -------------------------------------------------------------------------------------------
    def call(self, name: Token) -> Tree:
        is_net = NET.fullmatch(name.text) is not None
        if not is_net and name.text not in FUNCTIONS:
            habit = HABITS.get(name.text.casefold())
            hint = f"; write {habit}" if habit else meant(name.text, [*FUNCTIONS, "net"])
            there = f"; a product is written {name.text}*(…); functions are {', '.join(FUNCTIONS)}, net"
            raise self.fail(name, f"{name.text} is no function{hint or there}")
        opened = self.deeper(self.take())
        arguments: list[Tree] = []
        options: dict[str, float | str] = {}
        while not self.sees(")"):
            if is_net and self.token.kind == "name" and self.tokens[self.next + 1].text == "=":
                self.option(options)
            elif options:
                raise self.fail(self.token, f"found {self.token.shown} behind the options, which come last")
            else:
                arguments.append(self.condition())
            if not self.sees(","):
                break
            self.take()
        self.expect(")", f"or ',' for the '(' of {name.text} at position {opened.at + 1}")
        self.nested -= 1
        tree = Call(name.text, tuple(self.checked(name, arguments)), tuple(options.items()), name.at, name.end)
        return self.keep(tree, *arguments)

    def option(self, options: dict[str, float | str]) -> None:
        name = self.take()
        self.take()
        value = self.take()
        if name.text not in OPTIONS:
            raise self.fail(
                name, f"{name.text} is no option of a net{meant(name.text, OPTIONS)}; there are {', '.join(OPTIONS)}"
            )
        if name.text in options:
            raise self.fail(name, f"{name.text} is given twice")
        whole = value.kind == "number" and float(value.text).is_integer() and 1 <= float(value.text) <= 10_000
        if (value.kind != "name") if name.text == "activation" else not whole:
            raise self.fail(value, f"{name.text}={value.text}: expected {OPTIONS[name.text]}")
        options[name.text] = value.text if name.text == "activation" else float(value.text)

    def checked(self, name: Token, arguments: list[Tree]) -> list[Tree]:
        """The arguments, of the right number and kind."""
        function, count = FUNCTIONS.get(name.text), len(arguments)
        if function is None:
            if not arguments:
                raise self.fail(name, f"{name.text}() of nothing, expected what it depends on: {name.text}(x)")
            return [self.numeric(x) for x in arguments]
        if not (count >= 2 if function.many else count == function.count):
            want = "two or more" if function.many else str(function.count)
            raise self.fail(name, f"{name.text} of {count} arguments, expected {want}")
        first = self.logical if function.first else self.numeric
        return [first(arguments[0]), *(self.numeric(x) for x in arguments[1:])]
