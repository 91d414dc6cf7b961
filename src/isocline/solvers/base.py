"""What a solver is, and how its name is found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Solver:
    """One way to take a step. Subclasses are frozen dataclasses; making one registers its name in snake case.

    Attributes:
        order: order of the solution the step advances.
        error_order: order of its error estimate plus one, the exponent of the step controller; 0 without an estimate.
        dense_order: order of the interpolant between the ends of a step.
        wants_pair: whether its states are pairs (x, v).
        remembers: whether a step leaves more for the next than y and the slope there (`Remembering`).

    Example:
        >>> from isocline.solvers import Solver, Tsit5
        >>> Solver.named("tsit5") == Tsit5()
        True
    """

    registry: ClassVar[dict[str, type[Solver]]] = {}
    order: ClassVar[int] = 0
    error_order: ClassVar[int] = 0
    dense_order: ClassVar[int] = 0
    wants_pair: ClassVar[bool] = False
    remembers: ClassVar[bool] = False

    def __init_subclass__(cls, abstract: bool = False) -> None:
        super().__init_subclass__()
        if not abstract:
            Solver.registry[snake_case(cls.__name__)] = cls

    @staticmethod
    def named(name: str) -> Solver:
        """The solver of that name with its default settings; KeyError if there is none."""
        return Solver.registry[name]()


def snake_case(name: str) -> str:
    """`RadauIIA5` -> `radau_iia5`, `RK4ThreeEighths` -> `rk4_three_eighths`.

    Example:
        >>> snake_case("RK4ThreeEighths"), snake_case("RadauIIA5"), snake_case("GaussAdjoint")
        ('rk4_three_eighths', 'radau_iia5', 'gauss_adjoint')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
