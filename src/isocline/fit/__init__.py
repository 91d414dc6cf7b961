"""From a table to a model: read, scale, train on windows, judge against baselines, keep everything in a run folder."""

from isocline.fit.compare import compare
from isocline.fit.config import Config
from isocline.fit.errors import UserError
from isocline.fit.export import export
from isocline.fit.predict import predict
from isocline.fit.run import fit, resume

__all__ = ["Config", "UserError", "compare", "export", "fit", "predict", "resume"]
