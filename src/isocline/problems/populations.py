"""Populations: predator and prey, and an epidemic."""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.problems.problem import Constants, Problem


class LotkaVolterra(Constants):
    """x′ = αx − βxy, y′ = δxy − γy."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        alpha, beta, gamma, delta = self.like(y)
        prey, predator = y.unbind(-1)
        met = prey * predator
        return torch.stack((alpha * prey - beta * met, delta * met - gamma * predator), -1)


def lotka_volterra(alpha: float = 0.55, beta: float = 0.028, gamma: float = 0.80, delta: float = 0.024) -> Problem:
    """Predator and prey: x′ = αx − βxy (hares), y′ = δxy − γy (lynxes).

    Every orbit is closed: V = δx − γ ln x + βy − α ln y is kept. The usual constants are near those that fit the
    Hudson's Bay Company's pelts of 1900–1920, in thousands and years; the cycle then lasts about 10 years.

    Args:
        alpha: growth rate of the prey, 1/year.
        beta: prey lost per prey and predator, 1/(thousand·year).
        gamma: death rate of the predators, 1/year.
        delta: predators gained per prey and predator, 1/(thousand·year).

    Returns:
        The problem, from 34 thousand hares and 5.9 thousand lynxes over 20 years.

    Source: A. J. Lotka (1925), V. Volterra (1926); constants after B. Carpenter, "Predator-Prey Population
    Dynamics", Stan case study (2018).

    >>> problem = lotka_volterra()
    >>> equilibrium = torch.tensor([0.80 / 0.024, 0.55 / 0.028], dtype=torch.float64)
    >>> problem.field(torch.tensor(0.0), equilibrium).abs().max() < 1e-14
    tensor(True)
    """
    field = LotkaVolterra(alpha=alpha, beta=beta, gamma=gamma, delta=delta)

    def conserved(y: Tensor) -> Tensor:
        prey, predator = y.unbind(-1)
        return delta * prey - gamma * prey.log() + beta * predator - alpha * predator.log()

    usual = (alpha, beta, gamma, delta) == (0.55, 0.028, 0.80, 0.024)
    return Problem(
        name="Lotka–Volterra",
        field=field,
        y0=torch.tensor([34.0, 5.9], dtype=torch.float64),
        t0=0.0,
        t1=20.0,
        labels=("hares", "lynxes"),
        units=("thousand", "thousand"),
        invariant=conserved,
        reference=torch.tensor([30.202924135382567, 5.955687355607958], dtype=torch.float64) if usual else None,
        source="Lotka (1925), Volterra (1926); constants after Carpenter (2018)",
        time_unit="year",
    )


class SIR(Constants):
    """S′ = −βSI/N, I′ = βSI/N − γI, R′ = γI."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        beta, gamma, population = self.like(y)
        susceptible, infected, _ = y.unbind(-1)
        infections = beta / population * susceptible * infected
        recoveries = gamma * infected
        return torch.stack((-infections, infections - recoveries, recoveries), -1)


def sir(beta: float = 1.66, gamma: float = 0.44, population: float = 763.0) -> Problem:
    """An epidemic in a closed population: S′ = −βSI/N, I′ = βSI/N − γI, R′ = γI.

    S + I + R = N is kept, and so is S + I − (γN/β) ln S, the invariant; from it follows how many are never infected
    (`sir_final_size`). The usual constants describe influenza in an English boarding school in January 1978: one
    case, 763 boys, two weeks.

    Args:
        beta: infections caused by one case among susceptibles only, 1/day.
        gamma: recovery rate, 1/day; R₀ = β/γ.
        population: N, persons.

    Returns:
        The problem, from one infected person over 14 days.

    Source: W. O. Kermack and A. G. McKendrick (1927); constants from J. D. Murray, Mathematical Biology I (2002),
    section 10.2.

    >>> problem = sir()
    >>> problem.field(torch.tensor(0.0), problem.y0).sum().abs() < 1e-14
    tensor(True)
    """

    def conserved(y: Tensor) -> Tensor:
        susceptible, infected, _ = y.unbind(-1)
        return susceptible + infected - gamma * population / beta * susceptible.log()

    usual = (beta, gamma, population) == (1.66, 0.44, 763.0)
    return Problem(
        name="SIR",
        field=SIR(beta=beta, gamma=gamma, population=population),
        y0=torch.tensor([population - 1.0, 1.0, 0.0], dtype=torch.float64),
        t0=0.0,
        t1=14.0,
        labels=("susceptible", "infected", "recovered"),
        units=("persons", "persons", "persons"),
        invariant=conserved,
        reference=torch.tensor([22.21869724713029, 25.856987142210894, 714.9243156106587], dtype=torch.float64)
        if usual
        else None,
        source="Kermack and McKendrick (1927); constants from Murray (2002), section 10.2",
        time_unit="day",
    )


def sir_final_size(y0: Tensor, beta: float = 1.66, gamma: float = 0.44, population: float = 763.0) -> Tensor:
    """How many stay susceptible when the epidemic of `sir` is over.

    The smaller root of S = S₀ exp(−(β/γN)(S₀ + I₀ − S)): the invariant of `sir` at t = ∞, where I = 0.

    Args:
        y0: any state of the epidemic with I > 0, shape (..., 3).
        beta, gamma, population: as in `sir`.

    Returns:
        S(∞), shape (...), in y0's dtype.

    Source: Kermack and McKendrick (1927).

    >>> int(sir_final_size(sir().y0))
    19
    """
    susceptible, infected, _ = y0.unbind(-1)
    rate = beta / (gamma * population)
    # Newton from 0: exp(...) − s is convex and positive there, so the steps climb to the smaller root, never past it.
    s = torch.zeros_like(susceptible)
    for _ in range(60):
        attack = susceptible * torch.exp(-rate * (susceptible + infected - s))
        s = s + (attack - s) / (1 - rate * attack)
    return s
