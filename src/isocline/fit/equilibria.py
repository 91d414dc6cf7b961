"""Where a learned field stands still, and what happens near there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales

STARTS, STEPS = 200, 50  # of Newton's method: rows of the data, spread over it
MARGIN = 0.5  # standard deviations beyond the data within which an equilibrium is told
ROOT, SAME = 1e-7, 1e-3  # size of a slope that is none, and distance of equilibria that are one; scaled
NEUTRAL = 1e-3  # share of an eigenvalue's size below which its real part, or its imaginary part, is none
NUDGE = 1e-5  # of the central differences that make the Jacobian: their error is its square, and rounding over it


def equilibria(field: Callable[..., Tensor], series: Sequence[Series], scales: Scales) -> list[dict[str, Any]]:
    """Equilibria of a field within the range of the data, and a little beyond.

    Newton's method from rows of the data, halving steps that do not bring the slope down; what it finds is sorted out by the
    eigenvalues of the Jacobian.

    Args:
        field: f(t, x), in scaled coordinates.
        series: the training part, in the table's units.
        scales: of the run.

    Returns:
        For each, in the order of the first state: "state" (in the table's units), "kind", "stable" (None where a linear look
        cannot tell), "eigenvalues" ([real, imaginary], per unit of the table's time), "period" (of the turning, None where there
        is none).

    Source:
        Strogatz (2015), Nonlinear Dynamics and Chaos, sections 5.2 and 6.3 (classification); Nocedal & Wright (2006), Numerical
        Optimization, section 11.1 (Newton's method).
    """
    x = scales.scaled(np.concatenate([s.y for s in series]))
    x = x[np.isfinite(x).all(1)]
    if not len(x):
        return []
    rows = np.unique(np.linspace(0, len(x) - 1, STARTS).round().astype(int))
    low, high = x.min(0) - MARGIN, x.max(0) + MARGIN
    found = roots(field, torch.tensor(np.concatenate([x[rows], [x.mean(0)]])), 2 * float((high - low).max()))
    kept: list[np.ndarray] = []
    for root in found.numpy():
        inside = bool(((root >= low) & (root <= high)).all())
        if inside and all(np.abs(root - other).max() > SAME for other in kept):
            kept.append(root)
    kept.sort(key=lambda root: tuple(root))
    return [_described(field, root, scales) for root in kept]


def jacobian(field: Callable[..., Tensor], x: Tensor) -> Tensor:
    """(B, d, d) derivatives of a field at states (B, d), by central differences: they ask nothing of the field."""
    dim = x.shape[1]
    steps = NUDGE * torch.eye(dim, dtype=x.dtype)
    around = torch.cat([x + s for s in steps] + [x - s for s in steps])
    with torch.no_grad():
        slopes = field(x.new_zeros(()), around).view(2, dim, len(x), dim)
    return ((slopes[0] - slopes[1]) / (2 * NUDGE)).permute(1, 2, 0)


def roots(field: Callable[..., Tensor], x: Tensor, far: float, steps: int = STEPS) -> Tensor:
    """(R, d): where Newton's method from starts (B, d) ends with a slope of nothing; those that go too far are dropped."""

    def slopes(x: Tensor) -> Tensor:
        with torch.no_grad():
            return field(x.new_zeros(()), x)

    middle = x.mean(0)
    f = slopes(x)
    for _ in range(steps):
        good = f.isfinite().all(1) & ((x - middle).abs().amax(1) < far)
        x, f = x[good], f[good]
        if not len(x) or bool((f.norm(dim=1) < ROOT).all()):
            break
        step = torch.linalg.lstsq(jacobian(field, x).nan_to_num(0.0), -f[..., None], driver="gelsd").solution[..., 0]
        length = torch.ones(len(x), 1, dtype=x.dtype)
        for _ in range(6):
            trial = x + length * step
            new = slopes(trial)
            worse = ~(new.norm(dim=1) < f.norm(dim=1)) & (f.norm(dim=1) >= ROOT)
            if not bool(worse.any()):
                break
            length[worse] /= 2
        better = new.norm(dim=1) < f.norm(dim=1)
        x, f = torch.where(better[:, None], trial, x), torch.where(better[:, None], new, f)
    return x[f.norm(dim=1) < ROOT]


def _described(field: Callable[..., Tensor], root: np.ndarray, scales: Scales) -> dict[str, Any]:
    values = torch.linalg.eigvals(jacobian(field, torch.tensor(root)[None])[0]).numpy() / scales.tau
    values = values[np.lexsort((-values.imag, -values.real))]
    kind, stable = classify(values)
    turning = np.abs(values.imag).max()
    return {
        "state": scales.unscaled(root[None])[0].tolist(),
        "kind": kind,
        "stable": stable,
        "eigenvalues": [[float(v.real), float(v.imag)] for v in values],
        "period": 2 * math.pi / float(turning) if turning > NEUTRAL * np.abs(values).max() else None,
    }


def classify(eigenvalues: np.ndarray) -> tuple[str, bool | None]:
    """The name of an equilibrium with these eigenvalues, and whether it is stable (None: a linear look cannot tell).

    Example:
        >>> [classify(np.array(v))[0] for v in ([-1.0, -2.0], [0.1 + 1j, 0.1 - 1j], [1.0, -1.0], [1j, -1j], [-3.0])]
        ['stable node', 'unstable focus', 'saddle', 'centre', 'stable']
    """
    values = np.asarray(eigenvalues, dtype=complex)
    size = np.abs(values).max() or 1.0
    turns = bool((np.abs(values.imag) > NEUTRAL * size).any())
    neutral = np.abs(values.real) <= NEUTRAL * size
    up, down = bool((values.real[~neutral] > 0).any()), bool((values.real[~neutral] < 0).any())
    if up and down:
        return "saddle" if not turns else "saddle-focus", False
    if neutral.any() and not up:
        return ("centre" if turns and not down else "neutral"), None
    name = "unstable" if up else "stable"
    return (name if len(values) == 1 else f"{name} {'focus' if turns else 'node'}"), not up
