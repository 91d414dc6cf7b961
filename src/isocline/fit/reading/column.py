"""Headers of columns, with their units."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNIT = re.compile(r"^(?P<name>.*?)\s*(?:\[(?P<square>[^\[\]]+)\]|\((?P<round>[^()]+)\))\s*$")


@dataclass(frozen=True)
class Column:
    """A column with its unit, from a header such as `level [V]` or `level (V)`."""

    header: str
    name: str
    unit: str

    @staticmethod
    def of(header: str) -> Column:
        """Splits a header.

        Example:
            >>> Column.of("level [V]").unit, Column.of("hare").unit
            ('V', '')
        """
        match = _UNIT.match(header)
        if not match or not match["name"]:
            return Column(header, header, "")
        return Column(header, match["name"], (match["square"] or match["round"]).strip())

    @property
    def key(self) -> str:
        """The name as it is looked up among known ones."""
        return self.name.strip().lower()
