"""Distributions in the plane on which flows are tried, each with its samples and its true density.

The eight of FFJORD's repository (`toy_data`), in its sizes, and the two circles of torchdiffeq's `cnf.py`. Where a set is
noise around a curve, the density is the mean of the noise's density over points of the curve, taken by the midpoint rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NODES = 1200  # points of a curve; their distance is far below the noise
ROWS = 2000  # points whose density is taken at a time


@dataclass(frozen=True)
class Plane:
    """A distribution in the plane.

    Attributes:
        sample: n -> (n, 2), from torch's global generator.
        density: (n, 2) float64 -> (n,).

    Example:
        >>> moons = SETS["moons"]
        >>> x = moons.sample(1000).double()
        >>> x.shape, bool((moons.log_prob(x) < 0.5).all())
        (torch.Size([1000, 2]), True)
    """

    sample: Callable[[int], Tensor]
    density: Callable[[Tensor], Tensor]

    def log_prob(self, x: Tensor) -> Tensor:
        """(..., 2) -> (...), float64."""
        flat = x.double().reshape(-1, 2)
        return torch.cat([self.density(part) for part in flat.split(ROWS)]).log().reshape(x.shape[:-1])

    def entropy(self, n: int = 20_000) -> float:
        """What a perfect model scores, by Monte Carlo from torch's global generator."""
        return -self.log_prob(self.sample(n)).mean().item()


# ---- noise around curves ------------------------------------------------------------------------------------------
def around(curve: Callable[[Tensor], Tensor], noise: float) -> Plane:
    """`curve`: (n,) uniform numbers -> (n, 2) points; the noise is normal."""

    def sample(n: int) -> Tensor:
        return curve(torch.rand(n)) + noise * torch.randn(n, 2)

    centres = curve((torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES)

    def density(x: Tensor) -> Tensor:
        squares = torch.cdist(x, centres.to(x)).square() / noise**2
        return torch.exp(-0.5 * squares).mean(1) / (2 * math.pi * noise**2)

    return Plane(sample, density)


def turn(angle: Tensor, radius: Tensor | float = 1.0) -> Tensor:
    """Polar to Cartesian, (n,) -> (n, 2)."""
    return torch.stack([angle.cos(), angle.sin()], -1) * torch.as_tensor(radius, dtype=angle.dtype).unsqueeze(-1)


def choose(u: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """A uniform number as one of `count` choices, and another uniform number."""
    which = (u * count).floor().clamp(max=count - 1)
    return which, u * count - which


def swissroll(u: Tensor) -> Tensor:
    angle = 1.5 * math.pi * (1 + 2 * u)
    return turn(angle, angle) / 5


def moons(u: Tensor) -> Tensor:
    """Two half circles, the second upside down."""
    which, v = choose(u, 2)
    up = turn(math.pi * v)
    down = torch.tensor([1.0, 0.5], dtype=u.dtype) - up
    return torch.where(which[:, None] == 0, up, down) * 2 - torch.tensor([1.0, 0.2], dtype=u.dtype)


def rings(radii: Sequence[float], noise: float) -> Plane:
    """Circles around the origin, each as likely as the others: in closed form with the Bessel function I₀."""
    sizes = torch.tensor(radii, dtype=torch.float64)

    def sample(n: int) -> Tensor:
        radius = sizes.float()[torch.randint(len(radii), (n,))]
        return turn(2 * math.pi * torch.rand(n), radius) + noise * torch.randn(n, 2)

    def density(x: Tensor) -> Tensor:
        r = x.norm(dim=1, keepdim=True)
        a = torch.exp(-0.5 * ((r - sizes) / noise) ** 2) * torch.special.i0e(r * sizes / noise**2)
        return a.mean(1) / (2 * math.pi * noise**2)

    return Plane(sample, density)


# ---- the others ---------------------------------------------------------------------------------------------------
def gaussians() -> Plane:
    """Eight normals on a circle."""
    scale = 1 / 1.414
    centres, noise = turn(torch.arange(8, dtype=torch.float64) * math.pi / 4, 4 * scale), 0.5 * scale

    def sample(n: int) -> Tensor:
        return centres.float()[torch.randint(8, (n,))] + noise * torch.randn(n, 2)

    def density(x: Tensor) -> Tensor:
        squares = torch.cdist(x, centres).square() / noise**2
        return torch.exp(-0.5 * squares).mean(1) / (2 * math.pi * noise**2)

    return Plane(sample, density)


def checkerboard() -> Plane:
    """Eight squares of side 2, uniform: the entropy is ln 32."""

    def sample(n: int) -> Tensor:
        x = 4 * torch.rand(n) - 2
        y = torch.rand(n) - 2 * torch.randint(2, (n,)) + x.floor() % 2
        return 2 * torch.stack([x, y], -1)

    def density(x: Tensor) -> Tensor:
        column, row = (x / 2).floor().unbind(1)
        on = ((column + row) % 2 == 0) & (x.abs() < 4).all(1)
        return on.to(x.dtype) / 32

    return Plane(sample, density)


def spirals() -> Plane:
    """Two arms; the noise is normal plus a uniform number in [0, 1/6] on each axis (negative on the second arm)."""
    noise, width = 0.1, 0.5 / 3

    def arm(u: Tensor) -> Tensor:
        n = u.sqrt() * 3 * math.pi
        return torch.stack([-n.cos() * n, n.sin() * n], -1) / 3

    def sample(n: int) -> Tensor:
        sign = 1 - 2 * torch.randint(2, (n, 1))
        return sign * (arm(torch.rand(n)) + width * torch.rand(n, 2)) + noise * torch.randn(n, 2)

    centres = arm((torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES)

    def of_arm(x: Tensor) -> Tensor:
        beyond = (x[:, None] - centres.to(x)) / noise
        axis = (torch.special.ndtr(beyond) - torch.special.ndtr(beyond - width / noise)) / width
        return axis.prod(-1).mean(1)

    return Plane(sample, lambda x: 0.5 * (of_arm(x) + of_arm(-x)))


def pinwheel() -> Plane:
    """Five blades: (a, b) normal around (1, 0), turned by an angle that grows with a, and doubled.

    The map from (a, b) to the plane has the Jacobian determinant 4 (1 - b r eᵃ), r = 1/4. Its preimages of a point at
    distance 2ρ and angle θ are the ψ with ψ + r exp(ρ cos ψ) = θ modulo 2π/5: found between the nodes of a grid.
    """
    radial, tangential, rate, blades = 0.3, 0.1, 0.25, 5
    apart = 2 * math.pi / blades

    def sample(n: int) -> Tensor:
        a, b = 1 + radial * torch.randn(n), tangential * torch.randn(n)
        angle = apart * torch.randint(blades, (n,)) + rate * a.exp() + torch.atan2(b, a)
        return 2 * turn(angle, torch.sqrt(a * a + b * b))

    nodes = torch.linspace(-math.pi, math.pi, NODES + 1, dtype=torch.float64)

    def density(x: Tensor) -> Tensor:
        rho, theta = x.norm(dim=1, keepdim=True) / 2, torch.atan2(x[:, 1:], x[:, :1])
        turns = (nodes + rate * torch.exp(rho * nodes.cos()) - theta) / apart
        low, high = turns[:, :-1], turns[:, 1:]
        crossed = torch.maximum(low, high).floor()
        found = crossed > torch.minimum(low, high).floor()
        part = torch.where(found, (crossed - low) / (high - low), 0.0)
        psi = nodes[:-1] + part * (nodes[1] - nodes[0])
        a, b = rho * psi.cos(), rho * psi.sin()
        p = torch.exp(-0.5 * ((a - 1) / radial) ** 2 - 0.5 * (b / tangential) ** 2) / (
            2 * math.pi * radial * tangential
        )
        p = p / (4 * (1 - b * rate * a.exp()).abs())
        return torch.where(found, p, 0.0).sum(1) / blades

    return Plane(sample, density)


SETS: dict[str, Plane] = {
    "swissroll": around(swissroll, 1 / 5),
    "circles": rings((3.0, 1.5), 0.24),
    "rings": rings((3.0, 2.25, 1.5, 0.75), 0.08),
    "moons": around(moons, 0.2),
    "8gaussians": gaussians(),
    "pinwheel": pinwheel(),
    "2spirals": spirals(),
    "checkerboard": checkerboard(),
}
TWO_CIRCLES = rings((1.0, 0.5), 0.06)  # of torchdiffeq's cnf.py
