"""One message for everything that is wrong with a text: the line, a caret under the character, what to try."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

WIDTH = 100  # characters of a line that are shown around the caret


class EquationError(ValueError):
    """A text that is no model.

    Args:
        what: what the text is ("equation", "parameter").
        text: all of it.
        at: position of the offending character; `end` the position behind it.
        message: what came, what was expected, what to try.

    Attributes:
        line, column: where, both from 1.

    Example:
        >>> raise EquationError("equation", "dx = -k*", 8, 8, "found the end, expected a number or a name")
        Traceback (most recent call last):
        isocline.equations.errors.EquationError: equation: found the end, expected a number or a name
          dx = -k*
                  ^
    """

    def __init__(self, what: str, text: str, at: int, end: int, message: str) -> None:
        self.what, self.text, self.at, self.end, self.message = what, text, at, end, message
        at = min(at, len(text))
        start = text.rfind("\n", 0, at) + 1
        stop = text.find("\n", at)
        line = text[start : stop if stop >= 0 else len(text)]
        self.line, self.column = text.count("\n", 0, at) + 1, at - start + 1
        where = f", line {self.line}" if "\n" in text.strip() else ""
        super().__init__(f"{what}{where}: {message}\n{pointed(line, at - start, max(1, end - at))}")

    def __reduce__(self) -> tuple[type, tuple[str, str, int, int, str]]:
        return type(self), (self.what, self.text, self.at, self.end, self.message)


def pointed(line: str, column: int, length: int) -> str:
    """A line, cut to what is near `column`, and the carets under it."""
    first = max(0, min(column - WIDTH // 2, len(line) - WIDTH))
    shown = "".join(c if c.isprintable() else " " for c in line[first : first + WIDTH])
    before, after = "…" if first else "", "…" if first + WIDTH < len(line) else ""
    carets = "^" * max(1, min(length, len(shown) - (column - first)))
    return f"  {before}{shown}{after}\n  {' ' * (len(before) + column - first)}{carets}"


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: differs in case, or in a character or two of three or more."""
    names = list(dict.fromkeys(known))
    folded = [k for k in names if k.casefold() == name.casefold() and k != name and len(k) > 1]
    if folded:
        return folded[0]
    return next(iter(difflib.get_close_matches(name, [k for k in names if len(k) > 2], 1, 0.7)), None)


def meant(name: str, known: Iterable[str]) -> str:
    """ "; did you mean …?", or nothing."""
    found = near(name, known)
    return f"; did you mean {found}?" if found else ""
