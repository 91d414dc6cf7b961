"""Models built on `solve`."""

from isocline.nn.augmented_ode import AugmentedODE
from isocline.nn.cnf import CNF
from isocline.nn.control_path import control_path
from isocline.nn.fields import MLP
from isocline.nn.hamiltonian_ode import HamiltonianODE, Separable
from isocline.nn.lagrangian_ode import LagrangianODE, Mechanical
from isocline.nn.latent_ode import LatentODE
from isocline.nn.neural_cde import MatrixField, NeuralCDE
from isocline.nn.neural_ode import NeuralODE
from isocline.nn.ode_rnn import ODERNN
from isocline.nn.planar import PlanarField
from isocline.nn.second_order_ode import Force, SecondOrderODE
from isocline.nn.time_dependent import Concat, ConcatSquash, Galerkin, HyperLinear, TimeMLP

__all__ = [
    "CNF",
    "MLP",
    "ODERNN",
    "AugmentedODE",
    "Concat",
    "ConcatSquash",
    "Force",
    "Galerkin",
    "HamiltonianODE",
    "HyperLinear",
    "LagrangianODE",
    "LatentODE",
    "MatrixField",
    "Mechanical",
    "NeuralCDE",
    "NeuralODE",
    "PlanarField",
    "SecondOrderODE",
    "Separable",
    "TimeMLP",
    "control_path",
]
