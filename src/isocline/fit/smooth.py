"""The smoothing spline: values and slopes of a noisy record, for the unit of time and for the first guess of a field."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

CAUTION = 1.2  # weight of the degrees of freedom; plain GCV (1) now and then follows the noise (Kim & Gu 2004: 1.2-1.4)
KEPT = 32  # bases of earlier records, of 160 kB each for a hundred points


def smoothing_spline(t: np.ndarray, y: np.ndarray, ease: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) and slopes (n,) at t of the natural cubic smoothing spline through (t, y).

    The penalty on the curvature is chosen by generalized cross-validation. Time is counted in units of the usual
    spacing inside, so that the unit of t does not matter. Costs O(n³): meant for pieces of a hundred points or so.

    Args:
        t: (n,), strictly increasing.
        y: (n,), finite.
        ease: the share of the penalty that is taken.

    Source:
        Green & Silverman (1994), Nonparametric Regression, sections 2.1-2.3 (Q, R, and slopes from γ); Demmler & Reinsch
        (1975) for the eigenbasis in which every penalty costs O(n).
    """
    n = len(t)
    if n < 4:
        return y.copy(), np.gradient(y, t) if n > 1 else np.zeros(n)
    unit = float(np.median(np.diff(t)))
    h = np.diff(t) / unit
    eigenvalues, vectors, bands, gram = _basis(h.tobytes())
    weights = _product(vectors.T, y)
    penalties = np.logspace(-4, 8, 121)[:, None]
    shrink = 1 / (1 + penalties * eigenvalues)
    residual = (((1 - shrink) * weights) ** 2).sum(1)
    score = residual / np.maximum(1 - CAUTION * shrink.sum(1) / n, 1e-9) ** 2
    values = _product(vectors, weights / (1 + ease * penalties[np.argmin(score)] * eigenvalues))
    inner = torch.linalg.solve(gram, bands.T @ torch.from_numpy(values)).numpy()
    gamma = np.concatenate([[0.0], inner, [0.0]])
    slopes = np.empty(n)
    slopes[:-1] = np.diff(values) / h - h / 6 * (2 * gamma[:-1] + gamma[1:])
    slopes[-1] = (values[-1] - values[-2]) / h[-1] + h[-1] / 6 * gamma[-2]
    return values, slopes / unit


@lru_cache(KEPT)
def _basis(spacings: bytes) -> tuple[np.ndarray, np.ndarray, torch.Tensor, torch.Tensor]:
    """Eigenvalues (n,) and eigenvectors (n, n) of the penalty, Q and R, of the spacings h as bytes.

    All columns of a record have the same, and in a table of many series with a common grid all of these.
    """
    h = np.frombuffer(spacings)
    n = len(h) + 1
    q = np.zeros((n, n - 2))
    j = np.arange(n - 2)
    q[j, j], q[j + 1, j], q[j + 2, j] = 1 / h[:-1], -1 / h[:-1] - 1 / h[1:], 1 / h[1:]
    r = np.diag((h[:-1] + h[1:]) / 3) + np.diag(h[1:-1] / 6, 1) + np.diag(h[1:-1] / 6, -1)
    # PyTorch's linear algebra, not NumPy's: the last digits of that depend on how many threads its library finds, and
    # a training makes another model of them.
    bands, gram = torch.from_numpy(q), torch.from_numpy(r)
    curvature = bands @ torch.linalg.solve(gram, bands.T)
    eigenvalues, vectors = (x.numpy() for x in torch.linalg.eigh((curvature + curvature.T) / 2))
    eigenvalues = np.maximum(eigenvalues, 0.0)
    eigenvalues[:2] = 0.0  # straight lines are not penalized
    return eigenvalues, vectors, bands, gram


def _product(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (torch.from_numpy(np.ascontiguousarray(a)) @ torch.from_numpy(x)).numpy()


def hermite(t: np.ndarray, values: np.ndarray, slopes: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and slopes at other times: the cubic between knots (which is the spline itself), a line beyond them."""
    if len(t) == 1:
        return np.full(len(at), values[0]), np.zeros(len(at))
    i = np.clip(np.searchsorted(t, at, side="right") - 1, 0, len(t) - 2)
    h = t[i + 1] - t[i]
    u = (at - t[i]) / h
    a, b, c, d = values[i], h * slopes[i], values[i + 1], h * slopes[i + 1]
    inside = a + u * (b + u * (3 * (c - a) - 2 * b - d + u * (2 * (a - c) + b + d)))
    slope = (b + u * (2 * (3 * (c - a) - 2 * b - d) + 3 * u * (2 * (a - c) + b + d))) / h
    before, after = at < t[0], at > t[-1]
    inside = np.where(before, values[0] + (at - t[0]) * slopes[0], inside)
    inside = np.where(after, values[-1] + (at - t[-1]) * slopes[-1], inside)
    slope = np.where(before, slopes[0], np.where(after, slopes[-1], slope))
    return inside, slope


def smoothed(t: np.ndarray, y: np.ndarray, piece: int = 100, ease: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Values and slopes (n, d) of every column at all t; NaN cells are passed over, empty columns give 0.

    Long records are smoothed in pieces of `piece` rows; `ease` as of the spline.
    """
    values, slopes = np.zeros_like(y), np.zeros_like(y)
    for start in range(0, len(t), piece):
        rows = slice(start, None if len(t) - start < 1.5 * piece else start + piece)
        for k in range(y.shape[1]):
            column, times = y[rows, k], t[rows]
            seen = ~np.isnan(column)
            if seen.any():
                knots = smoothing_spline(times[seen], column[seen], ease)
                values[rows, k], slopes[rows, k] = hermite(times[seen], *knots, times)
        if rows.stop is None:
            break
    return values, slopes
