"""From a table to a model: read, scale, train on windows, judge against baselines, keep everything in a run folder."""

from isocline.fit.bifurcation import bifurcation
from isocline.fit.compare import compare
from isocline.fit.config import Config
from isocline.fit.errors import UserError
from isocline.fit.estimator import NeuralODERegressor
from isocline.fit.export import export
from isocline.fit.predict import predict
from isocline.fit.result import Result, fit
from isocline.fit.run import resume
from isocline.fit.sparse import SparseEquations, sparse_equations
from isocline.fit.validate import validate

__all__ = [
    "Config",
    "NeuralODERegressor",
    "Result",
    "SparseEquations",
    "UserError",
    "bifurcation",
    "compare",
    "export",
    "fit",
    "predict",
    "resume",
    "sparse_equations",
    "validate",
]
