"""Which rows teach and which judge."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from isocline.fit.errors import UserError
from isocline.fit.reading.table import Series, Table

ANCHOR = 12  # rows of a held-out series that may be looked at, for its starting state only
HIDDEN_ANCHOR = 50  # and where states are hidden, which show in what they do to the others
SHORTEST = 5  # a series with fewer rows teaches and nothing else


@dataclass
class Split:
    """Every series in two parts, in the table's units.

    Attributes:
        train: what may be looked at; of a held-out series, its first rows, for the starting state alone.
        held: what the scores are computed on; empty (no rows) where nothing is held out.
        learned: which series the field is trained on.
    """

    train: list[Series]
    held: list[Series]
    learned: list[bool]

    @staticmethod
    def of(table: Table, hold_out: float | str) -> Split:
        """The last share of every series, or one whole series ("series:NAME").

        Raises:
            UserError: for an unknown series, or where too little is left to learn from.
        """
        if isinstance(hold_out, str):
            name = hold_out.removeprefix("series:")
            _known(table, name, hold_out)
            sizes = [min(_looked_at(s), max(2, len(s.t) // 4)) if s.id == name else len(s.t) for s in table.series]
            learned = [s.id != name for s in table.series]
        else:
            sizes = [len(s.t) - _share(len(s.t), hold_out) for s in table.series]
            learned = [True] * len(sizes)
        parts = [cut(s, n) for s, n in zip(table.series, sizes, strict=True)]
        split = Split([a for a, _ in parts], [b for _, b in parts], learned)
        count = sum(len(s.t) for s in split.taught)
        if count < SHORTEST:
            raise UserError(
                f"{table.path}: {count} rows to learn from after holding out {hold_out}; expected at least {SHORTEST}: "
                f"add rows, or set --hold-out 0"
            )
        if hold_out and not any(len(h.t) for h in split.held):
            raise UserError(
                f"{table.path}: every series has fewer than {SHORTEST} rows, so no tail can be held out; "
                f"hold out a whole one with --hold-out series:NAME, or nothing with --hold-out 0"
            )
        return split

    @property
    def taught(self) -> list[Series]:
        """Training parts of the series that are learned from."""
        return [s for s, yes in zip(self.train, self.learned, strict=True) if yes]


def _looked_at(s: Series) -> int:
    return HIDDEN_ANCHOR if s.hidden.any() else ANCHOR


def _share(n: int, share: float) -> int:
    """Rows at the end: at least one of a series that is long enough, and some are left."""
    return 0 if share == 0 or n < SHORTEST else min(n - 3, max(1, round(share * n)))


def cut(s: Series, n: int) -> tuple[Series, Series]:
    """The first n rows and the others."""
    return s.rows(slice(n)), s.rows(slice(n, None))


def _known(table: Table, name: str, given: str) -> None:
    names = [s.id for s in table.series]
    if len(names) < 2:
        raise UserError(f"--hold-out {given}: the table holds one series; expected several, or a share such as 0.2")
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        raise UserError(
            f"--hold-out {given}: no series {name!r}{guess}; there are {', '.join(map(repr, names[:20]))}{more}"
        )
