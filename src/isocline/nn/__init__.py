"""Models built on `solve`."""

from isocline.nn.augmented_ode import AugmentedODE
from isocline.nn.control_path import control_path
from isocline.nn.fields import MLP
from isocline.nn.hamiltonian_ode import HamiltonianODE, Separable
from isocline.nn.lagrangian_ode import LagrangianODE, Mechanical
from isocline.nn.latent_ode import LatentODE
from isocline.nn.neural_cde import MatrixField, NeuralCDE
from isocline.nn.neural_ode import NeuralODE
from isocline.nn.ode_rnn import ODERNN
from isocline.nn.second_order_ode import Force, SecondOrderODE

__all__ = [
    "MLP",
    "ODERNN",
    "AugmentedODE",
    "Force",
    "HamiltonianODE",
    "LagrangianODE",
    "LatentODE",
    "MatrixField",
    "Mechanical",
    "NeuralCDE",
    "NeuralODE",
    "SecondOrderODE",
    "Separable",
    "control_path",
]
