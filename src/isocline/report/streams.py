"""Streamlines of a plane field, evenly spread: all are followed at once, and then each is drawn as far as there is room."""

from __future__ import annotations

import numpy as np

CELLS = 30  # of a side; a cell is crossed by one line
STEP, STEPS = 0.25, 180  # length of a step in cells, and how many are taken each way
SHORT = 14  # points below which a line is left out
FINE = 400  # points of a side of the grid on which directions are looked up
STAY = 9  # points in one cell after which a line is taken to have come to rest


def streamlines(dx: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """Lines (n, 2) along a field on a grid over the unit square.

    Args:
        dx, dy: (rows, columns) shares of the width and of the height travelled per unit of time; NaN where there is none.

    Source:
        Jobard & Lefer (1997), Creating evenly-spaced streamlines of arbitrary density; matplotlib's streamplot, whose mask of
        cells this is.

    Example:
        >>> y, x = np.mgrid[-1:1:20j, -1:1:20j]
        >>> lines = streamlines(-y, x)
        >>> radii = [np.hypot(*(line - 0.5).T) for line in lines]
        >>> all(np.ptp(r) < 0.01 for r in radii)
        True
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        speed = np.hypot(dx, dy)
        # How fast does not matter; where nothing moves, or there is no field, a line ends.
        unit = np.stack([_between(component / speed) for component in (dx, dy)], -1)
        unit /= np.hypot(unit[..., 0], unit[..., 1])[..., None]
    seeds = _seeds()
    ahead, behind = _followed(unit, seeds, 1.0), _followed(unit, seeds, -1.0)
    taken = np.zeros(CELLS * CELLS, dtype=bool)
    lines = []
    for seed in range(len(seeds)):
        cell = _cell(seeds[seed])
        if taken[cell]:
            continue
        taken[cell] = True
        parts = []
        own = [cell]
        for path in (behind[:, seed], ahead[:, seed]):
            end, cells = _free(path, taken, cell)
            taken[cells] = True
            own += cells
            parts.append(path[:end])
        line = np.concatenate([parts[0][:0:-1], parts[1]])
        if len(line) >= SHORT:
            lines.append(line)
        else:
            taken[own] = False
    return lines


def _seeds() -> np.ndarray:
    """(N, 2) centres of every other cell, from the border inwards, so that lines come in from there."""
    centres = (np.arange(CELLS) + 0.5) / CELLS
    other = np.add.outer(np.arange(CELLS), np.arange(CELLS)) % 2 == 0
    x, y = (side[other] for side in np.meshgrid(centres, centres))
    return np.stack([x, y], -1)[np.argsort(np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)), kind="stable")]


def _cell(point: np.ndarray) -> int:
    column, row = np.clip((point * CELLS).astype(int), 0, CELLS - 1)
    return int(row * CELLS + column)


def _followed(unit: np.ndarray, seeds: np.ndarray, sign: float) -> np.ndarray:
    """(STEPS + 1, N, 2) points along a fine field from all seeds, by the midpoint rule; behind the border they mean nothing."""
    h = sign * STEP / CELLS
    path = np.empty((STEPS + 1, *seeds.shape))
    path[0] = x = seeds
    for i in range(1, STEPS + 1):
        x = x + h * _at(unit, x + h / 2 * _at(unit, x))
        path[i] = x
    return path


def _at(unit: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(N, 2) the fine field at its nearest points."""
    column, row = np.clip(np.nan_to_num(x) * (FINE - 1) + 0.5, 0, FINE - 1).astype(int).T
    return unit[row, column]


def _between(values: np.ndarray) -> np.ndarray:
    """(FINE, FINE) the field between the points of its grid, linear on both sides."""
    rows, columns = (_hats(n) for n in values.shape)
    return rows @ values @ columns.T


def _hats(count: int) -> np.ndarray:
    """(FINE, count) weights of linear interpolation from so many points of an interval."""
    at = np.linspace(0.0, count - 1.0, FINE)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(count)))


def _free(path: np.ndarray, taken: np.ndarray, first: int) -> tuple[int, list[int]]:
    """How many points of a path are in cells that no line has crossed, and which cells these are."""
    bad = np.flatnonzero(~np.isfinite(path).all(1) | (path < 0).any(1) | (path > 1).any(1))
    end = int(bad[0]) if len(bad) else len(path)
    columns = np.minimum((path[:end] * CELLS).astype(int), CELLS - 1)
    cells = (columns[:, 1] * CELLS + columns[:, 0]).tolist()
    here, since, met = first, 0, {first}
    for i, cell in enumerate(cells):
        if cell == here:
            if i - since > STAY:
                return since + 1, [*met]
            continue
        if taken[cell] or cell in met:
            return i, [*met]
        here, since = cell, i
        met.add(cell)
    return end, [*met]
