"""The solvers, one method a file. A new file here with a subclass of `ExplicitRungeKutta` is found by itself."""

import importlib
import pkgutil

from isocline.solvers.base import Solver, snake_case
from isocline.solvers.runge_kutta import ExplicitRungeKutta, RungeKutta
from isocline.solvers.scipy import Scipy
from isocline.solvers.tableau import ButcherTableau

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

globals().update({cls.__name__: cls for cls in Solver.registry.values()})

__all__ = [
    "ButcherTableau",
    "ExplicitRungeKutta",
    "RungeKutta",
    "Scipy",
    "Solver",
    "snake_case",
    *(cls.__name__ for cls in Solver.registry.values()),
]
