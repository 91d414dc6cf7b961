"""How a cotangent travels back: one way a file."""

from isocline.gradients.backprop import Backprop
from isocline.gradients.backsolve import Backsolve, GradientError
from isocline.gradients.base import Gradient
from isocline.gradients.checkpointed import Checkpointed
from isocline.gradients.forward import Forward
from isocline.gradients.gauss_adjoint import GaussAdjoint
from isocline.gradients.interpolating import Interpolating
from isocline.gradients.reversible_adjoint import ReversibleAdjoint

__all__ = [
    "Backprop",
    "Backsolve",
    "Checkpointed",
    "Forward",
    "GaussAdjoint",
    "Gradient",
    "GradientError",
    "Interpolating",
    "ReversibleAdjoint",
]
