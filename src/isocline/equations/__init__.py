"""Known physics in text: equations with named parameters, any mixture with networks."""

from isocline.equations.errors import EquationError
from isocline.equations.parameters import Parameter

__all__ = ["EquationError", "Parameter"]
