"""Between the rows of a record: the path of the model that meets them, piece by piece."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from isocline.fit.drive import Drive
from isocline.fit.flow import Flow
from isocline.fit.forecast import ROWS, padded, settled
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales
from isocline.fit.split import cut


def inside(flow: Flow, record: Series, times: np.ndarray, scales: Scales) -> np.ndarray:
    """Scaled states (n, d) at times within a record.

    The record is cut into pieces of a dozen rows; on each the state is sought from which the model best meets all its rows, and
    the path from there tells what lies between. So long records and sensitive fields are no matter, and every value is an
    estimate from the rows on both sides, not a forecast.

    Args:
        flow: of the model.
        record: in the table's units.
        times: (n,), increasing, from the record's first time to its last.
        scales: of the run.
    """
    count = max(1, round((len(record.t) - 1) / (ROWS - 1)))
    edges = np.unique(np.linspace(0, len(record.t) - 1, count + 1).round().astype(int))
    begins = record.t[edges[:-1]]
    pieces = [cut(cut(record, b + 1)[0], a)[1] for a, b in pairwise(edges.tolist())]
    which = np.clip(np.searchsorted(begins, times, side="right") - 1, 0, len(pieces) - 1)
    wanted = [times[which == k] for k in range(len(pieces))]
    used = [k for k, t in enumerate(wanted) if len(t)]
    out = np.full((len(times), len(scales.states)), np.nan)
    for first in range(0, len(used), 200):
        some = used[first : first + 200]
        parts = [pieces[k] for k in some]
        states = settled(flow, parts, scales)
        grids = [np.concatenate([[begins[k]], wanted[k][wanted[k] > begins[k]]]) for k in some]
        paths = states[None]
        if max(map(len, grids)) > 1:
            paths = flow(states, padded([(g - g[0]) / scales.tau for g in grids]), Drive.of(parts, grids, scales))
        for b, (k, grid) in enumerate(zip(some, grids, strict=True)):
            path = paths[: len(grid), b].numpy()
            out[which == k] = path[len(grid) - len(wanted[k]) :]
    return out
