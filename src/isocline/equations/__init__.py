"""Known physics in text: `Equations` is a vector field with named parameters, any mixture with networks.

`estimate` fits it to series that were `Measured`, with standard errors, correlations and profile-likelihood intervals.
"""

from isocline.equations.errors import EquationError
from isocline.equations.estimates import Estimate, Estimates
from isocline.equations.inference import estimate
from isocline.equations.measured import Measured
from isocline.equations.module import Equations
from isocline.equations.parameters import Parameter
from isocline.equations.profile import Profile

__all__ = ["EquationError", "Equations", "Estimate", "Estimates", "Measured", "Parameter", "Profile", "estimate"]
