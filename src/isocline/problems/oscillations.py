"""Oscillations that are not harmonic: Van der Pol, Lorenz, and the pendulum with its elliptic functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isocline.problems.problem import Constants, Problem, elapsed


class VanDerPol(Constants):
    """x′ = v, v′ = μ(1 − x²)v − x."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        (mu,) = self.like(y)
        x, v = y.unbind(-1)
        return torch.stack((v, mu * (1 - x**2) * v - x), -1)


def van_der_pol(mu: float = 1.0) -> Problem:
    """Van der Pol's oscillator x″ = μ(1 − x²)x′ − x: every orbit but the origin runs into one limit cycle.

    At μ = 1 the period is 6.663286859323130. The larger μ, the stiffer: the fast part of the cycle then lasts about
    1/μ, the slow one about (3 − 2 ln 2)μ, and an explicit solver is at its limit near μ = 100.

    Args:
        mu: μ ≥ 0, the damping; 0 gives the harmonic oscillator.

    Returns:
        The problem, from (2, 0) over 20 units of time, or over 2µ where that is longer: from µ = 10 on that holds the
        two jumps of one turn. It has a reference for μ = 1 and for μ = 1000.

    Source: B. van der Pol (1926); Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I (1993),
    section I.16.

    >>> van_der_pol(mu=5.0).field(torch.tensor(0.0), torch.tensor([2.0, 1.0]))
    tensor([  1., -17.])
    """
    return Problem(
        name="Van der Pol",
        field=VanDerPol(mu=mu),
        y0=torch.tensor([2.0, 0.0], dtype=torch.float64),
        t0=0.0,
        t1=max(20.0, 2 * mu),
        labels=("x", "v"),
        units=("", ""),
        reference=torch.tensor(VAN_DER_POL[mu], dtype=torch.float64) if mu in VAN_DER_POL else None,
        source="van der Pol (1926); Hairer, Nørsett and Wanner I (1993), section I.16",
    )


VAN_DER_POL = {
    1.0: [2.0081497621749427, -0.04250887527322118],
    1000.0: [1.706167732170465, -0.0008928097010248167],  # by tests/references.py
}


class Lorenz(Constants):
    """x′ = σ(y − x), y′ = x(ρ − z) − y, z′ = xy − βz."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        sigma, rho, beta = self.like(y)
        x, u, z = y.unbind(-1)
        return torch.stack((sigma * (u - x), x * (rho - z) - u, x * u - beta * z), -1)


def lorenz(sigma: float = 10.0, rho: float = 28.0, beta: float = 8.0 / 3.0) -> Problem:
    """Lorenz's equations, chaotic at the usual constants: errors grow by about e^(0.9 t).

    Two solvers of double precision therefore part after t ≈ 35 whatever their tolerances, and a gradient through a
    long solve is as large as it is useless. The reference is at t = 5, where the last digits can still be trusted.

    Args:
        sigma: σ, the Prandtl number.
        rho: ρ, the Rayleigh number in units of the critical one.
        beta: β, from the aspect ratio of the convection rolls.

    Returns:
        The problem, from (1, 1, 1) over [0, 5].

    Source: E. N. Lorenz, "Deterministic Nonperiodic Flow", J. Atmos. Sci. 20 (1963), equations 25–27.

    >>> r = 72**0.5  # √(β(ρ − 1)): the centres of the two wings
    >>> lorenz().field(torch.tensor(0.0), torch.tensor([r, r, 27.0])).abs().max() < 1e-4
    tensor(True)
    """
    usual = (sigma, rho, beta) == (10.0, 28.0, 8.0 / 3.0)
    return Problem(
        name="Lorenz",
        field=Lorenz(sigma=sigma, rho=rho, beta=beta),
        y0=torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64),
        t0=0.0,
        t1=5.0,
        labels=("x", "y", "z"),
        units=("", "", ""),
        reference=torch.tensor([-6.5121136994191495, -6.97404278841566, 23.924129572104242], dtype=torch.float64)
        if usual
        else None,
        source="Lorenz, J. Atmos. Sci. 20 (1963), equations 25–27",
    )


class Pendulum(Constants):
    """θ′ = ω, ω′ = −(g/l) sin θ."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        length, gravity = self.like(y)
        angle, speed = y.unbind(-1)
        return torch.stack((speed, -gravity / length * angle.sin()), -1)


def jacobi(u: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Jacobi's elliptic functions sn, cn, dn of u with modulus k, 0 ≤ k < 1, by descending Landen transformations.

    a, b = 1, √(1 − k²) are brought together by the arithmetic-geometric mean; the amplitude is then 2^N a_N u at the
    bottom and comes up by sin(2φ_(n−1) − φ_n) = (c_n/a_n) sin φ_n.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 16.4.

    >>> sn, cn, dn = jacobi(torch.tensor(0.5), torch.tensor(0.0))  # k = 0: sine, cosine and 1
    >>> torch.equal(dn, torch.tensor(1.0)), torch.isclose(sn, torch.tensor(0.5).sin())
    (True, tensor(True))
    """
    a, b = torch.ones_like(k), (1 - k**2).sqrt()
    ratios = []
    for _ in range(7):  # quadratic: 7 steps reach double precision for every 1 − k² above 1e-12
        a, b, c = (a + b) / 2, (a * b).sqrt(), (a - b) / 2
        ratios.append(c / a)
    phi = 2 ** len(ratios) * a * u
    for ratio in reversed(ratios):
        phi = (phi + torch.asin(ratio * phi.sin())) / 2
    sn = phi.sin()
    return sn, phi.cos(), (1 - (k * sn) ** 2).sqrt()


def pendulum_period(amplitude: float, length: float = 1.0, gravity: float = 9.81) -> float:
    """The period of a pendulum that swings up to ``amplitude`` (radians, 0 ≤ amplitude < π), in seconds.

    T = 2π√(l/g) / agm(1, cos(amplitude/2)): Gauss's formula 4K(k)√(l/g) with k = sin(amplitude/2).

    Source: Landau and Lifshitz, Mechanics (1976), section 11, problem 1; Abramowitz and Stegun (1964), 17.6.

    >>> round(pendulum_period(1.5) / pendulum_period(0.0), 4)
    1.162
    """
    a, b = 1.0, math.cos(amplitude / 2)
    for _ in range(8):
        a, b = (a + b) / 2, math.sqrt(a * b)
    return 2 * math.pi * math.sqrt(length / gravity) / a


def pendulum(length: float = 1.0, gravity: float = 9.81) -> Problem:
    """A mass on a stiff massless rod, θ″ = −(g/l) sin θ, with its closed form in Jacobi's elliptic functions.

    With ω₀ = √(g/l) and k² = sin²(θ₀/2) + (θ′₀/2ω₀)² < 1 (a swing, not a full turn),
    sin(θ/2) = k sn(ω₀τ + u₀) and θ′ = 2ω₀ k cn(ω₀τ + u₀). The addition theorems give both without u₀, since
    k sn u₀ = sin(θ₀/2), k cn u₀ = θ′₀/2ω₀ and dn u₀ = cos(θ₀/2). Energy per l²m, θ′²/2 − (g/l) cos θ, is the
    invariant.

    Args:
        length: l > 0, in m.
        gravity: g > 0, in m/s².

    Returns:
        The problem, from 1.5 rad at rest over 10 s. Its ``solution`` raises a ValueError for a state with |θ₀| > π
        or with the energy to go over the top.

    Source: Landau and Lifshitz, Mechanics (1976), section 11; Abramowitz and Stegun (1964), 16.17.

    >>> problem = pendulum()
    >>> half = torch.tensor(pendulum_period(1.5) / 2, dtype=torch.float64)
    >>> problem.solution(half, problem.y0, 0.0).round(decimals=6)
    tensor([-1.5000,  0.0000], dtype=torch.float64)
    """
    omega = math.sqrt(gravity / length)

    def solution(t: Tensor, y0: Tensor, t0: float) -> Tensor:
        angle, speed = y0.unbind(-1)
        s0, c0, d0 = torch.sin(angle / 2), speed / (2 * omega), torch.cos(angle / 2)
        k = torch.hypot(s0, c0)
        if bool((angle.abs() > math.pi).any()) or bool((k >= 1).any()):
            raise ValueError(
                f"the closed form of the pendulum covers swings, |angle| <= pi and k < 1; got y0={y0.tolist()} with "
                f"k={k.tolist()}: take the angle modulo 2 pi, start slower, or integrate the field"
            )
        s, c, d = jacobi(omega * elapsed(t, y0, t0), k)
        denominator = 1 - (s * s0) ** 2
        sine = (s0 * c * d + s * c0 * d0) / denominator
        cosine = (c0 * c - s0 * s * d * d0) / denominator
        return torch.stack((2 * torch.asin(sine.clamp(-1, 1)), 2 * omega * cosine), -1)

    def energy(y: Tensor) -> Tensor:
        angle, speed = y.unbind(-1)
        return 0.5 * speed**2 - gravity / length * angle.cos()

    return Problem(
        name="pendulum",
        field=Pendulum(length=length, gravity=gravity),
        y0=torch.tensor([1.5, 0.0], dtype=torch.float64),
        t0=0.0,
        t1=10.0,
        labels=("angle", "angular velocity"),
        units=("rad", "rad/s"),
        solution=solution,
        invariant=energy,
        source="Landau and Lifshitz, Mechanics (1976), section 11",
        time_unit="s",
    )
