"""The names of torchdiffeq's methods, the solvers they stand for, and the options each takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from isocline.solvers import Solver
from isocline.solvers.adams_bashforth import AdamsBashforth
from isocline.solvers.adams_moulton import AdamsMoulton
from isocline.solvers.rk4_three_eighths import RK4ThreeEighths

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
        settings: makes the solver from the options, where their names are not those of its own settings.
    """

    name: str
    solver: str
    options: frozenset[str]
    settings: Callable[[Mapping[str, Any]], Solver] | None = None

    @property
    def adaptive(self) -> bool:
        """Whether it chooses its steps by an error estimate."""
        return self.options is ADAPTIVE

    @property
    def scipy(self) -> bool:
        """Whether SciPy does the work."""
        return self.options is SCIPY

    def make(self, options: Mapping[str, Any]) -> Solver:
        """The solver.

        Args:
            options: those that are settings of the solver itself are handed to it.

        Raises:
            ValueError: naming an option out of range.
        """
        solver = Solver.registry[self.solver]
        if self.settings is not None:
            return self.settings(options)
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


def explicit_adams(options: Mapping[str, Any]) -> Solver:
    """As torchdiffeq counts, `max_order` − 1 slopes of the past; with fewer than three it is "rk4" there too.

    Its default of 12 is not taken over: with eleven slopes steps of a hundredth of the time scale are unstable.
    """
    order = _max_order(options, 10)
    return AdamsBashforth(order=order - 1, start=min(4, order - 1)) if order > 3 else RK4ThreeEighths()


def implicit_adams(options: Mapping[str, Any]) -> Solver:
    """Corrected twice, as often as its iteration usually goes on there, or `max_iters` times where that is less."""
    if not options.get("implicit", True):
        return explicit_adams(options)
    order, iterations = _max_order(options, 12), int(options.get("max_iters", 4))
    if iterations < 1:
        raise ValueError(f"max_iters={iterations}, expected at least 1")
    return AdamsMoulton(order=order, start=4, corrections=min(2, iterations)) if order > 3 else RK4ThreeEighths()


def _max_order(options: Mapping[str, Any], default: int) -> int:
    order = int(options.get("max_order", default))
    if not 1 <= order <= 12:
        raise ValueError(f"max_order={order}, expected at most 12 and at least 1")
    if order < 4:
        warnings.warn(f"max_order={order} is below 4, so the solver reduces to `rk4`", stacklevel=5)
    return order


METHODS = {
    method.name: method
    for method in (
        Method("dopri8", "dopri8", ADAPTIVE),
        Method("dopri5", "dopri5", ADAPTIVE),
        Method("tsit5", "tsit5", ADAPTIVE),
        Method("bosh3", "bosh3", ADAPTIVE),
        Method("fehlberg2", "fehlberg2", ADAPTIVE),
        Method("adaptive_heun", "adaptive_heun", ADAPTIVE),
        Method("euler", "euler", FIXED),
        Method("midpoint", "midpoint", FIXED),
        Method("heun2", "heun", FIXED),
        Method("heun3", "heun3", FIXED),
        Method("rk4", "rk4_three_eighths", FIXED),
        Method("explicit_adams", "adams_bashforth", EXPLICIT_ADAMS, explicit_adams),
        Method("implicit_adams", "adams_moulton", IMPLICIT_ADAMS, implicit_adams),
        Method("fixed_adams", "adams_moulton", IMPLICIT_ADAMS, implicit_adams),
        Method("implicit_euler", "implicit_euler", IMPLICIT),
        Method("implicit_midpoint", "implicit_midpoint", IMPLICIT),
        Method("trapezoid", "trapezoid", IMPLICIT),
        Method("radauIIA3", "radau_iia3", IMPLICIT),
        Method("gl4", "gauss_legendre4", IMPLICIT),
        Method("radauIIA5", "radau_iia5", IMPLICIT),
        Method("gl6", "gauss_legendre6", IMPLICIT),
        Method("sdirk2", "sdirk2", IMPLICIT),
        Method("trbdf2", "trbdf2", IMPLICIT),
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
