"""How a cotangent travels back: one way a file."""

from isocline.gradients.backprop import Backprop
from isocline.gradients.backsolve import Backsolve, GradientError
from isocline.gradients.base import Gradient
from isocline.gradients.checkpointed import Checkpointed
from isocline.gradients.gauss_adjoint import GaussAdjoint

__all__ = ["Backprop", "Backsolve", "Checkpointed", "GaussAdjoint", "Gradient", "GradientError"]
