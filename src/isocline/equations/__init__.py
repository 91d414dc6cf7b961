"""Known physics in text: `Equations` is a vector field with named parameters, any mixture with networks.

`estimate` fits it to series that were `Measured`, with standard errors, correlations and profile-likelihood intervals.
`population` fits it to series that differ: parameters of a population, how they vary, and those of each series.
"""

from isocline.equations.errors import EquationError
from isocline.equations.estimates import Estimate, Estimates
from isocline.equations.inference import estimate
from isocline.equations.measured import Measured
from isocline.equations.mixed_effects import Population, PopulationEstimate
from isocline.equations.module import Equations
from isocline.equations.parameters import Parameter
from isocline.equations.population import population
from isocline.equations.profile import Profile

__all__ = [
    "EquationError",
    "Equations",
    "Estimate",
    "Estimates",
    "Measured",
    "Parameter",
    "Population",
    "PopulationEstimate",
    "Profile",
    "estimate",
    "population",
]
