"""Curves of equilibria over one number: pseudo-arclength continuation, and the folds, Hopf and branch points on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from isocline.fit.equilibria import NUDGE

# f(x (B, d), q (B,)) -> (B, d)
Family = Callable[[Tensor, Tensor], Tensor]

FIRST, LONGEST, SHORTEST = (
    0.02,
    0.06,
    1e-5,
)  # steps along a curve: the range of q has length one, a standard deviation too
POINTS = 400  # of a curve, in each direction
NEWTON, ROOT = 8, 1e-9  # iterations of the corrector, and the size of a slope that is none
TURN = 0.97  # cosine between neighbouring tangents, below which a step was too long
LOCATE = 30  # halvings, at most, that find a point between two
NEAR = 0.03  # distance from a curve at which a point is on it: the sagitta of a step is a tenth of that


class SpentError(Exception):
    """The field has been asked as often as was allowed."""


@dataclass(frozen=True)
class Point:
    """Where something changes.

    Attributes:
        kind: "fold", "Hopf" or "branch point".
        x, q: where.
        frequency: of a Hopf point, radians per unit of time; else None.
    """

    kind: str
    x: np.ndarray
    q: float
    frequency: float | None = None


@dataclass
class Curve:
    """Equilibria in the order of the curve.

    Attributes:
        x: (n, d); q (n,); values (n, d) the eigenvalues of the Jacobian there.
        points: folds, Hopf and branch points on it.
    """

    x: np.ndarray
    q: np.ndarray
    values: np.ndarray
    points: list[Point] = field(default_factory=list)

    @property
    def stable(self) -> np.ndarray:
        """(n,) whether all eigenvalues have negative real parts."""
        return np.all(self.values.real < 0, axis=1)

    def holds(self, x: np.ndarray, q: float) -> bool:
        """Whether a point is on the curve."""
        a, b = np.column_stack([self.x, self.q])[:-1], np.column_stack([self.x, self.q])[1:]
        along = b - a
        share = ((np.append(x, q) - a) * along).sum(1) / np.maximum(np.square(along).sum(1), 1e-300)
        gaps = a + np.clip(share, 0.0, 1.0)[:, None] * along - np.append(x, q)
        return bool(np.linalg.norm(gaps, axis=1).min() < NEAR)


class Continuation:
    """Follows equilibria f(x, q) = 0 for q from 0 to 1, while x stays in a box.

    A step goes along the tangent and back to the curve at right angles to it, so that it turns around folds; derivatives are
    central differences, all in one call.

    Args:
        family: f.
        low, high: (d,) corners of the box.
        calls: of f, at most.

    Source:
        Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems; Govaerts (2000), Numerical Methods
        for Bifurcations of Dynamical Equilibria, chapters 2 (pseudo-arclength), 4 (folds, branch points) and 5 (the product
        of sums of eigenvalues, which changes sign at a Hopf point).

    Example:
        >>> saddle_node = Continuation(lambda x, q: (q[:, None] - 0.5) + x * x, np.array([-1.0]), np.array([1.0]))
        >>> curve = saddle_node.curve(np.array([-np.sqrt(0.5)]), 0.0)
        >>> [(point.kind, round(point.q, 6)) for point in curve.points], curve.q[[0, -1]].tolist()
        ([('fold', 0.5)], [0.0, 0.0])
    """

    def __init__(self, family: Family, low: np.ndarray, high: np.ndarray, calls: int = 100_000) -> None:
        self.family, self.low, self.high, self.left = family, low, high, calls

    def slopes(self, z: np.ndarray) -> np.ndarray:
        """f at rows (x, q) (B, d + 1)."""
        if self.left <= 0:
            raise SpentError
        self.left -= 1
        with torch.no_grad():
            return self.family(torch.tensor(z[:, :-1]), torch.tensor(z[:, -1])).numpy()

    def linear(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f (d,) and its derivative (d, d + 1) at one point."""
        steps = NUDGE * np.eye(len(z))
        f = self.slopes(np.concatenate([z[None], z + steps, z - steps]))
        return f[0], (f[1 : 1 + len(z)] - f[1 + len(z) :]).T / (2 * NUDGE)

    def _derivatives(self, rows: np.ndarray) -> np.ndarray:
        """(n, d, d + 1) at all points of a curve, in one call."""
        steps = NUDGE * np.eye(rows.shape[1])
        around = np.concatenate([rows[:, None] + steps, rows[:, None] - steps], 1)
        f = self.slopes(around.reshape(-1, rows.shape[1])).reshape(len(rows), 2, len(steps), -1)
        return np.moveaxis(f[:, 0] - f[:, 1], 1, 2) / (2 * NUDGE)

    # ---- a curve ------------------------------------------------------------------------------------------------------
    def curve(self, x: np.ndarray, q: float) -> Curve:
        """The curve through an equilibrium, both ways."""
        start = np.append(x, q)
        tangent = _tangent(self.linear(start)[1], np.append(np.zeros(len(x)), 1.0))
        ahead = self._walk(start, tangent)
        closed = len(ahead) > 3 and bool(np.linalg.norm(ahead[-1] - start) < 1e-6)
        back = [] if closed else self._walk(start, -tangent)
        rows = np.array([*back[::-1], start, *ahead])
        derivatives = self._derivatives(rows)
        values = np.array([np.linalg.eigvals(j[:, :-1]) for j in derivatives])
        found = Curve(rows[:, :-1], rows[:, -1], values)
        found.points = self._points(rows, derivatives, values)
        return found

    def _walk(self, start: np.ndarray, tangent: np.ndarray) -> list[np.ndarray]:
        """From a point along the curve to where it leaves the range or the box, ends, or comes back."""
        out: list[np.ndarray] = []
        z, step = start, FIRST
        while len(out) < POINTS and step > SHORTEST:
            found = self.corrected(z + step * tangent, tangent)
            new = None if found is None else _tangent(found[1], tangent)
            if found is None or new is None or float(new @ tangent) < TURN or np.linalg.norm(found[0] - z) > 2 * step:
                step /= 2
                continue
            before, z = z, found[0]
            if not 0.0 <= z[-1] <= 1.0:
                end = self._at_edge(before, z)
                return [*out, end] if end is not None else out
            if (z[:-1] < self.low).any() or (z[:-1] > self.high).any():
                return out
            if len(out) > 3 and np.linalg.norm(z - start) < step and float(new @ (start - z)) > 0:
                return [*out, z, start]
            out.append(z)
            tangent, step = new, min(1.4 * step, LONGEST)
        return out

    def corrected(self, z: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The point of the curve in the plane through z, and the derivative there; None where Newton's method does not end."""
        plane = z @ normal
        for _ in range(NEWTON):
            f, derivative = self.linear(z)
            if not (np.isfinite(f).all() and np.isfinite(derivative).all()):
                return None
            rest = np.append(f, z @ normal - plane)
            if np.abs(rest).max() < ROOT:
                return z, derivative
            try:
                z = z - np.linalg.solve(np.vstack([derivative, normal]), rest)
            except np.linalg.LinAlgError:
                return None
        return None

    def _at_edge(self, inside: np.ndarray, outside: np.ndarray) -> np.ndarray | None:
        """Where the curve crosses q = 0 or q = 1."""
        edge = 0.0 if outside[-1] < 0 else 1.0
        share = (edge - inside[-1]) / (outside[-1] - inside[-1])
        guess = inside + share * (outside - inside)
        guess[-1] = edge
        found = self.corrected(guess, np.append(np.zeros(len(inside) - 1), 1.0))
        return None if found is None else found[0]

    # ---- what changes on it -------------------------------------------------------------------------------------------
    def _points(self, rows: np.ndarray, derivatives: np.ndarray, values: np.ndarray) -> list[Point]:
        """Between which neighbours a test function changes its sign, and where it is nothing."""
        tangents = [_tangent(derivatives[0], np.append(np.zeros(rows.shape[1] - 1), 1.0))]
        for derivative in derivatives[1:]:
            tangents.append(_tangent(derivative, tangents[-1]))
        tests = [_tests(j, t, v) for j, t, v in zip(derivatives, tangents, values, strict=True)]
        out: list[Point] = []
        for k in range(len(rows) - 1):
            for which, kind in enumerate(("fold", "Hopf", "branch point")):
                if tests[k][which] * tests[k + 1][which] < 0:
                    point = self._located(rows[k], rows[k + 1], tangents[k], which, kind, tests[k][which])
                    out += [point] if point is not None else []
        return out

    def _located(
        self, a: np.ndarray, b: np.ndarray, tangent: np.ndarray, which: int, kind: str, at_a: float
    ) -> Point | None:
        """By halves: test functions are smooth, but not where eigenvalues meet."""
        low, high, chord = 0.0, 1.0, b - a
        normal = chord / np.linalg.norm(chord)
        z, derivative = b, None
        for _ in range(LOCATE):
            share = (low + high) / 2
            found = self.corrected(a + share * chord, normal)
            if found is None:
                break  # a branch point: the plane and the other branch do not part; the middle is as good
            z, derivative = found
            values = np.linalg.eigvals(derivative[:, :-1])
            if _tests(derivative, _tangent(derivative, tangent), values)[which] * at_a > 0:
                low = share
            else:
                high = share
        if kind != "Hopf":
            return Point(kind, z[:-1], float(z[-1]))
        if derivative is None:
            return None
        values = np.linalg.eigvals(derivative[:, :-1])
        pairs = [(abs(values[i] + values[j]), values[i]) for i in range(len(values)) for j in range(i)]
        frequency = abs(min(pairs, key=lambda pair: pair[0])[1].imag)
        # Of two real eigenvalues of opposite sign the sum passes 0 too: a neutral saddle, where nothing changes.
        return Point(kind, z[:-1], float(z[-1]), float(frequency)) if frequency > 1e-6 else None


def _tangent(derivative: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The direction in which f does not change, the way that `like` points."""
    tangent = np.linalg.svd(derivative)[2][-1]
    return tangent if tangent @ like >= 0 else -tangent


def _tests(derivative: np.ndarray, tangent: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """What changes its sign at a fold, a Hopf point, a branch point."""
    sums = [values[i] + values[j] for i in range(len(values)) for j in range(i)]
    hopf = float(np.prod(sums).real) if sums else 1.0
    return float(tangent[-1]), hopf, float(np.linalg.det(np.vstack([derivative, tangent])))
