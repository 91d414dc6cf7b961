"""Tables for the tests."""

import numpy as np

from isocline.fit.reading.clock import Clock
from isocline.fit.reading.roles import Column
from isocline.fit.reading.table import Series, Table


def table_of(*records: tuple[np.ndarray, np.ndarray]) -> Table:
    """Series "a", "b", … from (t, y) pairs, states "x0", "x1", …"""
    series = [Series(chr(97 + i) if len(records) > 1 else "", t, y) for i, (t, y) in enumerate(records)]
    states = [Column.of(f"x{k}") for k in range(records[0][1].shape[1])]
    rows = sum(len(s.t) for s in series)
    return Table(
        "made.csv",
        "0" * 64,
        rows,
        Column.of("t"),
        Column.of("id") if len(records) > 1 else None,
        states,
        Clock(),
        series,
    )


def rotation(t: np.ndarray, damping: float = 0.05, phase: float = 0.0) -> np.ndarray:
    """A damped circle: the solution of a linear ODE, about a centre that is not 0."""
    radius = np.exp(-damping * t)
    return np.stack([3 + radius * np.cos(t + phase), -1 + radius * np.sin(t + phase)], 1)


def csv_of(t: np.ndarray, y: np.ndarray) -> str:
    """Text of a table with columns t, x0, x1, …; NaN as an empty cell."""
    head = ",".join(["t", *(f"x{k}" for k in range(y.shape[1]))])
    rows = [",".join("" if np.isnan(v) else f"{v:.9g}" for v in (a, *b)) for a, b in zip(t, y, strict=True)]
    return "\n".join([head, *rows]) + "\n"
