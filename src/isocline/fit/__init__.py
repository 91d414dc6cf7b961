"""From a table to a model: read, scale, train on windows, judge against baselines, keep everything in a run folder."""

from isocline.fit.config import Config
from isocline.fit.errors import UserError
from isocline.fit.run import fit, predict, resume

__all__ = ["Config", "UserError", "fit", "predict", "resume"]
