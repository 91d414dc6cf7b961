"""Which rows teach and which judge."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

import numpy as np

from isocline.fit.errors import UserError
from isocline.fit.reading.table import Series, Table

ANCHOR = 12  # rows of a held-out series that may be looked at, for its starting state only
HIDDEN_ANCHOR = 50  # and where states are hidden, which show in what they do to the others
SHORTEST = 5  # a series with fewer rows teaches and nothing else
MANY, SHORTEST_OF_MANY = 20, 4  # but not where there are so many that all of them together tell enough


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
        """By what is held out: a number is the last share of every series, and

        - "series:NAME": one whole series;
        - "fold:K/N": the Kth of N groups of whole series;
        - "future:K/N": of the second half of every series, in N blocks, the Kth; what comes before it teaches, what comes
          after it does nothing;
        - "future:K/N:H": the H rows after the Kth of N origins, which are spread from the middle to H rows before the end.

        Raises:
            UserError: for an unknown series or a fold that there is not, or where too little is left to learn from.
        """
        shortest = SHORTEST_OF_MANY if len(table.series) >= MANY else SHORTEST
        if isinstance(hold_out, str):
            kind, _, rest = hold_out.partition(":")
            cuts, learned = {"series": _one, "fold": _group, "future": _block}[kind](table, rest, hold_out)
        else:
            cuts = [(len(s.t) - _share(len(s.t), hold_out, shortest), len(s.t)) for s in table.series]
            learned = [True] * len(cuts)
        parts = [cut(s.rows(slice(end)), begin) for s, (begin, end) in zip(table.series, cuts, strict=True)]
        split = Split([a for a, _ in parts], [b for _, b in parts], learned)
        count = sum(len(s.t) for s in split.taught)
        if count < SHORTEST:
            raise UserError(
                f"{table.path}: {count} rows to learn from after holding out {hold_out}; expected at least {SHORTEST}: "
                f"add rows, or set --hold-out 0"
            )
        if hold_out and not any(len(h.t) for h in split.held):
            raise UserError(
                f"{table.path}: every series has fewer than {shortest} rows, so no tail can be held out; "
                f"hold out a whole one with --hold-out series:NAME, or nothing with --hold-out 0"
            )
        return split

    @property
    def taught(self) -> list[Series]:
        """Training parts of the series that are learned from."""
        return [s for s, yes in zip(self.train, self.learned, strict=True) if yes]


# ---- where series are cut ---------------------------------------------------------------------------------------------
Cuts = tuple[
    list[tuple[int, int]], list[bool]
]  # of every series the row held out from and the row held out to; learned


def _one(table: Table, name: str, given: str) -> Cuts:
    """A whole series."""
    _known(table, name, given)
    return _whole(table, [s.id == name for s in table.series])


def _group(table: Table, text: str, given: str) -> Cuts:
    """Every Nth of the series, in an order that is drawn by lot: neighbours in a file are often alike."""
    fold, count, _ = _numbers(text, given)
    total = len(table.series)
    if not 2 <= count <= total:
        raise UserError(f"--hold-out {given}: {count} folds of {total} series; expected 2 to {total}")
    order = np.random.default_rng(0).permutation(total)
    held = set(order[fold - 1 :: count].tolist()) if count < total else {fold - 1}
    return _whole(table, [i in held for i in range(total)])


def _whole(table: Table, held: list[bool]) -> Cuts:
    """Of held series a few first rows may be looked at."""
    sizes = [looked_at(s) if out else len(s.t) for s, out in zip(table.series, held, strict=True)]
    return [(n, len(s.t)) for n, s in zip(sizes, table.series, strict=True)], [not out for out in held]


def _block(table: Table, text: str, given: str) -> Cuts:
    """What comes after an origin in the second half of every series; of series that are too short for it nothing."""
    fold, count, horizon = _numbers(text, given)
    cuts = []
    for s in table.series:
        n = len(s.t)
        edges = np.linspace(n / 2, n, count + 1).round().astype(int)
        begin, end = int(edges[fold - 1]), int(edges[fold])
        if horizon is not None:
            last = n - horizon
            origins = np.linspace(min(n / 2, last), last, count).round().astype(int) if count > 1 else [last]
            begin, end = int(origins[fold - 1]), int(origins[fold - 1]) + horizon
        cuts.append((begin, end) if begin >= SHORTEST else (n, n))
    if all(begin == end for begin, end in cuts):
        longest = max(len(s.t) for s in table.series)
        raise UserError(
            f"{table.path}: its longest series has {longest} rows, too few for {given}: "
            f"expected a horizon of at most {max(0, longest - SHORTEST)} rows, and fewer origins than half of the rows"
        )
    return cuts, [True] * len(cuts)


def _numbers(text: str, given: str) -> tuple[int, int, int | None]:
    """K/N or K/N:H."""
    found = re.fullmatch(r"(\d+)/(\d+)(?::(\d+))?", text)
    if found is None:
        raise UserError(
            f"--hold-out {given}: expected a fold and their number, such as future:2/5, future:2/5:10 or fold:1/3"
        )
    fold, count, horizon = (None if x is None else int(x) for x in found.groups())
    assert fold is not None and count is not None
    if not 1 <= fold <= count or horizon == 0:
        raise UserError(f"--hold-out {given}: expected a fold from 1 to {count}, and a horizon of at least one row")
    return fold, count, horizon


def looked_at(s: Series) -> int:
    """How many first rows of a series that is held out may be looked at."""
    return min(HIDDEN_ANCHOR if s.hidden.any() else ANCHOR + s.first, max(2, len(s.t) // 4))


def _share(n: int, share: float, shortest: int) -> int:
    """Rows at the end: at least one of a series that is long enough, and some are left."""
    return 0 if share == 0 or n < shortest else min(n - 3, max(1, round(share * n)))


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
