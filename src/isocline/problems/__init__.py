"""Named systems with known answers: closed forms, conserved quantities, reference values.

Each is a function that returns a `Problem`. States are float64 where a problem makes them; its field takes any
floating dtype and any batch shape.

>>> import torch
>>> from isocline import problems
>>> problem = problems.pendulum()
>>> ts = torch.linspace(problem.t0, problem.t1, 5, dtype=torch.float64)
>>> problem.solution(ts, problem.y0, problem.t0).shape
torch.Size([5, 2])
>>> problem.labels, problem.units
(('angle', 'angular velocity'), ('rad', 'rad/s'))
"""

from isocline.problems.linear import harmonic_oscillator, linear_spiral
from isocline.problems.orbits import arenstorf, pleiades
from isocline.problems.oscillations import lorenz, pendulum, pendulum_period, van_der_pol
from isocline.problems.populations import lotka_volterra, sir, sir_final_size
from isocline.problems.problem import Problem
from isocline.problems.reactions import brusselator, hires, robertson
from isocline.problems.spirals import cubic_spiral, two_centre_spiral

__all__ = [
    "Problem",
    "arenstorf",
    "brusselator",
    "cubic_spiral",
    "harmonic_oscillator",
    "hires",
    "linear_spiral",
    "lorenz",
    "lotka_volterra",
    "pendulum",
    "pendulum_period",
    "pleiades",
    "robertson",
    "sir",
    "sir_final_size",
    "two_centre_spiral",
    "van_der_pol",
]
