"""Models built on `solve`."""

from isocline.nn.control_path import control_path
from isocline.nn.fields import MLP
from isocline.nn.latent_ode import LatentODE
from isocline.nn.neural_cde import MatrixField, NeuralCDE
from isocline.nn.neural_ode import NeuralODE
from isocline.nn.ode_rnn import ODERNN

__all__ = ["MLP", "ODERNN", "LatentODE", "MatrixField", "NeuralCDE", "NeuralODE", "control_path"]
