"""The names of torchdiffeq's methods, the solvers they stand for, and the options each takes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from isocline.solvers import Solver

ADAPTIVE = frozenset(
    {"first_step", "safety", "ifactor", "dfactor", "max_num_steps", "dtype", "step_t", "jump_t", "norm", "min_step"}
    | {"max_step"}
)
FIXED = frozenset({"step_size", "grid_constructor", "interp", "perturb", "norm"})
IMPLICIT = FIXED | {"max_iters"}
EXPLICIT_ADAMS = FIXED | {"max_order", "max_iters"}
IMPLICIT_ADAMS = EXPLICIT_ADAMS | {"implicit"}
SCIPY = frozenset({"solver", "min_step", "max_step", "norm", "grid_points", "eps"})


@dataclass(frozen=True)
class Method:
    """One of torchdiffeq's methods.

    Attributes:
        name: torchdiffeq's.
        solver: name in `Solver.registry`.
        options: the keys it takes.
        nearest: what to use where the solver does not exist.
    """

    name: str
    solver: str
    options: frozenset[str]
    nearest: str = ""

    @property
    def adaptive(self) -> bool:
        """Whether it chooses its steps by an error estimate."""
        return self.options is ADAPTIVE

    @property
    def scipy(self) -> bool:
        """Whether SciPy does the work."""
        return self.options is SCIPY

    def make(self, options: Mapping[str, Any]) -> Solver:
        """The solver; looked up at every call, so that one registered later is found.

        Args:
            options: those that are settings of the solver itself are handed to it.

        Raises:
            NotImplementedError: where isocline has none for this name.
        """
        if self.solver not in Solver.registry:
            raise NotImplementedError(f"method={self.name!r} is not available in isocline yet; nearest: {self.nearest}")
        solver = Solver.registry[self.solver]
        own = {field.name for field in fields(solver)}
        return solver(**{key: value for key, value in options.items() if key in own})

    def check(self, options: Mapping[str, Any]) -> None:
        """Warns of the keys it does not take."""
        unexpected = {key: value for key, value in options.items() if key not in self.options}
        if unexpected:
            warnings.warn(
                f"{self.name}: Unexpected arguments {unexpected}; it takes {', '.join(sorted(self.options))}",
                stacklevel=4,
            )


_STIFF = "'scipy_solver' with options={'solver': 'Radau'}"
_SMOOTH = "'dopri8' (adaptive), or 'rk4' on the same grid"

METHODS = {
    method.name: method
    for method in (
        Method("dopri8", "dopri8", ADAPTIVE),
        Method("dopri5", "dopri5", ADAPTIVE),
        Method("tsit5", "tsit5", ADAPTIVE),
        Method("bosh3", "bosh3", ADAPTIVE),
        Method("fehlberg2", "fehlberg2", ADAPTIVE, "'adaptive_heun'"),
        Method("adaptive_heun", "adaptive_heun", ADAPTIVE, "'bosh3'"),
        Method("euler", "euler", FIXED),
        Method("midpoint", "midpoint", FIXED),
        Method("heun2", "heun", FIXED),
        Method("heun3", "heun3", FIXED, "'rk4'"),
        Method("rk4", "rk4_three_eighths", FIXED),
        Method("explicit_adams", "explicit_adams", EXPLICIT_ADAMS, _SMOOTH),
        Method("implicit_adams", "implicit_adams", IMPLICIT_ADAMS, _SMOOTH),
        Method("fixed_adams", "implicit_adams", IMPLICIT_ADAMS, _SMOOTH),
        Method("implicit_euler", "implicit_euler", IMPLICIT, _STIFF),
        Method("implicit_midpoint", "implicit_midpoint", IMPLICIT, _STIFF),
        Method("trapezoid", "trapezoid", IMPLICIT, _STIFF),
        Method("radauIIA3", "radau_iia3", IMPLICIT, _STIFF),
        Method("gl4", "gauss_legendre4", IMPLICIT, _STIFF),
        Method("radauIIA5", "radau_iia5", IMPLICIT, _STIFF),
        Method("gl6", "gauss_legendre6", IMPLICIT, _STIFF),
        Method("sdirk2", "sdirk2", IMPLICIT, _STIFF),
        Method("trbdf2", "trbdf2", IMPLICIT, _STIFF),
        Method("scipy_solver", "", SCIPY),
    )
}


def method_named(name: Any) -> Method:
    """The method of that name, 'dopri5' for None; ValueError listing all names."""
    if name is None:
        return METHODS["dopri5"]
    if name not in METHODS:
        raise ValueError(f"Invalid method {name!r}. Must be one of {', '.join(map(repr, METHODS))}")
    return METHODS[name]
