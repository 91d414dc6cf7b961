"""Makes the reference states of `isocline.problems` and of the benchmark's DETEST.

    python tests/references.py [NAME …]

An integrator that shares nothing with isocline's: Radau IIA with seven stages (order 13), in NumPy's extended precision
(64 bits of mantissa), the step from comparing one step with two of half its length. Every Newton iteration solves in
double precision for a residual in extended precision, which refines as iterative refinement does. The tests check its
states by SciPy, which is a second method in a second implementation (`test_problems.py`).

A problem is solved as float64 states it: its initial state, constants and end are the float64 numbers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mpmath
import numpy as np
from scipy.linalg import lu_factor, lu_solve

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

STAGES = 7
ORDER = 2 * STAGES - 1
LONG = np.longdouble


@cache
def radau(stages: int = STAGES) -> tuple[np.ndarray, np.ndarray]:
    """Nodes c (s,) and matrix A (s, s): Hairer and Wanner II (1996), eq. IV.5.3 and the conditions C(s)."""
    with mpmath.workdps(50):
        # d^{s−1}/dx^{s−1} of x^{s−1}(x − 1)^s, highest power first.
        coefficients = [mpmath.binomial(stages, k) * (-1) ** k for k in range(stages + 1)] + [0] * (stages - 1)
        for _ in range(stages - 1):
            degree = len(coefficients) - 1
            coefficients = [c * (degree - i) for i, c in enumerate(coefficients[:-1])]
        c = sorted(mpmath.polyroots(coefficients, maxsteps=500, extraprec=400), key=mpmath.re)
        # Σ_j a_ij c_j^{k−1} = c_i^k / k
        powers = mpmath.matrix(stages, stages)
        right = mpmath.matrix(stages, stages)
        for i in range(stages):
            for k in range(stages):
                powers[i, k] = c[i] ** k
                right[i, k] = c[i] ** (k + 1) / (k + 1)
        a = right * powers**-1
        text = [[mpmath.nstr(a[i, j], 30) for j in range(stages)] for i in range(stages)]
        return np.array([mpmath.nstr(x, 30) for x in c], dtype=LONG), np.array(text).astype(LONG)


def jacobian(f: Callable, t: LONG, y: np.ndarray) -> np.ndarray:
    """∂f/∂y by differences in extended precision, as float64."""
    f0, columns = f(t, y), []
    for i in range(len(y)):
        step = LONG(1e-9) * max(abs(y[i]), LONG(1e-6))
        z = y.copy()
        z[i] += step
        columns.append((f(t, z) - f0) / step)
    return np.stack(columns, 1).astype(np.float64)


def step(f: Callable, J: np.ndarray, t: LONG, y: np.ndarray, h: LONG, scale: np.ndarray) -> np.ndarray | None:
    """y(t + h), or None where Newton's iteration does not converge."""
    c, a = radau()
    n = len(y)
    matrix = lu_factor(np.eye(STAGES * n) - np.kron((h * a).astype(np.float64), J))
    z, before = np.zeros((STAGES, n), dtype=LONG), np.inf
    for i in range(30):
        slopes = np.stack([f(t + ci * h, y + zi) for ci, zi in zip(c, z, strict=True)])
        residual = (h * (a @ slopes) - z).astype(np.float64)
        change = lu_solve(matrix, residual.ravel()).reshape(STAGES, n)
        size = float(np.max(np.abs(change) / scale))
        if not np.isfinite(size) or (i > 3 and size > before and before > 1e-17):
            return None
        z = z + change
        if size < 1e-19 or (i > 3 and size >= 0.5 * before and size < 1e-17):
            return y + z[-1]
        before = size
    return None


def end_state(f: Callable, y0: np.ndarray, t0: float, t1: float, tol: float = 1e-17, first: float = 1e-6) -> np.ndarray:
    """y(t1) in extended precision; f(t, y) takes and returns vectors of it."""
    t, y, h, end = LONG(t0), np.asarray(y0, dtype=LONG), LONG(first) * LONG(t1 - t0), LONG(t1)
    largest = np.abs(y)
    while t < end:
        h = min(h, end - t)
        largest = np.maximum(largest, np.abs(y))
        scale = np.abs(y) + LONG(1e-6) * largest + LONG(1e-25)
        J = jacobian(f, t, y)
        whole = step(f, J, t, y, h, scale)
        half = None if whole is None else step(f, J, t, y, h / 2, scale)
        twice = None if half is None else step(f, J, t + h / 2, half, h / 2, scale)
        if twice is None:
            h = h / 4
            continue
        error = float(np.max(np.abs(twice - whole) / scale)) / 2**ORDER
        factor = 0.9 * (tol / max(error, 1e-30)) ** (1 / (ORDER + 1))
        if error <= tol:
            t, y = (end if h >= end - t else t + h), twice
        h = h * LONG(min(4.0, max(0.2, factor)))
    return y


def in_numpy() -> dict[str, tuple[Callable, np.ndarray, float, float]]:
    """Every problem that has a reference as (f, y0, t0, t1), f in NumPy."""
    from classics import CLASSICS
    from detest import DETEST

    return {p.name: (p.numpy, p.y0, p.t0, p.t1) for p in (*CLASSICS, *DETEST)}


def main() -> None:
    chosen = sys.argv[1:]
    for name, (f, y0, t0, t1) in in_numpy().items():
        if chosen and name not in chosen:
            continue
        begun = time.time()
        y = end_state(f, y0, t0, t1)
        print(f"{name}: {[float(v) for v in y]}  # {time.time() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
