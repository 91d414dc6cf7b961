"""Parameters: declared in text, kept within their bounds by a change of variable."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from isocline.equations.errors import EquationError
from isocline.equations.tokens import Token, tokens
from isocline.equations.tree import number, quoted


@dataclass(frozen=True)
class Parameter:
    """A named number that is fitted.

    It is kept within its bounds by a change of variable to an unbounded number `raw`: itself without bounds, a logarithm
    of the distance from a single bound, a logit between two.

    Args:
        name: as in the equations.
        start: where a fit begins; None: the middle of two bounds, one from a single one, else 1.
        low, high: bounds, which it does not reach.
        unit: for tables.
        fixed: keeps its start.
        per_series: differs from series to series, around the number that is fitted (`isocline.equations.population`): normally
            distributed in its unbounded coordinate, so log-normally with a lower bound of 0.

    Raises:
        ValueError: where the start is not between the bounds, or it is fixed and differs from series to series.

    Example:
        >>> k = Parameter.read("k = 0.3 in [0, 5] unit 1/h")
        >>> k.start, k.low, k.high, k.unit, str(k)
        (0.3, 0.0, 5.0, '1/h', 'k = 0.3 in [0, 5] unit 1/h')
        >>> round(k.value(k.raw(0.3)), 12)
        0.3
    """

    name: str
    start: float | None = None
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""
    fixed: bool = False
    per_series: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(
                f"parameter {self.name}: bounds [{self.low:g}, {self.high:g}], expected the lower one first"
            )
        if self.fixed and self.per_series:
            raise ValueError(f"parameter {self.name}: fixed, and per series; expected one of both")
        start = self.begin
        if not math.isfinite(start):
            raise ValueError(f"parameter {self.name}: starts at {start}, expected a finite number")
        inside = self.low <= start <= self.high if self.fixed else self.low < start < self.high
        if not inside:
            raise ValueError(
                f"parameter {self.name}: starts at {start:g}, expected a number between its bounds {self.low:g} and "
                f"{self.high:g}, not at one"
            )

    def _middle(self) -> float:
        if math.isfinite(self.low) and math.isfinite(self.high):
            return (self.low + self.high) / 2
        if math.isfinite(self.low):
            return self.low + 1.0
        return self.high - 1.0 if math.isfinite(self.high) else 1.0

    @property
    def begin(self) -> float:
        """The start, said or not."""
        return self._middle() if self.start is None else self.start

    @property
    def kind(self) -> str:
        """The change of variable: "identity", "above", "below" or "between"."""
        low, high = math.isfinite(self.low), math.isfinite(self.high)
        return "between" if low and high else "above" if low else "below" if high else "identity"

    @property
    def logarithmic(self) -> bool:
        """Steps of `raw` are ratios of the parameter."""
        return self.kind == "above" and self.low == 0

    def raw(self, value: float) -> float:
        """The unbounded number of a value; a value at a bound is moved inside by rounding's width."""
        kind = self.kind
        if kind == "identity":
            return value
        if kind == "above":
            return math.log(max(value - self.low, 1e-300))
        if kind == "below":
            return math.log(max(self.high - value, 1e-300))
        share = min(max((value - self.low) / (self.high - self.low), 1e-15), 1 - 1e-15)
        return math.log(share / (1 - share))

    def value(self, raw: float) -> float:
        """The value of an unbounded number."""
        return float(self.natural(torch.tensor(raw, dtype=torch.float64)))

    def natural(self, raw: Tensor) -> Tensor:
        """The same on tensors, differentiable."""
        kind = self.kind
        if kind == "identity":
            return raw
        if kind == "above":
            return self.low + torch.exp(raw)
        if kind == "below":
            return self.high - torch.exp(raw)
        return self.low + (self.high - self.low) * torch.sigmoid(raw)

    def slope(self, raw: Tensor) -> Tensor | float:
        """d value / d raw."""
        kind = self.kind
        if kind == "identity":
            return 1.0
        if kind in ("above", "below"):
            return torch.exp(raw) if kind == "above" else -torch.exp(raw)
        share = torch.sigmoid(raw)
        return (self.high - self.low) * share * (1.0 - share)

    def bound(self, value: float) -> float | None:
        """The bound a value has come to lie at, as near as a thousandth of the way between, or None."""
        for bound, other in ((self.low, self.high), (self.high, self.low)):
            width = abs(other - bound) if math.isfinite(other) else max(abs(bound), abs(self.begin), 1e-300)
            if math.isfinite(bound) and abs(value - bound) < 1e-3 * width * (1e-3 if math.isinf(other) else 1):
                return bound
        return None

    def bound_of(self, raw: Tensor) -> float | None:
        """The same of an unbounded number."""
        return self.bound(self.value(float(raw)))

    def at(self, value: float) -> Parameter:
        """The same, starting elsewhere."""
        inside = self.low < value < self.high
        return replace(self, start=value if inside or self.fixed else self.value(self.raw(value)))

    def __str__(self) -> str:
        return self.written()

    def written(self, digits: int = 17) -> str:
        """As it is declared."""
        said = self.fixed or self.start is not None
        text = quoted(self.name) + (f" = {number(self.begin, digits)}" if said else "")
        if self.kind != "identity":
            text += f" in [{number(self.low)}, {number(self.high)}]"
        text += " fixed" if self.fixed else " per series" if self.per_series else ""
        return text + (f" unit {self.unit}" if self.unit else "")

    @staticmethod
    def read(text: str) -> Parameter:
        """A declaration such as "k = 0.3 in [0, 5] unit 1/h", "k > 0 per series", "k" or "g = 9.81 fixed".

        Raises:
            EquationError: pointing at the character that cannot be.
        """
        return _Declaration(text).read()


def declared(parameters: str | Parameter | Iterable[str | Parameter]) -> list[Parameter]:
    """Declarations in any form: a text with one a line (or ";"), texts, `Parameter`s.

    Raises:
        EquationError, ValueError: naming the declaration.
    """
    given = [parameters] if isinstance(parameters, (str, Parameter)) else list(parameters)
    found: list[Parameter] = []
    for item in given:
        if isinstance(item, Parameter):
            found.append(item)
        elif isinstance(item, str):
            lines = [line for line in item.replace(";", "\n").split("\n") if line.split("#")[0].strip()]
            found += [Parameter.read(line) for line in lines]
        else:
            raise TypeError(f"parameters: expected declarations such as 'k = 0.3 in [0, 5]', got {type(item).__name__}")
    names = [p.name for p in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"parameter {name}: declared {names.count(name)} times, expected once")
    return found


class _Declaration:
    """name ["=" number] ("in" "[" number "," number "]" | "<" number | ">" number | "fixed" | "per" ("series" | "subject"))*
    ["unit" anything]"""

    def __init__(self, text: str) -> None:
        self.text = text
        head = text
        self.unit = ""
        # A unit is anything ("mg/L", "°C", "%"), so it is cut off before the rest is read.
        words = text.split()
        if "unit" in words[1:]:
            head, self.unit = text[: _word(text, "unit")], text[_word(text, "unit") + 4 :].strip()
            if not self.unit:
                raise self.fail(
                    Token("end", "", len(text), len(text)), "found the end behind unit, expected for example 1/h"
                )
        self.tokens = tokens(head, "parameter")
        self.next = 0

    def fail(self, token: Token, message: str) -> EquationError:
        return EquationError("parameter", self.text, token.at, token.end, message)

    def take(self) -> Token:
        token = self.tokens[self.next]
        self.next += token.kind != "end"
        return token

    def number(self) -> float:
        token = self.take()
        sign = -1.0 if token.text == "-" else 1.0
        if token.text in ("-", "+") and token.kind == "operator":
            token = self.take()
        if token.kind == "name" and token.text in ("inf", "infinity"):
            return sign * math.inf
        if token.kind != "number":
            raise self.fail(token, f"found {token.shown}, expected a number")
        return sign * float(token.text)

    def read(self) -> Parameter:
        name = self.take()
        if name.kind != "name":
            raise self.fail(name, f"found {name.shown}, expected a declaration such as k = 0.3 in [0, 5] unit 1/h")
        start, low, high, fixed, per_series = None, -math.inf, math.inf, False, False
        while True:
            token = self.take()
            if token.kind in ("end", "separator"):
                break
            if token.text == "=" and start is None:
                start = self.number()
            elif token.text in ("<", "<="):
                high = self.number()
            elif token.text in (">", ">="):
                low = self.number()
            elif token.text == "in" and token.kind == "name":
                low, high = self.bounds()
            elif token.text == "fixed" and token.kind == "name":
                fixed = True
            elif token.text == "per" and token.kind == "name":
                per_series = True
                whose = self.take()
                if whose.text not in ("series", "subject"):
                    raise self.fail(whose, f"found {whose.shown} behind per, expected series (or subject)")
            else:
                raise self.fail(
                    token,
                    f"found {token.shown}, expected = 0.3, in [0, 5], > 0, < 5, fixed, per series or unit and a unit",
                )
        try:
            return Parameter(name.text, start, low, high, self.unit, fixed, per_series)
        except ValueError as error:
            message = str(error).removeprefix(f"parameter {name.text}: ")
            raise self.fail(name, message) from None

    def bounds(self) -> tuple[float, float]:
        opened = self.take()
        if opened.text not in ("[", "("):
            raise self.fail(opened, f"found {opened.shown} behind in, expected bounds such as [0, 5] or [0, inf]")
        low = self.number()
        comma = self.take()
        if comma.text != ",":
            raise self.fail(comma, f"found {comma.shown}, expected ',' and the upper bound")
        high = self.number()
        closed = self.take()
        if closed.text not in ("]", ")"):
            raise self.fail(closed, f"found {closed.shown}, expected ']'")
        return low, high


def _word(text: str, word: str) -> int:
    """Where a word stands by itself, not as the first."""
    at = text.find(word, len(text) - len(text.lstrip()) + 1)
    while not (text[at - 1].isspace() and (at + len(word) == len(text) or text[at + len(word)].isspace())):
        at = text.find(word, at + 1)
    return at
