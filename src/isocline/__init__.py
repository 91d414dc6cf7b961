"""isocline learns dynamics: it solves dy/dt = f(t, y, θ), differentiates the solution, and fits f to data."""

from isocline import audit, nn, problems
from isocline._version import __version__
from isocline.control import PID, Controller, FixedStep, Observer
from isocline.doses import Dose
from isocline.events import Event
from isocline.gradients import Backprop, Backsolve, Checkpointed, Gradient, GradientError
from isocline.inputs import CubicHermite, LinearInterpolation, Signal, ZeroOrderHold
from isocline.solution import Solution, SolveError, Stats, Status
from isocline.solve import solve
from isocline.solvers.adaptive_heun import AdaptiveHeun
from isocline.solvers.base import Solver
from isocline.solvers.bosh3 import Bosh3
from isocline.solvers.dopri5 import Dopri5
from isocline.solvers.dopri8 import Dopri8
from isocline.solvers.euler import Euler
from isocline.solvers.fehlberg2 import Fehlberg2
from isocline.solvers.heun import Heun
from isocline.solvers.heun3 import Heun3
from isocline.solvers.midpoint import Midpoint
from isocline.solvers.ralston import Ralston
from isocline.solvers.rk4 import RK4
from isocline.solvers.rk4_three_eighths import RK4ThreeEighths
from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.ssprk3 import SSPRK3
from isocline.solvers.tableau import ButcherTableau
from isocline.solvers.tsit5 import Tsit5
from isocline.solvers.vern7 import Vern7
from isocline.solvers.vern9 import Vern9

__all__ = [
    "PID",
    "RK4",
    "SSPRK3",
    "AdaptiveHeun",
    "Backprop",
    "Backsolve",
    "Bosh3",
    "ButcherTableau",
    "Checkpointed",
    "Controller",
    "CubicHermite",
    "Dopri5",
    "Dopri8",
    "Dose",
    "Euler",
    "Event",
    "ExplicitRungeKutta",
    "Fehlberg2",
    "FixedStep",
    "Gradient",
    "GradientError",
    "Heun",
    "Heun3",
    "LinearInterpolation",
    "Midpoint",
    "Observer",
    "RK4ThreeEighths",
    "Ralston",
    "Signal",
    "Solution",
    "SolveError",
    "Solver",
    "Stats",
    "Status",
    "Tsit5",
    "Vern7",
    "Vern9",
    "ZeroOrderHold",
    "__version__",
    "audit",
    "nn",
    "problems",
    "solve",
]
