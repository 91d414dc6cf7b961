"""PySINDy, where it is installed: sparse regression on slopes, and the rival that it makes of a record."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isocline.fit.blocks import Fold, folds
from isocline.fit.flow import Flow
from isocline.fit.forecast import forecast
from isocline.fit.polynomials import Polynomials
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales

MISSING = "PySINDy is not installed, so it is not among them; it comes with: pip install 'isocline[sparse]'"
DEGREE = 2  # of the rival's library: that of PySINDy
THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.5)  # of the rival, about PySINDy's 0.1; its states and slopes are of size one
DEFAULT = 0.1  # where no blocks can choose
SMOOTH, ORDER = 11, 3  # rows and order of the Savitzky-Golay filter, as PySINDy has them
BLOCKS = 4
LOST, CLOSE = 3.0, 0.03  # as penalties are chosen: where an error stops counting more, and what does not matter
MOST_ROWS = 20_000  # that the rival learns from


def installed() -> bool:
    """Whether PySINDy can be imported."""
    return importlib.util.find_spec("pysindy") is not None


def monomials(columns: int, degree: int) -> np.ndarray:
    """(K, columns) exponents of PySINDy's polynomial library, by degree."""
    from pysindy import PolynomialLibrary  # pyrefly: ignore[missing-import]

    return PolynomialLibrary(degree=degree).fit(np.zeros((1, columns))).powers_


def thresholded(design: np.ndarray, slopes: np.ndarray, threshold: float) -> np.ndarray:
    """(K,) coefficients by sequentially thresholded least squares: what stays below the threshold is left out, and the rest
    fitted again, until nothing changes.

    Args:
        design: (n, K).
        slopes: (n,).
        threshold: of a coefficient's size.

    Source:
        Brunton, Proctor & Kutz (2016), PNAS 113, 3932-3937.
    """
    from pysindy import STLSQ  # pyrefly: ignore[missing-import]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no term is left: 0 says so
        return STLSQ(threshold=threshold).fit(design, slopes[:, None]).coef_[0]


# ---- the rival --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rival:
    """What PySINDy makes of a record by itself.

    Attributes:
        model: polynomials in the table's units.
        coefficients: (1, K, states).
        threshold: the chosen one.
    """

    model: Polynomials
    coefficients: np.ndarray
    threshold: float

    @property
    def parameters(self) -> int:
        """Coefficients that are not 0."""
        return int(np.count_nonzero(self.coefficients))


def rival(taught: Sequence[Series], scales: Scales) -> Rival | str:
    """Smoothed finite differences of the record and a polynomial library of degree 2, the threshold chosen by the forecasts of
    held-out blocks; or in words why there is none.

    The states are divided by their typical size, time by that of the run: a threshold then means the same for all of them.
    Rows with an empty cell are left out.

    Args:
        taught: the training part; nothing else is looked at.
        scales: of the run.
    """
    if np.any(np.all([s.hidden for s in taught], 0)):
        return "PySINDy is not among them: it has no hidden states"
    if any(s.u is not None and s.u.doses is not None for s in taught):
        return "PySINDy is not among them: finite differences of a record that jumps are no slopes"
    if not installed():
        return MISSING
    sizes = sizes_of(taught)
    powers = monomials(len(sizes), DEGREE)
    model = Polynomials(powers, sizes, scales)
    if not _usable(taught, len(powers)):
        return f"PySINDy is not among them: the record is too short for the {len(powers)} terms of its library"
    threshold = _chosen(model, taught, folds(taught, BLOCKS))
    return Rival(model, _fitted(model, taught, threshold)[None], threshold)


def sizes_of(series: Sequence[Series]) -> np.ndarray:
    """(states + inputs,) root mean square of every column, in the table's units; 1 of one that is 0 throughout."""
    rows = np.concatenate([s.y if s.u is None else np.concatenate([s.y, s.u.at(s.t)], 1) for s in series])
    size = np.sqrt(np.nanmean(np.square(rows), 0))
    return np.where(size > 0, size, 1.0)


def _chosen(model: Polynomials, taught: Sequence[Series], blocks: Sequence[Fold]) -> float:
    """The threshold whose equations forecast the blocks best that they have not seen; of nearly equal ones the highest."""
    blocks = [f for f in blocks if _usable(f.taught, len(model.powers))]
    if not blocks:
        return DEFAULT
    found = np.stack([[_fitted(model, fold.taught, threshold) for fold in blocks] for threshold in THRESHOLDS])
    which = np.repeat(np.arange(len(blocks)), [len(f.blocks) for f in blocks])
    flow = model.flow(found[:, which].reshape(-1, *found.shape[2:]))
    errors = block_errors(flow, blocks, model.scales, len(THRESHOLDS))
    return max(t for t, e in zip(THRESHOLDS, errors, strict=True) if e <= (1 + CLOSE) * errors.min())


def block_errors(flow: Flow, blocks: Sequence[Fold], scales: Scales, several: int = 1) -> np.ndarray:
    """(several,) root mean square errors of forecasts of all blocks, scaled, errors above `LOST` counting as that.

    Args:
        flow: of samples: all blocks of all folds by the first model, by the second, and so on.
        blocks: of the training part.
        scales: of the run.
        several: how many models.
    """
    before, ahead = [b for f in blocks for b in f.before], [b for f in blocks for b in f.blocks]
    paths = forecast(flow, before * several, [b.t for b in ahead] * several, scales)
    seen = scales.scaled(np.concatenate([b.y for b in ahead]))
    path = np.concatenate(paths).reshape(several, *seen.shape)
    error = np.minimum(np.nan_to_num(np.abs(path - seen), nan=LOST), LOST)
    return np.sqrt(np.square(error)[:, np.isfinite(seen)].mean(1))


def _usable(series: Sequence[Series], terms: int) -> bool:
    """Whether there are as many slopes as terms."""
    return sum(len(s.t) for s in _complete(series)) >= terms


def _complete(series: Sequence[Series]) -> list[Series]:
    """The rows without an empty cell, of series that are long enough for the filter."""
    out, left = [], MOST_ROWS
    for s in series:
        s = s.rows(np.flatnonzero(np.isfinite(s.y).all(1))[:left])
        left -= len(s.t)
        out += [s] if len(s.t) > ORDER + 1 else []
    return out


def _fitted(model: Polynomials, series: Sequence[Series], threshold: float) -> np.ndarray:
    """(K, states) coefficients, from smoothed finite differences."""
    import pysindy  # pyrefly: ignore[missing-import]

    parts, dim, sizes = _complete(series), model.dim, model.sizes
    rows = min(SMOOTH, *(len(s.t) - 1 + len(s.t) % 2 for s in parts))  # odd, as the filter wants it
    sindy = pysindy.SINDy(
        optimizer=pysindy.STLSQ(threshold=threshold),
        feature_library=pysindy.PolynomialLibrary(degree=DEGREE),
        differentiation_method=pysindy.SmoothedFiniteDifference(
            smoother_kws={"window_length": rows, "polyorder": ORDER}
        ),
    )
    given: dict[str, Any] = {
        "x": [s.y / sizes[:dim] for s in parts],
        "t": [(s.t - s.t[0]) / model.scales.tau for s in parts],
    }
    if model.field.takes:
        given["u"] = [s.u.at(s.t) / sizes[dim:] for s in parts if s.u is not None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no term is left: 0 says so
        sindy.fit(**given)
    return sindy.coefficients().T
