"""Models built on `solve`."""

from isocline.nn.fields import MLP
from isocline.nn.neural_ode import NeuralODE

__all__ = ["MLP", "NeuralODE"]
