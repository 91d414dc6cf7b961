"""From characters to tokens: numbers, names, operators, ends of statements."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from isocline.equations.errors import EquationError

OPERATORS = ("**", "<=", ">=", "==", "!=", "+", "-", "*", "/", "^", "<", ">", "(", ")", "[", "]", ",", "=")
SAME = {"**": "^", "−": "-", "·": "*", "×": "*", "÷": "/", "≤": "<=", "≥": ">=", "≠": "!="}
OPEN, CLOSED = "([", ")]"
CONTINUES = frozenset(OPERATORS) - {")", "]"}  # a line that ends with one of these goes on
NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
MAX_TEXT = 50_000


@dataclass(frozen=True)
class Token:
    """A piece of a text.

    Attributes:
        kind: "number", "name", "operator", "separator" (between statements) or "end".
        text: the operator or name; of a number, as written.
        at, end: positions in the text.
        quoted: a name in backticks, which is never a keyword.
    """

    kind: str
    text: str
    at: int
    end: int
    quoted: bool = False

    @property
    def shown(self) -> str:
        """For messages."""
        if self.kind == "end":
            return "the end"
        return "the end of the line" if self.kind == "separator" else f"{self.text!r}"


def tokens(text: str, what: str = "equation") -> list[Token]:
    """All tokens of a text, the last of kind "end".

    Statements end at a line's end or at ";"; inside brackets and behind an operator they go on. "#" begins a comment.
    Names are words of letters, digits and "_", of any alphabet, or anything in backticks.

    Raises:
        EquationError: pointing at the character.

    Example:
        >>> [token.text for token in tokens("dx = -k*`body mass`**2  # decay")]
        ['dx', '=', '-', 'k', '*', 'body mass', '^', '2', '']
    """
    if len(text) > MAX_TEXT:
        raise EquationError(what, text[:MAX_TEXT], 0, 1, f"{len(text):,} characters, expected at most {MAX_TEXT:,}")
    found: list[Token] = []
    depth = at = 0
    while at < len(text):
        c = text[at]
        if c in "\n;":
            last = found[-1] if found else None
            goes_on = depth > 0 or (c == "\n" and last is not None and last.text in CONTINUES and not last.quoted)
            if not goes_on or c == ";":
                found.append(Token("separator", c, at, at + 1))
                depth = 0
            at += 1
        elif c.isspace():
            at += 1
        elif c == "#":
            stop = text.find("\n", at)
            at = stop if stop >= 0 else len(text)
        else:
            token = _token(text, at, what)
            if token.kind == "operator":
                depth += (token.text in OPEN) - (token.text in CLOSED)
            found.append(token)
            at = token.end
    found.append(Token("end", "", len(text), len(text)))
    return found


def is_word(name: str) -> bool:
    """Whether a name can be written without backticks: an identifier, but the dot of a product is no letter here."""
    return name.isidentifier() and "·" not in name


def _token(text: str, at: int, what: str) -> Token:
    """The one that begins at `at`."""
    c = text[at]
    number = NUMBER.match(text, at)
    if number:
        return _number(text, number, what)
    if c == "`":
        stop = text.find("`", at + 1)
        if stop < 0 or "\n" in text[at:stop] or stop == at + 1:
            raise EquationError(what, text, at, at + 1, "found a backtick, expected a name between two: `body mass`")
        return Token("name", text[at + 1 : stop], at, stop + 1, quoted=True)
    if is_word(c):
        end = at + 1
        while end < len(text) and is_word(text[at : end + 1]):
            end += 1
        return Token("name", text[at:end], at, end)
    for operator in (*OPERATORS, *SAME):
        if text.startswith(operator, at):
            return Token("operator", SAME.get(operator, operator), at, at + len(operator))
    hints = {
        "&": "; write and", "|": "; write or", "!": "; write not, or != to compare", "%": "; a percentage is /100",
        "{": "; write ( )", "}": "; write ( )", "'": "; write a derivative as dx = … or dx/dt = …",
        '"': "; put a name that is no word in backticks: `body mass`", "²": "; write ^2", "³": "; write ^3",
        "√": "; write sqrt( )", ":": "; write =",
    }  # fmt: skip
    shown = repr(c)
    raise EquationError(
        what, text, at, at + 1, f"found {shown}, expected a number, a name or an operator{hints.get(c, '')}"
    )


def _number(text: str, match: re.Match[str], what: str) -> Token:
    at, end = match.span()
    if math.isinf(float(match.group())):
        raise EquationError(what, text, at, end, f"{match.group()} is beyond the largest number, 1.8e308")
    follows = text[end : end + 1]
    if follows == "." or NUMBER.match(text, end):
        raise EquationError(what, text, end, end + 1, f"found {follows!r} behind the number {match.group()}")
    if follows.isidentifier() or follows == "`":
        word = re.match(r"\w*", text[end:])
        name = word.group() if word and word.group() else "x"
        raise EquationError(
            what, text, end, end + len(name),
            f"found a name behind the number {match.group()}, expected an operator; a product is {match.group()}*{name}",
        )  # fmt: skip
    return Token("number", match.group(), at, end)
