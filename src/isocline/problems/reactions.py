"""Chemical reactions: two stiff ones, Robertson's and HIRES, and the Brusselator's limit cycle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.problems.problem import Constants, Problem


class Reaction(Constants):
    """A field given by `rates(y, *constants)`, the derivatives of the components in plain arithmetic."""

    @staticmethod
    def rates(y: Any, *constants: Any) -> Sequence[Any]:
        raise NotImplementedError

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.stack(tuple(self.rates(y.unbind(-1), *self.like(y))), -1)


class Robertson(Reaction):
    """a′ = −k₁a + k₃bc, b′ = k₁a − k₂b² − k₃bc, c′ = k₂b²."""

    @staticmethod
    def rates(y: Any, *constants: Any) -> Sequence[Any]:
        (a, b, c), (k1, k2, k3) = y, constants
        slow, fast, back = k1 * a, k2 * b * b, k3 * b * c
        return back - slow, slow - fast - back, fast


def robertson(k1: float = 0.04, k2: float = 3e7, k3: float = 1e4) -> Problem:
    """Robertson's autocatalytic reaction A → B, 2B → B + C, B + C → A + C: the classical stiff problem.

    The rate constants differ by nine powers of ten, and what happens is spread over eleven decades of time. a + b + c is
    kept. Below b ≈ −1e-9 the exact flow itself runs away, so an absolute tolerance must resolve b, which ends near 1e-13.

    Args:
        k1: rate of A → B, 1/s.
        k2: rate of 2B → B + C.
        k3: rate of B + C → A + C.

    Returns:
        The problem, from A alone, over [0, 1e11].

    Source: H. H. Robertson, in Numerical Analysis: An Introduction, ed. J. Walsh (1966); F. Mazzia and C. Magherini,
    Test Set for Initial Value Problem Solvers, release 2.4 (2008), ROBER.

    >>> robertson().field(torch.tensor(0.0), torch.tensor([1.0, 0.0, 0.0]))
    tensor([-0.0400,  0.0400,  0.0000])
    """
    return Problem(
        name="Robertson",
        field=Robertson(k1=k1, k2=k2, k3=k3),
        y0=torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
        t0=0.0,
        t1=1e11,
        labels=("a", "b", "c"),
        units=("", "", ""),
        invariant=lambda y: y.sum(-1),
        reference=torch.tensor(ROBERTSON, dtype=torch.float64) if (k1, k2, k3) == (0.04, 3e7, 1e4) else None,
        source="Robertson (1966); Mazzia and Magherini, Test Set for IVP Solvers (2008), ROBER",
        time_unit="s",
    )


class Hires(Reaction):
    """Eight linear rates and one product, 280 y₆y₈."""

    @staticmethod
    def rates(y: Any, *constants: Any) -> Sequence[Any]:
        y1, y2, y3, y4, y5, y6, y7, y8 = y
        bound = 280.0 * y6 * y8
        return (
            -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007,
            1.71 * y1 - 8.75 * y2,
            -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
            8.32 * y2 + 1.71 * y3 - 1.12 * y4,
            -1.745 * y5 + 0.43 * y6 + 0.43 * y7,
            -bound + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7,
            bound - 1.81 * y7,
            1.81 * y7 - bound,
        )


def hires() -> Problem:
    """HIRES, the high irradiance response of plants by phytochrome: eight reactants, moderately stiff.

    y₇ + y₈ is kept: the enzyme, bound and free.

    Returns:
        The problem, over [0, 321.8122].

    Source: E. Schäfer, J. Math. Biol. 2 (1975) 41–56; Hairer and Wanner, Solving Ordinary Differential Equations II
    (1996), section IV.10, eq. 10.4.

    >>> problem = hires()
    >>> problem.invariant(problem.y0)
    tensor(0.0057, dtype=torch.float64)
    """
    return Problem(
        name="HIRES",
        field=Hires(),
        y0=torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0.0057], dtype=torch.float64),
        t0=0.0,
        t1=321.8122,
        labels=tuple(f"y{i}" for i in range(1, 9)),
        units=("",) * 8,
        invariant=lambda y: y[..., 6] + y[..., 7],
        reference=torch.tensor(HIRES, dtype=torch.float64),
        source="Schäfer, J. Math. Biol. 2 (1975); Hairer and Wanner II (1996), eq. IV.10.4",
    )


class Brusselator(Reaction):
    """x′ = A + x²y − (B + 1)x, y′ = Bx − x²y."""

    @staticmethod
    def rates(y: Any, *constants: Any) -> Sequence[Any]:
        (x, z), (a, b) = y, constants
        made = x * x * z
        return a + made - (b + 1) * x, b * x - made


def brusselator(a: float = 1.0, b: float = 3.0) -> Problem:
    """The Brusselator: for B > A² + 1 every orbit but the equilibrium (A, B/A) runs into one limit cycle.

    Args:
        a: A > 0, the inflow.
        b: B > 0, the second reactant held constant.

    Returns:
        The problem, from (1.5, 3) over 20 units of time, about three turns.

    Source: R. Lefever and G. Nicolis, J. Theor. Biol. 30 (1971); Hairer, Nørsett and Wanner, Solving Ordinary
    Differential Equations I (1993), eq. I.16.12 and section II.4.

    >>> brusselator().field(torch.tensor(0.0), torch.tensor([1.0, 3.0])).tolist()  # the equilibrium
    [0.0, 0.0]
    """
    return Problem(
        name="Brusselator",
        field=Brusselator(a=a, b=b),
        y0=torch.tensor([1.5, 3.0], dtype=torch.float64),
        t0=0.0,
        t1=20.0,
        labels=("x", "y"),
        units=("", ""),
        reference=torch.tensor(BRUSSELATOR, dtype=torch.float64) if (a, b) == (1.0, 3.0) else None,
        source="Lefever and Nicolis (1971); Hairer, Nørsett and Wanner I (1993), eq. I.16.12",
    )


# Made by tests/references.py.
ROBERTSON = [2.0833401497039705e-08, 8.33336077034549e-14, 0.9999999791665152]
HIRES = [
    0.0007371312573325542,
    0.00014424857263161596,
    5.888729740967339e-05,
    0.0011756513432831254,
    0.002386356198830949,
    0.0062389682527415995,
    0.002849998395185501,
    0.0028500016048144993,
]
BRUSSELATOR = [0.49863707126834783, 4.596780349452011]
