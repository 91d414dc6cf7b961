"""What all experiments share: the job, the training loop, data sets, the record of results."""

from isocline.experiments.lab.experiment import Experiment, Row
from isocline.experiments.lab.job import Job
from isocline.experiments.lab.training import History, Kept, train

__all__ = ["Experiment", "History", "Job", "Kept", "Row", "train"]
