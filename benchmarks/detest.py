"""DETEST: the 25 non-stiff problems of Hull, Enright, Fellen and Sedgwick (1972), each over [0, 20].

They stay with the benchmark and out of `isocline.problems`: most are formulas made up to be integrated, with no name a
reader would look for, and no more than solvers are ever compared on them. Each formula is written once, for PyTorch and
NumPy alike (`xp`).

Source: T. E. Hull, W. H. Enright, B. M. Fellen, A. E. Sedgwick, "Comparing numerical methods for ordinary differential
equations", SIAM J. Numer. Anal. 9 (1972) 603–637; constants as in W. H. Enright, J. D. Pryce, "Two FORTRAN packages for
assessing initial value methods", ACM Trans. Math. Softw. 13 (1987) 1–27. In the second, E4 has 0.032 (a sky diver in
thousands of feet) and C5 the five outer planets in astronomical units and hundreds of days.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

STATES = json.loads(Path(__file__).with_name("detest.json").read_text())  # made by tests/references.py


@dataclass(frozen=True)
class Named:
    """A problem in both libraries.

    Attributes:
        name: for instance "A1".
        formula: `formula(xp, t, y)`, xp torch or numpy: an array (n,), or a sequence of its n components.
        start: y0.
        t0, t1: the interval.
        stiff: whether stiff solvers are compared on it.
    """

    name: str
    formula: Callable[[Any, Any, Any], Any]
    start: Sequence[float]
    t0: float = 0.0
    t1: float = 20.0
    stiff: bool = False

    @property
    def y0(self) -> np.ndarray:
        return np.array(self.start, dtype=np.float64)

    @cached_property
    def reference(self) -> np.ndarray:
        """y(t1), known to about the last digits of a float64."""
        return np.array(STATES[self.name])

    def numpy(self, t: Any, y: np.ndarray) -> np.ndarray:
        """f for SciPy and for extended precision."""
        slope = self.formula(np, t, y)
        return slope if isinstance(slope, np.ndarray) else np.stack(slope)

    def torch(self, t: Tensor, y: Tensor) -> Tensor:
        """f for PyTorch."""
        slope = self.formula(torch, t, y)
        return slope if isinstance(slope, Tensor) else torch.stack(tuple(slope))


# ---- A: single equations -----------------------------------------------------------------------------------------------
def a1(xp: Any, t: Any, y: Any) -> Any:
    return -y


def a2(xp: Any, t: Any, y: Any) -> Any:
    return -(y**3) / 2


def a3(xp: Any, t: Any, y: Any) -> Any:
    return y * xp.cos(t)


def a4(xp: Any, t: Any, y: Any) -> Any:
    return y / 4 * (1 - y / 20)


def a5(xp: Any, t: Any, y: Any) -> Any:
    return (y - t) / (y + t)


# ---- B: small systems --------------------------------------------------------------------------------------------------
def b1(xp: Any, t: Any, y: Any) -> Any:
    """Two populations in conflict."""
    met = y[0] * y[1]
    return 2 * (y[0] - met), met - y[1]


def b2(xp: Any, t: Any, y: Any) -> Any:
    """A linear chemical reaction."""
    return y[1] - y[0], y[0] - 2 * y[1] + y[2], y[1] - y[2]


def b3(xp: Any, t: Any, y: Any) -> Any:
    """A non-linear chemical reaction."""
    square = y[1] * y[1]
    return -y[0], y[0] - square, square


def b4(xp: Any, t: Any, y: Any) -> Any:
    """The integral surface of a torus."""
    r = xp.sqrt(y[0] ** 2 + y[1] ** 2)
    return -y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r


def b5(xp: Any, t: Any, y: Any) -> Any:
    """Euler's equations of a rigid body without forces."""
    return y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]


# ---- C: moderate systems -----------------------------------------------------------------------------------------------
def linear(matrix: list[list[float]], xp: Any, t: Any, y: Any) -> Any:
    return MATRICES[id(matrix), xp.__name__] @ y if xp is torch else MATRICES[id(matrix), "numpy"].astype(y.dtype) @ y


def band(below: Sequence[float], on: Sequence[float], above: Sequence[float]) -> list[list[float]]:
    """A tridiagonal matrix."""
    return (np.diag(below, -1) + np.diag(on) + np.diag(above, 1)).tolist()


chain = band([1.0] * 9, [-1.0] * 9 + [0.0], [0.0] * 9)  # a radioactive decay chain
decays = band([float(i) for i in range(1, 10)], [-float(i) for i in range(1, 10)] + [0.0], [0.0] * 9)
heat10, heat51 = (band([1.0] * (n - 1), [-2.0] * n, [1.0] * (n - 1)) for n in (10, 51))  # the parabolic equation
MATRICES = {
    (id(m), name): make(m)
    for m in (chain, decays, heat10, heat51)
    for name, make in (("numpy", np.array), ("torch", partial(torch.tensor, dtype=torch.float64)))
}

GRAVITY, SUN = 2.95912208286, 1.00000597682  # per (100 days)², with the inner planets
PLANETS = (0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778)


def c5(xp: Any, t: Any, y: Any) -> Any:
    """The outer planets about the sun, in its frame; positions of each planet, then velocities."""
    m = xp.asarray(np.array(PLANETS, dtype=y.dtype)) if xp is np else torch.tensor(PLANETS, dtype=y.dtype)
    x = y[:15].reshape(5, 3)
    r3 = (x**2).sum(-1) ** 1.5
    apart = x[None, :] - x[:, None]  # from j to k
    d3 = ((apart**2).sum(-1) + xp.eye(5, dtype=y.dtype)) ** 1.5  # a planet's pull on itself is 0/1
    direct = (m[None, :, None] * apart / d3[:, :, None]).sum(1)
    weighted = m[:, None] * x / r3[:, None]
    indirect = weighted.sum(0) - weighted  # of the others, through the sun
    pull = GRAVITY * (direct - indirect - (SUN + m)[:, None] * x / r3[:, None])
    return xp.concatenate((y[15:], pull.reshape(15)))


PLANET_STARTS = (
    *(3.42947415189, 3.35386959711, 1.35494901715, 6.64145542550, 5.97156957878, 2.18231499728),
    *(11.2630437207, 14.6952576794, 6.27960525067, -30.1552268759, 1.65699966404, 1.43785752721),
    *(-21.1238353380, 28.4465098142, 15.3882659679),
    *(-0.557160570446, 0.505696783289, 0.230578543901, -0.415570776342, 0.365682722812, 0.169143213293),
    *(-0.325325669158, 0.189706021964, 0.0877265322780, -0.0240476254170, -0.287659532608, -0.117219543175),
    *(-0.176860753121, -0.216393453025, -0.0148647893090),
)


# ---- D: orbits of eccentricity 0.1, 0.3 … 0.9 ------------------------------------------------------------------------
def orbit(xp: Any, t: Any, y: Any) -> Any:
    r3 = (y[0] ** 2 + y[1] ** 2) ** 1.5
    return y[2], y[3], -y[0] / r3, -y[1] / r3


def perihelion(e: float) -> tuple[float, ...]:
    return 1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))


# ---- E: equations of higher order --------------------------------------------------------------------------------------
def e1(xp: Any, t: Any, y: Any) -> Any:
    """Bessel's equation of order 1/2, its origin shifted by one."""
    return y[1], -(y[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y[0])


def e2(xp: Any, t: Any, y: Any) -> Any:
    """Van der Pol's equation."""
    return y[1], (1 - y[0] ** 2) * y[1] - y[0]


def e3(xp: Any, t: Any, y: Any) -> Any:
    """Duffing's equation."""
    return y[1], y[0] ** 3 / 6 - y[0] + 2 * xp.sin(2.78535 * t)


def e4(xp: Any, t: Any, y: Any) -> Any:
    """A falling body with friction."""
    return y[1], 0.032 - 0.4 * y[1] ** 2


def e5(xp: Any, t: Any, y: Any) -> Any:
    """Linear pursuit."""
    return y[1], xp.sqrt(1 + y[1] ** 2) / (25 - t)


first10, first51 = ([1.0] + [0.0] * (n - 1) for n in (10, 51))
DETEST = [
    Named("A1", a1, [1.0]),
    Named("A2", a2, [1.0]),
    Named("A3", a3, [1.0]),
    Named("A4", a4, [1.0]),
    Named("A5", a5, [4.0]),
    Named("B1", b1, [1.0, 3.0]),
    Named("B2", b2, [2.0, 0.0, 1.0]),
    Named("B3", b3, [1.0, 0.0, 0.0]),
    Named("B4", b4, [3.0, 0.0, 0.0]),
    Named("B5", b5, [0.0, 1.0, 1.0]),
    Named("C1", partial(linear, chain), first10),
    Named("C2", partial(linear, decays), first10),
    Named("C3", partial(linear, heat10), first10),
    Named("C4", partial(linear, heat51), first51),
    Named("C5", c5, PLANET_STARTS),
    *(Named(f"D{i + 1}", orbit, perihelion(0.1 + 0.2 * i)) for i in range(5)),
    Named("E1", e1, [0.6713967071418030, 0.09540051444747446]),
    Named("E2", e2, [2.0, 0.0]),
    Named("E3", e3, [0.0, 0.0]),
    Named("E4", e4, [30.0, 0.0]),
    Named("E5", e5, [0.0, 0.0]),
]
