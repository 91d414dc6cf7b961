"""Celestial mechanics: Arenstorf's periodic orbit and the seven stars of Pleiades, whose close encounters ask for small
steps that change quickly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isocline.problems.problem import Constants, Problem


class ThreeBodies(Constants):
    """The restricted three-body problem in rotating coordinates: x, y, x′, y′ of a body without mass."""

    @staticmethod
    def rates(y: Any, *constants: Any) -> Sequence[Any]:
        """In plain arithmetic. The masses 1 − µ and µ rest at (−µ, 0) and (1 − µ, 0)."""
        (x, z, u, v), (mu,) = y, constants
        rest = 1 - mu
        first = ((x + mu) ** 2 + z**2) ** 1.5
        second = ((x - rest) ** 2 + z**2) ** 1.5
        return (
            u,
            v,
            x + 2 * v - rest * (x + mu) / first - mu * (x - rest) / second,
            z - 2 * u - rest * z / first - mu * z / second,
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.stack(tuple(self.rates(y.unbind(-1), *self.like(y))), -1)


def arenstorf(mu: float = 0.012277471) -> Problem:
    """Arenstorf's orbit: a satellite round Earth and Moon in four loops, back where it started after one period.

    It starts close to the Moon, where an error is amplified about a million times in one turn.

    Args:
        mu: µ, the Moon's share of the mass; the orbit is periodic for the usual one.

    Returns:
        The problem over one period. Its invariant is Jacobi's integral.

    Source: R. F. Arenstorf, Am. J. Math. 85 (1963) 27–35; Hairer, Nørsett and Wanner, Solving Ordinary Differential
    Equations I (1993), eq. II.0.1.

    >>> problem = arenstorf()
    >>> bool((problem.reference - problem.y0).abs().max() < 1e-8)  # closed, up to the digits it is given with
    True
    """

    def jacobi_integral(y: Tensor) -> Tensor:
        x, z, u, v = y.unbind(-1)
        first, second = torch.hypot(x + mu, z), torch.hypot(x - (1 - mu), z)
        return x**2 + z**2 + 2 * (1 - mu) / first + 2 * mu / second - u**2 - v**2

    return Problem(
        name="Arenstorf orbit",
        field=ThreeBodies(mu=mu),
        y0=torch.tensor([0.994, 0.0, 0.0, -2.00158510637908252240537862224], dtype=torch.float64),
        t0=0.0,
        t1=17.0652165601579625588917206249,
        labels=("x", "y", "x′", "y′"),
        units=("", "", "", ""),
        invariant=jacobi_integral,
        reference=torch.tensor(ARENSTORF, dtype=torch.float64) if mu == 0.012277471 else None,
        source="Arenstorf (1963); Hairer, Nørsett and Wanner I (1993), eq. II.0.1",
    )


class Stars(nn.Module):
    """xᵢ″ = Σⱼ mⱼ(xⱼ − xᵢ)/rᵢⱼ³ and the same for y, masses 1 … 7; the state is x, y, x′, y′, seven numbers each."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("masses", torch.arange(1.0, 8.0, dtype=torch.float64))
        self.register_buffer("itself", torch.eye(7, dtype=torch.float64))

    @staticmethod
    def rates(y: Any, masses: Any, itself: Any) -> Sequence[Any]:
        """The four blocks of the derivative, in arithmetic that arrays of any kind have. y: (..., 28)."""
        x, z, u, v = (y[..., 7 * i : 7 * i + 7] for i in range(4))
        dx, dz = (p[..., None, :] - p[..., :, None] for p in (x, z))
        weight = masses / (dx**2 + dz**2 + itself) ** 1.5  # a star's pull on itself is 0/1
        return u, v, (weight * dx).sum(-1), (weight * dz).sum(-1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cat(tuple(self.rates(y, self.masses.to(y), self.itself.to(y))), -1)


def pleiades() -> Problem:
    """Seven stars in a plane with masses 1 to 7: by t = 3 there have been several close encounters.

    Energy and both momenta are kept; the energy is the invariant.

    Returns:
        The problem over [0, 3].

    Source: Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I (1993), section II.10, PLEI.

    >>> problem = pleiades()
    >>> problem.y0.shape, problem.field(torch.tensor(0.0), problem.y0).shape
    (torch.Size([28]), torch.Size([28]))
    """
    masses = torch.arange(1.0, 8.0, dtype=torch.float64)

    def energy(y: Tensor) -> Tensor:
        m = masses.to(y)
        x, z, u, v = y.unflatten(-1, (4, 7)).unbind(-2)
        i, j = torch.triu_indices(7, 7, 1, device=y.device)
        distance = torch.hypot(x[..., i] - x[..., j], z[..., i] - z[..., j])
        return 0.5 * (m * (u**2 + v**2)).sum(-1) - (m[i] * m[j] / distance).sum(-1)

    x, y = [3.0, 3, -1, -3, 2, -2, 2], [3.0, -3, 2, 0, 0, -4, 4]
    u, v = [0.0, 0, 0, 0, 0, 1.75, -1.5], [0.0, 0, 0, -1.25, 1, 0, 0]
    return Problem(
        name="Pleiades",
        field=Stars(),
        y0=torch.tensor([*x, *y, *u, *v], dtype=torch.float64),
        t0=0.0,
        t1=3.0,
        labels=tuple(f"{name}{i}" for name in ("x", "y", "x′", "y′") for i in range(1, 8)),
        units=("",) * 28,
        invariant=energy,
        reference=torch.tensor(PLEIADES, dtype=torch.float64),
        source="Hairer, Nørsett and Wanner I (1993), section II.10, PLEI",
    )


# Made by tests/references.py.
ARENSTORF = [0.9939999999999102, -2.987903437012745e-13, -4.85850901001182e-11, -2.0015851063930645]
PLEIADES = [
    0.3706139143970473,
    3.237284092057233,
    -3.222559032418324,
    0.6597091455775312,
    0.34255817071565825,
    1.5621721014006311,
    -0.7003092922212493,
    -3.943437585517392,
    -3.27138097397255,
    5.225081843456542,
    -2.5906124349774697,
    1.1982136933922751,
    -0.24296823449358237,
    1.0914492404289802,
    3.417003806314307,
    1.3545845016255014,
    -2.590065597810775,
    2.0250537347142425,
    -1.155815100160449,
    -0.8072988170223019,
    0.5952396354208717,
    -3.7412449612340124,
    0.3773459685750629,
    0.9386858869551065,
    0.3667922227200575,
    -0.34740463538084876,
    2.344915448180937,
    -1.9470204342632915,
]
