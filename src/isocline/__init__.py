"""isocline learns dynamics: it solves dy/dt = f(t, y, θ), differentiates the solution, and fits f to data."""

from isocline import audit, export, nn, problems
from isocline._version import __version__
from isocline.cite import cite
from isocline.control import PID, Controller, FixedStep, Observer
from isocline.doses import Dose
from isocline.engines.fused import Fused
from isocline.equations import EquationError, Equations, Parameter
from isocline.events import Event
from isocline.gradients import (
    Backprop,
    Backsolve,
    Checkpointed,
    Forward,
    GaussAdjoint,
    Gradient,
    GradientError,
    Interpolating,
    ReversibleAdjoint,
)
from isocline.inputs import CubicHermite, LinearInterpolation, Signal, ZeroOrderHold
from isocline.parallel import Parareal, parareal
from isocline.quadrature import Integral, integral
from isocline.save import Save
from isocline.second_order import second_order
from isocline.solution import Solution, SolveError, Stats, Status
from isocline.solve import solve
from isocline.solvers.adams_bashforth import AdamsBashforth
from isocline.solvers.adams_moulton import AdamsMoulton
from isocline.solvers.adaptive_heun import AdaptiveHeun
from isocline.solvers.asynchronous_leapfrog import AsynchronousLeapfrog
from isocline.solvers.auto_switch import AutoSwitch
from isocline.solvers.base import Solver
from isocline.solvers.bdf import BDF
from isocline.solvers.bosh3 import Bosh3
from isocline.solvers.dopri5 import Dopri5
from isocline.solvers.dopri8 import Dopri8
from isocline.solvers.euler import Euler
from isocline.solvers.fehlberg2 import Fehlberg2
from isocline.solvers.gauss_legendre4 import GaussLegendre4
from isocline.solvers.gauss_legendre6 import GaussLegendre6
from isocline.solvers.heun import Heun
from isocline.solvers.heun3 import Heun3
from isocline.solvers.hyper import Hyper
from isocline.solvers.implicit_euler import ImplicitEuler
from isocline.solvers.implicit_midpoint import ImplicitMidpoint
from isocline.solvers.ken_carp3 import KenCarp3
from isocline.solvers.ken_carp4 import KenCarp4
from isocline.solvers.ken_carp5 import KenCarp5
from isocline.solvers.kvaerno3 import Kvaerno3
from isocline.solvers.kvaerno4 import Kvaerno4
from isocline.solvers.kvaerno5 import Kvaerno5
from isocline.solvers.leapfrog import Leapfrog
from isocline.solvers.leapfrog_midpoint import LeapfrogMidpoint
from isocline.solvers.midpoint import Midpoint
from isocline.solvers.radau_iia3 import RadauIIA3
from isocline.solvers.radau_iia5 import RadauIIA5
from isocline.solvers.ralston import Ralston
from isocline.solvers.reversible import Reversible
from isocline.solvers.reversible_heun import ReversibleHeun
from isocline.solvers.rk4 import RK4
from isocline.solvers.rk4_three_eighths import RK4ThreeEighths
from isocline.solvers.rodas5p import Rodas5P
from isocline.solvers.rosenbrock23 import Rosenbrock23
from isocline.solvers.runge_kutta import ExplicitRungeKutta
from isocline.solvers.sdirk2 import SDIRK2
from isocline.solvers.sil3 import Sil3
from isocline.solvers.ssprk3 import SSPRK3
from isocline.solvers.symplectic_euler import SymplecticEuler
from isocline.solvers.tableau import ButcherTableau
from isocline.solvers.trapezoid import Trapezoid
from isocline.solvers.trbdf2 import TRBDF2
from isocline.solvers.tsit5 import Tsit5
from isocline.solvers.vern7 import Vern7
from isocline.solvers.vern9 import Vern9
from isocline.solvers.yoshida4 import Yoshida4
from isocline.split import Split
from isocline.steady import Steady, steady_state
from isocline.stepper import Stepper

__all__ = [
    "BDF",
    "PID",
    "RK4",
    "SDIRK2",
    "SSPRK3",
    "TRBDF2",
    "AdamsBashforth",
    "AdamsMoulton",
    "AdaptiveHeun",
    "AsynchronousLeapfrog",
    "AutoSwitch",
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
    "EquationError",
    "Equations",
    "Euler",
    "Event",
    "ExplicitRungeKutta",
    "Fehlberg2",
    "FixedStep",
    "Forward",
    "Fused",
    "GaussAdjoint",
    "GaussLegendre4",
    "GaussLegendre6",
    "Gradient",
    "GradientError",
    "Heun",
    "Heun3",
    "Hyper",
    "ImplicitEuler",
    "ImplicitMidpoint",
    "Integral",
    "Interpolating",
    "KenCarp3",
    "KenCarp4",
    "KenCarp5",
    "Kvaerno3",
    "Kvaerno4",
    "Kvaerno5",
    "Leapfrog",
    "LeapfrogMidpoint",
    "LinearInterpolation",
    "Midpoint",
    "Observer",
    "Parameter",
    "Parareal",
    "RK4ThreeEighths",
    "RadauIIA3",
    "RadauIIA5",
    "Ralston",
    "Reversible",
    "ReversibleAdjoint",
    "ReversibleHeun",
    "Rodas5P",
    "Rosenbrock23",
    "Save",
    "Signal",
    "Sil3",
    "Solution",
    "SolveError",
    "Solver",
    "Split",
    "Stats",
    "Status",
    "Steady",
    "Stepper",
    "SymplecticEuler",
    "Trapezoid",
    "Tsit5",
    "Vern7",
    "Vern9",
    "Yoshida4",
    "ZeroOrderHold",
    "__version__",
    "audit",
    "cite",
    "export",
    "integral",
    "nn",
    "parareal",
    "problems",
    "second_order",
    "solve",
    "steady_state",
]
