"""Known physics in text: `Equations` is a vector field with named parameters, any mixture with networks."""

from isocline.equations.errors import EquationError
from isocline.equations.module import Equations
from isocline.equations.parameters import Parameter

__all__ = ["EquationError", "Equations", "Parameter"]
