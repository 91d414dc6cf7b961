"""Linear systems: the harmonic oscillator and the linear spiral, both with closed forms."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from isocline.problems.problem import Problem, elapsed


class _Linear(nn.Module):
    def __init__(self, matrix: list[list[float]]):
        super().__init__()
        self.register_buffer("matrix", torch.tensor(matrix, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix.to(y).mT


def harmonic_oscillator(mass: float = 1.0, stiffness: float = 1.0) -> Problem:
    """A mass on a spring, m x″ = −k x, as two equations of first order: x′ = v, v′ = −(k/m) x.

    With ω = √(k/m), x(t) = x₀ cos ωτ + (v₀/ω) sin ωτ and v(t) = v₀ cos ωτ − ω x₀ sin ωτ, τ = t − t₀. The energy
    m v²/2 + k x²/2 is the invariant.

    Args:
        mass: m > 0, in kg.
        stiffness: k > 0, in N/m.

    Returns:
        The problem; from x = 1 m at rest over two periods.

    Raises:
        ValueError: m or k is not positive.

    Source: any textbook of mechanics, e.g. Landau and Lifshitz, Mechanics (1976), section 21.

    >>> oscillator = harmonic_oscillator()
    >>> half_period = torch.tensor(torch.pi)
    >>> oscillator.solution(half_period, oscillator.y0, 0.0).round(decimals=6)
    tensor([-1.,  0.], dtype=torch.float64)
    """
    if not (mass > 0 and stiffness > 0):
        raise ValueError(
            f"mass and stiffness must be positive, got mass={mass!r}, stiffness={stiffness!r}: "
            "without a restoring force there is no oscillation"
        )
    omega = math.sqrt(stiffness / mass)

    def solution(t: Tensor, y0: Tensor, t0: float) -> Tensor:
        angle = omega * elapsed(t, y0, t0)
        x, v = y0.unbind(-1)
        cos, sin = angle.cos(), angle.sin()
        return torch.stack((x * cos + v / omega * sin, v * cos - omega * x * sin), -1)

    def energy(y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return 0.5 * (mass * v**2 + stiffness * x**2)

    return Problem(
        name="harmonic oscillator",
        field=_Linear([[0.0, 1.0], [-stiffness / mass, 0.0]]),
        y0=torch.tensor([1.0, 0.0], dtype=torch.float64),
        t0=0.0,
        t1=4.0 * math.pi / omega,
        labels=("position", "velocity"),
        units=("m", "m/s"),
        solution=solution,
        invariant=energy,
        source="Landau and Lifshitz, Mechanics (1976), section 21",
        time_unit="s",
    )


def linear_spiral(decay: float = 0.1, frequency: float = 1.0) -> Problem:
    """The linear spiral dy/dt = A y, A = [[−a, −ω], [ω, −a]]: a rotation by ω(t − t₀), shrunk by e^(−a(t − t₀)).

    Made with Euler's method at h ≈ 0.04, as the tutorials do, the "data" obey another matrix, (e^(hA) is replaced by
    1 + hA; at h = 0.0395 the decay becomes 0.080 and the frequency 1.003), and a learner with a good solver finds
    that one. Take the closed form.

    Args:
        decay: a, per unit of time; negative for a spiral that grows.
        frequency: ω in radians per unit of time.

    Returns:
        The problem, from (0.6, 0.3) over five turns at the usual frequency.

    Source: M. Surtsukov, "Neural Ordinary Differential Equations" (2019), first example.

    >>> spiral = linear_spiral(decay=0.0)
    >>> spiral.solution(torch.tensor(torch.pi / 2), torch.tensor([1.0, 0.0]), 0.0).round(decimals=6)
    tensor([-0., 1.])
    """

    def solution(t: Tensor, y0: Tensor, t0: float) -> Tensor:
        tau = elapsed(t, y0, t0)
        shrink, cos, sin = torch.exp(-decay * tau), torch.cos(frequency * tau), torch.sin(frequency * tau)
        x, y = y0.unbind(-1)
        return torch.stack((shrink * (x * cos - y * sin), shrink * (x * sin + y * cos)), -1)

    return Problem(
        name="linear spiral",
        field=_Linear([[-decay, -frequency], [frequency, -decay]]),
        y0=torch.tensor([0.6, 0.3], dtype=torch.float64),
        t0=0.0,
        t1=31.45,
        labels=("x", "y"),
        units=("", ""),
        solution=solution,
        source='M. Surtsukov, "Neural Ordinary Differential Equations" (2019)',
    )
